"""Bytes to lines to records: text files as Arrow tables of records, whatever damage they have.

A record that cannot be read is a row with the damage and its original text. Nothing here knows DuckDB or what the records mean.
"""

import base64
import csv
import gzip
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from analytics_assets.sources import segment
from analytics_assets.sources.mapping import Source

MAX_LINE = 16 << 20
# Each rejected record of a CSV file is kept with the header, which must not multiply a small file.
MAX_HEADER = 64 << 10
# Parsed, a slice takes several times its text; this keeps it within the few hundred MB a step may use.
SLICE_BYTES = 16 << 20
_BLOCK = 1 << 20
_MAGIC = {
    b"PAR1": "Parquet", b"PK\x03\x04": "a zip archive", b"%PDF": "a PDF", b"\x89PNG": "an image", b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"SQLite format 3": "SQLite", b"Obj\x01": "Avro", b"ORC": "ORC",
    b"ARROW1": "Arrow", b"\x1f\x8b": "gzip inside gzip", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
}  # fmt: skip
BASE64 = "base64:"
_SEPARATOR = re.compile(rb"sep=[,;\t|]")
_HEAD = re.compile(rb"sep=[,;\t|]\n[^\n]*\n")


class UnreadableFile(Exception):
    """The file as a whole cannot be read; the text is the reason, in one line.

    It may be raised at any slice, so nothing of a file may be kept before its last slice was seen.
    """


@dataclass(frozen=True)
class Head:
    """What the first lines of a CSV file say; `text` is put before a record that is kept."""

    delimiter: str
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Chunk:
    """Records in memory: an Arrow table with `__rn`, `__damage`, `__raw`, and for CSV a text column for each name."""

    table: pa.Table
    head: Head | None
    bytes: int


@dataclass(frozen=True)
class CsvRecord:
    """A record: the line it begins at, its fields or else the damage, what is kept of it, and its length in bytes."""

    number: int
    fields: list[str] | None
    damage: str | None
    kept: str
    length: int


def text_stream(raw: BinaryIO) -> Iterator[bytes]:
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


