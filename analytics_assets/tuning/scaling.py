"""How much capacity is asked for, and why: a pure function of policy, signals and now. Applying it is not done here.

Capacity follows the largest of what is observed, what the calendar says and the forecast's 90th percentile. A forecast alone
only ever raises it: lowering waits for observed load, a stabilisation window and a cooldown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, model_validator

from analytics_assets.settings import Declared

DAY = timedelta(days=1)

Held = Literal["quota", "window", "cooldown", "changes", "hysteresis", "spike"]


class ScalingPolicy(Declared):
    """The bounds in which capacity moves. A unit of capacity is a worker, a slot of a pool or a pod."""

    unit_load: float = Field(gt=0, description="Load that one unit serves in a step.")
    floor: int = Field(1, ge=0, le=1_000_000, description="Units that are always kept.")
    quota: int = Field(ge=1, le=1_000_000, description="Units that are never exceeded, so that others keep theirs.")
    headroom: float = Field(1.25, ge=0.5, le=4, description="Capacity over load; 1.25 aims at 80 % utilisation.")
    step_minutes: int = Field(15, ge=1, le=60, description="Minutes between two decisions, and of one observation.")
    stabilisation_minutes: int = Field(30, ge=0, le=1440, description="Lowering goes to the most observed in this window.")
    cooldown_minutes: int = Field(15, ge=0, le=1440, description="Minutes from any change to a lowering.")
    hysteresis: float = Field(0.02, ge=0, le=0.5, description="Part of capacity; lowering by less is not worth a change.")
    spike_step: float = Field(2.0, ge=1.1, le=10, description="A load over its interval multiplies capacity by this at most.")
    changes_a_day: int = Field(48, ge=2, le=1440, description="Changes in 24 hours after which nothing is lowered any more.")
    stride: float = Field(0.1, ge=0.01, le=1, description="Part of capacity; what a raise adds at least after that.")

    @model_validator(mode="after")
    def _in_order(self) -> "ScalingPolicy":
        if self.floor > self.quota:
            raise ValueError(f"floor {self.floor} is over the quota {self.quota}; lower it")
        return self

    @property
    def window(self) -> int:
        """Observations on which a lowering rests: the newest, and all of the window."""
        return max(1, self.stabilisation_minutes // self.step_minutes)

    def units(self, load: float) -> int:
        """Units that this load needs, within floor and quota."""
        return min(max(self.wanted(load), self.floor), self.quota)

    def wanted(self, load: float) -> int:
        return math.ceil(load * self.headroom / self.unit_load - 1e-9)


class Planned(Declared):
    """A load that people know of: opening hours on some weekdays, or one event. `warm_up_minutes` before it, all is ready."""

    name: str = Field(min_length=1, description="What it is, as the reason of a decision names it.")
    begin: datetime = Field(description="When it begins, with its offset from UTC; of a weekly one the first time.")
    end: datetime = Field(description="When it is over.")
    expected: float = Field(gt=0, description="Load per step to expect at least.")
    weekly: bool = Field(False, description="Whether it comes back each week.")
    warm_up_minutes: int = Field(15, ge=0, le=1440, description="Minutes before it in which capacity is raised.")

    @model_validator(mode="after")
    def _in_order(self) -> "Planned":
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("begin and end need an offset from UTC, such as 2026-11-27T09:00:00Z")
        if self.end <= self.begin:
            raise ValueError(f"it ends at {self.end}, before it begins; swap begin and end")
        if self.weekly and self.end - self.begin > 7 * DAY:
            raise ValueError("it is weekly and lasts longer than a week; declare weekdays one by one")
        return self

    def holds(self, now: datetime) -> bool:
        """Whether its load, or the warm-up before it, falls on `now`."""
        since = now - (self.begin - timedelta(minutes=self.warm_up_minutes))
        lasts = self.end - self.begin + timedelta(minutes=self.warm_up_minutes)
        if since < timedelta(0):
            return False
        return (since % (7 * DAY) if self.weekly else since) < lasts


@dataclass(frozen=True)
class Signals:
    """What is known when capacity is decided. Loads are per step, None and an empty tuple mean not known.

    `observed` holds the newest loads, oldest first. `forecast_p90` is for the step in which the decision takes effect;
    `expected_most` is the upper end of the 95 % interval that had been forecast for the newest observed step. `changed` holds
    the times at which capacity was changed in the last 24 hours, oldest first.
    """

    now: datetime
    capacity: int
    observed: tuple[float, ...] = ()
    forecast_p90: float | None = None
    expected_most: float | None = None
    planned: tuple[Planned, ...] = ()
    changed: tuple[datetime, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Units from now on. `reasons` say every rule that spoke, `alert` is a sentence for people where a spike was met.

    `held` is the rule that kept capacity from what was asked for, if one did.
    """

    capacity: int
    was: int
    reasons: tuple[str, ...]
    alert: str | None = None
    held: Held | None = None


