"""Intake: batches of raw events become `events`, `rejected_events` and `batches`."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.log import Audit
from analytics_assets.defs.metadata import BY_BATCH, asset_spec, picture, stacked_days
from analytics_assets.defs.resources import OWNER, PipelineResource, Progress
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.events.intake import BatchReport
    from analytics_assets.pipeline import Pipeline


class IntakeConfig(dg.Config):
    """What to load. Without `path`: every file that waits in the landing folders."""

    path: str | None = None
    source: str | None = None
    tenant: str | None = None


@dg.multi_asset(
    name="intake",
    specs=[
        asset_spec(EVENTS, group="intake", kinds={"deltalake", "duckdb", "parquet"}, owner=OWNER, tags=BY_BATCH),
        asset_spec(REJECTED, group="intake", kinds={"deltalake", "duckdb"}, owner=OWNER, tags=BY_BATCH),
        asset_spec(BATCHES, group="intake", kinds={"deltalake", "duckdb"}, owner=OWNER, tags=BY_BATCH),
    ],
)
def intake(
    context: dg.AssetExecutionContext,
    config: IntakeConfig,
    pipeline: PipelineResource,
    duckdb: DuckDBResource,
    progress: dg.ResourceParam[Progress],
) -> Iterator[dg.MaterializeResult]:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.workplace import events_a_day

    stages = pipeline.get()
    failed: list[str] = []
    with duckdb.get_connection() as con:
        reports = list(_load(context, config, stages, con, progress, utc_now(), failed))
        tables = {spec.name: stages.table(spec).snapshot() for spec in (EVENTS, REJECTED, BATCHES)}
        touched = sorted({day for report in reports for day in report.days})
        days = events_a_day(con, tables[EVENTS.name], touched)
    if reports:
        Audit(stages.settings, context.run.run_id).record(
            "load", tables=list(tables), details={"batches": [one.batch_id[:12] for one in reports], **_sums(reports)}
        )
    facts = _facts(reports)
    for name, snapshot in tables.items():
        shown = {**facts, "events a day": picture(stacked_days(days, "Events a day by tenant"))} if name == "events" else facts
        yield dg.MaterializeResult(
            name, metadata={"dagster/row_count": snapshot.rows, "table version": snapshot.version, **shown}
        )
    if failed:
        raise dg.Failure(f"{', '.join(failed)}: left in the landing folder; what else was waiting is loaded")


def _load(
    context: dg.AssetExecutionContext,
    config: IntakeConfig,
    stages: "Pipeline",
    con: "duckdb.DuckDBPyConnection",
    progress: Progress,
    now: datetime,
    failed: list[str],
) -> Iterator["BatchReport"]:
    """Load what the config names, or what waits. A landed file that fails is named in `failed` and stops no other."""
    from analytics_assets.landing import StillWritten

    if config.path:
        if not config.source:
            raise dg.Failure(f"give the source of {config.path}; declared are {', '.join(sorted(stages.sources))}")
        with progress.loading(context, Path(config.path).name, Path(config.path)) as advance:
            yield stages.load(con, Path(config.path), config.source, config.tenant, now, advance)
        return
    landed, refused = stages.landed(now)
    for line in refused:
        context.log.warning(line)
    for file in landed:
        with progress.loading(context, f"{file.tenant}/{file.path.name}", file.path) as advance:
            try:
                report = stages.load_landed(con, file, now, advance)
            except StillWritten as reason:
                context.log.info(str(reason))
                continue
            except Exception:
                context.log.exception(f"{file.tenant}/{file.path.name} could not be loaded")
                failed.append(f"{file.tenant}/{file.path.name}")
                continue
        if report.status == "set_aside":
            context.log.warning(f"{file.path.name} was set aside: {report.reason}")
        yield report


def _sums(reports: list["BatchReport"]) -> dict[str, int]:
    sums = {name: sum(getattr(report, name) for report in reports) for name in ("received", "rejected", "duplicates")}
    return {**sums, "new_events": sum(report.events for report in reports)}


def _facts(reports: list["BatchReport"]) -> dict[str, dg.MetadataValue]:
    columns = ("batch_id", "file", "tenant", "status", "received", "rejected", "duplicates", "events", "seconds")
    records = [
        dg.TableRecord({name: value if isinstance(value := getattr(report, name), (int, float)) else str(value or "")
                        for name in columns})
        for report in reports
    ]  # fmt: skip
    reasons: dict[str, int] = {}
    for report in reports:
        for reason, rows in report.rejected_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + rows
    return {
        **{name.replace("_", " "): dg.MetadataValue.int(count) for name, count in _sums(reports).items()},
        "rejected by reason": dg.MetadataValue.json(reasons),
        "batches": dg.MetadataValue.table(records, schema=dg.TableSchema([dg.TableColumn(name) for name in columns])),
    }
