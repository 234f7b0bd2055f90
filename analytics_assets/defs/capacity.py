"""Capacity for months in Dagster: the assets that it is sized by, and when they are made."""

from collections.abc import Iterator

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.jobs import CALM
from analytics_assets.defs.metadata import AS_A_WHOLE, BY_DAY, asset_spec
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.tuning.capacity_tables import CAPACITY_FORECAST, CAPACITY_INPUTS, CAPACITY_USE

_KINDS = {"deltalake", "duckdb"}
_COUNTED_FROM = ["events_hourly", "properties_daily", "sessions", "users"]
_USED_BY = ["batches", "step_telemetry", "query_log"]
_AGREES = "capacity_inputs_agree"


@dg.multi_asset(
    specs=[asset_spec(CAPACITY_INPUTS, group="capacity", kinds=_KINDS, owner=OWNER, tags=BY_DAY, deps=_COUNTED_FROM)],
    check_specs=[
        dg.AssetCheckSpec(
            _AGREES, asset=CAPACITY_INPUTS.name,
            description="A tenant and day have one row, its numbers are counts, and every event of the rollups is counted.",
        )
    ],
)  # fmt: skip
def capacity_inputs(pipeline: PipelineResource, duckdb: DuckDBResource) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.capacity import Capacity

    capacity = Capacity(pipeline.get().settings)
    with duckdb.get_connection() as con:
        counted, faults = capacity.count(con), capacity.faults(con)
    found = "; ".join(f"not so: {says} ({', '.join(cells)})" for says, cells in faults.items())
    yield dg.MaterializeResult(
        CAPACITY_INPUTS.name,
        metadata={"dagster/row_count": counted.rows, "days counted": len(counted.days)},
        check_results=[dg.AssetCheckResult(passed=not faults, check_name=_AGREES, description=found or None)],
    )


@dg.multi_asset(specs=[asset_spec(CAPACITY_USE, group="capacity", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=_USED_BY)])
def capacity_use(pipeline: PipelineResource, duckdb: DuckDBResource) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.tuning.months import measure

    with duckdb.get_connection() as con:
        rows = len(measure(con, pipeline.get().home, utc_now()))
    yield dg.MaterializeResult(CAPACITY_USE.name, metadata={"dagster/row_count": rows})


@dg.multi_asset(
    specs=[
        asset_spec(CAPACITY_FORECAST, group="capacity", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=[CAPACITY_USE.name])
    ]
)
def capacity_forecast(pipeline: PipelineResource, duckdb: DuckDBResource) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.tuning.months import forecast

    with duckdb.get_connection() as con:
        rows = forecast(con, pipeline.get().home, utc_now())
    told = [
        dg.TableRecord(
            {"resource": row.resource, "days ahead": row.lead or 0, "value": row.value, "by": row.source, "why": row.reason}
        )
        for row in rows
        if row.lead is None or row.lead == row.horizon
    ]
    yield dg.MaterializeResult(
        CAPACITY_FORECAST.name, metadata={"dagster/row_count": len(rows), "ahead": dg.MetadataValue.table(told)}
    )


CAPACITY = [capacity_inputs, capacity_use, capacity_forecast]

capacity = dg.define_asset_job(
    "capacity",
    selection=dg.AssetSelection.assets(CAPACITY_INPUTS.name, CAPACITY_USE.name),
    config=CALM,
    description="Count what the days of tenants are like that were built since, and what was used on days that are over.",
)

outlook = dg.define_asset_job(
    "outlook",
    selection=dg.AssetSelection.assets(CAPACITY_USE.name, CAPACITY_FORECAST.name),
    config=CALM,
    description="Forecast what will be used in the next 30 and 90 days.",
)

# When the night's work is over.
daily_capacity = dg.ScheduleDefinition(
    name="daily_capacity",
    job=capacity,
    cron_schedule="35 5 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

weekly_outlook = dg.ScheduleDefinition(
    name="weekly_outlook",
    job=outlook,
    cron_schedule="50 5 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
