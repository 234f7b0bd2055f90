"""Load traces of a folder: CSV files with a column of times and one of loads, and forecasts published for them beside.

Nothing goes by the names of files or columns. A text column tells several series of one file apart. A published forecast
belongs to the series whose loads one of its columns repeats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median, mode

import numpy as np
import polars as pl

from analytics_assets.settings import UserError
from analytics_assets.tuning.series import Numbers, Series, regular

# A column repeats a series if it lies nearer than this, as part of it: published loads are rounded.
REPEATS = 0.005


@dataclass(frozen=True)
class Published:
    """Forecasts of a series by several methods, named as in the file: loads at these places of the series."""

    series: str
    places: Sequence[int]
    methods: dict[str, Numbers]


def read(folder: Path, step: timedelta) -> tuple[list[Series], list[Published], list[str]]:
    """The series of this step in `folder` or its `load_traces`, what was published for them, and which are left out and why.

    Raises UserError.
    """
    folder = folder / "load_traces" if (folder / "load_traces").is_dir() else folder
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one with load traces, such as --data ../shared/data")
    everything = [series for path in sorted(folder.glob("*.csv")) for series in _series(path)]
    chosen = [series for series in everything if series.step == step]
    if not chosen:
        steps = ", ".join(str(one) for one in sorted({series.step for series in everything})) or "none"
        raise UserError(f"{folder} holds no series with a step of {step} (steps found: {steps})")
    left_out = {one.name: reason for one in chosen if (reason := _useless(one))}
    chosen = [one for one in chosen if one.name not in left_out]
    if not chosen:
        raise UserError(f"{folder}: " + "; ".join(f"{name} {reason}" for name, reason in left_out.items()))
    published = [_published(path, chosen) for path in sorted((folder / "published").glob("*.csv"))]
    notes = [f"{name} is left out: it {reason}" for name, reason in left_out.items()]
    return chosen, [one for one in published if one is not None], notes


def _useless(series: Series) -> str | None:
    """Why nothing can be measured on it, if so."""
    if len(series.values) < 2 * series.week + 2 * series.day:
        return "is shorter than 16 days, of which 14 are history"
    if not np.nansum(series.values[: series.week]) or np.isnan(series.values[2 * series.week :]).all():
        return "has no load in its first week, or none is known after two"
    return None


def _series(path: Path) -> list[Series]:
    frame, time, numbers, texts = _columns(path)
    if not numbers:
        return []
    parts = frame.partition_by(texts[0], as_dict=True) if texts else {(path.stem,): frame}
    found = []
    for (name, *_), part in sorted(parts.items(), key=lambda pair: str(pair[0])):
        times = part[time].to_list()
        if len(times) < 3:
            continue
        step = mode(two - one for one, two in pairwise(sorted(set(times))))
        label = f"{path.stem} {name}" if texts else path.stem
        try:
            loads = part[numbers[0]].cast(pl.Float64).fill_null(float("nan")).to_list()
            found.append(regular(label, times, loads, step))
        except ValueError as error:
            raise UserError(f"{path.name}: {error}") from None
    return found


def _published(path: Path, series: Sequence[Series]) -> Published | None:
    """The forecasts of a file, if one of the series is what they are about."""
    frame, time, numbers, _ = _columns(path)
    best: tuple[float, Series, str, list[int]] | None = None
    times = frame[time].to_list()
    for one in series:
        places, rest = zip(*(divmod(at - one.start, one.step) for at in times), strict=True)
        inside = [not gap and 0 <= place < len(one.values) for place, gap in zip(places, rest, strict=True)]
        gaps = {two - first for first, two in pairwise(places)}
        if not all(inside) or 1 not in gaps:
            continue
        loads = one.values[list(places)]
        for column in numbers:
            away = median(np.abs(frame[column].to_numpy() - loads) / np.maximum(np.abs(loads), 1e-12))
            if away < REPEATS and (best is None or away < best[0]):
                best = away, one, column, list(places)
    if best is None:
        return None
    _, found, truth, where = best
    return Published(found.name, where, {name: frame[name].cast(pl.Float64).to_numpy() for name in numbers if name != truth})


def _columns(path: Path) -> tuple[pl.DataFrame, str, list[str], list[str]]:
    """The rows, the column of times (UTC), those of numbers, those of texts. Raises UserError."""
    try:
        frame = pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None
    times = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    if not times:
        raise UserError(f"{path.name} has no column of times; write them as 2026-03-01 13:00:00")
    frame = frame.with_columns(pl.col(times[0]).map_elements(_utc, return_dtype=pl.Datetime("us", "UTC"))).drop_nulls(times[0])
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    return frame, times[0], numbers, texts


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
