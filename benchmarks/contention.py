"""Work of all tiers asked for together on a running `analytics dev`: in which order it starts, and how long each waited.

The data home holds the retail sample. A backfill of its year waits for the off-peak window, which is closed. The daemon is
stopped for a moment, in which a person lets the backfill go and hourly and near-real-time work is asked for, in the wrong
order; then it goes on. While the backfill runs, more of both is asked for. The waits are those of Dagster's own records.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from analytics_assets.defs.instance import open_instance
from analytics_assets.defs.queues import QUEUE_TAG, queue_waits, waiting
from analytics_assets.freshness.queues import load_queues
from analytics_assets.settings import Settings
from benchmarks.measure import PROJECT, Bench, BenchmarkError, Finding, Measured, child_environment, run

_YEAR = [(date(2010, 12, 1) + timedelta(days=n)).isoformat() for n in range(374)]
_BY_DAY = (
    "sessions", "page_views", "runaway_sessions", "stg_events", "stg_sessions", "events_hourly", "events_daily",
    "properties_daily", "revenue_daily", "funnel_daily", "cohort_retention_weekly", "quality_results", "consent_status",
)  # fmt: skip
# A day like those before it, which no check holds.
_DAY = "2011-11-10"
_ORDER = ["near-real-time", "hourly", "released"]
# Nothing here takes so long unless it is broken.
_PATIENCE = 600.0


def measure(bench: Bench) -> Measured:
    rounds = 1 if bench.small else 3
    work = bench.folder("contention")
    try:
        config = work / "config"
        shutil.copytree(PROJECT / "analytics_assets" / "config", config)
        _close_the_window(config)
        home = work / "home"
        bench.say("contention: loading the retail sample")
        environment = {"ANALYTICS_HOME": str(home), "ANALYTICS_CONFIG": str(config)}
        run([bench.python, "-m", "analytics_assets.cli", "demo"], **environment)
        since = datetime.now(UTC).replace(tzinfo=None)
        with (
            _development(bench, environment) as (port, daemon),
            open_instance(Settings(home, config)) as instance,
        ):
            bench.say("contention: a backfill of the year waits for its window")
            _backfill(port)
            _until(lambda: [one.queue for one in waiting(instance, load_queues(config / "queues.yaml"), since)] == ["heavy"])
            (held,) = waiting(instance, load_queues(config / "queues.yaml"), since)
            bench.say("contention: backfill, hourly and near-real-time work together")
            with _stopped(daemon):
                run(
                    [bench.python, "-m", "analytics_assets.cli", "queue", "release", "--all", "--reason", "measured"],
                    **environment,
                )
                together = {_launch(port, "hourly"), _launch(port, "near_real_time"), held.run_id}
            _until(lambda: all(_started(instance, run_id) for run_id in together))
            order = [_queue_of(instance, run_id) for run_id in sorted(together, key=lambda one: _started(instance, one) or 0)]
            first = {line.queue: asdict(line) for line in queue_waits(instance, since)}
            bench.say(
                "contention: started were " + ", ".join(f"{queue} after {first[queue]['longest']:.0f} s" for queue in order)
            )
            bench.say(f"contention: {rounds} more of each while the backfill goes")
            beside = []
            for _ in range(rounds):
                asked = [_launch(port, tier) for tier in ("hourly", "near_real_time")]
                _until(lambda asked=asked: all(_ended(instance, one) for one in asked))  # type: ignore[misc]
                beside.append(_is_going(instance, held.run_id))
            waits = {line.queue: asdict(line) for line in queue_waits(instance, since)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Measured(
        (
            Finding(
                "contention: runs asked for together start in tier order (1: yes)", float(order == _ORDER), "", 1, "at least"
            ),
            *(
                Finding(f"contention: {queue} waited, when asked for together", first[queue]["longest"], "s")
                for queue in _ORDER
            ),
            *(Finding(f"contention: {queue} waited, longest of all", waits[queue]["longest"], "s") for queue in _ORDER[:2]),
            Finding("contention: the heavy run waited for its window before", float(held.queue == "heavy"), "", 1, "at least"),
        ),
        {"order": order, "together": first, "all": waits, "beside the backfill": beside},
        (
            f"started in the order {', '.join(order)}; the backfill waited for {held.waits_for} until it was let go.",
            f"{sum(beside)} of {rounds} later rounds ended while the backfill was still going.",
            "A wait ends where the process of the run is up: on two busy cores its start takes most of it.",
        ),
    )


def _close_the_window(config: Path) -> None:
    """Declare an off-peak window that opens in twelve hours."""
    opens = datetime.now(UTC) + timedelta(hours=12)
    window = {"begin": f"{opens:%H:%M}", "end": f"{opens + timedelta(hours=1):%H:%M}"}
    (config / "queues.yaml").write_text(json.dumps({"off_peak": [window]}), encoding="utf-8")


@contextmanager
def _development(bench: Bench, environment: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """A real `analytics dev`; gives the port of its UI and the process of its daemon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [str(bench.python), "-m", "analytics_assets.cli", "dev", "--port", str(port)]
    log = Path(environment["ANALYTICS_HOME"]) / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env={**child_environment(), **environment}, stdout=output, stderr=output
        )
        try:
            _until(lambda: process.poll() is not None or _answers(port))
            if process.poll() is not None:
                raise BenchmarkError(f"`analytics dev` did not start: {log.read_text(errors='replace')[-300:]}")
            yield port, _daemon_of(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE)


