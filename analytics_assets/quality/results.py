"""Keeping verdicts, and what they decide: which days still wait for one, and what refuses the publish."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import date, datetime

import duckdb

from analytics_assets.quality.history import DELIVERIES, LOOKBACK, Past
from analytics_assets.quality.tables import QUALITY_RESULTS, QualityResult
from analytics_assets.settings import Incident
from analytics_assets.warehouse.spec import identifier, literal
from analytics_assets.warehouse.table import Snapshot, Table, day_bounds, replace_days

_NAMES = tuple(field.name for field in fields(QualityResult))


def keep(con: duckdb.DuckDBPyConnection, table: Table, found: Sequence[QualityResult], dense_day_rows: int) -> None:
    """Put the verdicts in the place of those of the same tables and days."""
    if not found:
        return
    columns = [[getattr(result, name) for result in found] for name in _NAMES]
    types = {column.name: column.type for column in QUALITY_RESULTS.columns}
    unnested = ", ".join(f"unnest(?::{types[name]}[]) as {identifier(name)}" for name in _NAMES)
    con.execute(f"create or replace temp table verdicts as select {unnested}", columns)
    days = sorted({result.partition for result in found})
    # A batch's day of receipt may be another table's day of events.
    low, high = day_bounds(days)
    snapshot = table.snapshot()
    stored = snapshot.select(snapshot.between(low, high))
    others = (
        f'select * from ({stored}) where "partition" in (select "partition" from verdicts) '
        'and ("table", "partition") not in (select ("table", "partition") from verdicts)'
    )
    select = f"select {QUALITY_RESULTS.select_list} from verdicts union all {others}"
    replace_days(table, con, select, days, dense_day_rows=dense_day_rows)
    con.execute("drop table verdicts")


def past(con: duckdb.DuckDBPyConnection, snapshot: Snapshot, before: date, today: date) -> list[Past]:
    """Earlier verdicts that can be learned from, or that say that a day must not be.

    Those on tables are of days `before` the window; those on deliveries are of days of receipt, before `today`.
    """
    low, high = day_bounds([min(before, today) - LOOKBACK, max(before, today)])
    received, table = ", ".join(map(literal, sorted(DELIVERIES))), '"table"'
    stored = snapshot.select(snapshot.between(low, high))
    return con.execute(
        'select "table", tenant, "partition", expectation, severity, success, observed from '
        f"""({stored}) where tenant is not null and case when {table} in ({received})
            then "partition" >= date '{today - LOOKBACK}' and "partition" < date '{today}'
            else "partition" >= date '{before - LOOKBACK}' and "partition" < date '{before}' end"""
    ).fetchall()


def unjudged(con: duckdb.DuckDBPyConnection, snapshot: Snapshot, built: str, now: datetime) -> list[date]:
    """Days that were built after they were judged, or judged before they were over; `built` lists (date, events_version)."""
    return [
        day
        for (day,) in con.execute(
            f"""
            with judged as (
                select "partition" as date, max(version) as version, max(judged_at) as judged_at from ({snapshot.select()})
                where "table" = 'events' group by 1
            )
            select built.date from ({built}) built left join judged using (date)
            where built.events_version > coalesce(judged.version, -1)
                or (judged.judged_at < built.date + interval 1 day and built.date + interval 1 day <= ?)
            order by 1
            """,
            [now],
        ).fetchall()
    ]


def refusals(
    con: duckdb.DuckDBPyConnection, snapshot: Snapshot, as_a_whole: Sequence[str], incidents: Sequence[Incident]
) -> list[QualityResult]:
    """Blocking expectations whose newest verdict is a failure, on days for which no incident is declared.

    A table in `as_a_whole` is judged with every window: only its last verdict counts.
    """
    whole = ", ".join(map(literal, as_a_whole)) or "''"
    rows = con.execute(
        f"""
        with newest as (
            select *, judged_at = max(judged_at) over (partition by "table") as is_newest from ({snapshot.select()})
        )
        select {", ".join(map(identifier, _NAMES))} from newest
        where success = 'fail' and severity = 'block' and ("table" not in ({whole}) or is_newest)
        """
    ).fetchall()
    failed = [QualityResult(*row) for row in rows]
    return [result for result in failed if not any(incident.covers(result.tenant, result.partition) for incident in incidents)]


def standing(con: duckdb.DuckDBPyConnection, snapshot: Snapshot, tables: Sequence[str]) -> list[date]:
    """Days of these tables on which a blocking expectation failed and was not found right since."""
    listed = ", ".join(map(literal, tables))
    found = con.execute(
        f"""select distinct "partition" from ({snapshot.select()})
        where success = 'fail' and severity = 'block' and "table" in ({listed}) order by 1"""
    ).fetchall()
    return [day for (day,) in found]
