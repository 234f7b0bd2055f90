"""Telemetry in Dagster: the assets that keep what is known of steps.

What a step took was measured by `defs/handler`; when, how often and how it ended is read from Dagster's own event log, run by
run as they end.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import DagsterEventType as Type
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.handler import BEGIN, END, RUN_END
from analytics_assets.defs.jobs import CALM
from analytics_assets.defs.metadata import AS_A_WHOLE, asset_spec
from analytics_assets.defs.partitions import RANGE_END, RANGE_START
from analytics_assets.defs.queues import job_of
from analytics_assets.defs.quotas import TENANT_TAG
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.telemetry.journal import Key, forget, left
from analytics_assets.telemetry.prices import Prices
from analytics_assets.telemetry.probe import disk
from analytics_assets.telemetry.rows import Attempt
from analytics_assets.telemetry.tables import (
    PERFORMANCE_METRICS,
    QUERY_LOG,
    RELIABILITY_METRICS,
    STEP_TELEMETRY,
    UNIT_COSTS,
)

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.pipeline import Pipeline
    from analytics_assets.telemetry.steps import Steps

_KINDS = {"deltalake", "duckdb"}
# So many runs are read and kept at once.
_RUNS = 200
# What Dagster wraps around an error of a body.
_WRAPPERS = ("Dagster", "RetryRequested")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dg.multi_asset(
    name="step_telemetry",
    specs=[
        asset_spec(STEP_TELEMETRY, group="telemetry", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE),
        asset_spec(QUERY_LOG, group="telemetry", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE),
        asset_spec(
            UNIT_COSTS,
            group="telemetry",
            kinds=_KINDS,
            owner=OWNER,
            tags=AS_A_WHOLE,
            deps=[STEP_TELEMETRY.name, QUERY_LOG.name],
        ),
    ],
)
def step_telemetry(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource
) -> Iterator[dg.MaterializeResult]:
    stages = pipeline.get()
    with duckdb.get_connection() as con:
        runs, rows = collect(context.instance, stages, con)
        asked = _steps(stages).keep_queries(con)
        select = stages.table(STEP_TELEMETRY).snapshot().select()
        total, measured = con.execute(f"select count(*), count(cpu_seconds) from ({select})").fetchall()[0]
    counts = {"runs read": runs, "steps of them": rows}
    yield dg.MaterializeResult(
        STEP_TELEMETRY.name, metadata={"dagster/row_count": total, "of these measured": measured, **counts}
    )
    total = stages.table(QUERY_LOG).snapshot().rows
    yield dg.MaterializeResult(QUERY_LOG.name, metadata={"dagster/row_count": total, "queries read": asked})
    yield dg.MaterializeResult(
        UNIT_COSTS.name, metadata={"dagster/row_count": stages.table(UNIT_COSTS).snapshot().rows, **counts}
    )


@dg.multi_asset(
    name="metrics",
    specs=[
        asset_spec(
            spec, group="telemetry", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=[STEP_TELEMETRY.name, QUERY_LOG.name]
        )
        for spec in (RELIABILITY_METRICS, PERFORMANCE_METRICS)
    ],
)
def metrics(pipeline: PipelineResource, duckdb: DuckDBResource) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.audit.report import interventions
    from analytics_assets.events.intake import utc_now
    from analytics_assets.telemetry.metrics import first_week

    stages, now = pipeline.get(), utc_now()
    by_hand = interventions(stages.home, datetime.combine(first_week(now), time()))
    with duckdb.get_connection() as con:
        reliable, rows = _steps(stages).keep_metrics(con, groups_of_assets(), by_hand, disk(stages.home.root), now)
    worst = {"least reliable": f"{reliable[0].job}: {reliable[0].success_rate:.1%} of its runs"} if reliable else {}
    yield dg.MaterializeResult(RELIABILITY_METRICS.name, metadata={"dagster/row_count": len(reliable), **worst})
    outside: dict[str, Any] = {row.measure: row.advice for row in rows if not row.whole and row.within is False}
    yield dg.MaterializeResult(PERFORMANCE_METRICS.name, metadata={"dagster/row_count": len(rows), **outside})


@cache
def groups_of_assets() -> dict[str, str]:
    """The group of each asset of the project."""
    from analytics_assets.definitions import build_definitions

    specs = build_definitions().resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec.group_name or "default" for spec in specs}


def collect(instance: dg.DagsterInstance, stages: "Pipeline", con: "duckdb.DuckDBPyConnection") -> tuple[int, int]:
    """Keep the steps of all runs that ended since the last time; returns how many runs and steps."""
    steps = _steps(stages)
    # Looked for before the ends are read: what has ended by now is kept when they are.
    done = [run for run in left(steps.home) if (known := instance.get_run_by_id(run)) is None or known.is_finished]
    runs = rows = 0
    while True:
        since = steps.cursor()
        ended = _ended(instance, since)
        if not ended:
            break
        found = _runs(instance, list(ended))
        attempts = [attempt for run in found for attempt in _attempts(instance, run, stages.settings.tenants)]
        rows += steps.keep(con, attempts, since, max(ended.values()))
        runs += len(ended)
    for run in done:
        forget(steps.home, run)
    return runs, rows


def _steps(stages: "Pipeline") -> "Steps":
    from analytics_assets.telemetry.steps import Steps

    settings = stages.settings
    prices = Prices.load(settings.config / "prices.yaml")
    return Steps(stages.home, prices, settings.limits.storage.dense_day_rows, stages.specs, settings.tenants)


def _ended(instance: dg.DagsterInstance, since: int) -> dict[str, int]:
    """The next runs that ended after `since`, each with the place of its end in the event log."""
    places: list[tuple[int, str]] = []
    for kind in RUN_END:
        chosen = dg.RunStatusChangeRecordsFilter(event_type=kind, after_storage_id=since)
        records = instance.fetch_run_status_changes(chosen, limit=_RUNS, ascending=True).records
        places += [(record.storage_id, record.event_log_entry.run_id) for record in records]
    # The first of all kinds: beyond them one kind may have more than another.
    return {run: place for place, run in sorted(places)[:_RUNS]}


def _runs(instance: dg.DagsterInstance, ids: Sequence[str]) -> Sequence[dg.RunRecord]:
    return instance.get_run_records(dg.RunsFilter(run_ids=ids))


def _attempts(instance: dg.DagsterInstance, record: dg.RunRecord, tenants: Collection[str]) -> Iterator[Attempt]:
    """Every attempt of every step of a run, from its events."""
    run = record.dagster_run
    wanted = {*BEGIN, *END, Type.ASSET_MATERIALIZATION_PLANNED}
    events = [found.event_log_entry for found in instance.get_records_for_run(run.run_id, of_type=wanted).records]
    assets: dict[str, set[str]] = {}
    begun: dict[str, list[dg.EventLogEntry]] = {}
    ended: dict[tuple[str, int], dg.EventLogEntry] = {}
    for entry in events:
        event = entry.get_dagster_event()
        step = str(event.step_key)
        if event.event_type is Type.ASSET_MATERIALIZATION_PLANNED:
            assets.setdefault(step, set()).add(event.asset_key.to_user_string() if event.asset_key else "")
        elif event.event_type in BEGIN:
            begun.setdefault(step, []).append(entry)
        elif step in begun:
            ended.setdefault((step, len(begun[step])), entry)
    waited = record.start_time - record.create_timestamp.timestamp() if record.start_time else None
    for step, starts in begun.items():
        for number, start in enumerate(starts, 1):
            end = ended.get((step, number))
            yield Attempt(
                key=Key(run.run_id, step, number),
                job=job_of(run),
                started_at=_moment(start),
                ended_at=_moment(end) if end else None,
                succeeded=end.get_dagster_event().event_type is Type.STEP_SUCCESS if end else None,
                error_class=_error_class(end),
                run_cancelled=run.status is dg.DagsterRunStatus.CANCELED,
                queue_seconds=max(waited, 0.0) if waited is not None else None,
                assets=tuple(sorted(assets.get(step, ()))),
                tenant=_tenant(run, step, tenants),
                partition=partition_of(run.tags),
            )


def _moment(entry: dg.EventLogEntry) -> datetime:
    return datetime.fromtimestamp(entry.timestamp, UTC).replace(tzinfo=None)


def _error_class(end: dg.EventLogEntry | None) -> str | None:
    """What the step itself raised, without what Dagster wraps around it."""
    error = getattr(end.get_dagster_event().event_specific_data, "error", None) if end else None
    while error is not None and error.cause is not None and str(error.cls_name).startswith(_WRAPPERS):
        error = error.cause
    return error.cls_name if error is not None else None


# Whoever launches a run may type anything into its config and tags; these tables hold nothing that could name a person.


def _tenant(run: dg.DagsterRun, step: str, tenants: Collection[str]) -> str | None:
    declared: Any = run.run_config
    for name in ("ops", step, "config", "tenant"):
        declared = declared.get(name) if isinstance(declared, Mapping) else None
    tenant = declared or run.tags.get(TENANT_TAG)
    return tenant if tenant in tenants else None


def partition_of(tags: Mapping[str, str]) -> str | None:
    """The day of a run, or its first and last with '..' between; None for a run without days."""
    first = tags.get(RANGE_START) or tags.get("dagster/partition") or ""
    last = tags.get(RANGE_END) or first
    if not (_DAY.fullmatch(first) and _DAY.fullmatch(last)):
        return None
    return first if first == last else f"{first}..{last}"


TELEMETRY = [step_telemetry, metrics]

telemetry = dg.define_asset_job(
    "telemetry",
    selection=dg.AssetSelection.groups("telemetry"),
    config=CALM,
    description="Keep what the steps of the runs that ended took.",
)

hourly_telemetry = dg.ScheduleDefinition(
    name="hourly_telemetry",
    job=telemetry,
    cron_schedule="50 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
