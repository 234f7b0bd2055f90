"""Where people are taken out of: events, rejected records, the raw store of identifiers, files as they came.

Each can be killed and done again. What goes is noted before it does, by the version or the file that it goes from.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.erasure.naming import Paths, named_in_json, without_fields
from analytics_assets.erasure.passes import Passes
from analytics_assets.events.forget import Going, forget
from analytics_assets.events.intake import Intake
from analytics_assets.events.tables import REJECTED
from analytics_assets.events.values import Values
from analytics_assets.events.withdraw import ERASED
from analytics_assets.privacy.digests import FORM, place_of
from analytics_assets.privacy.pseudonyms import IDENTIFIERS
from analytics_assets.privacy.taxonomy import JSON_COLUMNS
from analytics_assets.sessions.build import days_without, window
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, SESSIONS, USERS
from analytics_assets.settings import Settings
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.readers import UnreadableFile
from analytics_assets.sources.redact import Mark, Redacted, redact_file, redact_kept, redact_unread
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import TableSpec, literal
from analytics_assets.warehouse.table import DataFile, Snapshot, Table, rewrite_rows

_CHUNK = 50_000
_WHOSE = "coalesce('user:' || {row}.user_id, 'device:' || {row}.anonymous_id)"
_WAS = "least(event.timestamp, event.received_at)"
# Of an event: whether it is of somebody who goes, is on the device of one, or names one.
_OWN = f"""
    left join erased_members own on own.tenant_id = event.tenant_id and own.whose = {_WHOSE.format(row="event")}
        and {_WAS} <= own.until
"""
_JOINED = f"""{_OWN}
    left join erased_members device on device.tenant_id = event.tenant_id and device.whose = 'device:' || event.anonymous_id
        and {_WAS} <= device.until
    left join erased_mentions named on named.tenant_id = event.tenant_id and named.message_key = event.message_key
        and named.message_id = event.message_id