def decide(policy: ScalingPolicy, signals: Signals) -> Decision:
    """The capacity to have from now on. Never over the quota, and lowered only on observed load."""
    was = signals.capacity
    reasons: list[str] = []
    calendar = _calendar(policy, signals, reasons)
    ahead = _ahead(policy, signals, reasons)
    observed, alert = _observed(policy, signals, reasons)
    target = max(calendar, ahead, observed)
    held: Held | None = "spike" if signals.observed and observed < policy.wanted(signals.observed[-1]) else None
    if target > policy.quota:
        reasons.append(f"{_units(target)} would be needed, the quota is {policy.quota}")
        held = "quota"
    target = min(max(target, policy.floor), policy.quota)
    if was > policy.quota:
        # A quota that was lowered holds at once: others have what is over it.
        return Decision(policy.quota, was, (*reasons, f"the quota is now {policy.quota}"), alert, "quota")
    if target > was:
        return Decision(_raised(policy, signals, target, reasons), was, tuple(reasons), alert, held)
    if target == was:
        return Decision(was, was, tuple(reasons), alert, held)
    kept = _held(policy, signals)
    if kept is None:
        # Within the window the load may come back: what it was at most decides how far capacity falls.
        target = max(target, policy.units(max(signals.observed[-policy.window :])))
        if target >= was:
            kept = "window", f"the load was higher in the last {policy.stabilisation_minutes} minutes"
        elif was - target < policy.hysteresis * was:
            kept = "hysteresis", f"{_units(was - target)} less is under the hysteresis of {policy.hysteresis:.0%}"
    if kept is None:
        return Decision(target, was, tuple(reasons), alert, held)
    return Decision(was, was, (*reasons, f"not lowered: {kept[1]}"), alert, kept[0])


def allot(needs: Mapping[str, int], quotas: Mapping[str, int], total: int) -> dict[str, int]:
    """Units for each tenant out of `total`: none gets over its quota or need, and who asks for little gets all of it.

    Max-min fairness: what is short is short for those who ask for most.
    """
    left = {name: min(need, quotas[name]) for name, need in needs.items()}
    given: dict[str, int] = {}
    for place, name in enumerate(sorted(left, key=lambda one: (left[one], one))):
        given[name] = min(left[name], (total - sum(given.values())) // (len(left) - place))
    return given


def _calendar(policy: ScalingPolicy, signals: Signals, reasons: list[str]) -> int:
    holding = [planned for planned in signals.planned if planned.holds(signals.now)]
    if not holding:
        return 0
    most = max(holding, key=lambda one: one.expected)
    units = policy.wanted(most.expected)
    reasons.append(f"calendar: {most.name} needs {_units(units)}")
    return units


def _ahead(policy: ScalingPolicy, signals: Signals, reasons: list[str]) -> int:
    if signals.forecast_p90 is None:
        return 0
    units = policy.wanted(signals.forecast_p90)
    reasons.append(f"forecast: its 90th percentile needs {_units(units)}")
    return units


def _observed(policy: ScalingPolicy, signals: Signals, reasons: list[str]) -> tuple[int, str | None]:
    if not signals.observed:
        reasons.append("observed: nothing is known")
        return 0, None
    newest = signals.observed[-1]
    units = policy.wanted(newest)
    reasons.append(f"observed: the newest load needs {_units(units)}")
    if signals.expected_most is None or newest <= signals.expected_most:
        return units, None
    most = max(math.floor(signals.capacity * policy.spike_step), signals.capacity + 1)
    alert = f"load of {newest:,.0f} is over the {signals.expected_most:,.0f} expected at most: a spike, or a change to look at"
    if units > most:
        reasons.append(f"a spike: raised to {_units(most)} at most in one step")
    return min(units, most), alert


def _raised(policy: ScalingPolicy, signals: Signals, target: int, reasons: list[str]) -> int:
    if len(_recent(signals)) < policy.changes_a_day:
        return target
    reasons.append(f"{policy.changes_a_day} changes in 24 hours: a raise adds {policy.stride:.0%} at least")
    return min(max(target, signals.capacity + math.ceil(signals.capacity * policy.stride)), policy.quota)


def _held(policy: ScalingPolicy, signals: Signals) -> tuple[Held, str] | None:
    """Why nothing is lowered whatever the load is, by which rule; None if it may be."""
    changed = _recent(signals)
    if len(signals.observed) < policy.window:
        return "window", f"only {len(signals.observed)} of {policy.window} observations are known"
    if changed and signals.now - changed[-1] < timedelta(minutes=policy.cooldown_minutes):
        return "cooldown", f"cooldown of {policy.cooldown_minutes} minutes"
    if len(changed) >= policy.changes_a_day:
        return "changes", f"{len(changed)} changes in 24 hours"
    return None


def _recent(signals: Signals) -> Sequence[datetime]:
    return [time for time in signals.changed if signals.now - time < DAY]


def _units(count: int) -> str:
    return f"{count:,} unit" if count == 1 else f"{count:,} units"
