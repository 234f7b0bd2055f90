"""Snowplow's own test events are read as they are, in every format."""

import json
from pathlib import Path

import duckdb
import pytest

from analytics_assets.settings import PROJECT
from analytics_assets_tests.sources.reading import content, read, read_bytes, reread

SAMPLE = PROJECT / "data/sample/snowplow_web/events.csv"


def test_all_sample_events_are_fine() -> None:
    rows = read(SAMPLE, "snowplow", tenant="snowplow-web")
    assert len(rows) == 160 and len({row["message_id"] for row in rows}) == 157
    assert {row["reason"] for row in rows} == {None}
    assert sum(row["type"] == "page" for row in rows) == 50
    assert all(row["timestamp"] and row["received_at"] and row["message_id"] for row in rows)
    assert sum(row["event"] == "consent_preferences" for row in rows) == 32
    for row in rows:
        properties = json.loads(row["properties"])
        assert ("consent_preferences" in properties) == (row["event"] == "consent_preferences")
        assert ("cmp_visible" in properties) == (row["event"] == "cmp_visible")
        assert json.loads(row["context"])["platform"] == "web"
        assert (row["page_view_id"] is None) <= (row["event"] in ("consent_preferences", "cmp_visible", "page_view"))
    ping = next(row for row in rows if row["event"] == "page_ping")
    assert json.loads(ping["properties"])["pp_yoffset_max"] >= 0


def test_without_a_tenant_none_is_made_up() -> None:
    assert {row["tenant_id"] for row in read(SAMPLE, "snowplow")} == {None}


@pytest.mark.parametrize("form", ["parquet", "tsv", "json", "typed.parquet"])
def test_every_format_gives_the_same_events(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"events.{form}"
    options = {"tsv": "csv, header, delimiter '\t'", "json": "json"}.get(form, "parquet")
    typed = "" if form == "typed.parquet" else ", all_varchar = true"
    with duckdb.connect() as con:
        con.execute(f"copy (from read_csv('{SAMPLE}'{typed})) to '{path}' (format {options})")
    assert content(read(path, "snowplow", tenant="x")) == content(read(SAMPLE, "snowplow", tenant="x"))


def test_kept_texts_give_the_same_events_again() -> None:
    rows = read(SAMPLE, "snowplow", tenant="x")
    assert content(reread(rows, "snowplow", tenant="x")) == content(rows)


def test_a_transaction_is_counted_once_and_own_events_come_along(tmp_path: Path) -> None:
    base = {"collector_tstamp": "2025-06-01 10:00:00", "platform": "web"}
    own = "unstruct_event_com_acme_signup_1_0_0"
    records = [
        {
            **base,
            "event_id": "1",
            "event_name": "transaction",
            "tr_total": 30,
            "tr_orderid": "o1",
            "tr_currency": "EUR",
        },
        {
            **base,
            "event_id": "2",
            "event_name": "transaction_item",
            "ti_price": 10,
            "ti_quantity": 3,
            "ti_orderid": "o1",
        },
        {**base, "event_id": "3", "event_name": "signup", own: {"plan": "pro"}},
    ]
    rows = read_bytes(tmp_path, "e.ndjson", "\n".join(map(json.dumps, records)), "snowplow")
    assert [row["revenue"] for row in rows] == [30, None, None]
    assert [row["order_id"] for row in rows] == ["o1", "o1", None]
    assert json.loads(rows[2]["properties"]) == {own: {"plan": "pro"}}
