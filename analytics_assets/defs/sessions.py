"""Sessions, page views and users."""

from collections.abc import Iterator

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.metadata import AS_A_WHOLE, BY_DAY, asset_spec, column_lineage, column_schema, explained, row_counts
from analytics_assets.defs.partitions import DAYS, ONE_RUN, days_of
from analytics_assets.defs.resources import OWNER, PipelineResource, Progress
from analytics_assets.events.schema import EVENTS
from analytics_assets.privacy.withheld import CONSENT_STATUS
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS

_KINDS = {"deltalake", "duckdb"}


@dg.multi_asset(
    name="sessions",
    specs=[
        asset_spec(spec, group="sessions", kinds=_KINDS, owner=OWNER, tags=BY_DAY, deps=["events"])
        for spec in (SESSIONS, PAGE_VIEWS, RUNAWAYS)
    ]
    + [asset_spec(CONSENT_STATUS, group="sessions", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=["events"])],
    partitions_def=DAYS,
    backfill_policy=ONE_RUN,
)
def sessions(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    duckdb: DuckDBResource,
    progress: dg.ResourceParam[Progress],
) -> Iterator[dg.MaterializeResult]:
    progress.stage("sessions and page views")
    with duckdb.get_connection() as con:
        rebuilt = pipeline.get().rebuild_sessions(con, days_of(context))
    context.log.info(
        f"{len(rebuilt.days)} {'day' if len(rebuilt.days) == 1 else 'days'}: "
        + ", ".join(f"{rows:,} {name}" for name, rows in rebuilt.rows.items())
    )
    for spec in (SESSIONS, PAGE_VIEWS, RUNAWAYS, CONSENT_STATUS):
        name, rows = spec.name, rebuilt.rows[spec.name]
        yield dg.MaterializeResult(
            name,
            metadata={
                "dagster/column_lineage": column_lineage(spec.column_names, {"events": EVENTS.column_names}),
                **row_counts(rebuilt.total_rows[name], rows, rebuilt.days if spec.time_column else None),
                "days rebuilt": len(rebuilt.days),
                "events version": rebuilt.events_version,
            },
        )


@dg.asset(
    key=USERS.name,
    description=USERS.comment,
    deps=["sessions"],
    group_name="sessions",
    kinds=_KINDS,
    owners=[OWNER],
    tags=AS_A_WHOLE,
    metadata={"dagster/column_schema": column_schema(USERS), **explained(USERS.name)},
)
def users(pipeline: PipelineResource, duckdb: DuckDBResource, progress: dg.ResourceParam[Progress]) -> dg.MaterializeResult:
    progress.stage("users")
    with duckdb.get_connection() as con:
        rows = pipeline.get().rebuild_users(con)
    lineage = column_lineage(USERS.column_names, {"sessions": SESSIONS.column_names})
    return dg.MaterializeResult(metadata={"dagster/row_count": rows, "dagster/column_lineage": lineage})
