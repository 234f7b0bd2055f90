"""Dagster's instance: its declaration in older data homes, and runs of killed commands, for which nothing waits."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from analytics_assets.definitions import build_definitions
from analytics_assets.defs.automation import busy
from analytics_assets.defs.instance import PROCESS_TAG, configure
from analytics_assets.settings import PROJECT


def going(instance: dg.DagsterInstance, process: int) -> dg.DagsterRun:
    """A run of `ingest` that Dagster shows as going, inside the process `process`."""
    job = build_definitions().resolve_job_def("ingest")
    tags = {PROCESS_TAG: str(process)}
    return instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)


def test_a_run_of_a_living_command_keeps_others_waiting() -> None:
    with dg.instance_for_test() as instance:
        going(instance, os.getpid())
        assert busy(instance, "ingest")


def test_a_run_of_a_killed_command_is_failed_and_waited_for_no_longer() -> None:
    with dg.instance_for_test() as instance:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        run = going(instance, child.pid)
        assert busy(instance, "ingest")
        child.kill()
        child.wait()
        assert not busy(instance, "ingest")
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None and ended.status == dg.DagsterRunStatus.FAILURE


OURS = (PROJECT / "dagster.yaml").read_text()
# As the project declared it before steps measured themselves, with a line that somebody changed.
OLDER = OURS[: OURS.index("# Every step measures itself")].replace("max_concurrent_runs: 4", "max_concurrent_runs: 7  # mine")


def configured(folder: Path, text: str) -> str:
    (folder / "dagster.yaml").write_text(text)
    return (configure(folder) / "dagster.yaml").read_text()


def test_an_older_data_home_gets_what_its_declaration_lacks_and_keeps_what_it_says(tmp_path: Path) -> None:
    text = configured(tmp_path, OLDER)
    assert text.startswith(OLDER.rstrip())
    assert yaml.safe_load(text)["python_logs"] == yaml.safe_load(OURS)["python_logs"]
    assert configured(tmp_path, text) == text
    assert [path.name for path in tmp_path.iterdir()] == ["dagster.yaml"]


@pytest.mark.parametrize("text", [OLDER + "python_logs: {}\n", "{nux: {enabled: false}}\n", "nux: [\n"])
def test_what_a_person_decided_or_wrote_in_another_way_is_left_alone(tmp_path: Path, text: str) -> None:
    assert configured(tmp_path, text) == text
