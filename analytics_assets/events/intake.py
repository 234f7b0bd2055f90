"""From mapped records to committed events: judge each record, keep the rejected, store every event exactly once.

The identity of an event is (tenant_id, message_id). A record is compared only with files whose time range it can meet,
so its cost depends on the batch and not on history. One batch is one commit, marked with the batch's id: loading it again
does nothing, and a load that was killed leaves nothing but files that no version names.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from analytics_assets.events.identifiers import Forgotten, Identifiers
from analytics_assets.events.rules import rules_of
from analytics_assets.events.schema import EVENTS, SOURCE_COLUMNS
from analytics_assets.events.single_keys import with_single_keys
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.settings import EventLimits, StorageRules, UserError
from analytics_assets.warehouse import meter
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import literal
from analytics_assets.warehouse.table import DataFile, Table, scan

MESSAGE_KEY = "(hash(tenant_id, message_id) >> 1)::bigint"
# DuckDB does not promise that `hash` stays the same between versions; stored keys depend on it.
_HASH_CHECK = ("select (hash('tenant', 'message') >> 1)::bigint", 6223499036190898590)
INTAKE_LOCK = "intake"
# The reason of records that came again of people who were to be forgotten.
ERASED = "erased"
# Late rows of the two days before a dense one share its file until it is compacted.
NEAR_DAYS = 2
JSON_COLUMNS = ("properties", "context")


@dataclass(frozen=True)
class Batch:
    """One delivery: a file, or rejected records that are tried again."""

    batch_id: str
    source: str
    tenant: str | None
    file: str
    bytes: int
    received_at: datetime
    twin_lookback: timedelta = timedelta(0)
    status: str = "loaded"
    landed_at: datetime | None = None


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch. `received` = `rejected` + `duplicates` + `events`."""

    batch_id: str
    source: str
    tenant: str | None
    file: str
    status: str
    received: int
    rejected: int
    duplicates: int
    events: int
    seconds: float
    bytes: int = 0
    reason: str | None = None
    rejected_by_reason: dict[str, int] = field(default_factory=dict)
    undeclared: str | None = None
    days: tuple[date, ...] = ()
    event_from: datetime | None = None
    event_to: datetime | None = None
    received_at: datetime | None = None
    events_version: int = 0
    events_by_tenant: dict[str, int] | None = None
    landed_at: datetime | None = None
    loaded_at: datetime | None = None
    known_before: bool = False
    # Records of others out of which the names of forgotten people were taken.
    redacted: int = 0

    def as_row(self) -> dict[str, Any]:
        """The row of `batches`."""
        row = {column.name: getattr(self, column.name) for column in BATCHES.columns}
        return {
            **row,
            "rejected_by_reason": json.dumps(self.rejected_by_reason, sort_keys=True),
            "events_by_tenant": None if self.events_by_tenant is None else json.dumps(self.events_by_tenant, sort_keys=True),
            "days": list(self.days),
        }

    def as_note(self) -> str:
        return json.dumps(asdict(self), default=lambda value: value.isoformat())

    @classmethod
    def from_note(cls, note: str) -> "BatchReport":
        content = json.loads(note)
        moments = ("event_from", "event_to", "received_at", "landed_at", "loaded_at")
        for name in moments:
            content[name] = datetime.fromisoformat(content[name]) if content.get(name) else None
        content["days"] = tuple(date.fromisoformat(day) for day in content["days"])
        return cls(**content)


