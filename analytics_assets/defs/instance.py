"""Dagster's instance of a data home: where its runs, events and schedules are kept."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_assets.settings import PROJECT, Settings
from analytics_assets.warehouse.home import Home

if TYPE_CHECKING:
    import dagster as dg


def configure(folder: Path) -> Path:
    """Put the project's `dagster.yaml` into `folder`, unless one stands there; returns `folder`."""
    target = folder / "dagster.yaml"
    if not target.exists():
        shutil.copyfile(PROJECT / "dagster.yaml", target)
    return folder


# Held by the resident worker as long as it lives.
WORKER_LOCK = "worker"


def worker_is_here(home: Home) -> bool:
    """Whether a resident worker serves this data home, so that sensors leave its work to it."""
    return home.in_use(WORKER_LOCK)


# Runs inside a command carry its process id: nobody else would notice that they died.
PROCESS_TAG = "analytics/process"
GOING = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")


def end_dead_runs(instance: "dg.DagsterInstance") -> None:
    """Mark runs as failed whose command was killed; what they had committed stands, and the next run goes on from it."""
    import dagster as dg

    going = dg.RunsFilter(statuses=[dg.DagsterRunStatus[name] for name in GOING])
    for run in instance.get_runs(going):
        process = run.tags.get(PROCESS_TAG)
        if process and not _alive(int(process)):
            instance.report_run_failed(run, f"process {process} is gone")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def open_instance(settings: Settings) -> "dg.DagsterInstance":
    """The instance that the UI of this data home shows."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(configure(Home(settings.home).dagster))
    instance = dg.DagsterInstance.get()
    end_dead_runs(instance)
    return instance
