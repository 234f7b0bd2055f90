"""A row of `step_telemetry` from what Dagster noted of a step and what was measured of it."""

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_assets.telemetry.journal import Key
from analytics_assets.telemetry.rows import Attempt, outcome, row
from analytics_assets.telemetry.tables import STEP_TELEMETRY, StepTelemetry
from analytics_assets_tests.builders import DAY, NOON

HEALTHY = Attempt(
    key=Key("run-1", "sessions", 1),
    job="refresh",
    started_at=NOON,
    ended_at=NOON + timedelta(seconds=3),
    succeeded=True,
    error_class=None,
    run_cancelled=False,
    queue_seconds=0.5,
    assets=("sessions", "page_views"),
    tenant=None,
    partition="2026-03-10",
)
SEEN = {"ended": True, "seconds": 2.9, "cpu_seconds": 1.5, "peak": 300, "rows_written": {"sessions": 7, "page_views": 5}}


def test_a_row_has_the_columns_of_the_table() -> None:
    assert {field.name for field in fields(StepTelemetry)} == set(STEP_TELEMETRY.column_names)


def test_what_was_measured_counts_before_what_the_clock_says() -> None:
    found = row(HEALTHY, SEEN)
    assert (found.date, found.wall_seconds, found.cpu_seconds, found.peak_memory_bytes) == (DAY, 2.9, 1.5, 300)
    assert (found.rows_written, found.rows_by_table) == (12, '{"page_views": 5, "sessions": 7}')
    assert (found.outcome, found.lower_bound) == ("success", False)


def test_a_step_that_nothing_measured_has_a_row_all_the_same() -> None:
    found = row(HEALTHY, None)
    assert (found.outcome, found.wall_seconds, found.lower_bound) == ("success", 3.0, True)
    assert (found.cpu_seconds, found.peak_memory_bytes, found.rows_written, found.rows_by_table) == (None, None, None, None)


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    assert row(replace(HEALTHY, ended_at=NOON - timedelta(hours=1)), None).wall_seconds is None


def test_a_success_that_was_not_measured_to_its_end_is_a_lower_bound() -> None:
    assert row(HEALTHY, {**SEEN, "ended": False}).lower_bound


@pytest.mark.parametrize(
    ("change", "became"),
    [
        ({"succeeded": False, "error_class": "ValueError"}, "failure"),
        ({"succeeded": False, "error_class": "OutOfMemoryException"}, "out_of_memory"),
        ({"succeeded": False, "error_class": "MemoryError"}, "out_of_memory"),
        ({"succeeded": False, "error_class": "ChildProcessCrashException"}, "killed"),
        ({"succeeded": False, "error_class": "DagsterExecutionInterruptedError"}, "cancelled"),
        ({"succeeded": None, "ended_at": None}, "killed"),
        ({"succeeded": None, "ended_at": None, "run_cancelled": True}, "cancelled"),
    ],
)
def test_what_did_not_succeed_is_a_lower_bound_and_says_how_it_ended(change: dict[str, Any], became: str) -> None:
    attempt = replace(HEALTHY, **change)
    assert outcome(attempt) == became
    assert row(attempt, SEEN).lower_bound
