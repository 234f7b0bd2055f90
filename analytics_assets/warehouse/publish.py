"""Publishing: one small DuckDB file that shows exactly one version of every table, swapped in by rename.

Stage, check, swap. Small tables are copied into the file, large ones are views over the exact Parquet files of their
version. Readers open `published/analytics.duckdb` read-only and never meet a lock; a version that is open stays whole
until it leaves retention. A rollback is the same swap to an older file, and holds publishing until a person releases it.
"""

import fcntl
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import Home, replace_file
from analytics_assets.warehouse.spec import Column, TableSpec, identifier, literal
from analytics_assets.warehouse.table import Snapshot

PUBLISH_LOCK = "publish"
# struct flock of Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"
# Up to this size a table is copied into the published file, which is faster to query and survives a copy of the file.
INLINE_ROWS = 200_000
# Analysts open the file with the DuckDB that they have, from this version on.
READABLE_FROM = "v1.0.0"

PUBLISHED_TABLES = TableSpec(
    name="published_tables",
    comment="One row a published table: which version this file shows and how far its data reach.",
    columns=(
        Column("table", "VARCHAR", "Name of the table."),
        Column("version", "BIGINT", "Published version, the same for all tables of one file."),
        Column("published_at", "TIMESTAMP", "When this version was published (UTC)."),
        Column("data_through", "TIMESTAMP", "Time of the latest event that the table reflects (UTC)."),
        Column("rows", "BIGINT", "Rows."),
        Column("table_version", "BIGINT", "Version of the table in the warehouse."),
        Column("bytes", "BIGINT", "Bytes of the table's files in the warehouse."),
        Column("files", "BIGINT", "Files of the table in the warehouse."),
    ),
    time_column=None,
    order_by=(),
)


class PublishRefused(UserError):
    """A check failed; the published version stays as it is."""


@dataclass(frozen=True)
class Publishable:
    """A table to publish: its snapshot, and the SELECT that readers see (default: all its columns).

    `parts` names every other snapshot that `select` reads: a change of one is a change of the table. Without `is_reason`
    the table is brought up to date when there is a new version, but its change alone makes none.
    """

    spec: TableSpec
    snapshot: Snapshot
    select: str | None = None
    hidden: tuple[str, ...] = ()
    parts: tuple[Snapshot, ...] = ()
    is_reason: bool = True

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.spec.columns if column.name not in self.hidden)


@dataclass(frozen=True)
class Published:
    """A published version. `table_versions` names what it was built from, `changed` whether this call made it."""

    version: int
    path: Path
    published_at: datetime
    rows: dict[str, int]
    table_versions: dict[str, int]
    changed: bool = True


@dataclass(frozen=True)
class Fact:
    """A table about the version itself, with its rows: copied into the file.

    `last` gives more rows when the version is built and checked: it is called just before readers get it. It is a reason for a
    new version only if it has a `version` of its own, which changes with its rows.
    """

    spec: TableSpec
    rows: Sequence[tuple[Any, ...]]
    last: Callable[[], Sequence[tuple[Any, ...]]] | None = None
    version: int | None = None


Check = tuple[str, str]
"""(name, SELECT of rows that must not exist): the first row found refuses the publish and is shown."""


def current_path(home: Home) -> Path:
    return home.published / "analytics.duckdb"


def version_path(home: Home, version: int) -> Path:
    return home.versions / f"v{version}.duckdb"


def versions(home: Home) -> list[int]:
    """Versions that can be opened, oldest first."""
    return sorted(int(path.stem[1:]) for path in home.versions.glob("v*.duckdb") if path.stem[1:].isdigit())


def history(home: Home) -> list[dict[str, Any]]:
    """Every publish and rollback, oldest first."""
    path = home.published / "history.ndjson"
    if not path.exists():
        return []
    # What is no entry is left out: a process that was killed while it appended leaves half a line.
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [entry for line in lines if (entry := _entry(line))]


_ENTRY_KEYS = {
    "publish": {"version", "published_at", "rows", "table_versions"},
    "rollback": {"version", "published_at", "from_version", "reason"},
}


