"""The jobs on a small real data home: from files to the published DuckDB, and what Dagster's instance knows afterwards."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from analytics_assets.defs.instance import open_instance
from analytics_assets.defs.partitions import range_tags
from analytics_assets.defs.publication import PUBLISHED
from analytics_assets.defs.run import Jobs
from analytics_assets.events.days import DayRange, ranges
from analytics_assets.events.schema import EVENTS
from analytics_assets.marts.project import models
from analytics_assets.pipeline import Pipeline
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS
from analytics_assets.settings import UserError
from analytics_assets.telemetry.tables import STEP_TELEMETRY, UNIT_COSTS
from analytics_assets.warehouse.publish import current_path, current_version
from analytics_assets.warehouse.table import replace_all
from analytics_assets_tests.builders import rows_of
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home, keys

SPRING = DayRange(date(2025, 3, 10), date(2025, 3, 12))
DAILY = (SESSIONS.name, PAGE_VIEWS.name, RUNAWAYS.name, QUALITY_RESULTS.name, *models())
COUNTS = ("received", "rejected", "duplicates", "new events")


@dataclass
class Works:
    """Jobs over a data home, and the instance they run on."""

    home: DataHome
    jobs: Jobs
    instance: dg.DagsterInstance
    stages: Pipeline

    def ingest(self, path: Path, tenant: str = "acme") -> dict[str, dict[str, Any]]:
        ops = {"intake": {"path": str(path), "source": "segment", "tenant": tenant}}
        return facts(self.jobs.run("ingest", ops=ops))

    def refresh(self, days: DayRange) -> dict[str, dict[str, Any]]:
        return facts(self.jobs.run("refresh", tags=range_tags(days)))

    def waiting(self) -> list[DayRange]:
        with self.stages.connect() as con:
            return ranges(self.stages.pending(con))

    @property
    def version(self) -> int | None:
        return current_version(self.stages.home)


def rows_from(con: Any, query: str) -> list[tuple[Any, ...]]:
    return con.execute(query).fetchall()


def facts(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Metadata of the newest materialization of every asset in a run."""
    return {
        str(event.asset_key.to_user_string()): {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    """One data home for the tests of this file, which continue one another from top to bottom."""
    with a_data_home(tmp_path_factory.mktemp("jobs")) as home, warnings.catch_warnings():
        jobs = Jobs(home.settings)
        yield Works(home, jobs, open_instance(home.settings), Pipeline(home.settings))


@pytest.fixture(scope="module")
def loaded(works: Works) -> dict[str, dict[str, Any]]:
    calls = [
        a_call("m1", day="2025-03-10"),
        a_call("m2", day="2025-03-11"),
        a_call("m2", day="2025-03-11"),
        a_call("m3", day="2025-03-12", type="page", name="Home", properties={"url": "https://acme.test/"}),
        a_call("m4", type="dance"),
        "no json",
    ]
    return works.ingest(works.home.file("spring.ndjson", calls))


@pytest.fixture(scope="module")
def spring(works: Works, loaded: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert works.waiting() == [SPRING]
    return works.refresh(SPRING)


@pytest.fixture(scope="module")
def landed(works: Works, spring: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A landed file with a late event for spring and one of months later."""
    path = works.home.land("late.ndjson", [a_call("m5", day="2025-03-11"), a_call("m6", day="2025-08-01")])
    broken = works.home.land("broken.parquet", ["PAR1 and nothing else"])
    for file in (path, broken):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return facts(works.jobs.run("ingest"))


def test_an_ingest_tells_what_became_of_every_record(loaded: dict[str, dict[str, Any]]) -> None:
    assert set(loaded) == {"events", "rejected_events", "batches"}
    for name in loaded:
        assert [loaded[name][count] for count in COUNTS] == [6, 2, 1, 3]
        assert loaded[name]["rejected by reason"] == {"bad_json": 1, "unknown_type": 1}
    assert {name: loaded[name]["dagster/row_count"] for name in loaded} == {"events": 3, "rejected_events": 2, "batches": 1}
    assert "image/svg+xml" in loaded["events"]["events a day"]


def test_a_refresh_over_a_range_is_one_run_that_publishes(works: Works, spring: dict[str, dict[str, Any]]) -> None:
    assert set(spring) == {*DAILY, "users", "consent_status", "analytics_duckdb"}
    assert (spring["analytics_duckdb"]["published"], spring["analytics_duckdb"]["version"]) == (True, 1)
    explained = {line.data["table"]: line.data for line in spring["analytics_duckdb"]["explained"].records}
    assert explained.keys() == set(PUBLISHED)
    assert explained["revenue_daily"]["checks"] == "6 passed" and "events" in explained["revenue_daily"]["made from"]
    found = rows_of(current_path(works.stages.home), "select date, revenue from revenue_daily order by 1")
    assert [(str(day), float(revenue)) for day, revenue in found] == [("2025-03-10", 10.0), ("2025-03-11", 10.0)]
    runs = works.instance.get_runs(filters=dg.RunsFilter(job_name="refresh"))
    assert [run.status for run in runs][-1] == dg.DagsterRunStatus.SUCCESS


def test_every_day_of_the_range_counts_as_materialized(works: Works, spring: dict[str, Any]) -> None:
    made = {name: works.instance.get_materialized_partitions(dg.AssetKey(name)) for name in DAILY}
    assert made == dict.fromkeys(DAILY, keys(SPRING.first, 3))


def test_every_dbt_test_has_a_verdict(works: Works, spring: dict[str, Any]) -> None:
    checks = [dg.AssetCheckKey(dg.AssetKey(model.name), test.name) for model in models().values() for test in model.tests]
    newest = works.instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    assert {str(record.status.value) for record in newest.values()} == {"SUCCEEDED"}
    assert set(newest) == set(checks)


def test_landed_files_go_in_and_an_unreadable_one_is_set_aside(works: Works, landed: dict[str, dict[str, Any]]) -> None:
    assert [landed["events"][count] for count in COUNTS] == [2, 0, 0, 2]
    assert landed["events"]["dagster/row_count"] == 5
    assert list((works.home.root / "landing" / "acme").iterdir()) == []
    (received,) = (works.home.root / "received" / "acme").iterdir()
    assert received.name.endswith("-late.ndjson")
    aside = sorted(path.name.split("-", 1)[1] for path in (works.home.root / "set_aside" / "acme").iterdir())
    assert aside == ["broken.parquet", "broken.parquet.reason.txt"]
    logged = {record["status"]: record["file"] for record in (row.data for row in landed["batches"]["batches"].records)}
    assert logged == {"loaded": "late.ndjson", "set_aside": "broken.parquet"}


def test_readers_see_days_when_the_last_of_several_ranges_is_rebuilt(works: Works, landed: dict[str, Any]) -> None:
    seen = "select count(*), sum(revenue), (select sum(events) from events_daily) from events"
    # Nothing is half rebuilt yet: a publish shows the events that the sessions know, not those that just came.
    works.jobs.run("publish")
    before = works.version
    assert rows_of(current_path(works.stages.home), seen) == [(3, 20, 3)]

    first, second = works.waiting()
    assert (first.days, second.days) == ([date(2025, 3, 11)], [date(2025, 8, 1)])
    reason = "1 day waits for a rebuild (first 2025-08-01); the run that rebuilds them publishes"
    assert works.refresh(first)["analytics_duckdb"] == {"published": False, "reason": reason}
    assert facts(works.jobs.run("publish"))["analytics_duckdb"] == {"published": False, "reason": reason}
    assert works.version == before

    told = works.refresh(second)["analytics_duckdb"]
    assert (told["published"], told["version"]) == (True, works.version)
    assert works.waiting() == []
    assert rows_of(current_path(works.stages.home), seen) == [(5, 40, 5)]


def test_a_file_that_fails_stops_no_other_and_is_named(works: Works, landed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = (works.home.land(f"{name}.ndjson", [a_call(name, day="2025-08-01")]) for name in ("good", "bad"))
    for file in (good, bad):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    load = Pipeline.load

    def load_but_not_bad(self: Pipeline, con: Any, path: Path, *arguments: Any) -> Any:
        if path.name == "bad.ndjson":
            raise OSError("the disk has a hole")
        return load(self, con, path, *arguments)

    monkeypatch.setattr(Pipeline, "load", load_but_not_bad)
    with pytest.raises(dg.Failure, match=r"acme/bad\.ndjson: left in the landing folder; what else was waiting is loaded"):
        works.jobs.run("ingest")
    assert (good.exists(), bad.exists()) == (False, True)
    monkeypatch.undo()
    assert facts(works.jobs.run("ingest"))["events"]["new events"] == 1
    works.refresh(works.waiting()[0])


def test_a_rollback_is_a_run_that_the_history_and_the_asset_tell_of(works: Works, landed: Any) -> None:
    works.ingest(works.home.file("one-more.ndjson", [a_call("one more", day="2025-03-10")]))
    for days in works.waiting():
        works.refresh(days)
    before = works.version
    assert before is not None and before > 1
    works.jobs.run("rollback_publish", ops={"roll_back": {"reason": "wrong prices"}})
    assert works.version == before - 1
    (newest,) = works.instance.fetch_materializations(dg.AssetKey("analytics_duckdb"), limit=1).records
    assert newest.asset_materialization is not None
    told = {name: value.value for name, value in newest.asset_materialization.metadata.items()}
    assert told == {"published": False, "version": before - 1, "reason": "wrong prices"}
    with pytest.raises(UserError, match="publishing is held since a rollback \\(wrong prices\\)"):
        works.jobs.run("publish")
    works.jobs.run("publish", ops={"analytics_duckdb": {"release": True}})
    assert works.version == before + 1


def test_every_step_of_every_run_has_a_row_with_what_it_took_and_cost(works: Works, landed: Any) -> None:
    works.jobs.run("telemetry")
    runs = [run for run in works.instance.get_runs() if run.job_name != "telemetry"]
    ran = {(run.run_id, step.step_key) for run in runs for step in works.instance.get_run_step_stats(run.run_id)}
    with works.stages.connect() as con:
        for spec in (STEP_TELEMETRY, UNIT_COSTS):
            con.execute(f"create table {spec.name} as {works.stages.table(spec).snapshot().select()}")
        ask = partial(rows_from, con)
        assert set(ask("select run_id, step from step_telemetry")) == ran
        taken = " and ".join(f"{name} > 0" for name in ("wall_seconds", "cpu_seconds", "peak_memory_bytes", "bytes_read"))
        assert ask(f"select step from step_telemetry where not coalesce({taken}, false)") == []
        first = "select {} from step_telemetry where step = '{}' order by started_at limit 1"
        events = "rows_by_table::json ->> '$.events'"
        assert ask(first.format(f"tenant, outcome, {events}", "intake")) == [("acme", "success", "3")]
        assert ask(first.format("tenant, partition, config_source", "sessions")) == [
            (None, "2025-03-10..2025-03-12", "default")
        ]
        assert ask("select step from step_telemetry anti join unit_costs using (run_id, step, attempt)") == []
        assert ask("select step from unit_costs group by run_id, step, attempt having sum(cost) <= 0") == []


def test_a_file_without_a_source_fails_the_run_with_the_cure(works: Works) -> None:
    with pytest.raises(dg.Failure, match=r"give the source of .*; declared are canonical, .*segment"):
        works.jobs.run("ingest", ops={"intake": {"path": "/nowhere.ndjson"}})


def test_a_failed_expectation_fails_the_run_before_the_publish(works: Works, spring: dict[str, Any]) -> None:
    calls = [a_call(f"q{n}", day="2025-03-12") for n in range(20)]
    works.ingest(works.home.file("changed.ndjson", [*calls, *["no call"] * 10]))
    before = works.version
    with pytest.raises(dg.Failure, match="batch_rejects_few of batches"):
        works.refresh(SPRING)
    assert works.version == before
    key = dg.AssetCheckKey(dg.AssetKey("batches"), "batch_rejects_few")
    (record,) = works.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).values()
    assert (record.status.value, record.evaluation.severity) == ("FAILED", dg.AssetCheckSeverity.ERROR)


def test_a_failed_dbt_test_fails_the_run_and_keeps_what_is_published(works: Works, landed: dict[str, Any]) -> None:
    """Somebody empties a column of the warehouse by hand; a test on the marts notices."""
    works.ingest(works.home.file("summer.ndjson", [a_call("m7", day="2025-08-02")]))
    with works.stages.connect() as con:
        table = works.stages.table(EVENTS)
        replace_all(table, con, f"select * replace (null as tenant_id) from ({table.snapshot().select()})")
    before = works.version
    with pytest.raises(dg.Failure, match="the marts were not replaced, since these tests failed: "):
        works.refresh(DayRange(date(2025, 8, 2), date(2025, 8, 2)))
    assert works.version == before
    # It would name people until the next build.
    assert [*works.stages.home.work.glob("marts.duckdb*")] == []
    checks = [dg.AssetCheckKey(dg.AssetKey("events_daily"), "events_daily_always_known")]
    newest = works.instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    assert [record.status.value for record in newest.values()] == ["FAILED"]
