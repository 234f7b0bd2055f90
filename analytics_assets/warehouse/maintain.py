"""Storage that looks after itself: closed days are compacted, files that no kept version needs are removed.

Both keep every version that is still published readable, and neither changes a single row.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb

from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import history, version_path, versions
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import DataFile, Snapshot, Table

# A file of this size is left alone: rewriting it would cost more than it saves.
LARGE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Compaction:
    """What a compaction did: files and bytes before and after."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


def closed_groups(snapshot: Snapshot, closed_before: datetime) -> dict[str, list[DataFile]]:
    """Small files that can become one: those of one closed day, and those of one closed month that span days."""
    groups: dict[str, list[DataFile]] = {}
    for file in snapshot.files:
        if file.low is None or file.high is None or file.size >= LARGE_BYTES:
            continue
        if file.low.date() == file.high.date():
            name, closed = file.low.strftime("%Y-%m-%d"), file.high < closed_before
        else:
            # The last days of a month may still get late rows, which would meet the whole month from then on.
            name = file.low.strftime("%Y-%m")
            closed = file.high.strftime("%Y-%m") == name and closed_before.strftime("%Y-%m") > name
        if closed:
            groups.setdefault(name, []).append(file)
    return {name: files for name, files in sorted(groups.items()) if len(files) > 1}


def compact(table: Table, con: duckdb.DuckDBPyConnection, closed_before: datetime) -> Compaction:
    """Merge the small files of closed days, one commit a group, ordered as the table declares. Callers hold its lock."""
    before = table.snapshot()
    for files in closed_groups(before, closed_before).values():
        delta = table.open()
        adds = table.write(con, before.select(files), "compacted", data_change=False)
        table.commit(delta, adds, files, data_change=False)
    after = table.snapshot()
    return Compaction(len(before.files), len(after.files), before.size, after.size)


def kept_versions(home: Home) -> dict[str, set[int]]:
    """Table versions that the kept published files show, by table."""
    kept: dict[str, set[int]] = {}
    for number in versions(home):
        with duckdb.connect(str(version_path(home, number)), read_only=True) as con:
            for name, version in con.execute('select "table", table_version from published_tables').fetchall():
                kept.setdefault(name, set()).add(version)
    # The history also names what a view reads besides its own table.
    for entry in history(home):
        if entry["action"] == "publish" and entry["version"] in versions(home):
            for name, version in entry["table_versions"].items():
                kept.setdefault(name, set()).add(version)
    return kept


def sweep(home: Home, specs: Sequence[TableSpec], needed: Mapping[str, set[int]] | None = None) -> tuple[int, int]:
    """Remove files that neither the present, a kept published nor a `needed` version names; returns (files, bytes).

    Callers hold the locks of all writers: a file that is written but not yet committed looks like an orphan.
    """
    kept, files, size = kept_versions(home), 0, 0
    for spec in specs:
        table = Table(home.warehouse, spec)
        delta = table.open()
        wanted = sorted((kept.get(spec.name, set()) | (needed or {}).get(spec.name, set())) - {delta.version()})
        vacuum = partial(
            delta.vacuum, retention_hours=0, enforce_retention_duration=False, full=True, keep_versions=wanted or None
        )
        for name in vacuum(dry_run=True):
            path = table.path / name
            if path.exists():
                files, size = files + 1, size + path.stat().st_size
        vacuum(dry_run=False)
        _remove_empty_folders(table.path)
    spill = home.work / "spill"
    for leftover in spill.glob("*") if spill.exists() else ():
        files, size = files + 1, size + (leftover.stat().st_size if leftover.is_file() else 0)
        leftover.unlink(missing_ok=True)
    return files, size


def _remove_empty_folders(path: Path) -> None:
    for folder in path.glob("chunk=*"):
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()


@dataclass(frozen=True)
class LayoutAdvice:
    """How a table lies on disk. `share_per_day`: part of its files that a query for one day opens on average."""

    table: str
    files: int
    rows: int
    bytes: int
    share_per_day: float
    too_many_tiny_files: bool


def layout_advice(snapshot: Snapshot, dense_day_rows: int) -> LayoutAdvice:
    """Judge the files of a table: many that each hold little cost more to open than they save."""
    ranges = [(file.low.date(), file.high.date()) for file in snapshot.files if file.low and file.high]
    days = {low + timedelta(days=n) for low, high in ranges for n in range((high - low).days + 1)}
    opened = sum(sum(1 for low, high in ranges if low <= day <= high) for day in days)
    share = opened / len(days) / len(ranges) if days else 1.0
    count = len(snapshot.files)
    tiny = count > 64 and snapshot.rows / count < dense_day_rows / 10
    return LayoutAdvice(snapshot.spec.name, count, snapshot.rows, snapshot.size, share, tiny)
