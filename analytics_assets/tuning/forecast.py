"""Load some hours ahead, with intervals. The referee is "same hour last week": a model that does not beat it is not used.

The model forecasts how far the load will lie from the referee's: a ridge regression on how far it lay off lately and on what
last days, last hours and the week before last say. What it cannot learn shrinks to the referee itself; and it goes only so far
from the referee as its own back-test says is right. Every forecast at an origin comes from what was known then: that is one
function (`roll`) for the back-test and for the newest forecast alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from analytics_assets.tuning.declared import ForecastRules
from analytics_assets.tuning.series import Numbers, Series, filled

Model = Literal["seasonal ridge", "same hour last week"]
LEVELS = (0.80, 0.95)
# A quantile of fewer errors says nothing about the tails.
LEAST_ERRORS = 40
# How fast an interval that misses too often widens (adaptive conformal inference, Gibbs and Candes 2021).
ADAPTATION = {0.80: 0.04, 0.95: 0.02}


@dataclass(frozen=True)
class Rolled:
    """Forecasts at every origin (rows) and lead (columns, steps ahead); NaN where there is none.

    `model` and `referee` are points, `won` says at which origins the model had beaten the referee by then, `point` is what is
    served, `lower` and `upper` bound it at LEVELS. An origin is the last step that is known.
    """

    series: Series
    leads: tuple[int, ...]
    model: Numbers
    referee: Numbers
    ratio: Numbers
    won: np.ndarray
    point: Numbers
    lower: dict[float, Numbers]
    upper: dict[float, Numbers]

    def actual(self) -> Numbers:
        """What came at every origin and lead; NaN where it is not known (yet)."""
        return np.stack([_ahead(self.series.values, lead) for lead in self.leads], axis=1)


@dataclass(frozen=True)
class Row:
    """A forecast. Loads are per step, `ratio` is the model's error over the referee's, in the back-test by then."""

    series: str
    origin: datetime
    time: datetime
    lead: int
    load: float
    lower_80: float | None
    upper_80: float | None
    lower_95: float | None
    upper_95: float | None
    model: Model
    ratio: float | None
    reason: str


@dataclass(frozen=True)
class Forecast:
    """The rows of a series, soonest first; none where history is too short, as `reason` says."""

    rows: tuple[Row, ...]
    reason: str


def forecast(series: Series, rules: ForecastRules) -> Forecast:
    """The load of each step to the horizon, from the end of the series on."""
    count = len(series.values)
    if count < series.week + 1:
        return Forecast((), f"{series.name}: needs a week of history and has {_said(series, count)}")
    leads = tuple(range(1, series.steps(rules.horizon_hours) + 1))
    rolled = roll(series.last(series.steps(rules.history_hours)), leads, rules)
    reason = _reason(rolled, rules)
    return Forecast(tuple(_row(rolled, place, reason) for place in range(len(leads))), reason)


def roll(series: Series, leads: Sequence[int], rules: ForecastRules) -> Rolled:
    """Forecasts from every origin, each from what was known at it. Leads are in steps.

    Raises ValueError for a lead of less than one step or more than six days.
    """
    if not leads or min(leads) < 1 or max(leads) > series.week - series.day:
        raise ValueError(f"{series.name}: leads go from one step to six days, not {list(leads)}")
    loads = filled(series)
    shape = len(loads), len(leads)
    model, referee = np.full(shape, np.nan), np.full(shape, np.nan)
    for place, lead in enumerate(leads):
        base, signals = _signals(loads, lead, series)
        referee[:, place] = base
        came = _ahead(series.values, lead)
        modelled = _modelled(came, base, signals, lead, series, rules)
        model[:, place] = _trusted(modelled, base, came, lead, series, rules)
    actual = np.stack([_ahead(series.values, lead) for lead in leads], axis=1)
    ratio = _ratios(np.abs(actual - model), np.abs(actual - referee), leads, series, rules)
    won = ratio < 1
    point = np.where(won[:, None] & ~np.isnan(model), model, referee)
    lower, upper = _bounds(point, actual - point, leads, series.steps(rules.error_hours))
    return Rolled(series, tuple(leads), model, referee, ratio, won, point, lower, upper)


def _signals(loads: Numbers, lead: int, series: Series) -> tuple[Numbers, Numbers]:
    """The referee's forecast at every origin, and how far from it other things known there lie.

    Shapes: origins, and origins by signals. All in units of load, so that they scale with it.
    """
    origin = np.arange(len(loads))
    target, week, day = origin + lead, series.week, series.day
    off = np.zeros(len(loads))
    off[week:] = loads[week:] - loads[:-week]
    # The latest day on which the hour of the target is known.
    known = -(-lead // day)
    base = _at(loads, target - week)

    def lately(steps: int) -> Numbers:
        return _mean(off, np.maximum(origin - steps + 1, week), origin)

    before = target - known * day
    signals = [lately(steps) for steps in sorted({1, 3, series.steps(3), day})]
    signals.append(_mean(off, np.maximum(before - 1, week), np.minimum(before + 1, origin)))
    signals += [_mean(loads, origin - steps + 1, origin) - base for steps in sorted({1, series.steps(1), day})]
    signals.append(np.mean([_at(loads, target - back * day) for back in range(known, known + 7)], axis=0) - base)
    for around in sorted({1, series.steps(0.5)}):
        signals.append(_mean(loads, target - week - around, target - week + around) - base)
    signals.append(_at(loads, target - 2 * week) - base)
    return base, np.nan_to_num(np.stack(signals, axis=1))


def _modelled(actual: Numbers, base: Numbers, signals: Numbers, lead: int, series: Series, rules: ForecastRules) -> Numbers:
    """The model's forecast at every origin: fitted again each `refit_hours` to what had come by then."""
    forecasts = np.full(len(base), np.nan)
    week, every, window = series.week, series.steps(rules.refit_hours), series.steps(rules.history_hours)
    missing = actual - base
    first = week + lead + series.day
    # Fits lie at fixed steps of the series, so that a forecast does not depend on where the back-test ends.
    for fitted in [*range(first, min(first + 1, len(base))), *range(first - first % every + every, len(base), every)]:
        rows = np.arange(max(week, fitted - lead - window + 1), fitted - lead + 1)
        rows = rows[~np.isnan(missing[rows])]
        weights = _ridge(signals[rows], missing[rows], rules.shrinkage)
        origins = slice(fitted, fitted + every - fitted % every)
        forecasts[origins] = np.maximum(base[origins] + signals[origins] @ weights, 0)
    return forecasts


