"""Service levels over a data home: evidence is read from what is committed, probes are asked, run ends are noted."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime, timedelta

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES
from analytics_assets.freshness.tiers import Promises
from analytics_assets.settings import Settings, UserError
from analytics_assets.slo.broken import Arrival, Delivery, Probe, RunEnd, failing, publishes, turns
from analytics_assets.slo.budget import Budget, Evidence, Measured, definitions, measure, worst_first
from analytics_assets.slo.declared import Objectives, load_objectives
from analytics_assets.slo.release import BUDGET, GateChange, settled
from analytics_assets.slo.spans import Span
from analytics_assets.slo.tables import (
    QUERY_PROBES,
    RELEASE_GATE,
    RUN_TURNS,
    SLO_DEFINITIONS,
    SLO_ERROR_BUDGET,
    SLO_MEASUREMENTS,
    WATCH_LOCK,
)
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import Fact, current_version, publications, version_path
from analytics_assets.warehouse.records import read, write
from analytics_assets.warehouse.table import Table


class ReleasesFrozen(UserError):
    """The release gate is frozen: nothing is promoted. Data are published all the same."""


@dataclass(frozen=True)
class Levels:
    """What one look found: what was measured, and the budgets, the worst first."""

    measured: tuple[Measured, ...]
    budgets: tuple[Budget, ...]


@dataclass(frozen=True)
class ServiceLevels:
    """Looks after the service levels of one data home. `landed` gives (tenant, since when) of each file that waits."""

    home: Home
    objectives: Objectives
    promises: Promises
    tenants: tuple[str, ...]
    landed: Callable[[datetime], Iterable[tuple[str, datetime]]]

    @classmethod
    def declared(
        cls, settings: Settings, promises: Promises, landed: Callable[[datetime], Iterable[tuple[str, datetime]]]
    ) -> "ServiceLevels":
        """As `slos.yaml` declares them. Raises ConfigError."""
        tenants = tuple(settings.tenants)
        objectives = load_objectives(settings.config / "slos.yaml", tenants)
        return cls(Home(settings.home), objectives, promises, tenants, landed)

    def look(self, con: duckdb.DuckDBPyConnection, now: datetime, shown: tuple[int, int] | None = None) -> Levels:
        """How it stands at `now`; `shown` is a (version, version of events) that is published just now."""
        evidence = self.evidence(con, now)
        if shown is not None:
            evidence = replace(evidence, publications=[*evidence.publications, (now, *shown)])
        measured = measure(self.objectives, self.promises, self.tenants, evidence, now)
        budgets = worst_first(one.budget(self.objectives.thresholds) for one in measured)
        return Levels(tuple(measured), tuple(budgets))

    def facts(self, con: duckdb.DuckDBPyConnection, events_version: int, now: datetime) -> list[Fact]:
        """What a version tells of the service levels, as they are once `events_version` is published."""
        # Above every version that there was: this one is new.
        levels = self.look(con, now, (2**62, events_version))
        days = [astuple(day) for one in levels.measured for day in one.days()]
        return [
            Fact(SLO_DEFINITIONS, definitions(self.objectives)),
            Fact(SLO_MEASUREMENTS, days),
            Fact(SLO_ERROR_BUDGET, [astuple(budget) for budget in levels.budgets]),
            Fact(RELEASE_GATE, [astuple(change) for change in self.gate(con)]),
        ]

    def evidence(self, con: duckdb.DuckDBPyConnection, now: datetime) -> Evidence:
        # A file may be taken while we look: it is looked for before the batches are, so that it counts at least once.
        files = list(self.landed(now))
        begin = now - self.objectives.window
        shown = self._published(now)
        # What readers had throughout the window was broken by nothing in it.
        before = [version for moment, _, version in shown if moment <= begin]
        always = min([before[-1] if before else -1, *(version for moment, _, version in shown if moment > begin)])
        batches = Table(self.home.warehouse, BATCHES).snapshot().select()
        con.execute(
            "create or replace temp table receipts as with parts as ("
            "select coalesce(least(landed_at, received_at), received_at) as since, events_version, list_max(days) as day, "
            "unnest(coalesce(json_keys(events_by_tenant), case when tenant is not null then [tenant] end, "
            f"$tenants::varchar[])) as name from ({batches}) where events > 0) select name, since, events_version, "
            # Late as `freshness` judges it: what has the loosest promise there must not spend the strictest one here.
            "coalesce(day + $late_after::int < max(day) over (partition by name order by events_version "
            "rows between unbounded preceding and 1 preceding), false) as late from parts",
            {"tenants": list(self.tenants), "late_after": self.promises.late_after_days},
        )
        first = dict(con.execute("select name, min(since) from receipts group by name").fetchall())
        unseen = con.execute(
            "select name, since, events_version, late from receipts where events_version > ?", [always]
        ).fetchall()
        loaded = con.execute(
            "select tenant, landed_at, received_at + to_microseconds((seconds * 1e6)::bigint) "
            f"from ({batches}) where landed_at is not null and tenant is not null and received_at >= ?",
            [begin],
        ).fetchall()
        con.execute("drop table receipts")
        for tenant, since in [*files, *((tenant, since) for tenant, since, _ in loaded)]:
            first[tenant] = min(first.get(tenant, since), since)
        return Evidence(
            first,
            [*(Delivery(*row) for row in unseen), *(Delivery(tenant, since) for tenant, since in files)],
            [*(Arrival(*row) for row in loaded), *(Arrival(tenant, since) for tenant, since in files)],
            shown,
            self._probes(con),
            self._runs(con),
        )

    def _published(self, now: datetime) -> list[tuple[datetime, int, int]]:
        """(from when on, version, version of events) of each publish and rollback, oldest first."""
        found, next_at = [], now
        for one in reversed(publications(self.home)):
            # What came before was before: a time that says otherwise is of a clock that went back since.
            next_at = min(one.published_at, next_at)
            found.append((next_at, one.version, one.table_versions[EVENTS.name]))
        return found[::-1]

    # Runs

    def _runs(self, con: duckdb.DuckDBPyConnection) -> list[RunEnd]:
        return [RunEnd(*row) for row in read(con, self.home, RUN_TURNS)]

    def note_runs(self, con: duckdb.DuckDBPyConnection, ended: Sequence[RunEnd], now: datetime) -> None:
        """Keep the ends of runs that change anything. Noting one again changes nothing."""
        with self.home.lock(WATCH_LOCK):
            known = self._runs(con)
            listed = {run.run_id for run in known}
            found = turns([*known, *(run for run in ended if run.run_id not in listed)])
            # What failed before the window and was not mended since is still failing.
            failing_now = self._failing(found, now)
            kept = [run for run in found if run.ended_at > now - self.objectives.window or run.job in failing_now]
            if kept != known:
                write(con, self.home, RUN_TURNS, [astuple(run) for run in kept])

    def _failing(self, runs: Sequence[RunEnd], now: datetime) -> dict[str, Span]:
        """The jobs whose work is held up now, since when."""
        new = publishes([(moment, version) for moment, version, _ in self._published(now)])
        spans = failing(runs, new, now + timedelta(microseconds=1))
        return {job: found[-1] for job, found in spans.items() if found[-1][1] > now}

    def failures(self, con: duckdb.DuckDBPyConnection, now: datetime) -> list[RunEnd]:
        """The runs that failed and hold up work now, oldest first: of each job one for each reason."""
        runs = self._runs(con)
        going = self._failing(runs, now)
        return [run for run in runs if run.failed and run.job in going and run.ended_at >= going[run.job][0]]

    # Probes

    def _probes(self, con: duckdb.DuckDBPyConnection) -> list[Probe]:
        return [Probe(name, at, seconds) for name, at, _, seconds, _ in read(con, self.home, QUERY_PROBES)]

    def probe(self, con: duckdb.DuckDBPyConnection, now: datetime, clock: Callable[[], float] = time.perf_counter) -> list[str]:
        """Ask the published file the declared queries, if it is time; returns a line for each that is too slow or fails.

        It is time when the version is new, when the last answers are old, and while one of them was too slow.
        """
        version = current_version(self.home)
        if version is None:
            return []
        with self.home.lock(WATCH_LOCK):
            rows = read(con, self.home, QUERY_PROBES)
            if not self._is_time([row for row in rows if row[0] in self.objectives.probes.queries], version, now):
                return []
            fresh = [self._ask(name, query, version, now, clock) for name, query in self.objectives.probes.queries.items()]
            # The last answer before the window tells how the window began.
            begin = now - self.objectives.window
            kept = [row for n, row in enumerate(rows) if row[1] > begin or not any(r[0] == row[0] for r in rows[n + 1 :])]
            write(con, self.home, QUERY_PROBES, [*kept, *fresh])
        return [f"{row[0]}: {self._said(row[3], row[4])}" for row in fresh if self._is_slow(row[3])]

    def slow_now(self, con: duckdb.DuckDBPyConnection) -> list[str]:
        """A line for each probe whose last answer was too slow, or none."""
        last = {row[0]: row for row in read(con, self.home, QUERY_PROBES) if row[0] in self.objectives.probes.queries}
        return [f"{name}: {self._said(row[3], row[4])}" for name, row in last.items() if self._is_slow(row[3])]

    def _is_time(self, rows: Sequence[tuple[object, ...]], version: int, now: datetime) -> bool:
        last = {str(row[0]): row for row in rows}
        if self.objectives.probes.queries.keys() != last.keys():
            return True
        pause = timedelta(minutes=self.objectives.probes.every_minutes)
        old = any(not timedelta(0) <= now - row[1] < pause for row in last.values() if isinstance(row[1], datetime))
        return old or any(row[2] != version or self._is_slow(row[3]) for row in last.values())

    def _is_slow(self, seconds: object) -> bool:
        strictest = min(objective.limit for objective in self.objectives.slo("query_latency").tiers.values())
        return not isinstance(seconds, float) or seconds > strictest

    @staticmethod
    def _said(seconds: float | None, reason: str | None) -> str:
        return f"{seconds:.2f} s" if seconds is not None else f"failed: {reason}"

    def _ask(
        self, name: str, query: str, version: int, now: datetime, clock: Callable[[], float]
    ) -> tuple[str, datetime, int, float | None, str | None]:
        begun = clock()
        try:
            # As a reader does: a connection of its own, from opening the file to the last row.
            with duckdb.connect(str(version_path(self.home, version)), read_only=True) as con:
                con.execute(query).fetchall()
        except duckdb.Error as error:
            return name, now, version, None, str(error).splitlines()[0]
        return name, now, version, clock() - begun, None

    # The release gate

    def gate(self, con: duckdb.DuckDBPyConnection) -> list[GateChange]:
        """Every change of the release gate, oldest first; the last one stands."""
        return [GateChange(*row) for row in read(con, self.home, RELEASE_GATE)]

    def turn_gate(self, con: duckdb.DuckDBPyConnection, state: str, reason: str, by: str, now: datetime) -> GateChange:
        """Freeze or open the release gate by hand. Raises UserError if it stands so already.

        A person's freeze takes over that of a budget, which would open by itself.
        """
        if state == "open":
            # What the budgets ask for comes first: a freeze that nobody noted yet must be there to be released.
            self.settle_gate(con, self.look(con, now), now)
        with self.home.lock(WATCH_LOCK):
            changes = self.gate(con)
            present = changes[-1] if changes else None
            takes_over = state == "frozen" and present is not None and present.by == BUDGET
            if (present.state if present else "open") == state and not takes_over:
                raise UserError(f"the release gate is {state} already; nothing was changed")
            return self._keep(con, changes, GateChange(state, now, None, reason, by))

    def settle_gate(self, con: duckdb.DuckDBPyConnection, levels: Levels, now: datetime) -> GateChange | None:
        """Freeze or open the release gate as the budgets ask for; returns the change, if there was one."""
        with self.home.lock(WATCH_LOCK):
            changes = self.gate(con)
            change = settled(changes, self._frozen_by(levels, changes, now), now)
            return self._keep(con, changes, change) if change else None

    def _frozen_by(self, levels: Levels, changes: Sequence[GateChange], now: datetime) -> list[str]:
        """What the budgets freeze for. A release by hand starts them anew: only minutes after it count."""
        released = max((change.since for change in changes if change.state == "open" and change.by != BUDGET), default=None)
        found = []
        for one in levels.measured:
            level, why = one.level(self.objectives.thresholds, now, released)
            if level == "freeze":
                found.append(f"{one.slo} of {one.tenant or 'all tenants of the tier ' + one.tier}: {why}")
        return found

    def _keep(self, con: duckdb.DuckDBPyConnection, changes: Sequence[GateChange], change: GateChange) -> GateChange:
        closed = [replace(old, until=change.since) if old.until is None else old for old in changes]
        write(con, self.home, RELEASE_GATE, [astuple(row) for row in (*closed, change)])
        return change

    def standing(self, con: duckdb.DuckDBPyConnection, levels: Levels, now: datetime) -> GateChange | None:
        """The change that stands at `now`, also where it is not noted yet: nobody notes while the daemon is down."""
        changes = self.gate(con)
        return settled(changes, self._frozen_by(levels, changes, now), now) or (changes[-1] if changes else None)

    def confirm_open(self, con: duckdb.DuckDBPyConnection, now: datetime) -> None:
        """What every promotion and rollout calls before it begins. Raises ReleasesFrozen with the reason."""
        change = self.standing(con, self.look(con, now), now)
        if change and change.state == "frozen":
            raise ReleasesFrozen(change.said)

    def held(self, con: duckdb.DuckDBPyConnection, now: datetime) -> str | None:
        """Why nothing may be changed now, for who goes on without changing it; also where that cannot be found out."""
        try:
            self.confirm_open(con, now)
        except UserError as reason:
            return str(reason)
        return None
