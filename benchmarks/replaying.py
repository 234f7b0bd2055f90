"""Scaling policies on real load at 15 minutes: time in violation at equal over-provisioning, and changes a day.

Every policy has one knob: capacity over the load, and for ours the distance from the forecast to its 90th percentile. Turned
from little to much it gives a curve; curves are compared where the reactive policy is short 10, 5, 2 and 1 % of the time. The
reactive policy is at each of these places the better of two, of which one lowers at once and one waits an hour. `ours` also
lowers at once; `ours, steady` as it would run: lowering waits half an hour, and nothing under 2 % is changed.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from analytics_assets.tuning.forecast import ForecastRules, roll
from analytics_assets.tuning.replay import Outcome, Policy, oracle, planned, reactive, replay, static
from analytics_assets.tuning.scaling import ScalingPolicy
from analytics_assets.tuning.series import Series
from benchmarks.measure import Finding, Measured
from benchmarks.traces import read

SHORT = (0.10, 0.05, 0.02, 0.01)
MARGINS = [float(value) for value in np.round([*np.arange(-2, 4, 0.1), *np.arange(4, 16.1, 0.5)], 2)]
HEADROOMS = [
    float(value) for value in np.round([*np.arange(0.8, 1.2, 0.01), *np.arange(1.2, 1.6, 0.04), *np.arange(1.6, 4.01, 0.2)], 2)
]
# So fine that rounding up to whole units decides nothing.
UNITS_OF_MEAN = 200
READY = {0: "ready at once", 1: "ready a step later"}


def measure(folder: Path) -> Measured:
    series, _, left_out = read(folder, timedelta(minutes=15))
    details: dict[str, Any] = {READY[delay]: {one.name: _trace(one, delay) for one in series} for delay in READY}
    found = []
    for ready, traces in details.items():
        ratios = {name: row["ratio"] for name, row in traces.items()}
        mean = float(np.mean(list(ratios.values())))
        found.append(Finding(f"{ready}: violation time, ours over reactive, mean of {len(ratios)} series", mean, "x", 0.5))
        found += [Finding(f"{ready}: {name}", ratio, "x", 0.5) for name, ratio in ratios.items()]
    notes = (*left_out, *(_pareto(ready, traces) for ready, traces in details.items()))
    return Measured(tuple(found), details, notes)


def _trace(series: Series, delay: int) -> dict[str, Any]:
    """Outcomes of all policies at every headroom, and what is short where the reactive policy is short SHORT of the time."""
    first = 2 * series.week
    unit = float(np.nanmean(series.values[: series.week])) / UNITS_OF_MEAN
    rolled = roll(series, sorted({1, 1 + delay}), ForecastRules())
    mean = float(np.nanmean(series.values[:first]))

    bounds = {"unit_load": unit, "quota": 100 * UNITS_OF_MEAN, "step_minutes": 15, "changes_a_day": 96}
    # What lowers at once changes what it likes; nothing but the newest load holds it.
    prompt = {**bounds, "stabilisation_minutes": 0, "cooldown_minutes": 0, "hysteresis": 0}

    def at_once(headroom: float) -> ScalingPolicy:
        return ScalingPolicy.model_validate({**prompt, "headroom": headroom})

    def after_an_hour(headroom: float) -> ScalingPolicy:
        return ScalingPolicy.model_validate({**prompt, "headroom": headroom, "stabilisation_minutes": 60})

    steady = ScalingPolicy.model_validate({**bounds, "headroom": 1})
    makers: dict[str, tuple[list[float], Callable[[float], Policy]]] = {
        "static": (HEADROOMS, lambda knob: static(at_once(knob).units(mean))),
        "reactive": (HEADROOMS, lambda knob: reactive(series, at_once(knob))),
        "reactive, lowers after an hour": (HEADROOMS, lambda knob: reactive(series, after_an_hour(knob))),
        "ours": (MARGINS, lambda knob: planned(rolled, at_once(1), delay, margin=knob)),
        "ours, steady": (MARGINS, lambda knob: planned(rolled, steady, delay, margin=knob)),
        "oracle": (HEADROOMS, lambda knob: oracle(series, at_once(knob), delay)),
    }
    curves = {
        name: [replay(series, make(knob), unit, first, delay) for knob in knobs] for name, (knobs, make) in makers.items()
    }
    over = _over(curves["reactive"])
    short = {name: [float(value) for value in _violation(curve, over)] for name, curve in curves.items()}
    best = np.minimum(short["reactive"], short["reactive, lowers after an hour"])
    changes = {name: float(np.interp(over[1], *_sorted(curve))) for name, curve in curves.items()}
    return {
        "over-provisioning": [float(value) for value in over],
        "violation": short,
        "changes a day": changes,
        "ratio": float(np.sum(short["ours"]) / np.sum(best)),
        "ratio, waiting as long": float(np.sum(short["ours, steady"]) / np.sum(short["reactive, lowers after an hour"])),
        "curves": {
            name: [(knob, one.violation, one.over, one.changes_a_day) for knob, one in zip(makers[name][0], curve, strict=True)]
            for name, curve in curves.items()
        },
    }


def _over(curve: Sequence[Outcome]) -> np.ndarray:
    """The over-provisioning at which a curve is short SHORT of the time."""
    over, violation = _envelope(curve)
    return np.interp([-short for short in SHORT], -violation, over)


def _violation(curve: Sequence[Outcome], over: np.ndarray) -> np.ndarray:
    """The least violation of a curve at no more over-provisioning than this."""
    return np.interp(over, *_envelope(curve), left=1.0)


def _envelope(curve: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    pairs = sorted((one.over, one.violation) for one in curve)
    return np.array([over for over, _ in pairs]), np.minimum.accumulate([violation for _, violation in pairs])


def _sorted(curve: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    pairs = sorted((one.over, one.changes_a_day) for one in curve)
    return [over for over, _ in pairs], [changes for _, changes in pairs]


def _pareto(ready: str, traces: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{ready}: short part of the time at equal over-provisioning; changes a day at the second place"]
    for name, row in traces.items():
        lines.append(f"  {name}: over-provisioning " + ", ".join(f"{over:.1%}" for over in row["over-provisioning"]))
        lines += [
            f"    {policy:<32}"
            + "  ".join(f"{value:6.1%}" for value in values)
            + f"   {row['changes a day'][policy]:4.0f} a day"
            for policy, values in row["violation"].items()
        ]
    return "\n".join(lines)
