"""A real load replayed against policies: how long each was short, how much it kept idle, how often it changed.

A policy decides when a step is over and all of it is known; what it asks for is there after `delay` further steps. So with a
delay of 0 the load of a step meets what was decided from the step before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from analytics_assets.tuning.forecast import Rolled
from analytics_assets.tuning.scaling import DAY, Planned, ScalingPolicy, Signals, decide
from analytics_assets.tuning.series import Numbers, Series, filled

# The step that is over, and what is asked for: units that are there from step + 1 + delay on.
Policy = Callable[[int], int]


@dataclass(frozen=True)
class Outcome:
    """`violation`: part of the steps in which load was over capacity. `over`: idle capacity over the load, both summed."""

    violation: float
    over: float
    changes_a_day: float


def replay(series: Series, policy: Policy, unit_load: float, first: int, delay: int = 0) -> Outcome:
    """The policy from step `first` to the end of the series. Steps whose load is not known are not judged."""
    asked = [policy(step) for step in range(first - 1 - delay, len(series.values) - 1 - delay)]
    return outcome(series.values[first:], np.array(asked, float) * unit_load, series.day)


def outcome(loads: Numbers, capacity: Numbers, day: int) -> Outcome:
    """Loads and capacity of the same steps; `day` is how many of these a day has."""
    known = ~np.isnan(loads)
    idle = np.maximum(capacity - loads, 0)[known]
    changes = sum(one != two for one, two in pairwise(capacity))
    return Outcome(
        violation=float((loads > capacity)[known].mean()),
        over=float(idle.sum() / loads[known].sum()),
        changes_a_day=changes * day / len(capacity),
    )


def static(units: int) -> Policy:
    """Always the same."""
    return lambda step: units


def reactive(series: Series, policy: ScalingPolicy) -> Policy:
    """What a horizontal autoscaler does: units for the newest load, lowered to the most in the stabilisation window."""

    loads = filled(series)

    def ask(step: int) -> int:
        return policy.units(float(loads[max(0, step - policy.window + 1) : step + 1].max()))

    return ask


def oracle(series: Series, policy: ScalingPolicy, delay: int) -> Policy:
    """Knows the load that will come: nobody can, and nobody does better."""

    def ask(step: int) -> int:
        load = series.values[step + 1 + delay]
        return policy.units(0.0 if np.isnan(load) else float(load))

    return ask


def planned(
    rolled: Rolled, policy: ScalingPolicy, delay: int, calendar: tuple[Planned, ...] = (), margin: float = 1.0
) -> Policy:
    """The plan as it would have been decided step by step, each time from what was known then.

    Of `rolled` the leads 1 and 1 + delay are read: the one for spikes, the other for the step in which a decision takes effect.
    `margin` 1 is the 90th percentile, 0 the forecast itself, 2 twice as far from it.
    """
    series, loads = rolled.series, rolled.series.values
    place = rolled.leads.index(1 + delay)
    ahead = rolled.point[:, place] + margin * (rolled.upper[0.80] - rolled.point)[:, place]
    most = rolled.upper[0.95][:, rolled.leads.index(1)]
    capacity, changed = policy.floor, list[datetime]()

    def ask(step: int) -> int:
        nonlocal capacity, changed
        now = series.time(step + 1)
        seen = loads[max(0, step - policy.window + 1) : step + 1]
        signals = Signals(
            now=now,
            capacity=capacity,
            observed=tuple(float(load) for load in seen[~np.isnan(seen)]) if not np.isnan(loads[step]) else (),
            forecast_p90=_known(ahead[step]),
            expected_most=_known(most[step - 1]) if step else None,
            planned=calendar,
            changed=tuple(changed),
        )
        decided = decide(policy, signals).capacity
        if decided != capacity:
            capacity, changed = decided, [*(time for time in changed if now - time < DAY), now]
        return capacity

    return ask


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
