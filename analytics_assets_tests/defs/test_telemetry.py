"""Telemetry on a real instance: steps that succeed, fail, retry, run out of memory and are killed, with no line in a body."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.instance import PROCESS_TAG, open_instance
from analytics_assets.defs.partitions import RANGE_END, RANGE_START
from analytics_assets.defs.resources import production_resources
from analytics_assets.defs.run_logs import forget_old
from analytics_assets.defs.telemetry import _tenant, collect, partition_of
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import PROJECT
from analytics_assets.telemetry.journal import left
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets_tests.defs.home import DataHome, a_data_home

COUNTED = "create temp table numbers as from range(1000000) t(n); select max(n), count(distinct hash(n)) from numbers"


@dg.asset
def healthy(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute(COUNTED).fetchall()


@dg.asset(deps=["healthy"], retry_policy=dg.RetryPolicy(max_retries=1))
def second_time_lucky(context: dg.AssetExecutionContext) -> None:
    if context.retry_number == 0:
        raise ConnectionError("not yet")


@dg.asset(deps=["healthy"])
def too_large(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select string_agg(repeat('x', 100) || n) from range(10000000) t(n)").fetchall()


@dg.asset(deps=["healthy"])
def wrong() -> None:
    raise ValueError("a mistake")


@dg.asset(deps=["healthy"])
def killed() -> None:
    held = bytearray(200 * 1024 * 1024)
    os.kill(os.getpid(), signal.SIGKILL)
    del held


ASSETS = [healthy, second_time_lucky, too_large, wrong, killed]


def a_job(*names: str) -> dg.JobDefinition:
    definitions = dg.Definitions(
        ASSETS, resources=production_resources(), jobs=[dg.define_asset_job("some", selection=list(names))]
    )
    return definitions.resolve_job_def("some")


def job_of_processes() -> dg.JobDefinition:
    """A process a step, as `dg.reconstructable` wants it."""
    return a_job("killed")


@dataclass
class Kept:
    """A data home with Dagster's instance as the project declares it, and its `step_telemetry`."""

    home: DataHome
    instance: dg.DagsterInstance
    stages: Pipeline

    def collect(self) -> tuple[int, int]:
        with self.stages.connect() as con:
            return collect(self.instance, self.stages, con)

    def steps(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The rows, by step and attempt."""
        with self.stages.connect() as con:
            select = self.stages.table(STEP_TELEMETRY).snapshot().select()
            rows = con.execute(f"select * from ({select})").fetchall()
        found = [dict(zip(STEP_TELEMETRY.column_names, row, strict=True)) for row in rows]
        assert len({(row["run_id"], row["step"], row["attempt"]) for row in found}) == len(found)
        return {(row["step"], row["attempt"]): row for row in found}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with a_data_home(tmp_path) as home:
        (home.settings.config / "limits.yaml").write_text("storage: {memory_mb: 160, threads: 1}\n")
        (home.settings.config / "tuning.yaml").write_text("out_of_memory: {retries: 0}\n")
        yield Kept(home, open_instance(home.settings), Pipeline(home.settings))


def test_every_attempt_of_every_step_is_kept_with_what_it_took(kept: Kept) -> None:
    before = datetime.now() - timedelta(seconds=1)  # noqa: DTZ005
    job = a_job("healthy", "second_time_lucky", "too_large", "wrong")
    tags = {RANGE_START: "2026-03-01", RANGE_END: "2026-03-03"}
    job.execute_in_process(instance=kept.instance, tags=tags, raise_on_error=False)
    assert (kept.collect(), kept.collect()) == ((1, 5), (0, 0))
    steps = kept.steps()
    assert {key: (row["outcome"], row["error_class"], row["lower_bound"]) for key, row in steps.items()} == {
        ("healthy", 1): ("success", None, False),
        ("second_time_lucky", 1): ("failure", "ConnectionError", True),
        ("second_time_lucky", 2): ("success", None, False),
        ("too_large", 1): ("out_of_memory", "NotEnoughMemory", True),
        ("wrong", 1): ("failure", "ValueError", True),
    }
    for (step, _), row in steps.items():
        assert row["wall_seconds"] > 0 and row["cpu_seconds"] > 0, step
        assert row["peak_memory_bytes"] >= row["memory_before_bytes"] > 50_000_000, step
        assert row["bytes_read"] >= 0 and row["bytes_written"] > 0, step
        assert row["queue_seconds"] >= 0, step
        assert len(row["code_version"]) == 12, step
        assert (row["job"], row["shared_process"], row["assets"]) == ("some", True, f'["{step}"]')
        assert (row["partition"], row["tenant"]) == ("2026-03-01..2026-03-03", None)
        assert row["started_at"] >= before - timedelta(hours=24)
    row = steps["healthy", 1]
    assert (row["memory_limit_bytes"], row["threads"], row["config_source"]) == (160_000_000, 1, "limits.yaml")
    assert (row["queries"], row["rows_read"]) == (2, 1_000_000)
    assert 1_000_000 < row["duckdb_peak_bytes"] < 160_000_000
    # Nothing is known of the limits of a step that opened no connection.
    assert steps["wrong", 1]["memory_limit_bytes"] is None
    assert left(kept.stages.home) == []


@pytest.mark.parametrize(
    ("tags", "tenant", "partition"),
    [
        ({"analytics/tenant": "acme", "dagster/partition": "2026-03-01"}, "acme", "2026-03-01"),
        ({"analytics/tenant": "anna@example.com", "dagster/partition": "anna@example.com"}, None, None),
        ({RANGE_START: "anna", RANGE_END: "2026-03-01"}, None, None),
    ],
)
def test_what_somebody_types_into_a_tag_is_kept_only_if_it_is_a_tenant_or_days(
    tags: dict[str, str], tenant: str | None, partition: str | None
) -> None:
    run = dg.DagsterRun(job_name="some", run_config={"ops": {"one": {"config": {"tenant": tags.get("analytics/tenant")}}}})
    assert (_tenant(run.with_tags(tags), "one", {"acme"}), partition_of(tags)) == (tenant, partition)


def test_a_step_whose_process_was_killed_is_a_lower_bound(kept: Kept) -> None:
    """In a process of its own, which ends itself with `kill -9`."""
    with dg.execute_job(dg.reconstructable(job_of_processes), instance=kept.instance) as result:
        assert not result.success
    assert kept.collect() == (1, 1)
    row = kept.steps()["killed", 1]
    assert (row["outcome"], row["error_class"], row["lower_bound"]) == ("killed", "ChildProcessCrashException", True)
    assert row["peak_memory_bytes"] > 0 and row["wall_seconds"] >= 0 and not row["shared_process"]
    assert left(kept.stages.home) == []


COMMAND = f"""
import os, sys
from analytics_assets.defs.instance import open_instance
from analytics_assets.settings import Settings
from analytics_assets_tests.defs.test_telemetry import a_job
a_job("healthy", "killed").execute_in_process(
    instance=open_instance(Settings.from_env()), tags={{"{PROCESS_TAG}": str(os.getpid())}}
)
"""


def test_a_command_that_was_killed_leaves_its_steps_to_the_next_one(kept: Kept) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMMAND], cwd=PROJECT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    # The run goes on as far as Dagster knows.
    assert kept.collect() == (0, 0)
    assert len(left(kept.stages.home)) == 1
    open_instance(kept.home.settings)
    assert kept.collect() == (1, 2)
    steps = kept.steps()
    assert (steps["healthy", 1]["outcome"], steps["healthy", 1]["lower_bound"]) == ("success", False)
    row = steps["killed", 1]
    assert (row["outcome"], row["error_class"], row["lower_bound"]) == ("killed", None, True)
    assert row["peak_memory_bytes"] > 0 and row["wall_seconds"] >= 0
    assert left(kept.stages.home) == []


def test_a_collector_that_is_killed_at_any_point_keeps_every_step_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """What a killed process leaves: nothing that comes after it."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    a_job("healthy").execute_in_process(instance=kept.instance)
    # Before the commit, and after it.
    for point in ("analytics_assets.telemetry.steps.replace_days", "analytics_assets.defs.telemetry.forget"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(point, die)
            kept.collect()
        assert len(left(kept.stages.home)) == 1
    assert kept.collect() == (0, 0)
    assert kept.steps()["healthy", 1]["cpu_seconds"] > 0
    assert left(kept.stages.home) == []


# What Dagster keeps


def logged(instance: dg.DagsterInstance, run_id: str) -> int:
    return len(instance.get_records_for_run(run_id).records)


def run_healthy(kept: Kept) -> str:
    return a_job("healthy").execute_in_process(instance=kept.instance).run_id


def forget_after(kept: Kept, **time: float) -> int:
    """Forget the logs that are old so long from now; returns of how many runs."""
    with kept.stages.connect() as con:
        return forget_old(kept.instance, kept.stages, con, datetime.now(UTC).replace(tzinfo=None) + timedelta(**time))[0]


def test_the_log_of_an_old_run_goes_and_what_is_known_of_its_steps_and_assets_stays(kept: Kept) -> None:
    run = run_healthy(kept)
    assert forget_after(kept, days=89.9) == 0
    assert logged(kept.instance, run) > 10
    # Nothing has read it before.
    assert forget_after(kept, days=90.1) == 1
    assert kept.steps()["healthy", 1]["cpu_seconds"] > 0
    assert not list((kept.stages.home.dagster / "history" / "runs").glob(f"{run}.db*"))
    made = kept.instance.get_latest_materialization_event(dg.AssetKey("healthy"))
    assert made is not None and made.run_id == run
    ended = kept.instance.get_run_by_id(run)
    assert ended is not None and ended.is_success
    # It is known to be gone, and not looked for again; what comes is read as always.
    assert forget_after(kept, days=90.1) == 0
    run_healthy(kept)
    assert kept.collect() == (1, 1)


def test_the_log_of_a_run_that_goes_on_stays(kept: Kept) -> None:
    run = run_healthy(kept)
    with kept.instance.run_storage.connect() as con:  # type: ignore[attr-defined]
        con.exec_driver_sql("update runs set status = 'STARTED'")
    assert forget_after(kept, days=400) == 0
    assert logged(kept.instance, run) > 10


# A long history


def a_past_run(instance: dg.DagsterInstance, number: int) -> None:
    """What a run leaves in Dagster's storage whose process died in its only step, without running it."""
    run = dg.DagsterRun(job_name="some", run_id=f"run-{number}", status=dg.DagsterRunStatus.FAILURE)
    instance.add_run(run)
    for kind, step in ((DagsterEventType.STEP_START, "one"), (DagsterEventType.RUN_FAILURE, None)):
        event = DagsterEvent(kind.value, "some", step_key=step)
        entry = dg.EventLogEntry(None, logging.INFO, "", run.run_id, 1.7e9 + number, step_key=step, dagster_event=event)
        instance.event_log_storage.store_event(entry)


def test_of_a_long_history_only_the_new_run_is_read(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics_assets.defs.telemetry._RUNS", 10)
    with dg.DagsterInstance.ephemeral() as instance:
        kept.instance = instance
        for number in range(1, 26):
            a_past_run(instance, number)
        # More than are read at once.
        assert kept.collect() == (25, 25)
        a_past_run(instance, 26)
        read = []
        of_run = instance.get_records_for_run
        instance.get_records_for_run = lambda run, **wanted: read.append(run) or of_run(run, **wanted)  # type: ignore[method-assign, func-returns-value]
        assert kept.collect() == (1, 1)
        assert len(read) == 1
        assert kept.stages.table(STEP_TELEMETRY).snapshot().rows == 26
