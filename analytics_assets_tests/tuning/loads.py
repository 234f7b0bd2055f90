"""Loads as tests need them: a week that repeats, with noise that lasts some hours."""

from datetime import UTC, datetime, timedelta

import numpy as np

from analytics_assets.tuning.series import Series

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
THREE_HOURS = timedelta(hours=3)


def a_load(weeks: int = 5, noise: float = 30.0, lasting: float = 0.8, step: timedelta = THREE_HOURS, seed: int = 1) -> Series:
    """Between 600 and 1,400 by day and weekday; `lasting` is how much of the noise is left a step later."""
    day = timedelta(days=1) // step
    at = np.arange(weeks * 7 * day)
    shape = 1000 + 300 * np.sin(2 * np.pi * (at % day) / day) + np.where(at // day % 7 >= 5, -100, 100)
    random = np.random.default_rng(seed)
    off = np.zeros(len(at))
    for place in range(1, len(at)):
        off[place] = lasting * off[place - 1] + noise * random.normal()
    return Series("a load", MONDAY, step, shape + off)
