"""The tables of telemetry: what steps and queries took, and what that cost."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from analytics_assets.warehouse.spec import Column, TableSpec

Outcome = Literal["success", "failure", "out_of_memory", "timeout", "cancelled", "killed"]

STEP_TELEMETRY = TableSpec(
    name="step_telemetry",
    comment="One row an attempt of a step of a run that has ended: what it took, and what became of it.",
    columns=(
        Column("run_id", "VARCHAR", "Run, as Dagster names it."),
        Column("job", "VARCHAR", "Job of the run, or the one whose work it did."),
        Column("step", "VARCHAR", "Step of the job."),
        Column("attempt", "INTEGER", "1 for the first, more for a retry."),
        Column("date", "DATE", "Day (UTC) on which the attempt began."),
        Column("started_at", "TIMESTAMP", "When the attempt began (UTC)."),
        Column("queue_seconds", "DOUBLE", "Seconds from asking for the run to its start; the same for all its steps."),
        Column("outcome", "VARCHAR", "success, failure, out_of_memory, timeout, cancelled, or killed (it never told its end)."),
        Column("error_class", "VARCHAR", "Class of what was raised; empty for a success."),
        Column("lower_bound", "BOOLEAN", "It did not succeed, or was not measured to its end: it would take this or more."),
        Column("wall_seconds", "DOUBLE", "Seconds, also what Dagster itself did for the step."),
        Column("cpu_seconds", "DOUBLE", "Processor seconds of the process and of its children that ended."),
        Column("peak_memory_bytes", "BIGINT", "Most memory of the process and its children at once (RSS, shared pages too)."),
        Column("memory_before_bytes", "BIGINT", "Memory of the process when the step began."),
        Column("shared_process", "BOOLEAN", "Other steps of the run had the same process: its memory holds what they left."),
        Column("duckdb_peak_bytes", "BIGINT", "Most memory of one DuckDB connection at once, by its profile; without dbt's."),
        Column(
            "duckdb_thread_seconds",
            "DOUBLE",
            "Seconds that DuckDB's threads worked or waited, by its profile; without dbt's.",
        ),
        Column(
            "queries",
            "BIGINT",
            "Statements DuckDB completed, by its profile; empty for runs without one. Without dbt's.",
        ),
        Column("bytes_read", "BIGINT", "Bytes that the process read, also from the page cache."),
        Column("bytes_written", "BIGINT", "Bytes that the process wrote, also its log."),
        Column("bytes_spilled", "BIGINT", "Most bytes in DuckDB's temporary files, seen twice a second, or by its profile."),
        Column("rows_read", "BIGINT", "Rows that DuckDB took from files and its own tables, by its profile; without dbt's."),
        Column("rows_written", "BIGINT", "Rows in files that were written to tables of the warehouse."),
        Column("rows_by_table", "VARCHAR", "JSON object: of these, rows a table."),
        Column("assets", "VARCHAR", "JSON list of the assets that the step was to make."),
        Column("code_version", "VARCHAR", "Digest of code, models and declarations."),
        Column("memory_limit_bytes", "BIGINT", "Memory limit of DuckDB that was in force."),
        Column("threads", "INTEGER", "Threads of DuckDB that were in force."),
        Column("config_source", "VARCHAR", "Where these come from: default, limits.yaml, pinned, or the model."),
        Column("tenant", "VARCHAR", "Tenant for whom alone the step ran; empty if for several."),
        Column("partition", "VARCHAR", "Partition of the run, or its first and last with '..' between."),
        Column("rows_by_tenant", "VARCHAR", "JSON object: rows that the step took in, a tenant; empty where it took in none."),
        Column(
            "input_bytes",
            "BIGINT",
            "Bytes that lay before it as it began: files that waited, or those of the tables it reads, on its days.",
        ),
        Column("input_rows", "BIGINT", "Rows in these; empty where only reading them would tell."),
    ),
    time_column="date",
    order_by=("started_at",),
)


@dataclass(frozen=True)
class StepTelemetry:
    """A row of `step_telemetry`. What was not measured is None."""

    run_id: str
    job: str
    step: str
    attempt: int
    date: date
    started_at: datetime
    queue_seconds: float | None
    outcome: Outcome
    error_class: str | None
    lower_bound: bool
    wall_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    memory_before_bytes: int | None
    shared_process: bool | None
    duckdb_peak_bytes: int | None
    duckdb_thread_seconds: float | None
    queries: int | None
    bytes_read: int | None
    bytes_written: int | None
    bytes_spilled: int | None
    rows_read: int | None
    rows_written: int | None
    rows_by_table: str | None
    assets: str
    code_version: str | None
    memory_limit_bytes: int | None
    threads: int | None
    config_source: str | None
    tenant: str | None
    partition: str | None
    rows_by_tenant: str | None = None
    input_bytes: int | None = None
    input_rows: int | None = None


UNIT_COSTS = TableSpec(
    name="unit_costs",
    comment="One row a step's attempt (or query), table and tenant: a share of what it cost; its rows sum to the whole.",
    columns=(
        Column("date", "DATE", "Day (UTC) on which the attempt began."),
        Column("run_id", "VARCHAR", "Run, as Dagster names it; of a query its id."),
        Column("job", "VARCHAR", "Job of the run, or the one whose work it did; of a query the command."),
        Column("step", "VARCHAR", "Step of the job; of a query its shape."),
        Column("attempt", "INTEGER", "1 for the first, more for a retry."),
        Column("tenant", "VARCHAR", "Tenant whose share it is, by rows; empty where nobody can tell, and for the smallest."),
        Column("table", "VARCHAR", "Table whose share it is, by rows written, of a query in equal parts; empty for none."),
        Column("cost", "DECIMAL(18,9)", "Money for processor, memory and bytes, at the prices of config/prices.yaml then."),
        Column("currency", "VARCHAR", "Three letters (ISO 4217)."),
        Column("basis", "VARCHAR", "What the prices stand on: assumed, or bill."),
        Column("unit", "VARCHAR", "What it is a share of: step, or query."),
    ),
    time_column="date",
    order_by=("date", "run_id"),
)


@dataclass(frozen=True)
class UnitCost:
    """A row of `unit_costs`."""

    date: date
    run_id: str
    job: str
    step: str
    attempt: int
    tenant: str | None
    table: str
    cost: Decimal
    currency: str
    basis: str
    unit: Literal["step", "query"] = "step"


QUERY_LOG = TableSpec(
    name="query_log",
    comment="One row a query of the published file by the command: what it took. Who asked, and what, stands in the audit log.",
    columns=(
        Column("query_id", "VARCHAR", "Sixteen hex digits."),
        Column("date", "DATE", "Day (UTC) on which it was asked."),
        Column("asked_at", "TIMESTAMP", "When it was asked (UTC)."),
        Column("command", "VARCHAR", "Command that asked."),
        Column("role", "VARCHAR", "Zones that limited who asked, or the role it was asked for; empty for neither."),
        Column("audit_entry", "BIGINT", "Entry of the audit log that tells who asked."),
        Column("shape", "VARCHAR", "Digest of its words without the values in it: the same for queries that differ in these."),
        Column("version", "BIGINT", "Published version that was read."),
        Column("tables", "VARCHAR", "JSON list of the published tables that it reads."),
        Column("outcome", "VARCHAR", "success, refused (the command did not run it), or failure."),
        Column("error_class", "VARCHAR", "Class of what was raised; empty for a success."),
        Column("seconds", "DOUBLE", "Seconds to the last row of the answer, without what the command does with it."),
        Column("cpu_seconds", "DOUBLE", "Processor seconds of the process meanwhile."),
        Column("memory_bytes", "BIGINT", "Memory of the process when it ended."),
        Column("bytes_read", "BIGINT", "Bytes that the process read meanwhile, also from the page cache."),
        Column("rows", "BIGINT", "Rows of the answer; empty for none."),
    ),
    time_column="date",
    order_by=("asked_at",),
)


@dataclass(frozen=True)
class Query:
    """A row of `query_log`. What was not measured is None."""

    query_id: str
    date: date
    asked_at: datetime
    command: str
    role: str | None
    audit_entry: int | None
    shape: str
    version: int
    tables: str
    outcome: Literal["success", "refused", "failure"]
    error_class: str | None
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    bytes_read: int | None
    rows: int | None


RELIABILITY_METRICS = TableSpec(
    name="reliability_metrics",
    comment="One row a group of assets: how often its runs succeed, how long it goes well, how soon it is mended.",
    columns=(
        Column("asset_group", "VARCHAR", "Group of assets, as Dagster's UI shows it."),
        Column("runs", "BIGINT", "Runs that began a step of the group; one that a person cancelled is none."),
        Column("failed", "BIGINT", "Of these, runs in which a step of the group failed."),
        Column("success_rate", "DOUBLE", "Share of the runs that did not fail."),
        Column("times_broken", "BIGINT", "Times that it broke: from a failed run to the next that succeeds."),
        Column("mtbf_hours", "DOUBLE", "Mean time between failures: hours that went well for each time; empty for none."),
        Column("mttr_hours", "DOUBLE", "Mean time to recovery: hours until it was mended; empty if that never happened."),
        Column("broken_since", "TIMESTAMP", "Since when it has been broken (UTC); empty if it is well."),
        Column("success_rate_earlier", "DOUBLE", "That of the earlier half of the time."),
        Column("success_rate_later", "DOUBLE", "That of the later half."),
        Column("since", "TIMESTAMP", "Begin of what is told (UTC): the first step that is known, 90 days at most."),
        Column("until", "TIMESTAMP", "Its end (UTC)."),
    ),
    time_column=None,
    order_by=("asset_group",),
)

Measure = Literal["query_seconds", "job_seconds", "rows_per_second", "processors_used", "disk_used", "manual_actions"]

PERFORMANCE_METRICS = TableSpec(
    name="performance_metrics",
    comment="One row a week, measure and command, job or act: how well the system did, against the weeks before.",
    columns=(
        Column("week", "DATE", "Monday (UTC) on which the week begins."),
        Column("measure", "VARCHAR", "query_seconds, job_seconds (of runs that succeed), rows_per_second (written by steps), "
               "processors_used (of those that steps are given), disk_used, manual_actions (from the audit log)."),
        Column("name", "VARCHAR", "Command, job, or kind of action; all for what is told of the whole."),
        Column("value", "DOUBLE", "Seconds: the median. Used: a share, 0 to 1. Actions: how many."),
        Column("slow", "DOUBLE", "Seconds of which 95 of 100 took less; empty for other measures."),
        Column("samples", "BIGINT", "Queries, runs or steps that it stands on; empty for what is looked at once."),
        Column("whole", "BOOLEAN", "The week is over; else it is told as far as it went."),
        Column("baseline", "DOUBLE", "Median of `value` in the four weeks before, as far as they are known; empty for none."),
        Column("ratio", "DOUBLE", "`value` over `baseline`; empty without one, or if that is zero."),
        Column("trend", "DOUBLE", "Change a week over the last eight, as a part of their median; empty for fewer than three."),
        Column("low", "DOUBLE", "Begin of the band in which `value` should be; empty for a measure without one."),
        Column("high", "DOUBLE", "End of the band."),
        Column("advice", "VARCHAR", "What to do about a value outside of its band."),
    ),
    time_column=None,
    order_by=("measure", "name", "week"),
)  # fmt: skip


@dataclass(frozen=True)
class Performance:
    """A row of `performance_metrics`."""

    week: date
    measure: Measure
    name: str
    value: float
    slow: float | None
    samples: int | None
    whole: bool
    baseline: float | None
    ratio: float | None
    trend: float | None
    low: float | None
    high: float | None
    advice: str | None

    @property
    def within(self) -> bool | None:
        """Whether the value lies in its band; None for a measure without one."""
        return None if self.low is None or self.high is None else self.low <= self.value <= self.high
