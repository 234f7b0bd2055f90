"""What may be declared of service levels: objectives a tenant tier, thresholds of burn, probes, excused time."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml

SloName = Literal["ingestion_lag", "freshness", "query_latency", "pipeline_success"]
SLOS: tuple[SloName, ...] = get_args(SloName)
Level = Literal["ok", "warn", "page", "freeze"]
# The worst last.
LEVELS: tuple[Level, ...] = get_args(Level)
# What each promises.
SAYS: dict[SloName, str] = {
    "ingestion_lag": "a file in a landing folder is loaded in time",
    "freshness": "no table is later than promised",
    "query_latency": "the published file answers its probes in time",
    "pipeline_success": "no work that waits is held up by a run that failed",
}
_LIMITS: dict[str, str] = {"ingestion_lag": "within_minutes", "query_latency": "within_seconds"}
_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Objective(Declared):
    """The share of time in which a promise is kept, and what counts as kept."""

    objective: float = Field(ge=0.5, lt=1, description="Share of the window in which the promise is kept.")
    within_minutes: float | None = Field(None, gt=0, le=7 * 24 * 60, description="Longest wait of a file for its loading.")
    within_seconds: float | None = Field(None, gt=0, le=600, description="Longest answer of a probe.")

    @property
    def limit(self) -> float:
        """Minutes or seconds, by the SLO; 0 where it has none."""
        return self.within_minutes or self.within_seconds or 0.0


class Slo(Declared):
    window_days: int = Field(28, ge=1, le=366, description="Days over which the budget is counted.")
    tiers: dict[str, Objective] = Field(min_length=1, description="Objective of each tenant tier.")

    @property
    def window(self) -> timedelta:
        return timedelta(days=self.window_days)


class Service(Declared):
    """All four."""

    ingestion_lag: Slo
    freshness: Slo
    query_latency: Slo
    pipeline_success: Slo


class Threshold(Declared):
    """A state, and how fast the budget burns in it."""

    state: Literal["warn", "page", "freeze"]
    burn: float = Field(gt=0, le=1000, description="Times faster than the budget would last for the window.")
    over_hours: float | None = Field(None, gt=0, le=366 * 24, description="Hours looked at; the whole window, if left out.")
    and_hours: float | None = Field(None, gt=0, le=366 * 24, description="Hours in which it must burn as fast still.")

    @model_validator(mode="after")
    def _shorter(self) -> "Threshold":
        if self.and_hours is not None and (self.over_hours is None or self.and_hours >= self.over_hours):
            raise ValueError("and_hours is the shorter look; say over_hours, and more of them")
        return self


class Probes(Declared):
    every_minutes: int = Field(15, ge=1, le=24 * 60, description="Minutes after which the published file is asked again.")
    queries: dict[str, str] = Field(min_length=1, description="SELECTs on the published tables, by name.")

    @field_validator("queries")
    @classmethod
    def _reads(cls, value: dict[str, str]) -> dict[str, str]:
        for name, query in value.items():
            if not _WORD.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a probe; use lower case letters, digits and underscores")
            if not re.match(r"\s*(select|from|with)\b", query, re.IGNORECASE) or ";" in query:
                raise ValueError(f"{name} must be one SELECT without a semicolon")
        return value


class TenantTiers(Declared):
    """Which tier a tenant has."""

    default: str
    tenants: dict[str, str] = Field({})

    def of(self, tenant: str) -> str:
        return self.tenants.get(tenant, self.default)


class Excused(Declared):
    """Time that counts as kept."""

    first: datetime = Field(description="Begin (UTC).")
    last: datetime = Field(description="End (UTC).")
    tenant: str | None = Field(None, description="Only of this tenant.")
    slo: SloName | None = Field(None, description="Only of this SLO.")
    reason: str = Field(min_length=3, description="Why, for those who come later.")

    @field_validator("first", "last")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value

    @model_validator(mode="after")
    def _in_order(self) -> "Excused":
        if self.last <= self.first:
            raise ValueError(f"it ends at {self.last}, before it begins; swap first and last")
        return self

    def covers(self, slo: SloName, tenant: str | None) -> bool:
        return self.slo in (None, slo) and self.tenant in (None, tenant)


class Objectives(Declared):
    """The file."""

    tenant_tiers: TenantTiers
    slos: Service
    thresholds: tuple[Threshold, ...]
    probes: Probes
    excused: tuple[Excused, ...] = ()

    def slo(self, name: SloName) -> Slo:
        found: Slo = getattr(self.slos, name)
        return found

    def objective(self, name: SloName, tier: str) -> Objective:
        return self.slo(name).tiers[tier]

    def tiers_of(self, tenants: Iterable[str]) -> list[str]:
        """The tiers that these tenants have."""
        return sorted({self.tenant_tiers.of(tenant) for tenant in tenants})

    @property
    def window(self) -> timedelta:
        """The longest of all."""
        return max(self.slo(name).window for name in SLOS)

    def faults(self, tenants: Iterable[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(place, sentence) of what does not fit together, or not the declared tenants."""
        known = set(tenants)
        named: Mapping[str, str] = self.tenant_tiers.tenants
        placed: list[tuple[tuple[str | int, ...], str | None]] = [(("tenant_tiers", "tenants", name), name) for name in named]
        placed += [(("excused", n, "tenant"), excused.tenant) for n, excused in enumerate(self.excused)]
        for place, tenant in placed:
            if tenant is not None and tenant not in known:
                yield place, f"tenant '{tenant}' is not declared in tenants.yaml; add it there"
        for name in SLOS:
            for tier in sorted({self.tenant_tiers.default, *named.values()} - self.slo(name).tiers.keys()):
                yield ("slos", name, "tiers"), f"{name} has no objective for the tenant tier '{tier}'; add it"
            for tier, objective in self.slo(name).tiers.items():
                yield from self._faults_of(name, tier, objective)
        if not any(threshold.state == "freeze" for threshold in self.thresholds):
            yield ("thresholds",), "no threshold freezes; add {state: freeze, burn: 1}"

    def _faults_of(self, name: SloName, tier: str, objective: Objective) -> Iterator[tuple[tuple[str | int, ...], str]]:
        place = ("slos", name, "tiers", tier)
        for limit in ("within_minutes", "within_seconds"):
            given, wanted = getattr(objective, limit) is not None, _LIMITS.get(name) == limit
            if given != wanted:
                yield place, f"{name} {'needs' if wanted else 'has no'} {limit}; {'add' if wanted else 'remove'} it"
        for n, threshold in enumerate(self.thresholds):
            most = 1 / (1 - objective.objective)
            if threshold.burn > most:
                yield (
                    ("thresholds", n),
                    (f"a burn of {threshold.burn:g} cannot be reached: {name} of {tier} burns at most {most:.3g}"),
                )
            if threshold.over_hours is not None and threshold.over_hours > self.slo(name).window_days * 24:
                yield ("thresholds", n), f"over_hours is longer than the window of {name}; leave it out for the whole window"


def load_objectives(path: Path, tenants: Iterable[str]) -> Objectives:
    """Read the declarations and hold them against each other and the tenants. Raises ConfigError."""
    declared: Objectives = Objectives.load(path)
    for place, sentence in declared.faults(tenants):
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return declared
