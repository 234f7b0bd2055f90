"""Which days wait for a rebuild: days that a batch touched after the tables behind `events` were last built for them.

A publish shows events as they were at the version that the last rebuild read, and only if no day up to that version
waits. So what readers see fits together, while batches keep arriving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import duckdb

from analytics_assets.events.tables import BATCHES
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import Column, TableSpec
from analytics_assets.warehouse.table import Table, replace_all

BUILT_DAYS = TableSpec(
    name="built_days",
    comment="Per day the version of events from which the tables behind it were last built.",
    columns=(
        Column("date", "DATE", "Day (UTC)."),
        Column("events_version", "BIGINT", "Version of the events table that the build read."),
    ),
    time_column=None,
    order_by=("date",),
)

SESSION_DAYS = TableSpec(
    name="session_days",
    comment="Per day the version of events from which its sessions were last built, and when that began.",
    columns=(
        Column("date", "DATE", "Day (UTC)."),
        Column("events_version", "BIGINT", "Version of the events table that the build read."),
        Column("began_at", "TIMESTAMP", "When the build began, after its turn had come (UTC)."),
    ),
    time_column=None,
    order_by=("date",),
)

# Older than any version of events.
_UNSETTLED = -1


@dataclass(frozen=True)
class DayRange:
    """Consecutive days from `first` to `last`, both included."""

    first: date
    last: date

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


def pending_days(con: duckdb.DuckDBPyConnection, home: Home, events_version: int | None = None) -> list[date]:
    """Days touched by a batch up to `events_version` (None: any) and not built since, oldest first."""
    batches = Table(home.warehouse, BATCHES).snapshot().select()
    built = Table(home.warehouse, BUILT_DAYS).snapshot().select()
    limit = "true" if events_version is None else f"events_version <= {events_version}"
    rows = con.execute(f"""
        with touched as (
            select unnest(days) as date, events_version from ({batches}) where {limit}
        )
        select t.date from touched t left join ({built}) b using (date)
        group by t.date having max(t.events_version) > coalesce(max(b.events_version), -1)
        order by t.date
    """).fetchall()
    return [row[0] for row in rows]


def mark_sessions(
    con: duckdb.DuckDBPyConnection, home: Home, days: Sequence[date], events_version: int, began_at: datetime
) -> None:
    """Record that the sessions of `days` were built from `events_version`."""
    table = Table(home.warehouse, SESSION_DAYS)
    con.execute("create or replace temp table just_built as select unnest(?::date[]) as date", [list(days)])
    others = f"select {SESSION_DAYS.select_list} from ({table.snapshot().select()}) anti join just_built using (date)"
    fresh = f"select date, {int(events_version)} as events_version, ?::timestamp as began_at from just_built"
    con.execute(f"create or replace temp table built_sessions as {fresh}", [began_at])
    replace_all(table, con, f"from built_sessions union all {others}")
    con.execute("drop table just_built; drop table built_sessions")


def mark_built(con: duckdb.DuckDBPyConnection, home: Home, days: Sequence[date], events_version: int) -> None:
    """Record that everything behind `days` was built from `events_version`.

    A day whose sessions are of an older version counts as built from that one: another run has built sessions of its own
    days from `events_version` since, and this day may have got events in between.
    """
    table = Table(home.warehouse, BUILT_DAYS)
    known = table.snapshot().select()
    sessions = Table(home.warehouse, SESSION_DAYS).snapshot().select()
    con.execute("create or replace temp table just_built as select unnest(?::date[]) as date", [list(days)])
    built = (
        f"select date, least({int(events_version)}, s.events_version) as events_version "
        f"from just_built left join ({sessions}) s using (date)"
    )
    replace_all(
        table,
        con,
        f"select date, max(events_version) as events_version from ({built} union all {known}) group by date",
    )


def unsettle(con: duckdb.DuckDBPyConnection, home: Home, days: Sequence[date]) -> None:
    """Record that nothing behind `days` may be shown as it was built, also where no batch brought anything new."""
    table = Table(home.warehouse, BUILT_DAYS)
    con.execute("create or replace temp table moved_days as select unnest(?::date[]) as date", [list(days)])
    others = f"select {BUILT_DAYS.select_list} from ({table.snapshot().select()}) anti join moved_days using (date)"
    replace_all(table, con, f"select date, {_UNSETTLED} as events_version from moved_days union all {others}")
    con.execute("drop table moved_days")


def unsettled(con: duckdb.DuckDBPyConnection, home: Home) -> list[date]:
    """Days that were unsettled and not built since."""
    built = Table(home.warehouse, BUILT_DAYS).snapshot().select()
    return [day for (day,) in con.execute(f"select date from ({built}) where events_version = {_UNSETTLED}").fetchall()]


def ranges(days: Sequence[date], gap_days: int = 31) -> list[DayRange]:
    """`days` as few ranges: neighbours up to `gap_days` apart share one, since an empty day costs next to nothing."""
    found: list[DayRange] = []
    for day in sorted(days):
        if found and (day - found[-1].last).days <= gap_days:
            found[-1] = DayRange(found[-1].first, day)
        else:
            found.append(DayRange(day, day))
    return found
