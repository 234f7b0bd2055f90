"""What was predicted of our own steps before each run, against what was measured; and the limits that were chosen. Pure.

Runs are judged in the order in which they began. Before each, a 95 % bound is asked for of every step, from what was over
by then and the size of the input; a first run of a step has none. The limits for a size are chosen from runs of other sizes.
"""

import heapq
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from analytics_assets.telemetry.costs import cost
from analytics_assets.telemetry.prices import Prices
from analytics_assets.telemetry.probe import machine_memory
from analytics_assets.telemetry.tables import StepTelemetry
from analytics_assets.tuning.bounds import Bounds, Upper
from analytics_assets.tuning.choice import HOUR, Advisor, Config, Outcome
from analytics_assets.tuning.history import StepRun, history
from analytics_assets.tuning.in_force import LEAST_MB
from analytics_assets.tuning.requests import Requests, Run, Task
from analytics_assets.tuning.rules import FILE, TuningRules
from benchmarks.measure import Finding, Measured
from benchmarks.own_runs import DECLARED, Cell, Ran

LEVEL, WITHIN, NEAR = 0.95, 3.0, 1.10
PRESET_MB, PRESET_THREADS = 512, 2
# So many runs of a step stand apart: there is little to go by.
EARLY = 5
NEED, HELD, TIME, WORK = "memory of DuckDB", "memory of the process", "time", "processor time"
WHAT = (NEED, HELD, TIME, WORK)
# How long memory is paid for: as it was measured, or as if the machine had done nothing else meanwhile.
BY_CLOCK, BY_WORK = "by the clock", "by processor seconds"


Bounded = Mapping[str, Upper | None]
"""Bounds of a step by what they are of."""


@dataclass(frozen=True)
class Took:
    """What a step of a run took with all its attempts: MB and seconds. None where it did not succeed."""

    step: str
    run: StepRun
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Told:
    """A bound that was told before a run (None: nothing was known), and what was measured then."""

    what: str
    step: str
    cell: str
    before: int
    bound: float | None
    measured: float

    @property
    def held(self) -> bool:
        return self.bound is not None and self.measured <= self.bound


