"""What is used in the next months, day by day, with intervals. The referee is the last value: a model that does not beat it is
not used.

Three simple models compete: a level, a trend, and a trend that fades, of what is used in a day (a flow, with its weekdays) or
is there at its end (a stock). For each horizon a rolling back-test says which errs least, and each row carries that error.
Origins lie a week apart, so that neighbours share their weather: an error of few origins says little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from analytics_assets.tuning.series import Numbers

# Days ahead up to which an error is told apart; the last one is how far the forecast goes.
HORIZONS = (30, 90)
# Days of history under which nothing is forecast, and under which no model is fitted.
LEAST_DAYS, LEAST_FITTED = 14, 28
# Back-tests under which no model is trusted.
LEAST_ORIGINS = 4
REFEREE = "last value"
_WEEK = 7
# Days whose level counts, days whose trend counts, and how much of a trend is left a day later.
_LEVEL, _TREND, _FADES = 28, 56, 0.97
_LUCK = 0.05
# The interval holds four days of five.
_TAIL = 0.1
# Errors of so many days more and less ahead make the interval of a day.
_NEAR = 3

Leads = NDArray[np.int64]
Forecaster = Callable[[Numbers, Leads, bool], Numbers]
"""What was used each day, days ahead (from 1), whether it is a stock: what is to be expected then."""


@dataclass(frozen=True)
class Expected:
    """A day ahead. `error` and `referee_error` are mean absolute errors over the mean of what came, in the back-test of all
    days ahead of the same horizon; None where there was none."""

    date: date
    lead: int
    horizon: int
    value: float
    lower: float | None
    upper: float | None
    model: str
    error: float | None
    referee_error: float | None
    origins: int
    reason: str


@dataclass(frozen=True)
class Outlook:
    """The days ahead, soonest first; none where history is too short, as `reason` says."""

    rows: tuple[Expected, ...]
    reason: str


def outlook(values: Numbers, last: date, *, stock: bool) -> Outlook:
    """The days after `last`, from the value of each day up to it (oldest first; none unknown, none negative)."""
    if len(values) < LEAST_DAYS:
        days = f"{len(values)} day" if len(values) == 1 else f"{len(values)} days"
        return Outlook((), f"needs {LEAST_DAYS} days of history and has {days}")
    rows: list[Expected] = []
    widest = 0.0, 0.0
    for horizon, first in zip(HORIZONS, (1, *(one + 1 for one in HORIZONS)), strict=False):
        leads: Leads = np.arange(first, horizon + 1, dtype=np.int64)
        tested = _back_test(values, leads, stock)
        name, reason = _chosen(tested, horizon, len(values))
        served = MODELS[name](values, leads, stock)
        bounds = _bounds(tested, name, _scale(values), widest)
        widest = bounds[-1] or widest
        for lead, value, bound in zip(leads.tolist(), served.tolist(), bounds, strict=True):
            rows.append(
                Expected(
                    last + timedelta(days=lead), lead, horizon, value,
                    max(value - bound[0], 0.0) if bound else None, value + bound[1] if bound else None,
                    name, tested.error(name), tested.error(REFEREE), len(tested.origins), reason,
                )
            )  # fmt: skip
    return Outlook(tuple(rows), "")


@dataclass(frozen=True)
class BackTest:
    """What came after each origin (rows) and so many days ahead (columns), and what each model would have said."""

    origins: tuple[int, ...]
    leads: Leads
    came: Numbers
    said: dict[str, Numbers]
    scales: Numbers

    def error(self, model: str) -> float | None:
        """Mean absolute error over the mean of what came; None where nothing was tested, or nothing came."""
        if not self.origins or model not in self.said or not self.came.sum():
            return None
        return float(np.abs(self.said[model] - self.came).sum() / self.came.sum())


def _back_test(values: Numbers, leads: Leads, stock: bool) -> BackTest:
    """From each week's end, the newest last, of which the whole horizon has come: what was known then is all that counts."""
    newest = len(values) - 1 - int(leads[-1])
    origins = tuple(sorted(range(newest, LEAST_FITTED - 2, -_WEEK)))
    came = np.array([values[origin + leads] for origin in origins]).reshape(len(origins), len(leads))
    known = [values[: origin + 1] for origin in origins]
    said = {
        name: np.array([model(one, leads, stock) for one in known]).reshape(len(origins), len(leads))
        for name, model in MODELS.items()
    }
    return BackTest(origins, leads, came, said, np.array([_scale(one) for one in known]))