def _daemon_of(parent: int) -> int:
    """The process of Dagster's daemon among those that `parent` started."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [(int(pid), int(above), words) for pid, above, words in (line.split(None, 2) for line in listed.splitlines())]
    family, grown = {parent}, True
    while grown:
        more = {pid for pid, above, _ in rows if above in family} - family
        family, grown = family | more, bool(more)
    (daemon,) = [pid for pid, _, words in rows if pid in family and "dagster._daemon" in words]
    return daemon


@contextmanager
def _stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise BenchmarkError(f"nothing came of it within {_PATIENCE:.0f} s")
        time.sleep(0.5)


def _ask(port: int, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What the UI's own interface answers."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    if "errors" in answer:
        raise BenchmarkError(str(answer["errors"])[:300])
    (found,) = answer["data"].values()
    if "message" in found:
        raise BenchmarkError(found["message"][:300])
    return dict(found)


def _backfill(port: int) -> None:
    """Ask for the whole year of every table by day."""
    parameters = {"assetSelection": [{"path": [name]} for name in _BY_DAY], "partitionNames": _YEAR, "title": "contention"}
    _ask(
        port,
        "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename "
        "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
        {"p": parameters},
    )


def _launch(port: int, tier: str) -> str:
    """Ask for a day of a tier's work, as its sensor does; returns the run."""
    tags = {"dagster/sensor_name": tier, "analytics/tier": tier}
    tags |= {f"dagster/asset_partition_range_{end}": _DAY for end in ("start", "end")}
    parameters = {
        "selector": {
            "repositoryLocationName": "analytics_assets.definitions", "repositoryName": "__repository__",
            "pipelineName": "refresh",
        },
        "mode": "default",
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }  # fmt: skip
    answer = _ask(
        port,
        "mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename "
        "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
        {"p": parameters},
    )
    if "run" not in answer:
        raise BenchmarkError(f"the run was not taken: {answer}")
    return str(answer["run"]["runId"])


def _record(instance: dg.DagsterInstance, run_id: str) -> dg.RunRecord:
    found = instance.get_run_record_by_id(run_id)
    if found is None or found.dagster_run.status == dg.DagsterRunStatus.FAILURE:
        raise BenchmarkError(f"the run {run_id} failed")
    return found


def _started(instance: dg.DagsterInstance, run_id: str) -> float | None:
    return _record(instance, run_id).start_time


def _ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    return _record(instance, run_id).end_time is not None


def _is_going(instance: dg.DagsterInstance, run_id: str) -> bool:
    return _record(instance, run_id).dagster_run.status == dg.DagsterRunStatus.STARTED


def _queue_of(instance: dg.DagsterInstance, run_id: str) -> str:
    return _record(instance, run_id).dagster_run.tags[QUEUE_TAG]
