"""What must hold of what people said about consent."""

from analytics_assets.privacy.withheld import CONSENT_STATUS
from analytics_assets.warehouse.expectation import Suite, no_row, one_row_per

CONSENT_SUITE = Suite(
    CONSENT_STATUS,
    (
        one_row_per("consent_status_key", "A person and purpose have one row.", "tenant_id", "person_id", "purpose"),
        no_row("consent_status_is_complete", "Tenant, person, purpose, status and time are known.",
               "tenant_id is null or person_id is null or purpose is null or since is null "
               "or coalesce(status not in ('granted', 'withdrawn'), true)"),
    ),
    day=None,
)  # fmt: skip
