"""What a forecast may know, when it may be used, and what its intervals promise."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.tuning.forecast import LEVELS, ForecastRules, Rolled, forecast, roll
from analytics_assets.tuning.series import Series, filled, regular
from analytics_assets_tests.tuning.loads import MONDAY, THREE_HOURS, a_load

RULES = ForecastRules(error_hours=336)
LEADS = (1, 3)


def everything(rolled: Rolled) -> list[np.ndarray]:
    bounds = [values[level] for values in (rolled.lower, rolled.upper) for level in LEVELS]
    return [rolled.model, rolled.referee, rolled.point, rolled.ratio[:, None], *bounds]


@settings(max_examples=8, deadline=None)
@given(origin=st.integers(60, 278), seed=st.integers(0, 2**32 - 1))
def test_nothing_that_comes_after_an_origin_changes_its_forecast(origin: int, seed: int) -> None:
    load = a_load()
    other = load.values.copy()
    other[origin + 1 :] = np.random.default_rng(seed).uniform(0, 1e6, len(other) - origin - 1)
    for one, two in zip(
        everything(roll(load, LEADS, RULES)), everything(roll(replace(load, values=other), LEADS, RULES)), strict=True
    ):
        np.testing.assert_array_equal(one[: origin + 1], two[: origin + 1])


@settings(max_examples=6, deadline=None)
@given(scale=st.floats(1e-6, 1e9))
def test_a_load_counted_in_another_unit_has_the_same_forecast_in_that_unit(scale: float) -> None:
    load = a_load()
    ours, theirs = (everything(roll(one, LEADS, RULES)) for one in (load, replace(load, values=load.values * scale)))
    for place, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(two, one if place == 3 else one * scale, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("known", [100, 200, 279])
def test_the_newest_forecast_is_that_of_the_back_test_at_the_same_origin(known: int) -> None:
    rolled = roll(a_load(), tuple(range(1, 5)), RULES)
    rows = forecast(a_load().before(known), RULES).rows
    np.testing.assert_array_equal([row.load for row in rows], rolled.point[known - 1])
    np.testing.assert_array_equal(
        [np.nan if row.upper_95 is None else row.upper_95 for row in rows], rolled.upper[0.95][known - 1]
    )
    assert [row.time for row in rows] == [rolled.series.time(known - 1 + lead) for lead in rolled.leads]


def test_a_model_that_wins_its_back_test_is_used_and_its_rows_say_by_how_much() -> None:
    row = forecast(a_load(), RULES).rows[0]
    assert row.model == "seasonal ridge"
    assert row.ratio is not None and row.ratio < 0.9
    assert row.reason == f"the model's error is {row.ratio:.2f} of the referee's in the rolling back-test"


def test_a_series_that_repeats_last_week_uses_the_referee_and_its_rows_say_so() -> None:
    row = forecast(a_load(noise=0), RULES).rows[0]
    assert (row.model, row.load) == ("same hour last week", a_load(noise=0, weeks=6).values[5 * 56])
    assert row.reason.endswith("same hour last week is used")


def test_a_model_that_begins_to_lose_gives_way_to_the_referee() -> None:
    load = a_load(weeks=12)
    # From week seven on each week repeats the one before: nothing beats the referee any more.
    values = load.values.copy()
    values[6 * 56 :] = np.tile(np.random.default_rng(3).uniform(0, 4000, 56), 6)
    rolled = roll(replace(load, values=values), LEADS, RULES)
    assert rolled.won[6 * 56 - 1] and not rolled.won[-1]
    np.testing.assert_array_equal(rolled.point[-1], rolled.referee[-1])


def test_what_the_back_test_has_not_seen_for_a_day_is_the_referees() -> None:
    told = forecast(a_load().before(60), RULES)
    assert {row.model for row in told.rows} == {"same hour last week"}
    assert told.reason == "the back-test has not seen 24 hours yet: same hour last week is used"
    assert told.rows[0].upper_95 is None


def test_without_a_week_of_history_there_is_no_forecast() -> None:
    told = forecast(a_load().before(40), RULES)
    assert (told.rows, told.reason) == ((), "a load: needs a week of history and has 5 days")


@pytest.mark.parametrize("level", LEVELS)
def test_an_interval_holds_as_often_as_it_says(level: float) -> None:
    rolled = roll(a_load(weeks=40), LEADS, RULES)
    actual, since = rolled.actual(), 6 * 56
    held = (actual >= rolled.lower[level]) & (actual <= rolled.upper[level])
    for place, lead in enumerate(LEADS):
        assert held[since:-lead, place].mean() == pytest.approx(level, abs=0.03)


def test_an_interval_widens_when_the_load_becomes_wilder() -> None:
    calm, wild = a_load(weeks=8), a_load(weeks=8, noise=120)
    values = np.concatenate([calm.values[: 5 * 56], wild.values[5 * 56 :]])
    rolled = roll(replace(calm, values=values), LEADS, RULES)
    width = (rolled.upper[0.8] - rolled.lower[0.8])[:, 0]
    assert width[-1] > 2 * width[5 * 56]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), holes=st.integers(0, 60))
def test_intervals_hold_their_point_and_each_other_and_no_load_is_negative(seed: int, holes: int) -> None:
    random = np.random.default_rng(seed)
    values = random.exponential(100, 280) * (random.random(280) < 0.7)
    values[random.integers(0, 280, holes)] = np.nan
    rolled = roll(Series("wild", MONDAY, THREE_HOURS, values), LEADS, RULES)
    made = ~np.isnan(rolled.lower[0.8])
    ordered = [0 * rolled.point, rolled.lower[0.95], rolled.lower[0.8], rolled.point, rolled.upper[0.8], rolled.upper[0.95]]
    assert made[-1].all()
    for low, high in pairwise(ordered):
        assert (low[made] <= high[made]).all()


def test_a_load_of_nothing_is_forecast_as_nothing() -> None:
    rows = forecast(replace(a_load(), values=np.zeros(280)), RULES).rows
    assert {(row.load, row.upper_95) for row in rows} == {(0.0, 0.0)}


def test_hours_that_are_not_known_are_neither_learned_from_nor_taken_from_the_future() -> None:
    load = a_load()
    values = load.values.copy()
    values[[0, 100, 101]] = np.nan
    assert [filled(replace(load, values=values))[place] for place in (0, 100, 101)] == [0, values[44], values[45]]
    told = forecast(replace(load, values=values), RULES)
    assert told.rows[0].load == pytest.approx(forecast(load, RULES).rows[0].load, rel=0.05)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)))
def test_rows_in_any_order_are_the_same_series(order: list[int]) -> None:
    times = [MONDAY + place * THREE_HOURS for place in range(12)]
    series = regular("rows", [times[place] for place in order], [float(place) for place in order], THREE_HOURS)
    assert (series.start, series.values.tolist()) == (MONDAY, [float(place) for place in range(12)])


def test_of_doubled_rows_the_last_counts_and_a_gap_is_not_known() -> None:
    times = [MONDAY, MONDAY + 2 * THREE_HOURS, MONDAY]
    np.testing.assert_array_equal(regular("rows", times, [1, 2, 3], THREE_HOURS).values, [3, np.nan, 2])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: replace(a_load(), values=np.array([1.0, -1.0])), "a load is negative or infinite"),
        (lambda: replace(a_load(), step=timedelta(hours=5)), "a day is no whole number of steps of 5:00:00"),
        (lambda: regular("rows", [MONDAY, MONDAY + timedelta(hours=1)], [1, 2], THREE_HOURS), "is no whole number of steps"),
        (lambda: regular("rows", [], [], THREE_HOURS), "no rows"),
        (lambda: roll(a_load(), (1, 49), RULES), "leads go from one step to six days"),
    ],
)
def test_what_is_no_load_is_refused_in_a_sentence(wrong, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=said):
        wrong()
