"""Dagster's event log in SQLite, written a batch at a time over connections that stay open.

A run over a year of days records one event a day and asset. Stored one by one, as Dagster's SQLite storage does, 304 days of
seven assets took 85 s; as batches 5 s. And a run of a single day has 370 events, most of them checks, each of which opens
up to four connections and waits for the disk as often: half of what a small delivery cost. The database of a run, which
Dagster makes by its migrations (.3 s), is a copy of the first one that a process made. Everything else is Dagster's own.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from dagster import EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.pool import NullPool, StaticPool

# Dagster buffers events only where this is set, and reads it when it stores.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")


# The index, and the runs that are written or looked at just now.
_OPEN_SHARDS = 4
_WAITS = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
# An empty database of a run, once there is one.
_NEW: list[bytes] = []


def _without_waiting_for_the_disk(connection: Any, record: Any) -> None:
    # With a write-ahead log, as Dagster sets it, a power cut can take the newest events with it and damages nothing.
    connection.execute("pragma synchronous = normal")


class BatchedSqliteEventLogStorage(SqliteEventLogStorage):
    """SqliteEventLogStorage whose batches are one transaction for the run and one for the index of assets."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> Engine:
        """The database of a run, or the index, with its one connection; `_db_lock` keeps threads apart."""
        if shard not in self._initialized_dbs:
            if shard == INDEX_SHARD_NAME or not self._copied(Path(self.path_for_shard(shard))):
                self._make(shard)
            self._initialized_dbs.add(shard)
        if shard not in self._engines:
            self._engines[shard] = create_engine(
                self.conn_string_for_shard(shard), poolclass=StaticPool, connect_args={**_WAITS, "check_same_thread": False}
            )
            event.listen(self._engines[shard], "connect", _without_waiting_for_the_disk)
        self._engines.move_to_end(shard)
        while len(self._engines) > _OPEN_SHARDS:
            self._engines.popitem(last=False)[1].dispose()
        return self._engines[shard]

    def _make(self, shard: str) -> None:
        """As Dagster does; the first new database of a run is kept for the next ones."""
        path = Path(self.path_for_shard(shard))
        new = not path.exists()
        self._initdb(create_engine(self.conn_string_for_shard(shard), poolclass=NullPool, connect_args=_WAITS))
        if new and shard != INDEX_SHARD_NAME and not path.with_name(f"{path.name}-wal").exists():
            _NEW.append(path.read_bytes())

    def _copied(self, path: Path) -> bool:
        """Make the database of a run as a copy; False if there is none to copy, or one is there already."""
        if not _NEW or path.exists():
            return False
        whole = path.with_suffix(f".{os.getpid()}")
        try:
            whole.write_bytes(_NEW[0])
            # Unlike a rename, it fails where another process was first.
            os.link(whole, path)
        except OSError:
            return False
        finally:
            whole.unlink(missing_ok=True)
        return True

    @cached_property
    def supports_asset_checks(self) -> bool:
        """Dagster asks the database with each check."""
        return super().supports_asset_checks

    def logs_before(self, moment: float) -> list[str]:
        """The runs whose log was begun, and not written as a whole since, before `moment` (seconds since 1970)."""
        return [run for run in sorted(self.get_all_run_ids()) if Path(self.path_for_shard(run)).stat().st_mtime < moment]

    def forget_log(self, run_id: str) -> int:
        """Remove the events of a run that has ended; returns their bytes on disk.

        What the index holds of it stays: how it ended, what it made of which assets, and what their checks said.
        """
        with self._db_lock:
            if run_id in self._engines:
                self._engines.pop(run_id).dispose()
            self._initialized_dbs.discard(run_id)
            size = 0
            # The log of what is to be written first: alone it means nothing.
            for path in (Path(self.path_for_shard(run_id) + end) for end in ("-wal", "-shm", "")):
                with suppress(FileNotFoundError):
                    size += path.stat().st_size
                    path.unlink()
        return size

    def dispose(self) -> None:
        while self._engines:
            self._engines.popitem()[1].dispose()
        super().dispose()

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchedSqliteEventLogStorage":
        # Where Dagster's default storage keeps it too.
        return cls(inst_data=inst_data, base_dir=str(Path(os.environ["DAGSTER_HOME"]) / "history" / "runs"))

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        for (run_id, of_assets), together in groupby(events, key=_kind):
            if of_assets:
                self._store_asset_events(run_id, list(together))
            else:
                super().store_event_batch(list(together))

    def _store_asset_events(self, run_id: str, events: Sequence[EventLogEntry]) -> None:
        rows = [self._event_to_row(entry) for entry in events]
        with self.run_connection(run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
            # SQLite has one writer: the rows of this transaction have the last ids, in order.
            last: int = connection.execute(select(func.max(SqlEventLogStorageTable.c.id))).scalar_one()
            ids = range(last - len(rows) + 1, last + 1)
            self._store_asset_event_tags(connection, events, ids)
            # Of each kind of event, only an asset's newest decides what its summary row says.
            newest = {
                (entry.get_dagster_event().asset_key, entry.dagster_event_type): (key, entry)
                for key, entry in zip(ids, events, strict=True)
            }
            for key, entry in sorted(newest.values(), key=lambda found: found[0]):
                self._store_asset_event(connection, entry, key)


def _kind(entry: EventLogEntry) -> tuple[str, bool]:
    return entry.run_id, entry.dagster_event_type in ASSET_EVENTS
