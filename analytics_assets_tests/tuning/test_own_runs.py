"""How our own runs under many limits are judged: what a bound and a choice may know, and what is not run again."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analytics_assets_tests.tuning.steps import MACHINE, MB, a_row
from benchmarks.measure import Bench
from benchmarks.own_judging import WHAT, chosen, covered, repeated, steps, told
from benchmarks.own_runs import FULL, SMALL, Cell, Grid, Ran, _keep, _read, cells, kept, measure

BEGAN = datetime(2026, 11, 2, 8)  # noqa: DTZ001 - telemetry is UTC without an offset
MOST = 12_000.0


def a_ran(cell: Cell, hour: int = 0, slower: float = 1.0, **changes: object) -> Ran:
    """Both steps need memory and time in proportion to the lines; with one thread they need less of the processor."""
    seconds = slower * (1 + cell.lines / 10_000)
    work = seconds * (0.8 + 0.1 * cell.threads)
    rows = [
        a_row(
            BEGAN + timedelta(hours=hour, minutes=place), step=step, wall_seconds=seconds, cpu_seconds=work,
            memory_limit_bytes=cell.memory_mb * MB, threads=cell.threads, duckdb_peak_bytes=(20 + cell.lines // 1000) * MB,
            **changes,
        )
        for place, step in enumerate(("intake", "sessions"))
    ]  # fmt: skip
    return Ran(cell, tuple(rows), None, 5.0, 6.0, 500.0)


FEW = Grid((4_000, 64_000, 541_909), (128, 512), (1, 2), repeated=((4_000, 512, 2),), repeats=1)
RAN = [a_ran(cell, hour) for hour, cell in enumerate(cells(FEW))]


def order(ran: list[Ran]) -> list[tuple[Cell, list]]:  # type: ignore[type-arg]
    return [(one.cell, steps(one, MACHINE)) for one in ran]


@settings(max_examples=5, deadline=None)
@given(at=st.integers(0, 7), slower=st.floats(0.1, 10))
def test_what_comes_after_a_run_changes_no_bound_that_was_told_before_it(at: int, slower: float) -> None:
    # So few that no library for models is loaded.
    ran = RAN[:9]
    other = [*ran[: at + 1], *(a_ran(ran[hour].cell, hour, slower) for hour in range(at + 1, len(ran)))]
    until = (at + 2) * 2 * len(WHAT)
    ours, theirs = (told(order(runs), MOST)[:until] for runs in (ran, other))
    assert [one.bound for one in ours] == [one.bound for one in theirs]


def test_the_first_run_of_a_step_has_no_bound_and_is_counted_apart() -> None:
    found = covered(told(order(RAN[:4]), MOST))
    assert (found["without a bound"], found["all"]["count"]) == (2 * len(WHAT), 3 * 2 * len(WHAT))


def test_runs_that_went_at_once_know_nothing_of_each_other() -> None:
    at_once = [a_ran(one.cell) for one in RAN[:4]]
    assert all(one.bound is None for one in told(order(at_once), MOST))


def test_a_step_that_did_not_succeed_is_not_judged() -> None:
    lost = a_ran(Cell(4_000, 128, 2), 9, outcome="out_of_memory", lower_bound=True)
    assert [one for one in told(order([*RAN[:3], lost]), MOST) if one.cell == lost.cell.name] == []


def choice(ran: list[Ran], costs: dict[Cell, float]) -> dict[str, object]:
    return chosen(ran, {one.cell: steps(one, MACHINE) for one in ran}, costs, MOST)[541_909]


def by_threads(ran: list[Ran]) -> dict[Cell, float]:
    """One thread is the cheaper one, and more memory costs a little more."""
    return {one.cell: one.cell.lines * (1 + 0.2 * one.cell.threads + one.cell.memory_mb / 1e5) for one in ran}


def test_limits_for_a_size_are_chosen_without_any_run_of_it() -> None:
    ours = choice(RAN, by_threads(RAN))
    large = [one.cell for one in RAN if one.cell.lines == 541_909]
    turned = by_threads(RAN) | {cell: 1e6 / cell.threads for cell in large}
    other = choice([a_ran(one.cell, slower=9.0) if one.cell in large else one for one in RAN], turned)
    assert (ours["chosen"], ours["asked_mb"]) == (other["chosen"], other["asked_mb"])
    assert ours["ratio"] == pytest.approx(1, abs=0.02)
    assert other["ratio"] == pytest.approx(2)


def test_limits_under_which_nothing_was_published_cost_the_dearest_run_beside() -> None:
    costs = by_threads(RAN)
    failed = [
        replace(one, failed="ran out of memory") if one.cell.lines == 541_909 and one.cell.threads == 1 else one for one in RAN
    ]
    assert choice(failed, costs)["ratio"] > 1.8  # type: ignore[operator]


def test_cells_that_were_run_more_than_once_show_the_noise() -> None:
    again = replace(a_ran(Cell(4_000, 512, 2, 2)), cpu=7.5)
    spread = repeated([*RAN, again], dict.fromkeys([one.cell for one in [*RAN, again]], 1.0))["4,000 lines, 512 MB, 2 threads"]
    assert (spread["runs"], spread["cost"], spread["processor seconds"]) == (3, 1.0, 1.5)


def test_what_is_kept_of_a_cell_is_read_as_it_was_and_not_run_again(tmp_path: Path) -> None:
    bench = Bench(True, tmp_path, Console(quiet=True))
    for cell in cells(SMALL):
        _keep(bench, a_ran(cell))
    assert _read(kept(bench, cell), cell) == a_ran(cell)
    assert len(measure(bench).details["cells"]) == len(cells(SMALL))
    # A process would have got its part of the sample there.
    assert not (tmp_path / "data").exists()


def test_cells_are_at_least_forty_and_in_the_same_drawn_order_each_time() -> None:
    assert len({(one.lines, one.memory_mb, one.threads) for one in cells(FULL)}) >= 40
    assert cells(FULL) == cells(FULL) != sorted(cells(FULL), key=str)
