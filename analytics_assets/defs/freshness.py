"""Freshness in Dagster: a sensor a tier starts what is overdue, and an asset a tier shows whether its promise is kept.

What is due is started by the conditions on the assets (`conditions`). A sensor sees to what they left: after a failure, or
where automation is switched off.

Dagster's own policy counts materializations: on a table it would turn red with every quiet night, and any backfill would
turn it green. So it stands on one asset a tier, which its sensor reports as materialized only while the promise is kept.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import md5
from typing import TYPE_CHECKING, Any

import dagster as dg

from analytics_assets.defs.automation import RETRY_MINUTES, busy, failed_lately
from analytics_assets.defs.instance import worker_is_here
from analytics_assets.defs.jobs import CALM, publish, refresh
from analytics_assets.defs.metadata import AS_A_WHOLE
from analytics_assets.defs.partitions import range_tags
from analytics_assets.defs.publication import PUBLISHED
from analytics_assets.defs.queues import PRIORITY_TAG, QUEUE_TAG, TIER_TAG
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.freshness.judge import BROKEN
from analytics_assets.freshness.queues import load_queues
from analytics_assets.freshness.tiers import Tier, TierName, load_promises
from analytics_assets.settings import Settings

if TYPE_CHECKING:
    from analytics_assets.events.days import DayRange
    from analytics_assets.freshness.due import Due
    from analytics_assets.freshness.watch import Look
    from analytics_assets.pipeline import Pipeline

_SETTINGS = Settings.from_env()
# Read at load: a wrong declaration fails it.
PROMISES = load_promises(_SETTINGS.config / "freshness.yaml", PUBLISHED, _SETTINGS.tenants)
load_queues(_SETTINGS.config / "queues.yaml")
_ = _SETTINGS.incidents
# What the resident worker serves while there is one (`defs/worker`).
WORKERS_TIER: TierName = "near_real_time"
_SECONDS_BETWEEN_LOOKS: dict[TierName, int] = {"immediate": 15, "near_real_time": 15, "hourly": 30, "daily": 60}
_CHECK = "is_kept"


def beat(tier: Tier) -> timedelta:
    """How often a kept promise is reported; Dagster's policy fails after two that are missing."""
    return min(tier.promise / 2, timedelta(minutes=15))


def promise_asset(name: str) -> str:
    return f"{name}_promise"


def with_tier(spec: dg.AssetSpec) -> dg.AssetSpec:
    """A published table carries its tier: `tag:tier=hourly` selects in the UI."""
    tier = PROMISES.tables.get(spec.key.to_user_string())
    return spec.merge_attributes(tags={"tier": tier}) if tier else spec


PROMISES_KEPT = [
    dg.AssetSpec(
        promise_asset(name),
        deps=["analytics_duckdb"],
        description=f"Reported while every table of the tier shows what was received {PROMISES.tier(name).promise_minutes} "
        f"minutes ago ({PROMISES.tier(name).said}). A tenant that sends nothing breaks no promise.",
        group_name="freshness",
        kinds={"duckdb"},
        owners=[OWNER],
        tags=AS_A_WHOLE,
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=max(2 * beat(PROMISES.tier(name)), timedelta(minutes=1))),
    )
    for name in PROMISES.served
]


def _check(name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=promise_asset(name), name=_CHECK, description="No tenant's table of the tier is late, held, unusable or silent."
    )
    def is_kept(pipeline: PipelineResource) -> dg.AssetCheckResult:
        from analytics_assets.events.intake import utc_now

        stages = pipeline.get()
        with stages.connect() as con:
            passed, severity, metadata = verdict(stages.watch.look(con, utc_now()), name)
        return dg.AssetCheckResult(passed=passed, severity=severity, metadata=metadata)

    return is_kept


PROMISE_CHECKS = [_check(name) for name in PROMISES.served]


def verdict(look: "Look", tier: str) -> tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]:
    """Whether a tier's promise is kept, how bad it is if not, and what the UI shows of it."""
    counts = look.counts(tier)
    broken = any(state in BROKEN for state in counts)
    wrong = [s for s in look.statuses if s.tier == tier and (s.state in BROKEN or s.state in ("silent", "unusable"))]
    records = [
        dg.TableRecord({"tenant": s.tenant_id, "table": s.table, "state": s.state, "reason": s.reason}) for s in wrong[:100]
    ]
    severity = dg.AssetCheckSeverity.ERROR if broken else dg.AssetCheckSeverity.WARN
    metadata: dict[str, Any] = {state: count for state, count in counts.items()}
    if records:
        metadata["not as promised"] = dg.MetadataValue.table(records)
    return not wrong, severity, metadata


