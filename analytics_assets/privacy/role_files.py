"""A published file for each role and tenant that is declared to have one: what the role may see of that tenant, nothing else.

Each is written anew, row by row, from the version that readers get, so that no page of the full file comes along; it is a whole
file or the one before. It names its version, and says what its columns are. What is no longer declared is removed.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.privacy.egress import MASKED_GROUPS, Answer, Egress, insert, rows_of, sha256_of, type_of
from analytics_assets.privacy.labels import FIELD_TAXONOMY, Labels
from analytics_assets.privacy.rare import masking, origins_of, shown
from analytics_assets.privacy.roles import DIMENSIONS, Role, Roles, shown_columns, tenant_column
from analytics_assets.warehouse.home import Home, replace_file
from analytics_assets.warehouse.publish import READABLE_FROM
from analytics_assets.warehouse.spec import Column, TableSpec, identifier, literal

AGGREGATES = "aggregates"
ROLE_FILE = TableSpec(
    name="role_file",
    comment="One row: whose file this is, and of which version.",
    columns=(
        Column("role", "VARCHAR", "Role, as roles.yaml declares it."),
        Column("tenant_id", "VARCHAR", "Tenant whose data it holds, and no other's."),
        Column("version", "BIGINT", "Published version that it was made from."),
        Column("published_at", "TIMESTAMP", "When that version was published (UTC)."),
        Column("declared", "BIGINT", "Check sum of what was declared: it is made anew when that changes."),
    ),
    time_column=None,
    order_by=(),
)
_STAGED = ".staged"


@dataclass(frozen=True)
class Part:
    """A table as a role sees it: its columns, the condition that chooses its rows, and the columns whose rare texts are masked.

    These with the columns of events that they come from.
    """

    spec: TableSpec
    columns: tuple[Column, ...]
    where: str
    masked: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Leaving:
    """A file that is made and about to be put in place: whose it is, of which version, and what it holds."""

    role: str
    tenant: str
    version: int
    tables: tuple[str, ...]
    rows: int
    masked_groups: int
    sha256: str


@dataclass(frozen=True)
class Kept:
    """What was done: files that were written and removed, as `role/tenant`, and a sentence for each that failed."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    failed: tuple[str, ...]


def folder(home: Home) -> Path:
    """`<role>/<tenant>.duckdb`."""
    return home.published / "roles"


