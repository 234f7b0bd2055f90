"""Memory that real tasks waste, asked for as we do and as a rule like krr's does, each with no more than was over by then.

The rule: the most seen and 15 % more, a quarter more after each kill, the declared request before any run is over. Rules were
chosen on the first 60 % of each trace; the rest ("kept back") goes on from there.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analytics_assets.tuning.attempts import MOST_ATTEMPTS
from analytics_assets.tuning.backtest import Case, Played, replay
from analytics_assets.tuning.requests import Decision, RequestRules, Requests, Run, Task
from benchmarks.measure import Finding, Measured
from benchmarks.tasks import read

CHOSEN_ON = 0.6
MARGIN, GROWTH = 1.15, 1.25
# The machine holds so many times the largest request; nothing asks for less than this part of the smallest.
CEILING, FLOOR = 4.0, 1e-3
HOUR = 3600.0
ASSETS = 1000
WANTED, WORSE = 0.75, 1.05
PARTS = ("all", "chosen on", "kept back")


class Rule:
    """The referee, as krr sizes containers."""

    def __init__(self, floor: float, ceiling: float) -> None:
        self.floor, self.ceiling = floor, ceiling
        self._most: dict[str, float] = {}

    def learn(self, run: Run) -> None:
        if not run.killed:
            self._most[run.task.name] = max(self._most.get(run.task.name, 0.0), run.peak)

    def decide(self, task: Task) -> Decision:
        most = self._most.get(task.name)
        first = min(max(task.preset if most is None else most * MARGIN, self.floor), self.ceiling)
        asked = [first]
        while asked[-1] < self.ceiling and len(asked) < 4 * MOST_ATTEMPTS:
            asked.append(min(asked[-1] * GROWTH, self.ceiling))
        return Decision(task, tuple(asked), "rule", 1.0, None, None, ())


def measure(folder: Path) -> Measured:
    found: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for trace in read(folder):
        notes += trace.notes
        floor = FLOOR * min(case.task.preset for case in trace.cases)
        ceiling = CEILING * max(max(case.task.preset, case.peak) for case in trace.cases)
        ours = replay(trace.cases, Requests(floor, ceiling))
        blind = replay([_blind(case) for case in trace.cases], Requests(floor, ceiling))
        rule = replay(trace.cases, Rule(floor, ceiling))
        found[trace.name] = {part: _row(part, ours, blind, rule) for part in PARTS}
    details = {"workflows": found, "rules": RequestRules().model_dump(), "rule": {"margin": MARGIN, "growth": GROWTH}}
    ready = Finding(f"a decision for {ASSETS:,} assets after loading", _seconds_for(ASSETS), "s", 1)
    return Measured((*_findings(found), ready), details, (*notes, *_said(found)))


def _blind(case: Case) -> Case:
    """The same without the size of its input: what a trace has is what the run itself read."""
    task = case.task
    return Case(Task(task.name, task.preset), case.submitted, case.started, case.peak, case.seconds)


def _seconds_for(names: int, runs: int = 6) -> float:
    """Processor seconds of a decision for each of so many names, once their runs are learnt."""
    random = np.random.default_rng(1)
    tasks = [Task(f"asset {name}", 16.0, (float(name),)) for name in range(names)]
    requests = Requests(0.01, 64.0)
    for _ in range(runs):
        for task in tasks:
            size = float(random.uniform(1, 100))
            run = Run(Task(task.name, task.preset, (size,)), float(1 + 0.05 * size * random.uniform(0.9, 1.1)), 60.0)
            requests.learn(run)
    began = time.process_time()
    for task in tasks:
        requests.decide(task)
    return time.process_time() - began


def _row(part: str, ours: Sequence[Played], blind: Sequence[Played], rule: Sequence[Played]) -> dict[str, Any]:
    edge = int(len(ours) * CHOSEN_ON)
    rows = {"all": slice(None), "chosen on": slice(edge), "kept back": slice(edge, None)}[part]
    row: dict[str, Any] = {"tasks": len(ours[rows])}
    for name, played in (("ours", ours[rows]), ("without input", blind[rows]), ("rule", rule[rows])):
        row[f"wasted {name}"] = _hours(played)
        row[f"cold {name}"] = _hours([one for one in played if one.cold])
        row[f"kills {name}"] = sum(one.kills for one in played)
        row[f"tasks killed {name}"] = sum(one.kills > 0 for one in played)
    told = [one for one in ours[rows] if one.bound is not None]
    told_blind = [one for one in blind[rows] if one.bound is not None]
    row["preset wasted"] = sum((one.case.task.preset - one.case.peak) * one.case.seconds for one in ours[rows]) / HOUR
    row["used"] = sum(one.case.peak * one.case.seconds for one in ours[rows]) / HOUR
    row["asked by"] = Counter(
        re.sub(r"( \+|%).*", "", one.label).lstrip("0123456789") or "part of the preset" for one in ours[rows]
    )
    row["cold tasks"] = sum(one.cold for one in ours[rows])
    row["told"] = len(told)
    for name, those in (("", told), (" without input", told_blind)):
        row[f"covered memory{name}"] = _share([one.case.peak <= one.bound.value for one in those if one.bound])
        held = [one.case.seconds <= one.bound_seconds.value for one in those if one.bound_seconds]
        row[f"covered seconds{name}"] = _share(held)
    return row


def _share(held: Sequence[bool]) -> float:
    return float(np.mean(held)) if held else float("nan")


def _hours(played: Sequence[Played]) -> float:
    return sum(one.wasted for one in played) / HOUR


def _ratio(row: dict[str, Any], who: str = "ours") -> float:
    return float(row[f"wasted {who}"] / row["wasted rule"]) if row["wasted rule"] else float("nan")


def _findings(found: dict[str, dict[str, Any]]) -> list[Finding]:
    findings = []
    for part in PARTS:
        rows = {name: parts[part] for name, parts in found.items()}
        ratios = [_ratio(row) for row in rows.values()]
        findings.append(Finding(f"{part}: GBh wasted over the rule's, median", float(np.nanmedian(ratios)), "", WANTED))
        blind = [_ratio(row, "without input") for row in rows.values()]
        findings.append(
            Finding(f"{part}: the same without the size of the input, median", float(np.nanmedian(blind)), "", WANTED)
        )
        for name, row in rows.items():
            findings.append(Finding(f"{part}: {name}, GBh wasted over the rule's", _ratio(row), "", WORSE))
            findings.append(Finding(f"{part}: {name}, killed attempts", row["kills ours"], "", row["kills rule"]))
        for what in ("memory", "seconds"):
            held = [(row[f"covered {what}"], row["told"]) for row in rows.values() if row["told"]]
            share = float(np.average([one for one, _ in held], weights=[count for _, count in held]))
            findings.append(Finding(f"{part}: 95 % bound of {what} holds, points away from 95", 100 * abs(share - 0.95), "", 3))
            findings += [
                Finding(f"{part}: {name}, the same", 100 * abs(row[f"covered {what}"] - 0.95), "", 3)
                for name, row in rows.items()
                if row["told"]
            ]
    return findings


def _said(found: dict[str, dict[str, Any]]) -> list[str]:
    said = []
    for name, parts in found.items():
        row = parts["all"]
        said.append(
            f"{name}: {row['tasks']:,} tasks used {row['used']:,.0f} GBh; wasted: ours {row['wasted ours']:,.0f} (cold"
            f" {row['cold ours']:,.0f}), without input {row['wasted without input']:,.0f}, rule {row['wasted rule']:,.0f} (cold"
            f" {row['cold rule']:,.0f}), declared request {row['preset wasted']:,.0f}; tasks killed: ours"
            f" {row['tasks killed ours']:,}, rule {row['tasks killed rule']:,}; cold: {row['cold tasks']:,} tasks; bound held"
            f" {row['covered memory']:.1%} (memory) and {row['covered seconds']:.1%} (time) of {row['told']:,}, without input"
            f" {row['covered memory without input']:.1%} and {row['covered seconds without input']:.1%}"
        )
    return said
