"""Runs of steps as tuning learns from them, from rows of `step_telemetry`; what cannot be right is set aside with a reason.

Memory is what DuckDB needs, in MB. Its profile knows that, where there is one; else it is taken for what the process grew by,
which errs to the safe side. A run that succeeded needed no more than its limit, whatever else its process held; one that
spilled needed all of it. Pure.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from analytics_assets.telemetry.tables import StepTelemetry
from analytics_assets.tuning.classes import input_class
from analytics_assets.tuning.effect import Fared

_MB, _GIB = 1_000_000, 2**30
# DuckDB's profile does not see all that they do: dbt has a connection of its own.
_UNSEEN = {"marts"}
# A clock may be so far ahead of another.
_AHEAD, _LONGEST = timedelta(minutes=5), 7 * 24 * 3600.0


@dataclass(frozen=True)
class Begun:
    """What is known of a run of a step as it begins, beside its limits; None where nobody can tell."""

    job: str = ""
    tenant: str | None = None
    partition: str | None = None
    code_version: str | None = None
    input_bytes: int | None = None
    input_rows: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class StepRun:
    """A run of a step with all its attempts, under one config.

    `need_mb` is None where it is not known: it did not succeed. `over_mb` are the limits with which attempts ran out of memory.
    `waited` are the seconds between its attempts.
    """

    run_id: str
    began: datetime
    source: str
    limit_mb: int
    need_mb: float | None
    over_mb: tuple[int, ...]
    seconds: float
    gib_hours: float
    failed: bool
    begun: Begun = Begun()
    outcome: str = "success"
    attempts: int = 1
    waited: float = 0.0

    @property
    def ended(self) -> datetime:
        return self.began + timedelta(seconds=self.seconds + self.waited)

    @property
    def fared(self) -> Fared:
        return Fared(self.gib_hours, self.seconds, self.failed, bool(self.over_mb))


@dataclass(frozen=True)
class History:
    """Runs of each step, oldest first; how many runs were set aside for which reason; the assets that each step makes."""

    runs: Mapping[str, Sequence[StepRun]]
    set_aside: Mapping[str, int]
    assets: Mapping[str, str]


def history(rows: Sequence[StepTelemetry], machine_bytes: int, now: datetime) -> History:
    """The runs of steps that worked under limits of DuckDB. `now` in UTC without an offset."""
    runs: dict[str, list[StepRun]] = {}
    aside: Counter[str] = Counter()
    assets: dict[str, str] = {}

    def of_step(row: StepTelemetry) -> tuple[str, str]:
        return row.step, row.run_id

    for (step, _), found in groupby(sorted(rows, key=lambda row: (*of_step(row), row.attempt)), of_step):
        attempts = list(found)
        if all(row.memory_limit_bytes is None for row in attempts):
            # It opened no connection, or was lost before it did.
            continue
        wrong = _wrong(attempts, machine_bytes, now)
        if wrong is not None:
            aside[wrong] += 1
            continue
        runs.setdefault(step, []).append(_run(attempts))
        assets[step] = attempts[-1].assets
    ordered = {step: sorted(known, key=lambda run: run.began) for step, known in runs.items()}
    return History(ordered, dict(aside), assets)


def _wrong(attempts: Sequence[StepTelemetry], machine_bytes: int, now: datetime) -> str | None:
    """Why nothing is learned from a run; None if all is well."""
    numbers = [row.attempt for row in attempts]
    if len(set(numbers)) < len(numbers):
        return "an attempt is there twice"
    if numbers != list(range(1, len(numbers) + 1)):
        return "an attempt is missing"
    began = [row.started_at for row in attempts]
    if began != sorted(began):
        return "an attempt began before the one before it"
    if began[-1] > now + _AHEAD:
        return "it began in the future"
    for row in attempts:
        if row.wall_seconds is None or row.peak_memory_bytes is None or row.memory_limit_bytes is None:
            return "it was not measured"
        numbers_of = (
            row.wall_seconds, row.peak_memory_bytes, row.memory_before_bytes, row.duckdb_peak_bytes, row.cpu_seconds,
            row.input_bytes,
        )  # fmt: skip
        if any(value is not None and (not math.isfinite(value) or value < 0) for value in numbers_of):
            return "a time or size is negative"
        if row.wall_seconds > _LONGEST:
            return "it took longer than a week"
        if max(row.peak_memory_bytes, row.duckdb_peak_bytes or 0) > machine_bytes:
            return "it held more memory than there is"
    if attempts[-1].outcome == "cancelled":
        return "it was cancelled"
    return None


def _run(attempts: Sequence[StepTelemetry]) -> StepRun:
    first, last = attempts[0], attempts[-1]
    seconds = sum(row.wall_seconds or 0 for row in attempts)
    ended = last.started_at + timedelta(seconds=last.wall_seconds or 0)
    return StepRun(
        run_id=last.run_id,
        began=first.started_at,
        source=first.config_source or "",
        limit_mb=_limit(first),
        need_mb=_need(last) if last.outcome == "success" and not last.lower_bound else None,
        over_mb=tuple(_limit(row) for row in attempts if row.outcome == "out_of_memory"),
        seconds=seconds,
        gib_hours=sum((row.memory_limit_bytes or 0) / _GIB * (row.wall_seconds or 0) / 3600 for row in attempts),
        failed=last.outcome != "success",
        begun=Begun(
            first.job, first.tenant, first.partition, first.code_version, first.input_bytes, first.input_rows, first.threads
        ),
        outcome=last.outcome,
        attempts=len(attempts),
        waited=max((ended - first.started_at).total_seconds() - seconds, 0.0),
    )


def _limit(row: StepTelemetry) -> int:
    return (row.memory_limit_bytes or 0) // _MB


def _need(row: StepTelemetry) -> float:
    limit = (row.memory_limit_bytes or 0) / _MB
    if row.bytes_spilled:
        return limit
    grown = max((row.peak_memory_bytes or 0) - (row.memory_before_bytes or 0), 0) / _MB
    known = row.duckdb_peak_bytes
    held = grown if known is None else max(known / _MB, grown if row.step in _UNSEEN else 0.0)
    return min(held, limit)


def class_of(run: StepRun) -> str | None:
    """The class of what lay before a run as it began; None where nobody knows."""
    return input_class(run.begun.input_bytes)


def between(runs: Sequence[StepRun], first: datetime, last: datetime) -> Iterator[StepRun]:
    """Those that began from `first` to `last`, both included."""
    return (run for run in runs if first <= run.began <= last)
