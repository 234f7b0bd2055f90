"""An upper bound that holds as often as it says, from the first runs of a name on: conformal, all names in one pool.

Errors are logarithms of what came over what was typical when the run was submitted, in units of the name's spread at that time,
which is shrunk to that of the others while its runs are few. So the pool holds what delay does: runs that are over first are
the short ones. The bound's rate follows how often it missed (adaptive conformal inference).
"""

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

ADAPTATION = 0.02
POOLED = 2000
# The spread of a name counts from others as that of so many runs of its own.
SHRINKAGE = 3.0
FIRST_SPREAD = 0.3
LEAST_ERRORS = 150
FIRST_WIDTH = 3.0
TINY = 1e-4
# What is typical of few runs is known less well: of one, the spread counts as so much more.
FEW = 3.0


@dataclass(frozen=True)
class Upper:
    """A bound with what it was made of: the typical value of the name, and the spread of its logarithm."""

    value: float
    typical: float
    spread: float


@dataclass
class _Name:
    values: list[float]
    squares: float = 0.0
    errors: int = 0


class Bounds:
    """Upper bounds of a positive quantity by name. `level` is the part of the runs that stays within."""

    def __init__(self, level: float) -> None:
        self.level = level
        self._rate = 1 - level
        self._names: dict[Hashable, _Name] = {}
        self._pool: deque[float] = deque(maxlen=POOLED)
        self._sorted: tuple[int, float, float] | None = None
        self._seen = 0
        self._shared: tuple[int, float] = (-1, FIRST_SPREAD)

    def bound(self, name: Hashable) -> Upper | None:
        """Under which the next run of the name stays, or None if none of it is over yet."""
        known = self._names.get(name)
        if known is None:
            return None
        typical, spread = _typical(known.values), self._spread(known)
        return Upper(typical * math.exp(spread * self._width()), typical, spread)

    def learn(self, name: Hashable, value: float, said: Upper | None) -> None:
        """A run is over. `said` is the bound that was told at its submission."""
        if said is not None:
            missed = value > said.value
            self._rate = min(
                max(self._rate + ADAPTATION * ((1 - self.level) - missed), (1 - self.level) / 10), 2 * (1 - self.level)
            )
            self._pool.append(math.log(value / said.typical) / said.spread)
        self._seen += 1
        known = self._names.get(name)
        if known is None:
            self._names[name] = _Name([value])
            return
        error = math.log(value / _typical(known.values))
        known.squares += error * error
        known.errors += 1
        known.values.append(value)

    def _spread(self, known: _Name) -> float:
        others = self._others()
        shrunk = math.sqrt((known.squares + SHRINKAGE * others * others) / (known.errors + SHRINKAGE))
        return max(shrunk * (1 + FEW / len(known.values)), TINY)

    def _others(self) -> float:
        """The spread that nine of ten names stay under, once three have one: a new name may be a wild one."""
        # With many runs one more changes little.
        if self._seen >= self._shared[0] * 1.02 + 1:
            spreads = [math.sqrt(one.squares / one.errors) for one in self._names.values() if one.errors >= 2]
            self._shared = self._seen, float(np.quantile(spreads, 0.9)) if len(spreads) >= 3 else FIRST_SPREAD
        return self._shared[1]

    def _width(self) -> float:
        if len(self._pool) < LEAST_ERRORS:
            return FIRST_WIDTH
        if self._sorted is None or self._sorted[:2] != (self._seen, self._rate):
            high = min(1.0, (1 - self._rate) * (1 + 1 / len(self._pool)))
            self._sorted = self._seen, self._rate, float(np.quantile(np.fromiter(self._pool, float), high))
        return self._sorted[2]


def _typical(values: list[float]) -> float:
    return float(np.median(values[-64:]))