"""
_GOES = "(own.until is not null)"
_CHANGES = "(device.until is not null or named.message_id is not null)"
_REPLACED: dict[str, str] = {
    "anonymous_id": "case when device.until is null then event.anonymous_id end",
    **{name: f"case when named.message_id is null then event.{name} else named.{name} end" for name in JSON_COLUMNS},
}  # fmt: skip


class Stores:
    """Takes the people of one pass out of what is stored; callers hold the locks of intake and of rebuilds."""

    def __init__(
        self, settings: Settings, passes: Passes, intake: Intake, tables: Mapping[str, Table],
        sources: Mapping[str, Source], paths: Paths, mark: Mark,
    ) -> None:  # fmt: skip
        self._settings, self._going, self._passes, self._intake, self._tables = settings, passes.going, passes, intake, tables
        self._sources, self._paths, self._mark = sources, paths, mark
        self._home = Home(settings.home)
        self._orphans = passes.folder / "orphans.parquet"

    def remove(self, con: duckdb.DuckDBPyConnection, now: datetime, progress: Any) -> None:
        if not self._going.members:
            return
        self._stand_members(con)
        progress("erasing events")
        self._from_events(con, now)
        progress("erasing rejected records")
        self._from_rejected(con)
        self._from_identifiers(con)
        for path in self.files():
            progress(f"erasing in {path.name}")
            self.from_file(con, path)
        con.execute("drop table erased_members")

    def _stand_members(self, con: duckdb.DuckDBPyConnection) -> None:
        members = self._going.members
        columns = [
            [one.stored.tenant for one in members], [f"{one.stored.kind}:{one.stored.id}" for one in members],
            [one.stored.id for one in members], [one.until for one in members],
        ]  # fmt: skip
        con.execute(
            "create or replace temp table erased_members as select unnest(?::varchar[]) as tenant_id, "
            "unnest(?::varchar[]) as whose, unnest(?::varchar[]) as id, unnest(?::timestamp[]) as until",
            columns,
        )

    def values(self, tenant: str | None = None) -> Values:
        """What tells of them wherever it stands: how they were named, and what only they had. Of one tenant, or of all."""
        others: list[tuple[str, str]] = []
        if self._orphans.exists():
            with duckdb.connect() as con:
                asked = f"select distinct tenant_id, value from read_parquet({literal(str(self._orphans))})"
                others = [(whose, value) for whose, value in con.execute(asked).fetchall() if _tells_alone(value)]
        named = [(one.stored.tenant, text) for one in self._going.members for text in (one.sent, one.stored.id)]
        return Values(value for whose, value in (*named, *others) if tenant in (None, whose))

    # Events

    def _from_events(self, con: duckdb.DuckDBPyConnection, now: datetime) -> None:
        mark = f"{ERASED}-{self._going.id}"
        if self._intake.has(mark):
            return
        snapshot = self._intake.events.snapshot()
        # Once: to look into the JSON of every event costs more than all else that is asked of them.
        whose = "tenant_id, message_id, user_id, anonymous_id, timestamp, received_at"
        named = named_in_json(f"({snapshot.select()})", whose, self._paths)
        con.execute(f"create or replace temp table names_in_json as {named}")
        self._stand_mentions(con, snapshot)

        def plan(found: Going) -> None:
            self._passes.note("events", gone=found.gone, changed=found.changed, files=len(found.files), days=len(found.days))
            self._note_computed(con)
            self._keep_orphans(con, snapshot)

        forget(
            self._intake, con, ERASED, mark, now, _GOES, changing=_CHANGES, replaced=_REPLACED, joined=_JOINED, plan=plan,
            days=lambda found: self._days(con, snapshot, found),
        )  # fmt: skip
        con.execute("drop table erased_mentions; drop table names_in_json")

    def _days(self, con: duckdb.DuckDBPyConnection, snapshot: Snapshot, found: Going) -> list[date]:
        """The days to rebuild: also those of events that come into another session without these."""
        rules = self._settings.limits.sessions
        low, high = window(found.days, rules)
        # Files that hold no other day tell of none.
        files = [file for file in snapshot.between(low, high) if not _within(file, found.days)]
        if not files:
            return list(found.days)
        theirs = f"{_GOES} or {_CHANGES}"
        leaving = f"select event.* from ({snapshot.select()}) event {_JOINED} where {theirs}"
        return days_without(con, snapshot.select(files), leaving, found.days, rules)

    def _stand_mentions(self, con: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> None:
        """Make temp table `erased_mentions`: events that stay and name somebody who goes, with the JSON that does not."""
        con.execute(
            "create or replace temp table naming as select event.tenant_id, message_id, list(distinct field) as fields "
            "from names_in_json event join erased_members m "
            f"on m.tenant_id = event.tenant_id and m.id = event.id and {_WAS} <= m.until group by all"
        )
        left = ", ".join(f"{without_fields(name, 'fields', self._paths)} as {name}" for name in JSON_COLUMNS)
        # Without any, not a file is opened.
        some = con.execute("select count(*) from naming").fetchall()[0][0]
        events = snapshot.select() if some else self._intake.events.spec.empty_select
        con.execute(
            f"create or replace temp table erased_mentions as select tenant_id, message_id, message_key, {left} "
            f"from ({events}) join naming using (tenant_id, message_id)"
        )
        con.execute("drop table naming")

    def _note_computed(self, con: duckdb.DuckDBPyConnection) -> None:
        """What is computed from events is rebuilt without them; of tables with a row a person, how many go."""
        for spec in (SESSIONS, PAGE_VIEWS, USERS, IDENTITIES):
            self._passes.note(spec.name, gone=self._rows_of(con, spec), recomputed=True)

    def _rows_of(self, con: duckdb.DuckDBPyConnection, spec: TableSpec) -> int:
        rows = self._tables[spec.name].snapshot().select()
        if spec is IDENTITIES:
            theirs = "m.id in (r.user_id, r.from_id)"
        elif "anonymous_id" in spec.column_names:
            theirs = f"m.whose = {_WHOSE.format(row='r')}"
        else:
            theirs = "r.person_id = case when starts_with(m.whose, 'user:') then m.id else m.whose end"
        found = con.execute(
            f"select count(*) from ({rows}) r where exists (select 1 from erased_members m "
            f"where m.tenant_id = r.tenant_id and {theirs})"
        ).fetchall()
        return int(found[0][0])

    def _keep_orphans(self, con: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> None:
        """Keep beside the pass what only these people had (sessions, addresses, ...): it cannot be told afterwards."""
        rows = snapshot.select()
        con.execute(
            "create or replace temp table orphans as select distinct tenant_id, id from ("
            f"select event.tenant_id, session_id as id from ({rows}) event {_OWN} where {_GOES} union all "
            f"select event.tenant_id, event.id from names_in_json event {_OWN} where {_GOES}) where id is not null"
        )
        con.execute(
            f"delete from orphans using (select event.tenant_id, session_id as id from ({rows}) event {_OWN} "
            f"where not {_GOES} union all "
            f"select event.tenant_id, event.id from names_in_json event {_OWN} where not {_GOES}) stays "
            "where stays.tenant_id = orphans.tenant_id and stays.id = orphans.id"
        )
        key = f"case when regexp_full_match(id, '{FORM}') then {place_of('id')} end as pseudonym_key"
        raw = f"select tenant_id, pseudonym_key, value from ({self._tables[IDENTIFIERS.name].snapshot().select()})"
        theirs = f"select tenant_id, id from erased_members except ({self._borne(snapshot)})"
        con.execute(
            f"copy (select tenant_id, pseudonym_key, coalesce(value, id) as value from (select tenant_id, id, {key} from "
            f"(from orphans union ({theirs}))) "
            f"left join ({raw}) using (tenant_id, pseudonym_key)) "
            f"to {literal(str(self._orphans))} (format parquet)"
        )
        con.execute("drop table orphans")

    def _borne(self, snapshot: Snapshot) -> str:
        """A SELECT of the members' ids that an event still bears afterwards: the pseudonym of who came back needs its value."""
        rows, known = snapshot.select(), "semi join erased_members m on m.tenant_id = event.tenant_id and m.id = event"
        named = f"select * from names_in_json event {known}.id"
        return f"""
            select event.tenant_id, event.user_id as id from (select * from ({rows}) event {known}.user_id) event {_OWN}
            where not {_GOES}
            union all select event.tenant_id, event.anonymous_id
            from (select * from ({rows}) event {known}.anonymous_id) event {_JOINED}
            where not {_GOES} and device.until is null
            union all select event.tenant_id, event.id from ({named}) event {_OWN}
            where not {_GOES} and not exists (
                select 1 from erased_members m where m.tenant_id = event.tenant_id and m.id = event.id and {_WAS} <= m.until)
        """

    # Records and identifiers as they came

    def _from_identifiers(self, con: duckdb.DuckDBPyConnection) -> None:
        if not self._orphans.exists():
            return
        orphans = f"read_parquet({literal(str(self._orphans))})"
        theirs = f"select (tenant_id, pseudonym_key) from {orphans} where pseudonym_key is not null"
        # Pseudonyms of older keys stand for the same values.
        named = f"select (tenant_id, value) from {orphans} where value is not null"
        table, dense = self._tables[IDENTIFIERS.name], self._settings.limits.storage.dense_day_rows

        def plan(version: int, gone: int, files: int) -> str:
            return self._note(IDENTIFIERS.name, version, gone=gone, files=files)

        goes = f"(tenant_id, pseudonym_key) in ({theirs}) or (tenant_id, value) in ({named})"
        rewrite_rows(table, con, goes, dense, plan=plan)

    def _note(self, store: str, version: int, **counts: int) -> str:
        """Note what goes from a version of a table; returns the mark of the commit."""
        mark = f"{ERASED}-{self._going.id}-{version}"
        self._passes.note(store, mark, **counts)
        return mark

    def _from_rejected(self, con: duckdb.DuckDBPyConnection) -> None:
        table = self._intake.rejected
        delta = table.open()
        old = table.snapshot_of(delta)
        con.execute("create or replace temp table redacted (record_digest varchar, copy bigint, raw varchar)")
        tenants = ", ".join(map(literal, self._going.tenants))
        # Whose a record is that names no tenant of ours cannot be told: it may be anybody's.
        ours = ", ".join(map(literal, self._settings.tenants))
        mine = f"(tenant_id in ({tenants}) or landed_for in ({tenants}) or coalesce(tenant_id, '') not in ({ours}))"
        whose = f"case when landed_for is not null then landed_for when tenant_id in ({ours}) then tenant_id end"
        groups = f"select distinct source, landed_for, {whose} from ({old.select()}) where {mine} order by all"
        for source, landed_for, tenant in con.execute(groups).fetchall():
            values = self.values(tenant)
            rows = con.execute(
                f"select record_digest, copy, raw from ({old.select()}) where {mine} and source = ? "
                f"and landed_for is not distinct from ? and {whose} is not distinct from ? order by all",
                [source, landed_for, tenant],
            ).fetchall()
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                found = redact_kept(con, [row[2] for row in chunk], self._sources.get(source), landed_for, self._until,
                                    self._mark, values)  # fmt: skip
                if found:
                    records = [(*chunk[place][:2], text) for place, text in found.items()]
                    con.executemany("insert into redacted values (?, ?, ?)", records)
        gone, changed = con.execute("select count(*) filter (raw is null), count(raw) from redacted").fetchall()[0]
        if gone or changed:
            digest = "md5(concat_ws(chr(31), source, coalesce(landed_for, ''), new.raw))"
            columns = REJECTED.select_list
            stays = f"select {columns} from ({old.select()}) anti join redacted using (record_digest, copy)"
            con.execute(f"create or replace temp table renewed as {stays}")
            # Records that were told apart by a name alone may be the same now.
            con.execute(
                "insert into renewed by name "
                "select * exclude (last), last + row_number() over (partition by record_digest) as copy "
                f"from (select old.* exclude (copy) replace (new.raw as raw, {digest} as record_digest), "
                f"coalesce((select max(copy) from renewed r where r.record_digest = {digest}), 0) as last "
                f"from ({old.select()}) old join redacted new using (record_digest, copy) where new.raw is not null)"
            )
            adds = table.write(con, f"select {columns} from renewed", "kept")
            mark = self._note(table.spec.name, delta.version(), files=len(old.files), gone=gone, changed=changed)
            table.commit(delta, adds, old.files, transaction=mark)
            con.execute("drop table renewed")
        con.execute("drop table redacted")

    @property
    def _until(self) -> datetime:
        return max(member.until for member in self._going.members)

    # Files

    def files(self) -> Iterator[Path]:
        """Files as they came that may hold somebody: loaded ones, and those that were set aside."""
        for tenant in self._going.tenants:
            for folder in (self._home.received, self._home.set_aside):
                yield from sorted(path for path in (folder / tenant).rglob("*") if path.is_file())

    def from_file(self, con: duckdb.DuckDBPyConnection, path: Path) -> None:
        folder, tenant = path.relative_to(self._home.root).parts[:2]
        source = self._sources.get(self._settings.tenants[tenant].source) if tenant in self._settings.tenants else None

        values = self.values(tenant)

        def plan(found: Redacted) -> None:
            self._passes.note(folder, path.name, gone=found.gone, changed=found.changed, files=1)

        if folder == self._home.received.name and source is not None:
            try:
                redact_file(con, path, source, tenant, self._until, self._mark, values, plan)
                return
            except UnreadableFile:
                pass
        redact_unread(path, values, plan)


def _tells_alone(value: str) -> bool:
    """Whether a value is of one person alone: an address or a number with letters, and not a name that many bear."""
    return "@" in value or (len(value) >= 8 and any(map(str.isdigit, value)))


def _within(file: DataFile, days: Collection[date]) -> bool:
    """Whether all rows of a file are of these days."""
    if file.low is None or file.high is None:
        return False
    return all(file.low.date() + timedelta(days=n) in days for n in range((file.high.date() - file.low.date()).days + 1))
