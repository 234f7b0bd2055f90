"""What is usual is learned from clean days alone, and never from the window that is judged."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.quality.history import Bounds, History, Past
from analytics_assets.settings import Incident
from analytics_assets.warehouse.expectation import Usual

TODAY = date(2026, 3, 10)
VOLUME = Usual("events_volume", "As many as before.", "count(*)", ratio=True, weekday=True, tolerance=2, absent_is_zero=True)
SHARE = Usual("share", "As before.", "avg(x)", tolerance=0.1)


def a_day(weeks: int = 1, /, *, tenant: str = "acme", name: str = "events_volume", observed: float = 100.0,
          success: str = "pass", severity: str = "block") -> Past:  # fmt: skip
    """The verdict on a clean day so many weeks ago."""
    return "events", tenant, TODAY - timedelta(weeks=weeks), name, severity, success, observed


WEEKS = [a_day(n) for n in range(1, 9)]


def test_the_same_number_as_on_the_same_weekdays_is_in_the_middle() -> None:
    bounds = History(WEEKS).bounds("events", VOLUME, "acme", TODAY)
    assert isinstance(bounds, Bounds)
    assert bounds.distance(100) == pytest.approx(0)
    assert (bounds.low, bounds.high) == (pytest.approx(50), pytest.approx(200))


def test_under_the_minimum_of_days_the_answer_is_unknown_and_says_why() -> None:
    assert History(WEEKS[:3]).bounds("events", VOLUME, "acme", TODAY) == "3 clean same weekdays are known, 4 are needed"


def test_other_weekdays_and_other_tenants_say_nothing() -> None:
    others = [a_day(n, tenant="globex", observed=9.0) for n in range(1, 9)]
    shifted = [(t, w, day - timedelta(days=1), *rest) for t, w, day, *rest in WEEKS]
    history = History([*WEEKS, *others, *shifted])  # type: ignore[list-item]
    assert history.bounds("events", VOLUME, "acme", TODAY) == History([*WEEKS, *others]).bounds("events", VOLUME, "acme", TODAY)
    low = history.bounds("events", VOLUME, "globex", TODAY)
    assert isinstance(low, Bounds) and low.middle == pytest.approx(9)


@pytest.mark.parametrize("wrong", [a_day(1, observed=1e6, success="fail"), a_day(2, observed=0.0, success="fail")])
def test_a_day_that_failed_is_not_learned_from(wrong: Past) -> None:
    others = [row for row in WEEKS if row[2] != wrong[2]]
    assert History([*others, wrong]).bounds("events", VOLUME, "acme", TODAY) == History(others).bounds(
        "events", VOLUME, "acme", TODAY
    )


def test_a_blocking_failure_of_another_table_makes_the_whole_day_unclean() -> None:
    broken = ("revenue_daily", "acme", WEEKS[0][2], "revenue_daily_adds_up", "block", "fail", 3.0)
    assert (TODAY - timedelta(weeks=1)) not in {day for _, day in History([*WEEKS, broken]).clean}


def test_a_delivery_at_fault_makes_the_days_of_its_events_unclean_and_not_that_of_its_receipt() -> None:
    brought = {("acme", WEEKS[0][2]): [("acme", WEEKS[2][2])]}
    broken = ("batches", "acme", WEEKS[0][2], "batch_rejects_few", "block", "fail", 0.5)
    clean = {day for _, day in History([*WEEKS, broken], brought=brought).clean}
    assert clean == {day for _, _, day, *_ in WEEKS} - {WEEKS[2][2]}


def test_a_warning_makes_no_day_unclean() -> None:
    warned = ("revenue_daily", "acme", WEEKS[0][2], "revenue_daily_returns_cost", "warn", "fail", 3.0)
    assert len(History([*WEEKS, warned]).clean) == len(WEEKS)


def test_a_declared_incident_is_not_learned_from_although_it_passed() -> None:
    day = WEEKS[0][2]
    incident = Incident(tenant="acme", first=day, last=day, kind="incident", reason="the app sent nothing")
    assert day not in {known for _, known in History(WEEKS, [incident]).clean}


def test_a_failure_that_a_person_declared_normal_is_learned_from() -> None:
    rows = [a_day(n, observed=900.0, success="fail") for n in range(1, 9)]
    normal = Incident(first=rows[-1][2], last=rows[0][2], kind="normal", reason="the shop has grown")
    bounds = History(rows, [normal]).bounds("events", VOLUME, "acme", TODAY)
    assert isinstance(bounds, Bounds) and bounds.middle == pytest.approx(900)


def test_a_tenant_that_is_absent_while_others_are_there_counts_as_zero() -> None:
    seldom = [a_day(1, tenant="globex", observed=50.0)]
    history = History([*WEEKS, *seldom])
    assert history.bounds("events", VOLUME, "globex", TODAY) != "1 clean same weekdays are known, 4 are needed"
    least = Usual(**{**VOLUME.__dict__, "least": 20.0})
    assert history.bounds("events", least, "globex", TODAY) == "usually under 20, too few to judge"


@given(st.lists(st.floats(0, 1), min_size=10, max_size=40), st.floats(0, 1))
def test_a_distance_is_at_most_one_just_between_the_bounds(values: list[float], value: float) -> None:
    rows = [("events", "acme", TODAY - timedelta(days=n + 1), "share", "block", "pass", v) for n, v in enumerate(values)]
    bounds = History(rows).bounds("events", SHARE, "acme", TODAY)
    assert isinstance(bounds, Bounds)
    inside = bounds.low <= value <= bounds.high
    assert (abs(bounds.distance(value)) <= 1 + 1e-9) == (inside or abs(abs(bounds.distance(value)) - 1) < 1e-9)


@given(st.lists(st.floats(1, 1e6), min_size=4, max_size=8), st.floats(1.01, 1e3))
def test_what_is_k_times_as_much_is_as_far_as_what_is_a_kth(values: list[float], factor: float) -> None:
    bounds = History([a_day(n, observed=v) for n, v in enumerate(values, 1)]).bounds("events", VOLUME, "acme", TODAY)
    assert isinstance(bounds, Bounds)
    up, down = bounds.distance(bounds.middle * factor), bounds.distance(bounds.middle / factor)
    assert up == pytest.approx(-down, rel=1e-6, abs=1e-9)
