"""What a task may need, by several simple rules and two learned ones, from runs that were over.

Each candidate gives one value per task; how far over it to ask is decided elsewhere, from how such margins did. A value is NaN
where there is too little to go by. All of them scale with the memory and do not change with the unit of the input.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analytics_assets.tuning.series import Numbers

CANDIDATES = ("most seen", "typical", "linear in input", "nearest inputs", "quantile regression", "boosted quantiles")
LEVEL = 0.9
NEAREST = 5
# Runs of a name under which nothing is fitted, and growth of them after which it is fitted again.
LEAST = {"linear in input": 3, "nearest inputs": 3, "quantile regression": 12, "boosted quantiles": 24}
GROWTH = 1.5
# A straight line may be wrong far from what was seen: a prediction stays within so many times of the least and the most.
REACH = 4.0


class Runs:
    """The finished, measured runs of one name, in the order in which they were over: their features and what they needed."""

    def __init__(self) -> None:
        self.features: list[Sequence[float]] = []
        self.needed: list[float] = []
        self._fitted: dict[str, tuple[int, Any]] = {}
        self._arrays: tuple[int, Numbers, Numbers] | None = None

    def __len__(self) -> int:
        return len(self.needed)

    @property
    def most(self) -> float:
        return max(self.needed, default=0.0)

    def add(self, features: Sequence[float], needed: float) -> None:
        self.features.append(features)
        self.needed.append(needed)

    def predict(self, features: Sequence[float]) -> Numbers:
        """The values of CANDIDATES for a task with these features, of which the first is the size of the input, if known."""
        if not self.needed:
            return np.full(len(CANDIDATES), np.nan)
        x, y = self._as_arrays()
        values = [float(y.max()), float(np.median(y))]
        width = len(features)
        usable = width > 0 and x.shape[1] == width and bool(np.isfinite(features).all()) and x.shape[0] == len(y)
        varied = usable and bool(np.ptp(x, axis=0).any())
        row = np.asarray(features, np.float64)
        for name, predicted in (
            ("linear in input", linear),
            ("nearest inputs", _nearest),
        ):
            values.append(predicted(x, y, row) if varied and len(y) >= LEAST[name] else np.nan)
        values += [self._learned(name, x, y, row) if varied else np.nan for name in CANDIDATES[4:]]
        return np.clip(np.array(values), y.min() / REACH, y.max() * REACH)

    def _as_arrays(self) -> tuple[Numbers, Numbers]:
        if self._arrays is None or self._arrays[0] != len(self.needed):
            widths = {len(row) for row in self.features}
            rows = [list(row) for row in self.features] if len(widths) == 1 else [[] for _ in self.features]
            self._arrays = len(self.needed), np.array(rows, np.float64).reshape(len(rows), -1), np.array(self.needed)
        return self._arrays[1], self._arrays[2]

    def _learned(self, name: str, x: Numbers, y: Numbers, row: Numbers) -> float:
        if len(y) < LEAST[name]:
            return float("nan")
        at, model = self._fitted.get(name, (0, None))
        if len(y) >= at * GROWTH:
            at, model = len(y), (_line if name == "quantile regression" else _boosted)(x, y)
            self._fitted[name] = at, model
        return float(model(row))


def linear(x: Numbers, y: Numbers, row: Numbers) -> float:
    """A straight line in the size of the input, by least squares of the relative error; falling ones are flat."""
    size = float(x[:, 0].mean()) or 1.0
    weights = 1 / y
    columns = np.stack([weights, x[:, 0] / size * weights], axis=1)
    penalty = 1e-3 * len(y) * np.diag([0, float((weights * weights).mean())])
    inner = columns.T @ columns + penalty
    base, slope = np.linalg.solve(inner, columns.T @ np.ones(len(y)))
    if slope <= 0:
        return float(weights.sum() / (weights * weights).sum())
    return float(base + slope * row[0] / size)


def _nearest(x: Numbers, y: Numbers, row: Numbers) -> float:
    """The most that those with the nearest sizes of input needed."""
    away = np.abs(_log(x[:, 0]) - _log(row[0]))
    return float(y[np.argsort(away, kind="stable")[:NEAREST]].max())


def _line(x: Numbers, y: Numbers) -> Any:
    from sklearn.linear_model import QuantileRegressor

    scale, unit = np.median(y), np.where(np.abs(x).max(axis=0) > 0, np.abs(x).max(axis=0), 1)
    model = QuantileRegressor(quantile=LEVEL, alpha=1e-3).fit(x / unit, y / scale)
    return lambda row: scale * model.predict((row / unit)[None])[0]


def _boosted(x: Numbers, y: Numbers) -> Any:
    import xgboost

    low = np.log(y / np.median(y))
    settings = {
        "objective": "reg:quantileerror",
        "quantile_alpha": LEVEL,
        "max_depth": 3,
        "eta": 0.2,
        "nthread": 1,
        "seed": 0,
        "tree_method": "hist",
        "verbosity": 0,
    }
    model = xgboost.train(settings, xgboost.DMatrix(x, label=low, nthread=1), num_boost_round=25)
    return lambda row: np.median(y) * np.exp(model.inplace_predict(row[None])[0])


def _log(size: Numbers) -> Numbers:
    return np.log(np.maximum(size, 1e-300))
