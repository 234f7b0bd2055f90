"""What is learned of the memory of steps, once a week: what won the back-test up to a week ago, judged by the week since.

Nothing of that week was seen by what is judged with it. For each step the best of three stays: what was learned now, what the
model in use says, and the preset, where nothing beats it. Runs whose input is of one class get requests of their own where
these are better in that week than what the step's other runs get. Pure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from analytics_assets.tuning.backtest import attempted
from analytics_assets.tuning.classes import CLASSES
from analytics_assets.tuning.history import StepRun, class_of
from analytics_assets.tuning.in_force import LEAST_MB, ResourceConfig, ladder
from analytics_assets.tuning.models import Learned, LearnedClass
from analytics_assets.tuning.requests import Decision, Requests, Run, Task
from analytics_assets.tuning.rules import TuningRules

JUDGED = timedelta(days=7)
# Fewer runs in that week say nothing.
LEAST_JUDGED = 5
# Runs of a class of input that have to be over before that week for the class to have its own.
LEAST_OF_CLASS = 10
# What is new has to be better by that part, or models would be exchanged for nothing.
BETTER = 0.01
# Requests are rounded up to so many MB, and have so many rungs below the preset.
ROUNDED, OWN_RUNGS = 16, 3
_DRAWN, _SEED = 1000, 0


def learned(
    runs: Mapping[str, Sequence[StepRun]], incumbent: Mapping[str, Learned], preset: ResourceConfig, rules: TuningRules,
    most_mb: int, now: datetime,
) -> dict[str, Learned]:  # fmt: skip
    """What is best for each step; one without an entry has its preset. `most_mb` is the most that a step may have."""
    since = now - JUDGED
    whole, classed = (Requests(float(min(LEAST_MB, most_mb)), float(most_mb)) for _ in range(2))
    for step, run in sorted(_over(runs, since), key=lambda pair: (pair[1].ended, pair[0], pair[1].run_id)):
        _learn(whole, Task(step, preset.memory_mb), run)
        if (name := class_of(run)) is not None:
            _learn(classed, _task(step, name, preset, rules, run.begun.input_bytes), run)
    found = {}
    for step, known in runs.items():
        judging = _Judging(
            preset, rules, most_mb, [run for run in known if since <= run.began <= now and run.need_mb is not None]
        )
        decision = whole.decide(Task(step, preset.memory_mb, deadline=rules.deadline(step)))
        inputs = _inputs([run for run in known if run.ended < since])
        by_class = {
            name: (classed.decide(_task(step, name, preset, rules, max(sizes))), len(sizes)) for name, sizes in inputs.items()
        }
        best = judging.best(decision, by_class, incumbent.get(step), len(known))
        if best is not None:
            found[step] = best
    return found


def _over(runs: Mapping[str, Sequence[StepRun]], since: datetime) -> Iterator[tuple[str, StepRun]]:
    """What was over before `since`, with its step."""
    return ((step, run) for step, known in runs.items() for run in known if run.ended < since)


def _inputs(over: Sequence[StepRun]) -> dict[str, list[int]]:
    """The sizes of input of each class; nothing of one class alone, of which all is said by the step as a whole."""
    found: dict[str, list[int]] = {}
    for run in over:
        if (name := class_of(run)) is not None:
            found.setdefault(name, []).append(run.begun.input_bytes or 0)
    return found if len(found) > 1 else {}


def _learn(learner: Requests, task: Task, run: StepRun) -> None:
    """A kill is a lower bound."""
    for limit in run.over_mb:
        learner.learn(Run(task, limit, run.seconds, killed=True))
    if run.need_mb is not None:
        learner.learn(Run(task, run.need_mb, run.seconds))


def _task(step: str, name: str, preset: ResourceConfig, rules: TuningRules, size: int | None) -> Task:
    """A run of a step with an input of a class and of so many bytes."""
    return Task(f"{step}, {name}", preset.memory_mb, (float(size or 0),), deadline=rules.deadline(step))


@dataclass(frozen=True)
class _Judging:
    """The runs of a step by which options are judged, none of which they had seen."""

    preset: ResourceConfig
    rules: TuningRules
    most_mb: int
    judged: Sequence[StepRun]

    def best(
        self, decision: Decision, by_class: Mapping[str, tuple[Decision, int]], before: Learned | None, runs: int
    ) -> Learned | None:
        """The best of what is in use, of what was learned now, and of the preset with what was learned of classes."""
        if len(self.judged) < LEAST_JUDGED:
            # Nothing is known against what is in use.
            return before
        usual = (self.preset.memory_mb, *ladder(self.preset.memory_mb, self.rules.out_of_memory, self.most_mb))
        options = [before] if before is not None else []
        others = tuple(
            f"{one.label}: {one.request:,.0f} MB, {one.expected:.2f} of the preset's cost" for one in decision.others
        )
        new = self._requests(decision)
        for requests, label in ((new, _first(decision.label)), (usual, "the declared preset")):
            classes = self._classes(requests, by_class, before)
            if classes or requests[0] != self.preset.memory_mb:
                options.append(Learned(requests, label, runs, len(self.judged), 0.0, 0.0, 0.0, others, classes))
        best: Learned | None = None
        for option in options:
            saving, lower, upper = _saved(option, usual, self.judged)
            if saving > (BETTER if best is None else 1 - (1 - best.saving) * (1 - BETTER)):
                best = replace(option, runs=runs, judged=len(self.judged), saving=saving, lower=lower, upper=upper)
        return best

    def _classes(
        self, whole: tuple[int, ...], by_class: Mapping[str, tuple[Decision, int]], before: Learned | None
    ) -> dict[str, LearnedClass]:
        """The classes for which what was learned of them is better than what all others have; a quiet class keeps its own."""
        found = {}
        for name in CLASSES:
            judged = [run for run in self.judged if class_of(run) == name]
            if len(judged) < LEAST_JUDGED:
                if before is not None and name in before.classes:
                    found[name] = before.classes[name]
                continue
            decision, runs = by_class.get(name, (None, 0))
            if decision is None or runs < LEAST_OF_CLASS:
                continue
            requests = self._requests(decision)
            costs, usual = (sum(_cost(one, run) for run in judged) for one in (requests, whole))
            if costs < usual * (1 - BETTER):
                found[name] = LearnedClass(requests, _first(decision.label), runs, len(judged), 1 - costs / usual)
        return found

    def _requests(self, decision: Decision) -> tuple[int, ...]:
        """What is asked for: less than the preset first, then the preset, so that there is never less than that."""
        asked = [min(math.ceil(one / ROUNDED) * ROUNDED, self.most_mb) for one in decision.requests]
        below = tuple(dict.fromkeys(one for one in asked if one < self.preset.memory_mb))[:OWN_RUNGS]
        first = self.preset.memory_mb if below else asked[0]
        return (*below, first, *ladder(first, self.rules.out_of_memory, self.most_mb))


def _first(label: str) -> str:
    """How the first request was found; the rungs after it are ours."""
    return label.partition(", after a kill")[0]


def _saved(option: Learned, usual: tuple[int, ...], judged: Sequence[StepRun]) -> tuple[float, float, float]:
    """The part of the preset's memory times time that an option saves in these runs, with a 95 % interval by bootstrap."""
    costs = np.array([(_cost(option.requests_of(class_of(run)), run), _cost(usual, run)) for run in judged])
    drawn = np.random.default_rng(_SEED).integers(len(costs), size=(_DRAWN, len(costs)))
    sums = costs[drawn].sum(axis=1)
    lower, upper = np.quantile(1 - sums[:, 0] / sums[:, 1], [0.025, 0.975])
    own, whole = costs.sum(axis=0)
    return float(1 - own / whole), float(lower), float(upper)


def _cost(requests: tuple[int, ...], run: StepRun) -> float:
    """Memory times time of all attempts; a killed one is taken to run as long as the whole."""
    return sum(attempted(requests, run.need_mb or 0.0)) * max(run.seconds, 1e-3)
