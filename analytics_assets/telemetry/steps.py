"""Keeping the rows of `step_telemetry`, each once.

The table notes with every commit up to which end of a run it has read, so that a reader goes on from there: rows and
cursor are one commit, and a kill between any two lines here loses nothing and doubles nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import duckdb

from analytics_assets.telemetry.journal import measured
from analytics_assets.telemetry.rows import Attempt, row
from analytics_assets.telemetry.tables import STEP_TELEMETRY, StepTelemetry
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import identifier
from analytics_assets.warehouse.table import Table, day_bounds, replace_days

STEPS_LOCK = "step_telemetry"
_CURSOR = "ends_read"
_NAMES = tuple(field.name for field in fields(StepTelemetry))


@dataclass(frozen=True)
class Steps:
    """`step_telemetry` of one data home."""

    home: Home
    dense_day_rows: int

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
            self._commit(con, rows, {_CURSOR: str(cursor)})
        return len(rows)

    def _commit(self, con: duckdb.DuckDBPyConnection, rows: Sequence[StepTelemetry], note: dict[str, str]) -> None:
        if not rows:
            self.table.commit(self.table.open(), [], note=note)
            return
        types = {column.name: column.type for column in STEP_TELEMETRY.columns}
        unnested = ", ".join(f"unnest(?::{types[name]}[]) as {identifier(name)}" for name in _NAMES)
        con.execute(
            f"create or replace temp table new_steps as select {unnested}",
            [[getattr(step, name) for step in rows] for name in _NAMES],
        )
        days = sorted({step.date for step in rows})
        stored = self.table.snapshot()
        others = (
            f"select * from ({stored.select(stored.between(*day_bounds(days)))}) "
            "where date in (select date from new_steps) "
            "and (run_id, step, attempt) not in (select (run_id, step, attempt) from new_steps)"
        )
        select = f"select {STEP_TELEMETRY.select_list} from new_steps union all {others}"
        replace_days(self.table, con, select, days, dense_day_rows=self.dense_day_rows, note=note)
        con.execute("drop table new_steps")
