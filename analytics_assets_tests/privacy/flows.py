"""What really flows: rename the values of one input, each to another one in the same order, and see which outputs change."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.marts.tables import mart_tables
from analytics_assets.sessions.build import (
    build_sessions,
    merge_identities,
    resolved_identities,
    seen_by_marts,
    stitched,
    users,
)
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import SessionRules

Row = dict[str, Any]
Outputs = dict[tuple[str, str], list[str]]
"""(table, column) -> its values as text, in order: which row has which does not matter."""


def renamed(value: Any) -> Any:
    """Another value for each value, in the same order; of an object also other names of its keys."""
    if isinstance(value, dict):
        return {f"q{name}": renamed(part) for name, part in value.items()}
    if isinstance(value, str):
        return f"q{value}"
    if isinstance(value, datetime):
        return value + timedelta(seconds=1)
    return value * 2 if isinstance(value, (int, Decimal)) else value


def tables_of(events: Iterable[Row], marts: Mapping[str, str], days: Sequence[date], rules: SessionRules) -> Outputs:
    """Build every computed table of these events by the SQL that the pipeline runs, and give its columns."""
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("set timezone = 'UTC'; attach ':memory:' as work")
        describe = ", ".join(f'"{column.name}" {column.type}' for column in EVENTS.columns)
        con.execute(f"create table events ({describe})")
        places = ", ".join("?" for _ in EVENTS.columns)
        con.executemany(f"insert into events values ({places})", [[row.get(n) for n in EVENTS.column_names] for row in events])
        con.execute(f"create table identities as {IDENTITIES.empty_select}")
        build_sessions(con, "select * from events", days, rules)
        merge_identities(con, "select * from events", "select * from identities")
        resolved = resolved_identities("select * from new_identities")
        raw = {spec.name: f"select * from new_{spec.name}" for spec in (SESSIONS, PAGE_VIEWS)}
        con.execute(f"create table shown_sessions as {stitched(raw['sessions'], resolved, SESSIONS.column_names)}")
        con.execute(f"create table shown_page_views as {stitched(raw['page_views'], resolved, PAGE_VIEWS.column_names)}")
        con.execute(f"create table shown_users as {users('select * from shown_sessions')}")
        found = {
            IDENTITIES.name: _columns(con, "new_identities"),
            RUNAWAYS.name: _columns(con, "new_runaways"),
            **{spec.name: _columns(con, f"shown_{spec.name}") for spec in (SESSIONS, PAGE_VIEWS, USERS)},
        }
        seen = seen_by_marts("select * from events", EVENTS.column_names, raw["sessions"], SESSIONS.column_names, resolved)
        for name, select in seen.items():
            con.execute(f"create table work.main.{name} as {select}")
        con.execute("use work")
        con.execute("create table days as select distinct timestamp::date as date from events")
        for name, select in marts.items():
            con.execute(f"create table {name} as {select}")
        found |= {spec.name: _columns(con, spec.name) for spec in mart_tables()}
    return {(table, column): values for table, columns in found.items() for column, values in columns.items()}


def _columns(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, list[str]]:
    cursor = con.execute(f"select * from {table}")
    names = [entry[0] for entry in cursor.description]
    rows = cursor.fetchall()
    return {name: sorted(repr(row[n]) for row in rows) for n, name in enumerate(names)}
