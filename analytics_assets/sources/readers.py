"""Reads a file as slices of records: each stands, while it is current, as the relation `mapped` on a connection.

A file that cannot be read at all raises UnreadableFile. Damage inside text is met in `text`; what the records mean belongs
to `mapping` and `segment`.
"""

import gzip
import json
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from analytics_assets.sources import mapping, segment
from analytics_assets.sources.mapping import Cell, Records, Source, struct
from analytics_assets.sources.text import (
    BASE64,
    CUT_OFF,
    Chunk,
    CsvRecord,
    Head,
    UnreadableFile,
    csv_chunks,
    csv_head,
    csv_records,
    is_cut_object,
    is_cut_record,
    kept_records,
    line_chunks,
    lines_of,
    text_stream,
)
from analytics_assets.warehouse.table import identifier, literal

_SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".tab": "csv",
    ".ndjson": "lines", ".jsonl": "lines", ".json": "lines",
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """A part of a file that stands as `mapped`: number of its first row, rows, and about how many bytes were read.

    The canonical columns in `absent` are null in every row, since the file lacks what they are made from. Of what is in
    `undeclared`, columns of the file that the source does not name, nothing is kept.
    """

    start_row: int
    rows: int
    bytes: int
    absent: frozenset[str] = frozenset()
    undeclared: frozenset[str] = frozenset()
    # Whether JSON came as it is, and was not put together from plain values.
    given_json: bool = True


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
            unended: list[bytes] = []
            lines = lines_of(text_stream(raw), unended)
            cut = False
            if kind == "lines":
                numbered = ((number, line.rstrip(b"\r")) for number, line in enumerate(lines) if line.strip())
                yield from _text_slices(shape, line_chunks(numbered, rows))
                cut = bool(unended) and is_cut_object(unended[0])
            elif head := csv_head(lines, path, source):
                newest: deque[CsvRecord] = deque(maxlen=1)
                yield from _text_slices(shape, csv_chunks(_remembered(csv_records(lines, head), newest), head, rows))
                cut = bool(unended and newest) and is_cut_record(newest[0], head)
            if cut:
                raise UnreadableFile(CUT_OFF)


def _remembered(records: Iterable[CsvRecord], newest: deque[CsvRecord]) -> Iterator[CsvRecord]:
    for record in records:
        newest.append(record)
        yield record


def slices_from_raw(
    con: duckdb.DuckDBPyConnection,
    raws: list[str],
    source: Source,
    *,
    tenant: str | None,
    received_at: datetime,
    rows: int = 1_000_000,
) -> Iterator[Slice]:
    """Kept texts of rejected records as slices: each text is one record again, numbered by its place in `raws`.

    A text that `raw` held is read as it was read in its file, so nothing but a change of rules changes the answer.
    """
    shape = _Shape(con, source, tenant, received_at, rows, lone=True)
    lines, tables = kept_records(raws)
    with _tidy(con):
        yield from _text_slices(shape, line_chunks(lines, rows))
        for head, records in tables:
            yield from _text_slices(shape, csv_chunks(records, head, rows))


def confirm_readable(path: Path) -> None:
    """Raise UnreadableFile if a Parquet file is damaged beyond its footer; costs a full read.

    Parquet is read while a slice is used, so damage shows there as a DuckDB error. This tells whether the file is to blame.
    """
    if _kind(path) == "parquet":
        with duckdb.connect() as con:
            try:
                con.execute(f"select max(hash(columns(*))) from {_parquet(path)}")
            except duckdb.Error as error:
                raise UnreadableFile(f"is damaged ({mapping.one_line(error)}); send it again") from None


@dataclass(frozen=True)
class _Shape:
    con: duckdb.DuckDBPyConnection
    source: Source
    tenant: str | None
    received_at: datetime
    rows: int
    # Records that come one by one, not as a file: a column declared since then is empty, and no reason to stop.
    lone: bool = False

    def select(self, records: Records) -> str:
        return mapping.mapped_select(self.source, records, self.tenant, self.received_at)


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


def file_kind(path: Path) -> str | None:
    """What the file's ending says it is: parquet, csv or lines; None for an ending that is not known."""
    return _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix)


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
    name = os.fsencode(path.resolve()).decode("utf-8", "replace")
    if name != str(path.resolve()):
        raise UnreadableFile("a Parquet file needs a path in UTF-8; rename it and send it again")
    escaped = "".join(f"[{char}]" if char in "*?[" else char for char in name)
    return f"read_parquet({literal(escaped)}, hive_partitioning = false)"