class Intake:
    """Stores batches into `events`, `rejected_events` and `batches` of one data home."""

    def __init__(
        self, home: Home, limits: EventLimits, storage: StorageRules, tenants: Sequence[str],
        clock: Callable[[], datetime] | None = None, identifiers: Identifiers | None = None,
        forgotten: Forgotten | None = None, past: Callable[[], str] = lambda: "false",
    ) -> None:  # fmt: skip
        self.home, self.limits, self.storage, self.tenants = home, limits, storage, tuple(tenants)
        self.clock, self.identifiers, self.forgotten, self._past = clock or utc_now, identifiers, forgotten, past
        self.events, self.rejected, self.batches = (Table(home.warehouse, spec) for spec in (EVENTS, REJECTED, BATCHES))

    def store(
        self,
        con: duckdb.DuckDBPyConnection,
        batch: Batch,
        slices: Callable[[], Iterator[Any]],
        *,
        progress: Callable[[int, int], None] = lambda rows, size: None,
    ) -> BatchReport:
        """Load a batch. `slices()` yields while a relation `mapped` (see `sources`) stands on `con`, slice by slice.

        The same batch again is answered from `batches`: every record that was not rejected then is a duplicate now.
        """
        check_hash(con)
        with self.home.turn(INTAKE_LOCK):
            delta = self.finish_interrupted(con)
            if Table.has(delta, batch.batch_id) and (before := self.known(con, batch.batch_id)):
                return before
            started = time.monotonic()
            state = _Loading(batch, list(self.events.snapshot_of(delta).files))
            con.execute(f"create or replace temp table rejected_rows as {REJECTED.empty_select}")
            try:
                for part in slices():
                    progress(self._store_slice(con, state, part), part.bytes)
            except BaseException:
                self._discard(con, state)
                raise
            self._keep_rejected(con, batch)
            self._keep_identifiers(con, batch)
            report = state.report(time.monotonic() - started, delta.version() + 1, self.clock())
            meter.brought({batch.tenant: report.received} if batch.tenant else dict(state.tenants))
            self.events.commit(delta, state.adds, transaction=batch.batch_id, note={"batch": report.as_note()})
            self.note_batch(con, report)
            return report

    def replay(
        self, con: duckdb.DuckDBPyConnection, batch: Batch, slices: Callable[[], Iterator[Any]], *, dry_run: bool
    ) -> BatchReport:
        """Load rejected records again; those accepted now leave `rejected_events` after their events are committed.

        A kill in between leaves a record in both, and the next replay finds it a duplicate and removes it.
        With `dry_run` nothing is committed: the report says what would happen.
        """
        with self.home.turn(INTAKE_LOCK):
            delta = self.finish_interrupted(con)
            started = time.monotonic()
            state = _Loading(batch, list(self.events.snapshot_of(delta).files), again=True)
            con.execute(f"create or replace temp table rejected_rows as {REJECTED.empty_select}")
            try:
                for part in slices():
                    self._store_slice(con, state, part)
            except BaseException:
                self._discard(con, state)
                raise
            report = state.report(time.monotonic() - started, delta.version() + 1, self.clock())
            if dry_run:
                self._discard(con, state)
                return report
            if report.rejected - report.rejected_by_reason.get(ERASED, 0) < report.received:
                self._keep_identifiers(con, batch)
                self.events.commit(delta, state.adds, transaction=batch.batch_id, note={"batch": report.as_note()})
                self.note_batch(con, report)
                self._forget_accepted(con)
            return report

    def _forget_accepted(self, con: duckdb.DuckDBPyConnection) -> None:
        """Rewrite `rejected_events` without the records of `again` that were not rejected again."""
        strange = con.execute("select count(*) from rejected_rows anti join again using (record_digest)").fetchall()[0][0]
        if strange:
            raise AssertionError(f"{strange} records changed their text in a replay; nothing was removed")
        delta = self.rejected.open()
        old = self.rejected.snapshot_of(delta)
        kept = (
            f"select * from ({old.select()}) anti join (select record_digest, copy from again anti join "
            "(select record_digest from rejected_rows) using (record_digest)) using (record_digest, copy)"
        )
        adds = self.rejected.write(con, f"select {REJECTED.select_list} from ({kept})", "kept")
        self.rejected.commit(delta, adds, old.files)

    def set_aside(self, con: duckdb.DuckDBPyConnection, batch: Batch, reason: str) -> BatchReport:
        """Record that a whole file could not be read; once for the same content."""
        report = BatchReport(
            batch.batch_id, batch.source, batch.tenant, batch.file, "set_aside", 0, 0, 0, 0, 0.0, batch.bytes, reason,
            received_at=batch.received_at,
        )  # fmt: skip
        with self.home.turn(INTAKE_LOCK):
            self.finish_interrupted(con)
            self.note_batch(con, report)
        return report

    def _store_slice(self, con: duckdb.DuckDBPyConnection, state: "_Loading", part: Any) -> int:
        rules = rules_of(self.limits, self.tenants, state.batch.received_at, self._past())
        any_rule = " or ".join(f"({condition})" for _, condition in rules)
        judged = " ".join(f"when {condition} then {literal(reason)}" for reason, condition in rules)
        met = self.forgotten if self.forgotten and self.forgotten.look(con) else None
        erased = f"case when rn in (select rn from forgotten_rows) then '{ERASED}' end, " if met else ""
        mapped = (met and met.strip(con)) or "mapped"
        named = self.identifiers.columns(state.batch.source) if self.identifiers else ()
        kept = dict.fromkeys(("rn", "tenant_id", "message_id", "timestamp", "received_at", *(set(named) - part.absent)))
        # Almost every record passes: one question to all, and the reason only for those that fail it.
        con.execute(
            f"create or replace temp table keys as select {', '.join(kept)}, "
            f"{MESSAGE_KEY} as message_key, coalesce({erased}reason, "
            f"case when {any_rule} then case {judged} end end) as reason from {mapped}"
        )
        cleaned = self._clean_rejected(con, state)
        if met:
            state.redacted += con.execute("select count(*) from stripped").fetchall()[0][0]
        counts = dict(con.execute("select reason, count(*) from keys group by 1").fetchall())
        accepted = counts.pop(None, 0)
        state.received += accepted + sum(counts.values())
        for reason, rows in counts.items():
            state.rejected[reason] = state.rejected.get(reason, 0) + rows
        state.undeclared.update(part.undeclared)
        if counts:
            self._collect_rejected(con, state.batch, cleaned=cleaned)
        if accepted:
            self._store_accepted(con, state, mapped, part, sum(counts.values()))
        return accepted + sum(counts.values())

    def _clean_rejected(self, con: duckdb.DuckDBPyConnection, state: "_Loading") -> bool:
        """Make temp table `cleaned` of the rejected records in `keys` that name somebody who is forgotten; whether some do.

        Those of which nothing may be kept count as erased.
        """
        rejected = f"select rn from keys where reason <> '{ERASED}'"
        # What is tried again was cleaned when it was kept, and is known by its text.
        if not self.forgotten or state.again or not con.execute(f"{rejected} limit 1").fetchall():
            return False
        if not self.forgotten.clean(con, rejected):
            return False
        con.execute(f"update keys set reason = '{ERASED}' where rn in (select rn from cleaned where raw is null)")
        state.redacted += con.execute("select count(raw) from cleaned").fetchall()[0][0]
        return True

    def _store_accepted(self, con: duckdb.DuckDBPyConnection, state: "_Loading", mapped: str, part: Any, rejected: int) -> None:
        absent = part.absent
        first, last = con.execute("select min(timestamp), max(timestamp) from keys where reason is null").fetchall()[0]
        lookback = state.batch.twin_lookback
        self._mark_dropped(con, [f for f in state.files if f.meets(first - lookback, last + lookback)])
        # Counted and not left over: that received is rejected, duplicates and events together is a check, and may fail.
        state.duplicates += con.execute("select count(*) from dropped").fetchall()[0][0] - rejected
        days = con.execute(
            "select tenant_id, timestamp::date, count(*), min(timestamp), max(timestamp) "
            "from keys anti join dropped using (rn) group by all"
        ).fetchall()
        if not days:
            return
        rows = state.note_days(days)
        relation = f"(from {mapped} anti join dropped using (rn))"
        if part.given_json:
            relation = with_single_keys(con, relation, [name for name in JSON_COLUMNS if name not in absent])
        if self.identifiers:
            tenants, kept = {tenant for tenant, *_ in days}, "(from keys anti join dropped using (rn))"
            relation = self.identifiers.replaced(con, relation, state.batch.source, tenants, absent, kept)
        # Writing a column of nulls costs as much as one of values.
        columns = ", ".join(column.name for column in SOURCE_COLUMNS if column.name not in absent)
        select = (
            f"select {columns}, {literal(state.batch.source)} as source, {literal(state.batch.batch_id)} as batch_id, "
            f"{MESSAGE_KEY} as message_key from {relation}"
        )
        adds = self.events.write_days(
            con, select, "batch", rows, self.storage.dense_day_rows, near_days=NEAR_DAYS,
            ordered=sum(rows.values()) >= self.storage.sorted_from_rows,
        )  # fmt: skip
        state.add(adds, self.events)
        if self.identifiers:
            self.identifiers.gather(con)

    def _mark_dropped(self, con: duckdb.DuckDBPyConnection, old: list[DataFile]) -> None:
        """Table `dropped`: the rows of `keys` that must not be stored: rejected, or twins of what is there."""
        con.execute("create or replace temp table dropped as select rn from keys where reason is not null")
        con.execute(
            "create or replace temp table doubled as select message_key from keys where reason is null "
            "group by 1 having count(*) > 1"
        )
        con.execute(
            "insert into dropped select rn from (select rn, row_number() over (partition by tenant_id, message_id "
            "order by received_at, timestamp, rn) as nth from keys semi join doubled using (message_key) "
            "where reason is null) where nth > 1"
        )
        if not old:
            return
        stored = [file.path for file in old]
        # The old keys stream past the small batch. A redelivery has its event's tenant and time; where only the hash
        # agrees, the ids themselves decide.
        con.execute(
            "create or replace temp table matched as select rn, message_key, "
            "s.tenant_id = k.tenant_id and s.timestamp = k.timestamp as sure "
            f"from (select message_key, tenant_id, timestamp from {scan(stored, alike=True)}) s "
            "join keys k using (message_key) anti join dropped using (rn)"
        )
        con.execute("insert into dropped select distinct rn from matched where sure")
        con.execute("create or replace temp table unsure as select distinct rn, message_key from matched "
                    "anti join dropped using (rn)")  # fmt: skip
        if con.execute("select count(*) from unsure").fetchall()[0][0] == 0:
            return
        con.execute(
            "create or replace temp table twins as select distinct tenant_id, message_id from "
            f"(select message_key, tenant_id, message_id from {scan(stored, alike=True)}) semi join unsure using (message_key)"
        )
        con.execute(
            "insert into dropped select rn from (from keys semi join unsure using (rn)) semi join twins "
            "using (tenant_id, message_id)"
        )

    def _collect_rejected(self, con: duckdb.DuckDBPyConnection, batch: Batch, *, cleaned: bool) -> None:
        kept = "(select m.* replace (coalesce(c.raw, m.raw) as raw) from mapped m left join cleaned c using (rn))"
        mapped = kept if cleaned else "mapped"
        landed_for = literal(batch.tenant) if batch.tenant else "null"
        identity = f"concat_ws(chr(31), {literal(batch.source)}, {literal(batch.tenant or '')}, raw)"
        con.execute(
            f"insert into rejected_rows by name select coalesce(tenant_id, {landed_for}) as tenant_id, "
            f"{literal(batch.source)} as source, {landed_for} as landed_for, k.reason, raw, "
            f"md5({identity}) as record_digest, {literal(batch.batch_id)} as batch_id, "
            f"timestamp {literal(str(batch.received_at))} as received_at "
            # Of who is to be forgotten nothing is kept, but that so many records came.
            f"from (select rn, tenant_id, raw from {mapped}) join (select rn, reason from keys where reason <> '{ERASED}') k "
            "using (rn)"
        )

    def _keep_rejected(self, con: duckdb.DuckDBPyConnection, batch: Batch) -> None:
        """Commit the rejected records that are not there yet: the same record and copy number is the same row."""
        if con.execute("select count(*) from rejected_rows").fetchall()[0][0] == 0:
            return
        delta = self.rejected.open()
        columns = REJECTED.select_list.replace('"copy"', "row_number() over (partition by record_digest) as copy")
        known = self.rejected.snapshot_of(delta).select()
        fresh = (
            f"select * from (select {columns} from rejected_rows) "
            f"anti join (select record_digest, copy from ({known})) using (record_digest, copy)"
        )
        adds = self.rejected.write(con, f"select {REJECTED.select_list} from ({fresh})", "rejected")
        if adds:
            self.rejected.commit(delta, adds, note={"batch_id": batch.batch_id})

    def note_batch(self, con: duckdb.DuckDBPyConnection, report: BatchReport) -> None:
        delta = self.batches.latest()
        mark = f"{report.batch_id}:{report.status}"
        if Table.has(delta, mark):
            return
        row = report.as_row()
        casts = ", ".join(f"?::{column.type} as {column.name}" for column in BATCHES.columns)
        con.execute(f"create or replace temp table batch_row as select {casts}", [row[name] for name in BATCHES.column_names])
        adds = self.batches.write(con, "select * from batch_row", "batch")
        self.batches.commit(delta, adds, transaction=mark)

    def finish_interrupted(self, con: duckdb.DuckDBPyConnection) -> DeltaTable:
        """Write the row of a batch whose events were committed by a process that died before it wrote the row.

        Each load holds the lock until its row stands, so only the newest load can lack it. Returns the events table.
        """
        delta = self.events.latest()
        if report := last_batch(delta):
            self.note_batch(con, report)
        return delta

    def report(self, con: duckdb.DuckDBPyConnection, batch_id: str) -> BatchReport | None:
        """What `batches` says of a batch, the newest row first; None if there is none."""
        rows = con.execute(
            f"select {BATCHES.select_list} from ({self.batches.snapshot().select()}) where batch_id = ? "
            "order by status = 'set_aside', received_at desc limit 1",
            [batch_id],
        ).fetchall()
        if not rows:
            return None
        row = dict(zip(BATCHES.column_names, rows[0], strict=True))
        counts = {name: json.loads(row[name] or "null") for name in ("rejected_by_reason", "events_by_tenant")}
        return BatchReport(**{**row, **counts, "days": tuple(row["days"])})

    def known(self, con: duckdb.DuckDBPyConnection, batch_id: str) -> BatchReport | None:
        """The answer for a batch that was loaded before: all that was accepted then is a duplicate now."""
        before = self.report(con, batch_id)
        if before is None or before.status == "set_aside":
            return None
        return replace(before, duplicates=before.received - before.rejected, events=0, seconds=0.0, days=(), known_before=True)

    def _keep_identifiers(self, con: duckdb.DuckDBPyConnection, batch: Batch) -> None:
        """Killed after this and before the commit of the events, a load finds them there when it is tried again."""
        if self.identifiers:
            self.identifiers.keep(con, batch.batch_id)

    def has(self, mark: str) -> bool:
        """Whether the commit of events with this mark was made."""
        return Table.has(self.events.open(), mark)

    def has_events(self, con: duckdb.DuckDBPyConnection, tenant: str) -> bool:
        files = self.events.snapshot().files
        found = f"select 1 from {scan([file.path for file in files])} where tenant_id = ? limit 1" if files else ""
        return bool(found and con.execute(found, [tenant]).fetchall())

    def _discard(self, con: duckdb.DuckDBPyConnection, state: "_Loading") -> None:
        if self.identifiers:
            self.identifiers.forget(con)
        for add in state.adds:
            (self.events.path / add.path).unlink(missing_ok=True)


