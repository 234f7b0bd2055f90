"""Senders who fill names and categories with data: tables stay bounded, the rest is counted, and somebody is told."""

import warnings
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path

import dagster as dg

from analytics_assets.defs.partitions import range_tags
from analytics_assets.defs.run import Jobs
from analytics_assets.events.days import DayRange
from analytics_assets_tests.builders import DAY, Line, an_event, rows_of
from analytics_assets_tests.conftest import Retail
from analytics_assets_tests.defs.home import a_call, a_data_home

SPRING = date(2025, 3, 10)
CARDINALITY = "properties_daily_cardinality"
LISTED = "select property, events, distinct_values, keys, quarantined from properties_daily"


def keys(first: int, last: int) -> dict[str, int]:
    return {f"key-{n:03}": n for n in range(first, last)}


def warned(line: Line) -> list[tuple[str, int | None]]:
    """Rebuild the usual day: (test, rows) of the warnings; no other test may fail."""
    line.sessions()
    _, result = line.pipeline.rebuild_marts(line.con, [DAY])
    assert result.ok
    line.pipeline.rebuild_users(line.con)
    return [(test.name, test.failures) for test in result.tests if test.status != "pass"]


def test_keys_past_the_limit_are_counted_and_a_warning_stands_beside_the_publish(tmp_path: Path) -> None:
    calls = [a_call(f"m{n}", properties=keys(n, n + 100)) for n in (0, 100, 200)]
    with a_data_home(tmp_path) as home, warnings.catch_warnings():
        intake = {"path": str(home.file("keys.ndjson", calls)), "source": "segment", "tenant": "acme"}
        jobs = Jobs(home.settings)
        jobs.run("ingest", ops={"intake": intake})
        refreshed = jobs.run("refresh", tags=range_tags(DayRange(SPRING, SPRING)))
    (verdict,) = [found for found in refreshed.get_asset_check_evaluations() if found.check_name == CARDINALITY]
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert verdict.metadata["failing rows"].value == 1
    assert str(verdict.metadata["message"].value).startswith("1 row breaks it: No property is quarantined")
    found = rows_of(home.root / "published" / "analytics.duckdb", f"{LISTED} order by quarantined, property")
    assert [row[0] for row in found] == [*keys(0, 200), "(other)"]
    assert found[0] == ("key-000", 1, 1, 1, False)
    assert found[-1] == ("(other)", 100, None, 100, True)


def test_keys_with_hostile_names_are_counted_like_any_other(line: Line) -> None:
    names = ["", " ", "'", '"', "a.b[*]", "$.*", "(other)", "'; drop table events; --", "é", "e\u0301", "\u0000", "x" * 255]
    sent = [dict.fromkeys(names, n) for n in range(3)]
    sent[0]["x" * 256] = sent[0]["x" * 30_000] = 1
    line.load([an_event(f"m{n}", properties=properties) for n, properties in enumerate(sent)])
    assert warned(line) == [(CARDINALITY, 1)]
    found = rows_of(line.publish().path, LISTED)
    assert Counter(found) == Counter([*((name, 3, 3, 1, False) for name in names), ("(other)", 2, None, 2, True)])


def test_values_past_the_limit_are_a_warning_products_one_group_and_every_sum_stays(line: Line) -> None:
    sold = {"revenue": "0.01", "currency": "EUR", "quantity": 1}
    line.load(
        [
            an_event(f"m{n}", product_id=f"p{n:05}", properties={"colour": "red", "request": f"r{n}"}, **sold)
            for n in range(12_000)
        ]
    )
    line.load([an_event("late", product_id="p11999", **{**sold, "revenue": "5.00"})])
    # One row for the products, and one for a property that is never the same.
    assert warned(line) == [(CARDINALITY, 2)]
    path = line.publish().path
    many = "select property from properties_daily where distinct_values > 10000 order by 1"
    assert rows_of(path, many) == [("product_id",), ("request",)]
    assert rows_of(path, "select count(*), sum(events), sum(quantity), sum(revenue) from events_daily") == [
        (10_001, 12_001, 12_001, Decimal("125.00"))
    ]
    # p11999 is the most frequent; of those that come once, the first by name are kept.
    others = "select product_id, events, revenue from events_daily where events > 1 order by all"
    assert rows_of(path, others) == [("(other)", 2000, Decimal("20.00")), ("p11999", 2, Decimal("5.01"))]
    assert rows_of(path, "select max(product_id) from events_daily where events = 1") == [("p09998",)]


def test_a_healthy_year_warns_of_nothing(retail: Retail) -> None:
    over = "select count(*) from properties_daily where quarantined or distinct_values > 10000"
    assert rows_of(retail.published, over) == [(0,)]
    assert rows_of(retail.published, "select count(*) from events_daily where product_id = '(other)'") == [(0,)]
    # Every event of the sample has these, so they are counted as often as there are events.
    always = ("description", "price", "product_id", "quantity", "region")
    counted = "select property, sum(events) = (select count(*) from events) from properties_daily group by all order by all"
    assert rows_of(retail.published, counted) == [(name, True) for name in always]
