"""What an event is: the columns of `events`, their types, units and meaning, and the limits an event must respect.

Sources write relations in this shape; nothing here reads or writes.
"""

from analytics_assets.warehouse.spec import Column, TableSpec

# What a source fills. Times are UTC without a zone; money is in the currency that `currency` names.
SOURCE_COLUMNS: tuple[Column, ...] = (
    Column("tenant_id", "VARCHAR", "Tenant the event belongs to, a declared slug."),
    Column("message_id", "VARCHAR", "Identity of the event within its tenant, given by the sender."),
    Column("type", "VARCHAR", "Kind of call: track, page, screen, identify, group or alias."),
    Column("event", "VARCHAR", "Name of the event; for page and screen calls the kind of view."),
    Column("user_id", "VARCHAR", "Known user, by pseudonym or as the sender names them; empty for an anonymous event."),
    Column("anonymous_id", "VARCHAR", "Device or browser, by pseudonym or as the sender names it."),
    Column("session_id", "VARCHAR", "Session as the source gives it, by pseudonym or in clear; empty where it gives none."),
    Column("timestamp", "TIMESTAMP", "When it happened (UTC), corrected for the clock of the device where known."),
    Column("received_at", "TIMESTAMP", "When the collector received it (UTC); the time of loading if the source is silent."),
    Column("properties", "VARCHAR", "What the sender said about it: a JSON object."),
    Column("context", "VARCHAR", "Surroundings (library, page, campaign, device): a JSON object."),
    Column("revenue", "DECIMAL(18,4)", "Money the event brings, negative for a return, in `currency`; rounded to 4 decimals."),
    Column("quantity", "BIGINT", "Pieces sold, negative for a return."),
    Column("currency", "VARCHAR", "ISO 4217 code of `revenue`."),
    Column("order_id", "VARCHAR", "Order or invoice the event belongs to."),
    Column("product_id", "VARCHAR", "Product the event is about."),
    Column("campaign", "VARCHAR", "Marketing campaign that led here."),
    Column("region", "VARCHAR", "Country or region of the customer."),
    Column("page_view_id", "VARCHAR", "Page view the event belongs to, where the source gives one."),
    Column("page_url", "VARCHAR", "Address of the page."),
    Column("page_title", "VARCHAR", "Title of the page."),
)

EVENTS = TableSpec(
    name="events",
    comment="Every accepted event exactly once, by (tenant_id, message_id).",
    columns=(
        *SOURCE_COLUMNS,
        Column("source", "VARCHAR", "Declared source that the event came through."),
        Column("batch_id", "VARCHAR", "Batch that brought the event; joins to `batches`."),
        Column("message_key", "BIGINT", "Hash of (tenant_id, message_id), for joins inside the warehouse."),
    ),
    time_column="timestamp",
    order_by=("tenant_id", "timestamp"),
)

TYPES = ("track", "page", "screen", "identify", "group", "alias")
