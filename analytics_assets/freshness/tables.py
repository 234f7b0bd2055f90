"""The tables of freshness: how each tenant's tables stand, what was started to keep the promises, and what was let go."""

from analytics_assets.warehouse.spec import Column, TableSpec

FRESHNESS_STATUS = TableSpec(
    name="freshness_status",
    comment="One row a tenant and published table: what was promised and how it stood when this version was published.",
    columns=(
        Column("tenant_id", "VARCHAR", "Tenant."),
        Column("table", "VARCHAR", "Name of the published table."),
        Column("tier", "VARCHAR", "Tier that counts: the tenant's own, or the table's."),
        Column("promised_minutes", "DOUBLE", "Minutes from receipt to readers that the tier promises."),
        Column("age_minutes", "DOUBLE", "Minutes that the tenant's oldest unpublished receipt has waited; 0 if none waits."),
        Column("data_through", "TIMESTAMP", "All events received before then are in the published version (UTC)."),
        Column("received_through", "TIMESTAMP", "When the tenant's newest events were received (UTC)."),
        Column("state", "VARCHAR", "fresh, late, quiet (nothing came), silent (for too long), held, paused, empty, unknown."),
        Column("reason", "VARCHAR", "Why, in a sentence."),
    ),
    time_column=None,
    order_by=("tenant_id", "table"),
)

FRESHNESS_ACTIONS = TableSpec(
    name="freshness_actions",
    comment="One row a start of work that a tier asked for; the newest thousand.",
    columns=(
        Column("started_at", "TIMESTAMP", "When it was asked for (UTC)."),
        Column("tier", "VARCHAR", "Strictest tier that was due."),
        Column("action", "VARCHAR", "What was started: refresh and its days, or publish."),
        Column("oldest_receipt", "TIMESTAMP", "Since when the oldest receipt waited (UTC)."),
        Column("reason", "VARCHAR", "Why, in a sentence."),
    ),
    time_column=None,
    order_by=("started_at",),
)

QUEUE_OVERRIDES = TableSpec(
    name="queue_overrides",
    comment="One row a heavy run that a person let go before its off-peak window.",
    columns=(
        Column("let_go_at", "TIMESTAMP", "When it was let go (UTC)."),
        Column("run_id", "VARCHAR", "Dagster's id of the run."),
        Column("work", "VARCHAR", "What the run does, in words."),
        Column("by", "VARCHAR", "User of the operating system who let it go; in the UI the one that runs the UI."),
        Column("how", "VARCHAR", "command (analytics queue release) or tag (analytics/override at the launch)."),
        Column("reason", "VARCHAR", "Why, in that person's words."),
    ),
    time_column=None,
    order_by=("let_go_at",),
)
