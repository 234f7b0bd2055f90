"""Load ahead and the scaling plan of one data home: what they are made from is read, and what was decided is kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta

import duckdb

from analytics_assets.events.tables import BATCHES
from analytics_assets.settings import Settings
from analytics_assets.telemetry.steps import STEPS_LOCK
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets.tuning.calendar import Calendar, load_calendar
from analytics_assets.tuning.declared import Scaling, load_scaling
from analytics_assets.tuning.forecast import forecast
from analytics_assets.tuning.loads import Hourly, Lately, hourly, lately, received, worked
from analytics_assets.tuning.plan import Known, decided, to_take_back
from analytics_assets.tuning.series import DAY, HOUR
from analytics_assets.tuning.tables import LOAD_FORECAST, SCALING_PLAN, Ahead, Decided, Load
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.records import read, write
from analytics_assets.warehouse.table import Table

# Older knowledge of what steps took says nothing about the last hour.
_STALE = 2 * HOUR
LOADS: tuple[Load, ...] = ("events", "work")


@dataclass(frozen=True)
class Taken:
    """Decisions of one look, and the pools whose limit the plan set before and takes back now."""

    rows: tuple[Decided, ...]
    taken_back: tuple[str, ...]


@dataclass(frozen=True)
class Tuning:
    """What the capacity of one data home follows."""

    home: Home
    scaling: Scaling
    calendar: Calendar
    tenants: tuple[str, ...]

    @classmethod
    def declared(cls, settings: Settings) -> "Tuning":
        """As `scaling.yaml` and `calendar.yaml` declare it. Raises ConfigError."""
        tenants = tuple(settings.tenants)
        scaling = load_scaling(settings.config / "scaling.yaml", tenants)
        return cls(Home(settings.home), scaling, load_calendar(settings.config / "calendar.yaml", tenants), tenants)

    # Load ahead

    def forecast(self, con: duckdb.DuckDBPyConnection, now: datetime) -> list[Ahead]:
        """Forecast every load from the last whole hour on, in the place of the forecast before."""
        since = self._since(now)
        rows = [row for one in self._hourly(con, since, now) for row in self._ahead(one)]
        with self.home.lock(STEPS_LOCK):
            write(con, self.home, LOAD_FORECAST, [astuple(row) for row in rows])
        return rows

    def ahead(self, con: duckdb.DuckDBPyConnection) -> list[Ahead]:
        """The newest forecast."""
        return [Ahead(*row) for row in read(con, self.home, LOAD_FORECAST)]

    def _since(self, now: datetime) -> datetime:
        return now - max(self.scaling.forecast.history_hours * HOUR, self.scaling.least_weeks * 7 * DAY) - DAY

    def _hourly(self, con: duckdb.DuckDBPyConnection, since: datetime, now: datetime) -> Iterator[Hourly]:
        for load in LOADS:
            until = self._known_until(load, now)
            # Most steps are for all tenants together.
            tenants = self.tenants if load == "events" else ()
            yield from hourly(con, load, self._amounts(load, since, now), tenants, since, until or since)

    def _ahead(self, one: Hourly) -> Iterator[Ahead]:
        if one.series is None:
            weeks = self.scaling.forecast.history_hours // (7 * 24)
            yield _nothing(one, f"nothing was {'received' if one.load == 'events' else 'measured'} in the last {weeks} weeks")
            return
        found = forecast(one.series, self.scaling.forecast)
        if not found.rows:
            yield _nothing(one, found.reason)
        for row in found.rows:
            yield Ahead(
                one.tenant, one.load, row.origin, row.lead, row.time, row.load,
                row.lower_80, row.upper_80, row.lower_95, row.upper_95,
                "referee" if row.model == "same hour last week" else "model", row.ratio,
                self.calendar.holiday(one.tenant, row.time.replace(tzinfo=UTC)), row.reason,
            )  # fmt: skip

    def _amounts(self, load: Load, since: datetime, now: datetime) -> str:
        if load == "events":
            return received(Table(self.home.warehouse, BATCHES).snapshot(), since, now)
        return worked(Table(self.home.warehouse, STEP_TELEMETRY).snapshot(), since, now)

    def _known_until(self, load: Load, now: datetime) -> datetime | None:
        """Until when a load is counted. None if it never was."""
        return now if load == "events" else measured_until(self.home, now)

    # The plan

    def plan(self, con: duckdb.DuckDBPyConnection) -> list[Decided]:
        """Every decision that is kept, oldest first."""
        return [Decided(*row) for row in read(con, self.home, SCALING_PLAN)]

    def decide(
        self, con: duckdb.DuckDBPyConnection, now: datetime, limits: Mapping[str, int],
        frozen: Callable[[], str | None] = lambda: None,
    ) -> Taken:  # fmt: skip
        """Decide the capacity of every pool and keep it; `limits` are those of Dagster's pools.

        `frozen` says why no change may be made; it is asked only where one would be.
        """
        with self.home.lock(STEPS_LOCK):
            every = self.plan(con)
            # By the last that was applied one knows later who set the limit that is in force.
            applied = {row.pool: row for row in every if row.applied is not None}
            oldest = now - self.scaling.keep_days * DAY
            kept = [row for row in every if row.decided_at > oldest or row is applied.get(row.pool)]
            ahead, rows, back = self.ahead(con), list[Decided](), list[str]()
            for name in dict.fromkeys([*self.scaling.pools, *limits]):
                before = [row for row in kept if row.pool == name]
                known = Known(now, Lately((), None), ahead, before, limits.get(name))
                if to_take_back(name, self.scaling, known):
                    back.append(name)
                if name in self.scaling.pools and self.scaling.mode != "observe":
                    rows.append(self._decide(con, name, known, frozen))
            if rows:
                write(con, self.home, SCALING_PLAN, [astuple(row) for row in (*kept, *rows)])
        return Taken(tuple(rows), tuple(back))

    def _decide(self, con: duckdb.DuckDBPyConnection, name: str, known: Known, frozen: Callable[[], str | None]) -> Decided:
        pool, now = self.scaling.pools[name], known.now
        until = self._known_until(pool.serves, now)
        seen = Lately((), None)
        if until is not None:
            amounts = self._amounts(pool.serves, self._since(now), now)
            seen = lately(con, amounts, pool.tenant, until, pool.window, timedelta(minutes=pool.step_minutes))
            if now - until > _STALE:
                seen = Lately((), seen.since)
        known = replace(known, lately=seen)
        row = decided(name, pool, self.scaling, self.calendar, known)
        if row.applied is not None and row.applied != known.limit and (why := frozen()):
            return decided(name, pool, self.scaling, self.calendar, replace(known, frozen=why))
        return row


def measured_until(home: Home, now: datetime) -> datetime | None:
    """Until when it is known what steps took, which is read now and then. None if it never was."""
    newest = Table(home.warehouse, STEP_TELEMETRY).open().history(1)[0]
    if not newest["version"]:
        return None
    return min(datetime.fromtimestamp(newest["timestamp"] / 1000, UTC).replace(tzinfo=None), now)


def _nothing(one: Hourly, reason: str) -> Ahead:
    return Ahead(one.tenant, one.load, None, None, None, None, None, None, None, None, "none", None, None, reason)


def spikes(con: duckdb.DuckDBPyConnection, home: Home, now: datetime) -> Sequence[Decided]:
    """The newest decision of each pool where it met a spike in the last hour; none while nothing was ever decided."""
    if not (home.warehouse / SCALING_PLAN.name / "_delta_log").exists():
        return []
    select = Table(home.warehouse, SCALING_PLAN).snapshot().select()
    rows = con.execute(
        f"select * from ({select}) where decided_at > ? and decided_at <= ? "
        "qualify row_number() over (partition by pool order by decided_at desc) = 1",
        [now - HOUR, now],
    ).fetchall()
    return [row for row in (Decided(*row) for row in rows) if row.alert]
