"""Task traces of a folder: CSV or Parquet tables with one row a task, as Nextflow writes them.

Ids go by any name: the name of a task is the text column that tells most about the peaks. What was measured is known by the
names below, in any case; memory in bytes, or in the unit its column's name ends with, times as ISO 8601, in seconds or
milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from analytics_assets.settings import UserError
from analytics_assets.tuning.backtest import Case
from analytics_assets.tuning.requests import Task
from analytics_assets.tuning.series import Numbers

# The first of these that a table has. Without the ones in NEEDED it is no trace.
COLUMNS = {
    "peak": ("peak_rss", "peak_memory", "max_rss", "maxrss", "peak_mem", "peak", "rss"),
    "preset": ("memory", "requested_memory", "memory_request", "req_mem", "request", "ram"),
    "seconds": ("realtime", "runtime", "run_time", "elapsed", "wall", "seconds", "duration"),
    "submitted": ("submit", "submitted", "submit_time", "queued"),
    "started": ("start", "started", "start_time"),
    "finished": ("complete", "completed", "end", "finish", "finished", "end_time", "complete_time"),
    "input": ("input_size", "input_bytes", "input", "rchar", "read_bytes"),
    "exit": ("exit", "exit_code", "exitcode"),
    "attempt": ("attempt",),
}
NEEDED = ("peak", "preset", "seconds", "submitted", "finished")
UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
GIB = 2**30
STATUS = {"status", "state"}


@dataclass(frozen=True)
class Trace:
    """The tasks of a file in GiB and seconds. `input_measured`: the size of the input is what the run itself read."""

    name: str
    cases: tuple[Case, ...]
    notes: tuple[str, ...]


def read(folder: Path) -> list[Trace]:
    """The traces in `folder`, in its folders, or in its `task_traces`. Raises UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one with task traces, such as --data ../shared/data")
    inside = [folder / "task_traces"] if (folder / "task_traces").is_dir() else [folder, *sorted(folder.glob("*/"))]
    paths = [path for one in inside for path in sorted(one.glob("*")) if path.suffix in (".csv", ".tsv", ".parquet")]
    traces = [trace for path in paths if (trace := _trace(path)) is not None]
    if not traces:
        wanted = ", ".join(COLUMNS[name][0] for name in NEEDED)
        raise UserError(f"{folder} holds no task trace: a table with the columns {wanted} and a text column of task names")
    return traces


def _trace(path: Path) -> Trace | None:
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            frame = pl.read_csv(path, separator="\t" if path.suffix == ".tsv" else ",", infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None
    columns = {what: found for what in COLUMNS if (found := _column(frame, what)) is not None}
    if any(what not in columns for what in NEEDED):
        return None
    name = _names(frame, set(columns.values()), columns["peak"])
    if name is None:
        return None
    values = {what: _numbers(frame[column], what) for what, column in columns.items()}
    for what in ("submitted", "started", "finished"):
        if what in values and np.nanmedian(values[what]) > 1e11:
            values[what] = values[what] / 1e3
    spans = values["finished"] - values.get("started", values["submitted"])
    if np.nanmedian(values["seconds"]) > 50 * max(float(np.nanmedian(spans)), 1e-3):
        values["seconds"] = values["seconds"] / 1e3
    good = np.logical_and.reduce([np.isfinite(values[what]) for what in NEEDED]) & (values["preset"] > 0)
    good &= (values["peak"] >= 0) & (values["seconds"] >= 0) & (values["finished"] >= values["submitted"])
    measured = good & (values["exit"] == 0) if "exit" in values else good & ~_failed(frame)
    notes = []
    if left := int((~measured).sum()):
        notes.append(f"{path.stem}: {left:,} of {len(frame):,} rows are left out: the run failed, or something is not known")
    if not measured.any():
        return None
    names = [str(one) for one in frame[name]]
    return Trace(path.stem, tuple(_cases(names, values, measured)), tuple(notes))


def _cases(names: Sequence[str], values: dict[str, Numbers], measured: np.ndarray) -> list[Case]:
    # A second attempt asked for more since the first was killed: that is not known at the first one.
    least: dict[str, float] = {}
    for row in map(int, np.flatnonzero(measured)):
        least[names[row]] = min(least.get(names[row], np.inf), values["preset"][row])
    later = values["attempt"] > 1 if "attempt" in values else np.zeros(len(names), bool)
    sizes = values.get("input")
    cases = []
    for row in map(int, np.flatnonzero(measured)):
        preset = least[names[row]] if later[row] else values["preset"][row]
        seconds = float(values["seconds"][row])
        started = values["started"][row] if "started" in values else values["finished"][row] - seconds
        known = sizes is not None and bool(np.isfinite(sizes[row]))
        features = (float(sizes[row]),) if known and sizes is not None else ()
        task = Task(names[row], float(preset) / GIB, features)
        cases.append(Case(task, float(values["submitted"][row]), float(started), float(values["peak"][row]) / GIB, seconds))
    return cases


def _failed(frame: pl.DataFrame) -> np.ndarray:
    """Rows whose state says that the run did not get to its end."""
    states = [column for column, kind in frame.schema.items() if kind == pl.String and column.lower() in STATUS]
    ended = r"(?i)fail|abort|kill|memory|timeout|cancel"
    said = [frame[column].str.contains(ended).fill_null(False).to_numpy() for column in states]
    return np.logical_or.reduce([np.zeros(len(frame), bool), *said])


def _column(frame: pl.DataFrame, what: str) -> str | None:
    """The column that says `what`, with a unit at its end or not."""
    lower = {column.lower(): column for column in frame.columns}
    for name in COLUMNS[what]:
        for ending in ("", *(f"_{unit}" for unit in ("bytes", "b", "s", "ms", *UNITS))):
            if name + ending in lower:
                return lower[name + ending]
    return None


def _names(frame: pl.DataFrame, taken: set[str], peak: str) -> str | None:
    """The text column that tells most about the peaks, of those in which most values come back."""
    peaks = pl.col(peak).cast(pl.Float64, strict=False).clip(1e-9).log()
    best = np.inf
    found: str | None = None
    for column, kind in frame.schema.items():
        if kind != pl.String or column in taken or column.lower() in STATUS:
            continue
        count = frame[column].n_unique()
        numbers = len(frame) - frame[column].cast(pl.Float64, strict=False).null_count()
        if not 1 < count <= max(2, len(frame) // 2) or numbers > len(frame) / 2:
            continue
        left = frame.select((peaks - peaks.mean().over(column)).pow(2).sum() / (len(frame) - count)).item()
        if left is not None and left < best:
            best, found = left, column
    return found


def _numbers(column: pl.Series, what: str) -> Numbers:
    """Its values in bytes or seconds; NaN where there is none."""
    if column.dtype.is_temporal():
        return column.dt.epoch("ms").cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if column.dtype == pl.String and what in ("submitted", "started", "finished"):
        parsed = column.str.to_datetime(strict=False)
        if parsed.null_count() < len(parsed):
            return parsed.dt.epoch("ms").cast(pl.Float64).fill_null(float("nan")).to_numpy()
    values = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    unit = column.name.lower().rsplit("_", 1)[-1]
    if what in ("peak", "preset", "input"):
        return values * UNITS.get(unit, 1.0)
    return values / 1e3 if what == "seconds" and unit == "ms" else values
