"""Error budgets: minutes that a promise may be broken, what is left of them, how fast they go. Pure functions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TypeVar

from analytics_assets.freshness.tiers import Promises
from analytics_assets.slo.broken import Arrival, Delivery, Probe, RunEnd, Shown, failing, lagging, late, publishes, slow
from analytics_assets.slo.declared import LEVELS, SAYS, SLOS, Level, Objective, Objectives, SloName, Threshold
from analytics_assets.slo.spans import Span, Timeline, days, union, without

# A failed look after storage holds up no work that waits.
_BESIDE = frozenset({"maintain"})
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Evidence:
    """What is committed. `publications` are (from when on, published version, version of events), oldest first.

    `first` says since when there is evidence of a tenant; nothing before counts.
    """

    first: Mapping[str, datetime] = field(default_factory=dict)
    deliveries: Sequence[Delivery] = ()
    arrivals: Sequence[Arrival] = ()
    publications: Sequence[tuple[datetime, int, int]] = ()
    probes: Sequence[Probe] = ()
    runs: Sequence[RunEnd] = ()


@dataclass(frozen=True)
class Measurement:
    """A row of `slo_measurements`."""

    slo: SloName
    tier: str
    tenant_id: str | None
    day: date
    good_minutes: float
    bad_minutes: float
    objective: float


@dataclass(frozen=True)
class Budget:
    """A row of `slo_error_budget`."""

    slo: SloName
    tier: str
    tenant_id: str | None
    budget_minutes: float
    bad_minutes: float
    remaining: float
    burn_rates: str
    state: Level
    since: datetime | None
    reason: str

    @property
    def whose(self) -> str:
        return self.tenant_id or f"all tenants of the tier {self.tier}"


@dataclass(frozen=True)
class Measured:
    """When a promise was broken, from the first evidence (or the begin of the window) to `now`."""

    slo: SloName
    tier: str
    tenant: str | None
    objective: Objective
    window: timedelta
    begin: datetime
    now: datetime
    bad: Timeline

    @property
    def allowed(self) -> float:
        """Share of the window in which the promise may be broken."""
        # 1 - 0.99 is a little more than 0.01.
        return round(1 - self.objective.objective, 9)

    def burn(self, over: timedelta, at: datetime, after: datetime | None = None) -> float:
        """How many times faster than it would last for the window the budget went, over the time before `at`."""
        begin = at - over if after is None else max(at - over, after)
        return self.bad.between(begin, at) / over / self.allowed

    def level(self, thresholds: Iterable[Threshold], at: datetime, after: datetime | None = None) -> tuple[Level, str]:
        """The worst state whose threshold is reached at `at`, counting minutes `after` a moment only; and why."""
        worst: Level = "ok"
        why = ""
        for threshold in thresholds:
            over = self.window if threshold.over_hours is None else _hours(threshold.over_hours)
            rates = [self.burn(over, at, after)]
            if threshold.and_hours is not None:
                rates.append(self.burn(_hours(threshold.and_hours), at, after))
            if min(rates) >= threshold.burn and LEVELS.index(threshold.state) > LEVELS.index(worst):
                worst, whole = threshold.state, threshold.over_hours is None
                over_what = "the whole window" if whole else f"the last {threshold.over_hours:g} h"
                why = f"the budget burned {rates[0]:.3g} times too fast over {over_what} ({worst} from {threshold.burn:g})"
        return worst, why

    def since(self, thresholds: Sequence[Threshold], level: Level) -> datetime:
        """Since when the state is `level`, to a minute. A break that was much shorter than the time since then is none."""
        # The further back, the wider the steps: looking at every turn of a month of short outages costs seconds.
        reached, step = self.now, _MINUTE
        while reached > self.begin:
            before = max(reached - step, self.begin)
            if self.level(thresholds, before)[0] != level:
                while reached - before > _MINUTE:
                    middle = before + (reached - before) / 2
                    if self.level(thresholds, middle)[0] == level:
                        reached = middle
                    else:
                        before = middle
                break
            reached, step = before, max(_MINUTE, (self.now - before) / 5)
        return reached

    def days(self) -> list[Measurement]:
        found = []
        for day, (begin, end) in days(self.begin, self.now):
            bad = self.bad.between(begin, end)
            row = (day, _minutes(end - begin - bad), _minutes(bad), self.objective.objective)
            found.append(Measurement(self.slo, self.tier, self.tenant, *row))
        return found

    def budget(self, thresholds: Sequence[Threshold]) -> Budget:
        allowed = _minutes(self.window) * self.allowed
        bad = _minutes(self.bad.between(self.begin, self.now))
        hours = [*_looks(thresholds), self.window / _hours(1)]
        rates = {f"{over:g} h": round(self.burn(_hours(over), self.now), 3) for over in hours}
        state, why = self.level(thresholds, self.now)
        left = 1 - bad / allowed
        said = f"{bad:,.0f} of {allowed:,.0f} min used" + (f"; {why}" if why else "")
        since = None if state == "ok" else self.since(thresholds, state)
        return Budget(
            self.slo, self.tier, self.tenant, round(allowed, 4), bad, round(left, 6), json.dumps(rates), state, since, said
        )


def _minutes(value: timedelta) -> float:
    return value / _MINUTE


def _hours(value: float) -> timedelta:
    return timedelta(hours=value)


def _looks(thresholds: Iterable[Threshold]) -> list[float]:
    """The hours that thresholds look back, shortest first."""
    return sorted({hours for threshold in thresholds for hours in (threshold.over_hours, threshold.and_hours) if hours})


def measure(
    objectives: Objectives, promises: Promises, tenants: Iterable[str], evidence: Evidence, now: datetime
) -> list[Measured]:
    """What was measured of every SLO up to `now`: a tenant that never sent anything, or is paused, has none of its own."""
    measured = [tenant for tenant in tenants if tenant in evidence.first and not promises.tenant(tenant).paused(now)]
    shown = Shown([(moment, version) for moment, _, version in evidence.publications])
    new = publishes([(moment, version) for moment, version, _ in evidence.publications])
    runs = [run for run in evidence.runs if run.job not in _BESIDE]
    failed = union(span for spans in failing(runs, new, now).values() for span in spans)
    deliveries = _by_tenant(evidence.deliveries)
    arrivals = _by_tenant(evidence.arrivals)
    found = []

    def add(
        slo: SloName, tier: str, tenant: str | None, first: datetime, bad: Iterable[Span], within: timedelta = timedelta(0)
    ) -> None:
        window = objectives.slo(slo).window
        begin = min(max(first, now - window), now)
        holes = [(hole.first, hole.last) for hole in objectives.excused if hole.covers(slo, tenant)]
        # What came during a pause has its time from the end of the pause on.
        pauses = promises.tenant(tenant).pauses if tenant else ()
        holes += [(pause.first, pause.last + within) for pause in pauses if pause.last is not None]
        counted = Timeline((max(one, begin), min(end, now)) for one, end in without(bad, holes))
        found.append(Measured(slo, tier, tenant, objectives.objective(slo, tier), window, begin, now, counted))

    for tenant in measured:
        tier = objectives.tenant_tiers.of(tenant)
        first = evidence.first[tenant]
        within = timedelta(minutes=objectives.objective("ingestion_lag", tier).limit)
        add("ingestion_lag", tier, tenant, first, lagging(arrivals.get(tenant, ()), within, now), within)
        promise = min(promises.tier(promises.tier_of(tenant, table)).promise for table in promises.tables)
        unseen = late(deliveries.get(tenant, ()), shown, promise, now, promises.longest)
        add("freshness", tier, tenant, first, unseen, promise)
    first_of_all = min(evidence.first.values(), default=None)
    for tier in objectives.tiers_of(tenants) if first_of_all else ():
        within_seconds = objectives.objective("query_latency", tier).limit
        add("query_latency", tier, None, first_of_all or now, slow(evidence.probes, within_seconds, now))
        add("pipeline_success", tier, None, first_of_all or now, failed)
    return found


_T = TypeVar("_T", Arrival, Delivery)


def _by_tenant(items: Iterable[_T]) -> dict[str, list[_T]]:
    found: dict[str, list[_T]] = {}
    for item in items:
        found.setdefault(item.tenant, []).append(item)
    return found


def definitions(objectives: Objectives) -> list[tuple[object, ...]]:
    """The rows of `slo_definitions`."""
    rows: list[tuple[object, ...]] = []
    for name in SLOS:
        slo = objectives.slo(name)
        for tier, objective in slo.tiers.items():
            minutes = round(_minutes(slo.window) * (1 - objective.objective), 4)
            unit = "minutes" if objective.within_minutes else "seconds" if objective.within_seconds else None
            limit = objective.limit or None
            rows.append((name, tier, SAYS[name], objective.objective, slo.window_days, minutes, limit, unit))
    return rows


def worst_first(budgets: Iterable[Budget]) -> list[Budget]:
    """The worst state first, and of one state the one with the least left."""
    return sorted(budgets, key=lambda budget: (-LEVELS.index(budget.state), budget.remaining))
