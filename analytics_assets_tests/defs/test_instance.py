"""Runs of killed commands: nothing waits for them."""

import os
import subprocess
import sys

import dagster as dg

from analytics_assets.definitions import build_definitions
from analytics_assets.defs.automation import busy
from analytics_assets.defs.instance import PROCESS_TAG


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
