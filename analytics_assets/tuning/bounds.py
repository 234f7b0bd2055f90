"""An upper bound that holds as often as it says, from the first runs of a name on: conformal, all names in one pool.

What is typical is the median, a line in the size of the input, or the median of the nearest inputs: whichever missed the
name's runs least so far, each with what was over before it. Errors are logarithms of what came over what was typical when the
run was submitted, in units of the name's spread at that time, which is shrunk to that of the others while its runs are few.
So the pool holds what delay does: runs that are over first are the short ones. The bound's rate follows how often it missed
(adaptive conformal inference).
"""

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from analytics_assets.tuning.candidates import linear
from analytics_assets.tuning.series import Numbers

ADAPTATION = 0.02
POOLED = 2000
# The spread of a name counts from others as that of so many runs of its own.
SHRINKAGE = 3.0
FIRST_SPREAD = 0.3
# Fewer errors than these tell no quantile: until then the width is fixed, and says nothing of the rate.
LEAST_ERRORS = 60
FIRST_WIDTH = 3.0
TINY = 1e-4
# Newest runs by which something is typical; of them so many are near, and fewer tell nothing of the size of the input.
NEWEST, NEAREST, LEAST = 64, 5, 3
# A line may be wrong far from what was seen: it stays within so many times of the least and the most.
REACH = 4.0
# What is typical of few runs is known less well: of one, the spread counts as so much more.
FEW = 3.0


@dataclass(frozen=True)
class Upper:
    """A bound with what it was made of: the typical value of the name, and the spread of its logarithm."""

    value: float
    typical: float
    spread: float


def _middle(values: Numbers, _sizes: Numbers, _size: float) -> float:
    return float(np.median(values))


def _line(values: Numbers, sizes: Numbers, size: float) -> float:
    line = linear(sizes[:, None], values, np.array([size]))
    return min(max(line, float(values.min()) / REACH), float(values.max()) * REACH)


def _near(values: Numbers, sizes: Numbers, size: float) -> float:
    away = np.abs(np.log1p(sizes) - math.log1p(size))
    return float(np.median(values[np.argsort(away, kind="stable")[:NEAREST]]))


TYPICAL = (_middle, _line, _near)


@dataclass
class _Name:
    """Runs of one name; `squares` are the sums of the squared errors of TYPICAL."""

    values: list[float]
    sizes: list[float]
    squares: Numbers = field(default_factory=lambda: np.zeros(len(TYPICAL)))

    def typical(self, size: float, places: Sequence[int] = range(len(TYPICAL))) -> Numbers:
        """Those of TYPICAL at these places; the median where the size of the input tells nothing."""
        values, sizes = np.array(self.values[-NEWEST:]), np.array(self.sizes[-NEWEST:])
        tells = (
            any(places) and len(values) >= LEAST and math.isfinite(size) and bool(np.isfinite(sizes).all() and np.ptp(sizes))
        )
        return np.array([TYPICAL[place if tells else 0](values, sizes, size) for place in places])

    def learn(self, value: float, size: float) -> None:
        errors = np.log(value / self.typical(size))
        self.squares = self.squares + errors * errors
        self.values.append(value)
        self.sizes.append(size)

    @property
    def best(self) -> int:
        """The place in TYPICAL of what missed least."""
        return int(self.squares.argmin())

    @property
    def errors(self) -> int:
        """Runs that were held against what was typical before them."""
        return len(self.values) - 1


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

    def bound(self, name: Hashable, features: Sequence[float] = ()) -> Upper | None:
        """Under which the next run of the name stays, None if none of it is over yet. `features`: the size of input first."""
        known = self._names.get(name)
        if known is None:
            return None
        typical, spread = float(known.typical(_size(features), (known.best,))[0]), self._spread(known)
        return Upper(typical * math.exp(spread * self._width()), typical, spread)

    def learn(self, name: Hashable, value: float, said: Upper | None, features: Sequence[float] = ()) -> None:
        """A run is over. `said` is the bound that was told at its submission."""
        if said is not None:
            if len(self._pool) >= LEAST_ERRORS:
                missed = value > said.value
                self._rate = min(
                    max(self._rate + ADAPTATION * ((1 - self.level) - missed), (1 - self.level) / 10), 2 * (1 - self.level)
                )
            self._pool.append(math.log(value / said.typical) / said.spread)
        self._seen += 1
        known = self._names.get(name)
        if known is None:
            self._names[name] = _Name([value], [_size(features)])
            return
        known.learn(value, _size(features))

    def _spread(self, known: _Name) -> float:
        others = self._others()
        shrunk = math.sqrt((float(known.squares.min()) + SHRINKAGE * others * others) / (known.errors + SHRINKAGE))
        return max(shrunk * (1 + FEW / len(known.values)), TINY)

    def _others(self) -> float:
        """The spread that nine of ten names stay under, once three have one: a new name may be a wild one."""
        # With many runs one more changes little.
        if self._seen >= self._shared[0] * 1.02 + 1:
            spreads = [math.sqrt(one.squares.min() / one.errors) for one in self._names.values() if one.errors >= 2]
            self._shared = self._seen, float(np.quantile(spreads, 0.9)) if len(spreads) >= 3 else FIRST_SPREAD
        return self._shared[1]

    def _width(self) -> float:
        if len(self._pool) < LEAST_ERRORS:
            return FIRST_WIDTH
        if self._sorted is None or self._sorted[:2] != (self._seen, self._rate):
            high = min(1.0, (1 - self._rate) * (1 + 1 / len(self._pool)))
            self._sorted = self._seen, self._rate, float(np.quantile(np.fromiter(self._pool, float), high))
        return self._sorted[2]


def _size(features: Sequence[float]) -> float:
    return max(features[0], 0.0) if features else math.nan
