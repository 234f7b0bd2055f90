"""Freshness over a data home: the evidence is read from batches, landing files and the published version, then judged."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.freshness.due import Due, due, tables_due
from analytics_assets.freshness.judge import WORST_FIRST, Evidence, Receipt, State, Status, Unusable, judge
from analytics_assets.freshness.tables import FRESHNESS_ACTIONS, FRESHNESS_STATUS
from analytics_assets.freshness.tiers import Promises
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import Fact, held, shown_version
from analytics_assets.warehouse.table import Table, replace_all

ACTIONS_LOCK = "freshness_actions"
_KEPT_ACTIONS = 1000
# Automation looks every few seconds; what it has not started after this long is overdue.
OVERDUE_AFTER = timedelta(minutes=2)
# So long a delivery that could not be used is told of, unless it was mended; then `batches` alone knows it.
_UNUSABLE_FOR = timedelta(days=7)


@dataclass(frozen=True)
class Look:
    """What one look found: how fresh every tenant's tables are, and the tiers whose work is due, strictest first.

    `overdue` are those whose work was due OVERDUE_AFTER ago, `tables` the tables for which work is due, `unusable` what came
    of which tenant and could not be used.
    """

    statuses: tuple[Status, ...]
    due: tuple[Due, ...]
    overdue: tuple[Due, ...] = ()
    tables: frozenset[str] = frozenset()
    unusable: Mapping[str, Unusable] = field(default_factory=dict)
    unjudged: tuple[date, ...] = ()

    def counts(self, tier: str) -> dict[State, int]:
        """Tenants' tables of a tier by state, the worst first."""
        states = [status.state for status in self.statuses if status.tier == tier]
        return {state: states.count(state) for state in WORST_FIRST if state in states}

    @property
    def worst_of_tenants(self) -> dict[str, Status]:
        """Of each tenant the status that a person should see first."""
        # Of several with the same key the last one stays.
        worst_last = sorted(self.statuses, key=lambda status: WORST_FIRST.index(status.state), reverse=True)
        return {status.tenant_id: status for status in worst_last}


