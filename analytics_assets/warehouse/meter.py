"""What DuckDB and the tables do while a step is measured: counted here, where it happens, and read by `telemetry/`.

One measurement at a time in a process. While there is none, nothing is counted and nothing costs.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import duckdb

# DuckDB logs these of every statement in memory. The text of a statement is not among them: it may hold personal data.
_METRICS = ["query.cpu_time", "query.total_rows_scanned", "system.peak_buffer_memory", "system.peak_temp_dir_size"]
_PROFILE = (
    f"set tracked_metrics = {_METRICS!r}; set profiling_coverage = 'ALL'; set enable_profiling = 'no_output'; "
    "call enable_logging('Metrics')"
)
# Not the view `duckdb_logs`, nor DuckDB's own parser of these lines: both cost five times as much as all the rest here.
_PROFILED = "select message from duckdb_logs(denormalized_table = false)"
_LINE = re.compile(r"\{'metric': ([\w.]+), 'value': ([\d.e+-]+),")


@dataclass
class Counts:
    """What was counted since a measurement began. Sizes are bytes; None: DuckDB has said nothing of it yet.

    `duckdb_peak` and `spilled` are the most that one connection held at once, in memory and in its temporary folder. Without
    `profiled`, DuckDB is not asked what it does: that costs a third of a millisecond a statement.
    """

    profiled: bool
    queries: int | None
    duckdb_thread_seconds: float | None
    rows_written: dict[str, int] = field(default_factory=dict)
    rows_by_tenant: dict[str, int] = field(default_factory=dict)
    rows_read: int | None = None
    duckdb_peak: int | None = None
    spilled: int | None = None
    memory_limit: int | None = None
    threads: int | None = None
    config_source: str | None = None
    input_bytes: int | None = None
    input_rows: int | None = None


_counts: Counts | None = None


def start(*, profiled: bool = True) -> Counts:
    """Begin to count; what is counted is added to the object that this returns."""
    global _counts
    _counts = Counts(True, 0, 0.0) if profiled else Counts(False, None, None)
    return _counts


def stop() -> None:
    global _counts
    _counts = None


def wrote(table: str, rows: int) -> None:
    """Count rows written to a file of a table."""
    if _counts is not None:
        _counts.rows_written[table] = _counts.rows_written.get(table, 0) + rows


def brought(by_tenant: Mapping[str, int]) -> None:
    """Count rows that were taken in, by tenant: whose work it was, where a step serves several at once."""
    if _counts is not None:
        for tenant, rows in by_tenant.items():
            _counts.rows_by_tenant[tenant] = _counts.rows_by_tenant.get(tenant, 0) + rows


def given(size: int | None, rows: int | None) -> None:
    """Note how much the step has before it, in bytes and rows, as known when it begins."""
    # Within the step's own connection others may be opened, when it has already changed what it reads.
    if _counts is not None and _counts.memory_limit is None:
        _counts.input_bytes, _counts.input_rows = size, rows


@contextmanager
def watched(con: duckdb.DuckDBPyConnection, *, memory_mb: int, threads: int, source: str) -> Iterator[None]:
    """Count what runs on `con` inside, under which limits it runs, and where these come from."""
    counts = _counts
    if counts is None:
        yield
        return
    # The first connection is the step's own; within it others are opened for a while.
    if counts.memory_limit is None:
        counts.memory_limit, counts.threads, counts.config_source = memory_mb * 1_000_000, threads, source
    if not counts.profiled:
        yield
        return
    con.execute(_PROFILE)
    try:
        yield
    finally:
        # A connection that cannot answer any more must not hide why.
        with suppress(duckdb.Error):
            _add(counts, [line for (line,) in con.execute(_PROFILED).fetchall()])


def _add(counts: Counts, lines: list[str]) -> None:
    """Add up what DuckDB logged of each statement that it completed."""
    found: dict[str, list[float]] = {name: [] for name in _METRICS}
    for match in map(_LINE.match, lines):
        if match and match[1] in found:
            found[match[1]].append(float(match[2]))
    worked, rows, peaks, spilled = (found[name] for name in _METRICS)
    if not peaks:
        # DuckDB says nothing of a statement that failed.
        return
    counts.queries = (counts.queries or 0) + len(peaks)
    counts.duckdb_thread_seconds = (counts.duckdb_thread_seconds or 0.0) + sum(worked)
    counts.rows_read = (counts.rows_read or 0) + int(sum(rows))
    counts.duckdb_peak = max(counts.duckdb_peak or 0, int(max(peaks)))
    counts.spilled = max(counts.spilled or 0, int(max(spilled, default=0)))
