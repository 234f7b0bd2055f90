"""Dagster's event log in SQLite, written a batch at a time.

A run over a year of days records one event a day and asset. Stored one by one, as Dagster's SQLite storage does, 304 days of
seven assets took 85 s; as batches 5 s. Everything else is Dagster's own.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData

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
        runs = {event.run_id for event in events}
        if len(runs) > 1 or any(event.dagster_event_type not in ASSET_EVENTS for event in events):
            super().store_event_batch(events)
            return
        statements = [self.prepare_insert_event(event) for event in events]
        with self.run_connection(runs.pop()) as connection:
            for statement in statements:
                connection.execute(statement)
        with self.index_transaction() as connection:
            ids = [connection.execute(statement).inserted_primary_key[0] for statement in statements]
            self._store_asset_event_tags(connection, events, ids)
            # Only the newest event of an asset decides what its summary row says.
            newest = {event.get_dagster_event().asset_key: (event, key) for event, key in zip(events, ids, strict=True)}
            for event, key in newest.values():
                self._store_asset_event(connection, event, key)
