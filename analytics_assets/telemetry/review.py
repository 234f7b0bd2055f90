"""What history says beside its dearest and worst steps: each week, what of the machine is used, and work that nobody reads.

Everything is asked of `step_telemetry`, `unit_costs` and `query_log`; nothing is kept. What is too little to tell is None.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

import duckdb

from analytics_assets.warehouse.spec import literal

# The bands in which what is paid for is used, and room is left for what comes: of processors while steps run, and of the disk.
COMPUTE, STORAGE = (0.70, 0.85), (0.80, 0.90)
# That nobody reads a table is not said before queries are known for so long.
DAYS_TO_TELL = 28
_LISTED = 10
_GIB = 2**30


@dataclass(frozen=True)
class Week:
    """A week from its Monday on (UTC). Times of queries are seconds, `hours` those of all attempts.

    `cost` is None where it is in several currencies.

    `compute` is the share that steps used of the processors they were given; what Python does beside DuckDB's threads counts
    too, so that it may be more than 1. `processors` is how many that were.
    """

    begins: date
    attempts: int
    failed: int
    hours: float
    rows_a_second: float | None
    cost: Decimal | None
    compute: float | None
    processors: float | None
    queries: int
    query_median: float | None
    query_p95: float | None


@dataclass(frozen=True)
class Unread:
    """A table that no query reads and nothing is made from: what it cost, and its share of all cost of steps."""

    table: str
    cost: Decimal
    currency: str
    share: float


@dataclass(frozen=True)
class Whose:
    """What a tenant cost, and its share of all; `tenant` is None for what is nobody's alone."""

    tenant: str | None
    cost: Decimal
    currency: str
    share: float


@dataclass(frozen=True)
class Asked:
    """Queries that differ in their values alone, by their `shape`: what they cost together, and seconds of the middle one."""

    shape: str
    command: str
    tables: str
    queries: int
    failed: int
    seconds: float
    cost: Decimal
    currency: str


@dataclass(frozen=True)
class Reading:
    """How the published tables are read. `unread` is None while queries are known for too short a time."""

    queries: int
    since: datetime | None
    unread: tuple[Unread, ...] | None


@dataclass(frozen=True)
class Usage:
    """A share against its band, and what to do about it. `kind` is compute or storage."""

    kind: str
    used: float
    low: float
    high: float
    advice: str

    @property
    def within(self) -> bool:
        return self.low <= self.used <= self.high


@dataclass(frozen=True)
class Review:
    weeks: tuple[Week, ...]
    usage: tuple[Usage, ...]
    tenants: tuple[Whose, ...]
    queries: tuple[Asked, ...]
    reading: Reading


def review(
    con: duckdb.DuckDBPyConnection, selects: Mapping[str, str], until: datetime, days: int, *,
    feeds: Mapping[str, Collection[str]], disk: tuple[int, int] | None,
) -> Review:  # fmt: skip
    """Of the `days` before `until` (UTC). `selects` are SELECTs of the three tables.

    `feeds` names the tables that are made for readers, each with those it is made from; `disk` are bytes of the volume that are
    used, and all of it.
    """
    with seen(con, selects, until - timedelta(days=days), until):
        weeks = tuple(weeks_of(con))
        found = [compute(week) for week in weeks[-1:] if week.compute is not None]
        found += [storage(*disk)] if disk else []
        return Review(weeks, tuple(found), tuple(_tenants(con)), tuple(_queries(con)), _reading(con, until, feeds))


@contextmanager
def seen(con: duckdb.DuckDBPyConnection, selects: Mapping[str, str], since: datetime, until: datetime) -> Iterator[None]:
    """Temp tables `seen_steps`, `seen_queries` and `seen_costs`: what lies between two moments (UTC) of the three tables."""
    within = f"between timestamp {literal(str(since))} and timestamp {literal(str(until))}"
    con.execute(f"create or replace temp table seen_steps as from ({selects['step_telemetry']}) where started_at {within}")
    con.execute(f"create or replace temp table seen_queries as from ({selects['query_log']}) where asked_at {within}")
    con.execute(
        f"create or replace temp table seen_costs as from ({selects['unit_costs']}) "
        f"where date between date {literal(str(since.date()))} and date {literal(str(until.date()))}"
    )
    yield
    con.execute("drop table seen_steps; drop table seen_queries; drop table seen_costs")


