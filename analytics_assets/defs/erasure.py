"""Erasures that nobody waits for: what a kill left half done, and what an older backup brought back, goes on by itself."""

from collections.abc import Iterator

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.log import Audit
from analytics_assets.defs.automation import RETRY_MINUTES, busy, failed_lately
from analytics_assets.defs.jobs import CALM, publish, refresh
from analytics_assets.defs.partitions import range_tags
from analytics_assets.defs.resources import PipelineResource


@dg.op
def take_people_out(context: dg.OpExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource) -> None:
    """Take all who are to be erased out of what is stored; the days that wait then are rebuilt and published as always."""
    from analytics_assets.events.intake import utc_now

    stages = pipeline.get()
    with (
        Audit(stages.settings, context.run.run_id).act("erase") as act,
        duckdb.get_connection() as con,
    ):
        act.outcome = "done" if stages.erasures.remove(con, utc_now(), progress=context.log.info) else "unchanged"
        stages.erasures.finish(con, progress=context.log.info)


@dg.job(config=CALM)
def erase() -> None:
    """People who are to be forgotten leave what is stored: what a kill left half done, or a restored backup brought back."""
    take_people_out()


@dg.sensor(
    jobs=[erase, refresh, publish],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Goes on with erasures that wait: after a kill, a restored backup, or a publish that was refused.",
)
def erasures(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One look: nothing, the job that takes people out, or the rebuild and publish that must follow."""
    from analytics_assets.events.days import ranges

    stages = pipeline.get()
    unfinished = len(stages.erasures.ledger.pending())
    if not unfinished:
        yield dg.SkipReason("no erasure waits")
        return
    jobs = (erase.name, refresh.name, publish.name)
    waits = f"{unfinished} {'erasure waits' if unfinished == 1 else 'erasures wait'}"
    if going := next((job for job in jobs if busy(context.instance, job)), None):
        yield dg.SkipReason(f"{waits}; a run of {going} is going")
    elif any(failed_lately(context.instance, job) for job in jobs):
        yield dg.SkipReason(f"{waits}; the last run failed, and is tried again every {RETRY_MINUTES} minutes")
    elif stages.erasures.waiting():
        yield dg.RunRequest(job_name=erase.name, run_config=CALM)
    else:
        with stages.connect() as con:
            days = ranges(stages.pending(con))
        if not days:
            yield dg.RunRequest(job_name=publish.name, run_config=CALM)
        yield from (dg.RunRequest(job_name=refresh.name, run_config=CALM, tags=range_tags(part)) for part in days)
