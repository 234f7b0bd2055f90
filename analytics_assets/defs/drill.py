"""The restore drill as a job: whether the newest backup can be restored, and how long that takes, week by week."""

from typing import Any

import dagster as dg

from analytics_assets.audit.log import Audit
from analytics_assets.defs.jobs import CALM
from analytics_assets.defs.resources import PipelineResource


@dg.op
def restore_newest_backup(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Restore the newest backup beside it, compare, do erasures again, publish there; fails where that cannot be done."""
    from analytics_assets.backups import drill
    from analytics_assets.events.intake import utc_now

    settings = pipeline.get().settings
    with Audit(settings, context.run.run_id).act("restore_drill") as act:
        found = drill(settings, utc_now(), context.log.info)
        act.outcome, act.details = "failed" if found.fault else "done", {"backup": found.backup, **found.numbers}
    # On an asset of its own, where Dagster draws the numbers over time.
    metadata: dict[str, Any] = {"restored": found.fault is None, "backup": found.backup, **found.numbers}
    context.log_event(dg.AssetMaterialization("restore_drill", description=found.told, metadata=metadata))
    if found.fault:
        raise dg.Failure(found.told)


@dg.job(config=CALM)
def restore_drill() -> None:
    """The newest backup is restored into a scratch folder and published there. The data home stays as it is."""
    restore_newest_backup()


# Stopped until somebody has named a place for backups (ANALYTICS_BACKUPS) and takes them.
weekly_drill = dg.ScheduleDefinition(
    name="weekly_drill",
    job=restore_drill,
    cron_schedule="30 4 * * 0",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
