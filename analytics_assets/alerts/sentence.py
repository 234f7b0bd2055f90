"""What customers and those who support them may be told: sentences from the state, in words that need no explanation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from analytics_assets.freshness.judge import BROKEN, Status, minutes, moment


@dataclass(frozen=True)
class Doing:
    """What is being done: whether runs are going, and whether a check holds the newest data."""

    working: bool = False
    refused: bool = False

    @property
    def said(self) -> str:
        if self.refused:
            return "Newer data did not pass our checks; we hold them back until they are right."
        return "They are being processed now." if self.working else "We are looking into it."


def sentence(status: Status | None, doing: Doing) -> str:
    """How fresh a tenant's analytics are, from the worst status of its tables. Names no other customer and no machinery."""
    if status is None or status.state == "empty":
        return "We have not received any events from you yet."
    through = moment(status.data_through) if status.data_through else "now"
    received = moment(status.received_through) if status.received_through else "now"
    promised = minutes(timedelta(minutes=status.promised_minutes))
    has_all = f"all events received until {through} are included"
    if status.state == "late":
        return f"Your analytics are delayed: {has_all}; newer ones take longer than the promised {promised}. {doing.said}"
    if status.state == "held":
        return f"Your analytics show an earlier version while we correct an error: {has_all}, and newer ones follow."
    if status.state == "unknown":
        return f"We cannot tell when your newest events will be included; {has_all}. We are looking into it."
    if status.state == "unusable":
        return f"Something that you sent could not be read and is not included; otherwise {has_all}. We are looking into it."
    if status.state == "silent":
        return f"Your analytics are complete, but nothing was received since {received}: please check that events are sent."
    if status.state == "paused":
        return f"Updates of your analytics are paused, as agreed; {has_all}."
    if status.state == "quiet":
        return f"Your analytics are complete: nothing was received since {received}, and all of before is included."
    follow = f", and newer ones follow within {promised}" if status.age_minutes > 0 else ""
    return f"Your analytics are up to date: {has_all}{follow}."


def overall(worst: Mapping[str, Status], doing: Doing) -> str:
    """One sentence for all customers together; who they are is nobody else's business."""
    sending = {tenant: status for tenant, status in worst.items() if status.state != "empty"}
    if not sending:
        return "No events were received yet."
    broken = [tenant for tenant, status in sending.items() if status.state in BROKEN]
    if not broken:
        every = "every customer" if len(sending) > 1 else "our customer"
        unread = any(status.state == "unusable" for status in sending.values())
        but = "; something that was received could not be read and is not included" if unread else ""
        return f"The analytics of {every} are up to date{but}."
    how_many = f"{len(broken)} of {len(sending)} customers" if len(sending) > 1 else "our customer"
    return f"The analytics of {how_many} are delayed. {doing.said}"


def support_card(
    worst: Mapping[str, Status], doing: Doing, version: int | None, tiers: Mapping[str, str], budgets: Mapping[str, float]
) -> list[dict[str, object]]:
    """One row a tenant: how fresh it is, which version is shown, what happens if something fails.

    `tiers` are the tenant tiers, `budgets` the least share that is left of a tenant's error budgets.
    """
    shown = "nothing is published yet" if version is None else f"version {version}; no model takes part in its numbers"
    readers = "see nothing yet" if version is None else f"keep version {version}, whole and unchanged"
    fails = f"readers {readers}; what was received stays, and is tried again every 10 minutes"
    return [
        {
            "tenant": tenant,
            "tenant_tier": tiers[tenant],
            "state": status.state,
            "how_fresh": sentence(status, doing),
            "which_version": shown,
            "what_if_it_fails": fails,
            "budget_left": budgets.get(tenant),
        }
        for tenant, status in worst.items()
    ]


def names(tenants: Sequence[str], most: int = 3) -> str:
    """The first of many names."""
    rest = len(tenants) - most
    return ", ".join(tenants[:most]) + (f" and {rest} more" if rest > 0 else "")
