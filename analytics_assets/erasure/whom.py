"""Who goes: whom a request means, and every identifier that stitching knows to be the same person."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import duckdb

from analytics_assets.events.days import pending_days
from analytics_assets.events.intake import Intake
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.withdraw import SET_ASIDE
from analytics_assets.privacy.digests import FORM, pseudonym
from analytics_assets.privacy.keyring import Key
from analytics_assets.privacy.ledger import Kind, Ledger, Person, Request
from analytics_assets.privacy.pseudonyms import Pseudonyms
from analytics_assets.sessions.build import merge_identities, resolved_identities
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.readers import slices_from_raw
from analytics_assets.warehouse.table import Table, day_bounds

_CHUNK = 50_000
# When rejected records came says nothing of who sent them.
_ANY_TIME = datetime.fromisoformat("2000-01-01")
_KINDS: tuple[Kind, ...] = ("user", "device")


class Whom:
    """Looks in what is stored; callers hold the lock of intake."""

    def __init__(
        self, intake: Intake, identities: Table, pseudonyms: Pseudonyms, ledger: Ledger, sources: Mapping[str, Source]
    ) -> None:
        self._intake, self._identities, self._pseudonyms, self._ledger = intake, identities, pseudonyms, ledger
        self._sources = sources
        self._read = False
        # How rejected records name people: (tenant, as stored) to as sent.
        self._told: dict[tuple[str, str], str] = {}
        self._in_use = pseudonyms.in_use.tenants()
        self._keys: dict[str, Key] = {}

    def stored(self, sent: Person) -> Person:
        """A person as events name them."""
        if sent.tenant not in self._in_use:
            return sent
        if sent.tenant not in self._keys:
            self._keys[sent.tenant] = self._pseudonyms.known_key(sent.tenant)
        return Person(sent.tenant, sent.kind, pseudonym(self._keys[sent.tenant], sent.id))

    def sent(self, stored: Iterable[Person]) -> dict[Person, str]:
        """How senders name people; without those that no sender named."""
        people = list(stored)
        values = self._told | self._pseudonyms.values_of([(one.tenant, one.id) for one in people if one.tenant in self._in_use])
        named = {one: values.get((one.tenant, one.id)) if one.tenant in self._in_use else one.id for one in people}
        return {one: value for one, value in named.items() if value is not None}

    def meant(self, con: duckdb.DuckDBPyConnection, request: Request, hints: Sequence[Person]) -> list[Person]:
        """Whom a request means, as senders name them. `hints` are people who may be among them; else all are looked at."""
        digests = request.digests
        hinted = [one for one, digest in zip(hints, self._ledger.digests(request, hints), strict=True) if digest in digests]
        if digests <= set(self._ledger.digests(request, hinted)):
            return hinted
        people = [
            *self._marked(con, request),
            *(Person(tenant, kind, value) for tenant, value in self._of_rejected(con) for kind in _KINDS),
        ]
        named = zip(people, self._ledger.digests(request, people), strict=True)
        return [person for person, digest in named if digest in digests]

    def _marked(self, con: duckdb.DuckDBPyConnection, request: Request) -> list[Person]:
        """Of every identifier of every tenant, as senders name people, those who may be meant."""
        raw = f"select tenant_id, value as id from ({self._pseudonyms.table.snapshot().select()})"
        events = self._intake.events.snapshot().select()
        mine = " or ".join(f"tenant_id = '{tenant}'" for tenant in self._in_use) or "false"
        clear = " union ".join(f"select tenant_id, {column} from ({events}) where not ({mine})" for column in _COLUMNS)
        every = f"(select distinct tenant_id, id from ({raw} union all {clear}) where id is not null)"
        kinds = " union all ".join(f"select tenant_id, '{kind}' as kind, id from {every}" for kind in _KINDS)
        meant = self._ledger.stand_marks(con, [request])
        return [Person(*row) for row in con.execute(f"select tenant_id, kind, id from ({kinds}) where {meant}").fetchall()]

    def _stand_rejected(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make temp table `rejected_people`, once: who rejected records are of, as sent. Of some nothing else is stored."""
        if self._read:
            return
        con.execute(
            "create or replace temp table rejected_people (tenant_id varchar, user_id varchar, anonymous_id varchar, "
            "previous_id varchar, seen_at timestamp, aside boolean)"
        )
        rows = self._intake.rejected.snapshot().select()
        aside = f"starts_with(reason, '{SET_ASIDE}')"
        groups = con.execute(f"select distinct source, landed_for, {aside} from ({rows}) order by all").fetchall()
        for name, landed_for, was_event in groups:
            asked = f"select raw from ({rows}) where source = ? and landed_for is not distinct from ? and {aside} = ?"
            found = con.cursor().execute(asked, [name, landed_for, was_event]) if name in self._sources else None
            while found and (raws := [raw for (raw,) in found.fetchmany(_CHUNK)]):
                for _ in slices_from_raw(con, raws, self._sources[name], tenant=landed_for, received_at=_ANY_TIME):
                    con.execute(
                        "insert into rejected_people select tenant_id, user_id, anonymous_id, previous_id, max(timestamp), ? "
                        f"from (select *, {_PREVIOUS} as previous_id from mapped) "
                        "where tenant_id <> '' and (user_id <> '' or anonymous_id <> '') group by all",
                        [was_event],
                    )
        self._read = True

    def _of_rejected(self, con: duckdb.DuckDBPyConnection) -> set[tuple[str, str]]:
        """(tenant, identifier as sent) of rejected records."""
        self._stand_rejected(con)
        every = "select tenant_id, unnest([user_id, anonymous_id, previous_id]) as id from rejected_people"
        return set(con.execute(f"select distinct tenant_id, id from ({every}) where id <> ''").fetchall())

    def stand_identities(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make temp table `who_is`: who is who by all events that are stored, also by those that wait for a rebuild.

        Where no event says whose an id is, records say it that were events until they were set aside. What other rejected
        records say counts for ids that no event bears: it was never accepted, and takes nobody's events.
        """
        events, waiting = self._intake.events.snapshot(), pending_days(con, self._intake.home)
        recent = events.select(events.between(*day_bounds(waiting))) if waiting else EVENTS.empty_select
        self._stand_told(con, events.select())
        known = f"select tenant_id, kind, from_id, user_id, seen_at from ({self._identities.snapshot().select()})"
        merge_identities(con, recent, f"{known} union all from told")
        con.execute(f"create or replace temp table who_is as {resolved_identities('from new_identities')}")
        con.execute("drop table new_identities; drop table told")

    def _stand_told(self, con: duckdb.DuckDBPyConnection, events: str) -> None:
        """Make temp table `told`: like identities, what rejected records say of who is who, before all that events say."""
        self._stand_rejected(con)
        seen = """
            select tenant_id, 'device' as kind, anonymous_id as from_id, user_id, seen_at, aside from rejected_people
            where previous_id is null union all
            select tenant_id, 'alias', previous_id, user_id, seen_at, aside from rejected_people where previous_id <> user_id
        """
        said = f"select * from ({seen}) where from_id <> '' and user_id <> ''"
        sent = con.execute(f"select distinct tenant_id, unnest([from_id, user_id]) from ({said})").fetchall()
        # A pseudonym may be of an older key.
        alike = [one for one in sent if one[0] in self._in_use and re.fullmatch(FORM, one[1])]
        meant = self._pseudonyms.values_of(alike) if alike else {}
        named = [meant.get(one, one[1]) for one in sent]
        stored = [self.stored(Person(tenant, "user", name)).id for (tenant, _), name in zip(sent, named, strict=True)]
        self._told = {(tenant, id_): name for (tenant, _), id_, name in zip(sent, stored, named, strict=True)}
        con.execute(
            "create or replace temp table stored_as as select unnest(?::varchar[]) as tenant_id, unnest(?::varchar[]) as id, "
            "unnest(?::varchar[]) as stored",
            [[tenant for tenant, _ in sent], [id_ for _, id_ in sent], stored],
        )
        borne = " union all ".join(
            f"select e.tenant_id, {column} as stored from ({events if sent else EVENTS.empty_select}) e "
            f"semi join stored_as on stored_as.tenant_id = e.tenant_id and stored = e.{column}" for column in _COLUMNS
        )  # fmt: skip
        con.execute(f"""
            create or replace temp table told as
            select s.tenant_id, kind, u.stored as from_id, arg_max(v.stored, (seen_at, v.stored)) as user_id,
                timestamp '0001-01-01' as seen_at
            from ({said}) s join stored_as u on u.tenant_id = s.tenant_id and u.id = from_id
                join stored_as v on v.tenant_id = s.tenant_id and v.id = s.user_id
            where aside or (s.tenant_id, u.stored) not in (select (tenant_id, stored) from ({borne}))
            group by all
        """)
        con.execute("drop table stored_as")

    def older(self, sent: Mapping[Person, str]) -> list[Person]:
        """The same people by pseudonyms of other keys: events that were set aside bear those of their time."""
        found = list[Person]()
        for one, name in sent.items():
            if one.tenant in self._in_use:
                others = set(self._pseudonyms.names(one.tenant, name)) - {one.id, name}
                found += [Person(one.tenant, one.kind, other) for other in sorted(others)]
        return found

    def same(self, con: duckdb.DuckDBPyConnection, people: Collection[Person]) -> list[Person]:
        """These (as stored) and all that are the same people, by `who_is`."""
        columns = [[getattr(person, name) for person in people] for name in ("tenant", "kind", "id")]
        con.execute(
            "create or replace temp table asked as select unnest(?::varchar[]) as tenant_id, unnest(?::varchar[]) as kind, "
            "unnest(?::varchar[]) as id",
            columns,
        )
        con.execute("""
            create or replace temp table finals as
            select a.tenant_id, coalesce(w.as_user, a.id) as id
            from asked a left join who_is w using (tenant_id, id) where kind = 'user'
            union select tenant_id, as_device from asked join who_is using (tenant_id, id)
            where kind = 'device' and as_device <> ''
        """)
        rows = con.execute("""
            select tenant_id, kind, id from asked
            union select tenant_id, 'user', id from finals
            union select f.tenant_id, 'user', w.id from finals f
                join who_is w on f.tenant_id = w.tenant_id and f.id = w.as_user
            union select f.tenant_id, 'device', w.id from finals f
                join who_is w on f.tenant_id = w.tenant_id and f.id = w.as_device
        """).fetchall()
        con.execute("drop table asked; drop table finals")
        return sorted(Person(*row) for row in rows)

    def known(self, con: duckdb.DuckDBPyConnection, stored: Collection[Person]) -> set[Person]:
        """Those of whom something is stored."""
        found = set(self.sent(person for person in stored if person.tenant in self._in_use))
        clear = [person for person in stored if person.tenant not in self._in_use]
        if clear:
            events = self._intake.events.snapshot().select()
            for kind, column in zip(_KINDS, _COLUMNS, strict=True):
                ids = [person.id for person in clear if person.kind == kind]
                seen = con.execute(
                    f"select distinct tenant_id, {column} from ({events}) where {column} in (select unnest(?::varchar[]))",
                    [ids],
                ).fetchall()
                found |= {Person(tenant, kind, id_) for tenant, id_ in seen} & set(clear)
        if left := set(stored) - found:
            rejected = {self.stored(Person(tenant, "user", id_)) for tenant, id_ in self._of_rejected(con)}
            found |= {one for one in left if Person(one.tenant, "user", one.id) in rejected}
        return found


_COLUMNS = ("user_id", "anonymous_id")
# The earlier id that an alias names, if it says one; null for all other calls.
_PREVIOUS = "case when type = 'alias' then coalesce(try(properties ->> 'previousId'), '') end"
