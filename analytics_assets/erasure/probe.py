"""Looks for texts in every file under the data home: in its bytes as they are, and in what they mean once decoded.

Parquet, gzip, SQLite and DuckDB are opened. It knows nothing of what an erasure does, so that it can tell whether one did it.
"""

import gzip
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from analytics_assets.warehouse.spec import identifier, literal

_BLOCK = 8 << 20
_WORD = rb"[A-Za-z0-9_@]"


@dataclass(frozen=True, order=True)
class Trace:
    """Where a text was found: the file below the data home, and how it was read."""

    file: str
    read_as: str
    text: str


def probe(home: Path, texts: Sequence[str]) -> list[Trace]:
    """Every file and way of reading it in which one of the texts stands as a word of its own; six characters or longer."""
    assert all(len(text) >= 6 for text in texts)
    wanted = [text.encode() for text in texts]
    found = set()
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        found |= {Trace(name, "name", text.decode()) for text in _in([name.encode()], wanted)}
        if path.is_symlink() or not path.is_file():
            continue
        for how, blocks in _readings(path):
            found |= {Trace(name, how, text.decode()) for text in _in(blocks, wanted)}
    return sorted(found)


def _readings(path: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    with path.open("rb") as file:
        head = file.read(16)
    yield "bytes", _blocks(path)
    if head[:2] == b"\x1f\x8b":
        yield "gzip", _unpacked(path)
    elif head[:4] == b"PAR1":
        yield "Parquet", _of_parquet(path)
    elif head[:15] == b"SQLite format 3":
        yield "SQLite", _of_sqlite(path)
    elif head[8:12] == b"DUCK":
        yield "DuckDB", _of_duckdb(path)


def _in(blocks: Iterable[bytes], wanted: Sequence[bytes]) -> set[bytes]:
    """Which of the texts stand in a stream of bytes, however it is cut."""
    import polars

    longest = max(map(len, wanted), default=0) + 1
    patterns = [text.decode("latin-1") for text in wanted]
    found: set[bytes] = set()
    rest = b""
    for block in blocks:
        here = rest + block
        rest = here[-longest:]
        # All at once first: almost no block has any, and where people still are it has them by the thousand.
        there = polars.Series([here.decode("latin-1")]).str.extract_many(patterns, overlapping=True)[0]
        for text in {text.encode("latin-1") for text in there} - found:
            if re.search(rb"(?<!" + _WORD + rb")" + re.escape(text) + rb"(?!" + _WORD + rb")", here):
                found.add(text)
    return found


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _unpacked(path: Path) -> Iterator[bytes]:
    with suppress(EOFError, OSError), gzip.open(path) as file:
        while block := file.read(_BLOCK):
            yield block


def _of_parquet(path: Path) -> Iterator[bytes]:
    with duckdb.connect() as con, suppress(duckdb.Error):
        yield from _rows(con, f"read_parquet({literal(str(path))}, hive_partitioning = false)")


def _of_duckdb(path: Path) -> Iterator[bytes]:
    with duckdb.connect(str(path), read_only=True) as con:
        for schema, name in con.execute(
            "select schema_name, table_name from duckdb_tables() where not internal and not temporary"
        ).fetchall():
            yield from _rows(con, f"{identifier(schema)}.{identifier(name)}")
        views = con.execute("select sql from duckdb_views() where not internal").fetchall()
        yield "\n".join(sql for (sql,) in views).encode()


def _rows(con: duckdb.DuckDBPyConnection, relation: str) -> Iterator[bytes]:
    """All cells of a relation as text, a line feed between two."""
    columns = [identifier(name) for name, *_ in con.execute(f"describe from {relation}").fetchall()]
    reader = con.execute(f"select concat_ws(chr(10), {', '.join(f'{name}::varchar' for name in columns)}) from {relation}")
    while rows := reader.fetchmany(20_000):
        yield "\n".join(text for (text,) in rows if text).encode("utf-8", "surrogatepass") + b"\n"


def _of_sqlite(path: Path) -> Iterator[bytes]:
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30.0)
    try:
        for (table,) in con.execute("select name from sqlite_master where type = 'table'").fetchall():
            quoted = '"' + table.replace('"', '""') + '"'
            for row in con.execute(f"select * from {quoted}"):
                yield (
                    b"\n".join(
                        cell.encode() if isinstance(cell, str) else cell for cell in row if isinstance(cell, (str, bytes))
                    )
                    + b"\n"
                )
    finally:
        con.close()
