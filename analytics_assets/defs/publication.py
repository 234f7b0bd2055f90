"""The published DuckDB: all tables of one version, swapped in at once."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.resources import OWNER, PipelineResource, Progress
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.marts.project import models
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS

_SHOWN = [spec.name for spec in (EVENTS, REJECTED, BATCHES, SESSIONS, PAGE_VIEWS, RUNAWAYS, USERS)]


class PublishConfig(dg.Config):
    """`release` publishes although a rollback holds publishing."""

    release: bool = False


@dg.asset(
    deps=[*_SHOWN, *(model.name for model in models().values() if model.layer == "marts")],
    group_name="published",
    kinds={"duckdb"},
    owners=[OWNER],
    tags={"reader": "analysts"},
    pool="publish",
)
def analytics_duckdb(
    context: dg.AssetExecutionContext,
    config: PublishConfig,
    pipeline: PipelineResource,
    duckdb: DuckDBResource,
    progress: dg.ResourceParam[Progress],
) -> dg.MaterializeResult:
    """`published/analytics.duckdb`: one version of every table, read-only, replaced by rename. Analysts open this file."""
    from analytics_assets.events.intake import utc_now
    from analytics_assets.pipeline import Waiting

    progress.stage("publishing")
    stages = pipeline.get()
    with duckdb.get_connection() as con:
        try:
            published = stages.publish(con, utc_now(), release=config.release)
        except Waiting as reason:
            context.log.info(str(reason))
            return dg.MaterializeResult(metadata={"published": False, "reason": str(reason)})
    rows = [dg.TableRecord({"table": name, "rows": count}) for name, count in published.rows.items()]
    return dg.MaterializeResult(
        metadata={
            "published": published.changed,
            "version": published.version,
            "path": dg.MetadataValue.path(published.path),
            "published at": str(published.published_at),
            "tables": dg.MetadataValue.table(rows),
        }
    )
