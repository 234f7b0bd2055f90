"""What starts runs without a person: landed files and the nightly look after storage. Promises have `defs/freshness`."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import TYPE_CHECKING

import dagster as dg

from analytics_assets.defs.instance import end_dead_runs, worker_is_here
from analytics_assets.defs.jobs import CALM, ingest, maintain
from analytics_assets.defs.queues import ASSET_JOB, QUEUE_TAG, does, priority_of
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.freshness.queues import HEAVY, RELEASED

if TYPE_CHECKING:
    from analytics_assets.landing import Landed

_BUSY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def busy(instance: dg.DagsterInstance, job: str, priority: int = 0) -> bool:
    """Whether a run that does the work of `job` is going, or waits with at least this priority.

    A run whose command was killed is neither; heavy work is no reason to wait: it may stand in the queue until the night, and
    what promises more starts beside it.
    """
    end_dead_runs(instance)
    return any(
        run.status != dg.DagsterRunStatus.QUEUED or priority_of(run) >= priority
        for run in instance.get_runs(dg.RunsFilter(statuses=_BUSY))
        if does(run, job) and not _heavy(run)
    )


def _heavy(run: dg.DagsterRun) -> bool:
    return run.tags.get(QUEUE_TAG) in (HEAVY, RELEASED)


# A file that cannot be loaded stays where it is; as long as nothing else waits, it is tried again this often.
RETRY_MINUTES = 10


@dg.sensor(job=ingest, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def landing(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Asks for an ingest run while files wait in `landing/<tenant>/`; one run takes them all."""
    from analytics_assets.events.intake import utc_now

    stages = pipeline.get()
    waiting, refused = stages.landed(utc_now())
    if not waiting:
        yield dg.SkipReason("; ".join(refused) or "no file waits in a landing folder")
        return
    files = f"{len(waiting)} {'file waits' if len(waiting) == 1 else 'files wait'}"
    asked_for = told_apart(waiting)
    if worker_is_here(stages.home):
        yield dg.SkipReason(f"{files}; the resident worker takes what it finds")
    elif busy(context.instance, ingest.name):
        yield dg.SkipReason(f"{files}; an ingest run is going and takes what it finds")
    elif context.cursor == asked_for and failed_lately(context.instance, ingest.name):
        names = ", ".join(f"{landed.tenant}/{landed.path.name}" for landed in waiting[:5])
        yield dg.SkipReason(f"{files} ({names}) but the last run failed on this; tried again every {RETRY_MINUTES} minutes")
    else:
        context.update_cursor(asked_for)
        yield dg.RunRequest(run_config=CALM)


def told_apart(waiting: "Sequence[Landed]") -> str:
    """What tells the files that wait from other files, and from the same ones after a change."""
    return md5(repr([(landed.path, landed.path.stat().st_mtime_ns) for landed in waiting]).encode()).hexdigest()


def failed_lately(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether the newest run that does the work of `job`, and is not heavy, failed within the last RETRY_MINUTES."""
    since = datetime.now(UTC) - timedelta(minutes=RETRY_MINUTES)
    lately = [
        record
        for name in (job, ASSET_JOB)
        for record in instance.get_run_records(dg.RunsFilter(job_name=name, updated_after=since), limit=50)
        if does(record.dagster_run, job) and not _heavy(record.dagster_run)
    ]
    newest = max(lately, key=lambda record: record.create_timestamp, default=None)
    return newest is not None and newest.dagster_run.status == dg.DagsterRunStatus.FAILURE


nightly = dg.ScheduleDefinition(
    name="nightly",
    job=maintain,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

SENSORS = [landing]
SCHEDULES = [nightly]
