"""How much memory a task asks for, and for how much after a kill: what would have cost least so far, failed attempts included.

An option is a first request (a candidate times a margin, or a part of the declared preset) with a ladder of retries. Every run
that is over is put to all options, each with what was known before it: that is the prequential back-test. Its score for a name
is shrunk towards that of names with a similar preset which had as little history. No option that is not better than the
declared preset is used. A killed run is no measurement: it only ever raises a request.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from analytics_assets.settings import Declared
from analytics_assets.tuning.attempts import LADDERS, Known, paid, rungs
from analytics_assets.tuning.bounds import Bounds, Upper
from analytics_assets.tuning.candidates import CANDIDATES, Runs
from analytics_assets.tuning.series import Numbers

MARGINS = np.array([1.02, 1.05, 1.1, 1.2, 1.4, 2.0])
PARTS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0])
PRESET = len(PARTS) - 1
OPTIONS = len(PARTS) + len(CANDIDATES) * len(MARGINS)
# Runs of a name from which its history counts as longer, and the margin over the most seen that is taken for right at first.
HISTORIES = (1, 3, 8, 21)
FIRST_MARGINS = {1: 1.4, 2: 1.2, 3: 1.2, 4: 1.1}
UNTRIED, HOPED = 1.02, 0.97
# Seconds; a run may take no time at all by its clock, and counts a little all the same.
LEAST_SECONDS = 0.5
# A request over one that was not enough.
OVER_KILLED = 1.1


class RequestRules(Declared):
    """How requests are chosen."""

    level: float = Field(0.95, ge=0.5, le=0.995, description="Part of the runs that stay under the stated bound.")
    kill_weight: float = Field(
        1.0, ge=0, le=10, description="What a kill costs beside its memory, in runs as it would have been."
    )
    caution: float = Field(2.0, ge=0, le=100, description="Runs of a name that weigh as much as what others tell.")
    doubt: float = Field(1.0, ge=0.1, le=100, description="Names that weigh as much as the declared preset.")
    cold_part: float = Field(0.8, ge=0.1, le=1, description="Least part of the preset that a name without history asks for.")


@dataclass(frozen=True)
class Task:
    """What is known at submission: memory in any one unit, deadline in seconds; `features`: the size of input first."""

    name: str
    preset: float
    features: tuple[float, ...] = ()
    deadline: float | None = None


@dataclass(frozen=True)
class Run:
    """An attempt that is over: what it needed at most and how long it took (seconds). Killed: it needed more than `peak`.

    `bound` and `bound_seconds` are what was said at its submission, if anything.
    """

    task: Task
    peak: float
    seconds: float
    killed: bool = False
    bound: Upper | None = None
    bound_seconds: Upper | None = None


@dataclass(frozen=True)
class Option:
    """A way to ask, and its expected cost as a part of the preset's (kills weighed in)."""

    label: str
    request: float
    expected: float


@dataclass(frozen=True)
class Decision:
    """Requests of the first attempt and of each after a kill; the bounds are what `level` of such runs stay under."""

    task: Task
    requests: tuple[float, ...]
    label: str
    expected: float
    bound: Upper | None
    bound_seconds: Upper | None
    reasons: tuple[str, ...]
    others: tuple[Option, ...] = ()


@dataclass
class _Name:
    preset: float
    runs: Runs = field(default_factory=Runs)
    costs: Numbers = field(default_factory=lambda: np.zeros((OPTIONS, len(LADDERS))))
    weight: float = 0.0
    kills: list[float] = field(default_factory=list)


