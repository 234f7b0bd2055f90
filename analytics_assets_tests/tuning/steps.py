"""A step's rows of `step_telemetry` and its runs, healthy, for tests that change one thing."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from analytics_assets.telemetry.tables import StepTelemetry
from analytics_assets.tuning.history import StepRun

MB = 1_000_000
MACHINE = 16_000 * MB


def a_row(began: datetime, run_id: str = "run-1", **changes: Any) -> StepTelemetry:
    """An attempt that had 512 MB, needed 120 and took ten seconds."""
    row = StepTelemetry(
        run_id=run_id, job="refresh", step="sessions", attempt=1, date=began.date(), started_at=began, queue_seconds=1.0,
        outcome="success", error_class=None, lower_bound=False, wall_seconds=10.0, cpu_seconds=8.0,
        peak_memory_bytes=500 * MB, memory_before_bytes=300 * MB, shared_process=True, duckdb_peak_bytes=120 * MB,
        duckdb_thread_seconds=9.0, queries=20, bytes_read=1, bytes_written=1, bytes_spilled=0, rows_read=1, rows_written=1,
        rows_by_table=None, assets='["page_views", "sessions"]', code_version="a", memory_limit_bytes=512 * MB, threads=2,
        config_source="default", tenant=None, partition=None,
    )  # fmt: skip
    return replace(row, **changes)


def a_run(began: datetime, **changes: Any) -> StepRun:
    """A run that had 512 MB, needed 120 and took ten seconds."""
    run = StepRun(
        run_id=f"{began:%Y%m%d%H%M}", began=began, source="default", limit_mb=512, need_mb=120.0, over_mb=(), seconds=10.0,
        gib_hours=10.0, failed=False,
    )  # fmt: skip
    return replace(run, **changes)


def daily(now: datetime, days: int, **changes: Any) -> list[StepRun]:
    """A run a day, the newest just before `now`; each a little different from the one before."""
    when = [now - timedelta(days=days - 1 - day, hours=1) for day in range(days)]
    runs = [a_run(one, **changes) for one in when]
    return [replace(run, gib_hours=run.gib_hours * (1 + 0.01 * (place % 7))) for place, run in enumerate(runs)]
