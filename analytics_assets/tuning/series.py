"""Loads at equal steps of time, as everything here reads them. How they were counted is not known here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Series:
    """A load (events, seconds of work, rows) in each step from `start` on; NaN where it is not known.

    Raises ValueError where a day is no whole number of steps, or a load is negative or infinite.
    """

    name: str
    start: datetime
    step: timedelta
    values: Numbers

    def __post_init__(self) -> None:
        if self.step <= timedelta(0) or DAY % self.step:
            raise ValueError(f"{self.name}: a day is no whole number of steps of {self.step}")
        if bool((self.values < 0).any()) or bool(np.isinf(self.values).any()):
            raise ValueError(f"{self.name}: a load is negative or infinite; set such rows aside first")

    @property
    def day(self) -> int:
        """Steps of a day."""
        return DAY // self.step

    @property
    def week(self) -> int:
        return 7 * self.day

    def steps(self, hours: float) -> int:
        """Steps in so many hours, at least one."""
        return max(1, round(hours * HOUR / self.step))

    def time(self, index: int) -> datetime:
        return self.start + index * self.step

    def last(self, count: int) -> "Series":
        """The newest so many steps, from the begin of a day of the series on: at most a day fewer."""
        skipped = -(-max(0, len(self.values) - count) // self.day) * self.day
        return Series(self.name, self.time(skipped), self.step, self.values[skipped:])

    def before(self, end: int) -> "Series":
        """What was known when the step before `end` was over."""
        return Series(self.name, self.start, self.step, self.values[:end])


def regular(name: str, times: Sequence[datetime], loads: Sequence[float], step: timedelta) -> Series:
    """Rows in any order as a series: of doubled ones the last counts, and a step without one is not known (NaN).

    Raises ValueError where there is no row, or one lies between two steps.
    """
    if not len(times):
        raise ValueError(f"{name}: no rows")
    start = min(times)
    values = np.full((max(times) - start) // step + 1, np.nan)
    for time, load in zip(times, loads, strict=True):
        place, rest = divmod(time - start, step)
        if rest:
            raise ValueError(f"{name}: {time} is no whole number of steps of {step} after {start}")
        values[place] = load
    return Series(name, start, step, values)


def filled(series: Series) -> Numbers:
    """The loads, where unknown as a week before, else as a day before, else as the step before: never from what came later."""
    values = series.values.copy()
    for place in np.flatnonzero(np.isnan(values)):
        back = next((lag for lag in (series.week, series.day, 1) if place >= lag), 0)
        values[place] = values[place - back] if back else 0.0
    return values