class Requests:
    """What was learnt of all names. `learn` runs in the order in which they were over, `decide` at any time between.

    Raises ValueError for a floor that is not positive or lies over the ceiling, and for runs that cannot be.
    """

    def __init__(self, floor: float, ceiling: float, rules: RequestRules | None = None) -> None:
        if not 0 < floor <= ceiling < math.inf:
            raise ValueError(
                f"a floor of {floor} and a ceiling of {ceiling} leave no request; the floor is over 0 and the lower"
            )
        self.floor, self.ceiling, self.rules = floor, ceiling, rules or RequestRules()
        self._names: dict[str, _Name] = {}
        self._pools = [_Pool() for _ in range(len(HISTORIES) + 1)]
        self._memory, self._seconds = Bounds(self.rules.level), Bounds(self.rules.level)

    def learn(self, run: Run) -> None:
        """An attempt is over."""
        task = run.task
        if not (0 <= run.peak < math.inf and 0 <= run.seconds < math.inf and 0 < task.preset < math.inf):
            raise ValueError(f"{task.name}: a run of {run.seconds} s with a peak of {run.peak} cannot be; set it aside first")
        name = self._names.setdefault(task.name, _Name(task.preset))
        if run.killed:
            name.kills.append(run.peak)
            return
        peak = max(run.peak, self.floor * 1e-3)
        first, known = self._first(task, name.runs), self._known(task, name.runs)
        cost, kills = paid(np.nan_to_num(first, nan=known.preset), peak, known)
        relative = (cost + self.rules.kill_weight * kills * peak) / task.preset
        # An option that could say nothing yet would have been the preset.
        relative[np.isnan(first)] = relative[PRESET, 0]
        part = max(run.seconds, LEAST_SECONDS)
        # Parts of the preset need no history: every run tells of them as of a first one.
        for history in {0, _history(name.runs)}:
            self._pools[history].add(task.name, task.preset, relative * part, part)
        name.costs += relative * part
        name.weight += part
        name.runs.add(task.features, peak)
        name.preset = task.preset
        name.kills = [kill for kill in name.kills if kill >= name.runs.most]
        self._memory.learn(task.name, peak, run.bound, task.features)
        self._seconds.learn(task.name, part, run.bound_seconds, task.features)

    def decide(self, task: Task) -> Decision:
        """The requests for a task, from what is known now."""
        name = self._names.get(task.name) or _Name(task.preset)
        count, known = len(name.runs), self._known(task, name.runs)
        first, scores = self._first(task, name.runs), self._scores(task, name)
        scores = np.where(np.isnan(first)[:, None], np.inf, scores)
        ladder = scores.argmin(axis=1)
        best = scores[np.arange(OPTIONS), ladder]
        place = int(best.argmin())
        if best[place] >= scores[PRESET, 0]:
            place, ladder[PRESET], best[PRESET] = PRESET, 0, scores[PRESET, 0]
        bound, seconds = self._memory.bound(task.name, task.features), self._seconds.bound(task.name, task.features)
        reasons = [_told(count)]
        if place == PRESET:
            reasons.append("nothing is better than the declared preset in the back-test")
        request = float(first[place])
        raised = self._raised(task, name, bound, seconds, reasons)
        asked = min(max(request, raised, self.floor), self.ceiling)
        if task.preset > self.ceiling:
            reasons.append(f"the declared preset of {task.preset:,.4g} is over the ceiling of {self.ceiling:,.4g}")
        order = [int(one) for one in np.argsort(best, kind="stable")[:4] if one != place][:3]
        return Decision(
            task=task,
            requests=rungs(asked, LADDERS[ladder[place]], known),
            label=_label(place, int(ladder[place])),
            expected=float(best[place]),
            bound=bound,
            bound_seconds=seconds,
            reasons=tuple(reasons),
            others=tuple(Option(_label(one, int(ladder[one])), float(first[one]), float(best[one])) for one in order),
        )

    def _known(self, task: Task, runs: Runs) -> Known:
        return Known(min(max(task.preset, self.floor), self.ceiling), runs.most, self.ceiling)

    def _first(self, task: Task, runs: Runs) -> Numbers:
        """The first request of every option; NaN where it has too little to go by."""
        over = runs.predict(task.features)[:, None] * MARGINS[None, :]
        return np.clip(np.concatenate([PARTS * task.preset, over.ravel()]), self.floor, self.ceiling)

    def _scores(self, task: Task, name: _Name) -> Numbers:
        """The expected cost of every option and ladder, as a part of the preset's."""
        history = _history(name.runs)
        shared = self._pools[history].mean(task.preset, _prior(history), self.rules.doubt)
        count = len(name.runs)
        if not count:
            allowed = np.full((OPTIONS, len(LADDERS)), np.inf)
            cold = np.flatnonzero(self.rules.cold_part - 1e-9 <= PARTS)
            allowed[cold, 0] = shared[cold, 0]
            return allowed
        weight = self.rules.caution * name.weight / count
        return (name.costs + weight * shared) / (name.weight + weight)

    def _raised(self, task: Task, name: _Name, bound: Upper | None, seconds: Upper | None, reasons: list[str]) -> float:
        """What is asked for at least: over kills that nothing measured explains, and at the bound if no retry is in time."""
        least = 0.0
        count = len(name.runs)
        if name.kills and len(name.kills) > (1 - self.rules.level) * (count + len(name.kills)):
            least = max(name.kills) * OVER_KILLED
            reasons.append(f"killed at {max(name.kills):,.4g}, which no run has explained yet: more than that is asked for")
        if task.deadline is not None and (seconds is None or 2 * seconds.value > task.deadline):
            least = max(least, task.preset if bound is None else bound.value)
            reasons.append("the deadline leaves no time for a retry: the first request is at the bound")
        return least


