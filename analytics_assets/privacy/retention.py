"""How long what is kept: `retention.yaml`, typed and bounded, and what follows from it for a day. Declarations and SQL only.

A limit is a number of whole days: a row is past it when its day (UTC) is older. Rows go some days before, so that between two
nights none is ever past its limit. What is declared for a class holds for all tenants but those that have a limit of their own.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from analytics_assets.privacy.keys import only_keys
from analytics_assets.privacy.labels import Labels
from analytics_assets.privacy.taxonomy import EVERY_SOURCE, JSON_COLUMNS, LABELS, Fault
from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml
from analytics_assets.warehouse.spec import TableSpec, literal

Fate = Literal["drop", "anonymise"]
FATES: tuple[Fate, ...] = get_args(Fate)
FILE = "retention.yaml"
_SHORTEST, _LONGEST = 7, 36_500
# What a batch that took something out bears; also each event that it anonymised, which is how such an event is known.
EXPIRED_MARK = "expired-"


class Limit(Declared):
    """How long rows of a class are kept, and what happens then."""

    days: int | None = Field(description="Days (UTC) that a row may be old; none: kept.")
    then: Fate = Field("drop", description="What happens to older rows.")

    @field_validator("days", mode="before")
    @classmethod
    def _days(cls, value: Any) -> Any:
        if value == "none":
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not _SHORTEST <= value <= _LONGEST:
            raise ValueError(f"'{value}' is no time to keep rows; say {_SHORTEST} to {_LONGEST} days, or none")
        return value


class RetentionRules(Declared):
    """The file."""

    ahead_days: int = Field(2, ge=1, le=5, description="Days before their limit on which rows go.")
    readers_hours: int = Field(24, ge=0, le=24, description="How long an old version is left to who has it open.")
    classes: dict[str, Limit] = Field(description="By retention class of taxonomy.yaml.")
    tenants: dict[str, dict[str, Limit]] = Field({}, description="By tenant, then class: a limit of its own.")

    def limit(self, retention: str, tenant: str | None = None) -> Limit:
        own = self.tenants.get(tenant, {}) if tenant is not None else {}
        return own.get(retention) or self.classes[retention]

    @property
    def any(self) -> bool:
        """Whether anything has a limit."""
        every = [*self.classes.values(), *(limit for own in self.tenants.values() for limit in own.values())]
        return any(limit.days is not None for limit in every)

    def cutoffs(self, retention: str, now: datetime, fates: Collection[Fate] = FATES, *, ahead: bool) -> "Cutoffs":
        """The first day that may be there, by tenant, of rows of a class that end in one of these ways.

        With `ahead` the first day that stays when rows go, which is some days later.
        """
        more = timedelta(days=self.ahead_days if ahead else 0)

        def first(limit: Limit) -> date | None:
            return now.date() - timedelta(days=limit.days) + more if limit.days is not None and limit.then in fates else None

        own = {tenant: first(limits[retention]) for tenant, limits in self.tenants.items() if retention in limits}
        return Cutoffs(first(self.classes[retention]), own)

    def faults(self, classes: Collection[str], tenants: Collection[str]) -> Iterator[Fault]:
        """(place in the file, sentence) of what does not fit the classes and the tenants that are declared."""
        for name in classes:
            if name not in self.classes:
                yield (
                    ("classes",),
                    f"the class '{name}' of taxonomy.yaml has no line; add `{name}: {{days: none}}`, or a number",
                )
        places: list[tuple[tuple[str, ...], str]] = [(("classes", name), name) for name in self.classes]
        places += [(("tenants", tenant, name), name) for tenant, own in self.tenants.items() for name in own]
        for place, name in places:
            if name not in classes:
                yield place, f"there is no retention class '{name}'; taxonomy.yaml declares {', '.join(classes)}"
        for tenant in self.tenants:
            if tenant not in tenants:
                yield ("tenants", tenant), f"tenant '{tenant}' is not declared in tenants.yaml; correct it"


def load_retention(path: Path, classes: Collection[str], tenants: Collection[str]) -> RetentionRules:
    """Read the declarations and hold them against classes and tenants. Raises ConfigError."""
    rules: RetentionRules = RetentionRules.load(path)
    refuse(path, rules.faults(classes, tenants))
    return rules


def refuse(path: Path, faults: Iterable[Fault]) -> None:
    """Raise ConfigError for the first of these faults."""
    for place, sentence in faults:
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")


@dataclass(frozen=True)
class Cutoffs:
    """Before which day rows are past: `default`, and of tenants that differ from it `own`. None: they never are."""

    default: date | None = None
    own: Mapping[str, date | None] = field(default_factory=dict)

    def of(self, tenant: str | None) -> date | None:
        return self.own.get(tenant, self.default) if tenant is not None else self.default

    @property
    def newest(self) -> date | None:
        """No row from this day on is past; None if none is at all."""
        return max(filter(None, [self.default, *self.own.values()]), default=None)

    def of_each(self, tenants: Iterable[str]) -> "Cutoffs":
        """Those of these tenants, and of nobody else."""
        return Cutoffs(None, {tenant: self.of(tenant) for tenant in sorted(tenants) if self.of(tenant) is not None})

    def later(self, other: "Cutoffs") -> "Cutoffs":
        """Of each tenant the later day of both."""
        both = {tenant: _later(self.of(tenant), other.of(tenant)) for tenant in sorted({*self.own, *other.own})}
        return Cutoffs(_later(self.default, other.default), both)

    def past(self, time: str, tenant: str | None = "tenant_id") -> str:
        """SQL: whether a row of `time` (a date or time) and `tenant` (None: rows of no tenant) is past. Never null."""
        differ = {name: day for name, day in self.own.items() if day != self.default} if tenant is not None else {}
        if self.newest is None or (not differ and self.default is None):
            return "false"
        default = _moment(self.default)
        if not differ:
            return f"coalesce({time} < {default}, false)"
        by_day: dict[date | None, list[str]] = {}
        for name, day in sorted(differ.items()):
            by_day.setdefault(day, []).append(literal(name))
        # The first comparison is what files are left out by.
        cases = " ".join(f"when {tenant} in ({', '.join(names)}) then {_moment(day)}" for day, names in by_day.items())
        return f"coalesce({time} < timestamp '{self.newest}' and {time} < case {cases} else {default} end, false)"


def _moment(day: date | None) -> str:
    return f"timestamp '{day}'" if day else "null::timestamp"


def _later(one: date | None, other: date | None) -> date | None:
    return max(filter(None, [one, other]), default=None)


def telling(labels: Labels, spec: TableSpec) -> tuple[str, ...]:
    """The columns of a table that may tell who somebody is: quasi-identifiers and what is stricter."""
    found = [(name, labels.of(spec.name, name)) for name in spec.column_names]
    return tuple(name for name, own in found if own is None or LABELS.index(own.label) >= LABELS.index("quasi_identifier"))


def anonymised(labels: Labels, events: TableSpec, sources: Sequence[str], mark: str) -> dict[str, str]:
    """Column of `events` to the SQL that it becomes, of rows that are anonymised by the batch `mark`.

    Its day stays of a time; of properties and context the keys that are labelled operational or behavioural.
    """
    replaced = {name: "null" for name in telling(labels, events)}
    # An event is a row with an id and a time: new ids that nobody else ever had, and the day.
    replaced |= {"message_id": "'anonymous-' || uuid()::varchar", "message_key": "(hash(uuid()) >> 1)::bigint"}
    replaced |= {name: f"date_trunc('day', {name})" for name in ("timestamp", "received_at")}
    for column in JSON_COLUMNS:
        replaced[column] = only_keys(column, {one: _harmless(labels, column, one) for one in (*sources, EVERY_SOURCE)})
    return {**replaced, "batch_id": literal(mark)}


def _harmless(labels: Labels, column: str, source: str) -> list[str]:
    """Keys at the top of a JSON column that tell of nobody; what they hold is never labelled more strictly."""
    found = {key: labels.taxonomy.declared(f"{column}.{key}", source) for key in labels.shown_keys(column, source)}
    return [key for key, own in found.items() if own and LABELS.index(own.label) < LABELS.index("quasi_identifier")]
