"""What tuning learns from, and what it sets aside: absurd telemetry never trains a model."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_assets.tuning.history import history
from analytics_assets_tests.builders import NOW
from analytics_assets_tests.tuning.steps import MACHINE, MB, a_row

ROW = a_row(NOW - timedelta(hours=1))
SECOND = {"attempt": 2, "started_at": NOW - timedelta(minutes=59)}
LOST: dict[str, Any] = {"outcome": "out_of_memory", "lower_bound": True, "error_class": "OutOfMemoryException"}


def test_a_healthy_run_is_learned_from() -> None:
    found = history([ROW], MACHINE, NOW)
    ((step, (run,)),) = found.runs.items()
    assert (step, run.need_mb, run.limit_mb, run.seconds, run.failed) == ("sessions", 120, 512, 10, False)
    assert run.gib_hours == pytest.approx(512 * MB / 2**30 * 10 / 3600)
    assert (found.set_aside, found.assets) == ({}, {"sessions": '["page_views", "sessions"]'})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([replace(ROW, wall_seconds=-1.0)], "a time or size is negative"),
        ([replace(ROW, cpu_seconds=float("nan"))], "a time or size is negative"),
        ([replace(ROW, peak_memory_bytes=MACHINE + 1)], "it held more memory than there is"),
        ([replace(ROW, duckdb_peak_bytes=MACHINE + 1)], "it held more memory than there is"),
        ([replace(ROW, peak_memory_bytes=None)], "it was not measured"),
        ([replace(ROW, wall_seconds=8 * 86400.0)], "it took longer than a week"),
        ([replace(ROW, started_at=NOW + timedelta(hours=1))], "it began in the future"),
        ([ROW, ROW], "an attempt is there twice"),
        ([replace(ROW, **SECOND)], "an attempt is missing"),
        (
            [ROW, replace(ROW, **{**SECOND, "started_at": NOW - timedelta(hours=2)})],
            "an attempt began before the one before it",
        ),
        ([replace(ROW, outcome="cancelled")], "it was cancelled"),
    ],
)
def test_what_cannot_be_right_is_set_aside_with_a_reason(rows: list[Any], reason: str) -> None:
    healthy = replace(ROW, run_id="run-2")
    found = history([healthy, *rows], MACHINE, NOW)
    assert found.set_aside == {reason: 1}
    assert [run.run_id for run in found.runs["sessions"]] == ["run-2"]


def test_the_order_of_rows_plays_no_part() -> None:
    rows = [replace(ROW, **LOST, run_id="run-2"), replace(ROW, **SECOND, run_id="run-2"), ROW]
    assert history(rows, MACHINE, NOW) == history(rows[::-1], MACHINE, NOW)


def test_an_attempt_that_ran_out_of_memory_is_a_lower_bound_and_paid() -> None:
    again = replace(ROW, **SECOND, memory_limit_bytes=1024 * MB, duckdb_peak_bytes=700 * MB)
    (run,) = history([replace(ROW, **LOST), again], MACHINE, NOW).runs["sessions"]
    assert (run.over_mb, run.need_mb, run.limit_mb, run.failed) == ((512,), 700, 512, False)
    assert run.gib_hours == pytest.approx((512 + 1024) * MB / 2**30 * 10 / 3600)
    (lost,) = history([replace(ROW, **LOST)], MACHINE, NOW).runs["sessions"]
    assert (lost.need_mb, lost.failed) == (None, True)


@pytest.mark.parametrize(
    ("change", "need"),
    [
        ({"duckdb_peak_bytes": None}, 200),
        ({"duckdb_peak_bytes": None, "peak_memory_bytes": 3000 * MB}, 512),
        ({"bytes_spilled": 1}, 512),
        ({"step": "marts"}, 200),
    ],
)
def test_what_duckdb_does_not_tell_errs_to_the_safe_side(change: dict[str, Any], need: float) -> None:
    ((run,),) = history([replace(ROW, **change)], MACHINE, NOW).runs.values()
    assert run.need_mb == need


def test_a_step_that_opened_no_connection_is_no_business_of_tuning() -> None:
    found = history([replace(ROW, memory_limit_bytes=None)], MACHINE, NOW)
    assert (found.runs, found.set_aside) == ({}, {})
