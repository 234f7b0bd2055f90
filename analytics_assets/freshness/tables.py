"""The tables of freshness: how tenants' tables stand, what was started and let go, how long each delivery took."""

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
        Column(
            "state",
            "VARCHAR",
            "fresh, late, quiet (nothing came), silent (too long), unusable (what came), held, paused, empty, unknown.",
        ),
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

TIME_TO_INSIGHT = TableSpec(
    name="time_to_insight",
    comment="One row a delivery of new events that readers got, the newest five thousand: seconds of each stage of its way.",
    columns=(
        Column("batch_id", "VARCHAR", "Batch; joins to `batches`."),
        Column("tenant", "VARCHAR", "Tenant the file came for; empty where each row names its own."),
        Column("source", "VARCHAR", "Declared source that the file was read by."),
        Column("file", "VARCHAR", "Name of the file."),
        Column("landed_at", "TIMESTAMP", "Last change of the file in its landing folder, or begin of its load (UTC)."),
        Column("received_at", "TIMESTAMP", "When its load began (UTC)."),
        Column("loaded_at", "TIMESTAMP", "When its events were committed (UTC)."),
        Column("rebuild_began_at", "TIMESTAMP", "When the rebuild of its days began that readers got (UTC)."),
        Column("publish_began_at", "TIMESTAMP", "When the publish began, after everything was judged (UTC)."),
        Column("shown_at", "TIMESTAMP", "When readers got it: the version is built and checked, and swapped in next (UTC)."),
        Column("received_seconds", "DECIMAL(18,4)", "Seconds from its landing to the begin of its load."),
        Column("queued_seconds", "DECIMAL(18,4)", "Seconds that it was loaded and waited for its rebuild, also for locks."),
        Column("processed_seconds", "DECIMAL(18,4)", "Seconds of loading it, rebuilding its days and judging them."),
        Column("published_seconds", "DECIMAL(18,4)", "Seconds of building and checking the version."),
        Column("total_seconds", "DECIMAL(18,4)", "The sum of the four: from its landing to readers."),
    ),
    time_column=None,
    order_by=("shown_at", "landed_at"),
)
