"""What is used in the next months: the last value is the referee, and errors stand beside."""

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.tuning.outlook import HORIZONS, LEAST_ORIGINS, REFEREE, Outlook, by_day, outlook
from analytics_assets.tuning.series import Numbers

LAST = date(2026, 3, 19)
DAY = timedelta(days=1)


def a_flow(days: int = 280, *, growth: float = 0.0, noise: float = 30.0, seed: int = 1) -> Numbers:
    """About 1,000 a day and half of it on the seventh, with noise, growing by so much a day."""
    day = np.arange(days)
    random = np.random.default_rng(seed)
    return np.maximum(1000 + growth * day - np.where(day % 7 == 6, 500, 0) + noise * random.normal(size=days), 0)


def served(found: Outlook) -> dict[int, str]:
    return {row.horizon: row.model for row in found.rows}


def test_each_day_of_the_next_90_has_a_value_an_interval_and_the_error_of_its_horizon() -> None:
    found = outlook(a_flow(), LAST, stock=False)
    assert [row.lead for row in found.rows] == list(range(1, 91))
    assert [row.date for row in found.rows[:2]] == [LAST + DAY, LAST + 2 * DAY]
    for row in found.rows:
        assert row.horizon == (30 if row.lead <= 30 else 90)
        assert row.lower is not None and row.upper is not None and row.lower <= row.value <= row.upper
        assert row.error is not None and row.referee_error is not None and 0 < row.error < row.referee_error
    # The last known day is the seventh of its week.
    assert [row.value < 700 for row in found.rows[:14]] == [(280 + place) % 7 == 6 for place in range(14)]


def test_what_grows_is_carried_on_and_what_only_trembles_is_not() -> None:
    growing = outlook(a_flow(growth=5.0), LAST, stock=False)
    assert served(growing)[90] == "trend"
    assert growing.rows[-1].value == pytest.approx(1000 + 5 * (279 + 90), rel=0.1)
    assert set(served(outlook(a_flow(noise=200), LAST, stock=False)).values()) == {"level"}


@pytest.mark.parametrize("stock", [True, False])
def test_a_model_that_does_not_beat_the_last_value_is_not_used_and_the_row_says_so(stock: bool) -> None:
    wanders = np.abs(10_000 + np.cumsum(np.random.default_rng(3).normal(size=200) * 40))
    steady = np.full(200, 7.0)
    for values in (wanders, steady) if stock else (steady,):
        found = outlook(values, LAST, stock=stock)
        for row in found.rows:
            if row.model == REFEREE:
                assert row.error == row.referee_error and row.reason.endswith("the last value is used")
                assert not stock or row.value == values[-1]
    assert set(served(outlook(steady, LAST, stock=stock)).values()) == {REFEREE}


@pytest.mark.parametrize(
    ("days", "models", "said"),
    [
        (13, {}, "needs 14 days of history and has 13 days"),
        (14, {30: REFEREE, 90: REFEREE}, "no model is back-tested 30 days ahead before 79 days are known, and 14 are"),
        (78, {30: REFEREE, 90: REFEREE}, "no model is back-tested 30 days ahead before 79 days are known, and 78 are"),
        (79, {30: "level", 90: REFEREE}, "in 4 back-tests"),
        (138, {30: "level", 90: REFEREE}, "in 12 back-tests"),
        (139, {30: "level", 90: "level"}, "in 12 back-tests"),
    ],
)
def test_what_is_known_for_too_short_a_time_is_the_last_value_and_says_what_is_missing(
    days: int, models: dict[int, str], said: str
) -> None:
    found = outlook(a_flow(days, noise=200), LAST, stock=False)
    assert served(found) == models
    reason = found.rows[0].reason if found.rows else found.reason
    assert said in reason
    untested = [row for row in found.rows if row.origins < LEAST_ORIGINS]
    assert all(row.lower is None and row.upper is None for row in untested)


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(60, 220), st.booleans())
def test_nothing_is_below_zero_and_intervals_hold_the_value_and_widen(seed: int, days: int, stock: bool) -> None:
    random = np.random.default_rng(seed)
    values = np.where(random.random(days) < 0.7, 0, random.exponential(1e6, days))
    found = outlook(np.cumsum(values) if stock else values, LAST, stock=stock)
    for row in found.rows:
        assert np.isfinite(row.value) and row.value >= 0
        if row.lower is not None and row.upper is not None:
            assert 0 <= row.lower <= row.value <= row.upper
    for horizon in HORIZONS:
        above = [row.upper - row.value for row in found.rows if row.horizon == horizon and row.upper is not None]
        assert all(late >= early - 1e-6 * abs(early) - 1e-3 for early, late in pairwise(above))


@settings(max_examples=6)
@given(st.floats(1e-3, 1e9))
def test_in_other_units_it_is_the_same(factor: float) -> None:
    values = a_flow(200, growth=2.0)
    one, other = outlook(values, LAST, stock=False), outlook(values * factor, LAST, stock=False)
    for row, scaled in zip(one.rows, other.rows, strict=True):
        assert (row.model, row.value) == (scaled.model, pytest.approx(scaled.value / factor))


def test_four_of_five_days_lie_in_the_interval() -> None:
    """Of twelve series, each with its next 90 days."""
    held: list[bool] = []
    for seed in range(12):
        whole = a_flow(370, noise=150, seed=seed)
        for row in outlook(whole[:280], LAST, stock=False).rows:
            assert row.lower is not None and row.upper is not None
            held.append(row.lower <= whole[279 + row.lead] <= row.upper)
    assert 0.72 <= np.mean(held) <= 0.95


def test_a_day_without_a_number_used_nothing_of_a_flow_and_kept_what_is_stored() -> None:
    given_days = [(LAST - 3 * DAY, 5.0), (LAST - DAY, 7.0)]
    assert by_day(given_days, LAST - 3 * DAY, LAST, stock=False).tolist() == [5, 0, 7, 0]
    assert by_day(given_days, LAST - 3 * DAY, LAST, stock=True).tolist() == [5, 5, 7, 7]