def answer(
    stages: "Pipeline", tier: str, now: datetime, *, cursor: str | None, going: str | None, failed: bool,
    overdue: bool = False, served: str | None = None,
) -> dg.SensorResult:  # fmt: skip
    """What a tier's sensor says at `now`: runs for what is due, or why not, and whether the promise is kept.

    `going` names a run that is under way, `failed` tells whether the newest one failed just now. With `overdue` only what
    automation should have started by now. `served`: who starts the tier's runs in the place of automation and sensor.
    """
    from analytics_assets.events.days import ranges

    memory = json.loads(cursor) if cursor else {}
    with stages.connect() as con:
        # In this order: of what is due, the days that wait are known, also while deliveries keep coming.
        look = stages.watch.look(con, now)
        days = ranges(stages.pending(con))
        found = next((due for due in (look.overdue if overdue else look.due) if due.tier == tier), None)
        events = _reports(look, tier, now, memory)
        asked_for = md5(repr((days, found and found.since)).encode()).hexdigest()
        refused = None if days or not found else stages.gate.holds(con, now)
        why_not = _why_not(look, tier, found, going, failed and memory.get("asked_for") == asked_for, refused, served)
        if why_not or found is None:
            return dg.SensorResult(skip_reason=why_not, cursor=json.dumps(memory), asset_events=events)
        # A run takes all that waits: it is the work of the strictest tier that is due.
        strictest = look.due[0]
        stages.watch.note(con, strictest, action(days), now)
    memory["asked_for"] = asked_for
    return dg.SensorResult(_requests(strictest, days), cursor=json.dumps(memory), asset_events=events)


def _why_not(
    look: "Look", tier: str, found: "Due | None", going: str | None, failed: bool, refused: str | None, served: str | None
) -> str | None:
    if found is None:
        if asked := next((due for due in look.due if due.tier == tier), None):
            return f"due, which {served or 'automation'} starts ({asked.reason})"
        counts = ", ".join(f"{count} {state}" for state, count in look.counts(tier).items())
        return f"nothing is due; tenants' tables: {counts or 'none'}"
    if served:
        return f"{served} starts it ({found.reason})"
    if going:
        return f"a {going} run is going ({found.reason})"
    if failed:
        return f"the last run failed on this; tried again every {RETRY_MINUTES} minutes ({found.reason})"
    return f"a check holds the publish: {refused}" if refused else None


def action(days: "Sequence[DayRange]") -> str:
    """What is started for days that wait, in words."""
    named = (f"{part.first}" + (f" to {part.last}" if part.last != part.first else "") for part in days)
    return f"refresh {', '.join(named)}" if days else "publish"


def tier_tags(name: str, tier: Tier, why: str) -> dict[str, str]:
    """What a run of a tier carries: its queue and priority, and why it was started."""
    return {TIER_TAG: name, QUEUE_TAG: str(tier.queue), PRIORITY_TAG: str(tier.priority), "analytics/why": why}


def _requests(due: "Due", days: "Sequence[DayRange]") -> list[dg.RunRequest]:
    """A refresh a range of days; where all is built already, a publish."""
    tags = tier_tags(due.tier, PROMISES.tier(due.tier), due.reason)
    if not days:
        return [dg.RunRequest(job_name=publish.name, run_config=CALM, tags=tags)]
    return [dg.RunRequest(job_name=refresh.name, run_config=CALM, tags={**tags, **range_tags(part)}) for part in days]


def _reports(look: "Look", tier: str, now: datetime, memory: dict[str, Any]) -> list[Any]:
    """What Dagster is told of a promise: its verdict when that changes, and a beat while it is kept. Notes both in `memory`."""
    passed, severity, metadata = verdict(look, tier)
    asset, events = promise_asset(tier), list[Any]()
    if memory.get("passed") != passed:
        memory["passed"] = passed
        events.append(dg.AssetCheckEvaluation(dg.AssetKey(asset), _CHECK, passed, severity=severity, metadata=metadata))
    last = datetime.fromisoformat(memory["kept_at"]) if "kept_at" in memory else None
    pause = beat(PROMISES.tier(tier))
    # A clock that went back would hold the beat for as long as it went back.
    if not BROKEN & look.counts(tier).keys() and (last is None or not timedelta(0) <= now - last < pause):
        memory["kept_at"] = now.isoformat()
        events.append(dg.AssetMaterialization(asset, metadata=metadata))
    return events


def _sensor(tier: TierName) -> dg.SensorDefinition:
    @dg.sensor(
        name=tier,
        jobs=[refresh, publish],
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS[tier],
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Watches what the tier {tier} promises ({PROMISES.tier(tier).said}), and starts what automation left.",
    )
    def look(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        from analytics_assets.events.intake import utc_now

        jobs = (refresh.name, publish.name)
        priority = PROMISES.tier(tier).priority
        going = next((job for job in jobs if busy(context.instance, job, priority)), None)
        failed = any(failed_lately(context.instance, job) for job in jobs)
        stages = pipeline.get()
        served = "the resident worker" if tier == WORKERS_TIER and worker_is_here(stages.home) else None
        return answer(stages, tier, utc_now(), cursor=context.cursor, going=going, failed=failed, overdue=True, served=served)

    return look


TIER_SENSORS = [_sensor(name) for name in PROMISES.served]
