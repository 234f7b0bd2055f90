"""Dagster's run queue in the order of the tiers: where a run waits and why, when it may start, and who let it go.

The coordinator gives every run that is asked for a queue and a priority, and holds back heavy work outside of the off-peak
windows. Dagster's own daemon takes the runs from the queue.
"""

import getpass
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig
from sqlalchemy.exc import SQLAlchemyError

from analytics_assets.audit.log import Audit
from analytics_assets.defs.instance import GOING, PROCESS_TAG, open_instance
from analytics_assets.defs.partitions import RANGE_END, RANGE_START
from analytics_assets.defs.quotas import QUEUE_TAG, YIELDS_TAG, limited, limits_in_force, own_tenant
from analytics_assets.freshness.queues import (
    BY_HAND,
    HEAVY,
    INTAKE,
    RELEASED,
    TENANTS,
    Asked,
    QueueRules,
    StartedBy,
    load_queues,
    place,
)
from analytics_assets.freshness.tiers import Promises
from analytics_assets.settings import Settings, UserError
from analytics_assets.tuning.declared import load_scaling

if TYPE_CHECKING:
    from analytics_assets.freshness.overrides import Override

TIER_TAG, PRIORITY_TAG = "analytics/tier", "dagster/priority"
# What a heavy run waits for; a person who adds the other tag at the launch, with the reason, lets it go at once.
WAITS_TAG, OVERRIDE_TAG = "analytics/waits_for", "analytics/override"
_PARTITION, _BACKFILL, _SENSOR, _SCHEDULE = (
    f"dagster/{name}" for name in ("partition", "backfill", "sensor_name", "schedule_name")
)
# Runs of single assets, which automation conditions, backfills and people start, have this job in Dagster.
ASSET_JOB = "__ASSET_JOB"
# The assets by which such a run is known to do the work of one of our jobs.
_TELLTALES = {"ingest": "events", "refresh": "sessions", "publish": "analytics_duckdb", "maintain": "compacted_events"}


def does(run: dg.DagsterRun, job: str) -> bool:
    """Whether a run does the work of `job`: as that job, or as a run of its assets."""
    if run.job_name != ASSET_JOB:
        return run.job_name == job
    return job in _TELLTALES and dg.AssetKey(_TELLTALES[job]) in (run.asset_selection or ())


def job_of(run: dg.DagsterRun) -> str:
    """The job of ours whose work a run does, or else the job that it has."""
    return next((job for job in _TELLTALES if does(run, job)), run.job_name)


def work_of(run: dg.DagsterRun) -> str:
    """What a run does, in words: its job, and the days it is about."""
    job = job_of(run)
    first, last = _ends(run.tags)
    if first is None:
        return job
    return f"{job} {first}" + (f" to {last}" if last != first else "")


def runs_going(settings: Settings) -> list[dict[str, str]]:
    """Runs that go or wait for their turn, oldest first: what they do, whether they go or wait, since when (UTC), and why.

    Not those that wait for the off-peak window: nothing is done about what is wrong now.
    """
    waiting = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
    statuses = [dg.DagsterRunStatus.QUEUED, *(dg.DagsterRunStatus[name] for name in GOING)]
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


def _ends(tags: Mapping[str, str]) -> tuple[str | None, str | None]:
    """First and last day of a run; None for one that is not about days."""
    only = tags.get(_PARTITION)
    return tags.get(RANGE_START, only), tags.get(RANGE_END, only)


def days_told(tags: Mapping[str, str]) -> dict[str, str]:
    """The days of a run, for the audit log: tags that are no days may hold anything."""
    try:
        days = [date.fromisoformat(end) for end in _ends(tags) if end is not None]
    except ValueError:
        return {}
    return {"days": " to ".join(map(str, dict.fromkeys(days)))} if days else {}