def _chosen(tested: BackTest, horizon: int, days: int) -> tuple[str, str]:
    """The model that is served at a horizon, and why."""
    if len(tested.origins) < LEAST_ORIGINS:
        needed = LEAST_FITTED - 1 + horizon + 1 + _WEEK * (LEAST_ORIGINS - 1)
        return REFEREE, f"no model is back-tested {horizon} days ahead before {needed} days are known, and {days} are"
    errors = {name: float(np.abs(said - tested.came).sum()) for name, said in tested.said.items()}
    referee = errors.pop(REFEREE)
    # Back-tests overlap, so that small differences are luck: of nearly equal models the simplest.
    near = min(errors.values()) * (1 + _LUCK)
    best = next(name for name, error in errors.items() if error <= near)
    share = f"{errors[best] / referee:.2f} of" if referee else "not under"
    told = f"the error of the {best} is {share} the last value's in {len(tested.origins)} back-tests"
    return (best, told) if errors[best] < referee else (REFEREE, f"{told}: the last value is used")


def _bounds(tested: BackTest, model: str, scale: float, widest: tuple[float, float]) -> list[tuple[float, float] | None]:
    """How far below and above the forecast of each lead four of five days lie; never nearer than of a lead before it."""
    if len(tested.origins) < LEAST_ORIGINS:
        return [None] * len(tested.leads)
    # A load that has grown since errs by more.
    errors = (tested.came - tested.said[model]) / tested.scales[:, None]
    found: list[tuple[float, float] | None] = []
    for place in range(len(tested.leads)):
        near = np.sort(errors[:, max(0, place - _NEAR) : place + _NEAR + 1], axis=None)
        high = min(1.0, (1 - _TAIL) * (1 + 1 / len(near)))
        low, up = np.interp((1 - high, high), np.linspace(0, 1, len(near)), near) * scale
        widest = max(widest[0], -float(low)), max(widest[1], float(up))
        found.append(widest)
    return found


def _scale(values: Numbers) -> float:
    """What is usual of late, and never nothing: errors are told in it."""
    return float(values[-_LEVEL:].mean()) or 1.0


def _last(values: Numbers, leads: Leads, stock: bool) -> Numbers:
    """As it was last: of a flow on the same weekday."""
    if stock:
        return np.full(len(leads), values[-1])
    return np.asarray(values[-_WEEK:][(leads - 1) % _WEEK], np.float64)


def _level(values: Numbers, leads: Leads, stock: bool) -> Numbers:
    """As it was on average of late: of a flow on the same weekday."""
    known = values[-_LEVEL:]
    if stock:
        return np.full(len(leads), known.mean())
    weekday = (leads - 1 + len(known)) % _WEEK
    return np.array([known[one::_WEEK].mean() for one in range(_WEEK)])[weekday]


def _trend(values: Numbers, leads: Leads, stock: bool, fades: float = 1.0) -> Numbers:
    """On as it went of late, in a straight line: a stock from where it is, a flow with its weekdays."""
    known = values[-_TREND:]
    day = np.arange(len(known))
    on = leads.astype(float) if fades == 1 else fades * (1 - fades**leads) / (1 - fades)
    if stock:
        slope = np.polyfit(day, known, 1)[0]
        return np.maximum(known[-1] + slope * on, 0)
    weekdays = np.eye(_WEEK)[day % _WEEK]
    *levels, slope = np.linalg.lstsq(np.column_stack([weekdays, day]), known, rcond=None)[0]
    base = np.array(levels)[(leads - 1 + len(known)) % _WEEK] + slope * day[-1]
    return np.maximum(base + slope * on, 0)


# The simpler ones first.
MODELS: dict[str, Forecaster] = {
    REFEREE: _last,
    "level": _level,
    "fading trend": lambda values, leads, stock: _trend(values, leads, stock, _FADES),
    "trend": _trend,
}


def by_day(amounts: Sequence[tuple[date, float]], first: date, last: date, *, stock: bool) -> Numbers:
    """The value of each day from `first` to `last`: of a flow nothing where none is given, of a stock the one before."""
    given = {day: amount for day, amount in amounts if first <= day <= last}
    values = np.zeros((last - first).days + 1)
    before = 0.0
    for place in range(len(values)):
        before = given.get(first + timedelta(days=place), before if stock else 0.0)
        values[place] = before
    return values
