"""What a change did to a step: its runs before and after, and whether the change stays. Pure.

Few runs must be enough, and one odd run must not decide. So costs are compared by ranks: the exact Mann-Whitney test, with
the interval of the Hodges-Lehmann estimate on the logarithm, which is the test turned round and needs no distribution. What
fails or comes too late is counted, and compared by Fisher's exact test. Both are one-sided: only worse takes a change back.
Each look may err with the declared chance, so that of many looks one may take back what was harmless; that costs a
saving, never a promise. Before and after are different days: a change of the input at the same moment counts as effect.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from analytics_assets.tuning.rules import EffectRules

Verdict = Literal["wait", "keep", "revert"]
# Of the interval that is told; what takes a change back is the declared error.
CONFIDENCE = 0.95
# Costs of nothing have no logarithm.
_LEAST = 1e-12


@dataclass(frozen=True)
class Fared:
    """A run of a step with all its attempts: what it cost, in any one unit, its seconds, whether it failed in the end.

    `out_of_memory`: one of its attempts ran out of memory.
    """

    cost: float
    seconds: float
    failed: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True)
class Effect:
    """`saving`: part of the cost that is saved, with its interval; negative is dearer. None where too little is known."""

    verdict: Verdict
    reasons: tuple[str, ...]
    before: int
    after: int
    saving: float | None = None
    lower: float | None = None
    upper: float | None = None


def effect(
    before: Sequence[Fared], after: Sequence[Fared], rules: EffectRules, *, deadline: float | None = None, lowered: bool = False
) -> Effect:
    """Judge a change by the runs before and after it, both oldest first. `deadline` in seconds.

    `lowered`: steps have less memory since; then a run that was lost to memory needs no statistics.
    """
    before = before[-rules.most_runs :]
    counts = (len(before), len(after))
    costs, new = ([run.cost for run in runs if not run.failed] for runs in (before, after))
    saving = shift(costs, new) if len(costs) >= rules.least_runs and len(new) >= rules.least_runs else (None, None, None)
    worse = tuple(_worse(before, after, rules, deadline, lowered))
    if worse:
        return Effect("revert", worse, *counts, *saving)
    if len(after) < rules.keep_runs:
        return Effect(
            "wait", (f"{len(after)} of {rules.keep_runs} runs since the change, and nothing got worse",), *counts, *saving
        )
    return Effect("keep", (f"{len(after)} runs since the change, and nothing got worse",), *counts, *saving)


def _worse(
    before: Sequence[Fared], after: Sequence[Fared], rules: EffectRules, deadline: float | None, lowered: bool
) -> Sequence[str]:
    lost = sum(run.failed and run.out_of_memory for run in after)
    if lowered and lost:
        return [f"{lost} of {len(after)} runs since the change were lost to memory"]
    if len(after) < rules.least_runs or len(before) < rules.least_runs:
        return []
    found = []
    failed, were = sum(run.failed for run in after), sum(run.failed for run in before)
    if more_often(were, len(before), failed, len(after)) < rules.error:
        found.append(f"{failed} of {len(after)} runs failed, {were} of {len(before)} before")
    if deadline is not None:
        late, were = (sum(run.failed or run.seconds > deadline for run in runs) for runs in (after, before))
        if more_often(were, len(before), late, len(after)) < rules.error:
            found.append(
                f"{late} of {len(after)} runs missed the deadline of {deadline:,.0f} s, {were} of {len(before)} before"
            )
    costs, new = ([run.cost for run in runs] for runs in (before, after))
    if larger(costs, new) < rules.error:
        found.append(f"it costs {-shift(costs, new)[0]:.0%} more")
    return found


def more_often(were: int, before: int, are: int, after: int) -> float:
    """Fisher's exact test: the chance of `are` or more of `after`, if both came from the same place, given their sum."""
    total, both = before + after, were + are
    ways = math.comb(total, after)
    return sum(math.comb(both, k) * math.comb(total - both, after - k) for k in range(are, min(both, after) + 1)) / ways


def larger(before: Sequence[float], after: Sequence[float]) -> float:
    """Mann-Whitney, exact: the chance of costs as large as `after` if they came from where those of `before` do.

    Equal ones count against calling it larger.
    """
    wins = sum(new > old for new in after for old in before)
    below = _below(len(before), len(after))
    return 1 - (below[wins - 1] if wins else 0.0)


def shift(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """What is saved as a part of the cost before (Hodges-Lehmann on the logarithm), and the ends of its interval."""
    ratios = sorted(math.log(max(new, _LEAST)) - math.log(max(old, _LEAST)) for new in after for old in before)
    below, tail = _below(len(before), len(after)), (1 - CONFIDENCE) / 2
    out = sum(chance <= tail for chance in below)
    # With very few runs no interval has that confidence: its ends are then all that was seen.
    out = min(max(out - 1, 0), (len(ratios) - 1) // 2)
    middle = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
    return 1 - math.exp(middle), 1 - math.exp(ratios[len(ratios) - 1 - out]), 1 - math.exp(ratios[out])


@cache
def _below(before: int, after: int) -> tuple[float, ...]:
    """The chance that at most so many of all pairs are won, for 0 to all of them, if both come from the same place."""
    pairs = before * after
    ways = [1] + [0] * pairs
    # The Gaussian binomial coefficient, factor by factor: its k-th number counts the orders in which k pairs are won.
    for factor in range(1, after + 1):
        for place in range(pairs, before + factor - 1, -1):
            ways[place] -= ways[place - before - factor]
        for place in range(factor, pairs + 1):
            ways[place] += ways[place - factor]
    every, so_far, below = math.comb(before + after, after), 0, []
    for count in ways:
        so_far += count
        below.append(so_far / every)
    return tuple(below)
