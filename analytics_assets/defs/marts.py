"""The marts: every dbt model is an asset with its lineage and columns, every dbt test a check on it.

dbt runs once a step, in this process. What dbt declares is read from the project without importing dbt (milliseconds);
`dagster-dbt` would import and start it at load (FACTS: 17 s a build against .65 s).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.metadata import AS_A_WHOLE, BY_DAY, column_lineage, explained, row_counts
from analytics_assets.defs.partitions import DAYS, ONE_RUN, days_of
from analytics_assets.defs.resources import OWNER, PipelineResource, Progress
from analytics_assets.events.schema import EVENTS
from analytics_assets.marts.project import Model, models
from analytics_assets.sessions.tables import SESSIONS

if TYPE_CHECKING:
    from analytics_assets.marts.build import TestResult

# Tables that dbt reads and that are no assets of their own: the days of the build, and the stitched identities.
_NO_ASSETS = {"days": None, "identities": "sessions"}


def _asset(model: Model) -> dg.AssetSpec:
    sources = {_NO_ASSETS.get(name, name) for name in model.sources} - {None}
    lineage = dg.TableSchema([dg.TableColumn(c.name, c.type.lower(), description=c.description) for c in model.columns])
    return dg.AssetSpec(
        model.name,
        deps=sorted({*model.refs, *(name for name in sources if name)}),
        description=model.description,
        group_name=model.layer,
        kinds={"dbt", "duckdb"},
        owners=[OWNER],
        tags=BY_DAY if any(column.name == "date" for column in model.columns) else AS_A_WHOLE,
        metadata={"dagster/column_schema": lineage, **(explained(model.name) if model.layer == "marts" else {})},
    )


def _check(test: str, model: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(test, asset=model, description=description, blocking=True)


@dg.multi_asset(
    name="marts",
    specs=[_asset(model) for model in models().values()],
    check_specs=[_check(test.name, test.model, test.description) for model in models().values() for test in model.tests],
    partitions_def=DAYS,
    backfill_policy=ONE_RUN,
)
def marts(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    duckdb: DuckDBResource,
    progress: dg.ResourceParam[Progress],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    progress.stage("marts with dbt")
    with duckdb.get_connection() as con:
        rebuilt, result = pipeline.get().rebuild_marts(con, days_of(context), progress.part)
    if not result.ok:
        # The checks show what is wrong; nothing was committed, and a failed step keeps the publish from running.
        yield from (_result(test) for test in result.tests)
        broken = ", ".join(test.name for test in result.tests if test.status not in ("pass", "warn"))
        raise dg.Failure(f"the marts were not replaced, since these tests failed: {broken}")
    dated = {name for name, model in models().items() if any(column.name == "date" for column in model.columns)}
    verdicts: dict[str, list[TestResult]] = {}
    for test in result.tests:
        verdicts.setdefault(test.model, []).append(test)
    for name, model in result.models.items():
        days = rebuilt.days if name in dated else None
        rows = row_counts(rebuilt.total_rows[name], rebuilt.rows[name], days) if name in rebuilt.rows else {}
        yield dg.MaterializeResult(
            name,
            metadata={
                "dagster/column_lineage": _lineage(models()[name]),
                **rows,
                "seconds": model.seconds,
                "events version": rebuilt.events_version,
            },
            check_results=[_result(test) for test in verdicts.get(name, [])],
        )


def _lineage(model: Model) -> dg.TableColumnLineage:
    tables = {"events": EVENTS.column_names, "sessions": SESSIONS.column_names}
    upstream = {name: tables[name] for name in model.sources if name in tables}
    upstream |= {name: tuple(column.name for column in models()[name].columns) for name in model.refs}
    return column_lineage([column.name for column in model.columns], upstream)


def _result(test: "TestResult") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=test.model,
        check_name=test.name,
        passed=test.status == "pass",
        severity=dg.AssetCheckSeverity.WARN if test.status == "warn" else dg.AssetCheckSeverity.ERROR,
        metadata={"failing rows": test.failures or 0, "message": test.message or test.status},
    )
