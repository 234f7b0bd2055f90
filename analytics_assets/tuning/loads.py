"""Loads counted from what is committed: events received by tenant, processor seconds of steps, by the hour.

Events count when they were received and not when they happened: receiving them is the work. An hour in which nothing came is
known to be zero, from the first hour on in which something did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np

from analytics_assets.tuning.series import HOUR, Series
from analytics_assets.tuning.tables import Load
from analytics_assets.warehouse.table import Snapshot

# Of a load that belongs to no tenant alone.
ALL = None


def received(batches: Snapshot, since: datetime, until: datetime) -> str:
    """A SELECT of (tenant, moment, amount): new events by batch and tenant, also such as were taken out again later."""
    stored = batches.select(batches.between(since, until))
    return (
        "select name as tenant, moment, "
        "coalesce(cast(events_by_tenant ->> ('$.\"' || name || '\"') as double), events) as amount from ("
        "select received_at as moment, events, events_by_tenant, "
        "unnest(coalesce(json_keys(events_by_tenant), [tenant])) as name "
        f"from ({stored}) where events > 0 and status in ('loaded', 'replayed'))"
    )  # fmt: skip


def worked(steps: Snapshot, since: datetime, until: datetime) -> str:
    """A SELECT of (tenant, moment, amount): processor seconds of each step, counted when it began. Absurd ones are left out."""
    # A clock that jumped: nothing takes more than every processor of a large machine all the time.
    sane = "isfinite(cpu_seconds) and cpu_seconds >= 0 and coalesce(cpu_seconds <= 1024 * greatest(wall_seconds, 1), true)"
    stored = steps.select(steps.between(since, until))
    return f"select tenant, started_at as moment, cpu_seconds as amount from ({stored}) where {sane}"


@dataclass(frozen=True)
class Hourly:
    """A load by the hour. `series` is None where nothing came since it is counted."""

    tenant: str | None
    load: Load
    series: Series | None


def hourly(
    con: duckdb.DuckDBPyConnection, load: Load, amounts: str, tenants: Sequence[str], since: datetime, until: datetime
) -> list[Hourly]:
    """The load of all together, then of each tenant, in the whole hours before `until` and after `since`."""
    end = whole_hour(until)
    rows = con.execute(
        f"select tenant, date_trunc('hour', moment) as hour, sum(amount) from ({amounts}) "
        "where moment >= ? and moment < ? group by all",
        [whole_hour(since), end],
    ).fetchall()
    found: dict[str | None, dict[datetime, float]] = {}
    for tenant, hour, amount in rows:
        for whose in {tenant, ALL}:
            of = found.setdefault(whose, {})
            of[hour] = of.get(hour, 0.0) + amount
    return [Hourly(whose, load, _series(whose, load, found.get(whose, {}), end)) for whose in (ALL, *tenants)]


def _series(tenant: str | None, load: Load, amounts: dict[datetime, float], end: datetime) -> Series | None:
    if not amounts:
        return None
    start = min(amounts)
    values = np.zeros((end - start) // HOUR)
    for hour, amount in amounts.items():
        values[(hour - start) // HOUR] = amount
    return Series(f"{load} of {tenant or 'all tenants'}", start, HOUR, values)


@dataclass(frozen=True)
class Lately:
    """The load of whole hours that ended lately, oldest first, and since when it is counted (None: nothing came)."""

    loads: tuple[float, ...]
    since: datetime | None


def lately(
    con: duckdb.DuckDBPyConnection, amounts: str, tenant: str | None, until: datetime, count: int, step: timedelta
) -> Lately:
    """The load of `count` hours, the last one up to `until`, each a `step` after the one before; fewer where less is known."""
    ends = [until - n * step for n in reversed(range(count))]
    mine = f"select moment, amount from ({amounts}) where $tenant is null or tenant = $tenant"
    first = con.execute(f"select min(moment) from ({mine})", {"tenant": tenant}).fetchall()[0][0]
    if first is None:
        return Lately((), None)
    known = [end for end in ends if end - HOUR >= first]
    rows = con.execute(
        f"select until, coalesce(sum(amount), 0) from (select unnest($ends::timestamp[]) as until) left join ({mine}) "
        "on moment > until - interval 1 hour and moment <= until group by all order by all",
        {"tenant": tenant, "ends": known},
    ).fetchall()
    return Lately(tuple(float(amount) for _, amount in rows), first)


def whole_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
