"""Erasure: people are taken out of everything under the data home, and a receipt says what went from where.

Who is to go stands in the ledger outside of the data home (`privacy/ledger`); a request without a receipt is to be done here,
whoever asked, whenever, and whatever happened since. All that wait are done in one pass, in three parts that each can be killed
and begun again: `remove` takes people out of what is stored; the days that wait then are rebuilt and published as always;
`finish` removes what only older versions show, sees to logs, and writes the receipts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path

import duckdb

from analytics_assets.audit.log import Audit
from analytics_assets.audit.outside import Outside
from analytics_assets.erasure.logs import mask_logs
from analytics_assets.erasure.passes import Member, Pass, Passes
from analytics_assets.erasure.stores import Stores
from analytics_assets.erasure.versions import GRACE_SECONDS, remove_versions
from analytics_assets.erasure.whom import Whom
from analytics_assets.events.days import pending_days
from analytics_assets.events.intake import INTAKE_LOCK, Intake
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import REJECTED
from analytics_assets.events.values import ANYBODY
from analytics_assets.events.withdraw import ERASED
from analytics_assets.privacy.digests import FORM
from analytics_assets.privacy.forgotten import Forgotten
from analytics_assets.privacy.ledger import Ledger, Person, Request
from analytics_assets.privacy.pseudonyms import IDENTIFIERS, Pseudonyms
from analytics_assets.privacy.receipts import Receipt, Store, keep
from analytics_assets.privacy.taxonomy import Taxonomy
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, SESSIONS, USERS
from analytics_assets.settings import Settings, UserError
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.redact import redact_file
from analytics_assets.warehouse.home import Busy, Home
from analytics_assets.warehouse.publish import current_version, history, shown_version, versions
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import Table

_LOCK = "erasure"
Progress = Callable[[str], None]


def _silent(text: str) -> None:
    pass


class NotRemoved(UserError):
    """People who are to be forgotten are still in what is stored."""


class Erasures:
    """The erasures of one data home. Part of a pipeline, of which it gets what it works on."""

    def __init__(
        self, settings: Settings, table: Callable[[TableSpec], Table], intake: Callable[[], Intake],
        pseudonyms: Callable[[], Pseudonyms], sources: Callable[[], Mapping[str, Source]],
        sweep: Callable[[duckdb.DuckDBPyConnection], object], clock: Callable[[], datetime], rebuild_lock: str,
    ) -> None:  # fmt: skip
        self._settings, self.home, self._table, self._rebuild_lock = settings, Home(settings.home), table, rebuild_lock
        self._intake, self._pseudonyms, self._sources, self._sweep, self._clock = intake, pseudonyms, sources, sweep, clock
        self._passes = Passes(self.home.privacy / "erasing")

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.home, Outside(self._settings.keys))

    @cached_property
    def forgotten(self) -> Forgotten:
        return Forgotten(self.ledger)

    def ask(self, people: Sequence[Person], by: str) -> Request:
        """Put people into the ledger, as senders name them; who is named by a pseudonym by what it stands for."""
        return self.ledger.add(self._named(people), by, self._clock())

    def _named(self, people: Sequence[Person]) -> list[Person]:
        alike = [(person.tenant, person.id) for person in people if re.fullmatch(FORM, person.id)]
        meant = self._pseudonyms().values_of(alike) if alike else {}
        return [Person(one.tenant, one.kind, meant.get((one.tenant, one.id), one.id)) for one in people]

    def waiting(self) -> list[Request]:
        """Requests whose people are still in what is stored."""
        pending = self.ledger.pending()
        begun = self._passes.begun() if pending else None
        removed = begun.requests if begun and self._passes.is_noted("removed") else ()
        return [request for request in pending if request.id not in removed]

    def confirm_removed(self) -> None:
        """Raise NotRemoved while people who are to be forgotten are still in what is stored: it must not be published."""
        if count := len(self.waiting()):
            who = "1 request for erasure still waits" if count == 1 else f"{count} requests for erasure still wait"
            raise NotRemoved(f"{who} in this data home; `analytics publish` does that first")

    # Taking out

    def remove(
        self, con: duckdb.DuckDBPyConnection, now: datetime, *, hints: Sequence[Person] = (), progress: Progress = _silent
    ) -> bool:
        """Take all who wait out of what is stored; returns whether there was somebody. `hints` are who may be among them."""
        if not self.waiting():
            return False
        with self.home.turn(INTAKE_LOCK), self.home.lock(self._rebuild_lock):
            self._intake().finish_interrupted(con)
            going = self._passes.begun() or self._begin(con, self._named(hints), progress)
            if self._passes.is_noted("removed"):
                # Others wait for the next pass, after this one is finished.
                return False
            self._stores(going).remove(con, now, progress)
            self._passes.note("removed")
            return True

    def _begin(self, con: duckdb.DuckDBPyConnection, hints: Sequence[Person], progress: Progress) -> Pass:
        progress("finding who is to be erased")
        whom = Whom(self._intake(), self._table(IDENTITIES), self._pseudonyms(), self.ledger)
        whom.stand_identities(con)
        members, unknown, pending = dict[Person, Member](), list[str](), self.ledger.pending()
        for request in pending:
            meant = whom.meant(con, request, hints)
            same = whom.same(con, [whom.stored(person) for person in meant])
            sent = whom.sent(same)
            people = [*same, *(Person(one.tenant, one.kind, sent[one]) for one in same if one in sent)]
            self.ledger.note_found(request, people)
            known = whom.known(con, same)
            named = [*known, *(Person(one.tenant, one.kind, sent[one]) for one in known if one in sent)]
            unknown += sorted(set(request.asked) - set(self.ledger.digests(request, named)))
            for one in same:
                until = max(request.at, members[one].until) if one in members else request.at
                members[one] = Member(one, sent.get(one, one.id), until)
            # Also who is in no event may be in a file or a rejected record.
            for person in meant:
                members.setdefault(whom.stored(person), Member(whom.stored(person), person.id, request.at))
        newest = max([*versions(self.home), *(entry["version"] for entry in history(self.home))], default=0)
        going = Pass(tuple(request.id for request in pending), tuple(members.values()), tuple(unknown), newest)
        self._passes.begin(going)
        return going

    def _stores(self, going: Pass) -> Stores:
        taxonomy = Taxonomy.load(self._settings.config / "taxonomy.yaml")
        tables = {spec.name: self._table(spec) for spec in (IDENTIFIERS, IDENTITIES, SESSIONS, PAGE_VIEWS, USERS, REJECTED)}
        return Stores(self._settings, going, self._passes, self._intake(), tables, self._sources(), taxonomy,
                      self.forgotten.mark)  # fmt: skip

    def take_out_of(self, con: duckdb.DuckDBPyConnection, path: Path) -> None:
        """Of a file that was loaded now: the records of people who were to be forgotten before."""
        tenant = path.parent.name
        source = self._sources()[self._settings.tenants[tenant].source]
        redact_file(con, path, source, tenant, self._clock(), self.forgotten.mark, ANYBODY)

    # Finishing

    def finish(
        self, con: duckdb.DuckDBPyConnection, *, progress: Progress = _silent, grace: float = GRACE_SECONDS
    ) -> list[Request]:
        """After a publish: end the pass whose people are out of all that is shown; returns the requests that are done."""
        going = self._passes.begun()
        if going is None or not self._passes.is_noted("removed"):
            return []
        shown = current_version(self.home)
        if shown is not None and self._is_shown(con, going, shown):
            return []
        try:
            with self.home.lock(_LOCK, wait_seconds=0):
                return self._finish(con, going, shown, progress, grace)
        except Busy:
            return []

    def _is_shown(self, con: duckdb.DuckDBPyConnection, going: Pass, version: int) -> bool:
        """Whether somebody who goes may still stand in the version."""
        if not any(one.gone or one.changed for one in self._stores_of() if not one.recomputed):
            return False
        batch = self._intake().report(con, f"{ERASED}-{going.id}")
        events = shown_version(self.home, EVENTS.name) or 0
        return (
            version <= going.version
            or bool(pending_days(con, self.home))
            or (batch is not None and events < batch.events_version)
        )

    def _finish(
        self, con: duckdb.DuckDBPyConnection, going: Pass, shown: int | None, progress: Progress, grace: float
    ) -> list[Request]:
        def version_goes(number: int) -> None:
            self._passes.note("published", str(number))

        def is_masked(name: str, count: int) -> None:
            self._passes.note("logs", name, changed=count, files=1)

        newer = shown is not None and shown > going.version
        if shown is not None and newer and remove_versions(self.home, shown, version_goes, progress, grace):
            self._passes.note("readers")
        progress("removing what nobody reads any more")
        self._sweep(con)
        with self.home.lock(self._rebuild_lock):
            for leftover in self.home.work.glob("marts.duckdb*"):
                leftover.unlink(missing_ok=True)
        progress("masking in logs")
        mask_logs(self.home.root, self._stores(going).values(), is_masked)
        done = [request for request in self.ledger.requests() if request.id in going.requests]
        for request in done:
            self._write_receipt(con, going, request, shown)
        self._record(going, done, shown)
        self._passes.end()
        return done

    def _stores_of(self) -> list[Store]:
        """What went from where, by the journal: of a commit that was not made the note does not count."""
        found: dict[str, Store] = {}
        for (store, item), said in self._passes.notes().items():
            if store in ("removed", "published", "readers") or not self._was_done(store, item):
                continue
            old = found.get(store, Store(store))
            found[store] = Store(
                store, old.gone + said.get("gone", 0), old.changed + said.get("changed", 0), old.files + said.get("files", 0),
                said.get("recomputed", False),
            )  # fmt: skip
        return list(found.values())

    def _was_done(self, store: str, item: str) -> bool:
        tables = {spec.name: spec for spec in (REJECTED, IDENTIFIERS)}
        return store not in tables or Table.has(self._table(tables[store]).open(), item)

    def _write_receipt(self, con: duckdb.DuckDBPyConnection, going: Pass, request: Request, shown: int | None) -> None:
        notes = self._passes.notes()
        unknown = tuple(digest for digest in request.asked if digest in going.unknown)
        receipt = Receipt(
            erasure=request.id, requested_at=request.at, requested_by=request.by, done_at=self._clock(),
            people=len(request.asked), found=len(request.asked) - len(unknown),
            identifiers=len({member.sent for member in going.members}), subjects=request.asked, unknown=unknown,
            stores=tuple(self._stores_of()), days_rebuilt=notes.get(("events", ""), {}).get("days", 0),
            published_version=shown, versions_removed=tuple(sorted(int(n) for store, n in notes if store == "published")),
            readers_left_waiting=("readers", "") in notes,
            together_with=tuple(other for other in going.requests if other != request.id),
        )  # fmt: skip
        key = Outside(self._settings.keys).key(request.key)
        assert key is not None
        keep(self.ledger.receipt_path(request.id), receipt, key)

    def _record(self, going: Pass, done: Sequence[Request], shown: int | None) -> None:
        subjects = [(member.stored.tenant, member.sent) for member in going.members]
        Audit(self._settings).record(
            "erase", tables=[store.store for store in self._stores_of() if store.gone or store.changed], subjects=subjects,
            details={"receipts": [request.id for request in done], "version": shown or 0},
        )  # fmt: skip
