"""What a replay counts, and that no policy but the oracle knows what comes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.tuning.forecast import ForecastRules, roll
from analytics_assets.tuning.replay import Outcome, oracle, outcome, planned, reactive, replay, static
from analytics_assets.tuning.scaling import ScalingPolicy
from analytics_assets_tests.tuning.loads import MONDAY, THREE_HOURS, Series, a_load

EXACT = ScalingPolicy(unit_load=1, quota=10_000, headroom=1, step_minutes=60, stabilisation_minutes=0)
STEPS = Series("steps", MONDAY, THREE_HOURS, np.array([10.0, 20, 40, 40, 20, 20]))


def test_an_outcome_counts_short_steps_idle_capacity_and_changes() -> None:
    counted = outcome(np.array([10.0, 20, 30, 40]), np.array([20.0, 20, 20, 40]), day=8)
    assert counted == Outcome(violation=0.25, over=0.1, changes_a_day=2.0)


def test_steps_that_are_not_known_are_not_judged() -> None:
    assert outcome(np.array([10.0, np.nan]), np.array([5.0, 5.0]), day=8).violation == 1.0


@pytest.mark.parametrize(("delay", "violation"), [(0, 2 / 5), (1, 2 / 4)])
def test_a_reactive_policy_is_short_while_load_rises(delay: int, violation: float) -> None:
    assert replay(STEPS, reactive(STEPS, EXACT), 1, 1 + delay, delay).violation == violation


def test_a_static_policy_never_changes() -> None:
    assert replay(STEPS, static(30), 1, 1) == Outcome(violation=0.4, over=pytest.approx(30 / 140), changes_a_day=0.0)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_the_oracle_is_never_short_and_never_idle(delay: int) -> None:
    counted = replay(STEPS, oracle(STEPS, EXACT, delay), 1, 1 + delay, delay)
    assert (counted.violation, counted.over) == (0.0, 0.0)


@settings(max_examples=4, deadline=None)
@given(step=st.integers(120, 278), seed=st.integers(0, 2**32 - 1), delay=st.integers(0, 1))
def test_the_plan_of_a_step_does_not_know_what_comes_after_it(step: int, seed: int, delay: int) -> None:
    load, policy = a_load(), ScalingPolicy(unit_load=10, quota=10_000)
    other = load.values.copy()
    other[step + 1 :] = np.random.default_rng(seed).uniform(0, 1e5, len(other) - step - 1)
    asked = []
    for series in (load, replace(load, values=other)):
        ask = planned(roll(series, sorted({1, 1 + delay}), ForecastRules()), policy, delay)
        asked.append([ask(at) for at in range(100, step + 1)])
    assert asked[0] == asked[1]


def test_the_plan_is_short_less_often_than_the_reactive_policy_with_as_much_idle() -> None:
    load = a_load(weeks=8)
    rolled, unit = roll(load, (1,), ForecastRules()), 1.0
    made = {name: ScalingPolicy(unit_load=unit, quota=10_000, headroom=room, step_minutes=60, stabilisation_minutes=0)
            for name, room in (("ours", 1.0), ("reactive", 1.12))}  # fmt: skip
    ours = replay(load, planned(rolled, made["ours"], 0), unit, 3 * 56)
    theirs = replay(load, reactive(load, made["reactive"]), unit, 3 * 56)
    assert ours.over <= theirs.over
    assert ours.violation < theirs.violation / 2
