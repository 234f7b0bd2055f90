"""What was known of a run of a step as it began, and what came of it once it was over: rows of `step_features`.

Features hold nothing that came after the begin: of the runs before, only those that were over by then. What came of a run
stands in other columns, which are empty until it is over. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush
from statistics import median
from typing import Any

from analytics_assets.telemetry.partitions import days_in
from analytics_assets.tuning.classes import input_class
from analytics_assets.tuning.history import StepRun
from analytics_assets.warehouse.spec import Column, TableSpec

# Of so many runs that were over last, what they needed is told.
RECENT = 20

STEP_FEATURES = TableSpec(
    name="step_features",
    comment="One row a run of a step that tuning can learn from: what was known as it began, and what came of it.",
    columns=(
        Column("run_id", "VARCHAR", "Run, as Dagster names it."),
        Column("step", "VARCHAR", "Step of the job."),
        Column("began_at", "TIMESTAMP", "When its first attempt began (UTC): all up to `typical_seconds` was known then."),
        Column("job", "VARCHAR", "Job of the run, or the one whose work it did."),
        Column("weekday", "INTEGER", "Day of the week (UTC), 1 for Monday."),
        Column("hour", "INTEGER", "Hour of the day (UTC)."),
        Column("tenant", "VARCHAR", "Tenant for whom alone it ran; empty if for several."),
        Column("partition", "VARCHAR", "Partition of the run, or its first and last with '..' between."),
        Column("days", "INTEGER", "Days from the first to the last of the partition."),
        Column("code_version", "VARCHAR", "Digest of code, models and declarations."),
        Column("input_bytes", "BIGINT", "Bytes that lay before it: files that waited, or those of the tables it reads."),
        Column("input_rows", "BIGINT", "Rows in these; empty where only reading them would tell."),
        Column("input_class", "VARCHAR", "Class of these bytes, by its upper end."),
        Column("memory_mb", "BIGINT", "Memory limit of DuckDB of its first attempt, in MB."),
        Column("threads", "INTEGER", "Threads of DuckDB of its first attempt."),
        Column("config_source", "VARCHAR", "Where these come from: default, limits.yaml, pinned, or the model."),
        Column("runs_before", "BIGINT", "Runs of the step that were over by then."),
        Column("out_of_memory_before", "INTEGER", f"Of the last {RECENT} of these, how many ran out of memory in an attempt."),
        Column("failed_before", "INTEGER", f"Of the last {RECENT} of these, how many failed in the end."),
        Column("last_need_mb", "DOUBLE", "What the last of these needed that is known, in MB."),
        Column("typical_need_mb", "DOUBLE", f"Median of what the last {RECENT} of these needed, in MB."),
        Column("most_need_mb", "DOUBLE", f"Most of what the last {RECENT} of these needed, in MB."),
        Column("last_seconds", "DOUBLE", "What the last of these took, with all attempts."),
        Column("typical_seconds", "DOUBLE", f"Median of what the last {RECENT} of these took."),
        Column("ended_at", "TIMESTAMP", "When its last attempt ended (UTC); this and all that follows is empty before."),
        Column("outcome", "VARCHAR", "What became of the last attempt, as in `step_telemetry`."),
        Column("attempts", "INTEGER", "Attempts, as far as each was measured."),
        Column("need_mb", "DOUBLE", "Memory that DuckDB needed, in MB; empty if it did not succeed."),
        Column("seconds", "DOUBLE", "Seconds of all attempts."),
    ),
    time_column=None,
    order_by=("began_at", "step"),
)  # fmt: skip
# The columns that say what came of a run.
LABELS = ("ended_at", "outcome", "attempts", "need_mb", "seconds")


@dataclass(frozen=True)
class StepFeatures:
    """A row of `step_features`. Times in UTC without an offset."""

    run_id: str
    step: str
    began_at: datetime
    job: str
    weekday: int
    hour: int
    tenant: str | None
    partition: str | None
    days: int | None
    code_version: str | None
    input_bytes: int | None
    input_rows: int | None
    input_class: str | None
    memory_mb: int
    threads: int | None
    config_source: str
    runs_before: int
    out_of_memory_before: int
    failed_before: int
    last_need_mb: float | None
    typical_need_mb: float | None
    most_need_mb: float | None
    last_seconds: float | None
    typical_seconds: float | None
    ended_at: datetime | None = None
    outcome: str | None = None
    attempts: int | None = None
    need_mb: float | None = None
    seconds: float | None = None


def features(runs: Mapping[str, Sequence[StepRun]], now: datetime) -> list[StepFeatures]:
    """A row for each run that had begun by `now`, oldest first; what came of it, if it was over by then."""
    rows = [row for step, known in runs.items() for row in _of_step(step, known, now)]
    return sorted(rows, key=lambda row: (row.began_at, row.step, row.run_id))


def _of_step(step: str, runs: Iterable[StepRun], now: datetime) -> Iterator[StepFeatures]:
    under_way: list[tuple[datetime, str, StepRun]] = []
    over: list[StepRun] = []
    gone = 0
    for run in sorted(runs, key=lambda one: (one.began, one.run_id)):
        if run.began > now:
            break
        while under_way and under_way[0][0] < run.began:
            over.append(heappop(under_way)[2])
        gone += max(0, len(over) - RECENT)
        del over[:-RECENT]
        yield StepFeatures(**_known(step, run), **_before(over, gone + len(over)), **_came(run, now))
        heappush(under_way, (run.ended, run.run_id, run))


def _known(step: str, run: StepRun) -> dict[str, Any]:
    begun = run.begun
    days = days_in(begun.partition)
    return {
        "run_id": run.run_id, "step": step, "began_at": run.began, "job": begun.job, "weekday": run.began.isoweekday(),
        "hour": run.began.hour, "tenant": begun.tenant, "partition": begun.partition,
        "days": None if days is None else (days[1] - days[0]).days + 1, "code_version": begun.code_version,
        "input_bytes": begun.input_bytes, "input_rows": begun.input_rows, "input_class": input_class(begun.input_bytes),
        "memory_mb": run.limit_mb, "threads": begun.threads, "config_source": run.source,
    }  # fmt: skip


def _before(over: Sequence[StepRun], count: int) -> dict[str, Any]:
    """Of the runs that were over, `over` are the last, the newest at the end."""
    needs = [run.need_mb for run in over if run.need_mb is not None]
    seconds = [run.seconds for run in over]
    return {
        "runs_before": count, "out_of_memory_before": sum(bool(run.over_mb) for run in over),
        "failed_before": sum(run.failed for run in over), "last_need_mb": needs[-1] if needs else None,
        "typical_need_mb": median(needs) if needs else None, "most_need_mb": max(needs, default=None),
        "last_seconds": seconds[-1] if seconds else None, "typical_seconds": median(seconds) if seconds else None,
    }  # fmt: skip


def _came(run: StepRun, now: datetime) -> dict[str, Any]:
    if run.ended > now:
        return {}
    return {
        "ended_at": run.ended, "outcome": run.outcome, "attempts": run.attempts, "need_mb": run.need_mb,
        "seconds": run.seconds,
    }  # fmt: skip
