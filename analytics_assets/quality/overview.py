"""What the verdicts say, for a person: what failed and what that means, what is unknown and why."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import duckdb

from analytics_assets.quality.masks import example
from analytics_assets.quality.tables import QualityResult
from analytics_assets.settings import Incident
from analytics_assets.warehouse.table import Snapshot

# Why a verdict is unknown, without the numbers that differ from tenant to tenant.
_WHY = """case
    when reason like '%are needed' or reason like '%too few clean days%' then 'too little clean history'
    when reason like '%the day is not over' then 'the day is not over'
    when reason like '%usually under%' then 'usually too few to judge'
    when reason like '%too few rows' then 'too few rows'
    else regexp_replace(reason, '^[0-9]+ tenants?: ', '')
end"""
# A row of several tenants begins with how many they are.
_TENANTS = "coalesce(try_cast(regexp_extract(reason, '^([0-9]+) tenants?: ', 1) as bigint), 1)"


def overview(
    con: duckdb.DuckDBPyConnection, snapshot: Snapshot, holding: Sequence[QualityResult], incidents: Sequence[Incident],
    *, table: str | None = None, tenant: str | None = None, day: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`days` judged with the first and last, `counts` of verdicts, those that `failed` with what follows, and the `unknown`.

    `holding` are those that refuse a publish now. `table`, `tenant` and `day` narrow all but the days.
    """
    con.execute(
        f"create or replace temp table chosen_verdicts as select * from ({snapshot.select()}) "
        'where ($1 is null or "table" = $1) and ($2 is null or tenant = $2) and ($3 is null or "partition" = $3::date)',
        [table, tenant, day],
    )
    days, first, last, at = con.execute(
        f"""select count(distinct "partition"), min("partition"), max("partition"), max(judged_at) from ({snapshot.select()})
        where "table" not in ('batches', 'rejected_events')"""
    ).fetchall()[0]
    counts = dict(con.execute("select success, count(*) from chosen_verdicts group by 1").fetchall())
    failed = con.execute(
        """select "table", tenant, "partition", expectation, severity, success, observed, expected, reason, samples, version,
        run, judged_at from chosen_verdicts where success = 'fail' order by "partition" desc, severity, "table", expectation"""
    ).fetchall()
    unknown = con.execute(
        f"""select "table", expectation, {_WHY} as why, sum({_TENANTS})::bigint as verdicts, min("partition") as first,
        max("partition") as last from chosen_verdicts where success = 'unknown' group by 1, 2, 3
        order by 1, 3, 2"""
    )
    names = [column[0] for column in unknown.description]
    groups = [dict(zip(names, row, strict=True)) for row in unknown.fetchall()]
    con.execute("drop table chosen_verdicts")
    results = [QualityResult(*row) for row in failed]
    return {
        "days": days, "first": first, "last": last, "judged_at": at,
        "counts": {name: counts.get(name, 0) for name in ("pass", "fail", "unknown")},
        "holding": len(holding),
        "failed": [
            {**asdict(one), "samples": json.loads(one.samples or "[]"), "example": example(one.samples),
             "means": _means(one, holding, incidents)}
            for one in results
        ],
        "unknown": groups,
    }  # fmt: skip


def _means(result: QualityResult, holding: Sequence[QualityResult], incidents: Sequence[Incident]) -> str:
    """What follows from a failure."""
    if result.severity == "warn":
        return "warning"
    if result in holding:
        return "holds the publish"
    declared = next((i for i in incidents if i.covers(result.tenant, result.partition)), None)
    return f"declared {declared.kind}: {declared.reason}" if declared else "judged again since"