def weeks_of(con: duckdb.DuckDBPyConnection) -> list[Week]:
    """The weeks of what is `seen`."""
    given = "wall_seconds * greatest(coalesce(threads, 1), 1)"
    measured = "cpu_seconds is not null and wall_seconds > 0"
    rows = con.execute(
        "with work as (select date_trunc('week', started_at)::date as week, count(*) as attempts, "
        "count(*) filter (outcome not in ('success', 'cancelled')) as failed, coalesce(sum(wall_seconds), 0) / 3600 as hours, "
        "sum(rows_written) / nullif(sum(wall_seconds) filter (rows_written > 0), 0) as speed, "
        f"sum(cpu_seconds) filter ({measured}) / sum({given}) filter ({measured}) as compute, "
        f"sum(cpu_seconds) filter ({measured}) / sum(wall_seconds) filter ({measured}) as processors "
        "from seen_steps group by 1), "
        "money as (select date_trunc('week', date)::date as week, "
        "case when count(distinct currency) = 1 then sum(cost) end as cost from seen_costs group by 1), "
        "asked as (select date_trunc('week', asked_at)::date as week, count(*) as queries, median(seconds) as median, "
        "quantile_cont(seconds, 0.95) as slow from seen_queries group by 1) "
        "select week, coalesce(attempts, 0), coalesce(failed, 0), coalesce(hours, 0), speed, cost, compute, "
        "processors, coalesce(queries, 0), median, slow from work full join asked using (week) left join money using (week) "
        "order by week"
    ).fetchall()
    return [Week(*row) for row in rows]


def compute(week: Week) -> Usage:
    """What steps used of their processors, against its band."""
    used, processors = week.compute or 0.0, week.processors or 0.0
    low, high = COMPUTE
    fit = max(1, round(processors / ((low + high) / 2)))
    if used < low:
        given = processors / used if used else 0.0
        advice = (
            f"steps use {processors:.1f} of the {given:.1f} processors they are given: {fit} would do (limits.yaml: "
            "storage.threads)"
            if round(given) > fit
            else "one processor is the least that a step gets: let more steps share the machine, or take a smaller one"
        )
    elif used > high:
        advice = "give steps more threads (limits.yaml: storage.threads), or start fewer at once"
    else:
        advice = "in its band"
    return Usage("compute", used, low, high, advice)


def storage(used: int, total: int) -> Usage:
    """What is used of a volume, in bytes, against its band."""
    low, high = STORAGE
    share = used / total if total else 0.0
    fit = used / ((low + high) / 2) / _GIB
    advice = "in its band"
    if share < low:
        advice = f"{used / _GIB:.1f} of {total / _GIB:.1f} GiB are used: a volume of {fit:.1f} GiB would hold it"
    elif share > high:
        advice = f"only {(total - used) / _GIB:.1f} GiB are free: take a volume of {fit:.1f} GiB, or keep less (retention.yaml)"
    return Usage("storage", share, low, high, advice)


def _tenants(con: duckdb.DuckDBPyConnection) -> list[Whose]:
    rows = con.execute(
        "with whose as (select tenant, sum(cost) as cost, currency from seen_costs group by tenant, currency), "
        "shared as (select *, sum(cost) over (partition by currency) as whole from whose) "
        "select tenant, cost, currency, case when whole > 0 then (cost / whole)::double else 0 end from shared "
        f"order by cost desc, tenant limit {_LISTED}"
    ).fetchall()
    return [Whose(*row) for row in rows]


def _queries(con: duckdb.DuckDBPyConnection) -> list[Asked]:
    rows = con.execute(
        "with priced as (select run_id, sum(cost) as cost, any_value(currency) as currency from seen_costs "
        "where unit = 'query' group by 1) "
        "select shape, command, any_value(array_to_string(json_extract_string(tables, '$[*]'), ', ')), count(*), "
        "count(*) filter (outcome <> 'success'), median(seconds), sum(cost) as spent, currency "
        "from seen_queries join priced on run_id = query_id "
        f"group by shape, command, currency order by spent desc, shape limit {_LISTED}"
    ).fetchall()
    return [Asked(*row) for row in rows]


def _reading(con: duckdb.DuckDBPyConnection, until: datetime, feeds: Mapping[str, Collection[str]]) -> Reading:
    ((queries, first),) = con.execute("select count(*), min(asked_at) from seen_queries").fetchall()
    if first is None or until - first < timedelta(days=DAYS_TO_TELL):
        return Reading(queries, first, None)
    read = "select distinct unnest(json_extract_string(tables, '$[*]')) from seen_queries where outcome = 'success'"
    used = {table for (table,) in con.execute(read).fetchall()} | {table for made in feeds.values() for table in made}
    unread = sorted(feeds.keys() - used)
    costs = con.execute(
        "with steps as (from seen_costs where coalesce(unit, 'step') = 'step') "
        'select "table", sum(cost), currency, coalesce(sum(cost) / nullif((select sum(cost) from steps as all_steps '
        'where all_steps.currency = steps.currency), 0), 0)::double from steps group by "table", currency order by 2 desc, 1'
    ).fetchall()
    return Reading(queries, first, tuple(Unread(*row) for row in costs if row[0] in unread))
