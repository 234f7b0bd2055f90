"""The head of the audit log as a table of the published file: whoever keeps a version keeps a checkpoint."""

from datetime import datetime

from analytics_assets.audit.chain import head_of
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import Column, TableSpec

AUDIT_HEAD = TableSpec(
    name="audit_head",
    comment="One row: how far the audit log went when this version was made (`analytics audit verify --checkpoint`).",
    columns=(
        Column("entries", "BIGINT", "Entries of the log."),
        Column("hash", "VARCHAR", "Hash of the last of them: SHA-256 over it and, by it, all before."),
        Column("noted_at", "TIMESTAMP", "When the head was looked up (UTC)."),
    ),
    time_column=None,
    order_by=("entries",),
)


def audit_head(home: Home, now: datetime) -> list[tuple[int, str, datetime]]:
    """The row of `audit_head`; none while nothing is recorded."""
    head = head_of(home)
    return [(head.entries, head.hash, now)] if head.entries else []
