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
_GOING = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")


def end_dead_runs(instance: "dg.DagsterInstance") -> None:
    """Mark runs as failed whose command was killed; what they had committed stands, and the next run goes on from it."""
    import dagster as dg

    going = dg.RunsFilter(statuses=[dg.DagsterRunStatus[name] for name in _GOING])
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


def runs_going(settings: Settings) -> list[dict[str, str]]:
    """Runs that go or wait for their turn, oldest first: what they do, whether they go or wait, since when (UTC), and why.

    Not those that wait for the off-peak window: nothing is done about what is wrong now.
    """
    # Importing Dagster takes seconds; where it never ran, nothing goes.
    if not (settings.home / "dagster" / "history").exists():
        return []
    import dagster as dg

    from analytics_assets.defs.queues import QUEUE_TAG, work_of
    from analytics_assets.freshness.queues import HEAVY

    waiting = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
    statuses = [dg.DagsterRunStatus.QUEUED, *(dg.DagsterRunStatus[name] for name in _GOING)]
    records = open_instance(settings).get_run_records(dg.RunsFilter(statuses=statuses), ascending=True)
    return [
        {
            "job": work_of(record.dagster_run),
            "state": "waits" if record.dagster_run.status in waiting else "goes",
            "since": f"{record.create_timestamp:%Y-%m-%d %H:%M} UTC",
            "why": record.dagster_run.tags.get("analytics/why", ""),
        }
        for record in records
        if record.dagster_run.status not in waiting or record.dagster_run.tags.get(QUEUE_TAG) != HEAVY
    ]


def open_instance(settings: Settings) -> "dg.DagsterInstance":
    """The instance that the UI of this data home shows."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(configure(Home(settings.home).dagster))
    instance = dg.DagsterInstance.get()
    end_dead_runs(instance)
    return instance
