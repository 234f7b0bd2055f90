"""Erasure: people are taken out of everything under the data home, and a receipt says what went from where.

Who is to go stands in the ledger outside of the data home (`privacy/ledger`); a request without a receipt is to be done here,
whoever asked, whenever, and whatever happened since. All that wait are done in one pass, in three parts that each can be killed
and begun again: `remove` takes people out of what is stored; the days that wait then are rebuilt and published as always;
`finish` removes what only older versions show, sees to logs, and writes the receipts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import duckdb

from analytics_assets.audit.log import Audit
from analytics_assets.audit.outside import Outside
from analytics_assets.erasure.forgotten import Forgotten
from analytics_assets.erasure.logs import mask_logs
from analytics_assets.erasure.naming import Paths, paths_of
from analytics_assets.erasure.passes import REMOVED, Member, Pass, Passes
from analytics_assets.erasure.stores import Stores
from analytics_assets.erasure.versions import GRACE_SECONDS, remove_versions
from analytics_assets.erasure.whom import Whom
from analytics_assets.events.days import pending_days
from analytics_assets.events.intake import INTAKE_LOCK, BatchReport, Intake
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import REJECTED
from analytics_assets.events.withdraw import ERASED
from analytics_assets.privacy.digests import FORM
from analytics_assets.privacy.ledger import Ledger, Person, Request
from analytics_assets.privacy.pseudonyms import IDENTIFIERS, Pseudonyms
from analytics_assets.privacy.receipts import Receipt, Store, keep
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, SESSIONS, USERS
from analytics_assets.settings import Settings, UserError
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.redact import Redacted, redact_file, redact_unread
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

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.home, Outside(self._settings.keys))

    @property
    def _begun(self) -> list[Passes]:
        return Passes.begun(self.home.privacy / "erasing")

    @cached_property
    def forgotten(self) -> Forgotten:
        return Forgotten(self.ledger, self._paths, self._settings.tenants)

    def _paths(self) -> Paths:
        return paths_of(self._pseudonyms().taxonomy(), self._sources())

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
        removed = {request for begun in self._begun if begun.is_removed for request in begun.going.requests} if pending else ()
        return [request for request in pending if request.id not in removed]

    def confirm_removed(self) -> None:
        """Raise NotRemoved while people who are to be forgotten are still in what is stored: it must not be published."""
        known = {request.id for request in self.ledger.requests()}
        receipts = self.ledger.receipt_path("any").parent
        if lost := [path for path in receipts.glob("*.json") if path.stem not in known]:
            what = "1 erasure has a receipt" if len(lost) == 1 else f"{len(lost)} erasures have receipts"
            raise NotRemoved(
                f"{what} in {receipts} but no entry in {self.ledger.path}, which is older or was lost: who was erased would "
                "come back; put the newer ledger back, or where there is none, take those receipts away"
            )
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
            half = next((begun for begun in self._begun if not begun.is_removed), None)
            if half is not None:
                self._remove(con, half, now, progress)
            # Others may have done what waited, and may have asked for more since that pass began.
            if waiting := self.waiting():
                self._remove(con, self._begin(con, waiting, self._named(hints), progress), now, progress)
            return half is not None or bool(waiting)

    def _remove(self, con: duckdb.DuckDBPyConnection, begun: Passes, now: datetime, progress: Progress) -> None:
        if not self._intake().has(f"{ERASED}-{begun.going.id}"):
            self._name_anew(begun)
        self._stores(begun).remove(con, now, progress)
        begun.note(REMOVED)

    def _name_anew(self, begun: Passes) -> None:
        """People as events name them now: since the pass began, a rotation may have given them other pseudonyms."""
        whom, before = self._whom, begun.going.members
        # What a pseudonym stands for that no sender gave is not known: it stays as it is.
        now = tuple(one if re.fullmatch(FORM, one.sent) else replace(one, stored=whom.stored(one.as_sent)) for one in before)
        if now != before:
            begun.keep(replace(begun.going, members=now))

    @property
    def _whom(self) -> Whom:
        return Whom(self._intake(), self._table(IDENTITIES), self._pseudonyms(), self.ledger, self._sources())

    def _begin(
        self, con: duckdb.DuckDBPyConnection, waiting: Sequence[Request], hints: Sequence[Person], progress: Progress
    ) -> Passes:
        progress("finding who is to be erased")
        whom = self._whom
        whom.stand_identities(con)
        members, unknown = dict[Person, Member](), list[str]()
        for request in waiting:
            meant = {whom.stored(person): person.id for person in whom.meant(con, request, hints)}
            same = whom.same(con, list(meant))
            # Of whom only rejected records came no sender's name is in the raw store.
            sent = meant | whom.sent(same)
            older = whom.older({one: sent[one] for one in same if one in sent})
            people = [*same, *(Person(one.tenant, one.kind, sent[one]) for one in same if one in sent), *older]
            self.ledger.note_found(request, people)
            known = whom.known(con, same)
            named = [*known, *(Person(one.tenant, one.kind, sent[one]) for one in known if one in sent)]
            unknown += sorted(set(request.asked) - set(self.ledger.digests(request, named)))
            for one in (*same, *older):
                until = max(request.at, members[one].until) if one in members else request.at
                members[one] = Member(one, sent.get(one, one.id), until)
        newest = max([*versions(self.home), *(entry["version"] for entry in history(self.home))], default=0)
        going = Pass(tuple(request.id for request in waiting), tuple(members.values()), tuple(unknown), newest)
        return Passes.begin(self.home.privacy / "erasing", going)

    def _stores(self, begun: Passes) -> Stores:
        tables = {spec.name: self._table(spec) for spec in (IDENTIFIERS, IDENTITIES, SESSIONS, PAGE_VIEWS, USERS, REJECTED)}
        return Stores(self._settings, begun, self._intake(), tables, self._sources(), self._paths(),
                      self.forgotten.mark)  # fmt: skip

    def take_out_of(self, con: duckdb.DuckDBPyConnection, path: Path, report: BatchReport, asked: int) -> bool:
        """Of a file that was loaded now: the records of people who are to be forgotten; whether it may have changed.

        `asked` is how many requests there were before it was loaded. Into a file that was loaded before, nobody looked now that
        it comes again.
        """
        requests = len(self.ledger.requests())
        unseen = requests > asked or (requests and report.known_before)
        if report.status == "set_aside":
            named = bool(requests) and self.forgotten.is_in(con, path, report.tenant or "")
            return named and bool(redact_unread(path, self.forgotten.met()).gone)
        if not (unseen or report.redacted or report.rejected_by_reason.get(ERASED)):
            return False
        forgotten = self.forgotten
        # Who was met in files of before says nothing about this one.
        forgotten.met()

        def mark(con: duckdb.DuckDBPyConnection) -> bool:
            forgotten.named_in(con, "select rn, tenant_id, raw as text from mapped where reason is not null")
            return forgotten.look(con)

        # Before it moves: killed in between, it is found here again.
        redact_file(con, path, self._sources()[report.source], report.tenant, self._clock(), mark, forgotten.met)
        return True

    # Finishing

    def finish(
        self, con: duckdb.DuckDBPyConnection, *, progress: Progress = _silent, grace: float = GRACE_SECONDS,
        wait_seconds: float = 0,
    ) -> list[Request]:  # fmt: skip
        """After a publish: end the passes whose people are out of all that is shown; returns the requests that are done.

        Where another process does that, it is waited for so long.
        """
        if not self._begun:
            return []
        try:
            with self.home.lock(_LOCK, wait_seconds):
                return [request for begun in self._begun for request in self._finish(con, begun, progress, grace)]
        except Busy:
            return []

    def _is_shown(self, con: duckdb.DuckDBPyConnection, begun: Passes, version: int) -> bool:
        """Whether somebody who goes may still stand in the version."""
        if not any(one.gone or one.changed for one in self._stores_of(begun) if not one.recomputed):
            return False
        batch = self._intake().report(con, f"{ERASED}-{begun.going.id}")
        events = shown_version(self.home, EVENTS.name) or 0
        return (
            version <= begun.going.version
            or bool(pending_days(con, self.home))
            or (batch is not None and events < batch.events_version)
        )

    def _finish(self, con: duckdb.DuckDBPyConnection, begun: Passes, progress: Progress, grace: float) -> list[Request]:
        shown = current_version(self.home)
        if not begun.is_removed or (shown is not None and self._is_shown(con, begun, shown)):
            return []

        def version_goes(number: int) -> None:
            begun.note("published", str(number))

        def is_masked(name: str, found: Redacted) -> None:
            begun.note("logs", name, gone=found.gone, changed=found.changed, files=1)

        if shown is not None and shown > begun.going.version:
            read = remove_versions(self.home, shown, version_goes, progress, grace)
            if read is None:
                # Somebody rolled back meanwhile, to a version that shows them.
                return []
            if read:
                begun.note("readers")
        progress("removing what nobody reads any more")
        self._sweep(con)
        progress("masking in logs")
        mask_logs(self.home.root, self._stores(begun).values(), is_masked)
        done = [request for request in self.ledger.requests() if request.id in begun.going.requests]
        for request in done:
            self._write_receipt(con, begun, request, shown)
        self._record(begun, done, shown)
        begun.end()
        return done

    def _stores_of(self, begun: Passes) -> list[Store]:
        """What went from where, by the journal: of a commit that was not made the note does not count."""
        found: dict[str, Store] = {}
        for (store, item), said in begun.notes().items():
            if store in (REMOVED, "published", "readers") or not self._was_done(store, item):
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

    def _write_receipt(self, con: duckdb.DuckDBPyConnection, begun: Passes, request: Request, shown: int | None) -> None:
        notes, going = begun.notes(), begun.going
        unknown = tuple(digest for digest in request.asked if digest in going.unknown)
        receipt = Receipt(
            erasure=request.id, requested_at=request.at, requested_by=request.by, done_at=self._clock(),
            people=len(request.asked), found=len(request.asked) - len(unknown),
            identifiers=len({member.sent for member in going.members if not re.fullmatch(FORM, member.sent)}),
            subjects=request.asked, unknown=unknown,
            stores=tuple(self._stores_of(begun)), days_rebuilt=notes.get(("events", ""), {}).get("days", 0),
            published_version=shown, versions_removed=tuple(sorted(int(n) for store, n in notes if store == "published")),
            readers_left_waiting=("readers", "") in notes,
            together_with=tuple(other for other in going.requests if other != request.id),
        )  # fmt: skip
        key = Outside(self._settings.keys).key(request.key)
        assert key is not None
        keep(self.ledger.receipt_path(request.id), receipt, key)

    def _record(self, begun: Passes, done: Sequence[Request], shown: int | None) -> None:
        subjects = [(member.stored.tenant, member.sent) for member in begun.going.members]
        Audit(self._settings).record(
            "erase", tables=[store.store for store in self._stores_of(begun) if store.gone or store.changed], subjects=subjects,
            details={"receipts": [request.id for request in done], "version": shown or 0},
        )  # fmt: skip
