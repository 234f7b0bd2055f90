"""What is promised: four tiers, the tier of each published table, and what a tenant has of its own. Declarations only."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml

TierName = Literal["immediate", "near_real_time", "hourly", "daily"]
TIERS: tuple[TierName, ...] = get_args(TierName)
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
# Queues of work that no tier asks for, see `queues`.
_TAKEN = {"heavy", "released", "intake", "by-hand"}


def a_clock(value: str) -> str:
    """`value`, if it is a time of day. Raises ValueError with the cure."""
    if not _CLOCK.fullmatch(value):
        raise ValueError(f"'{value}' is no time of day; write it as \"02:30\"")
    return value


class Tier(Declared):
    """A promise to readers, and when and how work starts that keeps it."""

    promise_minutes: int = Field(ge=1, le=7 * 24 * 60, description="Minutes from receipt to readers.")
    served_by: Literal["sensor", "collector"] = Field("sensor", description="Who starts the work; a collector is not here yet.")
    start_after_minutes: int | None = Field(None, ge=0, description="Minutes that a receipt may wait before work starts.")
    start_at: str | None = Field(None, description="Time of day (UTC, 'HH:MM') at which work starts for all that waits.")
    queue: str | None = Field(None, pattern="^[a-z][a-z0-9-]{0,62}$", description="Queue of its runs; one goes at a time.")
    priority: int = Field(ge=0, le=100, description="Of two runs that wait, the one with more starts first.")

    @field_validator("start_at")
    @classmethod
    def _is_a_clock(cls, value: str | None) -> str | None:
        return None if value is None else a_clock(value)

    @field_validator("queue")
    @classmethod
    def _is_its_own(cls, value: str | None) -> str | None:
        if value in _TAKEN or (value or "").startswith("tenant-"):
            raise ValueError(f"the queue '{value}' is for other work; choose another name")
        return value

    @model_validator(mode="after")
    def _can_be_kept(self) -> "Tier":
        if self.served_by == "collector":
            return self
        if (self.start_after_minutes is None) == (self.start_at is None):
            raise ValueError("say when work starts: either start_after_minutes or start_at")
        if self.queue is None:
            raise ValueError("name the queue of its runs")
        # What comes just after `start_at` waits for a whole day.
        longest = 24 * 60 if self.start_after_minutes is None else self.start_after_minutes
        if longest >= self.promise_minutes:
            raise ValueError(
                f"work may start {longest} minutes after a receipt, but {self.promise_minutes} are promised; promise more"
            )
        return self

    @property
    def promise(self) -> timedelta:
        return timedelta(minutes=self.promise_minutes)

    def starts(self, since: datetime, now: datetime) -> bool:
        """Whether work starts for what was received at `since`."""
        if self.start_at is not None:
            tonight = datetime.combine(now.date(), time.fromisoformat(self.start_at))
            return since < (tonight if tonight <= now else tonight - timedelta(days=1))
        return now - since >= timedelta(minutes=self.start_after_minutes or 0)

    @property
    def said(self) -> str:
        """When its work starts, in words."""
        if self.served_by == "collector":
            return "served by the collector, which is not here yet"
        if self.start_at is not None:
            return f"starts at {self.start_at} UTC"
        return f"starts after {self.start_after_minutes} min" if self.start_after_minutes else "starts at once"


class Tiers(Declared):
    """All four, strictest first."""

    immediate: Tier
    near_real_time: Tier
    hourly: Tier
    daily: Tier

    @model_validator(mode="after")
    def _in_order(self) -> "Tiers":
        for stricter, looser in pairwise(TIERS):
            one, other = getattr(self, stricter), getattr(self, looser)
            if one.promise_minutes >= other.promise_minutes or one.priority <= other.priority:
                raise ValueError(f"{stricter} must promise fewer minutes than {looser}, and have more priority")
        queues = [tier.queue for tier in (self.immediate, self.near_real_time, self.hourly, self.daily) if tier.queue]
        if twice := next((queue for queue in queues if queues.count(queue) > 1), None):
            raise ValueError(f"two tiers have the queue '{twice}', where one would wait for the other; give each its own")
        return self


class Pause(Declared):
    """A time in which nothing is started and judged for a tenant. One that is over stays declared: it is excused."""

    first: datetime = Field(description="Begin (UTC).")
    last: datetime | None = Field(None, description="End (UTC); left out while nobody knows it.")
    reason: str = Field(min_length=3, description="Why, for those who come later.")

    @field_validator("first", "last")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value and value.tzinfo else value

    @model_validator(mode="after")
    def _in_order(self) -> "Pause":
        if self.last is not None and self.last <= self.first:
            raise ValueError(f"it ends at {self.last}, before it begins; swap first and last")
        return self

    def covers(self, now: datetime) -> bool:
        return self.first <= now and (self.last is None or now < self.last)


class TenantFreshness(Declared):
    """What a tenant has of its own."""

    tier: TierName | None = Field(None, description="Tier of all its tables, in the place of theirs.")
    tables: dict[str, TierName] = Field({}, description="Tier of single tables, which counts before `tier`.")
    expect_events_every_hours: float | None = Field(None, gt=0, le=24 * 366, description="Longer silence is news.")
    closed: frozenset[Weekday] = Field(frozenset(), description="Weekdays (UTC) that do not count as silence.")
    pauses: tuple[Pause, ...] = Field((), description="When nothing is started and judged for it.")

    @model_validator(mode="after")
    def _closed_means_something(self) -> "TenantFreshness":
        if self.closed and self.expect_events_every_hours is None:
            raise ValueError("closed says which days are no silence; say also expect_events_every_hours")
        if len(self.closed) == len(get_args(Weekday)):
            raise ValueError("closed names every weekday; leave out expect_events_every_hours instead")
        return self

    def paused(self, now: datetime) -> str | None:
        """Why nothing is started and judged for it at `now`; None if it is not paused."""
        return next((pause.reason for pause in self.pauses if pause.covers(now)), None)


_NOTHING_OF_ITS_OWN = TenantFreshness()


class Promises(Declared):
    """The file: tiers, tables, tenants."""

    tiers: Tiers
    tables: dict[str, TierName]
    tenants: dict[str, TenantFreshness] = Field({})
    late_after_days: int = Field(
        31,
        ge=0,
        le=4000,
        description="A delivery further behind the tenant's newest day is late data: the loosest tier's work.",
    )

    def tenant(self, name: str) -> TenantFreshness:
        return self.tenants.get(name, _NOTHING_OF_ITS_OWN)

    def tier_of(self, tenant: str, table: str) -> TierName:
        own = self.tenant(tenant)
        return own.tables.get(table) or own.tier or self.tables[table]

    def tier(self, name: str) -> Tier:
        found: Tier = getattr(self.tiers, name)
        return found

    @property
    def served(self) -> tuple[TierName, ...]:
        """The tiers that sensors serve, strictest first."""
        return tuple(name for name in TIERS if self.tier(name).served_by == "sensor")

    @property
    def longest(self) -> timedelta:
        """The loosest promise, which late data have."""
        return self.tier(self.served[-1]).promise

    def faults(self, tables: Iterable[str], tenants: Iterable[str]) -> Iterator[tuple[tuple[str, ...], str]]:
        """(place, sentence) of what does not fit the published tables and declared tenants."""
        published, known = set(tables), set(tenants)
        for table in sorted(published - self.tables.keys()):
            yield ("tables",), f"the published table '{table}' has no tier; name one of {', '.join(self.served)}"
        named: list[tuple[tuple[str, ...], Mapping[str, TierName]]] = [(("tables",), self.tables)]
        for tenant, own in self.tenants.items():
            if tenant not in known:
                yield ("tenants", tenant), f"tenant '{tenant}' is not declared in tenants.yaml; add it there or remove it here"
            named.append((("tenants", tenant, "tables"), own.tables))
            if own.tier is not None:
                named.append((("tenants", tenant), {"tier": own.tier}))
        for place, chosen in named:
            for key, tier in chosen.items():
                if place[-1] == "tables" and key not in published:
                    yield (*place, key), f"there is no published table '{key}'; published are {', '.join(sorted(published))}"
                if tier not in self.served:
                    yield (*place, key), f"tier '{tier}' is {self.tier(tier).said}; name one of {', '.join(self.served)}"


def load_promises(path: Path, tables: Iterable[str], tenants: Iterable[str]) -> Promises:
    """Read the declarations and hold them against the published tables and the tenants. Raises ConfigError."""
    promises: Promises = Promises.load(path)
    for place, sentence in promises.faults(tables, tenants):
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return promises
