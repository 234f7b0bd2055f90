"""Week by week, what is used, and what nobody reads: from healthy weeks, each with one thing changed."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from analytics_assets.telemetry.costs import query_costs, unit_costs
from analytics_assets.telemetry.review import Review, review
from analytics_assets.telemetry.tables import QUERY_LOG, STEP_TELEMETRY, UNIT_COSTS, Query, StepTelemetry
from analytics_assets.warehouse.spec import identifier
from analytics_assets_tests.builders import NOON
from analytics_assets_tests.telemetry.test_costs import PRICES
from analytics_assets_tests.telemetry.test_queries import a_query
from analytics_assets_tests.telemetry.test_report import a_step

GIB = 2**30
UNTIL = NOON + timedelta(days=40)
FEEDS: Mapping[str, set[str]] = {"sessions": {"events"}, "page_views": {"events"}, "users": {"sessions"}}


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def work(run: str = "run-1", *, day: float = 0, **changes: Any) -> StepTelemetry:
    """An hour of a healthy step, so many days after the first noon."""
    return a_step(run, day=day, date=(NOON + timedelta(days=day)).date(), **changes)


def asked(day: float = 0, **changes: Any) -> Query:
    moment = NOON + timedelta(days=day)
    return a_query(query_id=f"{day:016}", asked_at=moment, date=moment.date(), **changes)


def keep(con: duckdb.DuckDBPyConnection, steps: Sequence[StepTelemetry], queries: Sequence[Query]) -> dict[str, str]:
    """Make the three tables; returns SELECTs of them."""
    shares = [share for step in steps for share in unit_costs(step, PRICES, {"sessions": {"acme": 1, "globex": 1}})]
    shares += [share for query in queries for share in query_costs(query, PRICES)]
    rows: dict[Any, Sequence[object]] = {STEP_TELEMETRY: steps, UNIT_COSTS: shares, QUERY_LOG: queries}
    for spec, found in rows.items():
        unnested = ", ".join(f"unnest(?::{column.type}[]) as {identifier(column.name)}" for column in spec.columns)
        values = [[getattr(row, name) for row in found] for name in spec.column_names]
        con.execute(f"create or replace table {spec.name} as select {unnested}", values)
    return {spec.name: f"from {spec.name}" for spec in rows}


def seen(
    con: duckdb.DuckDBPyConnection, steps: Sequence[StepTelemetry], queries: Sequence[Query] = (),
    disk: tuple[int, int] = (85 * GIB, 100 * GIB),
) -> Review:  # fmt: skip
    return review(con, keep(con, steps, queries), UNTIL, 90, feeds=FEEDS, disk=disk)


def test_every_week_tells_its_work_its_cost_and_its_queries(con: duckdb.DuckDBPyConnection) -> None:
    steps = [work("run-1"), work("run-2", day=7), work("run-3", day=8, outcome="failure")]
    queries = [asked(7, seconds=1.0), asked(8, seconds=3.0), asked(16, seconds=2.0)]
    weeks = seen(con, steps, queries).weeks
    assert [(week.attempts, week.failed, week.hours, week.queries, week.query_median) for week in weeks] == [
        (1, 0, 1.0, 0, None), (2, 1, 2.0, 2, 2.0), (0, 0, 0.0, 1, 2.0)
    ]  # fmt: skip
    assert all(week.begins.weekday() == 0 for week in weeks)
    con.execute("create table all_costs as select sum(cost) as whole from unit_costs")
    assert con.execute("select whole from all_costs").fetchall() == [(sum(week.cost or 0 for week in weeks),)]


@pytest.mark.parametrize(
    ("cpu", "threads", "within", "advice"),
    [
        (0.8 * 3600, 1, True, "in its band"),
        (1.55 * 3600, 2, True, "in its band"),
        (0.8 * 3600, 4, False, "steps use 0.8 of the 4.0 processors they are given: 1 would do (limits.yaml: storage.threads)"),
        (0.2 * 3600, 1, False, "one processor is the least that a step gets"),
        (1.9 * 3600, 2, False, "give steps more threads"),
    ],
)
def test_processors_are_held_against_their_band(
    con: duckdb.DuckDBPyConnection, cpu: float, threads: int, within: bool, advice: str
) -> None:
    compute = seen(con, [work(cpu_seconds=cpu, threads=threads)]).usage[0]
    assert compute.used == pytest.approx(cpu / 3600 / threads)
    assert (compute.kind, compute.within) == ("compute", within)
    assert compute.advice.startswith(advice)


@pytest.mark.parametrize(
    ("used", "advice"),
    [
        (85, "in its band"),
        (17, "17.0 of 100.0 GiB are used: a volume of 20.0 GiB would hold it"),
        (95, "only 5.0 GiB are free: take a volume of 111.8 GiB, or keep less"),
    ],
)
def test_the_disk_is_held_against_its_band(con: duckdb.DuckDBPyConnection, used: int, advice: str) -> None:
    storage = seen(con, [work()], disk=(used * GIB, 100 * GIB)).usage[1]
    assert storage.kind == "storage" and storage.advice.startswith(advice)


def test_a_step_that_nothing_measured_tells_nothing_of_processors(con: duckdb.DuckDBPyConnection) -> None:
    assert [one.kind for one in seen(con, [work(cpu_seconds=None)]).usage] == ["storage"]


def test_tenants_and_queries_have_their_share(con: duckdb.DuckDBPyConnection) -> None:
    found = seen(con, [work(rows_by_table='{"sessions": 1}')], [asked(1), asked(2, outcome="failure"), asked(3, shape="other")])
    assert {one.tenant for one in found.tenants} == {"acme", "globex", None}
    assert sum(one.share for one in found.tenants) == pytest.approx(1)
    assert [(one.queries, one.failed, one.tables) for one in found.queries] == [(2, 1, "events"), (1, 0, "events")]


def test_a_table_that_is_neither_asked_for_nor_made_into_others_is_work_that_nobody_reads(
    con: duckdb.DuckDBPyConnection,
) -> None:
    steps = [work(rows_by_table='{"sessions": 1, "page_views": 3, "users": 1}')]
    # A query that failed read nothing.
    queries = [asked(1), asked(2, tables='["users"]'), asked(3, tables='["page_views"]', outcome="failure")]
    unread = seen(con, steps, queries).reading.unread
    assert unread is not None
    assert [(one.table, one.share) for one in unread] == [("page_views", pytest.approx(0.6, abs=0.001))]
    assert seen(con, steps, [*queries, asked(4, tables='["page_views"]')]).reading.unread == ()


def test_of_few_days_of_queries_nothing_is_said_about_who_reads(con: duckdb.DuckDBPyConnection) -> None:
    reading = seen(con, [work()], [asked(12.5)]).reading
    assert (reading.queries, reading.unread) == (1, None)
    assert seen(con, [work()]).reading.unread is None
