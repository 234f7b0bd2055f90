"""Warm caches before the declared hours: a run shortly before each opening reads what is asked most into memory.

Slots for the work of opening hours are the scaling plan's; this is for those who read.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from analytics_assets.defs.jobs import CALM
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.settings import Settings
from analytics_assets.tuning.calendar import load_calendar
from analytics_assets.tuning.declared import load_scaling

# What is read too early is gone again when people come; so long before, a run starts and reads in time.
_BEFORE = timedelta(minutes=10)
# Queries of so many days tell what is asked most.
_DAYS = 28


@dg.op
def read_what_is_asked_most(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Read the published file, and the files of the tables that are asked most, into the page cache."""
    from analytics_assets.events.intake import utc_now
    from analytics_assets.shown import published
    from analytics_assets.telemetry.queries import most_asked
    from analytics_assets.telemetry.tables import QUERY_LOG
    from analytics_assets.warehouse.warm import warm

    stages = pipeline.get()
    scaling = load_scaling(stages.settings.config / "scaling.yaml", stages.settings.tenants)
    with stages.connect() as con:
        asked = most_asked(con, stages.table(QUERY_LOG).snapshot().select(), utc_now() - timedelta(days=_DAYS))
    done = warm(stages.home, published(), asked, scaling.warm_mb * 2**20)
    told = f"{done.files} {'file' if done.files == 1 else 'files'}, {done.bytes:,} bytes read"
    if done.left_out:
        told += f"; more than the {scaling.warm_mb} MB of scaling.yaml (warm_mb), so not all of {', '.join(done.left_out)}"
    context.log.info(told)
    metadata: dict[str, Any] = {"files": done.files, "bytes": done.bytes, "left out": ", ".join(done.left_out) or "nothing"}
    context.log_event(dg.AssetMaterialization("warm_caches", description=told, metadata=metadata))


@dg.job(config=CALM)
def warm_caches() -> None:
    """What readers ask most lies in memory when they come. Asked for by the sensor before each opening of calendar.yaml."""
    read_what_is_asked_most()


@dg.sensor(
    job=warm_caches,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for warm caches some minutes before an opening hour or a planned event that has a warm-up.",
)
def opening() -> dg.SensorResult | dg.SkipReason:
    """One run an opening: Dagster starts none with a key that it knows."""
    requests = list(asked_for(datetime.now(UTC)))
    return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("nothing opens in the next minutes")


def asked_for(now: datetime) -> Iterator[dg.RunRequest]:
    """The runs to ask for at a moment (aware)."""
    settings = Settings.from_env()
    if load_scaling(settings.config / "scaling.yaml", settings.tenants).warm_mb == 0:
        return
    calendar = load_calendar(settings.config / "calendar.yaml", settings.tenants)
    for opens, names in calendar.opening(now, _BEFORE).items():
        key = f"warm-{opens.astimezone(UTC):%Y-%m-%dT%H:%M}"
        yield dg.RunRequest(run_key=key, tags={"analytics/why": f"{' and '.join(names)} from {opens:%H:%M %Z} on"})
