"""Pseudonyms: identifiers are replaced by keyed digests before anything but the raw store sees them.

A pseudonym is `<key id>:<128 bits of HMAC-SHA256(the tenant's key, value)>`, without the kind of the value: so the earlier id
that an alias names finds the user or the device that bears it. What is replaced are the columns of `events` and the keys of
what senders fill that the taxonomy labels `identifier`. The raw store, table `identifiers`, keeps what each pseudonym stands
for; it is committed before the events are, so that no pseudonym is ever without its value.

A value that is a pseudonym of its tenant stands for what it was made of: events that were set aside, and exports that are
loaded again, are of the same person, also after the key was changed. So who may send for a tenant may name people by either.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from json import dumps
from pathlib import Path as FilePath
from string import ascii_uppercase
from typing import Protocol, cast

import duckdb

from analytics_assets.privacy.digests import FORM, Digests, place_of, pseudonym
from analytics_assets.privacy.keyring import Key, KeyLost, Keyring, KeysInUse
from analytics_assets.privacy.keys import pointer
from analytics_assets.privacy.taxonomy import EVERY_SOURCE, JSON_COLUMNS, FieldLabel, JsonColumn, Taxonomy
from analytics_assets.settings import Settings, UserError
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import PublishRefused
from analytics_assets.warehouse.spec import Column, TableSpec, literal
from analytics_assets.warehouse.table import DataFile, Table, scan

IDENTIFIERS = TableSpec(
    name="identifiers",
    comment="The raw store of identifiers: what each pseudonym stands for. Never published.",
    columns=(
        Column("tenant_id", "VARCHAR", "Tenant."),
        Column("value", "VARCHAR", "The identifier as the sender gave it."),
        Column("pseudonym_key", "BIGINT", "The first 63 bits of the digest in its pseudonym, by which it is found."),
        Column("batch_id", "VARCHAR", "Batch that brought it first."),
    ),
    time_column=None,
    order_by=("tenant_id", "value"),
    closed=True,
)

Path = tuple[str, ...]
"""The keys on the way to a value in a JSON object."""

# An event's identity is found again by these, whatever they are labelled.
_NEVER = ("tenant_id", "message_id")
_FUNCTION = "pseudonym_of"
# Each load opens every file of the raw store, so small ones are merged when there are so many; large ones stay.
_MANY_FILES, _LARGE_ROWS = 24, 1_000_000


@dataclass(frozen=True)
class Fields:
    """What is replaced: columns of `events`, and paths (steps of keys) in its JSON columns."""

    columns: tuple[str, ...]
    paths: Mapping[JsonColumn, tuple[Path, ...]]


def identifying(taxonomy: Taxonomy, source: str) -> Fields:
    """The fields of events of a source that are labelled `identifier`; a path that lies in another is part of that."""
    labelled = taxonomy.tables["events"].columns
    columns = [name for name, own in labelled.items() if own.label == "identifier" and name not in _NEVER]
    paths = {}
    for column in JSON_COLUMNS:
        by_source = taxonomy.keys.get(column, {})
        keys: dict[str, FieldLabel] = {**by_source.get(EVERY_SOURCE, {}), **by_source.get(source, {})}
        found = {tuple(path.split(".")) for path, own in keys.items() if own.label == "identifier"}
        paths[column] = tuple(sorted(one for one in found if not any(one[:n] in found for n in range(1, len(one)))))
    return Fields(tuple(columns), paths)


@dataclass(frozen=True)
class InClear:
    """A labelled field of a tenant's stored events with values that are no pseudonyms: its label is younger than they are."""

    tenant: str
    field: str
    events: int
    first: date


class Stored(Protocol):
    """What is asked about the stored events."""

    def has_events(self, con: duckdb.DuckDBPyConnection, tenant: str) -> bool: ...

    def has(self, mark: str) -> bool: ...


