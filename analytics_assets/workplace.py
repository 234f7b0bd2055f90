"""The private database in which dbt works: views over exactly the files of one version, with people told; and events a day."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.sessions.build import resolved_identities, seen_by_marts
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS
from analytics_assets.settings import StorageRules
from analytics_assets.warehouse.connect import connection, remove_database
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import TableSpec, literal
from analytics_assets.warehouse.table import Snapshot, Table, day_bounds

RESOLVED = "select * from resolved"


@contextmanager
def work_db(
    home: Home, table: Callable[[TableSpec], Table], days: Sequence[date], version: int, storage: StorageRules,
    shown: Callable[[str], str], lives: str = "true",
) -> Iterator[Path]:  # fmt: skip
    """Make it for `days` of this version of events that meet the SQL `lives`; `shown` makes a SELECT of what readers see.

    It is removed in the end, however that comes: it names people, who may go before the next build.
    """
    path = home.marts_database
    # A killed build may leave a log that DuckDB would play into the new file.
    remove_database(path)
    try:
        _make(home, path, table, days, version, storage, shown, lives)
        yield path
    finally:
        remove_database(path)


def _make(
    home: Home, path: Path, table: Callable[[TableSpec], Table], days: Sequence[date], version: int, storage: StorageRules,
    shown: Callable[[str], str], lives: str,
) -> None:  # fmt: skip
    events = table(EVENTS).snapshot(version)
    with connection(home, memory_mb=storage.memory_mb, threads=storage.threads, database=path) as con:
        con.execute("create table days as select unnest(?::date[]) as date", [list(days)])
        con.execute(f"create table resolved as {resolved_identities(table(IDENTITIES).snapshot().select())}")
        asked = f"{bounded(events, *day_bounds(days))} and timestamp::date in (select date from days) and {lives}"
        sessions = table(SESSIONS).snapshot().select()
        for name, select in seen_by_marts(shown(asked), EVENTS.column_names, sessions, SESSIONS.column_names, RESOLVED).items():
            con.execute(f"create view {name} as {select}")


def bounded(snapshot: Snapshot, low: datetime, high: datetime) -> str:
    """A SELECT of the rows between two times, from the files that can hold them."""
    between = f"{snapshot.spec.time_column} between timestamp {literal(str(low))} and timestamp {literal(str(high))}"
    return f"{snapshot.select(snapshot.between(low, high))} where {between}"


def events_a_day(con: duckdb.DuckDBPyConnection, events: Snapshot, days: Sequence[date]) -> list[tuple[date, str, float]]:
    """(day, tenant, events) of days."""
    if not days:
        return []
    rows = bounded(events, *day_bounds(days))
    counted = f"select timestamp::date as day, tenant_id, count(*)::double as events from ({rows}) group by 1, 2"
    return con.execute(f"{counted} having day in (select unnest(?::date[])) order by 1, 2", [list(days)]).fetchall()