def _ridge(signals: Numbers, missing: Numbers, shrinkage: float) -> Numbers:
    """Least squares with a penalty in units of what the referee misses in all: the same at any scale of the load."""
    energy = float(missing @ missing)
    if not energy:
        return np.zeros(signals.shape[1])
    penalty = shrinkage * energy * np.eye(signals.shape[1])
    return np.asarray(np.linalg.solve(signals.T @ signals + penalty, signals.T @ missing), np.float64)


def _trusted(modelled: Numbers, base: Numbers, came: Numbers, lead: int, series: Series, rules: ForecastRules) -> Numbers:
    """The model's forecasts, so far from the referee's (0 to 1 of the way) as would have been best in the back-test by then."""
    window = series.steps(rules.judged_hours)
    way, missing = modelled - base, came - base
    known = ~np.isnan(way) & ~np.isnan(missing)
    right = _by_then(np.where(known, way * missing, 0), lead, window)
    size = _by_then(np.where(known, way * way, 0), lead, window)
    enough = (_by_then(known.astype(float), lead, window) >= series.steps(rules.least_judged_hours)) & (size > 0)
    return base + np.where(enough, np.clip(right / np.where(enough, size, 1), 0, 1), 0) * way


def _by_then(values: Numbers, lead: int, window: int) -> Numbers:
    """At every origin the sum of the values of the last `window` origins whose outcome is known there."""
    total = np.concatenate([np.zeros(lead), np.cumsum(values)])[: len(values)]
    return total - np.concatenate([np.zeros(window), total])[: len(values)]


def _ratios(model: Numbers, referee: Numbers, leads: Sequence[int], series: Series, rules: ForecastRules) -> Numbers:
    """At every origin: the model's mean absolute error over the referee's, in what had come by then; NaN if too little had."""
    window, least = series.steps(rules.judged_hours), series.steps(rules.least_judged_hours)
    sums = np.zeros((3, len(model)))
    for place, lead in enumerate(leads):
        both = ~np.isnan(model[:, place]) & ~np.isnan(referee[:, place])
        for row, errors in enumerate((model[:, place], referee[:, place], np.ones(len(model)))):
            sums[row] += _by_then(np.where(both, errors, 0), lead, window)
    ratio = np.full(len(model), np.nan)
    # A referee that misses nothing is not beaten.
    enough = sums[2] >= least * len(leads)
    ratio[enough] = np.where(sums[1][enough] > 0, sums[0][enough] / np.where(sums[1][enough] > 0, sums[1][enough], 1), np.inf)
    return ratio


