"""The batched event log against Dagster's own. It stands on private paths of Dagster: these tests are their guard."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import AssetKey, DagsterEventType, EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage

from analytics_assets.defs.storage import BatchedSqliteEventLogStorage

WEEK = dg.DailyPartitionsDefinition("2026-03-01", "2026-03-08")
# When a row was written, which no two storages share.
WRITTEN = {"create_timestamp", "migration_completed"}


@dg.multi_asset(
    specs=[dg.AssetSpec("counted"), dg.AssetSpec("summed", deps=["counted"])],
    check_specs=[dg.AssetCheckSpec("is_plausible", asset="summed")],
    partitions_def=WEEK,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def week(context: dg.AssetExecutionContext) -> Iterator[Any]:
    yield dg.MaterializeResult("counted", metadata={"rows": 7})
    yield dg.AssetObservation("counted", metadata={"seen": True})
    yield dg.MaterializeResult("summed", tags={"how": "whole"}, check_results=[dg.AssetCheckResult(passed=False)])


@dg.asset(deps=["summed"])
def told(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("a line that is no Dagster event")
    return dg.MaterializeResult(metadata={"words": 3})


@pytest.fixture(scope="module")
def events() -> Sequence[EventLogEntry]:
    """Everything that a run over a week records: planned, materialized, observed, checked, plain lines."""
    with dg.instance_for_test() as instance:
        job = dg.Definitions([week, told], jobs=[dg.define_asset_job("all", [week, told])]).resolve_job_def("all")
        tags = {"dagster/asset_partition_range_start": "2026-03-01", "dagster/asset_partition_range_end": "2026-03-07"}
        result = job.execute_in_process(instance=instance, tags=tags)
        found = instance.all_logs(result.run_id)
    kinds = {event.dagster_event_type for event in found}
    assert kinds >= {
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_OBSERVATION,
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
        DagsterEventType.ASSET_CHECK_EVALUATION,
        DagsterEventType.RUN_SUCCESS,
    }
    return found


@dataclass(frozen=True)
class Pair:
    """The same events in Dagster's own storage and in ours."""

    one_by_one: SqliteEventLogStorage
    batched: BatchedSqliteEventLogStorage
    folder: Path

    def store(self, events: Sequence[EventLogEntry], size: int) -> None:
        for event in events:
            self.one_by_one.store_event(event)
        for start in range(0, len(events), size):
            self.batched.store_event_batch(events[start : start + size])

    def both(self, name: str) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        return contents(self.folder / "one" / name), contents(self.folder / "batched" / name)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    one, batched = SqliteEventLogStorage(str(tmp_path / "one")), BatchedSqliteEventLogStorage(str(tmp_path / "batched"))
    yield Pair(one, batched, tmp_path)
    one.dispose()
    batched.dispose()


def contents(path: Path) -> dict[str, list[Any]]:
    """Every row of every table of a SQLite file."""
    with sqlite3.connect(path) as con:
        con.row_factory = sqlite3.Row
        tables = [row[0] for row in con.execute("select name from sqlite_master where type = 'table' order by 1")]
        return {
            table: [{k: row[k] for k in row.keys() if k not in WRITTEN} for row in con.execute(f"select * from {table}")]  # noqa: SIM118
            for table in tables
        }


@pytest.mark.parametrize("size", [1000, 5])
def test_batches_leave_the_rows_that_single_events_leave(pair: Pair, events: Sequence[EventLogEntry], size: int) -> None:
    pair.store(events, size)
    own, ours = pair.both("index.db")
    assert len(own["event_logs"]) > 20
    assert own["asset_keys"] and own["asset_check_executions"]
    assert ours == own
    own, ours = pair.both(f"{events[0].run_id}.db")
    assert len(own["event_logs"]) == len(events)
    assert ours == own


def test_the_batched_log_answers_as_dagsters_own(pair: Pair, events: Sequence[EventLogEntry]) -> None:
    pair.store(events, 1000)
    keys = [AssetKey("counted"), AssetKey("summed"), AssetKey("told")]
    answers = [
        (
            storage.get_asset_records(keys),
            {key: storage.get_materialized_partitions(key) for key in keys},
            storage.get_latest_materialization_events(keys),
            [
                (record.status, record.event)
                for record in storage.get_asset_check_execution_history(dg.AssetCheckKey(keys[1], "is_plausible"), limit=10)
            ],
            storage.get_logs_for_run(events[0].run_id),
        )
        for storage in (pair.one_by_one, pair.batched)
    ]
    assert answers[0] == answers[1]
    _, partitions, latest, history, logs = answers[1]
    assert partitions[keys[0]] == set(WEEK.get_partition_keys())
    assert latest[keys[2]] is not None
    assert history and len(logs) == len(events)


def test_the_newest_materialization_stands_though_the_batch_goes_on_with_other_events(
    pair: Pair, events: Sequence[EventLogEntry]
) -> None:
    """An observation behind a materialization of the same asset must not take its place in the asset's summary."""
    counted = [event for event in events if event.dagster_event and event.dagster_event.asset_key == AssetKey("counted")]
    made = [event for event in counted if event.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION]
    seen = [event for event in counted if event.dagster_event_type == DagsterEventType.ASSET_OBSERVATION]
    pair.store([*made, *seen], 1000)
    own, ours = pair.both("index.db")
    assert own["asset_keys"][0]["last_materialization"] is not None
    assert ours["asset_keys"] == own["asset_keys"]


def test_runs_share_a_batch(pair: Pair, events: Sequence[EventLogEntry]) -> None:
    others = [event._replace(run_id="another-run") for event in events]
    pair.store([*others, *events], 2 * len(events))
    own, ours = pair.both("index.db")
    assert ours == own
    for run_id in (events[0].run_id, "another-run"):
        own, ours = pair.both(f"{run_id}.db")
        assert len(own["event_logs"]) == len(events)
        assert ours == own


def test_dagster_hands_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over a week comes in fewer calls than it has events: the setting that makes Dagster buffer still works."""
    sizes: list[int] = []

    class Counting(BatchedSqliteEventLogStorage):
        def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
            sizes.append(len(events))
            super().store_event_batch(events)

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.instance_for_test() as plain:
        storage = Counting(str(tmp_path / "runs"))
        storage.register_instance(plain)
        monkeypatch.setattr(plain, "_event_storage", storage)
        tags = {"dagster/asset_partition_range_start": "2026-03-01", "dagster/asset_partition_range_end": "2026-03-07"}
        job = dg.Definitions([week], jobs=[dg.define_asset_job("all", [week])]).resolve_job_def("all")
        job.execute_in_process(instance=plain, tags=tags)
    assert max(sizes) >= 7


def test_the_database_of_each_run_is_as_dagster_makes_it_though_only_the_first_was_made(
    pair: Pair, events: Sequence[EventLogEntry]
) -> None:
    for run_id in ("first", "second", "third"):
        pair.store([event._replace(run_id=run_id) for event in events[:20]], 1000)
        own, ours = pair.both(f"{run_id}.db")
        assert ours == own and ours["alembic_version"] and len(ours["event_logs"]) == 20
    assert {path.name.partition(".db")[0] for path in (pair.folder / "batched").iterdir()} == {
        "first",
        "second",
        "third",
        "index",
    }
