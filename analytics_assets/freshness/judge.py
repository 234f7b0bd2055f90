"""How fresh each tenant's tables are: a pure function of what was promised, what was received, what readers see, and now.

An event counts from its receipt, whatever day it is about. So rebuilding an old day turns nothing green while something
older than it waits, and a tenant that sends nothing has nothing that could be late.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal, get_args

from analytics_assets.freshness.tiers import Promises, TenantFreshness, TierName

State = Literal["late", "held", "unknown", "unusable", "silent", "paused", "fresh", "quiet", "empty"]
# What a person should see first.
WORST_FIRST: tuple[State, ...] = get_args(State)
# In these the promise is broken, or nobody can say that it is kept.
BROKEN: frozenset[State] = frozenset({"late", "held", "unknown"})
# Clocks of a file system and of a process may differ by this much.
_CLOCKS_AGREE = timedelta(minutes=1)


@dataclass(frozen=True)
class Receipt:
    """Events of a tenant that readers do not see yet: since when they are here, and whether they are loaded.

    `late`: all of them are about days far behind what the tenant had sent before, which only the loosest tier requires.
    """

    tenant: str
    since: datetime
    loaded: bool = True
    late: bool = False


@dataclass(frozen=True)
class Evidence:
    """What was received and not yet published; when each tenant's newest events came; why publishing is held, if it is.

    `unusable`: what was received of a tenant and brought nothing to readers, the oldest first. `unjudged`: days that are over
    and were judged before that, or not at all.
    """

    waiting: tuple[Receipt, ...] = ()
    newest: Mapping[str, datetime] = field(default_factory=dict)
    held: str | None = None
    unusable: Mapping[str, "Unusable"] = field(default_factory=dict)
    unjudged: tuple[date, ...] = ()


@dataclass(frozen=True)
class Unusable:
    """Deliveries of a tenant of which no record could be used: since when, how many, and the oldest one's file and reason."""

    since: datetime
    count: int
    file: str
    reason: str

    @property
    def said(self) -> str:
        many = "a delivery" if self.count == 1 else f"{self.count:,} deliveries, the first"
        return f"{many} received {moment(self.since)} could not be used: {self.file}: {self.reason}"


@dataclass(frozen=True)
class Status:
    """A row of `freshness_status`. `data_through`: all that was received before then is in the published version."""

    tenant_id: str
    table: str
    tier: TierName
    promised_minutes: float
    age_minutes: float
    data_through: datetime | None
    received_through: datetime | None
    state: State
    reason: str


def judge(promises: Promises, tenants: Iterable[str], evidence: Evidence, now: datetime) -> list[Status]:
    """One row a tenant and table. `age_minutes` is how long the tenant's oldest unpublished receipt has waited."""
    waiting: dict[str, list[Receipt]] = {}
    for receipt in sorted(evidence.waiting, key=lambda found: found.since):
        waiting.setdefault(receipt.tenant, []).append(receipt)
    found = []
    for tenant in tenants:
        newest = evidence.newest.get(tenant)
        mine = _Tenant(promises.tenant(tenant), waiting.get(tenant, []), newest, evidence.held, now, promises.longest,
                       evidence.unusable.get(tenant))  # fmt: skip
        judged: dict[TierName, tuple[State, str]] = {}
        for table in promises.tables:
            name = promises.tier_of(tenant, table)
            tier = promises.tier(name)
            if name not in judged:
                judged[name] = mine.state(tier.promise)
            state, reason = judged[name]
            age = round(mine.age.total_seconds() / 60, 2)
            found.append(Status(tenant, table, name, tier.promise_minutes, age, mine.through, mine.newest, state, reason))
    return found


