"""One table of the warehouse: Parquet files that DuckDB writes, committed to a Delta log.

A commit adds and removes files at once, and carries the application transaction that makes it idempotent. Files bear the
time range of their rows, so that a reader that knows its days opens only what can hold them. There are no Hive
partitions: a dense day has files of its own, thin days share one file a month (`StorageRules.dense_day_rows`).
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as clock_time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from analytics_assets.warehouse import meter
from analytics_assets.warehouse.home import CLOSED, OPEN
from analytics_assets.warehouse.spec import TableSpec, identifier, literal

# Spark and delta-rs agree on these settings; a checkpoint about every 20 commits keeps opening a table fast.
_TABLE_CONFIGURATION = {"delta.checkpointInterval": "20"}

# Measured on 5 million events: a dictionary of more values costs a fifth of the writing, and zstd at its lowest level halves
# the files at the price of snappy.
_PARQUET = "parquet_version v2, compression zstd, compression_level 1, dictionary_size_limit 2000"

_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "DATE": pa.date32(),
    "DATE[]": pa.list_(pa.date32()),
    "DECIMAL(18,4)": pa.decimal128(18, 4),
    "DECIMAL(18,9)": pa.decimal128(18, 9),
}


@dataclass(frozen=True)
class DataFile:
    """A committed file: absolute path, rows, bytes, and the time range of its rows (None: unbounded)."""

    path: str
    rows: int
    size: int
    low: datetime | None
    high: datetime | None

    def meets(self, low: datetime, high: datetime) -> bool:
        return self.low is None or self.high is None or (self.low <= high and self.high >= low)


@dataclass(frozen=True)
class Snapshot:
    """A table as it was at one version."""

    spec: TableSpec
    version: int
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def between(self, low: datetime, high: datetime) -> tuple[DataFile, ...]:
        """The files that can hold rows from `low` to `high`, both included."""
        return tuple(file for file in self.files if file.meets(low, high))

    def select(self, files: Sequence[DataFile] | None = None) -> str:
        """A SELECT over the given files (all, if None) with the declared columns; columns a file lacks are null."""
        chosen = self.files if files is None else files
        if not chosen:
            return f"select {self.spec.select_list} from ({self.spec.empty_select})"
        # The empty branch gives its type to a column that none of the files has.
        stored = f"from {scan([file.path for file in chosen])} union all by name {self.spec.empty_select}"
        return f"select {self.spec.select_list} from ({stored})"


# What tells the file of an entry in a log from another in its place: a data home may be restored while a process lives.
_Entry = tuple[int, int, int, int]

# To read a log takes milliseconds, and in a refresh a hundred questions are asked of tables that few of its steps change.
_newest: dict[Path, tuple[Snapshot, _Entry]] = {}
_NEWEST_OF = 256


def arrow_schema(spec: TableSpec) -> pa.Schema:
    """The columns as Arrow types, from which Delta takes its own."""
    return pa.schema([pa.field(column.name, _ARROW[column.type]) for column in spec.columns])


def scan(paths: Sequence[str], *, alike: bool = False) -> str:
    """`read_parquet` over exactly these files. File order is kept sorted: unsorted lists read twice as slowly.

    `alike` promises that every file has all columns that are asked for, which spares reading each footer beforehand.
    """
    files = ", ".join(literal(path) for path in sorted(paths))
    return f"read_parquet([{files}], union_by_name = {'false' if alike else 'true'}, hive_partitioning = false)"


def stored_columns(con: duckdb.DuckDBPyConnection, files: Sequence[DataFile]) -> dict[str, str]:
    """The columns of the newest file and of the oldest, with DuckDB's types; nothing of no files."""
    if not files:
        return {}
    by_time = sorted(files, key=lambda file: Path(file.path).stat().st_mtime_ns)
    ends = {by_time[0].path, by_time[-1].path}
    return {name: type_ for name, type_, *_ in con.execute(f"describe from {scan(list(ends))}").fetchall()}