def _entry(line: str) -> dict[str, Any] | None:
    """The line's entry, or None if it is no JSON or lacks what every entry of its action has."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    keys = _ENTRY_KEYS.get(str(entry.get("action"))) if isinstance(entry, dict) else None
    return entry if keys and keys <= entry.keys() else None


@dataclass(frozen=True)
class Publication:
    """From `published_at` on (UTC) readers got `version`, made of these versions of the tables."""

    version: int
    published_at: datetime
    table_versions: dict[str, int]


def publications(home: Home) -> list[Publication]:
    """What readers got since when, oldest first: every publish, and every rollback to a version whose publish is known."""
    made_of: dict[int, dict[str, int]] = {}
    found = []
    for entry in history(home):
        if entry["action"] == "publish":
            made_of[entry["version"]] = entry["table_versions"]
        if entry["version"] in made_of:
            moment = datetime.fromisoformat(entry["published_at"])
            found.append(Publication(entry["version"], moment, made_of[entry["version"]]))
    return found


def held(home: Home) -> str | None:
    """Why publishing is held since a rollback, or None."""
    newest = history(home)[-1:]
    return newest[0]["reason"] if newest and newest[0]["action"] == "rollback" else None


def has_readers(path: Path) -> bool:
    """Whether another process has a version open with DuckDB, which locks what it reads, by whatever name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    finally:
        os.close(handle)
    return bool(answer[0] != fcntl.F_UNLCK)


def current_version(home: Home) -> int | None:
    """The version that readers get now: what the file itself says."""
    path = current_path(home)
    if not path.exists():
        return None
    with duckdb.connect(str(path.resolve()), read_only=True) as con:
        return con.execute("select max(version) from published_tables").fetchall()[0][0]


def shown_version(home: Home, table: str) -> int | None:
    """The version of a table that readers get now; None while nothing is published."""
    path = current_path(home)
    if not path.exists():
        return None
    with duckdb.connect(str(path.resolve()), read_only=True) as con:
        listed = con.execute('select table_version from published_tables where "table" = ?', [table]).fetchall()
    return listed[0][0] if listed else None


def publish(
    home: Home,
    tables: Sequence[Publishable],
    *,
    now: datetime,
    facts: Sequence[Fact] = (),
    checks: Sequence[Check] = (),
    keep: int = 5,
    release: bool = False,
    progress: Callable[[str], None] = lambda table: None,
) -> Published:
    """Publish one version of all tables, or return the present one if nothing changed since.

    Raises PublishRefused if a check finds a row, or if publishing is held by a rollback and `release` is not set.
    """
    with home.lock(PUBLISH_LOCK):
        reason = held(home)
        if reason is not None and not release:
            raise PublishRefused(f"publishing is held since a rollback ({reason}); run `analytics publish` to release it")
        wanted = {table.spec.name: table.snapshot.version for table in tables}
        wanted |= {part.spec.name: part.version for table in tables for part in table.parts}
        wanted |= {fact.spec.name: fact.version for fact in facts if fact.version is not None}
        present, quiet = _present(home), {table.spec.name for table in tables if not table.is_reason}
        same = present is not None and _without(quiet, present.table_versions) == _without(quiet, wanted)
        if present and same and reason is None and _at_home(home, present.path):
            return present
        number = max([*versions(home), *(entry["version"] for entry in history(home))], default=0) + 1
        staged = home.versions / f"v{number}.staged"
        staged.unlink(missing_ok=True)
        try:
            rows = _build(staged, tables, facts, number, now, progress)
            _judge(staged, checks)
            _add_last(staged, facts)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        staged.chmod(0o444)
        path = version_path(home, number)
        replace_file(staged, path)
        _swap(home, path)
        published = Published(number, path, now, rows, wanted)
        _record(home, {"action": "publish", **asdict(published)})
        for old in versions(home)[:-keep]:
            version_path(home, old).unlink()
        return published


def _without(names: set[str], versions: dict[str, int]) -> dict[str, int]:
    return {name: version for name, version in versions.items() if name not in names}


def rollback(home: Home, to: int | None, *, now: datetime, reason: str) -> int:
    """Show an older version (default: the one before the present), and hold publishing. Returns its number."""
    with home.lock(PUBLISH_LOCK):
        known, present = versions(home), current_version(home)
        if present is None:
            raise UserError("nothing is published yet; run `analytics demo` or `analytics ingest` first")
        older = [version for version in known if version < present]
        target = to if to is not None else (older[-1] if older else None)
        if target is None:
            raise UserError(f"version {present} is the oldest that is kept; there is nothing to roll back to")
        if target not in known:
            kept = ", ".join(map(str, known))
            raise UserError(f"version {target} is not kept; choose one of {kept}")
        if target == present:
            raise UserError(f"version {target} is the one that readers see already")
        if not _at_home(home, version_path(home, target)):
            raise UserError(
                f"version {target} names files of another place, since this data home was moved; it cannot be shown"
            )
        # Held first: were this process killed in between, the next run would publish the fault again.
        entry = {"action": "rollback", "version": target, "from_version": present, "published_at": now, "reason": reason}
        _record(home, entry)
        _swap(home, version_path(home, target))
        return target


def _present(home: Home) -> Published | None:
    last = next((entry for entry in reversed(history(home)) if entry["action"] == "publish"), None)
    if not last:
        return None
    path = version_path(home, last["version"])
    if not path.exists() or not current_path(home).exists():
        return None
    moment = datetime.fromisoformat(last["published_at"])
    return Published(last["version"], path, moment, last["rows"], last["table_versions"], changed=False)


