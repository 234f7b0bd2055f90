"""The real sample from file to published DuckDB: whole, twice, in pieces, day by day. The numbers are those of the source."""

import random
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from analytics_assets.events.intake import utc_now
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.marts.tables import mart_tables
from analytics_assets.pipeline import Waiting
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets_tests.builders import DELIVERY, NOW, RETAIL, SNOWPLOW, Line, an_event, digest, rows_of
from analytics_assets_tests.conftest import Retail, made_once

RECEIVED, REJECTED_ROWS, ACCEPTED, STORED = 541_909, 2_517, 539_392, 534_129
REVENUE = Decimal("9748131.07")
DERIVED = (SESSIONS, PAGE_VIEWS, RUNAWAYS, USERS)
ABOUT_THE_VERSION = {
    "published_tables", "freshness_status", "time_to_insight", "slo_definitions", "slo_measurements", "slo_error_budget",
    "release_gate", "field_taxonomy", "audit_head", "withheld_events",
}  # fmt: skip
PUBLISHED_NAMES = {
    "events", "rejected_events", "sessions", "page_views", "users", "events_hourly", "events_daily", "revenue_daily",
    "properties_daily", "cohort_retention_weekly", "funnel_daily", "batches", *ABOUT_THE_VERSION,
}  # fmt: skip


# The whole


def test_every_line_of_the_sample_is_accounted_for(retail: Retail) -> None:
    found = rows_of(retail.published, "select received, rejected, duplicates, events, rejected_by_reason from batches")
    assert found == [(RECEIVED, REJECTED_ROWS, ACCEPTED - STORED, STORED, '{"unit_price_not_positive": 2517}')]
    assert RECEIVED == REJECTED_ROWS + ACCEPTED
    assert rows_of(retail.published, "select count(*), count(distinct (tenant_id, message_id)) from events") == [
        (STORED, STORED)
    ]
    kept = "select count(*), count(record_digest) filter (where reason = 'unit_price_not_positive') from rejected_events"
    assert rows_of(retail.published, kept) == [(REJECTED_ROWS, REJECTED_ROWS)]


@pytest.mark.parametrize("table", ["events", "events_daily", "revenue_daily", "sessions", "users"])
def test_every_table_tells_the_same_revenue(retail: Retail, table: str) -> None:
    assert rows_of(retail.published, f"select round(sum(revenue), 2) from {table}") == [(REVENUE,)]


def test_the_united_kingdom_is_a_tenant_with_its_own_truth(retail: Retail) -> None:
    mine = "where tenant_id = 'united-kingdom'"
    assert rows_of(retail.published, f"select count(*), round(sum(revenue), 2) from events {mine}") == [
        (487_806, Decimal("8189252.30"))
    ]
    assert rows_of(retail.published, f"select round(sum(revenue), 2) from revenue_daily {mine}") == [(Decimal("8189252.30"),)]
    assert rows_of(retail.published, f"select sum(events) from events_daily {mine}") == [(487_806,)]
    assert rows_of(retail.published, "select count(distinct tenant_id) from events") == [(38,)]


def test_returns_are_the_invoices_that_begin_with_c(retail: Retail) -> None:
    assert rows_of(retail.published, "select event, count(*) from events group by 1 order by 2") == [
        ("Product Returned", 9_251),
        ("Product Ordered", STORED - 9_251),
    ]
    wrong = "select count(*) from events where (order_id like 'C%') <> (event = 'Product Returned')"
    assert rows_of(retail.published, wrong) == [(0,)]


def test_an_invoice_is_a_session_and_nothing_is_outside_of_one(retail: Retail) -> None:
    assert rows_of(retail.published, "select sum(events) from sessions") == [(STORED,)]
    invoices = "select count(distinct (tenant_id, order_id)) from events"
    assert rows_of(retail.published, "select count(distinct (tenant_id, session_id)) from sessions") == rows_of(
        retail.published, invoices
    )


def test_lines_without_a_customer_are_anonymous(retail: Retail) -> None:
    """Checked against the file itself: as many distinct good lines lack a customer."""
    lines = (
        f"select count(*) from (select distinct * from read_parquet('{RETAIL}') where UnitPrice > 0) where CustomerID is null"
    )
    with duckdb.connect() as con:
        assert con.execute(lines).fetchall() == rows_of(retail.published, "select count(*) from events where user_id is null")