@dataclass(frozen=True)
class Watch:
    """Looks after the promises of one data home. `landed` gives (tenant, since when) of each file in a landing folder.

    `unjudged` gives the days that wait for a verdict, of which those that are over are a reason to work.
    """

    home: Home
    promises: Promises
    tenants: tuple[str, ...]
    landed: Callable[[datetime], Iterable[tuple[str, datetime]]]
    unjudged: Callable[[duckdb.DuckDBPyConnection, datetime], Iterable[date]] = lambda con, now: ()

    def look(self, con: duckdb.DuckDBPyConnection, now: datetime) -> Look:
        """How it stands for those who read now."""
        over = tuple(day for day in self.unjudged(con, now) if day < now.date())
        evidence = replace(self._evidence(con, shown_version(self.home, EVENTS.name), held(self.home), now), unjudged=over)
        return Look(
            tuple(judge(self.promises, self.tenants, evidence, now)),
            tuple(due(self.promises, evidence, now)),
            tuple(due(self.promises, evidence, now, OVERDUE_AFTER)),
            tables_due(self.promises, evidence, now),
            evidence.unusable,
            over,
        )

    def fact(self, con: duckdb.DuckDBPyConnection, events_version: int, now: datetime) -> Fact:
        """`freshness_status` as it is once `events_version` is published."""
        found = judge(self.promises, self.tenants, self._evidence(con, events_version, None, now), now)
        return Fact(FRESHNESS_STATUS, [tuple(vars(status).values()) for status in found])

    def _evidence(self, con: duckdb.DuckDBPyConnection, shown: int | None, held_since: str | None, now: datetime) -> Evidence:
        """The evidence where readers see the events of version `shown` (None: nothing yet).

        Only deliveries with new events are receipts. One that was loaded before its tenants were noted counts for all. Late is
        one whose newest day lies too far behind the newest that the tenant had sent in deliveries before it.
        """
        # A file may be taken while we look: it is looked for before the batches are, so that it counts at least once.
        files = [Receipt(tenant, since, loaded=False) for tenant, since in self.landed(now)]
        batches = Table(self.home.warehouse, BATCHES).snapshot().select()
        rows = con.execute(
            "with parts as (select coalesce(least(landed_at, received_at), received_at) as since, events_version, "
            "list_max(days) as day, unnest(coalesce(json_keys(events_by_tenant), "
            "case when tenant is not null then [tenant] end, "
            f"$tenants::varchar[])) as name from ({batches}) where events > 0), "
            "judged as (select *, coalesce(day + $late_after::int < max(day) over (partition by name order by events_version "
            "rows between unbounded preceding and 1 preceding), false) as late from parts) select name, max(since), "
            "list((since, late) order by events_version) filter (where events_version > $shown) "
            "from judged group by name order by 1",
            {
                "tenants": list(self.tenants),
                "shown": -1 if shown is None else shown,
                "late_after": self.promises.late_after_days,
            },
        ).fetchall()
        loaded = [Receipt(name, since, late=late) for name, _, unseen in rows for since, late in unseen or ()]
        return Evidence((*files, *loaded), {name: newest for name, newest, _ in rows}, held_since,
                        self._unusable(con, batches, now))  # fmt: skip

    def _unusable(self, con: duckdb.DuckDBPyConnection, batches: str, now: datetime) -> dict[str, Unusable]:
        """Landed files that could not be read, or of which every record was rejected, as long as nothing mended them.

        A file is mended once it, or another of its name, brings something, or its rejected records are replayed or set aside.
        """
        rows = con.execute(
            f"with found as (select * from ({batches}) where tenant is not null), "
            "bad as (select * from found where received_at > $begin and (status = 'set_aside' or (status = 'loaded' "
            "and received > 0 and rejected = received))) select tenant, received_at, file, batch_id, "
            "coalesce(reason, 'every record was rejected (' || rejected_by_reason || ')'), status from bad where not exists "
            "(from found later where later.tenant = bad.tenant and later.received_at >= bad.received_at "
            "and (later.batch_id = bad.batch_id or later.file = bad.file) and later.events + later.duplicates > 0) "
            "order by received_at, file",
            {"begin": now - _UNUSABLE_FOR},
        ).fetchall()
        if any(status == "loaded" for *_, status in rows):
            kept = f"select distinct batch_id from ({Table(self.home.warehouse, REJECTED).snapshot().select()})"
            wait = {batch_id for (batch_id,) in con.execute(kept).fetchall()}
            rows = [row for row in rows if row[5] == "set_aside" or row[3] in wait]
        deliveries: dict[str, list[tuple[datetime, str, str]]] = {}
        for tenant, since, file, _, reason, _ in rows:
            deliveries.setdefault(tenant, []).append((since, file, reason))
        return {tenant: Unusable(mine[0][0], len(mine), *mine[0][1:]) for tenant, mine in deliveries.items()}

    def note(self, con: duckdb.DuckDBPyConnection, started: Due, action: str, now: datetime) -> None:
        """Keep in `freshness_actions` what was started and why; the oldest notes leave."""
        with self.home.lock(ACTIONS_LOCK):
            table = Table(self.home.warehouse, FRESHNESS_ACTIONS)
            row = [now, started.tier, action, started.since, started.reason]
            casts = ", ".join(f"?::{column.type} as {column.name}" for column in FRESHNESS_ACTIONS.columns)
            con.execute(f"create or replace temp table just_started as select {casts}", row)
            both = f"from just_started union all from ({table.snapshot().select()})"
            replace_all(table, con, f"select * from ({both}) order by started_at desc limit {_KEPT_ACTIONS}")
            con.execute("drop table just_started")

    def actions(self, con: duckdb.DuckDBPyConnection, most: int = 1) -> list[dict[str, Any]]:
        """The newest starts of work, newest first."""
        select = Table(self.home.warehouse, FRESHNESS_ACTIONS).snapshot().select()
        rows = con.execute(f"select * from ({select}) order by started_at desc limit {most}").fetchall()
        return [dict(zip(FRESHNESS_ACTIONS.column_names, row, strict=True)) for row in rows]
