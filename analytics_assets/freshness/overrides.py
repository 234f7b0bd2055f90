"""The log of heavy runs that a person let go before their window: written before the run may start, never after."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime

import duckdb

from analytics_assets.freshness.tables import QUEUE_OVERRIDES
from analytics_assets.freshness.watch import ACTIONS_LOCK
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import identifier
from analytics_assets.warehouse.table import Table, replace_all


@dataclass(frozen=True)
class Override:
    """A row of `queue_overrides`."""

    let_go_at: datetime
    run_id: str
    work: str
    by: str
    how: str
    reason: str


def log(con: duckdb.DuckDBPyConnection, home: Home, overrides: Sequence[Override]) -> None:
    """Add rows to `queue_overrides`."""
    names = ", ".join(identifier(column.name) for column in QUEUE_OVERRIDES.columns)
    rows = ", ".join("(" + ", ".join(f"?::{column.type}" for column in QUEUE_OVERRIDES.columns) + ")" for _ in overrides)
    # The sweep holds this lock while it looks which files are named.
    with home.lock(ACTIONS_LOCK):
        table = Table(home.warehouse, QUEUE_OVERRIDES)
        values = [value for override in overrides for value in astuple(override)]
        con.execute(f"create or replace temp table let_go as from (values {rows}) as v({names})", values)
        replace_all(table, con, f"from let_go union all from ({table.snapshot().select()})")
        con.execute("drop table let_go")


def logged(con: duckdb.DuckDBPyConnection, home: Home, most: int = 20) -> list[Override]:
    """The newest overrides, newest first."""
    select = Table(home.warehouse, QUEUE_OVERRIDES).snapshot().select()
    rows = con.execute(f"select * from ({select}) order by let_go_at desc, run_id limit {int(most)}").fetchall()
    return [Override(*row) for row in rows]
