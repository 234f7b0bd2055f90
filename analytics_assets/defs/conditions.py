"""What starts the rebuild of an asset by itself: a condition a table from its tier, and the sensor that evaluates them.

The conditions ask the data home, not Dagster's records: what waits, and what was promised. So a lost cursor, a daemon that
was away or a clock that went back change nothing. What is asked for is one run a range of days, from sessions to the publish.
"""

import logging
import warnings
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import md5
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dagster as dg

from analytics_assets.defs.automation import busy
from analytics_assets.defs.freshness import PROMISES, WORKERS_TIER, action, tier_tags
from analytics_assets.defs.instance import worker_is_here
from analytics_assets.defs.jobs import CALM, REFRESHED, publish, refresh, refreshed
from analytics_assets.defs.partitions import range_tags
from analytics_assets.defs.publication import analytics_duckdb
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.events.schema import EVENTS
from analytics_assets.freshness.tiers import TierName

if TYPE_CHECKING:
    from analytics_assets.events.days import DayRange
    from analytics_assets.freshness.watch import Look

# What a run was asked for, in short: the same is asked for once, also if the run failed.
ASKED_FOR_TAG = "analytics/asked_for"


@dataclass(frozen=True)
class Seen:
    """What the conditions of one tick go by. `days` wait for a rebuild; `held`: why a publish would be refused."""

    look: "Look"
    days: tuple[date, ...]
    held: str | None
    asked_for: str
    going: bool

    @property
    def ranges(self) -> "list[DayRange]":
        from analytics_assets.events.days import ranges

        return ranges(self.days)


def see(instance: dg.DagsterInstance, now: datetime) -> Seen:
    """Look at the data home that the environment names, and at the runs of `instance`."""
    stages = PipelineResource().get()
    with stages.connect() as con:
        look = stages.watch.look(con, now)
        if not look.due:
            return Seen(look, (), None, "", False)
        days = tuple(stages.pending(con))
        held = None if days else stages.gate.holds(con, now)
    asked_for = md5(repr((days, stages.table(EVENTS).open().version(), look.unjudged)).encode()).hexdigest()
    priority = PROMISES.tier(look.due[0].tier).priority
    before = instance.get_runs(dg.RunsFilter(tags={ASKED_FOR_TAG: asked_for}), limit=1)
    going = any(busy(instance, job.name, priority) for job in (refresh, publish))
    going = going or (look.due[0].tier == WORKERS_TIER and worker_is_here(stages.home))
    return Seen(look, days, held, asked_for, going or bool(before))


# All conditions of a tick see the same.
_SEEN: WeakKeyDictionary[Any, Seen] = WeakKeyDictionary()


def _seen(context: dg.AutomationContext) -> Seen:
    view = context.asset_graph_view
    if view not in _SEEN:
        now = context.evaluation_time.astimezone(UTC).replace(tzinfo=None)
        _SEEN[view] = see(context.asset_graph_view.instance, now)
    return _SEEN[view]


class _Leaf(dg.AutomationCondition[dg.AssetKey]):
    """True for all candidates or none; `says` stands in the UI."""

    says = ""

    @property
    def name(self) -> str:
        return self.says

    def holds(self, seen: Seen, key: str) -> bool:
        raise NotImplementedError

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        candidates = context.candidate_subset
        if not candidates.is_empty and not self.holds(_seen(context), context.key.to_user_string()):
            candidates = context.get_empty_subset()
        return dg.AutomationResult(context, self.part(context, candidates))

    def part(self, context: dg.AutomationContext[dg.AssetKey], candidates: Any) -> Any:
        return candidates


class DaysWait(_Leaf):
    """The days that got events after they were last built; a table that is built as a whole waits while any day does."""

    says = "days wait for a rebuild"

    def holds(self, seen: Seen, key: str) -> bool:
        return bool(seen.days)

    def part(self, context: dg.AutomationContext[dg.AssetKey], candidates: Any) -> Any:
        if candidates.is_empty or not candidates.is_partitioned:
            return candidates
        return candidates.compute_intersection_with_partition_keys({day.isoformat() for day in _seen(context).days})


class PromiseIsDue(_Leaf):
    """A tenant was promised that work on this table starts now; for a tier of the table's own, or that of the tenant."""

    def __init__(self, tier: TierName) -> None:
        self.says = f"its promise is due ({tier}: {PROMISES.tier(tier).said})"

    def holds(self, seen: Seen, key: str) -> bool:
        return key in seen.look.tables


