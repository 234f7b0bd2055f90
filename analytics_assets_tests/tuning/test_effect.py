"""What a change did: worse is taken back, not worse stays, and too little decides nothing."""

import math
import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.tuning.effect import Fared, effect, larger, more_often, shift
from analytics_assets.tuning.rules import EffectRules

RULES = EffectRules()
DRAWN = random.Random(7)
BEFORE = [Fared(cost=100 * DRAWN.uniform(0.8, 1.25), seconds=10) for _ in range(30)]
ALIKE = [Fared(cost=100 * DRAWN.uniform(0.8, 1.25), seconds=10) for _ in range(20)]
CHEAPER = [replace(run, cost=run.cost * 0.6) for run in ALIKE]


def test_a_change_that_saves_is_kept_with_its_interval() -> None:
    found = effect(BEFORE, CHEAPER, RULES)
    assert found.verdict == "keep" and found.saving and found.lower and found.upper
    assert 0.3 < found.lower < found.saving < found.upper < 0.5
    assert 0.35 < found.saving < 0.45


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cost": 150.0}, "it costs "),
        ({"seconds": 21.0}, "20 of 20 runs missed the deadline of 20 s, 0 of 30 before"),
        ({"failed": True}, "20 of 20 runs failed, 0 of 30 before"),
    ],
)
def test_a_change_that_makes_something_worse_is_taken_back(change: dict[str, object], reason: str) -> None:
    after = [replace(run, **change) for run in CHEAPER]  # type: ignore[arg-type]
    found = effect(BEFORE, after, RULES, deadline=20)
    assert found.verdict == "revert"
    assert any(said.startswith(reason) for said in found.reasons), found.reasons


def test_one_run_lost_to_memory_takes_less_memory_back_and_nothing_else() -> None:
    lost = replace(ALIKE[0], failed=True, out_of_memory=True)
    assert effect(BEFORE, [lost], RULES, lowered=True).reasons == ("1 of 1 runs since the change were lost to memory",)
    assert effect(BEFORE, [lost], RULES).verdict == "wait"
    again = replace(lost, failed=False)
    assert effect(BEFORE, [again], RULES, lowered=True).verdict == "wait"


@given(st.lists(st.builds(Fared, st.floats(0, 1e6), st.floats(0, 1e6), st.booleans()), max_size=4))
def test_a_few_runs_decide_nothing(after: list[Fared]) -> None:
    assert effect(BEFORE, after, RULES, deadline=5).verdict == "wait"


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 1e3), min_size=5, max_size=40), st.floats(1e-3, 1e3))
def test_the_same_costs_in_another_unit_are_judged_alike(costs: list[float], unit: float) -> None:
    after = [Fared(cost, 10) for cost in costs]
    scaled = effect(
        [replace(run, cost=run.cost * unit) for run in BEFORE], [replace(run, cost=run.cost * unit) for run in after], RULES
    )
    found = effect(BEFORE, after, RULES)
    assert scaled.verdict == found.verdict
    assert scaled.saving == pytest.approx(found.saving, rel=1e-6, abs=1e-6)


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 1e3), min_size=20, max_size=40))
def test_what_costs_no_more_in_any_run_is_never_taken_back(costs: list[float]) -> None:
    least = min(run.cost for run in BEFORE)
    after = [Fared(min(cost, least), 10) for cost in costs]
    found = effect(BEFORE, after, RULES, deadline=20)
    assert found.verdict == "keep"
    assert found.lower is not None and found.saving is not None and found.upper is not None
    assert -1e-9 <= found.lower <= found.saving <= found.upper


def test_harmless_changes_are_taken_back_as_rarely_as_declared() -> None:
    """What comes from the same place before and after; each look at 20 runs errs in a hundredth of all cases."""
    drawn = random.Random(3)
    costs = [[drawn.lognormvariate(0, 0.5) for _ in range(50)] for _ in range(2000)]
    wrong = sum(larger(one[:30], one[30:]) < RULES.error for one in costs)
    assert wrong <= 2000 * 0.01 + 3 * math.sqrt(2000 * 0.01)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 4), (5, 2)])
def test_the_chance_of_ranks_is_counted_exactly(before: int, after: int) -> None:
    """Against all orders in which the runs could have come."""
    places = range(before + after)
    orders = list(combinations(places, after))
    for order in orders:
        old, new = [float(place) for place in places if place not in order], [float(place) for place in order]
        wins = sum(b > a for a in old for b in new)
        as_large = sum(
            sum(b > a for a in places if a not in other for b in other) >= wins for other in orders
        )  # fmt: skip
        assert larger(old, new) == pytest.approx(as_large / len(orders))


def test_how_often_is_fishers_exact_test() -> None:
    # The lady tasting tea: 3 of 4 right, and 4 of 4.
    assert more_often(1, 4, 3, 4) == pytest.approx(17 / 70)
    assert more_often(0, 4, 4, 4) == pytest.approx(1 / 70)
    assert more_often(5, 10, 0, 10) == 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    drawn = random.Random(5)
    held = 0
    for _ in range(300):
        before, after = ([factor * drawn.lognormvariate(0, 0.4) for _ in range(15)] for factor in (1.0, 0.7))
        _, lower, upper = shift(before, after)
        held += lower <= 0.3 <= upper
    assert held >= 300 * 0.95 - 3 * math.sqrt(300 * 0.95 * 0.05)
