"""Reads a file as slices of records: each stands, while it is current, as the relation `mapped` on a connection.

Damage is met here: a record that cannot be read is a row with a reason and its original text, and a file that cannot be
read at all raises UnreadableFile. What the records mean belongs to `mapping` and `segment`.
"""

import base64
import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from analytics_assets.sources import mapping, segment
from analytics_assets.sources.mapping import Cell, Records, Source, struct
from analytics_assets.warehouse.table import identifier, literal

MAX_LINE = 16 << 20
# Parsed, a slice takes several times its text; this keeps it within the few hundred MB a step may use.
SLICE_BYTES = 16 << 20
_BLOCK = 1 << 20
_SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".tab": "csv",
    ".ndjson": "lines", ".jsonl": "lines", ".json": "lines",
}  # fmt: skip
_MAGIC = {
    b"PAR1": "Parquet", b"PK\x03\x04": "a zip archive", b"%PDF": "a PDF", b"\x89PNG": "an image", b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"SQLite format 3": "SQLite", b"Obj\x01": "Avro", b"ORC": "ORC",
    b"ARROW1": "Arrow", b"\x1f\x8b": "gzip inside gzip", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
}  # fmt: skip
_BASE64 = "base64:"


class UnreadableFile(Exception):
    """The file as a whole cannot be read; the text is the reason, in one line.

    It may be raised at any slice, so nothing of a file may be kept before its last slice was seen.
    """


@dataclass(frozen=True)
class Slice:
    """A part of a file that stands as `mapped`: number of its first row, rows, and about how many bytes were read.

    The canonical columns in `absent` are null in every row, since the file lacks what they are made from.
    """

    start_row: int
    rows: int
    bytes: int
    absent: frozenset[str] = frozenset()


def slices(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    source: Source,
    *,
    tenant: str | None,
    received_at: datetime,
    rows: int = 1_000_000,
) -> Iterator[Slice]:
    """The file's records, slice by slice; `mapped` holds the current one. Raises UnreadableFile."""
    shape = _Shape(con, source, tenant, received_at, rows)
    with _tidy(con), _readable(path):
        kind = _kind(path)
        if kind == "parquet":
            yield from _parquet_slices(shape, path)
            return
        with path.open("rb") as raw:
            lines = _lines(_text_stream(raw))
            chunks = _line_chunks(lines, rows) if kind == "lines" else _csv_chunks(lines, path, source, rows)
            yield from _text_slices(shape, chunks)


def slices_from_raw(
    con: duckdb.DuckDBPyConnection,
    raws: list[str],
    source: Source,
    *,
    tenant: str | None,
    received_at: datetime,
    rows: int = 1_000_000,
) -> Iterator[Slice]:
    """Kept texts of rejected records as slices: each text is one record again, numbered by its place in `raws`."""
    shape = _Shape(con, source, tenant, received_at, rows)
    with _tidy(con):
        yield from _text_slices(shape, _line_chunks(map(_original, raws), rows, blank=True))


def confirm_readable(path: Path) -> None:
    """Raise UnreadableFile if a Parquet file is damaged beyond its footer; costs a full read.

    Parquet is read while a slice is used, so damage shows there as a DuckDB error. This tells whether the file is to blame.
    """
    if _kind(path) == "parquet":
        with duckdb.connect() as con:
            try:
                con.execute(f"select count(hash(columns(*))) from {_parquet(path)}")
            except duckdb.Error as error:
                raise UnreadableFile(f"is damaged ({mapping.one_line(error)}); send it again") from None


@dataclass(frozen=True)
class _Shape:
    con: duckdb.DuckDBPyConnection
    source: Source
    tenant: str | None
    received_at: datetime
    rows: int

    def select(self, records: Records) -> str:
        return mapping.mapped_select(self.source, records, self.tenant, self.received_at)


