"""What readers ask of the published version, read into the page cache before they come: after a night, other files fill it.

The kernel keeps what was read for whichever process opens it next, and gives it up where programs need the memory. Nothing is
kept here, and nobody waits for it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import current_path
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import Table

_CHUNK = 4 * 2**20


@dataclass(frozen=True)
class Warmed:
    """What was read: files and bytes, and the tables whose files did not fit any more, wholly or in part."""

    files: int
    bytes: int
    left_out: tuple[str, ...]


def warm(home: Home, specs: Sequence[TableSpec], asked: Sequence[str], most_bytes: int) -> Warmed:
    """Read the published file, then the files behind its views, `most_bytes` in all.

    Tables in the order of `asked` (names), then all others; of each the newest data first. Nothing is read while nothing is
    published.
    """
    path = current_path(home)
    if not path.exists():
        return Warmed(0, 0, ())
    path, left, files, total, left_out = path.resolve(), most_bytes, 0, 0, list[str]()
    for table, part in [("", path), *_behind_views(home, path, specs, asked)]:
        size = 0
        with suppress(FileNotFoundError):
            size = part.stat().st_size
        if size > left:
            if table not in left_out:
                left_out.append(table)
            continue
        # A table that was replaced since has its files for the next publish; the old ones may go at any time.
        with suppress(FileNotFoundError):
            read = _read(part)
            files, total, left = files + 1, total + read, left - read
    return Warmed(files, total, tuple(name or path.name for name in left_out))


def _behind_views(home: Home, path: Path, specs: Sequence[TableSpec], asked: Sequence[str]) -> list[tuple[str, Path]]:
    """(table, file) of each table that the published file shows as a view, as of the version that it shows."""
    with duckdb.connect(str(path), read_only=True) as con:
        views = dict(
            con.execute(
                'select "table", table_version from published_tables where "table" in '
                "(select view_name from duckdb_views() where not internal)"
            ).fetchall()
        )
    rank = {name: place for place, name in enumerate(asked)}
    found = []
    for spec in sorted(specs, key=lambda spec: rank.get(spec.name, len(rank))):
        if spec.name in views:
            stored = Table(home.warehouse, spec).snapshot(views[spec.name]).files
            newest = sorted(stored, key=lambda file: (file.high is None, file.high, file.path), reverse=True)
            found += [(spec.name, Path(file.path)) for file in newest]
    return found


def _read(path: Path) -> int:
    read, buffer = 0, bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            read += count
    return read