def test_the_published_names_are_there_and_every_table_and_column_says_what_it_means(retail: Retail) -> None:
    names = {row[0] for row in rows_of(retail.published, "select table_name from information_schema.tables")}
    assert names >= PUBLISHED_NAMES
    silent = (
        "select table_name from duckdb_tables() where comment is null union all "
        "select view_name from duckdb_views() where comment is null and not internal union all "
        "select table_name || '.' || column_name from duckdb_columns() where comment is null and not internal"
    )
    assert rows_of(retail.published, silent) == []
    listed = rows_of(retail.published, 'select "table", version, rows from published_tables')
    assert {name for name, *_ in listed} | ABOUT_THE_VERSION == names
    assert {version for _, version, _ in listed} == {1}
    for name, _, rows in listed:
        assert rows_of(retail.published, f"select count(*) from {name}") == [(rows,)]


def test_money_is_decimal_and_times_have_no_zone(retail: Retail) -> None:
    types = "select column_name, data_type from duckdb_columns() where table_name = 'events' and not internal"
    columns = dict(rows_of(retail.published, types))
    assert columns["revenue"] == "DECIMAL(18,4)"
    assert columns["timestamp"] == columns["received_at"] == "TIMESTAMP"
    assert {"tenant_id", "message_id", "type", "event", "user_id", "anonymous_id", "session_id", "properties", "batch_id"} <= {
        *columns
    }


# Twice, in pieces, day by day


@pytest.fixture(scope="module")
def events_of_whole(retail: Retail) -> tuple[int, int]:
    with Line.at(retail.home) as line:
        return line.digest(EVENTS)


def rejected_lines(line: Line) -> tuple[int, int]:
    kept = line.pipeline.table(REJECTED).snapshot().select()
    return digest(line.con, f"select distinct reason, raw from ({kept})", ["reason", "raw"])


def test_loading_the_sample_again_changes_nothing_and_says_so(retail: Retail) -> None:
    with Line.at(retail.home) as line:
        specs = [EVENTS, REJECTED, BATCHES]
        before = [line.pipeline.table(spec).snapshot() for spec in specs]
        again = line.load(RETAIL, "online_retail")
        assert (again.received, again.rejected, again.duplicates, again.events) == (RECEIVED, REJECTED_ROWS, ACCEPTED, 0)
        assert again.known_before
        assert [line.pipeline.table(spec).snapshot() for spec in specs] == before
        assert line.pipeline.pending(line.con) == []
        assert line.publish().changed is False


def copied(select: str, path: Path) -> Path:
    with duckdb.connect() as con:
        con.execute(f"copy ({select}) to '{path}' (format parquet)")
    return path