@dataclass(frozen=True)
class _Chunk:
    """Records in memory: an Arrow table with `__rn`, `__damage`, `__raw`, and for CSV a text column for each name."""

    table: pa.Table
    names: tuple[str, ...] | None
    bytes: int


@contextmanager
def _tidy(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    mapping.prepare(con)
    try:
        yield
    finally:
        # The caller may have closed the connection, or stopped in the middle of a failed transaction.
        with suppress(duckdb.Error):
            con.execute("drop view if exists temp.mapped; drop table if exists temp.__mapped")
            con.execute("drop table if exists temp.__messages")
            con.unregister("__chunk")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is opened or unpacked into UnreadableFile."""
    try:
        yield
    except EOFError:
        raise UnreadableFile("the gzip stream ends early; the file was cut off, send it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableFile(f"the gzip stream is damaged ({error}); send the file again") from None
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({error.strerror or error})") from None


def _kind(path: Path) -> str:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _SUFFIXES:
        raise UnreadableFile(f"the ending '{suffix}' is not known; use one of {', '.join(_SUFFIXES)}, text also with .gz")
    if suffix in (".parquet", ".pq") and path.name.lower().endswith(".gz"):
        raise UnreadableFile("Parquet is compressed inside; send it without .gz")
    return _SUFFIXES[suffix]


# --- Parquet: a view, nothing is copied


def _parquet(path: Path) -> str:
    """`read_parquet` of exactly this file: no glob, no columns from folder names."""
    escaped = "".join(f"[{char}]" if char in "*?[" else char for char in str(path.resolve()))
    return f"read_parquet({literal(escaped)}, file_row_number = true, hive_partitioning = false)"


def _parquet_slices(shape: _Shape, path: Path) -> Iterator[Slice]:
    con, scan = shape.con, _parquet(path)
    try:
        described = con.execute(f"describe select * exclude (file_row_number) from {scan}").fetchall()
        total = con.execute(f"select count(*) from {scan}").fetchall()[0][0]
    except duckdb.Error as error:
        raise UnreadableFile(f"is no readable Parquet file ({mapping.one_line(error)})") from None
    cells = {name: (identifier(name), type_) for name, type_, *_ in described}
    size = path.stat().st_size
    for start in range(0, total, shape.rows):
        end = min(start + shape.rows, total)
        # DuckDB skips row groups outside the range; without a range it can prune by other columns freely.
        where = "" if end - start == total else f" where file_row_number >= {start} and file_row_number < {end}"
        record = "file_row_number as __rn, null::varchar as __damage"
        if shape.source.format == "segment":
            message = segment.message_of_row(_known_columns(cells))
            _segment_tables(shape, f"(select {record}, {message} as __raw from {scan}{where})")
            yield from _message_slices(shape, size * (end - start) // total)
            continue
        raw = f"to_json({struct({name: sql for name, (sql, _) in cells.items()})})::varchar"
        # Numbered, the file's columns cannot clash with ours, whatever they are called.
        columns = ", ".join(f"{sql} as __c{index}" for index, (sql, _) in enumerate(cells.values()))
        sql = f"(select {record}, {raw} as __raw, {columns} from {scan}{where})"
        numbered = {name: (f"__c{index}", type_) for index, (name, (_, type_)) in enumerate(cells.items())}
        records = _table_records(shape.source, numbered, sql)
        con.execute(f"create or replace temp view mapped as {shape.select(records)}")
        absent = mapping.absent_fields(shape.source, records)
        yield Slice(start, end - start, size * (end - start) // total, absent)
    if total == 0 and shape.source.format == "table":
        _table_records(shape.source, cells, "")


def _table_records(source: Source, cells: dict[str, tuple[str, str]], sql: str) -> Records:
    """Bind declared columns to those of a file, whose names may differ in case. Raises UnreadableFile."""
    by_name = {name.casefold(): name for name in cells}
    missing = [name for name in source.required if name.casefold() not in by_name]
    if missing:
        raise UnreadableFile(f"lacks the columns {', '.join(missing)} of source '{source.name}'; is it another source's?")
    found = {name: by_name[name.casefold()] for name in source.columns if name.casefold() in by_name}
    extra = {
        name: f"embedded({cell})" if type_ in ("text", "VARCHAR") else cell
        for name, (cell, type_) in cells.items()
        if name not in found.values()
    }
    return Records(sql, {name: Cell(*cells[own]) for name, own in found.items()}, f"object({struct(extra)})")


def _known_columns(cells: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    known = {name: cells[name] for name in segment.COLUMNS if name in cells}
    missing = [name for name in ("type", "messageId") if name not in known]
    if missing:
        raise UnreadableFile(f"lacks the columns {', '.join(missing)} of Segment messages; is it another source's?")
    return known


# --- text: parsed once, into a table


def _text_slices(shape: _Shape, chunks: Iterable[_Chunk]) -> Iterator[Slice]:
    con = shape.con
    for chunk in chunks:
        names = chunk.names
        cells = {name: (f"__c{index}", "text") for index, name in enumerate(names or ())}
        # An empty cell is null, also when the record is tried again.
        filled = {name: f"nullif({sql}, '')" for name, (sql, _) in cells.items()}
        raw = f"to_json({struct(filled)})::varchar"
        relation = "__chunk"
        if shape.source.format == "segment":
            if names is not None:
                message = segment.message_of_row(_known_columns(cells))
                relation = f"(select __rn, __damage, coalesce(__raw, {message}) as __raw from __chunk)"
            con.register("__chunk", chunk.table)
            _segment_tables(shape, relation)
            yield from _message_slices(shape, chunk.bytes)
            continue
        if names is not None:
            sql = f"(select * replace (coalesce(__raw, {raw}) as __raw) from __chunk)"
            records = _table_records(shape.source, cells, sql)
        else:
            records = _json_records(shape.source)
        if not chunk.table.num_rows:
            continue
        con.register("__chunk", chunk.table)
        con.execute(f"create or replace temp table __mapped as {shape.select(records)}")
        con.execute("create or replace temp view mapped as select * from __mapped")
        yield Slice(chunk.table["__rn"][0].as_py(), chunk.table.num_rows, chunk.bytes)


def _json_records(source: Source) -> Records:
    """Records of a table source that come as JSON objects, fields by name."""
    # JSON pointers name any key without ambiguity.
    paths = ", ".join(literal("/" + name.replace("~", "~0").replace("/", "~1")) for name in source.columns)
    removed = json.dumps(dict.fromkeys(source.columns))
    judged = (
        "select __rn, __raw, case when __damage is not null then __damage when not json_valid(__raw) then 'bad_json' "
        "when coalesce(json_type(__raw), 'NULL') <> 'OBJECT' then 'not_an_object' "
        "when too_deep(__raw) then 'too_deep' end as __damage from __chunk"
    )
    sql = (
        f"(select *, case when __damage is null then json_type(__raw, [{paths}]) end as __t, "
        f"case when __damage is null then json_extract_string(__raw, [{paths}]) end as __v from ({judged}))"
    )
    cells = {
        name: Cell(f"(case when __t[{index}] <> 'NULL' then __v[{index}] end)", "json", f"__t[{index}]")
        for index, name in enumerate(source.columns, start=1)
    }
    extra = f"case when __damage is null then json_merge_patch(__raw, {literal(removed)}) end"
    return Records(sql, cells, extra)


def _segment_tables(shape: _Shape, lines: str) -> None:
    shape.con.execute(f"create or replace temp table __messages as {segment.messages_select(lines)}")


def _message_slices(shape: _Shape, size: int) -> Iterator[Slice]:
    """One line can hold any number of messages, so the slices are cut after the batches were opened."""
    con = shape.con
    total = con.execute("select count(*) from __messages").fetchall()[0][0]
    for start in range(0, total, shape.rows):
        part = f"(select * from __messages where rowid >= {start} and rowid < {start + shape.rows})"
        select = segment.mapped_select(part, shape.tenant, shape.received_at)
        con.execute(f"create or replace temp table __mapped as {select}")
        con.execute("create or replace temp view mapped as select * from __mapped")
        count = min(shape.rows, total - start)
        yield Slice(start, count, size * count // total)


# --- bytes to lines to records


def _text_stream(raw: BinaryIO) -> Iterator[bytes]:
    """Blocks of the text, unpacked, without a byte order mark. Raises UnreadableFile if it is no text at all."""
    magic = raw.read(2)
    raw.seek(0)
    stream = gzip.GzipFile(fileobj=raw) if magic == b"\x1f\x8b" else raw
    head = stream.read(_BLOCK)
    for start, what in _MAGIC.items():
        if head.startswith(start):
            raise UnreadableFile(f"is {what}, not text in UTF-8")
    sample = head[:4096]
    odd = bytes(range(8)) + bytes(range(14, 32)) + b"\x7f"
    # A few stray control bytes are damage inside records; a third of them is another kind of file.
    if 3 * len(sample.translate(None, odd)) < 2 * len(sample):
        raise UnreadableFile("is binary (or UTF-16), not text in UTF-8")
    yield head.removeprefix(b"\xef\xbb\xbf")
    while block := stream.read(_BLOCK):
        yield block


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Physical lines without their line feed."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        # A block is shorter than a line may be, so only the first and the unfinished line can be too long.
        if len(rest) > MAX_LINE or (whole and len(whole[0]) > MAX_LINE):
            raise UnreadableFile(f"a line is longer than {MAX_LINE >> 20} MiB; write one record a line")
        yield from whole
    if rest:
        yield rest


def _decoded(line: bytes) -> tuple[str | None, str]:
    """(damage, text) of a line; bytes that are no UTF-8 are kept as base64."""
    try:
        return None, line.decode()
    except UnicodeDecodeError:
        return "not_utf8", _BASE64 + base64.b64encode(line).decode()


def _original(raw: str) -> bytes:
    """The bytes whose text `_decoded` kept."""
    try:
        return base64.b64decode(raw.removeprefix(_BASE64), validate=True) if raw.startswith(_BASE64) else raw.encode()
    except ValueError:
        return raw.encode()


def _line_chunks(lines: Iterable[bytes], rows: int, *, blank: bool = False) -> Iterator[_Chunk]:
    """Lines as records; blank ones are no records, unless `blank`."""
    numbers: list[int] = []
    decoded: list[tuple[str | None, str]] = []
    size = 0

    def chunk() -> _Chunk:
        return _Chunk(_arrow(numbers, [d for d, _ in decoded], [t for _, t in decoded], []), None, size)

    for number, line in enumerate(lines):
        if blank or line.strip():
            numbers.append(number)
            decoded.append(_decoded(line.removesuffix(b"\r")))
            size += len(line) + 1
            if len(numbers) >= rows or size >= SLICE_BYTES:
                yield chunk()
                numbers, decoded, size = [], [], 0
    if numbers:
        yield chunk()


def _arrow(numbers: list[int], damages: list[str | None], raws: list[str | None] | list[str], columns: list) -> pa.Table:
    return pa.table(
        {
            "__rn": pa.array(numbers, pa.int64()),
            "__damage": pa.array(damages, pa.string()),
            "__raw": pa.array(raws, pa.string()),
            **{f"__c{index}": pa.array(column, pa.string()) for index, column in enumerate(columns)},
        }
    )


def _csv_chunks(lines: Iterator[bytes], path: Path, source: Source, rows: int) -> Iterator[_Chunk]:
    header = next((line for line in lines if line.strip()), None)
    if header is None:
        return
    delimiter, names = _header(header, path, source)
    records = _csv_records(lines, delimiter, len(names))
    numbers: list[int] = []
    damages: list[str | None] = []
    raws: list[str | None] = []
    values: list[list[str] | tuple[None, ...]] = []
    size, empty = 0, (None,) * len(names)

    def chunk() -> _Chunk:
        columns: list[tuple] = list(zip(*values, strict=True)) if values else [() for _ in names]
        return _Chunk(_arrow(numbers, damages, raws, columns), tuple(names), size)

    for number, fields, damage, raw, length in records:
        numbers.append(number)
        damages.append(damage)
        raws.append(raw)
        values.append(fields if fields is not None else empty)
        size += length
        if len(numbers) >= rows or size >= SLICE_BYTES:
            yield chunk()
            numbers, damages, raws, values, size = [], [], [], [], 0
    # Also without a record: the columns are to be judged.
    yield chunk()


def _header(line: bytes, path: Path, source: Source) -> tuple[str, list[str]]:
    """Delimiter and column names. Raises UnreadableFile."""
    damage, text = _decoded(line.removesuffix(b"\r"))
    if damage:
        raise UnreadableFile("the header is not UTF-8; write the file in UTF-8")
    if "\r" in text:
        raise UnreadableFile("lines end with a carriage return alone; write line feeds")
    known = {name.casefold() for name in (source.columns or segment.COLUMNS)}
    tabs = path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
    best: tuple[int, str, list[str]] | None = None
    for delimiter in "\t" if tabs else ",;\t|":
        names = _fields(text, delimiter)
        if names is not None:
            names = [name.strip() for name in names]
            score = sum(name.casefold() in known for name in names)
            best = best if best and best[0] >= score else (score, delimiter, names)
    if best is None:
        raise UnreadableFile("the header has an unclosed quote")
    names = [name or f"column_{index}" for index, name in enumerate(best[2], start=1)]
    folded = [name.casefold() for name in names]
    doubled = sorted({name for name in names if folded.count(name.casefold()) > 1})
    if doubled:
        raise UnreadableFile(f"the header names {', '.join(doubled)} more than once")
    return best[1], names


def _fields(text: str, delimiter: str) -> list[str] | None:
    """The fields of one CSV record; None if it is not exactly one."""
    if '"' not in text:
        return text.split(delimiter)
    try:
        # The limit is one for the whole process; lines are bounded by MAX_LINE already.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
        records = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None


def _csv_records(
    lines: Iterator[bytes], delimiter: str, width: int
) -> Iterator[tuple[int, list[str] | None, str | None, str | None, int]]:
    """(line number, fields, damage, original text where damaged, bytes) of each record.

    A quoted field may run over lines. If that gives no record, its first line is rejected alone and reading goes on with
    the next, so an unclosed quote costs one line. A record ends where its quotes are even, so the search is linear.
    """
    waiting: deque[bytes] = deque()
    number = 0

    def take() -> bytes | None:
        return waiting.popleft() if waiting else next(lines, None)

    def parse(record: bytes) -> tuple[list[str] | None, str | None, str]:
        damage, text = _decoded(record.removesuffix(b"\r"))
        fields = None if damage or "\0" in text else _fields(text, delimiter)
        fits = fields is not None and len(fields) == width
        return (fields, None, text) if fits else (None, damage or "malformed_csv", text)

    while (line := take()) is not None:
        number += 1
        if not line.strip():
            continue
        fields, damage, text = parse(line)
        more: list[bytes] = []
        if damage == "malformed_csv" and line.count(b'"') % 2:
            odd, length = True, len(line)
            while odd and length <= MAX_LINE and (following := take()) is not None:
                more.append(following)
                odd ^= bool(following.count(b'"') % 2)
                length += len(following) + 1
            joined = parse(b"\n".join(chain([line], more)))[0] if not odd else None
            if joined is None:
                waiting.extendleft(reversed(more))
                more = []
            else:
                fields, damage = joined, None
        yield number, fields, damage, text if damage else None, sum(map(len, more), len(line)) + 1 + len(more)
        number += len(more)