def lines_of(blocks: Iterable[bytes], unended: list[bytes] | None = None) -> Iterator[bytes]:
    """Physical lines without their line feed. A last line that has none is also put into `unended`."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        # A block is shorter than a line may be, so only the first and the unfinished line can be too long.
        if len(rest) > MAX_LINE or (whole and len(whole[0]) > MAX_LINE):
            raise UnreadableFile(f"a line is longer than {MAX_LINE >> 20} MiB; write one record a line")
        yield from whole
    if rest:
        if unended is not None:
            unended.append(rest)
        yield rest


CUT_OFF = "ends in the middle of a record; the file was cut off, send it again"


def is_cut_object(line: bytes) -> bool:
    """Whether a last line without a line feed is the beginning of a JSON object."""
    text = line.strip()
    if not text.startswith(b"{") or text.endswith(b"}"):
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def is_cut_record(record: "CsvRecord", head: Head) -> bool:
    """Whether a last record without a line feed lacks fields, or the end of a quote."""
    if record.damage != "malformed_csv":
        return False
    fields = _fields(record.kept, head.delimiter)
    return fields is None or len(fields) < len(head.names)


def _kept(record: bytes) -> str:
    """The record as text; as base64 if it is no UTF-8, or would be taken for base64."""
    with suppress(UnicodeDecodeError):
        text = record.decode()
        if not text.startswith(BASE64):
            return text
    return _as_base64(record)


def _as_base64(record: bytes) -> str:
    return BASE64 + base64.b64encode(record).decode()


def kept_bytes(raw: str) -> bytes:
    """The record that `_kept` kept."""
    try:
        return base64.b64decode(raw.removeprefix(BASE64), validate=True) if raw.startswith(BASE64) else raw.encode()
    except ValueError:
        return raw.encode()


def _not_utf8(record: bytes) -> str | None:
    """The damage of bytes that are no UTF-8, or None."""
    try:
        record.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def kept_records(raws: list[str]) -> tuple[list[tuple[int, bytes]], list[tuple[Head, Iterator[CsvRecord]]]]:
    """Kept texts as what they were, numbered by their place: lines, and records of CSV below their headers."""
    lines: list[tuple[int, bytes]] = []
    tables: dict[bytes, list[tuple[int, bytes]]] = {}
    for number, record in enumerate(map(kept_bytes, raws)):
        # A line of NDJSON has no line feed, so it cannot look like a small CSV file.
        found = _HEAD.match(record)
        kind = tables.setdefault(found[0], []) if found else lines
        kind.append((number, record[found.end() :] if found else record))
    heads = {text: _parsed_head(*text.decode().split("\n")[:2]) for text in tables}
    return lines, [(head, _lone(tables[text], head)) for text, head in heads.items() if head]


def _lone(records: list[tuple[int, bytes]], head: Head) -> Iterator[CsvRecord]:
    for number, record in records:
        yield CsvRecord(number, *_csv_record(record, head), len(record))


def line_chunks(lines: Iterable[tuple[int, bytes]], rows: int) -> Iterator[Chunk]:
    """Numbered lines as records."""
    numbers: list[int] = []
    damages: list[str | None] = []
    raws: list[str] = []
    size = 0
    for number, line in lines:
        numbers.append(number)
        damages.append(_not_utf8(line))
        raws.append(_kept(line))
        size += len(line) + 1
        if len(numbers) >= rows or size >= SLICE_BYTES:
            yield Chunk(_arrow(numbers, damages, raws, []), None, size)
            numbers, damages, raws, size = [], [], [], 0
    if numbers:
        yield Chunk(_arrow(numbers, damages, raws, []), None, size)


def _arrow(numbers: list[int], damages: list[str | None], raws: list[str], columns: list) -> pa.Table:
    return pa.table(
        {
            "__rn": pa.array(numbers, pa.int64()),
            "__damage": pa.array(damages, pa.string()),
            "__raw": pa.array(raws, pa.string()),
            **{f"__c{index}": pa.array(column, pa.string()) for index, column in enumerate(columns)},
        }
    )


def csv_chunks(records: Iterable[CsvRecord], head: Head, rows: int) -> Iterator[Chunk]:
    """At least one chunk, so that the columns are judged also where there is no record."""
    empty = (None,) * len(head.names)
    waiting: list[CsvRecord] = []
    size = 0

    def chunk() -> Chunk:
        values = [empty if record.fields is None else record.fields for record in waiting]
        columns: list[tuple] = list(zip(*values, strict=True)) if values else [() for _ in head.names]
        table = _arrow([r.number for r in waiting], [r.damage for r in waiting], [r.kept for r in waiting], columns)
        return Chunk(table, head, size)

    for record in records:
        waiting.append(record)
        size += record.length
        if len(waiting) >= rows or size >= SLICE_BYTES:
            yield chunk()
            waiting, size = [], 0
    yield chunk()


def csv_head(lines: Iterator[bytes], path: Path, source: Source) -> Head | None:
    """The header, which may stand below a line `sep=;` as Excel writes it. None for a blank file. Raises UnreadableFile."""
    filled = (line.rstrip(b"\r") for line in lines if line.strip())
    first = next(filled, None)
    delimiters = "\t" if path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab")) else ",;\t|"
    if first and _SEPARATOR.fullmatch(first):
        delimiters = first.decode()[-1]
        first = next(filled, None)
    if first is None:
        return None
    if len(first) > MAX_HEADER:
        raise UnreadableFile(f"the header is longer than {MAX_HEADER >> 10} KiB; write the column names in the first line")
    if _not_utf8(first):
        raise UnreadableFile("the header is not UTF-8; write the file in UTF-8")
    text = first.decode()
    if "\r" in text:
        raise UnreadableFile("lines end with a carriage return alone; write line feeds")
    known = {name.casefold() for name in (source.columns or segment.COLUMNS)}
    heads = [head for delimiter in delimiters if (head := _parsed_head(f"sep={delimiter}", text))]
    if not heads:
        raise UnreadableFile("the header has an unclosed quote")
    best = max(heads, key=lambda head: sum(name.casefold() in known for name in head.names))
    folded = [name.casefold() for name in best.names]
    doubled = sorted({name for name in best.names if folded.count(name.casefold()) > 1})
    if doubled:
        raise UnreadableFile(f"the header names {', '.join(doubled)} more than once")
    return best


def _parsed_head(separator: str, header: str) -> Head | None:
    """The header read with the delimiter that `sep=;` names; None if a quote stays open."""
    names = _fields(header, separator[-1])
    if names is None:
        return None
    named = tuple(name.strip() or f"column_{index}" for index, name in enumerate(names, start=1))
    return Head(separator[-1], named, f"{separator}\n{header}\n")


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


def _csv_record(record: bytes, head: Head) -> tuple[list[str] | None, str | None, str]:
    """(fields, damage, what is kept) of the bytes of one record; either fields or damage is None."""
    record = record.rstrip(b"\r")
    if damage := _not_utf8(record):
        return None, damage, _as_base64(head.text.encode() + record)
    text = record.decode()
    fields = None if "\0" in text else _fields(text, head.delimiter)
    kept = _as_base64(head.text.encode() + record) if text.startswith(BASE64) else text
    return (fields, None, kept) if fields and len(fields) == len(head.names) else (None, "malformed_csv", kept)


def csv_records(lines: Iterator[bytes], head: Head) -> Iterator[CsvRecord]:
    """The records of a file below its header.

    A quoted field may run over lines. If that gives no record, its first line is rejected alone and reading goes on with
    the next, so an unclosed quote costs one line. A record ends where its quotes are even, so the search is linear.
    """
    waiting: deque[bytes] = deque()
    number = 0

    def take() -> bytes | None:
        return waiting.popleft() if waiting else next(lines, None)

    while (line := take()) is not None:
        number += 1
        if not line.strip():
            continue
        fields, damage, kept = _csv_record(line, head)
        more: list[bytes] = []
        if damage == "malformed_csv" and line.count(b'"') % 2:
            odd, length = True, len(line)
            while odd and length <= MAX_LINE and (following := take()) is not None:
                more.append(following)
                odd ^= bool(following.count(b'"') % 2)
                length += len(following) + 1
            joined = _csv_record(b"\n".join(chain([line], more)), head) if not odd else (None, damage, kept)
            if joined[0] is None:
                waiting.extendleft(reversed(more))
                more = []
            else:
                fields, damage, kept = joined
        yield CsvRecord(number, fields, damage, kept, sum(map(len, more), len(line)) + 1 + len(more))
        number += len(more)
