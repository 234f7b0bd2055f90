"""Storage that looks after itself: compaction of closed days, the sweep of unneeded files, looks at layout and audit log."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.log import Audit
from analytics_assets.defs.metadata import AS_A_WHOLE
from analytics_assets.defs.resources import OWNER, PipelineResource


@dg.asset(deps=["events"], group_name="maintenance", kinds={"deltalake"}, owners=[OWNER], tags=AS_A_WHOLE)
def retained(context: dg.AssetExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource) -> dg.MaterializeResult:
    """What is past the limits of retention.yaml taken out: of every table, of received files, of old published versions."""
    from analytics_assets.events.intake import utc_now
    from analytics_assets.expiry import retain

    stages = pipeline.get()
    log = Audit(stages.settings, context.run.run_id)
    with log.act("retain") as act, duckdb.get_connection() as con:
        taken = retain(stages, con, utc_now(), context.log.info, log)
        if taken is None:
            act.outcome = "unchanged"
            return dg.MaterializeResult(metadata={"limits": "nothing has a limit"})
        act.tables, act.details = sorted({*taken.dropped, *taken.anonymised}), {**taken.numbers}
    for line in taken.told:
        context.log.info(line)
    return dg.MaterializeResult(metadata={**taken.numbers, "published": taken.not_published is None})


@dg.asset_check(asset="retained", description="No row of a table, file or kept version is past its limit.")
def nothing_is_past_its_limit(pipeline: PipelineResource, duckdb: DuckDBResource) -> dg.AssetCheckResult:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.expiry import late_role_files, late_versions, look, old_files

    stages, now = pipeline.get(), utc_now()
    with duckdb.get_connection() as con:
        past = {f"{one.retention} of {one.tenant or 'all others'}": one.past for one in look(stages, con, now) if one.past}
        files = len(old_files(stages, con, now))
    late, of_roles = late_versions(stages, now), late_role_files(stages, now)
    told = [f"{whose}: {rows:,} past" for whose, rows in past.items()]
    told += [f"received files: {files:,} past"] * bool(files)
    told += [f"version {number} shows what is past" for number in late]
    told += [f"the file of role {name} shows what is past" for name in of_roles]
    return dg.AssetCheckResult(
        passed=not (past or files or late or of_roles),
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"rows": sum(past.values()), "files": files, "versions": ", ".join(map(str, late)) or "none"},
        description="; ".join(told) or None,
    )


@dg.asset(deps=["retained"], group_name="maintenance", kinds={"deltalake"}, owners=[OWNER], tags=AS_A_WHOLE)
def compacted_events(pipeline: PipelineResource, duckdb: DuckDBResource) -> dg.MaterializeResult:
    """The files of closed days merged and ordered by tenant and time. No row changes."""
    from analytics_assets.events.intake import utc_now

    with duckdb.get_connection() as con:
        done = pipeline.get().compact(con, utc_now())
    return dg.MaterializeResult(
        metadata={
            "files before": done.files_before,
            "files after": done.files_after,
            "bytes before": done.bytes_before,
            "bytes after": done.bytes_after,
        }
    )


@dg.asset(deps=["compacted_events"], group_name="maintenance", kinds={"deltalake"}, owners=[OWNER], tags=AS_A_WHOLE)
def swept_storage(pipeline: PipelineResource, duckdb: DuckDBResource) -> dg.MaterializeResult:
    """Files removed that neither the present nor a kept published version names: orphans of killed runs, old versions."""
    with duckdb.get_connection() as con:
        files, size = pipeline.get().sweep(con)
    return dg.MaterializeResult(metadata={"files removed": files, "bytes removed": size})


@dg.asset_check(asset="compacted_events", description="No table consists of many tiny files, which cost more than they save.")
def layout_is_lean(pipeline: PipelineResource) -> dg.AssetCheckResult:
    advice = pipeline.get().layout()
    rows = [
        dg.TableRecord(
            {
                "table": line.table,
                "files": line.files,
                "rows": line.rows,
                "bytes": line.bytes,
                "share of files a day opens": round(line.share_per_day, 3),
                "advice": "compact" if line.too_many_tiny_files else "fine",
            }
        )
        for line in advice
    ]
    return dg.AssetCheckResult(
        passed=not any(line.too_many_tiny_files for line in advice),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"partition_advice": dg.MetadataValue.table(rows)},
    )


@dg.asset_check(asset="swept_storage", description="No entry of the audit log was changed, removed, added or cut off.")
def audit_log_is_whole(pipeline: PipelineResource) -> dg.AssetCheckResult:
    """As `analytics audit verify`. A night in which nobody looks must not pass for one in which nothing happened."""
    from analytics_assets.audit.verify import verify

    found = verify(Audit(pipeline.get().settings).chain)
    return dg.AssetCheckResult(
        passed=found.whole,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(found.findings[:3]) or None,
        metadata={"entries": found.entries, "findings": len(found.findings) + found.left_out},
    )
