"""Records taken out of files and kept texts as they came, and a person's values out of records of others.

Which records go is asked of the mapped record, so that it is decided as it was at intake: by the fields that say whose it is,
and not by a text that happens to be the same. A text alone decides where a record cannot be read at all.
"""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, cast

import duckdb

from analytics_assets.events.values import Values
from analytics_assets.sources import segment
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.readers import UnreadableFile, file_kind, slices, slices_from_raw
from analytics_assets.sources.text import BASE64, csv_head, csv_records, kept_bytes, lines_of, text_stream
from analytics_assets.warehouse.home import replace_file
from analytics_assets.warehouse.spec import literal

Mark = Callable[[duckdb.DuckDBPyConnection], bool]
"""Makes temp table `forgotten_rows` (rn) of the records in `mapped` that go; False, and no table, where none does."""
_BLOCK = 8 << 20
# Whether a mapped record says whose it is.
TOLD = "coalesce(user_id, '') <> '' or coalesce(anonymous_id, '') <> ''"


@dataclass(frozen=True)
class Redacted:
    """So many records are gone, and of so many others a value."""

    gone: int = 0
    changed: int = 0


# Files


def redact_file(
    con: duckdb.DuckDBPyConnection, path: Path, source: Source, tenant: str | None, received_at: datetime, mark: Mark,
    values: Values | Callable[[], Values], plan: Callable[[Redacted], None] = lambda found: None,
) -> Redacted:  # fmt: skip
    """Take records out of a file, in its place and at once; `plan` gets what is going to happen. Raises UnreadableFile.

    `values` are what the people are named by, or what says it when `mark` has seen all records. A file without any record left
    is left as an empty one.
    """
    kind = file_kind(path)
    if isinstance(values, Values) and kind is not None and kind != "parquet":
        with path.open("rb") as raw:
            if not values.short and not values.may_be_in(text_stream(raw)):
                return Redacted()
    going: dict[int, set[int]] = {}
    nobodys: set[int] = set()
    members = segment.MEMBERS if source.format == "segment" else 1
    for _ in slices(con, path, source, tenant=tenant, received_at=received_at):
        for record, member in _marked(con, mark, members):
            going.setdefault(record, set()).add(member)
        damaged = f"select rn from mapped where reason is not null and not ({TOLD})"
        nobodys |= {number // members for (number,) in con.execute(damaged).fetchall()}
    new = path.with_name(f".{path.name[:200]}.redacted")
    try:
        if kind == "parquet":
            found = Redacted(sum(map(len, going.values())))
            if found.gone:
                _write_parquet(con, path, new, going)
        else:
            found = _write_text(path, new, source, going, nobodys, values if isinstance(values, Values) else values())
        if found != Redacted():
            stat = path.stat()
            plan(found)
            # When it came is told by its time.
            os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            os.chmod(new, stat.st_mode)
            replace_file(new, path)
        return found
    finally:
        new.unlink(missing_ok=True)


def redact_unread(path: Path, values: Values, plan: Callable[[Redacted], None] = lambda found: None) -> Redacted:
    """Of a file that cannot be read as records: its lines that name somebody go; where it is no text, the whole file does."""
    try:
        with path.open("rb") as raw:
            lines = list(lines_of(text_stream(raw)))
    except (UnreadableFile, OSError, EOFError):
        with path.open("rb") as raw:
            if not values.may_be_in(iter(lambda: raw.read(_BLOCK), b"")):
                return Redacted()
        plan(Redacted(1))
        path.unlink()
        return Redacted(1)
    kept = [line for _, line, times in values.masked_lines(enumerate(lines)) if not times]
    found = Redacted(len(lines) - len(kept))
    if found.gone:
        plan(found)
        new = path.with_name(f".{path.name[:200]}.redacted")
        new.write_bytes(b"".join(line + b"\n" for line in kept))
        replace_file(new, path)
    return found


def _marked(con: duckdb.DuckDBPyConnection, mark: Mark, members: int) -> Iterator[tuple[int, int]]:
    """(record, member of it) of the records in `mapped` that go; member 0 is the whole record."""
    if mark(con):
        for (number,) in con.execute("select rn from forgotten_rows").fetchall():
            yield divmod(number, members) if members > 1 else (number, 0)


def _write_parquet(con: duckdb.DuckDBPyConnection, path: Path, new: Path, going: dict[int, set[int]]) -> None:
    con.execute("create or replace temp table going_rows as select unnest(?::bigint[]) as __n", [sorted(going)])
    numbered = f"select *, row_number() over () - 1 as __n from read_parquet({literal(str(path))}, hive_partitioning = false)"
    con.execute(
        f"copy (select * exclude (__n) from ({numbered}) where __n not in (select __n from going_rows)) "
        f"to {literal(str(new))} (format parquet, compression zstd)"
    )
    con.execute("drop table going_rows")


def _write_text(
    path: Path, new: Path, source: Source, going: dict[int, set[int]], nobodys: set[int], values: Values
) -> Redacted:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    lines = file_kind(path) == "lines"
    places = going if lines else _physical(path, source, going)
    lone = {} if lines else _physical(path, source, {number: {0} for number in nobodys})
    # A record of several lines cannot lose one of them.
    unread = nobodys if lines else {number for number, first in lone.items() if first and lone.get(number + 1) != set()}
    gone = changed = 0
    unended: list[bytes] = []
    last = written = -1

    def staying(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
        nonlocal gone, last
        for last, line in enumerate(lines):
            left, times = _without(line, places[last]) if last in places else (line, 0)
            gone += times
            if left is not None:
                yield last, left

    with path.open("rb") as raw, _opened(new, packed) as out:
        waiting: bytes | None = None
        for number, masked, times in values.masked_lines(staying(lines_of(text_stream(raw), unended))):
            # Of a record that does not say whose it is, nobody can tell that it is not theirs.
            if times and number in unread:
                gone += 1
                continue
            changed += bool(times)
            if waiting is not None:
                out.write(waiting + b"\n")
            waiting, written = masked, number
        if waiting is not None:
            out.write(waiting if unended and written == last else waiting + b"\n")
    return Redacted(gone, changed)


def _opened(new: Path, packed: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(new, "wb", compresslevel=6, mtime=0)) if packed else new.open("wb")


def _without(line: bytes, members: set[int]) -> tuple[bytes | None, int]:
    """A line without those messages of its batch, or none for the whole line; and how many went.

    No member at all: the record goes with its first line.
    """
    if 0 in members:
        return None, 1
    if not members:
        return None, 0
    said = json.loads(line)
    kept = [member for place, member in enumerate(said["batch"], start=1) if place not in members]
    said["batch"] = kept
    return (json.dumps(said, ensure_ascii=False).encode() if kept else None), len(members)


def _physical(path: Path, source: Source, going: dict[int, set[int]]) -> dict[int, set[int]]:
    """The lines of a CSV file that records take up: a record is known by the line below the header at which it begins."""
    count = 0

    def counted(lines: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal count
        for line in lines:
            count += 1
            yield line

    places: dict[int, set[int]] = {}
    with path.open("rb") as raw:
        lines = counted(lines_of(text_stream(raw)))
        head = csv_head(lines, path, source)
        if head is None:
            return {}
        first = count
        for record in csv_records(lines, head):
            if record.number in going:
                for line in range(record.kept.count("\n") + 1):
                    places[first + record.number - 1 + line] = {0} if line == 0 else set()
    return places


# Kept texts


def redact_kept(
    con: duckdb.DuckDBPyConnection, raws: list[str], source: Source | None, tenant: str | None, received_at: datetime,
    mark: Mark, values: Values,
) -> dict[int, str | None]:  # fmt: skip
    """Of kept texts of rejected records, by their place: None for those that go, and the new text of those that change."""
    found: dict[int, str | None] = {}
    anybodys: set[int] = set()
    if source is not None:
        members = segment.MEMBERS if source.format == "segment" else 1
        for _ in slices_from_raw(con, raws, source, tenant=tenant, received_at=received_at):
            found |= {record: None for record, _ in _marked(con, mark, members)}
            told = f"select distinct rn from mapped where {TOLD}"
            anybodys |= {number // members for (number,) in con.execute(told).fetchall()}
    for place in {*values.named_in(raws), *(place for place, raw in enumerate(raws) if raw.startswith(BASE64))}:
        if place not in found:
            text, times = masked(raws[place], place in anybodys, values)
            if times:
                found[place] = text
    return found


def masked(raw: str, told: bool, values: Values) -> tuple[str | None, int]:
    """A kept text without people's values, and how many stood there; None where it does not say whose it is: it goes."""
    # Records that are no UTF-8 are kept in a disguise.
    disguised = raw.startswith(BASE64)
    text, times = values.masked(kept_bytes(raw) if disguised else raw.encode("utf-8", "surrogatepass"))
    if disguised and not times:
        return raw, 0
    return (text.decode("utf-8", "surrogatepass") if told and not disguised else None), times
