"""Forecasts of real load 1 to 8 hours ahead, from rolling origins: against "same hour last week" and what was published.

Origins are all hours from the end of the second week on. The rules were chosen on origins before the last fifth of each series;
that fifth is shown apart. No step after an origin is read at it: a test holds that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analytics_assets.tuning.forecast import LEVELS, ForecastRules, Rolled, roll
from analytics_assets.tuning.series import HOUR, Numbers, Series
from benchmarks.measure import Finding, Measured
from benchmarks.traces import Published, read

LEADS = tuple(range(1, 13))
JUDGED = 8
KEPT_BACK = 0.8
PARTS = ("all origins", "kept back")


def measure(folder: Path) -> Measured:
    series, published, left_out = read(folder, HOUR)
    rolled = {one.name: roll(one, LEADS, ForecastRules()) for one in series}
    rows = {part: {name: _scores(one, _first(one.series, part)) for name, one in rolled.items()} for part in PARTS}
    found = [finding for part, scores in rows.items() for finding in _findings(part, scores)]
    beside = {one.series: _beside(rolled[one.series], one) for one in published}
    return Measured(
        tuple(found + _against(beside)),
        {"series": rows, "published": beside, "rules": ForecastRules().model_dump(), "leads": LEADS[:JUDGED]},
        (*left_out, *_notes(rolled, beside)),
    )


def smape(actual: Numbers, forecast: Numbers) -> float:
    """Symmetric mean absolute percentage error, 0 to 200, of what is known; where both are 0 nothing is missed."""
    size = np.abs(actual) + np.abs(forecast)
    return float(np.nanmean(200 * np.abs(actual - forecast) / np.where(size > 0, size, 1)))


def _first(series: Series, part: str) -> int:
    """The first origin: after two weeks, or the last before the fifth of the series that was kept back."""
    start = 2 * series.week
    return max(start, int(len(series.values) * KEPT_BACK)) if part == "kept back" else start


def _scores(rolled: Rolled, first: int) -> dict[str, Any]:
    """sMAPE, MASE and coverage by lead, over the origins from `first` on from which every lead is known."""
    origins = slice(first, len(rolled.series.values) - JUDGED)
    actual = rolled.actual()[origins, :JUDGED]
    point, referee = rolled.point[origins, :JUDGED], rolled.referee[origins, :JUDGED]
    before = rolled.series.values[:first]
    scale = float(np.nanmean(np.abs(before[rolled.series.week :] - before[: -rolled.series.week])))
    scores: dict[str, Any] = {"origins": len(actual), "model used": float(rolled.won[origins].mean())}
    for name, forecast in (("ours", point), ("referee", referee)):
        scores[f"smape {name}"] = [smape(actual[:, place], forecast[:, place]) for place in range(JUDGED)]
        scores[f"mase {name}"] = [float(value) for value in np.nanmean(np.abs(actual - forecast), axis=0) / (scale or np.nan)]
    for level in LEVELS:
        lower, upper = rolled.lower[level][origins, :JUDGED], rolled.upper[level][origins, :JUDGED]
        known = ~np.isnan(actual) & ~np.isnan(lower)
        held = np.where(known, (actual >= lower) & (actual <= upper), np.nan)
        scores[f"coverage {level:.0%}"] = [float(value) for value in np.nanmean(held, axis=0)]
        scores[f"width {level:.0%}"] = float(np.nanmean((upper - lower)[known]) / np.nanmean(actual))
    return scores


def _findings(part: str, scores: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    found = []
    for name, row in scores.items():
        for measure in ("smape", "mase"):
            ours, referee = (float(np.mean(row[f"{measure} {who}"])) for who in ("ours", "referee"))
            label = (
                f"{part}: {name}, {'sMAPE' if measure == 'smape' else 'MASE'} at 1 to {JUDGED} h; to beat: same hour last week"
            )
            # As good is not better.
            found.append(Finding(label, ours, "", float(np.nextafter(referee, 0))))
        lost = sum(ours >= referee for ours, referee in zip(row["smape ours"], row["smape referee"], strict=True))
        found.append(Finding(f"{part}: {name}, leads at which the referee is better", lost, ""))
    for level in LEVELS:
        by_series = {name: float(np.mean(row[f"coverage {level:.0%}"])) for name, row in scores.items()}
        away = abs(float(np.mean(list(by_series.values()))) - level)
        found.append(Finding(f"{part}: coverage of {level:.0%} intervals, points away, all series", 100 * away, "", 3))
        found += [
            Finding(f"{part}: {name}, coverage of {level:.0%} intervals, points away", 100 * abs(value - level), "", 3)
            for name, value in by_series.items()
        ]
    return found


def _beside(rolled: Rolled, published: Published) -> dict[str, float]:
    """sMAPE by method at the published places; ours 8 h ahead, and as the mean of what was said in the hours before."""
    places = np.array(published.places)
    actual = rolled.series.values[places]

    def ahead(values: Numbers, lead: int) -> Numbers:
        return values[places - lead, rolled.leads.index(lead)]

    ours = {
        "ours, 8 h ahead": ahead(rolled.point, 8),
        "ours, mean of 1 to 8 h ahead": np.mean([ahead(rolled.point, lead) for lead in LEADS[:JUDGED]], axis=0),
        "ours, mean of 1 to 12 h ahead": np.mean([ahead(rolled.point, lead) for lead in LEADS], axis=0),
        "same hour last week": ahead(rolled.referee, 8),
    }
    return {name: smape(actual, forecast) for name, forecast in {**ours, **published.methods}.items()}


def _against(beside: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    """Ours at 8 hours against the best published method, on the mean over the series that all of them are about."""
    if not beside:
        return []
    means = _means(beside)
    published = {name: value for name, value in means.items() if not name.startswith(("ours", "same hour"))}
    if not published:
        return []
    best = min(published, key=lambda name: published[name])
    return [
        Finding(f"mean of {len(beside)} series: sMAPE of {name}; to beat: {best}, published", means[name], "", published[best])
        for name in means
        if name.startswith("ours")
    ]


def _means(beside: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    shared: Sequence[str] = [name for name in next(iter(beside.values())) if all(name in row for row in beside.values())]
    return {name: float(np.mean([row[name] for row in beside.values()])) for name in shared}


def _notes(rolled: Mapping[str, Rolled], beside: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    notes = []
    for name, one in rolled.items():
        start = _first(one.series, "all origins")
        used = float(one.won[start:].mean())
        notes.append(f"{name}: the model was used at {used:.0%} of the origins, the referee at the others")
    if beside:
        notes.append("mean sMAPE at the published places: " + "; ".join(f"{k} {v:.2f}" for k, v in _means(beside).items()))
    return tuple(notes)