class _Loading:
    """What a load has done so far."""

    def __init__(self, batch: Batch, files: list[DataFile], *, again: bool = False) -> None:
        self.batch, self.files, self.again = batch, files, again
        self.adds: list[AddAction] = []
        self.received = self.duplicates = self.events = self.redacted = 0
        self.rejected: dict[str, int] = {}
        self.undeclared: set[str] = set()
        self.days: set[date] = set()
        self.tenants: dict[str, int] = {}
        self.first: datetime | None = None
        self.last: datetime | None = None

    def note_days(self, groups: list[tuple[str, date, int, datetime, datetime]]) -> dict[date, int]:
        """Note the groups (tenant, day, events, first, last) of a slice; returns the events of each day, in order."""
        rows: dict[date, int] = {}
        for tenant, day, events, first, last in groups:
            rows[day] = rows.get(day, 0) + events
            self.tenants[tenant] = self.tenants.get(tenant, 0) + events
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)
        self.days |= rows.keys()
        return dict(sorted(rows.items()))

    def add(self, adds: list[AddAction], table: Table) -> None:
        """Later slices of the batch must see these files too, or twins in two slices would both be stored."""
        self.adds += adds
        for add in adds:
            stats = json.loads(add.stats)
            self.events += stats["numRecords"]
            low, high = stats["minValues"].get("timestamp"), stats["maxValues"].get("timestamp")
            moments = [datetime.fromisoformat(value) if value else None for value in (low, high)]
            self.files.append(DataFile(str(table.path / add.path), stats["numRecords"], add.size, *moments))

    def report(self, seconds: float, version: int, loaded_at: datetime) -> BatchReport:
        rejected = sum(self.rejected.values())
        return BatchReport(
            self.batch.batch_id, self.batch.source, self.batch.tenant, self.batch.file, self.batch.status,
            self.received, rejected, self.duplicates, self.events, round(seconds, 3),
            self.batch.bytes, None, dict(sorted(self.rejected.items())),
            ", ".join(sorted(self.undeclared))[:1000] or None, tuple(sorted(self.days)),
            self.first, self.last, self.batch.received_at.replace(tzinfo=None), version,
            dict(sorted(self.tenants.items())), self.batch.landed_at, loaded_at, redacted=self.redacted,
        )  # fmt: skip


def last_batch(delta: DeltaTable) -> BatchReport | None:
    """The report that the newest commit of `events` carries, if that commit is a load."""
    newest = delta.history(1)
    note = newest[0].get("batch") if newest else None
    return BatchReport.from_note(note) if note else None


def check_hash(con: duckdb.DuckDBPyConnection) -> None:
    """Raise UserError if this DuckDB hashes differently from the one that wrote the stored keys."""
    query, expected = _HASH_CHECK
    if con.execute(query).fetchall()[0][0] != expected:
        raise UserError("this DuckDB version hashes differently from the stored keys; install the version in requirements.lock")


def utc_now() -> datetime:
    """The wall clock, UTC and without a zone, as all times in the warehouse are."""
    return datetime.now(UTC).replace(tzinfo=None)


def file_batch(
    path: Path, digest: str, source: str, tenant: str | None, now: datetime, lookback: timedelta, landed_at: datetime | None
) -> Batch:
    # A name need not be UTF-8; what cannot be stored would fail after the events are committed.
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return Batch(digest, source, tenant, name, path.stat().st_size, now, lookback, landed_at=landed_at)