class Pseudonyms:
    """The pseudonyms of a data home. Between `replaced` and `keep` callers hold the lock of intake."""

    def __init__(
        self, home: Home, keyring: Keyring, tenants: Mapping[str, bool], taxonomy: Callable[[], Taxonomy],
        stored: Callable[[], "Stored"], clock: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self.keyring, self.in_use = keyring, KeysInUse(home, keyring)
        self.table = Table(home.warehouse, IDENTIFIERS)
        self._tenants, self.taxonomy, self._stored, self._clock = tenants, taxonomy, stored, clock
        self._anew: dict[str, Key] = {}
        self._digests: Digests | None = None
        # The temporary tables of the current slice.
        self._made: list[str] = []

    @classmethod
    def declared(
        cls, settings: Settings, home: Home, stored: Callable[[], "Stored"], clock: Callable[[], datetime]
    ) -> "Pseudonyms":
        """As `tenants.yaml` and `taxonomy.yaml` declare them."""
        tenants = {name: tenant.pseudonyms for name, tenant in settings.tenants.items()}
        return cls(home, Keyring(settings.keys), tenants, _Read(settings.config / "taxonomy.yaml"), stored, clock)

    # For intake

    def replaced(
        self, con: duckdb.DuckDBPyConnection, relation: str, source: str, tenants: Collection[str],
        absent: Collection[str] = (), named: str | None = None,
    ) -> str:  # fmt: skip
        """A FROM item: the FROM item `relation`, of mapped records of these tenants, with pseudonyms for identifiers.

        `absent` names columns that hold nothing; `named` is a FROM item of the same rows with `columns`, cheaper to read.
        Raises KeyLost, and UserError where stored events are as they are not declared to be.
        """
        noted = self.in_use.tenants()
        wanted = sorted(tenant for tenant in tenants if self._tenants.get(tenant, True))
        for tenant in tenants:
            if tenant in noted and tenant not in wanted:
                raise UserError(
                    f"stored events of '{tenant}' bear pseudonyms; declare `pseudonyms: true` for it in tenants.yaml"
                )
        if not wanted:
            return relation
        if self._digests is None:
            self._digests = Digests(self.values)
        for tenant in wanted:
            self._digests.use(tenant, self.key(con, tenant))
        with suppress(duckdb.Error):
            con.remove_function(_FUNCTION)
        con.create_function(_FUNCTION, self._digests.of, ["VARCHAR", "VARCHAR"], "VARCHAR", type="arrow")  # type: ignore[call-overload]
        fields = identifying(self.taxonomy(), source)
        # Almost always all of them have pseudonyms.
        mine = f"tenant_id in ({', '.join(map(literal, wanted))})" if len(wanted) < len(tenants) else None
        columns = [name for name in fields.columns if name not in absent]
        given = named if named and self.columns(source) else relation
        return self._with_columns(con, given, _with_keys(relation, fields.paths, mine), columns, mine)

    def columns(self, source: str) -> Sequence[str]:
        """The columns of events that are replaced; none where no tenant has pseudonyms."""
        return identifying(self.taxonomy(), source).columns if any(self._tenants.values()) else ()

    def key(self, con: duckdb.DuckDBPyConnection, tenant: str) -> Key:
        """The key of the tenant's pseudonyms, made and noted when it is first needed. Raises KeyLost, UserError."""
        if tenant in self._anew:
            return self._anew[tenant]
        noted = self.in_use.tenants().get(tenant)
        if noted and "next_id" in noted:
            # Somebody began to make all pseudonyms anew. What was committed decides whether that was done.
            which = "next_" if self._stored().has(_mark(tenant, noted["next_id"])) else ""
            self.in_use.note(tenant, id=noted[f"{which}id"], fingerprint=noted[f"{which}fingerprint"])
        found = self.in_use.key(tenant)
        if found is None:
            if self._stored().has_events(con, tenant):
                raise UserError(
                    f"stored events of '{tenant}' hold identifiers in clear, and new ones would hold pseudonyms; run "
                    f"`analytics privacy rotate --tenant {tenant}`, which replaces them, or declare `pseudonyms: false` for it "
                    "in tenants.yaml"
                )
            found = self.keyring.after(tenant, None, self._clock())
            self.in_use.note(tenant, id=found.id, fingerprint=found.fingerprint)
        return found

    def begin_anew(self, con: duckdb.DuckDBPyConnection, tenant: str) -> str:
        """From here to `end_anew` the tenant's pseudonyms are made with a new key; returns the mark of the commit of events."""
        if not self._tenants.get(tenant, True):
            raise UserError(f"'{tenant}' has no pseudonyms: tenants.yaml declares `pseudonyms: false`")
        noted = self.in_use.tenants().get(tenant)
        if noted and "next_id" in noted and self._stored().has(_mark(tenant, noted["next_id"])):
            noted = {"id": noted["next_id"], "fingerprint": noted["next_fingerprint"]}
        # The old key itself is not needed: the raw store tells what its pseudonyms stand for. So this mends its loss too.
        made = self.keyring.after(tenant, noted["id"] if noted else None, self._clock())
        if noted:
            following = {"next_id": made.id, "next_fingerprint": made.fingerprint}
            self.in_use.note(tenant, id=noted["id"], fingerprint=noted["fingerprint"], **following)
        self._anew[tenant] = made
        return _mark(tenant, made.id)

    def end_anew(self, tenant: str, *, done: bool) -> None:
        """After the commit of events, or where there was none."""
        made = self._anew.pop(tenant)
        if done:
            self.in_use.note(tenant, id=made.id, fingerprint=made.fingerprint)

    def _with_columns(
        self, con: duckdb.DuckDBPyConnection, relation: str, result: str, columns: Sequence[str], mine: str | None
    ) -> str:
        """`result`, which has the rows of `relation`, with pseudonyms in columns.

        They are made once for those who come together (a user, device and session), who mostly come often, and joined to each
        row: to ask a function for each value costs several times as much, even if it only has to look the answer up.
        """
        if not columns:
            return result
        together, made = ("tenant_id", *columns), f"__made_{len(self._made)}"
        pseudonyms = [_of(f"nullif({name}, '')") + f" as __{name}" for name in columns]
        self._made.append(made)
        con.execute(
            f"create or replace temp table {made} as select *, {_hash(together)} as __mark, {', '.join(pseudonyms)} "
            f"from (select distinct {', '.join(together)} from {relation} where {mine or 'true'})"
        )
        # Where no two of them have one hash, it decides as well as they do; otherwise each row would find both.
        alone = con.execute(f"select count(distinct __mark) = count(*) from {made}").fetchall()[0][0]
        if alone:
            same = f"{made}.__mark = {_hash([f'given.{name}' for name in together])}"
        else:
            same = " and ".join(f"{made}.{name} is not distinct from given.{name}" for name in together)
        changed = {
            name: f"case when given.{mine} then __{name} else given.{name} end" if mine else f"__{name}" for name in columns
        }
        replaced = ", ".join(f"{sql} as {name}" for name, sql in changed.items())
        return f"(select given.* replace ({replaced}) from {result} given left join {made} on {same})"

    def gather(self, con: duckdb.DuckDBPyConnection) -> None:
        """Put what a slice brought aside, so that memory does not grow with the file."""
        self._drop(con)
        new = self._digests.taken() if self._digests else None
        if new is None:
            return
        con.register("__new_identifiers", new)
        try:
            con.execute("create temp table if not exists gathered_identifiers (tenant_id varchar, value varchar, "
                        "pseudonym_key bigint)")  # fmt: skip
            con.execute("insert into gathered_identifiers by name from __new_identifiers")
        finally:
            con.unregister("__new_identifiers")

    def keep(self, con: duckdb.DuckDBPyConnection, batch_id: str) -> None:
        """Commit what was gathered and is not there yet; before the commit of the events that bear it."""
        try:
            self.gather(con)
            if con.execute("select 1 from duckdb_tables() where table_name = 'gathered_identifiers'").fetchall():
                self._commit(con, batch_id)
                con.execute("drop table gathered_identifiers")
        except BaseException:
            self.forget(con)
            raise

    def _commit(self, con: duckdb.DuckDBPyConnection, batch_id: str) -> None:
        delta = self.table.latest()
        files = self.table.snapshot_of(delta).files
        known = f"anti join {scan([file.path for file in files], alike=True)} using (pseudonym_key)" if files else ""
        fresh = (
            "select any_value(tenant_id) as tenant_id, any_value(value) as value, pseudonym_key, "
            f"{literal(batch_id)} as batch_id from gathered_identifiers {known} group by pseudonym_key"
        )
        small = _to_merge(files)
        stored = f" union all by name select {IDENTIFIERS.select_list} from {scan([f.path for f in small])}" if small else ""
        adds = self.table.write(con, f"select {IDENTIFIERS.select_list} from ({fresh}{stored})", "kept", ordered=bool(small))
        if adds:
            self.table.commit(delta, adds, small)

    def forget(self, con: duckdb.DuckDBPyConnection) -> None:
        """What was gathered is not kept: a load failed, or was only tried."""
        if self._digests:
            self._digests.taken()
        with suppress(duckdb.Error):
            self._drop(con)
            con.execute("drop table if exists gathered_identifiers")

    def _drop(self, con: duckdb.DuckDBPyConnection) -> None:
        """Drop what was made for a slice."""
        for made in self._made:
            con.execute(f"drop table if exists {made}")
        self._made.clear()

    # For people

    def confirm_keys(self) -> None:
        """Raise PublishRefused if a key is lost: whoever reads the data would not know that nobody can be found any more."""
        try:
            self.in_use.confirm()
        except KeyLost as lost:
            raise PublishRefused(str(lost)) from None

    def values(self, tenant: str, pseudonyms: Sequence[str]) -> dict[str, str]:
        """What each of these stands for; without those that are no pseudonyms of the tenant."""
        return {one: value for (_, one), value in self.values_of([(tenant, one) for one in pseudonyms]).items()}

    def values_of(self, pseudonyms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """What each (tenant, pseudonym) stands for; without those that are none."""
        files = self.table.snapshot().files
        if not files:
            return {}
        # A connection of its own: it is asked in the middle of a query too.
        with duckdb.connect(config={"threads": 1}) as con:
            asked = (
                f"select tenant_id, pseudonym, {place_of('pseudonym')} as pseudonym_key from "
                "(select unnest(?::varchar[]) as tenant_id, unnest(?::varchar[]) as pseudonym)"
            )
            stored = f"select tenant_id, pseudonym_key, value from {scan([file.path for file in files], alike=True)}"
            columns = [[tenant for tenant, _ in pseudonyms], [one for _, one in pseudonyms]]
            query = f"select tenant_id, pseudonym, value from ({asked}) join ({stored}) using (tenant_id, pseudonym_key)"
            return {(tenant, one): value for tenant, one, value in con.execute(query, columns).fetchall()}

    def in_clear(self, con: duckdb.DuckDBPyConnection, events: str) -> list[InClear]:
        """What stands in clear in `events`, a SELECT, that a rotation would replace. Reads all of them."""
        without = [tenant for tenant, wanted in self._tenants.items() if not wanted]
        found = list[InClear]()
        for (source,) in con.execute(f"select distinct source from ({events}) order by 1").fetchall():
            fields = identifying(self.taxonomy(), source)
            values = {name: name for name in fields.columns}
            for column, paths in fields.paths.items():
                for path in paths:
                    value = f"json_extract_string({column}, {literal(''.join(map(pointer, path)))})"
                    values[".".join((column, *path))] = f"case when {may_hold(column, path[:1])} then {value} end"
            clear = [f"{value} <> '' and not regexp_full_match({value}, '{FORM}')" for value in values.values()]
            counts = [f"count(*) filter (where {one}), min(timestamp::date) filter (where {one})" for one in clear]
            rows = con.execute(
                f"select tenant_id, {', '.join(counts)} from ({events}) where source = $1 and tenant_id not in "
                "(select unnest($2::varchar[])) group by 1 order by 1", [source, without],
            ).fetchall() if values else []  # fmt: skip
            for tenant, *told in rows:
                found += [
                    InClear(tenant, field, *pair) for field, *pair in zip(values, told[::2], told[1::2], strict=True) if pair[0]
                ]
        return found

    def reidentify(self, tenant: str, pseudonym: str) -> str:
        """The identifier that a pseudonym stands for, for a caller who records who asks. Raises UserError if there is none."""
        found = self.values(tenant, [pseudonym]) if re.fullmatch(FORM, pseudonym) else {}
        if pseudonym not in found:
            raise UserError(f"'{tenant}' has no such pseudonym; `analytics privacy pseudonym` tells that of an identifier")
        return found[pseudonym]

    def pseudonym(self, tenant: str, value: str) -> str:
        """The pseudonym of a value. Raises KeyLost, and UserError for a tenant without any."""
        return pseudonym(self.known_key(tenant), value)

    def known_key(self, tenant: str) -> Key:
        """What a tenant's pseudonyms are made with. Raises KeyLost, and UserError for a tenant without any."""
        key = self.in_use.key(tenant)
        if key is None:
            raise UserError(f"no pseudonym of '{tenant}' was made yet; its first load with identifiers makes a key")
        return key

    def names(self, tenant: str, value: str) -> list[str]:
        """All that whoever `value` names may be named by: the identifier, and its pseudonym under every key there is.

        `value` is an identifier, or a pseudonym that the raw store knows. Raises UserError if the keys cannot be read.
        """
        known = self.values(tenant, [value]) if re.fullmatch(FORM, value) else {}
        identifier = known.get(value, value)
        made = [pseudonym(key, identifier) for key in self.keyring.keys(tenant)]
        return list(dict.fromkeys([value, identifier, *made]))


def _with_keys(relation: str, paths: Mapping[JsonColumn, Collection[Path]], mine: str | None) -> str:
    """`relation` with pseudonyms in its JSON."""
    changed, looked = {}, list[str]()
    # A level for each step: written in one, a value would be computed again wherever it is used.
    for column, its in paths.items():
        if its:
            # What holds a key is looked at too: only an object can be patched.
            seen = sorted({path[:length] for path in its for length in range(1, len(path) + 1)})
            pointers = ", ".join(literal("".join(map(pointer, path))) for path in seen)
            asked = f"{mine or 'true'} and ({may_hold(column, sorted({path[0] for path in its}))})"
            looked.append(f"case when {asked} then json_extract_string({column}, [{pointers}]) end as __{column}")
            patch = _patch((), its, {path: f"__{column}[{place}]" for place, path in enumerate(seen, start=1)})
            changed[column] = (
                f"case when __{column} is null then {column} else json_merge_patch({column}, {patch})::varchar end"
            )
    if not changed:
        return relation
    replaced = ", ".join(f"{sql} as {name}" for name, sql in changed.items())
    return f"(select * replace ({replaced}) from (select *, {', '.join(looked)} from {relation}))"


def may_hold(column: str, keys: Collection[str]) -> str:
    """SQL that is true where JSON holds one of the keys."""
    # A letter that few texts have is looked for much faster than a word.
    rare = {key: min(key, key=lambda letter: (letter not in ascii_uppercase, letter not in "jqxz")) for key in keys if key}
    words = {key: f"contains({column}, {literal(dumps(key, ensure_ascii=False))})" for key in keys}
    asked = [f"contains({column}, {literal(rare[key])}) and {word}" if key in rare else word for key, word in words.items()]
    # A key may be spelled with escapes: any letter by its number, a few characters in another way too.
    escape = "\\" if set("".join(keys)) & set('"\\/\b\f\n\r\t') else "\\u"
    return " or ".join([*asked, f"contains({column}, {literal(escape)})"])


def _patch(above: Path, paths: Collection[Path], values: Mapping[Path, str]) -> str:
    """SQL for a merge patch of what lies under `above`.

    A null in it removes a key: of one that stands there twice the first counts, and the others must not stay.
    """
    members = []
    for step in dict.fromkeys(path[len(above)] for path in paths if path[: len(above)] == above):
        here, start = (*above, step), literal(dumps(step) + ":")
        value = values[here]
        if here in paths:
            given = _of(f"nullif({value}, '')")
            members.append(f"""{start} || coalesce('"' || {given} || '"', '"' || {value} || '"', 'null')""")
        else:
            members.append(f"case when starts_with({value}, '{{') then {start} || {_patch(here, paths, values)} end")
    return f"('{{' || concat_ws(',', {', '.join(members)}) || '}}')"


def _hash(columns: Sequence[str]) -> str:
    return f"hash({', '.join(columns)})"


def _of(value: str) -> str:
    """SQL for the pseudonym of a value of `tenant_id`; null for null."""
    return f"{_FUNCTION}(tenant_id, {value})"


class _Read:
    """The taxonomy as it stands now; read again when the file changed: a person labels a key while a process waits."""

    def __init__(self, path: FilePath) -> None:
        self._path, self._seen = path, (0, 0)
        self._found: Taxonomy | None = None

    def __call__(self) -> Taxonomy:
        stat = self._path.stat()
        seen = (stat.st_mtime_ns, stat.st_size)
        if self._found is None or seen != self._seen:
            self._found, self._seen = cast("Taxonomy", Taxonomy.load(self._path)), seen
        return self._found


def _mark(tenant: str, key_id: str) -> str:
    return f"pseudonyms:{tenant}:{key_id}"


def _to_merge(files: Iterable[DataFile]) -> list[DataFile]:
    small = [file for file in files if file.rows < _LARGE_ROWS]
    return small if len(small) >= _MANY_FILES else []