def _days(tags: Mapping[str, str]) -> int:
    first, last = _ends(tags)
    if first is None or last is None:
        return 0
    try:
        return (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    except ValueError:
        # Another partition than a day.
        return 1


def asked_for(run: dg.DagsterRun, tenants: Collection[str] = ()) -> Asked:
    """What a run is to the queue; `tenants` are those that are declared."""
    by: StartedBy = "person"
    for tag, starter in ((_BACKFILL, "backfill"), (_SCHEDULE, "schedule"), (_SENSOR, "sensor")):
        if tag in run.tags:
            by = starter  # type: ignore[assignment]
            break
    works = {"maintain": "maintenance", "restore_drill": "maintenance", "ingest": "intake", "refresh": "rebuild"}
    work: Any = next((work for job, work in works.items() if does(run, job)), "other")
    return Asked(
        work, by, _days(run.tags), run.tags.get(TIER_TAG), run.tags.get(OVERRIDE_TAG) or None, own_tenant(run, tenants)
    )


def placed(run: dg.DagsterRun, rules: QueueRules, promises: Promises, tenants: Collection[str] = ()) -> dict[str, str]:
    """The tags that put a run into its queue."""
    found = place(asked_for(run, tenants), rules, promises)
    tags = {QUEUE_TAG: found.queue, PRIORITY_TAG: str(found.priority)}
    if found.yields:
        tags[YIELDS_TAG] = "yes"
    if found.queue == HEAVY and rules.off_peak:
        tags[WAITS_TAG] = rules.said
    return tags


def _utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class TieredRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue with our order: a run is placed when it is asked for, and heavy ones start in the off-peak windows."""

    def __init__(self, clock: Callable[[], datetime] = _utc_now, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.clock = clock
        settings = Settings.from_env()
        config, self._tenants = settings.config, tuple(settings.tenants)
        self._scaling = load_scaling(config / "scaling.yaml", self._tenants)
        self._rules = load_queues(config / "queues.yaml")
        # Whether all tables have a tier is looked at where the definitions are loaded.
        self._promises: Promises = Promises.load(config / "freshness.yaml")

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        run = context.dagster_run
        if run.status == dg.DagsterRunStatus.NOT_STARTED:
            tags = placed(run, self._rules, self._promises, self._tenants)
            if tags[QUEUE_TAG] == RELEASED:
                _log([run], run.tags[OVERRIDE_TAG], "tag", self.clock())
            asked = {"job": job_of(run), "asked_by": asked_for(run).by, "queue": tags[QUEUE_TAG], **days_told(run.tags)}
            assets = sorted(key.to_user_string() for key in run.asset_selection or ())
            Audit(Settings.from_env(), run.run_id).record("run", "begun", tables=assets, details=asked)
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)

    def get_run_queue_config(self) -> RunQueueConfig:
        """What the daemon asks before it takes runs from the queue, every second."""
        declared = super().get_run_queue_config()
        queues = {HEAVY, RELEASED, INTAKE, BY_HAND, *(str(self._promises.tier(name).queue) for name in self._promises.served)}
        try:
            in_force = limits_in_force(self._instance)
        except SQLAlchemyError:
            # Dagster cannot read them while a step keeps its place in a pool whose limit is gone: what is declared holds.
            in_force = {}
        limits = limited(declared.tag_concurrency_limits, self._scaling, in_force, self._tenants, queues)
        closed = [] if self._rules.is_open(self.clock()) else [{"key": QUEUE_TAG, "value": HEAVY, "limit": 0}]
        return declared._replace(tag_concurrency_limits=[*limits, *closed])


def _log(runs: Iterable[dg.DagsterRun], reason: str, how: str, now: datetime) -> "list[Override]":
    """Note who lets runs go. Storage libraries take a moment to import, which only this needs."""
    from analytics_assets.freshness.overrides import Override, log
    from analytics_assets.pipeline import Pipeline

    who = getpass.getuser()
    overrides = [Override(now, run.run_id, work_of(run), who, how, reason) for run in runs]
    stages = Pipeline(Settings.from_env())
    ids = [override.run_id for override in overrides]
    with Audit(stages.settings).act("let_go", reason=reason, details={"runs": ids, "how": how}), stages.connect() as con:
        log(con, stages.home, overrides)
    return overrides


# What people see of the queue


@dataclass(frozen=True)
class Waiting:
    """A run in the queue. `waits_for`: in words; `starts_at`: when a heavy run may start (UTC), None for its turn."""

    run_id: str
    work: str
    queue: str
    since: datetime
    waits_for: str
    starts_at: datetime | None


def waiting(instance: dg.DagsterInstance, rules: QueueRules, now: datetime) -> list[Waiting]:
    """Runs in the queue in the order in which they start."""
    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]), ascending=True)
    found = []
    for record in sorted(records, key=lambda record: -priority_of(record.dagster_run)):
        run = record.dagster_run
        held = run.tags.get(QUEUE_TAG) == HEAVY and not rules.is_open(now)
        since = record.create_timestamp.astimezone(UTC).replace(tzinfo=None)
        queue = run.tags.get(QUEUE_TAG, "")
        turn = f"its turn among the runs for {queue.removeprefix(TENANTS)}" if queue.startswith(TENANTS) else "its turn"
        reason = rules.said if held else turn
        found.append(
            Waiting(run.run_id, work_of(run), run.tags.get(QUEUE_TAG, ""), since, reason, rules.opens(now) if held else None)
        )
    return found


def counts(settings: Settings, now: datetime) -> dict[str, int]:
    """How many runs wait, by what they wait for."""
    with open_instance(settings) as instance:
        reasons = [run.waits_for for run in waiting(instance, load_queues(settings.config / "queues.yaml"), now)]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def priority_of(run: dg.DagsterRun) -> int:
    """Of two runs that wait, the one with more starts first."""
    try:
        return int(run.tags.get(PRIORITY_TAG, "0"))
    except ValueError:
        return 0


def release(instance: dg.DagsterInstance, ids: Sequence[str], reason: str, now: datetime) -> "list[Override]":
    """Let heavy runs go that wait for their window: those whose ids begin so, or all of them if none is named.

    Raises UserError for an id that names none or several of them.
    """
    queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    held = [run for run in reversed(queued) if run.tags.get(QUEUE_TAG) == HEAVY]
    chosen = [_only(held, wanted) for wanted in dict.fromkeys(ids)] if ids else held
    if not chosen:
        raise UserError("no run waits for the off-peak window")
    # First the note: a run that went without one could not be told from one that waited.
    overrides = _log(chosen, reason, "command", now)
    for run in chosen:
        told = {WAITS_TAG: f"nothing: {overrides[0].by} let it go", OVERRIDE_TAG: reason}
        instance.add_run_tags(run.run_id, {QUEUE_TAG: RELEASED, **told})
    return overrides


def _only(held: Sequence[dg.DagsterRun], wanted: str) -> dg.DagsterRun:
    found = [run for run in held if wanted and run.run_id.startswith(wanted)]
    if len(found) != 1:
        what = "no run" if not found else "more than one run"
        raise UserError(f"{what} that waits for the off-peak window has an id beginning with '{wanted}'; see `analytics queue`")
    return found[0]


@dataclass(frozen=True)
class QueueWait:
    """How long runs of a queue waited, from being asked for to their start, in seconds."""

    queue: str
    runs: int
    median: float
    p95: float
    longest: float


def queue_waits(instance: dg.DagsterInstance, since: datetime) -> list[QueueWait]:
    """The waits of runs that were asked for after `since` (UTC) and have started, by queue, the strictest first."""
    records = instance.get_run_records(dg.RunsFilter(created_after=since.replace(tzinfo=UTC)))
    waits: dict[str, list[float]] = {}
    order: dict[str, int] = {}
    for record in records:
        tags = record.dagster_run.tags
        # What a command runs in its own process never waits in the queue.
        if QUEUE_TAG in tags and PROCESS_TAG not in tags and record.start_time is not None:
            asked = record.create_timestamp.timestamp()
            waits.setdefault(tags[QUEUE_TAG], []).append(max(record.start_time - asked, 0.0))
            order[tags[QUEUE_TAG]] = -priority_of(record.dagster_run)
    return [
        QueueWait(queue, len(found), _share(found, 0.5), _share(found, 0.95), max(found))
        for queue, found in sorted(waits.items(), key=lambda item: (order[item[0]], item[0]))
    ]


def _share(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)]