def _parquet_slices(shape: _Shape, path: Path) -> Iterator[Slice]:
    con, scan = shape.con, _parquet(path)
    try:
        described = con.execute(f"describe from {scan}").fetchall()
        total = con.execute(f"select count(*) from {scan}").fetchall()[0][0]
    except duckdb.Error as error:
        raise UnreadableFile(f"is no readable Parquet file ({mapping.one_line(error)})") from None
    cells = {name: (identifier(name), type_) for name, type_, *_ in described}
    # DuckDB's own number is free and skips row groups, but a file's column of that name hides it.
    own = any(name.casefold() == "file_row_number" for name in cells)
    number = "row_number() over () - 1" if own else "file_row_number"
    size = path.stat().st_size
    for start in range(0, total, shape.rows) or range(1):
        end = min(start + shape.rows, total)
        # Without a range DuckDB can prune by other columns freely.
        where = "" if end - start == total else f" where __rn >= {start} and __rn < {end}"
        if shape.source.format == "segment":
            message = segment.message_of_row(_known_columns(cells))
            record = f"select {number} as __rn, null::varchar as __damage, {message} as __raw from {scan}"
            _segment_tables(shape, f"(select * from ({record}){where})")
            yield from _message_slices(shape, size * (end - start) // max(total, 1))
            continue
        # Numbered, the file's columns cannot clash with ours, whatever they are called.
        columns = ", ".join(f"{sql} as __c{index}" for index, (sql, _) in enumerate(cells.values()))
        numbered = {name: (f"__c{index}", type_) for index, (name, (_, type_)) in enumerate(cells.items())}
        record = f"select {number} as __rn, null::varchar as __damage, {columns} from {scan}"
        raw = mapping.kept_row(shape.source, numbered)
        records = _table_records(shape, numbered, f"(select *, {raw} as __raw from ({record}){where})")
        if total:
            con.execute(f"create or replace temp view mapped as {shape.select(records)}")
            absent = mapping.absent_fields(shape.source, records)
            undeclared = _undeclared(shape.source, numbered)
            yield Slice(start, end - start, size * (end - start) // total, absent, undeclared, _takes_json(shape.source))


def _table_records(shape: _Shape, cells: dict[str, tuple[str, str]], sql: str) -> Records:
    """Bind declared columns to those of a file, whose names may differ in case. Raises UnreadableFile."""
    source = shape.source
    found = mapping.found_columns(source, cells)
    missing = [name for name in source.required if name not in found]
    if missing and not shape.lone:
        raise UnreadableFile(f"lacks the columns {', '.join(missing)} of source '{source.name}'; is it another source's?")
    extra = {
        name: f"embedded({cell})" if type_ in ("text", "VARCHAR") else cell
        for name, (cell, type_) in cells.items()
        if name not in found.values()
    }
    bound = {name: _cell(source.columns[name].type, *cells[own]) for name, own in found.items()}
    return Records(sql, bound, f"object({struct(extra)})")


def _undeclared(source: Source, cells: dict[str, tuple[str, str]]) -> frozenset[str]:
    """The columns of a file that are lost, since the source neither names them nor keeps what it does not name."""
    if source.uses("extra_columns"):
        return frozenset()
    return frozenset(cells) - frozenset(mapping.found_columns(source, cells).values())


def _takes_json(source: Source) -> bool:
    """Whether a table source passes on JSON that senders write."""
    made = all(source.fields.get(name, "object").strip().startswith("object") for name in ("properties", "context"))
    typed = any(column.type == "json" for column in source.columns.values())
    return not made or typed or any(map(source.uses, ("json", "embedded", "extra_columns")))


def _cell(declared: str, sql: str, type_: str) -> Cell:
    if type_ == "JSON" and declared != "json":
        kind = f"json_type({sql})"
        return Cell(f"(case when {kind} <> 'NULL' then {sql} ->> '$' end)", "json", kind)
    return Cell(sql, type_)


def _known_columns(cells: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    known = {name: cells[name] for name in segment.COLUMNS if name in cells}
    missing = [name for name in ("type", "messageId") if name not in known]
    if missing:
        raise UnreadableFile(f"lacks the columns {', '.join(missing)} of Segment messages; is it another source's?")
    return known


# --- text: parsed once, into a table


def _text_slices(shape: _Shape, chunks: Iterable[Chunk]) -> Iterator[Slice]:
    con = shape.con
    for chunk in chunks:
        names = chunk.head.names if chunk.head else ()
        cells = {name: (f"__c{index}", "text") for index, name in enumerate(names)}
        if shape.source.format == "segment":
            relation = "__chunk"
            if chunk.head:
                message = segment.message_of_row(_known_columns(cells))
                whole = f"case when __damage is null then {message} else {_with_head(chunk.head, '__raw')} end"
                relation = f"(select __rn, __damage, {whole} as __raw from __chunk)"
            con.register("__chunk", chunk.table)
            _segment_tables(shape, relation)
            yield from _message_slices(shape, chunk.bytes)
            continue
        records = _table_records(shape, cells, "__chunk") if chunk.head else _json_records(shape.source)
        if not chunk.table.num_rows:
            continue
        con.register("__chunk", chunk.table)
        con.execute(f"create or replace temp table __mapped as {shape.select(records)}")
        # In the view, since few records are rejected and each would hold the header.
        whole = f" replace ({_with_head(chunk.head, 'raw')} as raw)" if chunk.head else ""
        con.execute(f"create or replace temp view mapped as select *{whole} from __mapped")
        undeclared = _undeclared(shape.source, cells)
        yield Slice(chunk.table["__rn"][0].as_py(), chunk.table.num_rows, chunk.bytes, undeclared=undeclared,
                    given_json=_takes_json(shape.source))  # fmt: skip


def _with_head(head: Head, kept: str) -> str:
    """SQL for what is kept of a CSV record: a file of this record alone. What is kept as bytes holds the header already."""
    return f"case when starts_with({kept}, {literal(BASE64)}) then {kept} else {literal(head.text)} || {kept} end"


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
    extra = f"case when __damage is null then json_merge_patch('{{}}', json_merge_patch(__raw, {literal(removed)})) end"
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