def _at_home(home: Home, path: Path) -> bool:
    """Whether the version shows files of this very data home: false after the home was moved, or restored elsewhere."""
    with duckdb.connect(str(path), read_only=True) as con:
        views = con.execute("select sql from duckdb_views() where not internal").fetchall()
    own = literal(str(home.warehouse))[:-1]
    return all(own in sql for (sql,) in views if "read_parquet" in sql)


def _build(
    path: Path, tables: Sequence[Publishable], facts: Sequence[Fact], version: int, now: datetime,
    progress: Callable[[str], None],
) -> dict[str, int]:  # fmt: skip
    rows: dict[str, int] = {}
    with duckdb.connect(str(path), config={"storage_compatibility_version": READABLE_FROM}) as con:
        con.execute("set timezone = 'UTC'")
        con.execute("begin")
        for spec in (PUBLISHED_TABLES, *(fact.spec for fact in facts)):
            describe = ", ".join(f"{identifier(column.name)} {column.type}" for column in spec.columns)
            con.execute(f"create table {identifier(spec.name)} ({describe})")
            _comment(con, "table", spec, spec.columns)
        for fact in facts:
            _insert(con, fact.spec, fact.rows)
        for table in tables:
            progress(table.spec.name)
            name = identifier(table.spec.name)
            kind = "table" if table.snapshot.rows <= INLINE_ROWS else "view"
            shown = ", ".join(identifier(column.name) for column in table.columns)
            order = (
                f" order by {', '.join(map(identifier, table.spec.order_by))}"
                if kind == "table" and table.spec.order_by
                else ""
            )
            select = table.select or table.snapshot.select()
            con.execute(f"create {kind} {name} as select {shown} from ({select}){order}")
            rows[table.spec.name] = con.execute(f"select count(*) from {name}").fetchall()[0][0]
            _comment(con, kind, table.spec, table.columns)
        # A device's clock may run ahead: nothing reaches further than to when it was received.
        reach = "select max(least(event_to, received_at)) from batches where event_to is not null"
        through = con.execute(reach).fetchall()[0][0] if "batches" in rows else None
        for table in tables:
            snapshot = table.snapshot
            con.execute(
                "insert into published_tables values (?, ?, ?, ?, ?, ?, ?, ?)",
                [snapshot.spec.name, version, now, through, rows[snapshot.spec.name], snapshot.version,
                 snapshot.size, len(snapshot.files)],
            )  # fmt: skip
        con.execute("commit")
        con.execute("checkpoint")
    return rows


def _insert(con: duckdb.DuckDBPyConnection, spec: TableSpec, rows: Sequence[tuple[Any, ...]]) -> None:
    # Row by row DuckDB takes a millisecond each.
    columns = [[row[n] for row in rows] for n in range(len(spec.columns))]
    parts = ", ".join(f"unnest(?::{column.type}[])" for column in spec.columns)
    con.execute(f"insert into {identifier(spec.name)} select {parts}", columns)


def _add_last(path: Path, facts: Sequence[Fact]) -> None:
    late = [(fact.spec, fact.last) for fact in facts if fact.last]
    if not late:
        return
    with duckdb.connect(str(path)) as con:
        for spec, last in late:
            _insert(con, spec, last())
        con.execute("checkpoint")


def _comment(con: duckdb.DuckDBPyConnection, kind: str, spec: TableSpec, columns: Sequence[Column]) -> None:
    name = identifier(spec.name)
    con.execute(f"comment on {kind} {name} is {literal(spec.comment)}")
    for column in columns:
        con.execute(f"comment on column {name}.{identifier(column.name)} is {literal(column.comment)}")


def _judge(path: Path, checks: Sequence[Check]) -> None:
    with duckdb.connect(str(path), read_only=True) as con:
        for name, select in checks:
            found = con.execute(f"select * from ({select}) limit 1").fetchall()
            if found:
                raise PublishRefused(f"{name}: found {found[0]}; the published version stays as it is")


def _swap(home: Home, version: Path) -> None:
    """Point `analytics.duckdb` at `version`: a second name of the same file, put in place by rename."""
    link = home.published / ".analytics.duckdb.new"
    link.unlink(missing_ok=True)
    os.link(version, link)
    replace_file(link, current_path(home))


def _record(home: Home, entry: dict[str, Any]) -> None:
    """Append to the history. A line cut off by a kill is closed first, so that it cannot swallow this one."""
    path = home.published / "history.ndjson"
    text = json.dumps(entry, default=str)
    with path.open("a+b") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            text = text if log.read(1) == b"\n" else "\n" + text
        log.write(text.encode() + b"\n")
        log.flush()
        os.fsync(log.fileno())