def there(home: Home) -> dict[str, tuple[int, int]]:
    """The files that there are, as `role/tenant`, each with what changes when it is written anew."""
    found = {f"{path.parent.name}/{path.stem}": path.stat() for path in sorted(folder(home).glob("*/*.duckdb"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def versions_of(home: Home) -> dict[Path, int | None]:
    """The files that there are, each with the version that it is of; None where it cannot be read."""
    found = {path: _made_of(path) for path in sorted(folder(home).glob("*/*.duckdb"))}
    return {path: made_of[0] if made_of else None for path, made_of in found.items()}


def remove_older(home: Home, version: int) -> None:
    """Remove the files of versions before this one, which could not be made anew since, and those that cannot be read."""
    for path, made_of in versions_of(home).items():
        if made_of is None or made_of < version:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RoleFiles:
    """The files of all roles. `tables` are those that a version may hold, `tenants` all that are declared.

    `texts` are the columns of events in which a text that few people have is masked where rows of persons leave.
    `record` is told of each file before it is in place: one that cannot be recorded does not leave.
    """

    home: Home
    roles: Roles
    tables: Sequence[TableSpec]
    labels: Labels
    tenants: Sequence[str]
    texts: Sequence[str]
    record: Callable[[Leaving], None]
    memory_mb: int = 512

    def keep(self, full: Path, version: int, egress: Egress, progress: Callable[[str], None] = lambda name: None) -> Kept:
        """Bring all files to `version`, which `full` holds. One that fails stays as it was and holds up no other."""
        wanted = {
            (name, tenant): role
            for name, role in self.roles.roles.items() if role.file
            for tenant in self.tenants if role.has(tenant)
        }  # fmt: skip
        declared = {name: self._declared(role) for name, role in self.roles.roles.items() if role.file}
        removed = tuple(self._removed(set(wanted)))
        written, failed = list[str](), list[str]()
        for (name, tenant), role in wanted.items():
            path = folder(self.home) / name / f"{tenant}.duckdb"
            if _made_of(path) == (version, declared[name]):
                continue
            progress(f"{name}/{tenant}")
            try:
                self._write(path, full, (name, tenant, version, declared[name]), role, egress)
                written.append(f"{name}/{tenant}")
            except (duckdb.Error, OSError) as error:
                failed.append(f"{name}/{tenant}: {' '.join(str(error).split())[:200]}")
        return Kept(tuple(written), removed, tuple(failed))

    def _declared(self, role: Role) -> int:
        """Changes with everything that a file is made by, but its data."""
        columns = [[column.name for column in shown_columns(role, spec, self.labels)] for spec in self.tables]
        return zlib.crc32(repr((role, self.roles.egress, columns)).encode())

    def _parts(self, role: Role, tenant: str) -> Iterator[Part]:
        for spec in self.tables:
            of_tenant = tenant_column(spec)
            if spec.name not in role.tables or of_tenant is None:
                continue
            columns = shown_columns(role, spec, self.labels)
            rare = origins_of(self.labels, spec, self.texts) if role.people and role.rare == "masked" else {}
            masked = {column.name: rare[column.name] for column in columns if column.name in rare}
            yield Part(spec, columns, f"{identifier(of_tenant)} = {literal(tenant)} and {rows_of(role)}", masked)

    def _write(self, path: Path, full: Path, about: tuple[str, str, int, int], role: Role, egress: Egress) -> None:
        name, tenant, version, declared = about
        path.parent.parent.mkdir(exist_ok=True)
        # The group that owns the folder reads its files, for those to whom the role is given.
        path.parent.mkdir(mode=0o750, exist_ok=True)
        staged = path.with_name(f".{path.name}{_STAGED}")
        _unlink(staged)
        config: dict[str, str | bool | int | float | list[str]] = {
            "storage_compatibility_version": READABLE_FROM,
            "memory_limit": f"{self.memory_mb}MB",
            "temp_directory": str(self.home.work / "spill"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        try:
            with duckdb.connect(str(staged), config=config) as con:
                staged.chmod(0o600)
                con.execute("set timezone = 'UTC'")
                con.execute(f"attach {literal(str(full))} as version_file (read_only)")
                published_at = con.execute("select max(published_at) from version_file.published_tables").fetchall()[0][0]
                con.execute("begin")
                _create(con, ROLE_FILE, ROLE_FILE.columns)
                con.execute("insert into role_file values (?, ?, ?, ?, ?)", [name, tenant, version, published_at, declared])
                _create(con, FIELD_TAXONOMY, FIELD_TAXONOMY.columns)
                parts = list(self._parts(role, tenant))
                texts = sorted({origin for part in parts for origins in part.masked.values() for origin in origins})
                masking(con, egress.common(name, tenant, texts))
                copied = {part.spec.name: self._copy(con, part) for part in parts}
                held = {table: rows for table, rows in copied.items() if rows is not None}
                masked = 0
                if role.measures:
                    answer = egress.everything(name, tenant)
                    _aggregates(con, answer, self.roles.egress.k)
                    held[AGGREGATES], masked = len(answer.rows), sum(row[-1] for row in answer.rows)
                con.execute("commit")
                con.execute("detach version_file")
                con.execute("checkpoint")
            staged.chmod(0o640)
            self.record(Leaving(name, tenant, version, tuple(held), sum(held.values()), masked, sha256_of(staged)))
            replace_file(staged, path)
        finally:
            _unlink(staged)

    def _copy(self, con: duckdb.DuckDBPyConnection, part: Part) -> int | None:
        """Returns how many rows it holds; None if the role may see no column that the version has."""
        source = f"version_file.{identifier(part.spec.name)}"
        there = {name for name, *_ in con.execute(f"describe {source}").fetchall()}
        columns = [column for column in part.columns if column.name in there]
        if not columns:
            return None
        _create(con, part.spec, columns)
        names = [column.name for column in columns]
        chosen = ", ".join(
            f"{shown(name, part.masked[name])} as {identifier(name)}" if name in part.masked else identifier(name)
            for name in names
        )
        # Only by what is seen: an order by anything else would tell of that.
        order = [name for name in part.spec.order_by if name in names]
        sort = f"order by {', '.join(map(identifier, order))}" if order else "order by all"
        seen = f"select * from (select {chosen} from {source} where {part.where}) {sort}"
        written: int = con.execute(f"insert into {identifier(part.spec.name)} {seen}").fetchall()[0][0]
        found = [self.labels.of(part.spec.name, column.name) for column in columns]
        rows = [one.as_row() for one in found if one is not None]
        con.executemany(f"insert into field_taxonomy values ({', '.join('?' * len(FIELD_TAXONOMY.columns))})", rows)
        return written

    def _removed(self, wanted: set[tuple[str, str]]) -> Iterator[str]:
        """Remove the files that are not `wanted`, and what a killed process left."""
        root = folder(self.home)
        if not root.exists():
            return
        for path in sorted(root.glob("*/*.duckdb")):
            if (path.parent.name, path.stem) not in wanted:
                path.unlink()
                yield f"{path.parent.name}/{path.stem}"
        for path in root.glob(f"*/.*{_STAGED}*"):
            path.unlink()
        for one in (*root.iterdir(), root):
            if one.is_dir() and not one.is_symlink() and not any(one.iterdir()):
                one.rmdir()


def _create(con: duckdb.DuckDBPyConnection, spec: TableSpec, columns: Sequence[Column]) -> None:
    name = identifier(spec.name)
    con.execute(f"create table {name} ({', '.join(f'{identifier(column.name)} {column.type}' for column in columns)})")
    con.execute(f"comment on table {name} is {literal(spec.comment)}")
    for column in columns:
        con.execute(f"comment on column {name}.{identifier(column.name)} is {literal(column.comment)}")


def _aggregates(con: duckdb.DuckDBPyConnection, answer: Answer, k: int) -> None:
    comments: dict[str, str] = {
        **{name: f"Of groups of at least {k} people; (masked) where a group is smaller." for name in DIMENSIONS},
        "people_per_group": "People, counted once in each group: a person of several groups is counted again.",
        "events": "Events.",
        "quantity": "Pieces sold, less those that came back; empty: fewer people than that had a part.",
        "revenue": "Net revenue in `currency`; empty: fewer people than that had a part.",
        MASKED_GROUPS: "Groups of the line of which a measure is masked, and not in its sum.",
    }
    columns = tuple(Column(name, type_of(name), comments[name]) for name in answer.columns)
    comment = f"What may be told of groups of at least {k} people. Add up lines as you like; people are counted once a group."
    _create(con, TableSpec(AGGREGATES, comment, columns, None, ()), columns)
    insert(con, AGGREGATES, answer)


def _made_of(path: Path) -> tuple[Any, ...] | None:
    """The version and declaration of a file; None if there is none, or it cannot be read."""
    if not path.exists():
        return None
    try:
        with duckdb.connect(str(path), read_only=True) as con:
            found: list[tuple[Any, ...]] = con.execute("select version, declared from role_file").fetchall()
    except duckdb.Error:
        return None
    return found[0] if found else None


def _unlink(staged: Path) -> None:
    for path in (staged, staged.with_name(staged.name + ".wal")):
        path.unlink(missing_ok=True)
