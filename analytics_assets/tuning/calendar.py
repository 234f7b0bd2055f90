"""The declared business calendar: opening hours with their holidays, and events that people plan.

What it says of a moment is a load to expect; whether capacity follows is decided in `scaling`.
"""

from collections.abc import Callable, Collection, Iterator
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml
from analytics_assets.tuning.scaling import Planned
from analytics_assets.tuning.tables import Load

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_DAY = timedelta(days=1)


class Place(Declared):
    """Where tenants work: its clock, and its public holidays."""

    country: str = Field(pattern="^[A-Z]{2}$", description="Two letters (ISO 3166), whose public holidays count.")
    subdivision: str | None = Field(None, description="State or region (ISO 3166-2, without the country).")
    timezone: str = Field(description="As in the IANA database, such as Europe/Berlin.")
    tenants: tuple[str, ...] = Field((), description="Tenants who work there.")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"'{value}' is no time zone of the IANA database; write it as Europe/Berlin") from None
        return value

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def holiday(self, day: date) -> str | None:
        """The public holiday of a day there."""
        return _holidays(self.country, self.subdivision, day.year).get(day)


class OpeningHours(Declared):
    """Hours of a place in which a load is to be expected; not on its public holidays."""

    name: str = Field(min_length=1, description="What it is, as the reason of a decision names it.")
    place: str = Field(description="A place of this file.")
    tenant: str | None = Field(None, description="Whose load it is; everybody's, if left out.")
    weekdays: frozenset[Weekday] = Field(frozenset(get_args(Weekday)[:5]), min_length=1, description="Days on which it opens.")
    opens: time = Field(description="Time of day there ('HH:MM').")
    closes: time = Field(description="Time of day there, the next morning if that is before `opens`.")
    on_holidays: bool = Field(False, description="Whether it opens on public holidays too.")
    expected: float = Field(gt=0, description="Load an hour to expect at least.")
    of: Load = Field(description="What is expected: events or work.")
    warm_up_minutes: int = Field(30, ge=0, le=1440, description="Minutes before it opens in which capacity is there.")


class PlannedEvent(Declared):
    """A time for which people expect a multiple of what is usual."""

    name: str = Field(min_length=1, description="What it is, as the reason of a decision names it.")
    begin: datetime = Field(description="With its offset from UTC.")
    end: datetime = Field(description="With its offset from UTC.")
    factor: float = Field(gt=1, le=100, description="Load over the one that is usual in the same hour.")
    tenant: str | None = Field(None, description="Whose event it is; everybody's, if left out.")
    warm_up_minutes: int = Field(60, ge=0, le=1440, description="Minutes before it begins in which capacity is there.")

    @model_validator(mode="after")
    def _in_order(self) -> "PlannedEvent":
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("begin and end need an offset from UTC, such as 2026-11-27T09:00:00+01:00")
        if self.end <= self.begin:
            raise ValueError(f"it ends at {self.end}, before it begins; swap begin and end")
        return self


