"""The verdicts as an asset, and each expectation as a check on the table that it judges: one step for all."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.metadata import BY_DAY, asset_spec
from analytics_assets.defs.partitions import DAYS, ONE_RUN, days_of
from analytics_assets.defs.resources import OWNER, PipelineResource, Progress
from analytics_assets.events.expectations import BATCHES_SUITE, EVENTS_SUITE, REJECTED_SUITE
from analytics_assets.marts.expectations import mart_suites
from analytics_assets.privacy.expectations import CONSENT_SUITE
from analytics_assets.quality.masks import example
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.sessions.expectations import PAGE_VIEWS_SUITE, RUNAWAYS_SUITE, SESSIONS_SUITE, USERS_SUITE
from analytics_assets.warehouse.expectation import Expectation, schema_of

if TYPE_CHECKING:
    from analytics_assets.quality.tables import QualityResult

_SUITES = (
    REJECTED_SUITE,
    BATCHES_SUITE,
    EVENTS_SUITE,
    SESSIONS_SUITE,
    PAGE_VIEWS_SUITE,
    RUNAWAYS_SUITE,
    USERS_SUITE,
    CONSENT_SUITE,
    *mart_suites(),
)
_EXPECTED = [(suite.table.name, expected) for suite in _SUITES for expected in (schema_of(suite), *suite.expectations)]
# So many verdicts are shown with a check; all of them stand in the table.
_SHOWN = 20


def _check(table: str, expected: Expectation) -> dg.AssetCheckSpec:
    # What blocks is the step, which fails before the publish. Dagster's own `blocking` would also hold up the tables that are
    # made from this one and judged in the same step: a circle.
    return dg.AssetCheckSpec(expected.name, asset=table, description=expected.says, metadata={"severity": expected.severity})


@dg.multi_asset(
    name="quality",
    specs=[
        asset_spec(
            QUALITY_RESULTS, group="quality", kinds={"deltalake", "greatexpectations"}, owner=OWNER, tags=BY_DAY,
            deps=[suite.table.name for suite in _SUITES],
        )
    ],
    check_specs=[_check(table, expected) for table, expected in _EXPECTED],
    # The checks belong to other assets. A step of their own would cost a second pass over the verdicts.
    allow_arbitrary_check_specs=True,
    # Who asks Dagster for some tables gets only the checks on these; a backfill of what is made by day leaves `users` out.
    can_subset=True,
    partitions_def=DAYS,
    backfill_policy=ONE_RUN,
)  # fmt: skip
def quality(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    duckdb: DuckDBResource,
    progress: dg.ResourceParam[Progress],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.quality.tables import refusal

    progress.stage("judging quality")
    stages = pipeline.get()
    # Without partitions, as when somebody asks for `users` alone: the days that wait for it.
    days = days_of(context) if context.has_partition_key or context.has_partition_key_range else ()
    with duckdb.get_connection() as con:
        found = stages.judge(con, utc_now(), days=days, run=context.run.run_id)
        refused = stages.gate.refusals(con)
    counts = {success: sum(result.success == success for result in found) for success in ("pass", "fail", "unknown")}
    if dg.AssetKey(QUALITY_RESULTS.name) in context.selected_asset_keys:
        yield dg.MaterializeResult(
            QUALITY_RESULTS.name, metadata={**counts, "holds the publish": refusal(refused) if refused else "nothing"}
        )
    for table, expected in _EXPECTED:
        if dg.AssetCheckKey(dg.AssetKey(table), expected.name) not in context.selected_asset_check_keys:
            continue
        mine = [result for result in found if (result.table, result.expectation) == (table, expected.name)]
        yield _result(table, expected, mine)
    if refused:
        # A failed step keeps the publish from running.
        raise dg.Failure(refusal(refused))


def _result(table: str, expected: Expectation, found: "Sequence[QualityResult]") -> dg.AssetCheckResult:
    """Passed: something could be judged and nothing failed. What is unknown alone has not passed, and blocks nothing.

    Dagster knows no third answer, so a passed check says of whom nothing is known, or that no row was there to judge.
    """
    failed = [result for result in found if result.success == "fail"]
    unknown = [result for result in found if result.success == "unknown"]
    passed = not failed and (len(unknown) < len(found) or not found)
    said: str | None
    if failed:
        said = str(failed[0])
    elif not passed:
        said = "unknown: too little is known yet"
    elif not found:
        said = "nothing was there to judge"
    else:
        said = f"passed where it could be judged; unknown: {unknown[0].reason}" if unknown else None
    # Of an expectation that blocks, what readers see already only warns.
    severe = any(result.severity == "block" for result in failed)
    shown = _table("what failed", _failures(failed)) or _table("what is unknown", _reasons(unknown))
    return dg.AssetCheckResult(
        asset_key=table,
        check_name=expected.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
        description=said,
        metadata={
            # Dagster calls every one of these checks non-blocking (see `_check`).
            "a failure": "refuses the publish" if expected.severity == "block" else "is a warning",
            "failed": len(failed),
            "unknown": len(unknown),
            "passed": len(found) - len(failed) - len(unknown),
            **shown,
        },
    )


def _table(name: str, rows: list[dg.TableRecord]) -> dict[str, dg.TableMetadataValue]:
    return {name: dg.MetadataValue.table(rows[:_SHOWN])} if rows else {}


def _failures(failed: "Sequence[QualityResult]") -> list[dg.TableRecord]:
    return [
        dg.TableRecord(
            {"tenant": result.tenant or "(all)", "day": str(result.partition),
             "observed": "" if result.observed is None else f"{result.observed:,.6g}", "expected": result.expected,
             "for example": example(result.samples)}
        )
        for result in failed
    ]  # fmt: skip


def _reasons(unknown: "Sequence[QualityResult]") -> list[dg.TableRecord]:
    """Why, the most frequent first, instead of a row a day."""
    days: dict[str, list[date]] = {}
    for result in unknown:
        days.setdefault(result.reason, []).append(result.partition)
    return [
        dg.TableRecord({"why": why, "verdicts": len(of), "first day": str(min(of)), "last day": str(max(of))})
        for why, of in sorted(days.items(), key=lambda item: -len(item[1]))
    ]