def day_bounds(days: Iterable[date]) -> tuple[datetime, datetime]:
    """From the first to the last microsecond of the days."""
    known = sorted(days)
    return datetime.combine(known[0], clock_time.min), datetime.combine(known[-1], clock_time.max)


def _moment(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, clock_time.min)
    return datetime.fromisoformat(str(value))


def _iso(value: str | None) -> str | None:
    return value.replace(" ", "T") if value else None


class Table:
    """Reads and commits one Delta table. Callers serialise writers with `Home.lock(table.spec.name)`."""

    def __init__(self, folder: Path, spec: TableSpec) -> None:
        self.spec = spec
        self.path = folder / spec.name
        self._handle: tuple[DeltaTable, _Entry | None] | None = None

    def open(self, version: int | None = None) -> DeltaTable:
        """The Delta table, made empty when it is first opened."""
        if not (self.path / "_delta_log").exists():
            self.path.mkdir(parents=True, exist_ok=True, mode=CLOSED if self.spec.closed else OPEN)
            DeltaTable.create(
                str(self.path),
                schema=arrow_schema(self.spec),
                mode="ignore",
                name=self.spec.name,
                description=self.spec.comment,
                configuration=_TABLE_CONFIGURATION,
            )
        return DeltaTable(str(self.path), version=version)

    def latest(self) -> DeltaTable:
        """The newest version, on a handle that is kept: who loads batch after batch reads only what is new in the log.

        For holders of the table's lock: each call moves the one handle on.
        """
        delta, entry = self._handle or (None, None)
        if delta is not None and entry is not None and entry == self._entry(delta.version()):
            delta.update_incremental()
        else:
            delta = self.open()
        self._handle = delta, self._entry(delta.version())
        return delta

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table as it was at a version, or as it is now."""
        if version is not None:
            return self.snapshot_of(self.open(version))
        if (known := _newest.get(self.path)) and known[0].spec is self.spec and self._is_newest(*known):
            return known[0]
        snapshot = self.snapshot_of(self.open())
        if entry := self._entry(snapshot.version):
            if len(_newest) >= _NEWEST_OF:
                _newest.clear()
            _newest[self.path] = snapshot, entry
        return snapshot

    def _is_newest(self, snapshot: Snapshot, entry: _Entry) -> bool:
        return entry == self._entry(snapshot.version) and self._entry(snapshot.version + 1) is None

    def _entry(self, version: int) -> _Entry | None:
        """None if the log has no such entry."""
        try:
            stat = (self.path / "_delta_log" / f"{version:020}.json").stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size

    def snapshot_of(self, delta: DeltaTable) -> Snapshot:
        # Not `pa.table`, which imports pandas (1.5 s) to look whether this is a data frame.
        actions = pa.RecordBatchReader.from_stream(delta.get_add_actions(flatten=True)).read_all()
        names = set(actions.column_names)
        low, high = f"min.{self.spec.time_column}", f"max.{self.spec.time_column}"
        nothing = [None] * actions.num_rows
        wanted = ("path", "num_records", "size_bytes", low, high)
        rows = zip(*(actions[name].to_pylist() if name in names else nothing for name in wanted), strict=True)
        files = [DataFile(f"{self.path}/{path}", count, size, _moment(lo), _moment(hi)) for path, count, size, lo, hi in rows]
        return Snapshot(self.spec, delta.version(), tuple(sorted(files, key=lambda file: file.path)))

    def write(
        self, con: duckdb.DuckDBPyConnection, select: str, tag: str, *, ordered: bool = True, data_change: bool = True
    ) -> list[AddAction]:
        """Write the rows of `select` to a new file that no reader sees until it is committed; nothing for no rows."""
        order = f" order by {', '.join(map(identifier, self.spec.order_by))}" if ordered and self.spec.order_by else ""
        target = self.path / f"{tag}_{os.urandom(6).hex()}.parquet"
        written = con.execute(
            f"copy ({select}{order}) to {literal(str(target))} (format parquet, {_PARQUET}, return_stats)"
        ).fetchall()
        actions = []
        for name, rows, size, _footer, statistics, *_ in written:
            if rows == 0:
                Path(name).unlink()
                continue
            _sync(name)
            meter.wrote(self.spec.name, rows)
            actions.append(self._add_action(name, rows, size, statistics, data_change))
        return actions

    def write_days(
        self,
        con: duckdb.DuckDBPyConnection,
        select: str,
        tag: str,
        rows: Mapping[date, int],
        dense_day_rows: int,
        *,
        near_days: int = 0,
        ordered: bool = True,
        data_change: bool = True,
    ) -> list[AddAction]:
        """Write `select`, which holds `rows` of each day, to one file a group of days (see `file_groups`).

        One COPY a file: DuckDB's own partitioned COPY costs three times as much.
        """
        groups = file_groups(rows, dense_day_rows, near_days)
        column = identifier(str(self.spec.time_column))
        adds = []
        for group in groups:
            part = f"select * from ({select}) where {_holds(column, group, rows)}" if len(groups) > 1 else select
            adds += self.write(con, part, tag, ordered=ordered, data_change=data_change)
        return adds

    def _add_action(
        self, name: str, rows: int, size: int, statistics: dict[str, dict[str, str]], data_change: bool
    ) -> AddAction:
        stats: dict[str, Any] = {"numRecords": rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
        for column in {self.spec.time_column, *self.spec.order_by[:1]} - {None}:
            seen = statistics.get(identifier(str(column)), {})
            if "min" in seen and seen.get("min_is_exact", "true") == "true":
                stats["minValues"][column], stats["maxValues"][column] = _iso(seen["min"]), _iso(seen["max"])
            stats["nullCount"][column] = int(seen.get("null_count", 0))
        path = str(Path(name).relative_to(self.path))
        return AddAction(path, size, {}, int(time.time() * 1000), data_change, json.dumps(stats))

    def commit(
        self,
        delta: DeltaTable,
        adds: Sequence[AddAction],
        removes: Sequence[DataFile] = (),
        *,
        transaction: str | None = None,
        note: dict[str, str] | None = None,
        data_change: bool = True,
    ) -> int:
        """Commit on the handle that was read from, and return the new version.

        `transaction` marks the commit; look with `has` on the same handle before. The handle does not advance.
        """
        now = int(time.time() * 1000)
        removals = [RemoveAction(str(Path(file.path).relative_to(self.path)), data_change, now) for file in removes]
        marks = [Transaction(transaction, 1)] if transaction else None
        delta.create_write_transaction(
            [*adds, *removals],
            "append",
            arrow_schema(self.spec),
            commit_properties=CommitProperties(custom_metadata=note, app_transactions=marks),
        )
        return delta.version() + 1

    @staticmethod
    def has(delta: DeltaTable, transaction: str) -> bool:
        return delta.transaction_version(transaction) is not None


def _sync(name: str) -> None:
    handle = os.open(name, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_groups(rows: Mapping[date, int], dense_day_rows: int, near_days: int = 0) -> list[list[date]]:
    """Which days share a file: a dense day has its own, thin days share one a month.

    Thin days up to `near_days` from a dense one go into its file: a few late rows are not worth reading a batch twice.
    """
    dense = [day for day in sorted(rows, reverse=True) if rows[day] >= dense_day_rows]
    groups: dict[date | str, list[date]] = {}
    for day in sorted(rows):
        host = min(dense, key=lambda known: abs(known - day), default=None)
        near = host is not None and abs(host - day).days <= near_days
        groups.setdefault(host if host is not None and near else day.strftime("%Y-%m"), []).append(day)
    return list(groups.values())


def _holds(column: str, group: Sequence[date], days: Iterable[date]) -> str:
    """The condition that the time in `column` is of a day in `group`, where all rows are of `days`.

    Bounds on the column itself: a reader prunes by them before it computes anything else.
    """
    low, high = day_bounds(group)
    apart = "".join(f" and {column}::date <> date '{day}'" for day in days if group[0] < day < group[-1] and day not in group)
    return f"{column} between timestamp '{low}' and timestamp '{high}'{apart}"


def replace_days(
    table: Table,
    con: duckdb.DuckDBPyConnection,
    select: str,
    days: Sequence[date],
    *,
    dense_day_rows: int,
    note: dict[str, str] | None = None,
) -> tuple[int, int]:
    """Put the rows of `select` in the place of all rows of `days`; returns (new version, rows written for `days`).

    `select` must only hold rows of `days`. Files that also hold other days are rewritten with those rows kept.
    """
    delta = table.open()
    old = table.snapshot_of(delta)
    day = identifier(str(table.spec.time_column))
    con.execute("create or replace temp table replaced_days as select unnest(?::date[]) as day", [list(days)])
    con.execute(f"create or replace temp table fresh_rows as select {table.spec.select_list} from ({select})")
    written = con.execute("select count(*) from fresh_rows").fetchall()[0][0]
    low, high = day_bounds(days)
    touched = old.between(low, high)
    if touched:
        con.execute(f"insert into fresh_rows select * from ({old.select(touched)}) "
                    f"where {day} not in (select day from replaced_days)")  # fmt: skip
    rows = dict(con.execute(f"select {day}, count(*) from fresh_rows group by 1").fetchall())
    adds = table.write_days(con, "select * from fresh_rows", "days", rows, dense_day_rows)
    con.execute("drop table fresh_rows; drop table replaced_days")
    if not adds and not touched:
        return delta.version(), written
    return table.commit(delta, adds, touched, note=note), written


def rewrite_rows(
    table: Table, con: duckdb.DuckDBPyConnection, goes: str, dense_day_rows: int, *,
    changes: str = "false", replaced: Mapping[str, str] | None = None,
    plan: Callable[[int, int, int], str | None] = lambda version, gone, files: None,
) -> tuple[int, int]:  # fmt: skip
    """Take out the rows that meet the SQL `goes`, and give others that meet `changes` the values of `replaced` (column to SQL).

    Neither must ever be null. One commit that rewrites the files that hold such rows, or none; returns (rows that went, rows
    that changed). `plan` hears of it before: the version, how many rows go, and from how many files; it may name the commit.
    """
    delta = table.open()
    old = table.snapshot_of(delta)
    if not old.files:
        return 0, 0
    spec, paths = table.spec, ", ".join(literal(file.path) for file in old.files)
    rows = (
        f"(from read_parquet([{paths}], filename = true, union_by_name = true, hive_partitioning = false) "
        f"union all by name select *, null::varchar as filename from ({spec.empty_select}))"
    )
    counted = con.execute(
        f"select filename, count(*) filter (goes), count(*) filter (changes) from (select filename, {goes} as goes, "
        f"not ({goes}) and {changes} as changes from {rows}) group by 1 having bool_or(goes or changes)"
    ).fetchall()
    if not counted:
        return 0, 0
    touched = {name for name, *_ in counted}
    files = [file for file in old.files if file.path in touched]
    gone, changed = sum(row[1] for row in counted), sum(row[2] for row in counted)
    transaction = plan(delta.version(), gone, len(files))
    columns = ", ".join(
        f"case when {changes} then {replaced[name]} else {identifier(name)} end as {identifier(name)}"
        if replaced and name in replaced else identifier(name)
        for name in spec.column_names
    )  # fmt: skip
    kept = f"select {columns} from ({old.select(files)}) where not ({goes})"
    if spec.time_column is None:
        adds = table.write(con, kept, "kept")
    else:
        day = f"{identifier(spec.time_column)}::date"
        left = dict(con.execute(f"select {day}, count(*) from ({kept}) group by 1").fetchall())
        adds = table.write_days(con, kept, "kept", left, dense_day_rows) if left else []
    table.commit(delta, adds, files, transaction=transaction)
    return gone, changed


def replace_all(table: Table, con: duckdb.DuckDBPyConnection, select: str, note: dict[str, str] | None = None) -> int:
    """Put the rows of `select` in the place of the whole table; returns the new version."""
    delta = table.open()
    old = table.snapshot_of(delta)
    adds = table.write(con, f"select {table.spec.select_list} from ({select})", "all")
    return table.commit(delta, adds, old.files, note=note)