class Calendar(Declared):
    """The file."""

    places: dict[str, Place] = Field({}, description="By a name that opening hours give.")
    opening_hours: tuple[OpeningHours, ...] = ()
    planned_events: tuple[PlannedEvent, ...] = ()

    @model_validator(mode="after")
    def _places_are_there(self) -> "Calendar":
        for hours in self.opening_hours:
            if hours.place not in self.places:
                raise ValueError(f"'{hours.name}' opens at the place '{hours.place}', which is not declared; add it to places")
        return self

    def holiday(self, tenant: str | None, moment: datetime) -> str | None:
        """The public holiday (its name and country) of a tenant at a moment (UTC, aware)."""
        for place in self.places.values():
            if tenant in place.tenants and (name := place.holiday(moment.astimezone(place.zone).date())):
                return f"{name} ({place.country})"
        return None

    def planned(
        self, now: datetime, load: Load, tenant: str | None, usual: float | None, share: Callable[[str], float | None]
    ) -> tuple[tuple[Planned, ...], list[str]]:
        """What holds at `now` (aware) for one tenant or all: at most one planned load, and notes about what is left out.

        `usual` is the load an hour to expect anyway, `share` a tenant's part (0 to 1) of what all bring.
        """
        notes: list[str] = []
        names: list[str] = []
        opening = 0.0
        for hours in self.opening_hours:
            if hours.of == load and tenant in (None, hours.tenant) and self._is_open(hours, now, notes):
                names.append(hours.name)
                opening += hours.expected
        factor = 1.0
        for event in self.planned_events:
            warm = timedelta(minutes=event.warm_up_minutes)
            if not event.begin - warm <= now < event.end or (tenant is not None and event.tenant not in (None, tenant)):
                continue
            part = 1.0 if event.tenant in (None, tenant) else share(str(event.tenant))
            if usual is None or part is None:
                notes.append(f"calendar: what is usual is not known, so nothing follows from {event.name}")
                continue
            names.append(event.name)
            factor += (event.factor - 1) * part
        # What is planned comes on top of what is usual, whichever of the two says more about that.
        expected = max(opening, usual or 0.0) * factor if factor > 1 else opening
        if not expected:
            return (), notes
        return (Planned(name=" and ".join(names), begin=now, end=now + _DAY, expected=expected, warm_up_minutes=0),), notes

    def opening(self, now: datetime, before: timedelta) -> dict[datetime, list[str]]:
        """What begins within `before` of `now` (aware), by when it does, and is to be warmed up by then: the names of each.

        Times are those of the place, or as declared. What has no warm-up is left out, and what has a shorter one comes later.
        """
        found: dict[datetime, list[str]] = {}
        begins = [(opens, one.name, one.warm_up_minutes) for one in self.opening_hours for opens, _ in self._near(one, now, [])]
        begins += [(event.begin, event.name, event.warm_up_minutes) for event in self.planned_events]
        for begin, name, minutes in begins:
            if begin - min(before, timedelta(minutes=minutes)) <= now < begin:
                found.setdefault(begin, []).append(name)
        return found

    def _is_open(self, hours: OpeningHours, now: datetime, notes: list[str]) -> bool:
        return any(True for _ in self._near(hours, now, notes))

    def _near(self, hours: OpeningHours, now: datetime, notes: list[str]) -> Iterator[tuple[datetime, datetime]]:
        """When it opens and closes where `now` lies in that or the warm-up before; a note where a holiday keeps it closed."""
        place = self.places[hours.place]
        # Of a night that began yesterday, or one that begins tomorrow and is warmed up for today.
        today = now.astimezone(place.zone).date()
        for day in (today - _DAY, today, today + _DAY):
            if day.strftime("%A").lower() not in hours.weekdays:
                continue
            opens = datetime.combine(day, hours.opens, place.zone)
            closes = datetime.combine(day if hours.closes > hours.opens else day + _DAY, hours.closes, place.zone)
            if not opens - timedelta(minutes=hours.warm_up_minutes) <= now < closes:
                continue
            name = None if hours.on_holidays else place.holiday(day)
            if name is None:
                yield opens, closes
            else:
                notes.append(f"calendar: {hours.name} is closed for {name} ({place.country})")


def load_calendar(path: Path, tenants: Collection[str]) -> Calendar:
    """Read the declarations. Raises ConfigError, also for a tenant, country or region that there is not."""
    calendar: Calendar = Calendar.load(path)

    def wrong(location: tuple[str | int, ...], sentence: str) -> ConfigError:
        return ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], location)}: {sentence}")

    for name, place in calendar.places.items():
        for tenant in place.tenants:
            if tenant not in tenants:
                raise wrong(("places", name, "tenants"), f"'{tenant}' is no declared tenant; correct it")
        try:
            _holidays(place.country, place.subdivision, 2026)
        except NotImplementedError:
            said = f"{place.country}{' with the subdivision ' + place.subdivision if place.subdivision else ''}"
            raise wrong(("places", name, "country"), f"no public holidays are known of {said}; correct it") from None
    for kind in ("opening_hours", "planned_events"):
        for n, one in enumerate(getattr(calendar, kind)):
            if one.tenant is not None and one.tenant not in tenants:
                raise wrong((kind, n, "tenant"), f"'{one.tenant}' is no declared tenant; correct it")
    return calendar


@lru_cache(maxsize=256)
def _holidays(country: str, subdivision: str | None, year: int) -> dict[date, str]:
    """Public holidays of a year. Raises NotImplementedError for a country or region that the library does not know."""
    import holidays

    return dict(holidays.country_holidays(country, subdiv=subdivision, years=year, language="en_US"))
