"""Keeping the rows of `step_telemetry`, `query_log` and `unit_costs`, each once, and the tables of metrics made from them.

The table of steps notes with every commit up to which end of a run it has read, so that a reader goes on from there. Costs
are committed before what they are of, and in the place of those of the same runs or queries, so that a kill between any two
lines here loses nothing and doubles nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import date, datetime

import duckdb

from analytics_assets.telemetry import queries
from analytics_assets.telemetry.costs import query_costs, table_weights, unit_costs
from analytics_assets.telemetry.journal import measured
from analytics_assets.telemetry.metrics import performance
from analytics_assets.telemetry.prices import Prices
from analytics_assets.telemetry.report import Reliability, reliability_of_groups
from analytics_assets.telemetry.rows import Attempt, row
from analytics_assets.telemetry.tables import (
    PERFORMANCE_METRICS,
    QUERY_LOG,
    RELIABILITY_METRICS,
    STEP_TELEMETRY,
    UNIT_COSTS,
    Performance,
    Query,
    StepTelemetry,
    UnitCost,
)
from analytics_assets.telemetry.tenants import Tenants
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.records import read, write
from analytics_assets.warehouse.spec import TableSpec, identifier
from analytics_assets.warehouse.table import Table, day_bounds, replace_days

STEPS_LOCK = "step_telemetry"
_CURSOR = "ends_read"
_TOLD = (STEP_TELEMETRY, QUERY_LOG, UNIT_COSTS)
# So far back is told how reliable a group of assets is.
RELIABLE_DAYS = 90


@dataclass(frozen=True)
class Steps:
    """What the steps and queries of one data home took and cost.

    `specs` are its tables, whose rows tell which of the `tenants` a step worked for.
    """

    home: Home
    prices: Prices
    dense_day_rows: int
    specs: Sequence[TableSpec] = ()
    tenants: Collection[str] = ()

    @property
    def table(self) -> Table:
        return Table(self.home.warehouse, STEP_TELEMETRY)

    def cursor(self) -> int:
        """The end of a run (its place in the orchestrator's log) up to which all is kept; 0 at first."""
        return int(self.table.open().history(1)[0].get(_CURSOR, 0))

    def keep(self, con: duckdb.DuckDBPyConnection, attempts: Sequence[Attempt], since: int, cursor: int) -> int:
        """Keep the attempts of the runs that ended after `since`, up to `cursor`; returns how many rows there are of them.

        Does nothing if somebody else has gone on from `since` meanwhile.
        """
        with self.home.lock(STEPS_LOCK):
            if self.cursor() != since:
                return 0
            runs = sorted({attempt.key.run_id for attempt in attempts})
            seen = {key: line for run in runs for key, line in measured(self.home, run).items()}
            rows = [row(attempt, seen.get(attempt.key)) for attempt in attempts]
            note = {_CURSOR: str(cursor)}
            if rows:
                whose = Tenants(con, self.home.warehouse, self.specs, self.tenants)
                shares = [
                    share for step in rows for share in unit_costs(step, self.prices, whose.of(step, table_weights(step)))
                ]
                self._replace(con, UNIT_COSTS, "run_id", shares)
                self._replace(con, STEP_TELEMETRY, "run_id", rows, note)
            else:
                self.table.commit(self.table.open(), [], note=note)
        return len(rows)

    def keep_queries(self, con: duckdb.DuckDBPyConnection) -> int:
        """Keep what was asked of the published file up to now; returns how many queries."""
        with self.home.lock(STEPS_LOCK):
            paths = queries.waiting(self.home)
            rows = queries.read(paths)
            if rows:
                shares = [share for query in rows for share in query_costs(query, self.prices)]
                self._replace(con, UNIT_COSTS, "run_id", shares)
                self._replace(con, QUERY_LOG, "query_id", rows)
            for path in paths:
                path.unlink()
        return len(rows)

    def keep_metrics(
        self, con: duckdb.DuckDBPyConnection, groups: Mapping[str, str], by_hand: Sequence[tuple[datetime, str]],
        disk: tuple[int, int], now: datetime,
    ) -> tuple[list[Reliability], list[Performance]]:  # fmt: skip
        """Make both tables of metrics anew. `groups` names the group of each asset; the others are as in `performance`."""
        with self.home.lock(STEPS_LOCK):
            selects = {spec.name: Table(self.home.warehouse, spec).snapshot().select() for spec in _TOLD}
            since, reliable = reliability_of_groups(con, selects[STEP_TELEMETRY.name], groups, now, RELIABLE_DAYS)
            before = [Performance(*row) for row in read(con, self.home, PERFORMANCE_METRICS)]
            rows = performance(con, selects, by_hand, disk, now, before)
            write(con, self.home, RELIABILITY_METRICS, [(*astuple(one), since, now) for one in reliable])
            write(con, self.home, PERFORMANCE_METRICS, [astuple(row) for row in rows])
        return reliable, rows

    def _replace(
        self, con: duckdb.DuckDBPyConnection, spec: TableSpec, key: str, rows: Sequence[StepTelemetry | UnitCost | Query],
        note: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Put rows in the place of all rows with the same keys; `rows` must hold all of a key."""
        unnested = ", ".join(f"unnest(?::{column.type}[]) as {identifier(column.name)}" for column in spec.columns)
        columns = [[getattr(row, name) for row in rows] for name in spec.column_names]
        con.execute(f"create or replace temp table new_rows as select {unnested}", columns)
        days: list[date] = sorted({row.date for row in rows})
        table = Table(self.home.warehouse, spec)
        stored = table.snapshot()
        others = (
            f"select * from ({stored.select(stored.between(*day_bounds(days)))}) "
            f"where date in (select date from new_rows) and {key} not in (select {key} from new_rows)"
        )
        select = f"select {spec.select_list} from new_rows union all {others}"
        replace_days(table, con, select, days, dense_day_rows=self.dense_day_rows, note=note)
        con.execute("drop table new_rows")
