"""Records that come after an erasure: late, replayed or sent once more. Those of forgotten people are not stored.

Those of others are, without the device of a forgotten person and without the keys that name one, as an erasure leaves what
it finds stored. The ledger names nobody: each name in a record is asked about by its digest.
"""

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path as FilePath

import duckdb

from analytics_assets.erasure.naming import Paths, named_in_json, stand_words, without_fields
from analytics_assets.events.values import REPLACED_BY, Values
from analytics_assets.privacy.ledger import Ledger, Person
from analytics_assets.privacy.taxonomy import JSON_COLUMNS
from analytics_assets.sources.redact import TOLD, masked
from analytics_assets.sources.text import UnreadableFile, lines_of, text_stream
from analytics_assets.warehouse.spec import literal

# A record of before the request: it happened or was received until then, or does not say when. Who comes back later is
# somebody new.
_BEFORE = "coalesce(timestamp <= until or received_at <= until, true)"
# Whose a record is.
_WHOSE = "case when user_id <> '' then 'user' else 'device' end as kind, coalesce(nullif(user_id, ''), anonymous_id) as id"
_LINES = 50_000
_ALWAYS = datetime.fromisoformat("9999-12-31")
# Stands where a device was taken out of a rejected record that is tried again.
_CLEANED = REPLACED_BY.decode()


