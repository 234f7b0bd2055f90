"""Keeping rows: each attempt once, whatever is read again, and however long the history is."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_assets.telemetry.costs import cost
from analytics_assets.telemetry.journal import Key, Measuring
from analytics_assets.telemetry.rows import Attempt
from analytics_assets.telemetry.steps import Steps
from analytics_assets.telemetry.tables import STEP_TELEMETRY, UNIT_COSTS, StepTelemetry
from analytics_assets.warehouse.table import Table, replace_days
from analytics_assets_tests.builders import NOW, Line, an_event
from analytics_assets_tests.telemetry.test_costs import PRICES
from analytics_assets_tests.telemetry.test_rows import HEALTHY


def attempt(run: int, day: int = 0) -> Attempt:
    return replace(HEALTHY, key=Key(f"run-{run}", "sessions", 1), started_at=HEALTHY.started_at + timedelta(days=day))


def runs(line: Line) -> list[str]:
    return [run for (run,) in line.rows(STEP_TELEMETRY, columns="run_id")]


def test_rows_and_cursor_are_kept_together(line: Line) -> None:
    steps = Steps(line.pipeline.home, PRICES, 50_000)
    assert steps.cursor() == 0
    assert steps.keep(line.con, [attempt(1), attempt(2, day=40)], 0, 17) == 2
    assert (steps.cursor(), runs(line)) == (17, ["run-1", "run-2"])


def test_runs_without_a_step_move_the_cursor_on(line: Line) -> None:
    steps = Steps(line.pipeline.home, PRICES, 50_000)
    assert (steps.keep(line.con, [], 0, 5), steps.cursor(), runs(line)) == (0, 5, [])


def test_who_comes_second_with_the_same_runs_adds_nothing(line: Line) -> None:
    steps = Steps(line.pipeline.home, PRICES, 50_000)
    steps.keep(line.con, [attempt(1)], 0, 5)
    assert steps.keep(line.con, [attempt(1)], 0, 5) == 0
    # A run may end twice: marked as dead, and ended by itself after all.
    steps.keep(line.con, [attempt(1), attempt(2)], 5, 9)
    assert runs(line) == ["run-1", "run-2"]


def test_the_sweep_leaves_the_table_as_it_is(line: Line) -> None:
    line.load([an_event()])
    steps = Steps(line.pipeline.home, PRICES, 50_000)
    for run in range(1, 6):
        steps.keep(line.con, [attempt(run, day=run)], run - 1, run)
    line.pipeline.sweep(line.con)
    assert len(runs(line)) == 5


def test_costs_of_a_run_are_kept_once_and_sum_to_what_its_steps_cost(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """What a killed process leaves: nothing that comes after it."""

    def die_at_steps(table: Table, *arguments: Any, **options: Any) -> Any:
        if table.spec is STEP_TELEMETRY:
            raise Killed
        return replace_days(table, *arguments, **options)

    steps = Steps(line.pipeline.home, PRICES, 50_000)
    done = [attempt(1), attempt(2), attempt(3, day=1)]
    for one in done:
        Measuring(line.pipeline.home, one.key, NOW, shared=True).end()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("analytics_assets.telemetry.steps.replace_days", die_at_steps)
        steps.keep(line.con, done[:2], 0, 5)
    assert (runs(line), len(line.rows(UNIT_COSTS))) == ([], 4)
    steps.keep(line.con, done[:2], 0, 5)
    steps.keep(line.con, done[2:], 5, 9)
    taken = [StepTelemetry(**found) for found in line.dicts(STEP_TELEMETRY)]
    assert [step.run_id for step in taken] == ["run-1", "run-2", "run-3"]
    shares = line.dicts(UNIT_COSTS)
    assert len(shares) == 6
    for step in taken:
        assert cost(step, PRICES) > 0
        assert sum(share["cost"] for share in shares if share["run_id"] == step.run_id) == cost(step, PRICES)
