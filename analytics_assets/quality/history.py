"""What is usual: bounds learned from clean days before the window that is judged, never from the window itself.

A day of a tenant is clean when none of its blocking expectations failed and no incident is declared for it; what was unknown
of it does not matter, or nothing could ever begin to be learned. An expectation also does not learn from a day that it failed
itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from statistics import median

from analytics_assets.quality.measure import Cell
from analytics_assets.settings import Incident
from analytics_assets.warehouse.expectation import Usual

# So far back looks a comparison with the same weekday, and so far one with the rows of clean days.
LOOKBACK, CLEAN_DAYS = timedelta(days=91), timedelta(days=56)
# So many days are taken, newest first, and under the minimum the answer is unknown.
_DAYS = {True: (8, 4), False: (30, 10)}
# The median deviation of a normal distribution in standard deviations.
_NORMAL = 1.4826

Past = tuple[str, str | None, date, str, str, str, float | None]
"""(table, tenant, day, expectation, severity, success, observed) of an earlier verdict."""

# Judged by the day of receipt, which may be another than that of the events.
DELIVERIES = frozenset({"batches", "rejected_events"})


@dataclass(frozen=True)
class Bounds:
    """What would be usual; `distance` of a value is 0 in the middle, 1 and -1 at the bounds."""

    low: float
    middle: float
    high: float
    ratio: bool

    def distance(self, value: float) -> float:
        if value >= self.middle:
            return self._way(value, self.middle) / self._way(self.high, self.middle)
        return -self._way(self.middle, value) / self._way(self.middle, self.low)

    def _way(self, more: float, less: float) -> float:
        if not self.ratio:
            return more - less
        # As far as can be from anything: nothing where there was something.
        return math.log(more / less) if less > 0 else 99.0


class History:
    """Verdicts before the judged window, arranged for learning.

    `brought` gives the tenants and days of the events that came to a tenant (or source) on a day of receipt.
    """

    def __init__(
        self, past: Iterable[Past], incidents: Sequence[Incident] = (), brought: Mapping[Cell, Iterable[Cell]] | None = None
    ) -> None:
        rows = [row for row in past]
        excused = {id(row) for row in rows if _declared(row, incidents, "normal")}
        broken = [row for row in rows if row[4] == "block" and row[5] == "fail" and id(row) not in excused]
        broken += [row for row in rows if _declared(row, incidents, "incident")]
        self._broken_receipts = {(row[1], row[2]) for row in broken if row[0] in DELIVERIES}
        self._broken = {(row[1], row[2]) for row in broken if row[0] not in DELIVERIES}
        for tenant, day in self._broken_receipts:
            self._broken.update((brought or {}).get((tenant or "", day), ()))
        self._values: dict[tuple[str, str], dict[str | None, dict[date, float]]] = {}
        for row in rows:
            table, tenant, day, expectation, _, success, observed = row
            learned = success != "fail" or id(row) in excused
            broken_days = self._broken_receipts if table in DELIVERIES else self._broken
            if observed is not None and learned and (tenant, day) not in broken_days:
                self._values.setdefault((table, expectation), {}).setdefault(tenant, {})[day] = observed

    @cached_property
    def clean(self) -> list[tuple[str, date]]:
        """(tenant, day) of events of which nothing failed."""
        found = self._values.get(("events", "events_volume"), {})
        return [(tenant, day) for tenant, days in found.items() if tenant is not None for day in days]

    def tenants(self, table: str, expectation: str) -> set[str]:
        """Tenants that were seen."""
        return {tenant for tenant in self._values.get((table, expectation), {}) if tenant is not None}

    def bounds(self, table: str, expected: Usual, tenant: str, day: date) -> Bounds | str:
        """What is usual for a tenant on a day, or why that is unknown."""
        by_tenant = self._values.get((table, expected.name), {})
        mine: Mapping[date, float] = by_tenant.get(tenant, {})
        if expected.absent_is_zero:
            # A day on which others had rows and this tenant none is a day of zero, unless the tenant's day was at fault.
            days = {known for values in by_tenant.values() for known in values}
            mine = {known: mine.get(known, 0.0) for known in days if (tenant, known) not in self._broken}
        wanted, least = _DAYS[expected.weekday]
        alike = [known for known in mine if known < day and (not expected.weekday or known.weekday() == day.weekday())]
        values = [mine[known] for known in sorted(alike)[-wanted:]]
        if len(values) < least:
            kind = "same weekdays" if expected.weekday else "days"
            return f"{len(values)} clean {kind} are known, {least} are needed"
        if expected.least is not None and median(values) < expected.least:
            return f"usually under {expected.least:g}, too few to judge"
        return _bounds(expected, values)


def _bounds(expected: Usual, values: Sequence[float]) -> Bounds:
    if not expected.ratio:
        middle = median(values)
        half = max(expected.tolerance, expected.spreads * _NORMAL * median(abs(value - middle) for value in values))
        return Bounds(middle - half, middle, middle + half, False)
    # Zero has no logarithm; one stands for it, far below all that is judged.
    logs = [math.log(max(value, 1.0)) for value in values]
    middle = median(logs)
    half = max(math.log(expected.tolerance), expected.spreads * _NORMAL * median(abs(value - middle) for value in logs))
    return Bounds(math.exp(middle - half), math.exp(middle), math.exp(middle + half), True)


def _declared(row: Past, incidents: Sequence[Incident], kind: str) -> bool:
    return any(incident.kind == kind and incident.covers(row[1], row[2]) for incident in incidents)
