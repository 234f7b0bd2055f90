"""The published DuckDB: all tables of one version, swapped in at once."""

from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.log import Audit
from analytics_assets.defs.metadata import AS_A_WHOLE, picture, stacked_days, triangle
from analytics_assets.defs.resources import OWNER, PipelineResource, Progress
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.marts.project import models
from analytics_assets.privacy.withheld import CONSENT_STATUS
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.telemetry.tables import PERFORMANCE_METRICS, QUERY_LOG, RELIABILITY_METRICS, STEP_TELEMETRY, UNIT_COSTS
from analytics_assets.tuning.capacity_tables import CAPACITY_FORECAST, CAPACITY_INPUTS, CAPACITY_USE
from analytics_assets.tuning.config_tables import RESOURCE_CONFIGS, TUNING_DECISIONS
from analytics_assets.tuning.features import STEP_FEATURES
from analytics_assets.tuning.tables import LOAD_FORECAST, SCALING_PLAN

# Every published table.
PUBLISHED = [
    *(
        spec.name
        for spec in (EVENTS, REJECTED, BATCHES, SESSIONS, PAGE_VIEWS, RUNAWAYS, USERS, CONSENT_STATUS, QUALITY_RESULTS)
    ),
    STEP_TELEMETRY.name,
    UNIT_COSTS.name,
    QUERY_LOG.name,
    RELIABILITY_METRICS.name,
    PERFORMANCE_METRICS.name,
    LOAD_FORECAST.name,
    SCALING_PLAN.name,
    STEP_FEATURES.name,
    CAPACITY_INPUTS.name,
    CAPACITY_USE.name,
    CAPACITY_FORECAST.name,
    RESOURCE_CONFIGS.name,
    TUNING_DECISIONS.name,
    *(model.name for model in models().values() if model.layer == "marts"),
]


class PublishConfig(dg.Config):
    """`release` publishes although a rollback holds publishing."""

    release: bool = False


@dg.asset(
    deps=PUBLISHED,
    group_name="published",
    kinds={"duckdb"},
    owners=[OWNER],
    tags=AS_A_WHOLE,
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
    from analytics_assets.explain import overview
    from analytics_assets.pipeline import Waiting

    progress.stage("publishing")
    stages = pipeline.get()
    log = Audit(stages.settings, context.run.run_id)
    with duckdb.get_connection() as con:
        try:
            with log.act("publish", details={"declarations": log.declarations(), "release": config.release}) as act:
                published = stages.publish(con, utc_now(), release=config.release, log=log)
                act.outcome = "done" if published.changed else "unchanged"
                act.tables, act.details["version"] = list(published.rows), published.version
        except Waiting as reason:
            context.log.info(str(reason))
            return dg.MaterializeResult(metadata={"published": False, "reason": str(reason)})
        stages.levels.probe(con, utc_now())
    rows = [dg.TableRecord({"table": name, "rows": count}) for name, count in published.rows.items()]
    explained = overview(published.path, stages.settings, stages.specs)
    return dg.MaterializeResult(
        metadata={
            "published": published.changed,
            "version": published.version,
            "path": dg.MetadataValue.path(published.path),
            "published at": str(published.published_at),
            "tables": dg.MetadataValue.table(rows),
            "explained": dg.MetadataValue.table([dg.TableRecord(line) for line in explained]),
            **_pictures(published.path),
        }
    )


class RollbackConfig(dg.Config):
    """`version` to show readers (default: the one before), and why; both stand in the history."""

    version: int | None = None
    reason: str = "by hand, in Dagster"


@dg.op
def roll_back(context: dg.OpExecutionContext, config: RollbackConfig, pipeline: PipelineResource) -> None:
    """Show readers an older version and hold publishing until `analytics publish`."""
    from analytics_assets.events.intake import utc_now
    from analytics_assets.outgoing import keep_role_files
    from analytics_assets.warehouse.publish import rollback

    stages = pipeline.get()
    log = Audit(stages.settings, context.run.run_id)
    with log.act("rollback", reason=config.reason) as act:
        act.details["version"] = version = rollback(stages.home, config.version, now=utc_now(), reason=config.reason)
    keep_role_files(stages.settings, stages.specs, stages.table, log=log)
    context.log_event(
        dg.AssetMaterialization(
            analytics_duckdb.key,
            description=f"rolled back to version {version}; publishing is held",
            metadata={"published": False, "version": version, "reason": config.reason},
        )
    )


@dg.job
def rollback_publish() -> None:
    """Readers get the version before the present one (or the one that the config names); publishing is held."""
    roll_back()


# A picture shows at most so many days and weeks, up to the newest.
_DAYS, _WEEKS = 400, 56


def _pictures(path: Path) -> dict[str, dg.MetadataValue]:
    """Drawn from the published file itself. They stand here and not on the marts, where every day would store a copy."""
    import duckdb

    with duckdb.connect(str(path), read_only=True) as con:
        newest = f"date > (select max(date) from revenue_daily) - {_DAYS}"
        revenue = con.execute(
            f"select date, tenant_id, greatest(sum(revenue), 0)::double from revenue_daily where {newest} group by all"
        ).fetchall()
        cohorts = con.execute(
            "select cohort_week, weeks_since, sum(active_users) / sum(cohort_users) from cohort_retention_weekly "
            f"where weeks_since < {_WEEKS} and cohort_week in "
            f"(select distinct cohort_week from cohort_retention_weekly order by 1 desc limit {_WEEKS}) group by all"
        ).fetchall()
    return {
        "revenue a day": picture(stacked_days(revenue, "Net revenue a day by tenant")),
        "retention": picture(triangle(cohorts, "People who came back, by week since the first")),
    }
