"""What a request for memory may know, how far it may go, and which way of asking is used."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.tuning.attempts import LADDERS, Known, paid, rungs
from analytics_assets.tuning.backtest import Case, attempted, replay
from analytics_assets.tuning.bounds import Bounds
from analytics_assets.tuning.requests import RequestRules, Requests, Run, Task, known_at

FLOOR, CEILING = 0.125, 64.0


def some_runs(seed: int, count: int = 24, names: int = 3) -> list[tuple[float, Run]]:
    """Runs with the times at which they were over: each name needs a base and a part of the input, and a little by chance."""
    random = np.random.default_rng(seed)
    runs = []
    for place in range(count):
        number = place % names
        size = float(random.uniform(1, 100))
        peak = float((1 + number + 0.02 * size) * random.uniform(0.9, 1.1))
        runs.append((float(place), Run(Task(f"task {number}", 16.0, (size,)), peak, float(random.uniform(10, 100)))))
    return runs


def learnt(runs: list[tuple[float, Run]], at: float = 1e9, **rules: float) -> Requests:
    return known_at(runs, at, Requests(FLOOR, CEILING, RequestRules(**rules)))


NEXT = Task("task 1", 16.0, (50.0,))


@settings(max_examples=10, deadline=None)
@given(at=st.integers(0, 24), seed=st.integers(0, 2**32 - 1))
def test_runs_that_are_not_over_at_submission_change_nothing(at: int, seed: int) -> None:
    runs = some_runs(1)
    later = [(time, replace(run, peak=run.peak * 7)) for time, run in some_runs(seed) if time >= at]
    known = [pair for pair in runs if pair[0] < at]
    assert learnt(known + later, at).decide(NEXT) == learnt(known, at).decide(NEXT) == learnt(runs, at).decide(NEXT)


@settings(max_examples=25, deadline=None)
@given(
    known=st.integers(0, 24),
    kills=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    deadline=st.none() | st.floats(1, 500),
)
def test_a_killed_run_only_ever_raises_a_request(known: int, kills: list[float], deadline: float | None) -> None:
    task = replace(NEXT, deadline=deadline)
    without, knowing = learnt(some_runs(2)[:known]), learnt(some_runs(2)[:known])
    for kill in kills:
        before = knowing.decide(task).requests[0]
        knowing.learn(Run(task, kill, 10.0, killed=True))
        assert knowing.decide(task).requests[0] >= before
    one, other = without.decide(task), knowing.decide(task)
    assert (one.bound, one.bound_seconds) == (other.bound, other.bound_seconds)


def test_a_kill_that_a_later_run_explains_is_forgotten() -> None:
    runs = some_runs(3)
    kill = Run(NEXT, 9.0, 10.0, killed=True)
    explained = [*runs, (30.0, kill), (31.0, Run(NEXT, 10.0, 10.0))]
    assert any("killed at 9" in reason for reason in learnt([*runs[:6], (30.0, kill)]).decide(NEXT).reasons)
    assert learnt(explained).decide(NEXT) == learnt([pair for pair in explained if pair[1] is not kill]).decide(NEXT)


@settings(max_examples=25, deadline=None)
@given(
    known=st.integers(0, 24),
    preset=st.floats(1e-3, 1e3),
    size=st.floats(0, 1e12),
    deadline=st.none() | st.floats(0.001, 1000),
)
def test_requests_stay_between_floor_and_ceiling_and_each_kill_asks_for_more(
    known: int, preset: float, size: float, deadline: float | None
) -> None:
    requests = learnt(some_runs(4)[:known]).decide(Task("task 1", preset, (size,), deadline)).requests
    assert requests[0] >= FLOOR and requests[-1] == CEILING
    assert all(one < two for one, two in pairwise(requests))


@settings(max_examples=8, deadline=None)
@given(power=st.integers(-20, 20))
def test_memory_in_another_unit_is_asked_for_alike_in_that_unit(power: int) -> None:
    unit = 2.0**power
    requests = Requests(FLOOR * unit, CEILING * unit)
    for _, run in some_runs(5):
        requests.learn(replace(run, peak=run.peak * unit, task=replace(run.task, preset=run.task.preset * unit)))
    ours, theirs = learnt(some_runs(5)).decide(NEXT), requests.decide(replace(NEXT, preset=NEXT.preset * unit))
    assert theirs.requests == tuple(request * unit for request in ours.requests)
    assert (theirs.label, theirs.expected, theirs.reasons) == (ours.label, ours.expected, ours.reasons)


@settings(max_examples=30, deadline=None)
@given(
    first=st.floats(0.2, 60), peak=st.floats(0.1, 80), preset=st.floats(0.2, 60), most=st.floats(0, 60), at=st.integers(0, 4)
)
def test_the_cost_of_a_ladder_is_that_of_its_rungs_up_to_the_one_that_is_enough(
    first: float, peak: float, preset: float, most: float, at: int
) -> None:
    known = Known(preset, most, 64.0)
    asked = attempted(rungs(first, LADDERS[at], known), peak)
    cost, kills = paid(np.array([first]), peak, known)
    assert cost[0, at] == pytest.approx(sum(asked))
    assert kills[0, at] == sum(request < peak for request in asked)


def following(need: list[tuple[float, float]], preset: float = 16.0) -> Requests:
    """Runs of one name, by input and need."""
    return learnt([(float(at), Run(Task("one", preset, (size,)), peak, 60.0)) for at, (size, peak) in enumerate(need)])


def test_what_follows_the_input_is_asked_for_by_the_input() -> None:
    random = np.random.default_rng(6)
    sizes = random.uniform(1, 100, 22)
    decision = following([(size, 0.5 + 0.1 * size) for size in sizes]).decide(Task("one", 16.0, (20.0,)))
    assert decision.label.startswith("linear in input")
    assert decision.requests[0] == pytest.approx(2.5, rel=0.1)


def test_what_does_not_follow_the_input_is_not_asked_for_by_it() -> None:
    random = np.random.default_rng(7)
    decision = following([(random.uniform(1, 100), random.choice([3.9, 4.0])) for _ in range(22)]).decide(
        Task("one", 16.0, (99.0,))
    )
    assert decision.label.startswith("most seen + 2%")
    assert decision.others[0].expected >= decision.expected


def test_a_preset_that_nothing_beats_stays_and_the_decision_says_so() -> None:
    decision = following([(1.0, 16.0)] * 12).decide(Task("one", 16.0, (1.0,)))
    assert (decision.label, decision.requests[0], decision.expected) == ("the declared preset", 16.0, 1.0)
    assert decision.reasons == ("12 finished runs of this name", "nothing is better than the declared preset in the back-test")


def test_what_never_ran_has_its_preset_until_others_tell_that_presets_are_large() -> None:
    first = Task("new", 16.0)
    assert learnt([]).decide(first).requests[0] == 16.0
    assert learnt(some_runs(8, names=6)).decide(first).label == "80% of the preset, after a kill preset"


def test_without_time_for_a_retry_the_first_request_is_at_the_bound() -> None:
    requests = following([(1.0, 4.0 + 0.1 * (at % 5)) for at in range(20)])
    free, tight = (requests.decide(Task("one", 16.0, (1.0,), deadline)) for deadline in (600.0, 90.0))
    assert tight.bound is not None and tight.requests[0] >= tight.bound.value > free.requests[0]
    assert tight.reasons[-1] == "the deadline leaves no time for a retry: the first request is at the bound"
    assert requests.decide(Task("new", 16.0, deadline=90.0)).requests[0] == 16.0


def test_a_killed_attempt_is_paid_whole_and_the_next_run_knows_of_it_when_it_is_over() -> None:
    cases = [
        Case(Task("one", 4.0), submitted, submitted, peak, 10.0) for submitted, peak in ((0.0, 6.0), (15.0, 3.0), (25.0, 3.0))
    ]
    first, second, third = replay(cases, Requests(FLOOR, CEILING))
    assert (first.requests, first.kills, first.wasted) == ((4.0, 8.0), 1, 4 * 10 + (8 - 6) * 10)
    assert second.cold and second.requests[0] == pytest.approx(4.4)
    assert (third.cold, third.bound is None) == (False, False)


def test_what_needs_more_than_there_is_ends_at_the_ceiling() -> None:
    (lost,) = replay([Case(Task("one", 4.0), 0.0, 0.0, 65.0, 10.0)], Requests(FLOOR, CEILING))
    assert lost.lost and lost.requests[-1] == CEILING and lost.kills == len(lost.requests)


@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_a_bound_holds_as_often_as_it_says_from_the_second_run_of_a_name_on(spread: float) -> None:
    random, bounds, held = np.random.default_rng(9), Bounds(0.95), []
    for place in range(1500):
        name = place % 100
        value = float((1 + name) * np.exp(spread * (1 + name % 3) * random.normal()))
        said = bounds.bound(name)
        if said is not None and place > 300:
            held.append(value <= said.value)
        bounds.learn(name, value, said)
    assert 0.92 <= np.mean(held) <= 0.98


def told_of(count: int, slope: float) -> tuple[Bounds, list[tuple[int, float, float]]]:
    """Runs of six names with inputs that lie a hundredfold apart; of each its place, input, and the bound over its value."""
    random, bounds, said = np.random.default_rng(11), Bounds(0.95), []
    for place in range(count):
        name, size = place % 6, float(random.choice([4.0, 16.0, 64.0, 180.0, 540.0]))
        value = float((1 + name + slope * size) * np.exp(0.1 * random.normal()))
        upper = bounds.bound(name, (size,))
        if upper is not None:
            said.append((place, size, upper.value / value))
        bounds.learn(name, value, upper, (size,))
    return bounds, said


@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_a_bound_holds_for_few_runs_of_few_names_whether_or_not_they_follow_their_input(slope: float) -> None:
    _, said = told_of(6 * 60, slope)
    assert 0.92 <= np.mean([ratio >= 1 for _, _, ratio in said]) <= 0.98
    # Near, for small inputs and for large ones.
    assert all(np.median([ratio for place, size, ratio in said if place > 100 and size == one]) < 1.6 for one in (4.0, 540.0))


def test_a_bound_of_an_input_is_not_that_of_another() -> None:
    bounds, _ = told_of(6 * 20, 0.05)
    small, large, unknown = (bounds.bound(1, features) for features in ((4.0,), (540.0,), ()))
    assert small is not None and large is not None and unknown is not None
    assert large.typical / small.typical == pytest.approx((2 + 27) / (2 + 0.2), rel=0.2)
    assert small.typical < unknown.typical < large.typical


@pytest.mark.parametrize(("floor", "ceiling"), [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_a_floor_and_a_ceiling_that_leave_no_request_are_refused(floor: float, ceiling: float) -> None:
    with pytest.raises(ValueError, match="leave no request"):
        Requests(floor, ceiling)


@pytest.mark.parametrize(("peak", "seconds"), [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_a_run_that_cannot_be_is_refused(peak: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="set it aside first"):
        learnt([]).learn(Run(NEXT, peak, seconds))