def load_in_pieces(folder: Path) -> None:
    """The sample cut in three at random rows, each piece shuffled, then a third of it merged with itself; and its sessions."""
    cut = sorted(random.Random(15).sample(range(RECEIVED), 2))
    lines = f"(select *, file_row_number as n from read_parquet('{RETAIL}', file_row_number = true))"
    bounds = list(zip([0, *cut], [*cut, RECEIVED], strict=True))
    random.Random(16).shuffle(bounds)
    folder.mkdir()
    with Line.at(folder / "home") as line:
        for number, (low, high) in enumerate(bounds):
            piece = f"{lines} where n >= {low} and n < {high}"
            select = f"select * exclude (n, file_row_number) from {piece} order by hash(n + {number})"
            report = line.load(copied(select, folder / f"{number}.parquet"), "online_retail")
            assert report.received == report.rejected + report.duplicates + report.events == high - low
        some = f"from {lines} where n % 3 = 0"
        merged = f"select * exclude (n, file_row_number) from ({some} union all {some}) order by hash(n)"
        report = line.load(copied(merged, folder / "merged.parquet"), "online_retail")
        assert (report.received, report.rejected + report.duplicates, report.events) == (2 * -(-RECEIVED // 3),) * 2 + (0,)
        line.sessions()
        line.pipeline.rebuild_users(line.con)


@pytest.fixture(scope="module")
def in_pieces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with Line.at(made_once(tmp_path_factory, "pieces", load_in_pieces) / "home") as line:
        yield line


def test_pieces_and_repetitions_give_the_same_events(in_pieces: Line, events_of_whole: tuple[int, int]) -> None:
    assert in_pieces.digest(EVENTS) == events_of_whole


def test_pieces_and_repetitions_give_the_same_rejected_lines(in_pieces: Line, retail: Retail) -> None:
    """Line by line. How often a line without an identity came cannot be known from pieces, and is not compared."""
    with Line.at(retail.home) as whole:
        assert rejected_lines(in_pieces) == rejected_lines(whole)


def test_sessions_of_the_pieces_are_those_of_the_whole(in_pieces: Line, retail: Retail) -> None:
    with Line.at(retail.home) as whole:
        for spec in DERIVED:
            assert in_pieces.digest(spec) == whole.digest(spec), spec.name


def test_rebuilding_some_days_again_equals_the_full_build(retail: Retail, tmp_path: Path) -> None:
    home = shutil.copytree(retail.home, tmp_path / "home")
    with Line.at(home) as line:
        tables = [*DERIVED, IDENTITIES, *mart_tables()]
        before = [line.digest(spec, without=()) for spec in tables]
        for days in ([date(2011, 6, 7)], [date(2010, 12, 1), date(2011, 11, 30)]):
            line.sessions(days)
            rebuilt, result = line.pipeline.rebuild_marts(line.con, days)
            assert result.ok and rebuilt.days == tuple(days)
        line.pipeline.rebuild_users(line.con)
        assert [line.digest(spec, without=()) for spec in tables] == before


# The stages together, on the small sample


def build_small(folder: Path) -> None:
    with Line.at(folder / "loaded", now=utc_now()) as line:
        line.load(SNOWPLOW, "snowplow", "snowplow-web")
    shutil.copytree(folder / "loaded", folder / "built")
    with Line.at(folder / "built", now=utc_now()) as line:
        line.rebuild()
        line.pipeline.judge(line.con, line.now)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sample in two homes: `loaded`, and `built` and judged, so that only the publish is left."""
    return made_once(tmp_path_factory, "small", build_small)


@pytest.fixture
def loaded(small: Path, tmp_path: Path) -> Iterator[Line]:
    with Line.at(shutil.copytree(small / "loaded", tmp_path / "home"), now=utc_now()) as line:
        yield line


@pytest.fixture
def built(small: Path, tmp_path: Path) -> Iterator[Line]:
    with Line.at(shutil.copytree(small / "built", tmp_path / "home"), now=utc_now()) as line:
        yield line


def test_nothing_is_published_while_days_wait_for_a_rebuild(loaded: Line) -> None:
    loaded.sessions()
    with pytest.raises(Waiting, match="13 days wait for a rebuild"):
        loaded.publish()
    loaded.rebuild()
    assert loaded.publish().rows["events"] == 157


def test_what_arrives_during_a_rebuild_is_published_with_the_next_one(built: Line) -> None:
    """Readers see the events that the sessions were built from, not later ones, and rejected records with their batch."""
    late = built.home / "late.csv"
    text = SNOWPLOW.read_text().replace("9e983d4a-e07c-4858-8e97-bdb7feb31241", "another-message-id")
    late.write_text(text + "no event\n")
    report = built.load(late, "snowplow", "snowplow-web")
    assert (report.events, report.rejected) == (1, 1)
    counts = "select (select count(*) from events), (select count(*) from rejected_events), (select count(*) from batches)"
    assert rows_of(built.publish().path, counts) == [(157, 0, 1)]
    built.rebuild()
    assert rows_of(built.publish().path, counts) == [(158, 1, 2)]


def test_a_version_names_how_far_its_data_reach_and_the_next_one_a_delivery_that_brings_nothing_new(built: Line) -> None:
    first = built.publish()
    latest = rows_of(first.path, "select max(timestamp) from events")
    assert rows_of(first.path, """select data_through from published_tables where "table" = 'events'""") == latest
    again = built.home / "again.csv"
    again.write_text(SNOWPLOW.read_text() + "\n")
    assert built.load(again, "snowplow", "snowplow-web").events == 0
    second = built.publish()
    assert rows_of(second.path, "select (select count(*) from events), (select count(*) from batches)") == [(157, 2)]
    assert (second.version, built.publish().changed) == (first.version + 1, False)


def test_neither_a_clock_that_runs_ahead_nor_a_delivery_without_an_event_makes_data_look_fresher(line: Line) -> None:
    reach = "select distinct data_through from published_tables"
    line.load([an_event(), an_event("ahead", timestamp=NOW + timedelta(hours=20), received_at=NOW)])
    line.rebuild()
    assert rows_of(line.publish().path, reach) == [(NOW,)]
    line.now += timedelta(hours=1)
    line.load(["no json"])
    again = line.publish()
    assert again.changed and rows_of(again.path, reach) == [(NOW,)]


def test_the_columns_that_tell_of_the_delivery_are_the_only_ones_left_out_here() -> None:
    assert set(DELIVERY) <= {column.name for spec in (EVENTS, BATCHES) for column in spec.columns}
