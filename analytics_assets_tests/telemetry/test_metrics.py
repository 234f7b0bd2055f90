"""How reliable groups of assets are, and weeks against those before: from healthy weeks, each with one thing changed."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.telemetry.metrics import WEEKS, Point, first_week, held_against_before, performance
from analytics_assets.telemetry.report import reliability_of_groups
from analytics_assets.telemetry.tables import Performance, Query, StepTelemetry
from analytics_assets_tests.builders import NOON
from analytics_assets_tests.telemetry.test_review import GIB, asked, keep, work

# A Wednesday, five weeks after the first week of work.
NOW = NOON + timedelta(days=36)
GROUPS = {"sessions": "sessions", "page_views": "sessions", "users": "customers"}
THIS = NOW.date() - timedelta(days=NOW.weekday())


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def weeks(
    con: duckdb.DuckDBPyConnection, steps: Sequence[StepTelemetry], queries: Sequence[Query] = (), *,
    by_hand: Sequence[tuple[datetime, str]] = (), disk: tuple[int, int] = (85 * GIB, 100 * GIB),
    before: Sequence[Performance] = (),
) -> dict[tuple[str, str], list[Performance]]:  # fmt: skip
    """The rows by measure and name, oldest first."""
    found: dict[tuple[str, str], list[Performance]] = {}
    for row in performance(con, keep(con, steps, queries), by_hand, disk, NOW, before):
        found.setdefault((row.measure, row.name), []).append(row)
    return found


# Groups of assets


def of_groups(con: duckdb.DuckDBPyConnection, steps: Sequence[StepTelemetry]) -> dict[str, tuple[Any, ...]]:
    _, found = reliability_of_groups(con, keep(con, steps, ())["step_telemetry"], GROUPS, NOW, 90)
    return {one.job: (one.runs, one.failed, one.times_broken, one.mtbf_hours, one.mttr_hours) for one in found}


def test_a_run_fails_for_the_group_whose_step_failed_and_for_no_other(con: duckdb.DuckDBPyConnection) -> None:
    users = {"step": "users", "assets": '["users"]'}
    steps = [
        work("run-1"), work("run-1", **users),
        work("run-2", day=1), work("run-2", day=1, **users, outcome="failure"),
        work("run-3", day=2), work("run-3", day=2, **users),
    ]  # fmt: skip
    found = of_groups(con, steps)
    assert found["sessions"] == (3, 0, 0, None, None)
    # Broken from the end of the second run to the end of the third; the rest of the 36 days went well.
    assert found["customers"] == (3, 1, 1, 36 * 24 - 24, 24)


def test_what_makes_no_asset_or_one_that_is_no_more_is_of_no_group(con: duckdb.DuckDBPyConnection) -> None:
    steps = [work(), work("run-2", step="drill", assets="[]"), work("run-3", step="gone", assets='["gone"]')]
    assert of_groups(con, steps).keys() == {"sessions"}


def test_before_the_first_step_no_group_is_told(con: duckdb.DuckDBPyConnection) -> None:
    assert of_groups(con, []) == {}


# Weeks


def test_a_job_is_held_against_the_median_of_four_weeks_before(con: duckdb.DuckDBPyConnection) -> None:
    took = (50.0, 10.0, 20.0, 40.0, 30.0, 60.0)
    steps = [work(f"run-{n}", day=7 * n, wall_seconds=seconds) for n, seconds in enumerate(took)]
    rows = weeks(con, steps)["job_seconds", "refresh"]
    assert [row.value for row in rows] == list(took)
    assert [row.baseline for row in rows] == [None, 50.0, 30.0, 20.0, 30.0, 25.0]
    assert rows[-1].ratio == pytest.approx(60 / 25)
    assert [row.whole for row in rows] == [True] * 5 + [False]
    assert all(row.week.weekday() == 0 for row in rows) and rows[-1].week == THIS


def test_a_run_that_failed_is_no_measure_of_how_long_a_job_takes(con: duckdb.DuckDBPyConnection) -> None:
    steps = [work("run-1", wall_seconds=10.0), work("run-2", wall_seconds=1.0, outcome="failure")]
    (row,) = weeks(con, steps)["job_seconds", "refresh"]
    assert (row.value, row.samples) == (10.0, 1)


def test_queries_and_throughput_have_their_own_lines(con: duckdb.DuckDBPyConnection) -> None:
    queries = [asked(0, seconds=1.0), asked(1, seconds=3.0), asked(2, seconds=9.0, outcome="failure")]
    found = weeks(con, [work(rows_written=7200, wall_seconds=3600.0)], queries)
    (row,) = found["query_seconds", "analytics sql"]
    assert (row.value, row.slow, row.samples) == (2.0, pytest.approx(2.9), 2)
    assert found["rows_per_second", "refresh"][0].value == 2.0


def test_what_is_used_is_held_against_its_band_and_says_what_to_do(con: duckdb.DuckDBPyConnection) -> None:
    last_week = THIS - timedelta(weeks=1)
    kept = Performance(last_week, "disk_used", "all", 0.85, None, None, False, None, None, None, 0.8, 0.9, "fine")
    found = weeks(con, [work(cpu_seconds=0.2 * 3600, threads=1)], disk=(17 * GIB, 100 * GIB), before=[kept])
    (row,) = found["processors_used", "all"]
    assert (row.value, row.within) == (pytest.approx(0.2), False)
    assert str(row.advice).startswith("one processor is the least")
    last, this = found["disk_used", "all"]
    assert (last.value, last.within, last.whole) == (0.85, True, True)
    assert (this.value, this.baseline, this.within, this.low, this.high) == (0.17, 0.85, False, 0.8, 0.9)


def test_acts_by_hand_are_counted_and_a_week_without_any_counts_too(con: duckdb.DuckDBPyConnection) -> None:
    acts = [(NOON, "rollback"), (NOON, "replay"), (NOW, "rollback")]
    found = weeks(con, [work()], by_hand=acts)
    assert [row.value for row in found["manual_actions", "all"]] == [2, 0, 0, 0, 0, 1]
    assert [row.value for row in found["manual_actions", "rollback"]] == [1, 0, 0, 0, 0, 1]
    assert [row.value for row in weeks(con, [work()])["manual_actions", "all"]] == [0] * 6


def test_before_anything_is_known_only_the_disk_and_no_acts_are_told(con: duckdb.DuckDBPyConnection) -> None:
    assert weeks(con, []).keys() == {("disk_used", "all"), ("manual_actions", "all")}


def test_only_so_many_weeks_are_told_and_none_that_a_clock_ahead_made_up(con: duckdb.DuckDBPyConnection) -> None:
    steps = [work(f"run-{n}", day=-7 * n) for n in range(40)] + [work("run-ahead", day=400)]
    rows = weeks(con, steps)["job_seconds", "refresh"]
    assert rows[0].week == first_week(NOW) == THIS - timedelta(weeks=WEEKS - 1)
    assert rows[-1].week <= THIS


def series(values: Sequence[float]) -> list[Performance]:
    points = [Point(THIS + timedelta(weeks=n), "job_seconds", "refresh", value) for n, value in enumerate(values)]
    return held_against_before(points, date.max)


@given(st.floats(1, 1e6), st.floats(-0.1, 0.1), st.integers(3, 8))
def test_the_trend_of_a_steady_change_is_that_change(first: float, slope: float, count: int) -> None:
    values = [first * (1 + slope * n) for n in range(count)]
    middle = sorted(values)[count // 2] if count % 2 else sum(sorted(values)[count // 2 - 1 : count // 2 + 1]) / 2
    assert series(values)[-1].trend == pytest.approx(first * slope / middle, abs=1e-9)


def test_one_bad_week_moves_neither_baseline_nor_trend() -> None:
    calm = series([10.0, 10.0, 10.0, 10.0, 10.0, 10.0])[-1]
    bad = series([10.0, 10.0, 1000.0, 10.0, 10.0, 10.0])[-1]
    assert (bad.baseline, bad.ratio, bad.trend) == (calm.baseline, calm.ratio, calm.trend) == (10.0, 1.0, 0.0)


def test_of_two_weeks_no_trend_is_told() -> None:
    assert series([10.0, 20.0])[-1].trend is None
