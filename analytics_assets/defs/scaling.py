"""Load ahead and the scaling plan in Dagster: the assets that make them, and what gives Dagster's pools their limits.

The forecast is made once an hour; what a pool is to have is decided with it, and by a sensor four times as often.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.log import Audit
from analytics_assets.defs.jobs import CALM
from analytics_assets.defs.metadata import AS_A_WHOLE, asset_spec
from analytics_assets.defs.quotas import limits_in_force
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.settings import Settings
from analytics_assets.tuning.calendar import load_calendar
from analytics_assets.tuning.declared import load_scaling
from analytics_assets.tuning.tables import LOAD_FORECAST, SCALING_PLAN

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.pipeline import Pipeline
    from analytics_assets.tuning.keep import Taken
    from analytics_assets.tuning.tables import Decided

_SETTINGS = Settings.from_env()
# Read at load: a wrong declaration fails it.
load_scaling(_SETTINGS.config / "scaling.yaml", _SETTINGS.tenants)
load_calendar(_SETTINGS.config / "calendar.yaml", _SETTINGS.tenants)
_KINDS = {"deltalake", "duckdb"}
_SHOWN = 50


@dg.multi_asset(
    specs=[
        asset_spec(
            LOAD_FORECAST, group="scaling", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=["batches", "step_telemetry"]
        )
    ]
)
def load_forecast(pipeline: PipelineResource, duckdb: DuckDBResource) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.tuning.keep import Tuning

    with duckdb.get_connection() as con:
        rows = Tuning.declared(pipeline.get().settings).forecast(con, utc_now())
    sources = {source: len({(row.load, row.tenant) for row in rows if row.source == source}) for source in SOURCES}
    yield dg.MaterializeResult(
        LOAD_FORECAST.name,
        metadata={"dagster/row_count": len(rows), **{f"loads by {source}": count for source, count in sources.items()}},
    )


SOURCES = ("model", "referee", "none")


@dg.multi_asset(
    specs=[asset_spec(SCALING_PLAN, group="scaling", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=[LOAD_FORECAST.name])]
)
def scaling_plan(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource
) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.events.intake import utc_now

    stages = pipeline.get()
    with duckdb.get_connection() as con:
        taken = settle(context.instance, stages, con, utc_now(), context.run.run_id)
        rows = stages.table(SCALING_PLAN).snapshot().rows
    shown = [
        dg.TableRecord({"pool": row.pool, "capacity": row.capacity, "applied": row.applied, "why": row.reason})
        for row in taken.rows[:_SHOWN]
    ]
    decisions = {"decisions": dg.MetadataValue.table(shown)} if shown else {}
    yield dg.MaterializeResult(SCALING_PLAN.name, metadata={"dagster/row_count": rows, **decisions})


def settle(
    instance: dg.DagsterInstance, stages: "Pipeline", con: "duckdb.DuckDBPyConnection", now: datetime, run: str | None = None
) -> "Taken":
    """Decide the capacity of every pool, keep that, and give Dagster's pools their limits where the plan acts."""
    from analytics_assets.tuning.keep import Tuning

    limits = limits_in_force(instance)
    taken = Tuning.declared(stages.settings).decide(con, now, limits, lambda: stages.levels.held(con, now))
    audit = Audit(stages.settings, run)
    # Kept before: a limit that no decision tells of would pass for one that a person set.
    for row in taken.rows:
        if row.applied is not None and row.applied != limits.get(row.pool):
            details = {"pool": row.pool, "from": limits.get(row.pool, "none"), "to": row.applied}
            with audit.act("scale", tenant=row.tenant, details=details):
                instance.event_log_storage.set_concurrency_slots(row.pool, row.applied)
    for pool in taken.taken_back:
        # Dagster cannot read its limits any more while a step has a place in a pool whose limit, the last one, is gone.
        if not instance.event_log_storage.get_concurrency_info(pool).active_slot_count:
            with audit.act("scale", details={"pool": pool, "from": limits[pool], "to": "none"}):
                instance.event_log_storage.delete_concurrency_limit(pool)
    return taken


TUNING = [load_forecast, scaling_plan]

plan = dg.define_asset_job(
    "plan",
    selection=dg.AssetSelection.groups("scaling"),
    config=CALM,
    description="Forecast the load of the next hours, and decide what each pool is to have for it.",
)

# After `hourly_telemetry`, which tells what steps took.
hourly_plan = dg.ScheduleDefinition(
    name="hourly_plan",
    job=plan,
    cron_schedule="55 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.sensor(
    # It starts nothing; Dagster wants to know where a sensor belongs.
    job=plan,
    minimum_interval_seconds=900,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Decides what each pool is to have for the load that was just seen; in mode act it gets it at once.",
)
def scaling(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
    from analytics_assets.events.intake import utc_now

    stages = pipeline.get()
    with stages.connect() as con:
        taken = settle(context.instance, stages, con, utc_now())
    return dg.SkipReason(said(taken.rows))


def said(rows: "tuple[Decided, ...]") -> str:
    """What was decided, in a line."""
    told = (f"{row.pool} {row.capacity}{'' if row.applied is not None else ' (not applied)'}" for row in rows)
    return ", ".join(told) or "no pool is planned: scaling.yaml declares none, or only observes"