@dataclass(frozen=True)
class _Tenant:
    """A tenant's evidence. `waiting` is ordered by its age, oldest first."""

    own: TenantFreshness
    waiting: list[Receipt]
    last: datetime | None
    held: str | None
    now: datetime
    longest: timedelta
    unusable: Unusable | None = None

    @property
    def newest(self) -> datetime | None:
        """When its newest events came; None if there never were any."""
        return max(filter(None, (self.last, *(receipt.since for receipt in self.waiting))), default=None)

    @property
    def age(self) -> timedelta:
        return max(self.now - self.waiting[0].since, timedelta(0)) if self.waiting else timedelta(0)

    @property
    def through(self) -> datetime | None:
        if self.newest is None:
            return None
        return min(self.now, self.waiting[0].since) if self.waiting else self.now

    def state(self, promise: timedelta) -> tuple[State, str]:
        """The state under a promise, and why, in a sentence."""
        if why := self.own.paused(self.now):
            return "paused", f"paused: {why}"
        state, reason = self._of_events(promise)
        # That events which came are late is worse news; that none came is none at all.
        return ("unusable", self.unusable.said) if self.unusable and state not in BROKEN else (state, reason)

    def _of_events(self, promise: timedelta) -> tuple[State, str]:
        if self.newest is None:
            return "empty", "no event was ever received"
        return self._of_waiting(promise) if self.waiting else self._of_published(self.newest, promise)

    def _of_waiting(self, promise: timedelta) -> tuple[State, str]:
        # Of what waits, that of which the promise breaks first.
        first = min(self.waiting, key=lambda receipt: receipt.since + self._promised(receipt, promise))
        age, promised = max(self.now - first.since, timedelta(0)), self._promised(first, promise)
        alike = sum(receipt.late == first.late for receipt in self.waiting)
        of = " of late data" if first.late else ""
        many = f"{alike} deliveries{of} wait, the oldest" if alike > 1 else f"a delivery{of} waits"
        what = f"{many} since {moment(first.since)}"
        if self.held:
            return "held", f"{what}; publishing is held since a rollback ({self.held})"
        if age > promised:
            return "late", f"{what}: {minutes(age)}, promised {minutes(promised)}"
        ahead = self.waiting[-1].since
        if ahead > self.now + _CLOCKS_AGREE:
            return "unknown", f"a delivery that waits was received at {moment(ahead)}, which is ahead of the clock"
        return "fresh", f"{what}: {minutes(age)} of the promised {minutes(promised)}"

    def _promised(self, receipt: Receipt, promise: timedelta) -> timedelta:
        return max(promise, self.longest) if receipt.late else promise

    def _of_published(self, newest: datetime, promise: timedelta) -> tuple[State, str]:
        since = f"since {moment(newest)}, and all of before is published"
        every = self.own.expect_events_every_hours
        silence = open_time(newest, self.now, self.own.closed)
        if every is not None and silence > timedelta(hours=every):
            return "silent", f"no event was received {since}; they are expected every {every:g} h"
        if self.now - newest > promise:
            return "quiet", f"no event was received {since}"
        return "fresh", f"all that was received until {moment(newest)} is published"


def open_time(begin: datetime, end: datetime, closed: frozenset[str]) -> timedelta:
    """The time between two moments that lies on weekdays (UTC) which are not closed."""
    if end <= begin:
        return timedelta(0)
    # Whole weeks at once: a tenant may have been silent for years.
    weeks, total = (end - begin) // timedelta(weeks=1), timedelta(0)
    total += weeks * (7 - len(closed)) * timedelta(days=1)
    begin += weeks * timedelta(weeks=1)
    while begin < end:
        midnight = datetime.combine(begin.date(), datetime.min.time()) + timedelta(days=1)
        until = min(midnight, end)
        if begin.strftime("%A").lower() not in closed:
            total += until - begin
        begin = until
    return total


def moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"


def minutes(value: timedelta) -> str:
    """A length of time in words: minutes up to two hours, then hours, then days."""
    amount = value.total_seconds() / 60
    if amount < 120:
        return f"{amount:.0f} min"
    return f"{amount / 60:.0f} h" if amount < 48 * 60 else f"{amount / 60 / 24:.0f} days"
