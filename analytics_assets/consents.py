"""Brings events, and who is behind them, to `privacy/`: what people said of consent, and what readers do not see for that.

Statements are kept from rebuild to rebuild, as identities are. Where one moves somebody in or out, all days of that person's
events are rebuilt in the same turn; where none does, nothing of the past is read.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

import duckdb

from analytics_assets.events.days import BUILT_DAYS, unsettle
from analytics_assets.events.schema import EVENTS
from analytics_assets.privacy.consent import (
    CONSENT_STATEMENTS,
    FILE,
    Consent,
    first_that_speaks,
    latest,
    load_consent,
    outlived,
    statements,
)
from analytics_assets.privacy.taxonomy import Taxonomy
from analytics_assets.privacy.withheld import (
    CONSENT_EXCEPTIONS,
    CONSENT_STATUS,
    WITHHELD_EVENTS,
    exceptions,
    leaks,
    shown,
    shown_of,
    status,
    sums_differ,
    touched,
    withheld,
)
from analytics_assets.sessions.build import days_without, resolved_identities, stitched, window
from analytics_assets.sessions.tables import IDENTITIES
from analytics_assets.settings import Settings
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import Check, Fact
from analytics_assets.warehouse.spec import TableSpec, literal
from analytics_assets.warehouse.table import Snapshot, Table, replace_all

# What a rebuild keeps, and the temp table that it is kept from; the last one bears the note by which all three count.
_KEPT = {CONSENT_EXCEPTIONS: "new_exceptions", CONSENT_STATUS: "new_status", CONSENT_STATEMENTS: "new_statements"}
# Beside what readers get, the tables that are kept for it.
KEPT = (CONSENT_STATEMENTS, CONSENT_EXCEPTIONS)
_NOBODY = (
    "select null::varchar as tenant_id, null::varchar as id, null::varchar as as_user, null::varchar as as_device where false"
)
# Who is behind the rows of the published tables.
_PEOPLE = {
    "sessions": "select tenant_id, person_id from sessions",
    "users": "select tenant_id, person_id from users",
    "page_views": "select tenant_id, coalesce(user_id, 'device:' || anonymous_id, 'session:' || session_id) as person_id "
    "from page_views",
}
_COUNTED = "select tenant_id, timestamp::date as date, count(*) as value from events group by all"
# Sums of the published tables, and the same counted anew from the rows that readers see.
_SUMS = {
    "events_daily": ("select tenant_id, date, sum(events) as value from events_daily group by all", _COUNTED),
    "events_hourly": ("select tenant_id, date, sum(events) as value from events_hourly group by all", _COUNTED),
    "revenue_daily": (
        "select tenant_id, date, sum(revenue) as value from revenue_daily group by all",
        "select tenant_id, timestamp::date as date, sum(revenue) as value from events group by all",
    ),
    "users": (
        "select tenant_id, null as date, sum(events) as value from users group by all",
        "select tenant_id, null as date, sum(events) as value from sessions where person_id is not null group by all",
    ),
    "cohort_retention_weekly": (
        "select tenant_id, null as date, sum(cohort_users) as value from cohort_retention_weekly where weeks_since = 0 "
        "group by all",
        "select tenant_id, null as date, count(distinct user_id) as value from sessions group by all",
    ),
}


@dataclass(frozen=True)
class _Rules:
    """The purposes that events need, the tenants in which nobody is in unasked, and a digest of all that is declared."""

    ruling: tuple[str, ...]
    opt_in: tuple[str, ...]
    digest: str


class Consents:
    """What the people of one data home consent to. What is declared is read anew: a person changes it while a process waits."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._home = home

    @property
    def declared(self) -> Consent:
        """What `consent.yaml` says. Raises ConfigError."""
        sources = [path.stem for path in (self._settings.config / "sources").glob("*.yaml")]
        return load_consent(self._settings.config / FILE, self._settings.tenants, sources)

    def pending(self, con: duckdb.DuckDBPyConnection, days: list[date]) -> list[date]:
        """The days that wait; where none does after a change of what is declared, the newest, with which all are moved."""
        if days or self._noted() == self._rules(self.declared).digest:
            return days
        built = self._table(BUILT_DAYS).snapshot().select()
        return [day for (day,) in con.execute(f"select max(date) from ({built})").fetchall() if day is not None]

    def learn(
        self, con: duckdb.DuckDBPyConnection, asked: str, events: Snapshot, days: Sequence[date], anew: bool
    ) -> list[date]:
        """Make temp tables of what holds after the events `asked` (a SELECT); returns `days`, and all that read otherwise now.

        Who is who stands in `new_identities`. `anew`: what was known is not to be told from what events said that are gone.
        """
        declared = self.declared
        rules = self._rules(declared)
        con.execute(f"create or replace temp table learned_by as select {literal(rules.digest)} as digest")
        known = self._table(CONSENT_STATEMENTS).snapshot().select()
        if anew or self._noted() != rules.digest:
            asked, known = events.select(), outlived(known, events.select())
        if _count(con, f"({first_that_speaks(declared, asked)})"):
            known = latest(f"{statements(declared, asked)} union all {known}")
        con.execute(f"create or replace temp table new_statements as {known}")
        # To resolve identities reads all of them.
        who = resolved_identities("select * from new_identities") if _count(con, "new_statements") else _NOBODY
        con.execute(f"create or replace temp table resolved_ids as {who}")
        resolved = "select * from resolved_ids"
        con.execute(f"create or replace temp table new_status as {status('select * from new_statements', resolved)}")
        excepted = exceptions("select * from new_status", resolved, rules.ruling, rules.opt_in)
        con.execute(f"create or replace temp table new_exceptions as {excepted}; drop table resolved_ids")
        moved = self._moved_days(con, events)
        if moved:
            # Before anything is replaced: whatever a kill leaves half rebuilt is not published.
            unsettle(con, self._home, moved)
        return sorted({*days, *moved})

    def shown(self, con: duckdb.DuckDBPyConnection, events: str) -> str:
        """The events of a SELECT that readers may see, by what was just learned."""
        return shown(events, "select * from new_exceptions") if _count(con, "new_exceptions") else events

    def shown_events(self, events: str) -> str:
        """The same, by what was kept."""
        return shown_of(events, self._table(CONSENT_EXCEPTIONS).snapshot())

    def keep(self, con: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Commit what was learned, where it is new; returns the rows of `consent_status` by its name."""
        digest = con.execute("select digest from learned_by").fetchall()[0][0]
        for spec, relation in _KEPT.items():
            table = self._table(spec)
            changed = _differs(con, relation, table.snapshot())
            if changed or (spec is CONSENT_STATEMENTS and self._noted() != digest):
                replace_all(table, con, f"select * from {relation}", {"declared": digest})
        rows = _count(con, "new_status")
        con.execute("; ".join(f"drop table {relation}" for relation in (*_KEPT.values(), "learned_by")))
        return {CONSENT_STATUS.name: rows}

    def fact(self, con: duckdb.DuckDBPyConnection, events_version: int) -> Fact:
        """`withheld_events` of a version of events."""
        excepted, events = self._table(CONSENT_EXCEPTIONS).snapshot(), self._table(EVENTS).snapshot(events_version)
        if not excepted.rows:
            return Fact(WITHHELD_EVENTS, [])
        counted = f"select tenant_id, count(*) from ({withheld(events.select(), excepted.select())}) group by 1 order by 1"
        return Fact(WITHHELD_EVENTS, con.execute(counted).fetchall())

    def checks(self) -> tuple[Check, ...]:
        """What must find no row in a version that is staged: people whose consent is missing, in rows and in sums."""
        excepted = self._table(CONSENT_EXCEPTIONS).snapshot()
        rules = self._rules(self.declared)
        if not rules.ruling or not (excepted.rows or self._table(CONSENT_STATUS).snapshot().rows):
            return ()
        identities = resolved_identities(self._table(IDENTITIES).snapshot().select())
        people = {"events": stitched("select * from events", identities, ("tenant_id", "person_id")), **_PEOPLE}
        found = leaks(people, "select * from consent_status", excepted.select(), rules.ruling)
        return (
            ("consent_leaks (table, people without consent in it)", found),
            ("consent_leaks (table, tenant, day, its sum, the sum of what is shown)", sums_differ(_SUMS, excepted.select())),
        )

    def _moved_days(self, con: duckdb.DuckDBPyConnection, events: Snapshot) -> list[date]:
        """Days of the events that come or go, and of those that may change their session with them."""
        stored = self._table(CONSENT_EXCEPTIONS).snapshot()
        if not _differs(con, "new_exceptions", stored):
            return []
        old = stored.select()
        con.execute(
            "create or replace temp table moved_ids as "
            f"(from new_exceptions except from ({old})) union all (from ({old}) except from new_exceptions)"
        )
        con.execute(
            "create or replace temp table moved_events as select tenant_id, message_id, timestamp::date as date "
            f"from ({touched(events.select(), 'select * from moved_ids')})"
        )
        days = [day for (day,) in con.execute("select distinct date from moved_events order by 1").fetchall()]
        if days:
            rules = self._settings.limits.sessions
            near = events.select(events.between(*window(days, rules)))
            days = days_without(con, near, f"({near}) semi join moved_events using (tenant_id, message_id)", days, rules)
        con.execute("drop table moved_ids; drop table moved_events")
        return days

    def _table(self, spec: TableSpec) -> Table:
        return Table(self._home.warehouse, spec)

    def _noted(self) -> str | None:
        """What was declared when the statements were last learned."""
        log = self._table(CONSENT_STATEMENTS).open().history(20)
        return next((entry["declared"] for entry in log if "declared" in entry), None)

    def _rules(self, declared: Consent) -> "_Rules":
        path = self._settings.config / "taxonomy.yaml"
        ruling = declared.ruling(_purpose_of_events(path, path.stat().st_mtime_ns))
        opt_in = declared.opt_in(self._settings.tenants) if ruling else ()
        return _Rules(ruling, opt_in, str(zlib.crc32(repr((declared, ruling, opt_in)).encode())))


def _differs(con: duckdb.DuckDBPyConnection, relation: str, stored: Snapshot) -> bool:
    """Whether a temp table has other rows than are stored; in neither is one twice."""
    rows = _count(con, relation)
    return rows != stored.rows or (rows > 0 and _count(con, f"(from {relation} except from ({stored.select()}))") > 0)


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    rows: int = con.execute(f"select count(*) from {relation}").fetchall()[0][0]
    return rows


@lru_cache(maxsize=4)
def _purpose_of_events(path: Path, changed_ns: int) -> str:
    """What events are kept for, and so all that is computed from them. Remembered, since the file takes long to read."""
    taxonomy: Taxonomy = Taxonomy.load(path)
    events = taxonomy.tables.get(EVENTS.name)
    return (events.purpose if events else None) or taxonomy.defaults.purpose