def _bounds(
    point: Numbers, errors: Numbers, leads: Sequence[int], window: int
) -> tuple[dict[float, Numbers], dict[float, Numbers]]:
    lower: dict[float, Numbers] = {}
    upper: dict[float, Numbers] = {}
    inner_lower = inner_upper = point
    for level in LEVELS:
        spread = np.stack([_spread(errors[:, place], lead, level, window) for place, lead in enumerate(leads)], axis=1)
        # A wider level holds the narrower one, and each holds the point.
        lower[level] = np.maximum(np.minimum(point + spread[:, :, 0], inner_lower), 0)
        upper[level] = np.maximum(point + spread[:, :, 1], inner_upper)
        inner_lower, inner_upper = lower[level], upper[level]
    return lower, upper


def _spread(errors: Numbers, lead: int, level: float, window: int) -> Numbers:
    """At every origin the two quantiles of the errors known there, at a rate that follows how often they missed lately."""
    spread = np.full((len(errors), 2), np.nan)
    nominal = 1 - level
    rate = nominal
    for origin in range(lead, len(errors)):
        newest = origin - lead
        if not np.isnan(errors[newest]) and not np.isnan(spread[newest, 0]):
            missed = not spread[newest, 0] <= errors[newest] <= spread[newest, 1]
            rate = min(max(rate + ADAPTATION[level] * (nominal - missed), nominal / 10), 2 * nominal)
        known = errors[max(0, newest - window + 1) : newest + 1]
        known = known[~np.isnan(known)]
        if len(known) >= LEAST_ERRORS:
            # One error more counts: the one that comes.
            high = min(1.0, (1 - rate / 2) * (1 + 1 / len(known)))
            spread[origin] = np.interp((1 - high, high), np.linspace(0, 1, len(known)), np.sort(known))
    return spread


def _at(loads: Numbers, places: np.ndarray) -> Numbers:
    """The loads at these places; NaN outside."""
    inside = (places >= 0) & (places < len(loads))
    return np.where(inside, loads[np.clip(places, 0, len(loads) - 1)], np.nan)


def _mean(loads: Numbers, first: np.ndarray, last: np.ndarray) -> Numbers:
    """Means from first to last, both included; NaN where that is nothing or begins before the series."""
    total = np.concatenate([[0.0], np.cumsum(loads)])
    inside = (first >= 0) & (first <= last) & (last < len(loads))
    first, last = np.where(inside, first, 0), np.where(inside, last, 0)
    return np.where(inside, (total[last + 1] - total[first]) / (last - first + 1), np.nan)


def _ahead(values: Numbers, lead: int) -> Numbers:
    return np.concatenate([values[lead:], np.full(min(lead, len(values)), np.nan)])


def _said(series: Series, count: int) -> str:
    hours = count * series.step.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def _reason(rolled: Rolled, rules: ForecastRules) -> str:
    ratio = rolled.ratio[-1]
    if np.isnan(ratio):
        return f"the back-test has not seen {rules.least_judged_hours} hours yet: same hour last week is used"
    told = "the model's error is more than the referee's, which misses nothing" if np.isinf(ratio) else (
        f"the model's error is {ratio:.2f} of the referee's in the rolling back-test"
    )  # fmt: skip
    return told if rolled.won[-1] else f"{told}: same hour last week is used"


def _row(rolled: Rolled, place: int, reason: str) -> Row:
    origin = len(rolled.point) - 1

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    bounds = {
        f"{side}_{level * 100:.0f}": number(values[level][origin, place])
        for side, values in (("lower", rolled.lower), ("upper", rolled.upper))
        for level in LEVELS
    }
    used = bool(rolled.won[origin]) and not np.isnan(rolled.model[origin, place])
    return Row(
        series=rolled.series.name,
        origin=rolled.series.time(origin),
        time=rolled.series.time(origin + rolled.leads[place]),
        lead=rolled.leads[place],
        load=float(rolled.point[origin, place]),
        model="seasonal ridge" if used else "same hour last week",
        ratio=number(rolled.ratio[origin]),
        reason=reason,
        **bounds,
    )
