"""Which config a job without a past runs cheapest on, from what other jobs cost on the same configs and a few probe runs.

The logarithm of cost over the configs is a Gaussian process. Its mean and part of its covariance come from the other jobs, the
rest from how alike configs are: near in shape, or short of the same need for memory, which nobody knows yet. A probe is the run
after which the expected cost of the choice is least. A failed run only tells that the config is dear.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analytics_assets.tuning.series import Numbers

# Parts of the variance: what other jobs had in common, nearness, a need for memory of unknown size.
SHARED, NEAR, STEP = 0.9, 0.3, 0.5
REACH = 0.7
STEPS = 12
# Of the logarithm: variance of a run told twice, of how large a job is, and what a failed run is dearer than expected.
NOISE, SIZE, FAILED = 0.02, 4.0, 2.0
DRAWS = 1000
OUTCOMES = 9
# No config is taken for worse than so many times the best: one that fails is not worse than one that costs this.
WORST = 5.0
UNSEEN = 1.1
HOUR = 3600.0
SURE = 0.95


@dataclass(frozen=True)
class Config:
    """Something to run on: cores and memory in all and of one node, in any unit that all share; price an hour, all nodes."""

    name: str
    cores: float
    memory: float
    nodes: float
    price: float


@dataclass(frozen=True)
class Outcome:
    """A run on a config. `completed` is False if it failed or was cut off after these seconds."""

    seconds: float
    completed: bool = True


@dataclass(frozen=True)
class Row:
    """A config for this job: what a run takes, with the time that 95 % stay under, and how likely it is in time."""

    config: Config
    seconds: float
    seconds_95: float
    cost: float
    over_best: float
    in_time: float
    probed: bool


class Advisor:
    """Chooses among `configs` by `known`: for each other job its outcome on each config, None where it never ran.

    Raises ValueError where fewer than two jobs or configs are known, or a config has no size or price.
    """

    def __init__(self, configs: Sequence[Config], known: Sequence[Sequence[Outcome | None]]) -> None:
        if len(known) < 2 or len(configs) < 2:
            raise ValueError(f"{len(known)} jobs on {len(configs)} configs tell nothing about another; two of each are needed")
        sizes = np.array([[one.cores, one.memory, one.nodes, one.price] for one in configs])
        if not bool(((sizes > 0) & np.isfinite(sizes)).all()):
            raise ValueError("a config has cores, memory, nodes or a price that is not over zero")
        self.configs = tuple(configs)
        self._price = np.log(sizes[:, 3] / HOUR)
        table = np.stack([self._costs(row) for row in known])
        level = table.mean(axis=1, keepdims=True)
        shapes = table - level
        self._mean = shapes.mean(axis=0) + level.mean()
        self._covariance = _covariance(shapes - shapes.mean(axis=0), sizes)

    def probe(self, probed: Mapping[int, Outcome], seed: int = 0) -> int:
        """The place of the config to run on next."""
        mean, covariance = self._posterior(probed)
        draws = _draws(mean, covariance, seed)
        least = draws.min(axis=1)
        rows = np.arange(DRAWS)
        regret = np.full(len(self.configs), np.inf)
        for place in range(len(self.configs)):
            if place in probed:
                continue
            told = np.sort(draws[:, place])[(np.arange(OUTCOMES) * 2 + 1) * DRAWS // (2 * OUTCOMES)]
            follows = covariance[:, place] / (covariance[place, place] + NOISE)
            chosen = (mean[None] + np.outer(told - mean[place], follows)).argmin(axis=1)
            nearest = np.searchsorted((told[1:] + told[:-1]) / 2, draws[:, place])
            regret[place] = _over(draws[rows, chosen[nearest]], least).mean()
        return int(regret.argmin())

    def table(self, probed: Mapping[int, Outcome], deadline: float = math.inf, seed: int = 0) -> list[Row]:
        """Every config with what it would cost, the best first: those that are sure to be in time, then the likely ones."""
        mean, covariance = self._posterior(probed)
        draws = _draws(mean, covariance, seed)
        over = _over(draws, draws.min(axis=1, keepdims=True)).mean(axis=0)
        seconds = np.exp(draws - self._price)
        in_time = (seconds <= deadline).mean(axis=0)
        for place, outcome in probed.items():
            seconds[:, place] = outcome.seconds
            in_time[place] = outcome.completed and outcome.seconds <= deadline
        rows = [
            Row(
                config=one,
                seconds=float(np.median(seconds[:, place])),
                seconds_95=float(np.quantile(seconds[:, place], SURE)),
                cost=float(np.median(seconds[:, place]) / HOUR * one.price),
                over_best=math.inf if place in probed and not probed[place].completed else float(over[place]),
                in_time=float(in_time[place]),
                probed=place in probed,
            )
            for place, one in enumerate(self.configs)
        ]
        # What was never seen may hold a surprise: a config that was tried is preferred to one that seems hardly better.
        return sorted(
            rows,
            key=lambda row: (-row.in_time if row.in_time < SURE else -1.0, row.over_best * (1.0 if row.probed else UNSEEN)),
        )

    def _costs(self, row: Sequence[Outcome | None]) -> Numbers:
        """Logarithms of what a job cost; what failed costs more than all that did not, and what never ran is as others."""
        costs = np.array([math.nan if one is None else math.log(max(one.seconds, 1e-9)) for one in row]) + self._price
        failed = np.array([one is not None and not one.completed for one in row])
        good = ~failed & np.isfinite(costs)
        worst = float(costs[good].max()) if good.any() else float(np.nanmax(costs))
        costs[failed] = np.maximum(costs[failed], worst) + FAILED / 2
        return np.where(np.isfinite(costs), costs, np.nanmean(costs))

    def _posterior(self, probed: Mapping[int, Outcome]) -> tuple[Numbers, Numbers]:
        mean, covariance = self._mean, self._covariance
        for place, outcome in probed.items():
            cost = math.log(max(outcome.seconds, 1e-9)) + self._price[place]
            if not outcome.completed:
                cost = max(cost, float(mean[place])) + FAILED
            follows = covariance[:, place] / (covariance[place, place] + NOISE)
            mean = mean + follows * (cost - mean[place])
            covariance = covariance - np.outer(follows, covariance[place])
        return mean, covariance


def _covariance(shapes: Numbers, sizes: Numbers) -> Numbers:
    """How the costs of configs go together. Shapes: jobs by configs."""
    logs = np.log(sizes[:, :3])
    features = np.column_stack([logs[:, 0], logs[:, 1], logs[:, 0] - logs[:, 2], logs[:, 1] - logs[:, 0]])
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    away = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    common = shapes.T @ shapes / max(len(shapes) - 1, 1)
    variance = float(np.trace(common)) / len(common) or 1.0
    needs = np.quantile(logs[:, 1], np.linspace(0.05, 0.95, STEPS))
    short = np.maximum(0, needs[None] - logs[:, [1]])
    short = short - short.mean(axis=0)
    short = short / np.where(short.std(axis=0) > 0, short.std(axis=0), 1)
    alike = NEAR * np.exp(-away / (2 * REACH**2)) + STEP * short @ short.T / STEPS
    return np.asarray(SHARED * common + variance * alike + SIZE, np.float64)


def _draws(mean: Numbers, covariance: Numbers, seed: int) -> Numbers:
    """Costs that the job may have, so many rows."""
    jitter = 1e-8 * np.trace(covariance) / len(mean) * np.eye(len(mean))
    root = np.linalg.cholesky(covariance + jitter)
    return mean + np.random.default_rng(seed).standard_normal((DRAWS, len(mean))) @ root.T


def _over(costs: Numbers, least: Numbers) -> Numbers:
    return np.exp(np.minimum(costs - least, math.log(WORST)))
