"""What starts runs without a person: landed files and the nightly look after storage. Promises have `defs/freshness`."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import md5

import dagster as dg

from analytics_assets.defs.instance import end_dead_runs
from analytics_assets.defs.jobs import CALM, ingest, maintain
from analytics_assets.defs.resources import PipelineResource

_BUSY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def busy(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of `job` is waiting or going. A run whose command was killed is neither."""
    end_dead_runs(instance)
    return bool(instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_BUSY), limit=1))


# A file that cannot be loaded stays where it is; as long as nothing else waits, it is tried again this often.
RETRY_MINUTES = 10


@dg.sensor(job=ingest, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def landing(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Asks for an ingest run while files wait in `landing/<tenant>/`; one run takes them all."""
    from analytics_assets.events.intake import utc_now

    waiting, refused = pipeline.get().landed(utc_now())
    if not waiting:
        yield dg.SkipReason("; ".join(refused) or "no file waits in a landing folder")
        return
    files = f"{len(waiting)} {'file waits' if len(waiting) == 1 else 'files wait'}"
    asked_for = md5(repr([(landed.path, landed.path.stat().st_mtime_ns) for landed in waiting]).encode()).hexdigest()
    if busy(context.instance, ingest.name):
        yield dg.SkipReason(f"{files}; an ingest run is going and takes what it finds")
    elif context.cursor == asked_for and failed_lately(context.instance, ingest.name):
        names = ", ".join(f"{landed.tenant}/{landed.path.name}" for landed in waiting[:5])
        yield dg.SkipReason(f"{files} ({names}) but the last run failed on this; tried again every {RETRY_MINUTES} minutes")
    else:
        context.update_cursor(asked_for)
        yield dg.RunRequest(run_config=CALM)


def failed_lately(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether the newest run of `job` failed within the last RETRY_MINUTES."""
    newest = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    since = datetime.now(UTC) - timedelta(minutes=RETRY_MINUTES)
    return bool(newest) and newest[0].dagster_run.status == dg.DagsterRunStatus.FAILURE and newest[0].update_timestamp > since


nightly = dg.ScheduleDefinition(
    name="nightly",
    job=maintain,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

SENSORS = [landing]
SCHEDULES = [nightly]
