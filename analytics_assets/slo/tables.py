"""The tables of service levels: what is promised, what was measured, what is left, and what that stops."""

from analytics_assets.warehouse.spec import Column, TableSpec

# One lock for all small notes that are kept while looking.
WATCH_LOCK = "watch"

_OF_WHOM = (
    Column("slo", "VARCHAR", "ingestion_lag, freshness, query_latency or pipeline_success."),
    Column("tier", "VARCHAR", "Tenant tier, whose objective counts."),
)
_TENANT = Column("tenant_id", "VARCHAR", "Tenant; empty where the SLO is about all of them together.")

SLO_DEFINITIONS = TableSpec(
    name="slo_definitions",
    comment="One row an SLO and tenant tier: what is promised for how much of the time.",
    columns=(
        *_OF_WHOM,
        Column("promise", "VARCHAR", "What is promised."),
        Column("objective", "DOUBLE", "Share of the window in which the promise is kept."),
        Column("window_days", "BIGINT", "Days over which the budget is counted."),
        Column("budget_minutes", "DOUBLE", "Minutes of the window in which the promise may be broken."),
        Column("limit", "DOUBLE", "Beyond it the promise is broken; empty where other declarations say it."),
        Column("unit", "VARCHAR", "Unit of `limit`: minutes or seconds."),
    ),
    time_column=None,
    order_by=("slo", "tier"),
)

SLO_MEASUREMENTS = TableSpec(
    name="slo_measurements",
    comment="One row an SLO, tenant and day of its window: minutes in which the promise was kept, and in which it was broken.",
    columns=(
        *_OF_WHOM,
        _TENANT,
        Column("day", "DATE", "Day (UTC)."),
        Column("good_minutes", "DOUBLE", "Minutes in which the promise was kept, or excused."),
        Column("bad_minutes", "DOUBLE", "Minutes in which it was broken; with the good ones all measured minutes of the day."),
        Column("objective", "DOUBLE", "Share of good minutes that is promised."),
    ),
    time_column=None,
    order_by=("slo", "tier", "tenant_id", "day"),
)

SLO_ERROR_BUDGET = TableSpec(
    name="slo_error_budget",
    comment="One row an SLO and tenant: what is left of the minutes in which the promise may be broken, and how fast they go.",
    columns=(
        *_OF_WHOM,
        _TENANT,
        Column("budget_minutes", "DOUBLE", "Minutes of the window in which the promise may be broken."),
        Column("bad_minutes", "DOUBLE", "Minutes in which it was broken."),
        Column("remaining", "DOUBLE", "Share of the budget that is left; below 0 when overspent."),
        Column("burn_rates", "VARCHAR", "JSON object: hours looked back to the burn; 1 uses up the budget in the window."),
        Column("state", "VARCHAR", "ok, warn, page or freeze, by the declared thresholds."),
        Column("since", "TIMESTAMP", "Since when it is in this state, to a minute (UTC); empty for ok."),
        Column("reason", "VARCHAR", "Why, in a sentence."),
    ),
    time_column=None,
    order_by=("slo", "tier", "tenant_id"),
)

RELEASE_GATE = TableSpec(
    name="release_gate",
    comment="One row a change of the release gate. Frozen stops promotions and rollouts; data are published all the same.",
    columns=(
        Column("state", "VARCHAR", "open or frozen."),
        Column("since", "TIMESTAMP", "From when on (UTC)."),
        Column("until", "TIMESTAMP", "Until when (UTC); empty while it stands."),
        Column("reason", "VARCHAR", "Why."),
        Column("by", "VARCHAR", "Who: a person, or `error budget`."),
    ),
    time_column=None,
    order_by=("since",),
)

QUERY_PROBES = TableSpec(
    name="query_probes",
    comment="One row an answer of the published file to a declared probe.",
    columns=(
        Column("name", "VARCHAR", "Name of the probe."),
        Column("probed_at", "TIMESTAMP", "When it was asked (UTC)."),
        Column("version", "BIGINT", "Published version that was asked."),
        Column("seconds", "DOUBLE", "Time from opening the file to the last row; empty if it failed."),
        Column("reason", "VARCHAR", "Why it failed; empty otherwise."),
    ),
    time_column=None,
    order_by=("probed_at", "name"),
)

RUN_TURNS = TableSpec(
    name="run_turns",
    comment="One row a run with which a job began to fail, or was mended.",
    columns=(
        Column("run_id", "VARCHAR", "Run."),
        Column("job", "VARCHAR", "Job."),
        Column("ended_at", "TIMESTAMP", "When it ended (UTC)."),
        Column("failed", "BOOLEAN", "Whether it failed."),
        Column("reason", "VARCHAR", "What it failed with; empty otherwise."),
    ),
    time_column=None,
    order_by=("ended_at",),
)
