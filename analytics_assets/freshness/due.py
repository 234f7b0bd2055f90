"""Which work is to be started now, and why: a pure function of promises, evidence and now. Starting it is not done here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from analytics_assets.freshness.judge import Evidence, Receipt, minutes, moment
from analytics_assets.freshness.tiers import Promises, TierName


@dataclass(frozen=True)
class Due:
    """A tier whose work starts now: since when its oldest receipt waits, and the sentence that says why."""

    tier: TierName
    since: datetime
    reason: str


def due(promises: Promises, evidence: Evidence, now: datetime) -> list[Due]:
    """The tiers whose work starts now, strictest first; none while publishing is held.

    Only loaded events count: what lies in a landing folder is loaded first. A receipt from the future, of a clock that went
    back, starts at once: nobody knows how long it has waited.
    """
    if evidence.held:
        return []
    oldest: dict[str, Receipt] = {}
    for receipt in evidence.waiting:
        if receipt.loaded and not promises.tenant(receipt.tenant).paused:
            known = oldest.get(receipt.tenant)
            oldest[receipt.tenant] = receipt if known is None or receipt.since < known.since else known
    asked = _by_tier(promises, oldest)
    found = []
    for name in promises.served:
        tier = promises.tier(name)
        starting = [receipt for receipt in asked.get(name, []) if receipt.since > now or tier.starts(receipt.since, now)]
        if starting:
            first = min(starting, key=lambda receipt: receipt.since)
            others = f" and {len(starting) - 1} more" if len(starting) > 1 else ""
            waits = f"{minutes(max(now - first.since, now - now))} of the promised {minutes(tier.promise)}"
            reason = f"{first.tenant}{others}: received {moment(first.since)}, waits {waits}; {name} {tier.said}"
            found.append(Due(name, first.since, reason))
    return found


def _by_tier(promises: Promises, oldest: Mapping[str, Receipt]) -> dict[TierName, list[Receipt]]:
    """The oldest receipt of each tenant, in every tier that one of its tables has."""
    asked: dict[TierName, list[Receipt]] = {}
    for tenant, receipt in oldest.items():
        for tier in {promises.tier_of(tenant, table) for table in promises.tables}:
            asked.setdefault(tier, []).append(receipt)
    return asked
