"""Keeping rows: each attempt once, whatever is read again, and however long the history is."""

from dataclasses import replace
from datetime import timedelta

from analytics_assets.telemetry.journal import Key
from analytics_assets.telemetry.rows import Attempt
from analytics_assets.telemetry.steps import Steps
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets_tests.builders import Line, an_event
from analytics_assets_tests.telemetry.test_rows import HEALTHY


def attempt(run: int, day: int = 0) -> Attempt:
    return replace(HEALTHY, key=Key(f"run-{run}", "sessions", 1), started_at=HEALTHY.started_at + timedelta(days=day))


def runs(line: Line) -> list[str]:
    return [run for (run,) in line.rows(STEP_TELEMETRY, columns="run_id")]


def test_rows_and_cursor_are_kept_together(line: Line) -> None:
    steps = Steps(line.pipeline.home, 50_000)
    assert steps.cursor() == 0
    assert steps.keep(line.con, [attempt(1), attempt(2, day=40)], 0, 17) == 2
    assert (steps.cursor(), runs(line)) == (17, ["run-1", "run-2"])


def test_runs_without_a_step_move_the_cursor_on(line: Line) -> None:
    steps = Steps(line.pipeline.home, 50_000)
    assert (steps.keep(line.con, [], 0, 5), steps.cursor(), runs(line)) == (0, 5, [])


def test_who_comes_second_with_the_same_runs_adds_nothing(line: Line) -> None:
    steps = Steps(line.pipeline.home, 50_000)
    steps.keep(line.con, [attempt(1)], 0, 5)
    assert steps.keep(line.con, [attempt(1)], 0, 5) == 0
    # A run may end twice: marked as dead, and ended by itself after all.
    steps.keep(line.con, [attempt(1), attempt(2)], 5, 9)
    assert runs(line) == ["run-1", "run-2"]


def test_the_sweep_leaves_the_table_as_it_is(line: Line) -> None:
    line.load([an_event()])
    steps = Steps(line.pipeline.home, 50_000)
    for run in range(1, 6):
        steps.keep(line.con, [attempt(run, day=run)], run - 1, run)
    line.pipeline.sweep(line.con)
    assert len(runs(line)) == 5
