"""Storage that looks after itself: compaction of closed days, the sweep of files nobody needs, and a look at the layout."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.metadata import AS_A_WHOLE
from analytics_assets.defs.resources import OWNER, PipelineResource


@dg.asset(deps=["events"], group_name="maintenance", kinds={"deltalake"}, owners=[OWNER], tags=AS_A_WHOLE)
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
