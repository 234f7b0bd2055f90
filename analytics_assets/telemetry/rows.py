"""From what the orchestrator noted of a step and what was measured of it to a row of `step_telemetry`. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from analytics_assets.telemetry.journal import Key
from analytics_assets.telemetry.tables import Outcome, StepTelemetry

# Raised by DuckDB, by Python and by dbt where memory was at its end, and where no attempt can have more.
_OUT_OF_MEMORY = {"OutOfMemoryException", "MemoryError", "MartsOutOfMemoryError", "NotEnoughMemory"}
# Raised where a step took much longer than such runs do.
_TIMEOUT = "StepTimeout"
# What Dagster says of a step whose process was told to stop, or is gone.
_CANCELLED, _GONE = {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}, {"ChildProcessCrashException"}


@dataclass(frozen=True)
class Attempt:
    """What the orchestrator noted of one attempt of a step. `succeeded` is None for one that never said how it ended."""

    key: Key
    job: str
    started_at: datetime
    ended_at: datetime | None
    succeeded: bool | None
    error_class: str | None
    run_cancelled: bool
    queue_seconds: float | None
    assets: tuple[str, ...]
    tenant: str | None
    partition: str | None


def outcome(attempt: Attempt) -> Outcome:
    if attempt.succeeded:
        return "success"
    if attempt.error_class in _OUT_OF_MEMORY:
        return "out_of_memory"
    if attempt.error_class == _TIMEOUT:
        return "timeout"
    if attempt.error_class in _CANCELLED or (attempt.succeeded is None and attempt.run_cancelled):
        return "cancelled"
    if attempt.succeeded is None or attempt.error_class in _GONE:
        return "killed"
    return "failure"


def row(attempt: Attempt, seen: Mapping[str, Any] | None) -> StepTelemetry:
    """`seen` is the last line of the attempt's journal; None if there is none."""
    line = dict(seen or {})
    became = outcome(attempt)
    by_table = line.get("rows_written")
    return StepTelemetry(
        run_id=attempt.key.run_id,
        job=attempt.job,
        step=attempt.key.step,
        attempt=attempt.key.attempt,
        date=attempt.started_at.date(),
        started_at=attempt.started_at,
        queue_seconds=attempt.queue_seconds,
        outcome=became,
        error_class=attempt.error_class,
        lower_bound=became != "success" or not line.get("ended", False),
        wall_seconds=line.get("seconds", _between(attempt)),
        cpu_seconds=line.get("cpu_seconds"),
        peak_memory_bytes=line.get("peak"),
        memory_before_bytes=line.get("memory_before"),
        shared_process=line.get("shared"),
        duckdb_peak_bytes=line.get("duckdb_peak"),
        duckdb_thread_seconds=line.get("duckdb_thread_seconds"),
        queries=line.get("queries"),
        bytes_read=line.get("read"),
        bytes_written=line.get("written"),
        bytes_spilled=line.get("spilled"),
        rows_read=line.get("rows_read"),
        rows_written=None if by_table is None else sum(by_table.values()),
        rows_by_table=None if by_table is None else json.dumps(by_table, sort_keys=True),
        assets=json.dumps(sorted(attempt.assets)),
        code_version=line.get("code_version"),
        memory_limit_bytes=line.get("memory_limit"),
        threads=line.get("threads"),
        config_source=line.get("config_source"),
        tenant=attempt.tenant,
        partition=attempt.partition,
        rows_by_tenant=json.dumps(line["rows_by_tenant"], sort_keys=True) if line.get("rows_by_tenant") else None,
        input_bytes=line.get("input_bytes"),
        input_rows=line.get("input_rows"),
    )


def _between(attempt: Attempt) -> float | None:
    """Seconds by the orchestrator's clock, which may have been set back meanwhile."""
    if attempt.ended_at is None:
        return None
    seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    return seconds if seconds >= 0 else None
