"""Which work is to be started now, and why: a pure function of promises, evidence and now. Starting it is not done here."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta

from analytics_assets.freshness.judge import Evidence, Receipt, minutes, moment
from analytics_assets.freshness.tiers import Promises, TierName


@dataclass(frozen=True)
class Due:
    """A tier whose work starts now: since when its oldest receipt waits, and the sentence that says why."""

    tier: TierName
    since: datetime
    reason: str


def due(promises: Promises, evidence: Evidence, now: datetime, overdue_by: timedelta = timedelta(0)) -> list[Due]:
    """The tiers whose work starts now, or was to start `overdue_by` ago; strictest first, none while publishing is held.

    A day that is over and was not judged since is the work of the loosest tier.

    Only loaded events count: what lies in a landing folder is loaded first. A receipt from the future, of a clock that went
    back, starts at once: nobody knows how long it has waited.
    """
    found = []
    for name in promises.served:
        tier = promises.tier(name)
        starting = [receipt for receipt, of in _starting(promises, evidence, now, overdue_by) if of == name]
        if starting:
            first = min(starting, key=lambda receipt: receipt.since)
            tenants = len({receipt.tenant for receipt in starting})
            others = f" and {tenants - 1} more" if tenants > 1 else ""
            waits = f"{minutes(max(now - first.since, now - now))} of the promised {minutes(tier.promise)}"
            late = "late data " if first.late else ""
            reason = f"{first.tenant}{others}: {late}received {moment(first.since)}, waits {waits}; {name} {tier.said}"
            found.append(Due(name, first.since, reason))
    loosest = promises.served[-1]
    if evidence.unjudged and not evidence.held and all(one.tier != loosest for one in found):
        # What asks about whole days could not be asked before, and perhaps nothing comes any more that would.
        over = datetime.combine(min(evidence.unjudged) + timedelta(days=1), time.min)
        if promises.tier(loosest).starts(over, now - overdue_by):
            days = (
                "1 day is over and was" if len(evidence.unjudged) == 1 else f"{len(evidence.unjudged)} days are over and were"
            )
            reason = f"{days} not judged as a whole yet (first {min(evidence.unjudged)})"
            found.append(Due(loosest, over, reason))
    return found


def tables_due(promises: Promises, evidence: Evidence, now: datetime) -> frozenset[str]:
    """The tables of which a tenant is promised that work starts now."""
    starting = _starting(promises, evidence, now)
    return frozenset(
        table
        for table in promises.tables
        for receipt, tier in starting
        if receipt.late or promises.tier_of(receipt.tenant, table) == tier
    )


def _starting(
    promises: Promises, evidence: Evidence, now: datetime, overdue_by: timedelta = timedelta(0)
) -> list[tuple[Receipt, TierName]]:
    """The oldest receipts of the tenants whose work starts, each with a tier that one of the tenant's tables has.

    Late data are the work of the loosest tier, whatever the tables promise.
    """
    if evidence.held:
        return []
    oldest: dict[tuple[str, bool], Receipt] = {}
    for receipt in evidence.waiting:
        if receipt.loaded and not promises.tenant(receipt.tenant).paused(now):
            key = receipt.tenant, receipt.late
            oldest[key] = min(oldest.get(key, receipt), receipt, key=lambda one: one.since)
    found = []
    for receipt in oldest.values():
        tiers = {promises.tier_of(receipt.tenant, table) for table in promises.tables}
        for name in promises.served[-1:] if receipt.late else tiers:
            tier = promises.tier(name)
            if receipt.since > now or tier.starts(receipt.since, now - overdue_by):
                found.append((receipt, name))
    return found
