"""What a data home used each day, kept for good, and what it will use in the next months.

Rows, scans and waits are counted from what is committed, of the days that came since the last look; what is stored can only be
measured when somebody looks. What days used is kept here, since telemetry goes.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb

from analytics_assets.events.tables import BATCHES
from analytics_assets.telemetry.steps import STEPS_LOCK
from analytics_assets.telemetry.tables import QUERY_LOG, STEP_TELEMETRY
from analytics_assets.tuning.capacity_tables import CAPACITY_FORECAST, CAPACITY_USE, RESOURCES, Outlined, Resource, Use
from analytics_assets.tuning.keep import measured_until
from analytics_assets.tuning.loads import received
from analytics_assets.tuning.outlook import by_day, outlook
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.records import read, write
from analytics_assets.warehouse.table import Table

DAY = timedelta(days=1)
# Of a run that went over midnight it is known later what it took: so many days are counted again.
_AGAIN = 3
# The longest history that counts: older days say nothing about the next three months.
_KEPT = timedelta(days=730)
_STOCKS: frozenset[Resource] = frozenset({"stored_bytes"})
_SECONDS_A_DAY = 86_400


def measure(con: duckdb.DuckDBPyConnection, home: Home, now: datetime) -> list[Use]:
    """Note what was used on the days that are over at `now` (UTC); returns all that is known, oldest first."""
    with home.lock(STEPS_LOCK):
        known = used(con, home)
        today, rows = now.date(), {(one.resource, one.date): one for one in known if one.date >= (now - _KEPT).date()}
        for resource, until, amounts in _flows(home, now):
            days = [one.date for one in known if one.resource == resource]
            first = max(days[0], days[-1] - _AGAIN * DAY) if days else (now - _KEPT).date()
            for use in _counted(con, resource, amounts, first, min(until.date(), today), bool(days)):
                rows[resource, use.date] = use
        # As found on this day: nearest to how the day before ended.
        stored = Use(today - DAY, "stored_bytes", float(stored_bytes(home.root)))
        rows.setdefault((stored.resource, stored.date), stored)
        found = sorted(rows.values(), key=lambda one: (one.resource, one.date))
        if found != known:
            write(con, home, CAPACITY_USE, [astuple(one) for one in found])
    return found


def used(con: duckdb.DuckDBPyConnection, home: Home) -> list[Use]:
    """What is noted."""
    return [Use(*row) for row in read(con, home, CAPACITY_USE)]


def _flows(home: Home, now: datetime) -> Iterator[tuple[Resource, datetime, str]]:
    """Each flow with the time until which it is counted, and a SELECT of its amounts (moment, amount)."""
    since = now - _KEPT - DAY
    yield "rows", now, received(Table(home.warehouse, BATCHES).snapshot(), since, now)
    until = measured_until(home, now)
    if until is None:
        return
    steps = Table(home.warehouse, STEP_TELEMETRY).snapshot()
    taken = f"({steps.select(steps.between(since, now))})"
    # A clock that jumped: nothing waits for longer than it is known, and less than no time.
    waited = f"queue_seconds between 0 and {_KEPT.days * _SECONDS_A_DAY}"
    # Waits of a day over its length: how many wait at any time of it, on average (Little's law).
    yield "queue_depth", until, (
        f"select min(started_at) as moment, max(queue_seconds) / {_SECONDS_A_DAY} as amount from {taken} where {waited} "
        "group by run_id"
    )  # fmt: skip
    queries = Table(home.warehouse, QUERY_LOG).snapshot()
    asked = f"({queries.select(queries.between(since, now))})"
    yield "scanned_bytes", until, (
        f"select started_at as moment, bytes_read::double as amount from {taken} where bytes_read >= 0 "
        f"union all select asked_at, bytes_read::double from {asked} where bytes_read >= 0"
    )  # fmt: skip


def _counted(
    con: duckdb.DuckDBPyConnection, resource: Resource, amounts: str, first: date, today: date, since: bool
) -> Iterator[Use]:
    """What was used on each day from `first` (or, without `since`, the first on which anything was) to the one before today."""
    rows = con.execute(
        f"select moment::date as day, sum(amount)::double from ({amounts}) where moment::date >= ? and moment::date < ? "
        "group by 1 order by 1", [first, today],
    ).fetchall()  # fmt: skip
    if not rows and not since:
        return
    amount, day = dict(rows), first if since else rows[0][0]
    while day < today:
        yield Use(day, resource, amount.get(day, 0.0))
        day += DAY


def stored_bytes(root: Path) -> int:
    """Bytes of the files under a folder; one that has two names counts once."""
    seen, total = set[tuple[int, int]](), 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                stat = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_size
    return total


def forecast(con: duckdb.DuckDBPyConnection, home: Home, now: datetime) -> list[Outlined]:
    """Forecast every resource from what is noted, in the place of the forecast before."""
    with home.lock(STEPS_LOCK):
        uses = used(con, home)
        rows = [row for resource in RESOURCES for row in outlined(resource, uses, now)]
        write(con, home, CAPACITY_FORECAST, [astuple(row) for row in rows])
    return rows


def ahead(con: duckdb.DuckDBPyConnection, home: Home) -> list[Outlined]:
    """The newest forecast."""
    return [Outlined(*row) for row in read(con, home, CAPACITY_FORECAST)]


def outlined(resource: Resource, uses: Sequence[Use], now: datetime) -> list[Outlined]:
    """The rows of one resource: a day each, or one that says why there is none."""
    mine = [(one.date, one.amount) for one in uses if one.resource == resource]
    if not mine:
        return [_nothing(resource, now, None, "nothing of it was measured on a day that is over")]
    first, last = mine[0][0], mine[-1][0]
    stock = resource in _STOCKS
    found = outlook(by_day(mine, first, last, stock=stock), last, stock=stock)
    if not found.rows:
        return [_nothing(resource, now, last, found.reason)]
    return [
        Outlined(
            resource, now, last, row.lead, row.date, row.value, row.lower, row.upper, row.model, row.horizon, row.error,
            row.referee_error, row.origins, row.reason,
        )
        for row in found.rows
    ]  # fmt: skip


def _nothing(resource: Resource, now: datetime, last: date | None, reason: str) -> Outlined:
    return Outlined(resource, now, last, None, None, None, None, None, "none", None, None, None, None, reason)
