"""Which queue a run waits in, and when heavy work may start: declarations, and pure functions of them and of now.

Stricter tiers go first. Heavy work (backfills, maintenance, rebuilds of many days by hand) has the lowest priority, and
waits for an off-peak window unless a person lets it go. Starting runs is not done here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator

from analytics_assets.freshness.tiers import Promises, Weekday, a_clock
from analytics_assets.settings import Declared

# Queues beside those of the tiers.
HEAVY, RELEASED, INTAKE, BY_HAND = "heavy", "released", "intake", "by-hand"
TENANTS = "tenant-"
# Tiers cannot declare less than 0.
_LEAST, _LAST = 0, -1
_DAY = timedelta(days=1)

StartedBy = Literal["backfill", "schedule", "sensor", "person"]


class Window(Declared):
    """A time of day (UTC) at which few people work, on the weekdays on which it begins."""

    begin: str = Field(description="Time of day (UTC, 'HH:MM') at which it opens.")
    end: str = Field(description="Time of day at which it closes, the next morning if that is before `begin`.")
    weekdays: frozenset[Weekday] = Field(frozenset(get_args(Weekday)), min_length=1, description="Days on which it opens.")

    @field_validator("begin", "end")
    @classmethod
    def _is_a_clock(cls, value: str) -> str:
        return a_clock(value)

    @property
    def length(self) -> timedelta:
        """Up to a whole day, which is what `begin` and `end` alike mean."""
        minutes = [int(value[:2]) * 60 + int(value[3:]) for value in (self.begin, self.end)]
        return timedelta(minutes=(minutes[1] - minutes[0]) % (24 * 60)) or _DAY

    def openings(self, now: datetime) -> Iterator[datetime]:
        """When it opens, from the day before `now` to the week after, in order."""
        for days in range(-1, 8):
            opens = datetime.combine(now.date() + days * _DAY, time.fromisoformat(self.begin))
            if opens.strftime("%A").lower() in self.weekdays:
                yield opens

    def contains(self, now: datetime) -> bool:
        return any(opens <= now < opens + self.length for opens in self.openings(now))

    def opens(self, now: datetime) -> datetime:
        """When it opens next."""
        return next(opens for opens in self.openings(now) if opens > now)

    @property
    def said(self) -> str:
        days = [day for day in get_args(Weekday) if day in self.weekdays]
        on = "" if len(days) == len(get_args(Weekday)) else f" on {', '.join(days)}"
        return f"{self.begin}-{self.end} UTC{on}"


class QueueRules(Declared):
    """The file: off-peak windows, and what counts as heavy."""

    off_peak: tuple[Window, ...] = Field(max_length=24, description="With an empty list heavy work never waits for one.")
    heavy_from_days: int = Field(32, ge=2, le=4000, description="A rebuild by hand of as many days is heavy.")

    def is_open(self, now: datetime) -> bool:
        """Whether heavy work may start."""
        return not self.off_peak or any(window.contains(now) for window in self.off_peak)

    def opens(self, now: datetime) -> datetime:
        """When heavy work may start: now, or when the next window opens."""
        return now if self.is_open(now) else min(window.opens(now) for window in self.off_peak)

    @property
    def said(self) -> str:
        """What heavy work waits for, in words."""
        return f"the off-peak window {' or '.join(window.said for window in self.off_peak)}" if self.off_peak else "its turn"


def load_queues(path: Path) -> QueueRules:
    """Read the declarations. Raises ConfigError, also without the file: heavy work would start at noon."""
    rules: QueueRules = QueueRules.load(path)
    return rules


@dataclass(frozen=True)
class Asked:
    """A run that is asked for: its work, by whom, how many days it rebuilds (0: not by days), its tier and an override.

    `tenant`: for whom alone it goes.
    """

    work: Literal["intake", "rebuild", "maintenance", "other"]
    by: StartedBy
    days: int = 0
    tier: str | None = None
    override: str | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a run waits. `yields`: it leaves room for those that promise more."""

    queue: str
    priority: int
    yields: bool


def place(asked: Asked, rules: QueueRules, promises: Promises) -> Place:
    """The queue of a run, one run at a time in each, and its priority: of those that wait, the highest starts first."""
    strictest = promises.tier(promises.served[0])
    if is_heavy(asked, rules):
        return Place(RELEASED if asked.override else HEAVY, _LAST, True)
    if asked.tenant is not None and asked.by == "person":
        # Behind one another and behind every promise, so that a tenant that asks for many keeps nobody else waiting.
        return Place(tenant_queue(asked.tenant), _LEAST, True)
    if asked.work == "intake":
        return Place(INTAKE, strictest.priority, False)
    if asked.by == "sensor" and asked.tier in promises.served:
        tier = promises.tier(asked.tier)
        return Place(str(tier.queue), tier.priority, tier is not strictest)
    # Somebody waits for it.
    return Place(BY_HAND, strictest.priority, False)


def tenant_queue(tenant: str) -> str:
    """The queue of the runs that people start for one tenant alone."""
    return f"{TENANTS}{tenant}"


def is_heavy(asked: Asked, rules: QueueRules) -> bool:
    if asked.by == "backfill" or asked.work == "maintenance":
        return True
    return asked.by == "person" and asked.days >= rules.heavy_from_days
