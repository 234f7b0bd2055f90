"""What others write under the data home (Dagster's storage and logs, scratch files, copies): a person's values masked there.

A mask has the length of the value, so that nothing else moves, also in a file that somebody is writing to. Only values that
mean nothing else are looked for (`events.values`). Parquet and DuckDB files would be broken by a mask: one that names somebody
goes, as it does in `set_aside/`.
"""

import gzip
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from analytics_assets.erasure.probe import readings
from analytics_assets.events.values import Values
from analytics_assets.sources.redact import Redacted
from analytics_assets.warehouse.home import replace_file

# Data of ours, which know whose they are, and what holds nobody.
_OWN = {"warehouse", "published", "landing", "received", "set_aside", "audit", "privacy"}
_BLOCK = 8 << 20
_Plan = Callable[[Redacted], None]


def mask_logs(home: Path, values: Values, plan: Callable[[str, Redacted], None]) -> None:
    """Mask the values in every other file; `plan` gets a file's name and how many places, before they are masked."""
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home)
        if inside.parts[0] in _OWN or path.is_symlink() or not path.is_file() or path.name.endswith(("-wal", "-shm")):
            continue
        noted = partial(plan, str(inside))
        try:
            read_as = dict(readings(path))
            if "SQLite" in read_as:
                _mask_database(path, values, noted)
            elif "gzip" in read_as:
                if values.may_be_in(read_as["gzip"]):
                    _mask_packed(path, values, noted)
            elif packed := read_as.get("Parquet", read_as.get("DuckDB")):
                if any(values.may_be_in([block]) and values.masked(block)[1] for block in packed):
                    noted(Redacted(gone=1))
                    path.unlink()
            elif values.may_be_in(_blocks(path)):
                _mask_file(path, values, noted)
        except FileNotFoundError:
            continue


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _stars(value: bytes) -> bytes:
    return b"*" * len(value)


def _mask_packed(path: Path, values: Values, plan: _Plan) -> None:
    try:
        masked, count = values.masked(gzip.decompress(path.read_bytes()), _stars)
    except (EOFError, OSError):
        return
    if count:
        plan(Redacted(changed=count))
        new = path.with_name(f".{path.name[:200]}.masked")
        new.write_bytes(gzip.compress(masked, mtime=0))
        replace_file(new, path)


def _mask_file(path: Path, values: Values, plan: _Plan) -> None:
    content = path.read_bytes()
    masked, count = values.masked(content, _stars)
    if not count:
        return
    plan(Redacted(changed=count))
    with path.open("r+b") as file:
        place = 0
        for old, new in zip(_cut(content), _cut(masked), strict=True):
            if old != new:
                file.seek(place)
                file.write(new)
            place += len(old)
        file.flush()
        os.fsync(file.fileno())


def _cut(content: bytes, size: int = 4096) -> Iterator[bytes]:
    return (content[place : place + size] for place in range(0, len(content), size))


def _mask_database(path: Path, values: Values, plan: _Plan) -> None:
    """In its own way, since others may have it open; what it frees is overwritten."""
    log = path.with_name(path.name + "-wal")
    if not values.may_be_in(_blocks(path)) and not (log.exists() and values.may_be_in(_blocks(log))):
        return
    with closing(sqlite3.connect(path, timeout=60.0)) as con:
        con.execute("pragma secure_delete = on")
        for (table,) in con.execute("select name from sqlite_master where type = 'table'").fetchall():
            quoted = '"' + table.replace('"', '""') + '"'
            columns = [row[1] for row in con.execute(f"pragma table_info({quoted})").fetchall()]
            for column in columns:
                named = '"' + column.replace('"', '""') + '"'
                found = []
                for number, text in con.execute(
                    f"select rowid, {named} from {quoted} where typeof({named}) in ('text', 'blob')"
                ):
                    old = text.encode() if isinstance(text, str) else text
                    new, count = values.masked(old, _stars)
                    if count:
                        found.append((new.decode() if isinstance(text, str) else new, number, count))
                if found:
                    plan(Redacted(changed=sum(count for *_, count in found)))
                    con.executemany(f"update {quoted} set {named} = ? where rowid = ?", [row[:2] for row in found])
        con.commit()
        con.execute("pragma wal_checkpoint(truncate)")
        if values.may_be_in(_blocks(path), escaped=False):
            # Rows that were deleted before still stand in pages that nothing reads.
            con.execute("vacuum")
            con.execute("pragma wal_checkpoint(truncate)")