class Forgotten:
    """Finds them among mapped records, whose identifiers are still as they were sent."""

    def __init__(self, ledger: Ledger, paths: Callable[[], Paths], tenants: Collection[str]) -> None:
        self._ledger, self._paths, self._tenants = ledger, paths, sorted(tenants)
        self._met: set[str] = set()

    def met(self) -> Values:
        """The names of forgotten people that were found since this was asked last."""
        met, self._met = self._met, set()
        return Values(met)

    def mark(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Make temp table `forgotten_rows` (rn) of the records in `mapped` that go; False where there are none."""
        if not self._ledger.requests() or not self._stand_people(con, f"select distinct tenant_id, {_WHOSE} from mapped"):
            return False
        self._stand_rows(con)
        con.execute("drop table forgotten_people")
        return bool(con.execute("select count(*) from forgotten_rows").fetchall()[0][0])

    def look(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Make temp tables `forgotten_rows` (rn) of the records in `mapped` that go, and `stripped` of those that change.

        False, and no tables, where there are none.
        """
        if not self._ledger.requests():
            return False
        told = named_in_json("(from mapped where reason is null)", "rn, tenant_id, timestamp, received_at", self._paths())
        con.execute(f"create or replace temp table named as {told}")
        found = self._stand_people(
            con,
            f"select tenant_id, {_WHOSE} from mapped "
            "union select tenant_id, 'device', anonymous_id from mapped "
            "union select tenant_id, unnest(['user', 'device']), id from named",
        )
        if found:
            self._stand_rows(con)
            con.execute(
                "create or replace temp table stripped as select rn, bool_or(field is null) as device, "
                "list(distinct field) filter (field is not null) as fields from ("
                "select rn, null::int as field, until, timestamp, received_at from mapped join forgotten_people p "
                "on p.tenant_id = mapped.tenant_id and p.kind = 'device' and p.id = mapped.anonymous_id "
                "union all select rn, field, until, timestamp, received_at from named join forgotten_people "
                f"using (tenant_id, id)) where {_BEFORE} and rn not in (select rn from forgotten_rows) group by rn"
            )
            con.execute("drop table forgotten_people")
        con.execute("drop table named")
        return found

    def _stand_rows(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute(
            "create or replace temp table forgotten_rows as select distinct rn from "
            f"(select rn, tenant_id, timestamp, received_at, {_WHOSE} from mapped) "
            f"join forgotten_people using (tenant_id, kind, id) where {_BEFORE}"
        )

    def strip(self, con: duckdb.DuckDBPyConnection) -> str | None:
        """After `look` found somebody: a FROM item like `mapped` without what names them; None if that is the same."""
        if not con.execute("select count(*) from stripped").fetchall()[0][0]:
            return None
        paths = self._paths()
        changed = [
            f"case when s.fields is null then m.{name} else {without_fields(f'm.{name}', 's.fields', paths)} end as {name}"
            for name in JSON_COLUMNS
        ]
        device = "case when s.device then null else m.anonymous_id end as anonymous_id"
        return f"(select m.* replace ({', '.join([device, *changed])}) from mapped m left join stripped s using (rn))"

    def clean(self, con: duckdb.DuckDBPyConnection, rejected: str) -> bool:
        """Make temp table `cleaned` (rn, raw) of the records of `rejected` (a SELECT of rn) that name forgotten people.

        `raw` is their text without those names, or null where nobody can tell that the record is not theirs. False, and no
        table, where there are none.
        """
        if not self._ledger.requests():
            return False
        ours = ", ".join(map(literal, self._tenants)) or "''"
        # Whose a record is that names no tenant of ours cannot be told: it may be anybody's.
        whose = f"case when tenant_id in ({ours}) then [tenant_id] else [{ours}] end"
        con.execute(
            f"create or replace temp table suspects as select rn, {whose} as tenants, timestamp, received_at, "
            f"{TOLD} as told, raw from mapped semi join ({rejected}) using (rn)"
        )
        found = self._stand_named(con, "select rn, unnest(tenants) as tenant_id, raw as text from suspects")
        if found:
            rows = con.execute(
                "select rn, any_value(raw), any_value(told), list(distinct id) from suspects join words using (rn) "
                f"join forgotten_people using (tenant_id, id) where list_contains(tenants, tenant_id) and {_BEFORE} group by rn"
            ).fetchall()
            texts = [(rn, *masked(raw, told, Values(names))) for rn, raw, told, names in rows]
            changed = [(rn, text) for rn, text, times in texts if times]
            con.execute("create or replace temp table cleaned as select unnest(?::bigint[]) as rn, unnest(?::varchar[]) as raw",
                        [[rn for rn, _ in changed], [text for _, text in changed]])  # fmt: skip
            con.execute("drop table forgotten_people; drop table words")
            found = bool(changed)
        con.execute("drop table suspects")
        return found

    def named_in(self, con: duckdb.DuckDBPyConnection, texts: str) -> bool:
        """Whether texts (see `stand_words`) name forgotten people, who are met then."""
        found = bool(self._ledger.requests()) and self._stand_named(con, texts)
        if found:
            con.execute("drop table forgotten_people; drop table words")
        return found

    def is_in(self, con: duckdb.DuckDBPyConnection, path: FilePath, tenant: str) -> bool:
        """Whether a file that cannot be read as records, but as text, names forgotten people, who are met then."""
        found, lines = False, list[str]()

        def look() -> bool:
            con.execute("create or replace temp table lines as select 0 as rn, ? as tenant_id, unnest(?::varchar[]) as text",
                        [tenant, lines])  # fmt: skip
            return self.named_in(con, "from lines")

        try:
            with path.open("rb") as raw:
                for line in lines_of(text_stream(raw)):
                    lines.append(line.decode("utf-8", "replace"))
                    if len(lines) == _LINES:
                        found = look() or found
                        lines.clear()
        except (UnreadableFile, OSError, EOFError):
            return False
        return look() or found

    def _stand_named(self, con: duckdb.DuckDBPyConnection, texts: str) -> bool:
        stand_words(con, texts)
        found = self._stand_people(con, "select distinct tenant_id, unnest(['user', 'device']) as kind, id from words")
        if not found:
            con.execute("drop table words")
        return found

    def _stand_people(self, con: duckdb.DuckDBPyConnection, people: str) -> bool:
        """Make temp table `forgotten_people` of those of a SELECT (tenant_id, kind, id) who are to be forgotten, with `until`.

        False, and no table, where nobody is.
        """
        meant = self._ledger.stand_marks(con, self._ledger.requests())
        cleaned = f"kind = 'device' and id = {literal(_CLEANED)}"
        asked = (
            f"select tenant_id, kind, id from ({people}) where tenant_id is not null and id <> '' and ({meant} or {cleaned})"
        )
        known = [Person(*row) for row in con.execute(asked).fetchall()]
        until = {one: _ALWAYS for one in known if one.id == _CLEANED} | self._ledger.until(known)
        if not until:
            return False
        self._met |= {one.id for one in until} - {_CLEANED}
        columns = [[getattr(person, name) for person in until] for name in ("tenant", "kind", "id")]
        con.execute(
            "create or replace temp table forgotten_people as select unnest(?::varchar[]) as tenant_id, "
            "unnest(?::varchar[]) as kind, unnest(?::varchar[]) as id, unnest(?::timestamp[]) as until",
            [*columns, list(until.values())],
        )
        return True