class GoesAlong(_Leaf):
    """Another table's promise is due: a version is whole, so that all that waits is rebuilt for it."""

    says = "another table's promise is due, and a version is whole"

    def holds(self, seen: Seen, key: str) -> bool:
        return bool(seen.look.due)


class AlreadyAsked(_Leaf):
    """A run is going, the worker does it, or it was asked for before: if that failed, the sensor of the tier tries again."""

    says = "a rebuild is going, or was asked for this before"

    def holds(self, seen: Seen, key: str) -> bool:
        return seen.going


class PublishIsHeld(_Leaf):
    """A blocking expectation failed: nothing goes out before the day is right, or a person declares it."""

    says = "a failed check holds the publish"

    def holds(self, seen: Seen, key: str) -> bool:
        return seen.held is not None


def condition(spec: dg.AssetSpec) -> dg.AutomationCondition:
    """When an asset of `refresh` is asked for."""
    tier = PROMISES.tables.get(spec.key.to_user_string())
    asked = PromiseIsDue(tier) | GoesAlong() if tier else GoesAlong()
    if spec.key != analytics_duckdb.key:
        return (DaysWait() & asked & ~AlreadyAsked()).with_label(f"rebuild for {tier}" if tier else "rebuild with the rest")
    built = ~DaysWait() & ~PublishIsHeld() & dg.AutomationCondition.all_deps_blocking_checks_passed()
    return (asked & ~AlreadyAsked() & (DaysWait() | built)).with_label("publish what is promised")


def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The assets of `refresh` are asked for by themselves."""
    return spec.replace_attributes(automation_condition=condition(spec)) if spec.group_name in REFRESHED else spec


class OneRunARange(dg.AutomationConditionSensorDefinition):
    """Evaluates the conditions of assets, and asks for all that they ask for as one run a range of days.

    Dagster would ask for a run a day, and for one more for the tables without days, which would not wait for the others.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        with warnings.catch_warnings():
            # Conditions of our own are evaluated where our code is, which Dagster calls beta.
            warnings.simplefilter("ignore", dg.BetaWarning)
            super().__init__(name, use_user_code_server=True, emit_backfills=False, **arguments)
        evaluated = self._evaluation_fn

        def evaluate(context: dg.SensorEvaluationContext) -> list[Any]:
            # Dagster tells of every look on the console; the UI shows what came of it.
            context.log.setLevel(logging.WARNING)
            return [together(found, context) for found in evaluated(context)]

        self._evaluation_fn = evaluate


def together(found: Any, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """What the conditions asked for, as runs of ours; the evaluations stay as they are, for the UI."""
    from analytics_assets.events.intake import utc_now

    requests: list[dg.RunRequest] = []
    now = utc_now()
    # Looked at once more: meanwhile a command may have started the same.
    if found.run_requests and not (seen := see(context.instance, now)).going and seen.look.due:
        assert context.repository_def is not None
        requests = runs_for(seen, context.repository_def.asset_graph)
        stages = PipelineResource().get()
        with stages.connect() as con:
            stages.watch.note(con, seen.look.due[0], action(seen.ranges), now)
    return dg.SensorResult(
        run_requests=requests, cursor=found.cursor, automation_condition_evaluations=found.automation_condition_evaluations
    )


def runs_for(seen: Seen, graph: Any) -> list[dg.RunRequest]:
    """A run a range of the days that wait, or one that publishes; it is the work of the strictest tier that is due."""
    due = seen.look.due[0]
    tags = {**tier_tags(due.tier, PROMISES.tier(due.tier), due.reason), ASKED_FOR_TAG: seen.asked_for}
    if not seen.days:
        return [dg.RunRequest(asset_selection=[analytics_duckdb.key], run_config=CALM, tags=tags)]
    keys, checks = sorted(refreshed.resolve(graph)), sorted(refreshed.resolve_checks(graph))
    return [
        dg.RunRequest(asset_selection=keys, asset_check_keys=checks, run_config=CALM, tags={**tags, **range_tags(part)})
        for part in seen.ranges
    ]


AUTOMATION = OneRunARange(
    "automation",
    target=refreshed,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts what is due: one run a range of the days that wait, in the queue of the strictest tier that asks.",
)