class _Pool:
    """What options cost names with as much history: sums of parts of the preset's cost, weighed by how near presets are."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._costs = np.zeros((0, OPTIONS, len(LADDERS)))
        self._weights, self._presets, self._counts = np.zeros(0), np.zeros(0), np.zeros(0)
        self._means: Numbers | None = None

    def add(self, name: str, preset: float, costs: Numbers, weight: float) -> None:
        place = self._places.setdefault(name, len(self._places))
        if place == len(self._costs):
            room = max(8, 2 * place)
            self._costs = _longer(self._costs, room)
            self._weights, self._counts = _longer(self._weights, room), _longer(self._counts, room)
            self._presets = _longer(self._presets, room)
        self._costs[place] += costs
        self._weights[place] += weight
        self._counts[place] += 1
        self._presets[place] = preset
        self._means = None

    def mean(self, preset: float, prior: Numbers, doubt: float) -> Numbers:
        count = len(self._places)
        if not count:
            return prior
        if self._means is None:
            self._means = (self._costs[:count] / self._weights[:count, None, None]).reshape(count, -1)
        near = np.exp(-np.abs(np.log2(preset / self._presets[:count]))) * np.minimum(1, self._counts[:count] / 2)
        return (doubt * prior + (near @ self._means).reshape(prior.shape)) / (doubt + near.sum())


def _longer(values: Numbers, room: int) -> Numbers:
    return np.concatenate([values, np.zeros((room - len(values), *values.shape[1:]))])


def _history(runs: Runs) -> int:
    return sum(len(runs) >= least for least in HISTORIES)


def _prior(history: int) -> Numbers:
    """What options are taken to cost before anything tells: hardly more than the preset, one margin a little less."""
    prior = np.full((OPTIONS, len(LADDERS)), UNTRIED)
    prior[PRESET] = 1.0
    if history:
        prior[len(PARTS) + int(np.flatnonzero(FIRST_MARGINS[history] == MARGINS)[0]), 0] = HOPED
    return prior


def _told(count: int) -> str:
    return f"{count:,} finished {'run' if count == 1 else 'runs'} of this name" if count else "no run of this name is over yet"


def _label(place: int, ladder: int) -> str:
    retry = f"after a kill {LADDERS[ladder]}"
    if place == PRESET:
        return "the declared preset"
    if place < len(PARTS):
        return f"{PARTS[place]:.0%} of the preset, {retry}"
    candidate, margin = divmod(place - len(PARTS), len(MARGINS))
    return f"{CANDIDATES[candidate]} + {MARGINS[margin] - 1:.0%}, {retry}"


def known_at(runs: Sequence[tuple[float, Run]], at: float, empty: Requests) -> Requests:
    """What was learnt of the runs (with the times at which they were over) that were over before `at`."""
    for _, run in sorted((pair for pair in runs if pair[0] < at), key=lambda pair: pair[0]):
        empty.learn(run)
    return empty
