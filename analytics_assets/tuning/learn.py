"""What is learned of the memory of steps, once a week: what won the back-test up to a week ago, judged by the week since.

Nothing of that week was seen by what is judged with it. For each step the best of three stays: what was learned now, what the
model in use says, and the preset, where nothing beats it. Pure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np

from analytics_assets.tuning.backtest import attempted
from analytics_assets.tuning.history import StepRun
from analytics_assets.tuning.in_force import LEAST_MB, ResourceConfig, ladder
from analytics_assets.tuning.models import Learned
from analytics_assets.tuning.requests import Decision, Requests, Run, Task
from analytics_assets.tuning.rules import TuningRules

JUDGED = timedelta(days=7)
# Fewer runs in that week say nothing.
LEAST_JUDGED = 5
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
    learner = Requests(float(min(LEAST_MB, most_mb)), float(most_mb))
    for _, run in sorted(_over(runs, preset, since), key=lambda pair: pair[0]):
        learner.learn(run)
    found = {}
    for step, known in runs.items():
        decision = learner.decide(Task(step, preset.memory_mb, deadline=rules.deadline(step)))
        judged = [run for run in known if since <= run.began <= now and run.need_mb is not None]
        best = _best(decision, incumbent.get(step), judged, len(known), preset, rules, most_mb)
        if best is not None:
            found[step] = best
    return found


def _over(runs: Mapping[str, Sequence[StepRun]], preset: ResourceConfig, since: datetime) -> Iterator[tuple[datetime, Run]]:
    """What was over before `since`, with the time at which it was; a kill is a lower bound."""
    for step, known in runs.items():
        task = Task(step, preset.memory_mb)
        for run in known:
            if run.ended >= since:
                continue
            for limit in run.over_mb:
                yield run.ended, Run(task, limit, run.seconds, killed=True)
            if run.need_mb is not None:
                yield run.ended, Run(task, run.need_mb, run.seconds)


def _best(
    decision: Decision, before: Learned | None, judged: Sequence[StepRun], runs: int, preset: ResourceConfig,
    rules: TuningRules, most_mb: int,
) -> Learned | None:  # fmt: skip
    if len(judged) < LEAST_JUDGED:
        # Nothing is known against what is in use.
        return before
    usual = (preset.memory_mb, *ladder(preset.memory_mb, rules.out_of_memory, most_mb))
    options = []
    if before is not None:
        options.append((before.requests_mb, before.label, before.others))
    new = _requests(decision, preset, rules, most_mb)
    if new[0] != preset.memory_mb:
        others = tuple(
            f"{one.label}: {one.request:,.0f} MB, {one.expected:.2f} of the preset's cost" for one in decision.others
        )
        options.append((new, _first(decision.label), others))
    best: Learned | None = None
    for requests, label, others in options:
        saving, lower, upper = _saved(requests, usual, judged)
        if saving > (BETTER if best is None else 1 - (1 - best.saving) * (1 - BETTER)):
            best = Learned(requests, label, runs, len(judged), saving, lower, upper, others)
    return best


def _first(label: str) -> str:
    """How the first request was found; the rungs after it are ours."""
    return label.partition(", after a kill")[0]


def _requests(decision: Decision, preset: ResourceConfig, rules: TuningRules, most_mb: int) -> tuple[int, ...]:
    """What a step asks for: less than the preset first, then the preset, so that it can never hold less than that."""
    asked = [min(math.ceil(one / ROUNDED) * ROUNDED, most_mb) for one in decision.requests]
    below = tuple(dict.fromkeys(one for one in asked if one < preset.memory_mb))[:OWN_RUNGS]
    first = preset.memory_mb if below else asked[0]
    return (*below, first, *ladder(first, rules.out_of_memory, most_mb))


def _saved(requests: tuple[int, ...], usual: tuple[int, ...], judged: Sequence[StepRun]) -> tuple[float, float, float]:
    """The part of the preset's memory times time that these requests save in these runs, with a 95 % interval by bootstrap."""
    costs = np.array([(_cost(requests, run), _cost(usual, run)) for run in judged])
    drawn = np.random.default_rng(_SEED).integers(len(costs), size=(_DRAWN, len(costs)))
    sums = costs[drawn].sum(axis=1)
    lower, upper = np.quantile(1 - sums[:, 0] / sums[:, 1], [0.025, 0.975])
    own, whole = costs.sum(axis=0)
    return float(1 - own / whole), float(lower), float(upper)


def _cost(requests: tuple[int, ...], run: StepRun) -> float:
    """Memory times time of all attempts; a killed one is taken to run as long as the whole."""
    return sum(attempted(requests, run.need_mb or 0.0)) * max(run.seconds, 1e-3)
