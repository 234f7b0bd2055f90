"""Tasks of the past, asked for again one by one as they were submitted, each with no more than what was over by then.

A killed attempt runs as long as the run itself took and is told as killed when it ends; the next one starts then.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from analytics_assets.tuning.bounds import Upper
from analytics_assets.tuning.requests import Decision, Run, Task


@dataclass(frozen=True)
class Case:
    """A task with what it turned out to need. Times in seconds of one clock."""

    task: Task
    submitted: float
    started: float
    peak: float
    seconds: float


@dataclass(frozen=True)
class Played:
    """How a task fared: what its attempts asked for, the last of them enough unless `lost`. `cold`: no run was over before."""

    case: Case
    requests: tuple[float, ...]
    cold: bool
    lost: bool
    bound: Upper | None = None
    bound_seconds: Upper | None = None
    label: str = ""

    @property
    def kills(self) -> int:
        return len(self.requests) - (not self.lost)

    @property
    def wasted(self) -> float:
        """Memory times seconds: all of the killed attempts, and what the last one had over its peak."""
        used = 0.0 if self.lost else self.case.peak
        return (sum(self.requests) - used) * self.case.seconds


class Policy(Protocol):
    """Who asks: `learn` gets attempts as they end, `decide` a task at its submission."""

    def learn(self, run: Run) -> None: ...

    def decide(self, task: Task) -> Decision: ...


def replay(cases: Sequence[Case], policy: Policy) -> list[Played]:
    """What each task asked for and what became of it, in order of submission."""
    played: list[Played] = []
    ends: list[tuple[float, int, Run]] = []
    finished: set[str] = set()
    order = 0
    for case in sorted(cases, key=lambda one: one.submitted):
        while ends and ends[0][0] < case.submitted:
            run = heapq.heappop(ends)[2]
            policy.learn(run)
            if not run.killed:
                finished.add(run.task.name)
        decision = policy.decide(case.task)
        asked = attempted(decision.requests, case.peak)
        lost = asked[-1] < case.peak
        cold = case.task.name not in finished
        bound, seconds = decision.bound, decision.bound_seconds
        played.append(Played(case, asked, cold, lost, bound, seconds, decision.label))
        run = Run(case.task, case.peak, case.seconds, bound=bound, bound_seconds=seconds)
        for place, request in enumerate(asked):
            order += 1
            end = max(case.started, case.submitted) + (place + 1) * case.seconds
            over = replace(run, peak=request, killed=True) if request < case.peak else run
            heapq.heappush(ends, (end, order, over))
    return played


def attempted(requests: Sequence[float], peak: float) -> tuple[float, ...]:
    """The requests up to the first that was enough, or all."""
    enough = next((place for place, request in enumerate(requests) if request >= peak), len(requests) - 1)
    return tuple(requests[: enough + 1])