def judged(ran: Sequence[Ran], declared: Path = DECLARED) -> Measured:
    rules: TuningRules = TuningRules.load(declared / FILE)
    prices: Prices = Prices.load(declared / "prices.yaml")
    machine = machine_memory()
    most_mb = rules.memory.budget(machine // 1_000_000) - rules.memory.process_mb
    took = {one.cell: steps(one, machine) for one in ran}
    said = told([(one.cell, took[one.cell]) for one in ran], most_mb)
    costs = {
        BY_CLOCK: {one.cell: float(sum(cost(row, prices) for row in one.rows)) for one in ran},
        BY_WORK: {one.cell: float(sum(cost(_worked(row), prices) for row in one.rows)) for one in ran},
    }
    choices = {how: chosen(ran, took, money, most_mb) for how, money in costs.items()}
    noise = repeated(ran, costs[BY_WORK])
    coverage = {what: covered([one for one in said if one.what == what]) for what in WHAT}
    details = {
        "coverage": coverage, "choices": choices, "repeated": noise, "told": [asdict(one) for one in said],
        "cells": [_cell(one, {how: money[one.cell] for how, money in costs.items()}) for one in ran], "prices": prices.basis,
    }  # fmt: skip
    return Measured(_findings(coverage, choices), details, _notes(ran, took, coverage, choices, noise))


def steps(one: Ran, machine: int) -> list[Took]:
    """What telemetry says of the steps of a run, by the same reading that tuning learns from."""
    found = history(one.rows, machine, max(row.started_at for row in one.rows))
    took = []
    for step, runs in found.runs.items():
        for run in runs:
            rows = [row for row in one.rows if (row.run_id, row.step) == (run.run_id, step)]
            values = {
                NEED: run.need_mb,
                HELD: max(row.peak_memory_bytes or 0 for row in rows) / 1e6,
                TIME: run.seconds,
                WORK: sum(row.cpu_seconds or 0 for row in rows),
            }
            took.append(Took(step, run, dict.fromkeys(values) if run.need_mb is None else values))
    return took


def _worked(row: StepTelemetry) -> StepTelemetry:
    return replace(row, wall_seconds=row.cpu_seconds)


def told(order: Sequence[tuple[Cell, Sequence[Took]]], most_mb: float) -> list[Told]:
    """All bounds, in the order in which runs began; the steps of a run are told of before any of them begins.

    Runs that went at once know nothing of each other.
    """
    known, found = _Known(most_mb), list[Told]()
    going: list[tuple[datetime, int, Cell, Sequence[tuple[Took, Bounded]]]] = []
    for place, (cell, took) in enumerate(sorted(order, key=lambda pair: _began(pair[1]))):
        while going and going[0][0] <= _began(took):
            _, _, before, said = heapq.heappop(going)
            for one, bounds in said:
                known.learn(one, before, bounds)
        said = [(one, known.bounds(one.step, cell)) for one in took]
        found += [
            Told(what, one.step, cell.name, known.runs.get(one.step, 0), upper.value if upper else None, value)
            for one, bounds in said
            for what, value in one.values.items()
            if value is not None
            for upper in [bounds[what]]
        ]
        ended = max(one.run.began + timedelta(seconds=one.run.seconds) for one in took)
        heapq.heappush(going, (ended, place, cell, said))
    return found


def _began(took: Sequence[Took]) -> datetime:
    return min(one.run.began for one in took)


class _Known:
    """What was learned of all steps, as tuning learns it; beside it what it has no bounds of."""

    def __init__(self, most_mb: float) -> None:
        self._requests = Requests(LEAST_MB, most_mb)
        self._further = {what: Bounds(LEVEL) for what in (HELD, WORK)}
        self.runs: dict[str, int] = {}

    def bounds(self, step: str, cell: Cell) -> Bounded:
        decision = self._requests.decide(Task(step, PRESET_MB, (float(cell.lines),)))
        further = {what: bound.bound(step, (float(cell.lines),)) for what, bound in self._further.items()}
        return {NEED: decision.bound, TIME: decision.bound_seconds, **further}

    def learn(self, one: Took, cell: Cell, said: Bounded) -> None:
        size = (float(cell.lines),)
        _learn(self._requests, one, size, said[NEED], said[TIME])
        if one.run.need_mb is None:
            return
        self.runs[one.step] = self.runs.get(one.step, 0) + 1
        for what, bound in self._further.items():
            bound.learn(one.step, max(one.values[what] or 0.0, 1e-3), said[what], size)


def _learn(
    requests: Requests, one: Took, size: tuple[float, ...], bound: Upper | None = None, seconds: Upper | None = None
) -> None:
    task = Task(one.step, PRESET_MB, size)
    for limit in one.run.over_mb:
        requests.learn(Run(task, limit, one.run.seconds, killed=True))
    if one.run.need_mb is not None:
        requests.learn(Run(task, one.run.need_mb, one.run.seconds, bound=bound, bound_seconds=seconds))


def covered(said: Sequence[Told]) -> dict[str, Any]:
    """How often bounds held, of all, of early and later runs, and of each step."""
    with_bound = [one for one in said if one.bound is not None]
    by_step = {step: [one for one in with_bound if one.step == step] for step in sorted({one.step for one in said})}
    return {
        "without a bound": len(said) - len(with_bound),
        "all": _share(with_bound),
        f"first {EARLY}": _share([one for one in with_bound if one.before < EARLY]),
        "later": _share([one for one in with_bound if one.before >= EARLY]),
        "steps": {step: _share(of_step) for step, of_step in by_step.items()},
    }


def _share(said: Sequence[Told]) -> dict[str, float]:
    """Of how many bounds which part held, and how many times what was measured the middle one was."""
    wide = [one.bound / max(one.measured, 1e-9) for one in said if one.bound is not None]
    share = statistics.mean(one.held for one in said) if said else math.nan
    return {"count": len(said), "held": share, "times": statistics.median(wide) if wide else math.nan}


# Choice


def chosen(
    ran: Sequence[Ran], took: Mapping[Cell, Sequence[Took]], costs: Mapping[Cell, float], most_mb: float
) -> dict[int, dict[str, Any]]:
    """For each size the limits that are chosen from runs of the other sizes, and what they cost over the cheapest."""
    sizes = sorted({one.cell.lines for one in ran})
    under = [{(one.cell.memory_mb, one.cell.threads) for one in ran if one.cell.lines == size} for size in sizes]
    limits = sorted(set.intersection(*under))
    table = {size: [_outcome(ran, costs, size, *limit) for limit in limits] for size in sizes}
    found: dict[int, dict[str, Any]] = {}
    for size in sizes:
        others = [other for other in sizes if other != size]
        asked = _asked([one for one in ran if one.cell.lines != size], took, size, most_mb)
        least = min((mb for mb, _ in limits if mb >= asked), default=limits[-1][0])
        # Two are the fewest between which Advisor chooses.
        usable = [place for place, (mb, _) in enumerate(limits) if mb >= least]
        usable = usable if len(usable) > 1 else list(range(len(limits)))[-2:]
        advised = _advised(limits, table, others, usable)
        alone = _advised(limits, table, others, range(len(limits)))
        best = min((place for place, one in enumerate(table[size]) if one.completed), key=lambda at: table[size][at].seconds)
        over = [_charged(table[size], place) / table[size][best].seconds for place in range(len(limits))]
        preset = limits.index((PRESET_MB, PRESET_THREADS)) if (PRESET_MB, PRESET_THREADS) in limits else best
        found[size] = {
            "asked_mb": asked, "chosen": limits[advised], "cheapest": limits[best], "ratio": over[advised],
            "advisor alone": limits[alone], "ratio of it": over[alone], "ratio of the preset": over[preset],
            "ratio of any": statistics.mean(over), "ratio of the dearest": max(over),
        }  # fmt: skip
    return found


def _asked(others: Sequence[Ran], took: Mapping[Cell, Sequence[Took]], size: int, most_mb: float) -> float:
    """MB that the step with the largest request asks for at first."""
    requests = Requests(LEAST_MB, most_mb)
    for one in others:
        for step in took[one.cell]:
            _learn(requests, step, (float(one.cell.lines),))
    names = sorted({step.step for one in others for step in took[one.cell]})
    return max(requests.decide(Task(name, PRESET_MB, (float(size),))).requests[0] for name in names)


def _advised(
    limits: Sequence[tuple[int, int]], table: Mapping[int, Sequence[Outcome]], others: Sequence[int], usable: Sequence[int]
) -> int:
    """The place of what costs least for a size that nobody has run."""
    # Outcomes are costs of whole runs and no times: a config has no price of its own beside them.
    configs = [Config(str(place), limits[place][1], limits[place][0], 1, HOUR) for place in usable]
    advisor = Advisor(configs, [[table[other][place] for place in usable] for other in others])
    return int(advisor.table({})[0].config.name)


def _outcome(ran: Sequence[Ran], costs: Mapping[Cell, float], size: int, memory_mb: int, threads: int) -> Outcome:
    """What a size costs under these limits, with all attempts; the mean, where it was run more than once."""
    found = [one for one in ran if (one.cell.lines, one.cell.memory_mb, one.cell.threads) == (size, memory_mb, threads)]
    return Outcome(statistics.mean(costs[one.cell] for one in found), all(one.failed is None for one in found))


def _charged(outcomes: Sequence[Outcome], place: int) -> float:
    """What a choice costs; one that published nothing also costs the dearest that did."""
    if outcomes[place].completed:
        return outcomes[place].seconds
    return outcomes[place].seconds + max(one.seconds for one in outcomes if one.completed)


def repeated(ran: Sequence[Ran], costs: Mapping[Cell, float]) -> dict[str, dict[str, float]]:
    """Cells that were run more than once: the largest over the smallest of what they took."""
    groups: dict[tuple[int, int, int], list[Ran]] = {}
    for one in ran:
        groups.setdefault((one.cell.lines, one.cell.memory_mb, one.cell.threads), []).append(one)
    found = {}
    for group in groups.values():
        if len(group) > 1:
            measures = {
                "cost": [costs[one.cell] for one in group],
                "processor seconds": [one.cpu for one in group],
                "seconds": [one.seconds for one in group],
                "peak": [one.peak_mib for one in group],
            }
            spread = {what: max(values) / min(values) for what, values in measures.items()}
            found[str(group[0].cell).partition(", repeat")[0]] = {"runs": len(group), **spread}
    return found


# What is shown


def _findings(
    coverage: Mapping[str, Mapping[str, Any]], choices: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> tuple[Finding, ...]:
    away = {what: 100 * abs(found["all"]["held"] - LEVEL) for what, found in coverage.items()}
    held = [Finding(f"own runs: 95 % bound of {what} holds, points away from 95", away[what], "", WITHIN) for what in away]
    over = []
    for how, found in choices.items():
        mean = statistics.mean(one["ratio"] for one in found.values())
        over.append(Finding(f"own runs: what is chosen over the cheapest, {how}, mean of all sizes", mean, target=NEAR))
        over += [Finding(f"own runs: the same, {size:,} lines", one["ratio"], target=NEAR) for size, one in found.items()]
    return (*held, *over)


def _cell(one: Ran, money: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "lines": one.cell.lines, "memory_mb": one.cell.memory_mb, "threads": one.cell.threads, "repeat": one.cell.repeat,
        "cost": money, "cpu": one.cpu, "seconds": one.seconds, "peak_mib": one.peak_mib, "failed": one.failed,
    }  # fmt: skip
    found["steps"] = [
        {
            "step": row.step, "attempt": row.attempt, "outcome": row.outcome, "seconds": row.wall_seconds,
            "cpu": row.cpu_seconds, "limit": row.memory_limit_bytes, "peak": row.peak_memory_bytes,
            "before": row.memory_before_bytes, "duckdb_peak": row.duckdb_peak_bytes, "spilled": row.bytes_spilled,
        }
        for row in one.rows
    ]  # fmt: skip
    return found


def _notes(
    ran: Sequence[Ran], took: Mapping[Cell, Sequence[Took]], coverage: Mapping[str, Mapping[str, Any]],
    choices: Mapping[str, Mapping[int, Mapping[str, Any]]], noise: Mapping[str, Mapping[str, float]],
) -> tuple[str, ...]:  # fmt: skip
    rows = [row for one in ran for row in one.rows]
    out = sum(row.outcome == "out_of_memory" for row in rows)
    spilled = sum(bool(row.bytes_spilled) for row in rows)
    judged_steps = sum(len(found) for found in took.values())
    notes = [
        f"{len(ran)} runs with {judged_steps} steps that had limits; {out} attempts ran out of memory, {spilled} spilled, "
        f"{sum(one.failed is not None for one in ran)} runs published nothing; "
        f"{sum(one.seconds for one in ran) / 60:.0f} min, {sum(one.cpu for one in ran) / 60:.0f} CPU min"
    ]
    for what, found in coverage.items():
        parts = [f"{name} {_said(found[name])}" for name in ("all", f"first {EARLY}", "later")]
        parts += [f"{step} {_said(share)}" for step, share in found["steps"].items()]
        notes.append(f"{what}: {'; '.join(parts)}; {found['without a bound']} without a bound")
    for how, size, one in ((how, size, one) for how, found in choices.items() for size, one in found.items()):
        notes.append(
            f"{size:,} lines, {how}: {_limits(one['chosen'])} chosen ({one['asked_mb']:,.0f} MB asked for), cheapest "
            f"{_limits(one['cheapest'])}: {one['ratio']:.3f}; without what steps ask for {_limits(one['advisor alone'])}: "
            f"{one['ratio of it']:.3f}; preset {one['ratio of the preset']:.3f}, any {one['ratio of any']:.3f}, "
            f"dearest {one['ratio of the dearest']:.3f}"
        )
    for name, spread in noise.items():
        told_spread = ", ".join(f"{what} {value:.3f}" for what, value in spread.items() if what != "runs")
        notes.append(f"{name}, run {spread['runs']} times, largest over smallest: {told_spread}")
    return tuple(notes)


def _said(share: Mapping[str, float]) -> str:
    return f"{share['held']:.1%} of {share['count']} (x {share['times']:.2f})" if share["count"] else "none"


def _limits(one: tuple[int, int]) -> str:
    return f"{one[0]} MB and {one[1]} thread{'s' if one[1] > 1 else ''}"
