"""Brings what the rooms know of tenants and their days to `tuning/`, for capacity that is sized for months.

Rollups, sessions, tiers and limits of retention on one side, what is counted of them on the other. Each look counts only the
days that changed since the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from analytics_assets.events.days import BUILT_DAYS, pending_days
from analytics_assets.marts.tables import mart_tables
from analytics_assets.privacy.retention import FILE, RetentionRules
from analytics_assets.privacy.taxonomy import Taxonomy
from analytics_assets.sessions.build import resolved_identities, stitched
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS, USERS
from analytics_assets.settings import Settings
from analytics_assets.slo.declared import load_objectives
from analytics_assets.telemetry.steps import STEPS_LOCK
from analytics_assets.tuning.capacity_tables import CAPACITY_INPUTS
from analytics_assets.tuning.inputs import Declared, Relations, behind, faults, inputs
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import Snapshot, Table, day_bounds, replace_days


@dataclass(frozen=True)
class Counted:
    """What a look at the inputs did: the days that it counted anew, and the rows of the whole table."""

    days: tuple[date, ...]
    rows: int


@dataclass(frozen=True)
class Capacity:
    """What the capacity of one data home is sized by."""

    settings: Settings

    @property
    def home(self) -> Home:
        return Home(self.settings.home)

    def count(self, con: duckdb.DuckDBPyConnection) -> Counted:
        """Count the days built since the last look into `capacity_inputs`; half built ones wait. Raises ConfigError."""
        table, dense = self._table(CAPACITY_INPUTS), self.settings.limits.storage.dense_day_rows
        with self.home.lock(STEPS_LOCK):
            half = set(pending_days(con, self.home))
            wanted = behind(table.snapshot().select(), self._mart("events_hourly").select(), self._built)
            days = [day for (day,) in con.execute(f"{wanted} order by 1").fetchall() if day not in half]
            if days:
                select = inputs(self._relations(con, days), self.declared())
                replace_days(table, con, select, days, dense_day_rows=dense)
                con.execute("drop table counted_days; drop table counted_people")
            return Counted(tuple(days), table.snapshot().rows)

    def faults(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
        """What must hold of `capacity_inputs` and does not: in words, each with some of the tenants and days that break it."""
        con.execute("create or replace temp table half_built as select unnest(?::date[]) as date",
                    [pending_days(con, self.home)])  # fmt: skip
        counted, hours = self._table(CAPACITY_INPUTS).snapshot().select(), self._mart("events_hourly").select()
        found = {}
        for says, select in faults(counted, hours, "from half_built").items():
            if rows := con.execute(f"select * from ({select}) order by all limit 5").fetchall():
                found[says] = [f"{tenant} {day}" for tenant, day in rows]
        con.execute("drop table half_built")
        return found

    def declared(self) -> dict[str, Declared]:
        """Of each tenant what is declared now."""
        config, tenants = self.settings.config, tuple(self.settings.tenants)
        tiers = load_objectives(config / "slos.yaml", tenants).tenant_tiers
        taxonomy, kept = Taxonomy.load(config / "taxonomy.yaml"), RetentionRules.load(config / FILE)
        retention = taxonomy.tables["events"].retention or taxonomy.defaults.retention
        return {name: Declared(tiers.of(name), kept.limit(retention, name).days) for name in tenants}

    def _relations(self, con: duckdb.DuckDBPyConnection, days: Sequence[date]) -> Relations:
        con.execute("create or replace temp table counted_days as select unnest(?::date[]) as date", [list(days)])
        people = resolved_identities(self._table(IDENTITIES).snapshot().select())
        con.execute(f"create or replace temp table counted_people as {people}")
        sessions = stitched(_of(self._table(SESSIONS).snapshot(), days), "from counted_people", SESSIONS.column_names)
        return Relations(
            _of(self._mart("events_hourly"), days), _of(self._mart("properties_daily"), days), sessions,
            self._table(USERS).snapshot().select(), self._built,
        )  # fmt: skip

    def _mart(self, name: str) -> Snapshot:
        return self._table(next(spec for spec in mart_tables() if spec.name == name)).snapshot()

    @property
    def _built(self) -> str:
        return self._table(BUILT_DAYS).snapshot().select()

    def _table(self, spec: TableSpec) -> Table:
        return Table(self.home.warehouse, spec)


def _of(snapshot: Snapshot, days: Sequence[date]) -> str:
    """A SELECT of the rows of `counted_days`, from the files that can hold them."""
    near = snapshot.select(snapshot.between(*day_bounds(days)))
    return f"select * from ({near}) where date in (select date from counted_days)"
