"""When capacity is raised, when it may be lowered, and what it never does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analytics_assets.tuning.scaling import Planned, ScalingPolicy, Signals, allot, decide

NOW = datetime(2026, 3, 4, 9, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
# Ten units serve a load of 80: a unit is 10, a fifth is headroom.
POLICY = ScalingPolicy(unit_load=10, quota=40, floor=2, stabilisation_minutes=45)
CALM = Signals(now=NOW, capacity=10, observed=(80.0, 80.0, 80.0), forecast_p90=80.0, expected_most=100.0)

loads = st.floats(0, 1000)
some = st.none() | loads


@st.composite
def any_signals(draw: st.DrawFn) -> Signals:
    ages = sorted(draw(st.lists(st.integers(1, 30 * 60), max_size=60)), reverse=True)
    planned = draw(st.booleans())
    return Signals(
        now=NOW,
        capacity=draw(st.integers(0, 60)),
        observed=tuple(draw(st.lists(loads, max_size=5))),
        forecast_p90=draw(some),
        expected_most=draw(some),
        planned=(Planned(name="sale", begin=NOW, end=NOW + QUARTER, expected=draw(st.floats(1, 1000))),) if planned else (),
        changed=tuple(NOW - timedelta(minutes=age) for age in ages),
    )


@given(any_signals())
def test_a_forecast_alone_never_lowers(signals: Signals) -> None:
    unseen = replace(signals, observed=())
    assert decide(POLICY, unseen).capacity >= min(unseen.capacity, POLICY.quota)


@given(any_signals(), loads)
def test_a_forecast_only_ever_raises(signals: Signals, forecast: float) -> None:
    without = decide(POLICY, replace(signals, forecast_p90=None)).capacity
    assert decide(POLICY, replace(signals, forecast_p90=forecast)).capacity >= without


@given(any_signals())
def test_capacity_stays_between_floor_and_quota(signals: Signals) -> None:
    assert POLICY.floor <= decide(POLICY, signals).capacity <= POLICY.quota


@given(any_signals())
def test_what_is_lowered_still_serves_the_most_of_the_window(signals: Signals) -> None:
    decision = decide(POLICY, signals)
    if decision.capacity < min(decision.was, POLICY.quota):
        assert decision.capacity >= POLICY.units(max(signals.observed[-POLICY.window :]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(loads, some), min_size=60, max_size=120))
def test_changes_of_a_day_are_bounded_whatever_comes(steps: list[tuple[float, float | None]]) -> None:
    policy = POLICY.model_copy(update={"changes_a_day": 6})
    capacity, changed, seen = policy.floor, list[datetime](), list[float]()
    for place, (load, forecast) in enumerate(steps):
        now = NOW + place * QUARTER
        seen.append(load)
        signals = Signals(now, capacity, tuple(seen[-policy.window :]), forecast, changed=tuple(changed))
        decided = decide(policy, signals).capacity
        changed += [now] if decided != capacity else []
        capacity = decided
    # Once the day's changes are spent nothing is lowered, and each raise adds a tenth at least: so few fit under the quota.
    raises, units = 0, policy.floor
    while units < policy.quota:
        raises, units = raises + 1, max(units + 1, int(units * 1.1))
    for end in changed:
        assert sum(end - timedelta(days=1) < time <= end for time in changed) <= policy.changes_a_day + raises


def test_a_calm_hour_changes_nothing() -> None:
    assert decide(POLICY, CALM).capacity == 10


@pytest.mark.parametrize(
    ("change", "capacity", "reason"),
    [
        ({"observed": (80.0, 80.0, 96.0)}, 12, "observed: the newest load needs 12 units"),
        ({"forecast_p90": 120.0}, 15, "forecast: its 90th percentile needs 15 units"),
        ({"forecast_p90": 8000.0}, 40, "1,000 units would be needed, the quota is 40"),
    ],
)
def test_the_largest_of_what_is_known_raises_at_once(change: dict[str, object], capacity: int, reason: str) -> None:
    decision = decide(POLICY, replace(CALM, **change))  # type: ignore[arg-type]
    assert decision.capacity == capacity
    assert reason in decision.reasons


LOW = replace(CALM, observed=(40.0, 40.0, 40.0), forecast_p90=40.0)


def test_load_that_stays_low_lowers() -> None:
    assert decide(POLICY, LOW).capacity == 5


@pytest.mark.parametrize(
    ("change", "capacity", "reason"),
    [
        ({"observed": (64.0, 40.0, 40.0)}, 8, None),
        ({"observed": (80.0, 40.0, 40.0)}, 10, "not lowered: the load was higher in the last 45 minutes"),
        ({"forecast_p90": 56.0}, 7, None),
        ({"observed": ()}, 10, "not lowered: only 0 of 3 observations are known"),
        ({"changed": (NOW - timedelta(minutes=14),)}, 10, "not lowered: cooldown of 15 minutes"),
        ({"changed": (NOW - timedelta(hours=1),) * 48}, 10, "not lowered: 48 changes in 24 hours"),
        ({"changed": (NOW - timedelta(hours=24),) * 48}, 5, None),
    ],
)
def test_lowering_waits(change: dict[str, object], capacity: int, reason: str | None) -> None:
    decision = decide(POLICY, replace(LOW, **change))  # type: ignore[arg-type]
    assert decision.capacity == capacity
    assert reason is None or reason in decision.reasons


def test_what_saves_too_little_is_no_change() -> None:
    policy = POLICY.model_copy(update={"hysteresis": 0.2})
    assert (
        decide(policy, replace(LOW, observed=(68.0,) * 3)).reasons[-1]
        == "not lowered: 1 unit less is under the hysteresis of 20%"
    )


def test_a_quota_that_is_lowered_holds_at_once() -> None:
    assert decide(POLICY, replace(CALM, capacity=50)).capacity == 40


def test_a_spike_raises_by_a_bounded_step_and_tells_people() -> None:
    decision = decide(POLICY, replace(CALM, observed=(80.0, 80.0, 300.0)))
    assert decision.capacity == 20
    assert decision.alert == "load of 300 is over the 100 expected at most: a spike, or a change to look at"


def test_the_same_load_inside_its_interval_is_no_spike() -> None:
    decision = decide(POLICY, replace(CALM, observed=(80.0, 80.0, 300.0), expected_most=320.0))
    assert (decision.capacity, decision.alert) == (38, None)


OPENING = Planned(
    name="opening", begin=NOW - timedelta(days=14), end=NOW - timedelta(days=14, hours=-8), expected=160, weekly=True
)


@pytest.mark.parametrize(
    ("minutes", "capacity"),
    [(-16, 10), (-15, 20), (0, 20), (8 * 60 - 1, 20), (8 * 60, 10), (-7 * 24 * 60, 20), (-14 * 24 * 60 - 16, 10)],
)
def test_capacity_is_warm_before_opening_hours_of_each_week(minutes: int, capacity: int) -> None:
    now = NOW + timedelta(minutes=minutes)
    assert decide(POLICY, replace(CALM, now=now, planned=(OPENING,))).capacity == capacity


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ScalingPolicy(unit_load=1, quota=5, floor=6), "floor 6 is over the quota 5; lower it"),
        (lambda: Planned(name="sale", begin=NOW, end=NOW, expected=1), "swap begin and end"),
        (lambda: Planned(name="sale", begin=NOW.replace(tzinfo=None), end=NOW, expected=1), "need an offset from UTC"),
        (lambda: OPENING.model_validate({**OPENING.model_dump(), "end": NOW}), "lasts longer than a week"),
    ],
)
def test_a_wrong_declaration_says_its_cure(wrong, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValidationError, match=said):
        wrong()


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1),
    st.integers(0, 200),
)
def test_units_are_shared_so_that_nobody_starves(asked: dict[str, tuple[int, int]], total: int) -> None:
    needs, quotas = ({name: pair[place] for name, pair in asked.items()} for place in (0, 1))
    given_ = allot(needs, quotas, total)
    wanted = {name: min(needs[name], quotas[name]) for name in asked}
    assert sum(given_.values()) == min(total, sum(wanted.values()))
    assert all(given_[name] <= wanted[name] for name in asked)
    # Whoever is short has as much as anybody else, to a unit.
    assert all(given_[name] == wanted[name] or given_[name] >= max(given_.values()) - 1 for name in asked)


def test_one_tenants_experiment_takes_nothing_from_the_others() -> None:
    assert allot({"a": 4, "b": 6, "lab": 900}, {"a": 20, "b": 20, "lab": 10}, 20) == {"a": 4, "b": 6, "lab": 10}
