"""The tables that intake fills beside `events`: what was rejected, and what each batch did."""

from analytics_assets.warehouse.spec import Column, TableSpec

REJECTED = TableSpec(
    name="rejected_events",
    comment="Every record that could not become an event, with the reason. Replayable after a fix.",
    columns=(
        Column("tenant_id", "VARCHAR", "Tenant, where the record or its folder named one."),
        Column("source", "VARCHAR", "Declared source that the record came through."),
        Column("landed_for", "VARCHAR", "Tenant that the file was loaded for; empty where each record names its own."),
        Column("reason", "VARCHAR", "Why it was rejected: one word, with a field or a person's reason after a colon."),
        Column("raw", "VARCHAR", "The record, never published: a line, CSV below its header, JSON; 'base64:' if no UTF-8."),
        Column("record_digest", "VARCHAR", "MD5 of source, tenant and raw: the same record has the same digest."),
        Column("copy", "BIGINT", "Number among identical records of one batch, from 1."),
        Column("batch_id", "VARCHAR", "Batch that brought it first; joins to `batches`."),
        Column("received_at", "TIMESTAMP", "When that batch was loaded (UTC)."),
    ),
    time_column=None,
    order_by=("source", "reason"),
)

BATCHES = TableSpec(
    name="batches",
    comment="One row a batch: what was received and what became of it. received = rejected + duplicates + events.",
    columns=(
        Column("batch_id", "VARCHAR", "Digest of the source, the tenant argument and the content of the file."),
        Column("source", "VARCHAR", "Declared source that the file was read by."),
        Column("tenant", "VARCHAR", "Tenant the file came for; empty where each row names its own."),
        Column("file", "VARCHAR", "Name of the file."),
        Column(
            "status",
            "VARCHAR",
            "loaded, replayed (after a fix), withdrawn (events set aside), replaced (identifiers), erased (people), expired "
            "(kept long enough) or set_aside (unreadable).",
        ),
        Column("reason", "VARCHAR", "Why the file was set aside."),
        Column("received", "BIGINT", "Records in the file; where events were taken out for good as many less than none."),
        Column("rejected", "BIGINT", "Records kept in `rejected_events`."),
        Column("duplicates", "BIGINT", "Records whose event was already there, in this file or an earlier one."),
        Column("events", "BIGINT", "Records that became new events; of those taken out as many less than none."),
        Column("seconds", "DOUBLE", "Wall time of loading, in seconds."),
        Column("bytes", "BIGINT", "Size of the file, in bytes."),
        Column("rejected_by_reason", "VARCHAR", "JSON object: reason to count."),
        Column("undeclared", "VARCHAR", "Columns of the file that its source does not declare, by comma; empty for none."),
        Column("days", "DATE[]", "Days (UTC) that got new events, or wait for a rebuild without some."),
        Column("event_from", "TIMESTAMP", "Time of the earliest accepted event (UTC)."),
        Column("event_to", "TIMESTAMP", "Time of the latest accepted event (UTC)."),
        Column("received_at", "TIMESTAMP", "When loading began (UTC)."),
        Column("events_version", "BIGINT", "Version of the events table that holds the batch."),
        Column("events_by_tenant", "VARCHAR", "JSON object: tenant to its new events; empty before it was noted."),
        Column("landed_at", "TIMESTAMP", "Last change of the file in its landing folder (UTC); empty if loaded by hand."),
        Column("loaded_at", "TIMESTAMP", "When its events were committed (UTC); empty if nothing was."),
    ),
    time_column="received_at",
    order_by=("received_at",),
)
