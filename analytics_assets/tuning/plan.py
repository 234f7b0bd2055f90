"""The capacity of each declared pool: what is known of its load, brought to `scaling`, and what may become of the decision.

Pure functions of declarations and of what is known. Setting the limits of pools is not done here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from analytics_assets.tuning.calendar import Calendar
from analytics_assets.tuning.declared import Pool, Scaling
from analytics_assets.tuning.loads import Lately, whole_hour
from analytics_assets.tuning.scaling import DAY, Decision, Signals, decide
from analytics_assets.tuning.series import HOUR
from analytics_assets.tuning.tables import Ahead, Decided, Load

# So much of the last 60 minutes may lie in the hour that was the last one known to the forecast.
_OVERHANG = timedelta(minutes=10)


@dataclass(frozen=True)
class Known:
    """What is known when a pool's capacity is decided. Times are UTC without an offset.

    `ahead` is the whole newest forecast, `before` the pool's earlier decisions, oldest first; `limit` is that of Dagster's pool
    (None: it has none), `frozen` why no change may be made now.
    """

    now: datetime
    lately: Lately
    ahead: Sequence[Ahead] = ()
    before: Sequence[Decided] = ()
    limit: int | None = None
    frozen: str | None = None


def decided(name: str, pool: Pool, scaling: Scaling, calendar: Calendar, known: Known) -> Decided:
    """The capacity of a pool from now on, as a row of `scaling_plan`; what it sets as Dagster's limit is `applied`."""
    now, mode = known.now.replace(tzinfo=UTC), scaling.mode
    mine = _at(known, pool.serves, pool.tenant)
    p90, most = _highest(mine, "upper_80", known.now, HOUR), _most(mine, known.now)
    observed = known.lately.loads[-1] if known.lately.loads else None
    usual = _highest(mine, "value", known.now, timedelta(0))
    planned, notes = calendar.planned(
        now, pool.serves, pool.tenant, usual if usual is not None else observed, lambda tenant: _share(known, tenant)
    )
    last = known.before[-1] if known.before else None
    was = last.capacity if last is not None else pool.floor
    if mode == "act" and known.limit is not None:
        was = known.limit
    signals = Signals(
        now=now,
        capacity=was,
        observed=known.lately.loads,
        forecast_p90=p90,
        expected_most=most,
        planned=planned,
        changed=tuple(
            row.decided_at.replace(tzinfo=UTC)
            for row in known.before
            if row.capacity != row.was and timedelta(0) <= known.now - row.decided_at < DAY
        ),
    )
    decision = decide(pool, signals)
    origin = next((row.origin for row in mine if row.lead is not None), None)
    row = Decided(
        name, known.now, pool.tenant, pool.serves, mode, decision.capacity, was, None, pool.quota,
        observed, planned[0].expected if planned else None, p90, most, origin,
        decision.held, _said(decision, notes), decision.alert,
    )  # fmt: skip
    return _licensed(row, scaling, known) if mode == "act" else row


def _licensed(row: Decided, scaling: Scaling, known: Known) -> Decided:
    """What may become of a decision: applied, or held by too little history, a freeze of releases, or a person."""
    since = known.lately.since
    weeks = scaling.least_weeks * 7 * DAY
    if since is None or known.now - since < weeks:
        days = 0 if since is None else (known.now - since) // DAY
        told = f"only advised: its load is known for {days} {'day' if days == 1 else 'days'}, acting needs {weeks // DAY}"
        return replace(row, mode="advise", held="history", reason=f"{row.reason}; {told}")
    if known.limit is not None and known.limit not in _given(known.before):
        told = f"left alone: a person set the limit to {known.limit}; delete the limit in Dagster to give the pool back"
        return replace(row, capacity=known.limit, held="person", reason=f"{row.reason}; {told}")
    if known.frozen is not None and row.capacity != known.limit:
        kept = row.was if known.limit is None else known.limit
        told = f"{row.capacity} not applied: {known.frozen}"
        return replace(row, capacity=kept, held="frozen", reason=f"{row.reason}; {told}")
    return replace(row, applied=row.capacity)


def _given(before: Sequence[Decided]) -> set[int]:
    """The last two limits that were set for a pool: what is noted first and then set may be killed between the two."""
    given: list[int] = []
    for row in reversed(before):
        if row.applied is not None and row.applied not in given:
            given.append(row.applied)
        if len(given) == 2:
            break
    return set(given)


def to_take_back(pool: str, scaling: Scaling, known: Known) -> bool:
    """Whether a limit is in force that the plan set, and that it may set no more."""
    return (scaling.mode != "act" or pool not in scaling.pools) and known.limit in _given(known.before)


def _at(known: Known, load: Load, tenant: str | None) -> list[Ahead]:
    return [row for row in known.ahead if row.load == load and row.tenant == tenant]


def _highest(rows: Sequence[Ahead], column: str, begin: datetime, length: timedelta) -> float | None:
    """The largest value of the hours that a time from `begin` on touches; None if none is known."""
    first, last = whole_hour(begin), whole_hour(begin + length)
    found = [getattr(row, column) for row in rows if row.time is not None and first <= row.time <= last]
    return max((value for value in found if value is not None), default=None)


def _most(rows: Sequence[Ahead], now: datetime) -> float | None:
    """What the load of the last 60 minutes was to be at most; None where these began in an hour that was not forecast."""
    begin = now - HOUR + _OVERHANG
    if _highest(rows, "upper_95", begin, timedelta(0)) is None:
        return None
    return _highest(rows, "upper_95", begin, HOUR - _OVERHANG)


def _share(known: Known, tenant: str) -> float | None:
    """The tenant's part of the events that are forecast for this hour."""
    mine, every = (_highest(_at(known, "events", whose), "value", known.now, timedelta(0)) for whose in (tenant, None))
    return min(mine / every, 1.0) if mine is not None and every else None


def _said(decision: Decision, notes: Sequence[str]) -> str:
    first = f"{decision.was} as before" if decision.capacity == decision.was else (
        f"{'raised' if decision.capacity > decision.was else 'lowered'} from {decision.was} to {decision.capacity}"
    )  # fmt: skip
    return f"{first}: " + "; ".join((*notes, *decision.reasons))
