"""Who goes: whom a request means, and every identifier that stitching knows to be the same person."""

from collections.abc import Collection, Iterable, Sequence

import duckdb

from analytics_assets.events.days import pending_days
from analytics_assets.events.intake import Intake
from analytics_assets.events.schema import EVENTS
from analytics_assets.privacy.digests import pseudonym
from analytics_assets.privacy.keyring import Key
from analytics_assets.privacy.ledger import Kind, Ledger, Person, Request
from analytics_assets.privacy.pseudonyms import Pseudonyms
from analytics_assets.sessions.build import merge_identities, resolved_identities
from analytics_assets.warehouse.table import Table, day_bounds

_KINDS: tuple[Kind, ...] = ("user", "device")


class Whom:
    """Looks in what is stored; callers hold the lock of intake."""

    def __init__(self, intake: Intake, identities: Table, pseudonyms: Pseudonyms, ledger: Ledger) -> None:
        self._intake, self._identities, self._pseudonyms, self._ledger = intake, identities, pseudonyms, ledger
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
        values = self._pseudonyms.values_of([(one.tenant, one.id) for one in people if one.tenant in self._in_use])
        named = {one: values.get((one.tenant, one.id)) if one.tenant in self._in_use else one.id for one in people}
        return {one: value for one, value in named.items() if value is not None}

    def meant(self, con: duckdb.DuckDBPyConnection, request: Request, hints: Sequence[Person]) -> list[Person]:
        """Whom a request means, as senders name them. `hints` are people who may be among them; else all are looked at."""
        digests = request.digests
        hinted = [one for one, digest in zip(hints, self._ledger.digests(request, hints), strict=True) if digest in digests]
        if digests <= set(self._ledger.digests(request, hinted)):
            return hinted
        people = self._marked(con, request)
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

    def stand_identities(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make temp table `who_is`: who is who by all events that are stored, also by those that wait for a rebuild."""
        events, waiting = self._intake.events.snapshot(), pending_days(con, self._intake.home)
        recent = events.select(events.between(*day_bounds(waiting))) if waiting else EVENTS.empty_select
        merge_identities(con, recent, self._identities.snapshot().select())
        con.execute(f"create or replace temp table who_is as {resolved_identities('from new_identities')}")
        con.execute("drop table new_identities")

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
        return found


_COLUMNS = ("user_id", "anonymous_id")
