"""Storage that looks after itself: closed days are compacted, files that no kept version needs are removed.

Both keep every version that is still published readable, and neither changes a single row.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
from deltalake.exceptions import DeltaError, TableNotFoundError

from analytics_assets.warehouse.connect import remove_database
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import version_path, versions
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import DataFile, Snapshot, Table

# A file of this size is left alone: rewriting it would cost more than it saves.
LARGE_BYTES = 256 * 1024 * 1024
# So many files are merged however small they are beside the largest.
MANY_FILES = 8
# A file's name is random, so it is enough to know the file by, also after the data home was moved.
_DATA_FILE = re.compile(r"[^/']+\.parquet")


@dataclass(frozen=True)
class Compaction:
    """What a compaction did: files and bytes before and after."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


def closed_groups(snapshot: Snapshot, closed_before: datetime, dense_day_rows: int) -> dict[str, list[DataFile]]:
    """Small files worth merging, by the day of their newest row; in closed months those of thin days by the month.

    Newest first: what a merge moves out of a day belongs to an older one, whose turn comes after it.
    """
    groups: dict[str, list[DataFile]] = {}
    for file in snapshot.files:
        if file.high is None or file.high >= closed_before or file.size >= LARGE_BYTES:
            continue
        thin = file.rows < dense_day_rows and file.high.strftime("%Y-%m") < closed_before.strftime("%Y-%m")
        groups.setdefault(file.high.strftime("%Y-%m" if thin else "%Y-%m-%d"), []).append(file)
    return {name: groups[name] for name in sorted(groups, reverse=True) if _worth_merging(groups[name])}


def _worth_merging(files: Sequence[DataFile]) -> bool:
    """Whether a merge saves more than it writes: a few late rows alone do not make a whole day be written again."""
    sizes = sorted(file.size for file in files)
    return len(files) > 1 and (len(files) >= MANY_FILES or 10 * sum(sizes[:-1]) >= sizes[-1])


def compact(table: Table, con: duckdb.DuckDBPyConnection, closed_before: datetime, dense_day_rows: int) -> Compaction:
    """Merge the small files of closed days, one commit a group, ordered as the table declares. Callers hold its lock."""
    snapshot = before = table.snapshot()
    done: set[str] = set()
    day = f"{table.spec.time_column}::date"
    while waiting := {n: f for n, f in closed_groups(snapshot, closed_before, dense_day_rows).items() if n not in done}:
        name, files = next(iter(waiting.items()))
        done.add(name)
        delta, select = table.open(), snapshot.select(files)
        rows = dict(con.execute(f"select {day}, count(*) from ({select}) group by 1").fetchall())
        adds = table.write_days(con, select, "compacted", rows, dense_day_rows, data_change=False)
        table.commit(delta, adds, files, data_change=False)
        snapshot = table.snapshot()
    return Compaction(len(before.files), len(snapshot.files), before.size, snapshot.size)


def files_in_use(home: Home) -> set[str]:
    """Names of the files that the kept published versions read.

    The published files themselves say so. A table's log would not: it forgets versions after a month, and a publish that
    was killed stands in no history.
    """
    views = "select sql from duckdb_views() where not internal"
    found: set[str] = set()
    for number in versions(home):
        with duckdb.connect(str(version_path(home, number)), read_only=True) as con:
            for (sql,) in con.execute(views).fetchall():
                found.update(_DATA_FILE.findall(sql))
    return found


def sweep(home: Home, specs: Sequence[TableSpec], needed: Mapping[str, set[int]] | None = None) -> tuple[int, int]:
    """Remove files that neither the present, a kept published nor a `needed` version reads; returns (files, bytes).

    Callers hold the locks of all writers: a file that is written but not yet committed looks like an orphan.
    """
    published, files, size = files_in_use(home), 0, 0
    for spec in specs:
        table = Table(home.warehouse, spec)
        delta = table.open()
        wanted = (needed or {}).get(spec.name, set()) - {delta.version()}
        kept = published.union(*(_files_of(table, version) for version in wanted))
        unnamed = delta.vacuum(retention_hours=0, enforce_retention_duration=False, full=True, dry_run=True)
        for path in (table.path / name for name in unnamed):
            if path.name not in kept and path.exists():
                files, size = files + 1, size + path.stat().st_size
                path.unlink()
    # Of a build that was killed.
    remove_database(home.marts_database)
    spill = home.work / "spill"
    for leftover in spill.glob("*") if spill.exists() else ():
        files, size = files + 1, size + (leftover.stat().st_size if leftover.is_file() else 0)
        leftover.unlink(missing_ok=True)
    return files, size


def _files_of(table: Table, version: int) -> set[str]:
    try:
        return {Path(file.path).name for file in table.snapshot(version).files}
    except (DeltaError, TableNotFoundError):
        # The log forgets versions after a month; nobody can read them any more.
        return set()


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
