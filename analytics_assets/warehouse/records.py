"""Small tables as rows in memory: notes of a few thousand lines, read and written whole. Not for what grows with the events."""

from collections.abc import Sequence
from typing import Any

import duckdb

from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import TableSpec, identifier
from analytics_assets.warehouse.table import Table, replace_all


def read(con: duckdb.DuckDBPyConnection, home: Home, spec: TableSpec) -> list[tuple[Any, ...]]:
    """All rows in the order of the table; none of a table that was never written."""
    # Opening makes the table; whoever only looks leaves nothing behind.
    if not (home.warehouse / spec.name / "_delta_log").exists():
        return []
    order = ", ".join(map(identifier, spec.order_by)) or "all"
    return con.execute(f"select * from ({Table(home.warehouse, spec).snapshot().select()}) order by {order}").fetchall()


def write(con: duckdb.DuckDBPyConnection, home: Home, spec: TableSpec, rows: Sequence[Sequence[Any]]) -> None:
    """Put `rows` in the place of the whole table. Callers hold a lock from reading to writing."""
    columns = [[row[n] for row in rows] for n in range(len(spec.columns))]
    parts = ", ".join(f"unnest(?::{column.type}[]) as {identifier(column.name)}" for column in spec.columns)
    con.execute(f"create or replace temp table few_rows as select {parts}", columns)
    replace_all(Table(home.warehouse, spec), con, "select * from few_rows")
    con.execute("drop table few_rows")
