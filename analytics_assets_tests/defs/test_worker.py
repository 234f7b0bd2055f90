"""The resident worker as a real process on a small data home: what lands reaches readers, whatever fails or is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._utils.interrupts import capture_interrupts, raise_interrupts_as

from analytics_assets.defs.instance import open_instance, worker_is_here
from analytics_assets.defs.worker import Stopped
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import PROJECT
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import current_path
from analytics_assets_tests.builders import rows_of
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home

COMMAND = [sys.executable, "-m", "analytics_assets.cli", "worker"]
# A worker that has not done it by then does not do it.
DEADLINE_SECONDS = 240


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not {what} within {DEADLINE_SECONDS} s"
        time.sleep(0.1)


@dataclass
class Served:
    """A data home with a worker. The tests of this file use it in any order: each brings its own files."""

    home: DataHome
    log: Path
    dropped: int = 0
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self) -> None:
        with self.log.open("wb") as errors:
            self.workers.append(subprocess.Popen(COMMAND, cwd=PROJECT, stderr=errors))
        until(lambda: "ready; " in self.log.read_text(), "ready")

    def drop(self, tenant: str = "acme") -> Path:
        """A file that has settled, with one event, whose message bears the file's name."""
        self.dropped += 1
        file = self.home.land(f"{self.dropped}.ndjson.part", [a_call(f"{self.dropped}")], tenant)
        moment = time.time() - 10
        os.utime(file, (moment, moment))
        return file.rename(file.with_suffix(""))

    @property
    def shown(self) -> list[str]:
        """Messages that readers see, each as often as it is there."""
        path = current_path(Home(self.home.root))
        return [row[0] for row in rows_of(path, "select message_id from events order by 1")] if path.exists() else []

    def brings(self) -> Path:
        """Drop a file and wait until readers see its event."""
        file = self.drop()
        until(lambda: file.stem in self.shown, "shown")
        return file

    def runs(self, job: str) -> list[dg.DagsterRun]:
        """Newest first."""
        with open_instance(self.home.settings) as instance:
            return list(instance.get_runs(dg.RunsFilter(job_name=job)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("worker")
    with a_data_home(folder) as home:
        # A tenant whose files nobody can load.
        declared = [{"id": "acme", "source": "segment"}, {"id": "lost", "source": "nowhere"}]
        (home.settings.config / "tenants.yaml").write_text(yaml.safe_dump({"tenants": declared}))
        served = Served(home, folder / "worker.log")
        try:
            served.start()
            yield served
        finally:
            for worker in served.workers:
                worker.kill()
                worker.wait()


def test_a_second_worker_says_in_one_line_that_there_is_one(served: Served) -> None:
    second = subprocess.run(COMMAND, cwd=PROJECT, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    told = "a worker serves this data home already (`analytics dev` starts one); end that one first"
    assert (second.returncode, second.stderr) == (1, f"analytics: {told}\n")


def test_a_file_that_fails_stops_no_other_and_is_not_tried_without_a_pause(served: Served) -> None:
    lost = served.drop("lost")
    served.brings()
    served.brings()
    assert lost.exists()
    # Both times together with a file that had just come.
    assert [run.status for run in served.runs("ingest")] == [dg.DagsterRunStatus.FAILURE] * 2
    assert served.log.read_text().count(f"ingest failed: lost/{lost.name}: left in the landing folder") == 2
    lost.unlink()


def test_its_runs_carry_what_the_sensors_give_and_are_noted(served: Served) -> None:
    served.brings()
    newest = served.runs("refresh")[0].tags
    assert (newest["analytics/tier"], newest["analytics/queue"]) == ("near_real_time", "near-real-time")
    assert newest["dagster/priority"] == "30" and newest["analytics/why"].startswith("acme: received ")
    stages = Pipeline(served.home.settings)
    with stages.connect() as con:
        noted = {(found["tier"], found["action"]) for found in stages.watch.actions(con, 100)}
    assert ("near_real_time", "refresh 2025-03-10") in noted


@pytest.mark.long
def test_killed_in_the_middle_of_a_run_the_next_one_goes_on_and_nothing_is_lost_or_double(served: Served) -> None:
    before, shown = len(served.runs("refresh")), served.shown
    file = served.drop()
    until(lambda: len(served.runs("refresh")) > before, "begun")
    served.workers[-1].kill()
    served.workers[-1].wait()
    assert not worker_is_here(Home(served.home.root))
    served.start()
    shown = sorted([*shown, file.stem])
    until(lambda: served.shown == shown, "shown")
    path, once = current_path(Home(served.home.root)), (len(shown), len(shown))
    assert rows_of(path, "select count(*), count(distinct batch_id) from time_to_insight") == [once]
    over = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
    until(lambda: {run.status for run in served.runs("refresh")} == over, "over, the killed run as a failure")


def test_a_signal_that_dagster_swallows_between_two_steps_is_known_all_the_same() -> None:
    with Stopped() as stopped:
        with capture_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()


class _Finalized:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_the_middle_of_a_finalizer_is_known_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As without pytest, which makes a warning of it.
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with Stopped() as stopped:
        with raise_interrupts_as(DagsterExecutionInterruptedError):
            _Finalized()
        assert stopped()
    assert capsys.readouterr().err == ""


def test_a_signal_ends_it_in_silence(served: Served) -> None:
    worker, before = served.workers[-1], len(served.log.read_text())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_SECONDS) == 0
    assert served.log.read_text()[before:] == ""
    assert not worker_is_here(Home(served.home.root))
