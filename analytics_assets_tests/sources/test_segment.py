"""Segment calls become events as the spec says; one bad call is one rejected row."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analytics_assets_tests.sources.reading import RECEIVED, Row, a_call, content, lines, read, read_bytes, reread, utc


def one(tmp_path: Path, **changes: Any) -> Row:
    rows = read_bytes(tmp_path, "one.ndjson", lines(a_call(**changes)), "segment", tenant="acme")
    assert len(rows) == 1
    return rows[0]


def test_a_track_call(tmp_path: Path) -> None:
    context = {"campaign": {"name": "spring"}, "location": {"country": "DE"}, "page": {"url": "http://a", "title": "A"}}
    row = one(tmp_path, context=context)
    assert row["reason"] is None and row["tenant_id"] == "acme"
    assert (row["type"], row["event"], row["message_id"], row["user_id"]) == ("track", "Signed Up", "m1", "u1")
    assert row["timestamp"] == utc(2025, 6, 1, 10) and row["received_at"] == RECEIVED
    assert json.loads(row["properties"]) == {"plan": "pro"} and json.loads(row["context"]) == context
    assert (row["campaign"], row["region"], row["page_url"], row["page_title"]) == ("spring", "DE", "http://a", "A")


@pytest.mark.parametrize(
    ("call", "event", "properties"),
    [
        ({"type": "page", "name": "Home", "category": "Docs"}, "Home", {"plan": "pro", "category": "Docs"}),
        ({"type": "page"}, "Page Viewed", {"plan": "pro"}),
        ({"type": "screen", "properties": None}, "Screen Viewed", {}),
        ({"type": "identify", "traits": {"age": 3}, "properties": None}, "Identify", {"traits": {"age": 3}}),
        ({"type": "group", "groupId": "g", "properties": None}, "Group", {"groupId": "g"}),
        ({"type": "alias", "previousId": 'p"', "properties": None}, "Alias", {"previousId": 'p"'}),
    ],
)
def test_the_other_calls(tmp_path: Path, call: dict[str, Any], event: str, properties: dict[str, Any]) -> None:
    row = one(tmp_path, **call)
    assert row["reason"] is None and row["event"] == event and json.loads(row["properties"]) == properties


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # The device is two minutes ahead.
        ({"sentAt": "2025-06-01T10:00:10Z", "receivedAt": "2025-06-01T09:58:10Z"}, utc(2025, 6, 1, 9, 58)),
        # Offsets count.
        ({"timestamp": "2025-06-01T10:00:00+02:00"}, utc(2025, 6, 1, 8)),
        ({"timestamp": "2025-06-01T10:00:00+14:00"}, utc(2025, 5, 31, 20)),
        ({"timestamp": "2025-06-01T10:00:00.5-0930"}, utc(2025, 6, 1, 19, 30, 0, 500000)),
        ({"timestamp": "2025-06-01T10:00:00.123456"}, utc(2025, 6, 1, 10, 0, 0, 123456)),
        # Segment's own output is corrected already.
        (
            {
                "originalTimestamp": "2025-06-01T10:02:00Z",
                "sentAt": "2025-06-01T10:02:10Z",
                "receivedAt": "2025-06-01T10:00:10Z",
            },
            utc(2025, 6, 1, 10),
        ),
        ({"sentAt": "2025-06-01T10:00:10Z"}, utc(2025, 6, 1, 10)),
        ({"receivedAt": "2025-06-01T10:00:10Z"}, utc(2025, 6, 1, 10)),
        (
            {"timestamp": None, "sentAt": "2025-06-01T10:00:10Z", "receivedAt": "2025-06-01T12:00:00Z"},
            utc(2025, 6, 1, 12),
        ),
        ({"timestamp": None, "sentAt": "2025-06-01T10:00:10Z"}, utc(2025, 6, 1, 10, 0, 10)),
    ],
)
def test_clock_skew(tmp_path: Path, times: dict[str, Any], expected: datetime) -> None:
    row = one(tmp_path, **times)
    assert row["reason"] is None and row["timestamp"] == expected


@pytest.mark.parametrize(
    ("event", "properties", "revenue", "quantity"),
    [
        ("Order Completed", {"revenue": 12.5, "total": 14, "quantity": 2}, "12.5", 2),
        ("Order Completed", {"total": "14"}, "14", None),
        ("Order Completed", {"price": 3, "quantity": 4}, "12", 4),
        ("Order Refunded", {"total": 14}, "-14", None),
        ("Product Returned", {"price": 3, "quantity": 4}, "-12", -4),
        ("product returned", {"revenue": -12}, "-12", None),
        ("Signed Up", {"revenue": 5}, "5", None),
        # Only what was paid is rounded, not the price of a piece.
        ("Order Completed", {"price": 0.00125, "quantity": 1000}, "1.25", 1000),
        # A price that nobody paid is no money.
        ("Product Viewed", {"price": 3, "quantity": 4}, None, 4),
        ("Checkout Started", {"revenue": 25}, None, None),
    ],
)
def test_money(tmp_path: Path, event: str, properties: dict[str, Any], revenue: str | None, quantity: int | None) -> None:
    row = one(tmp_path, event=event, properties={**properties, "currency": "eur", "order_id": "o", "product_id": "p"})
    assert row["reason"] is None
    assert row["revenue"] == (Decimal(revenue) if revenue else None) and row["quantity"] == quantity
    assert (row["currency"], row["order_id"], row["product_id"]) == ("EUR", "o", "p")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"messageId": None}, "missing_message_id"),
        ({"messageId": ""}, "missing_message_id"),
        ({"messageId": " \u200b"}, "missing_message_id"),
        ({"userId": "\t"}, "missing_user"),
        ({"type": "group", "groupId": " "}, "missing_group_id"),
        ({"messageId": 5}, "wrong_type:messageId"),
        ({"messageId": {"id": 5}}, "wrong_type:messageId"),
        ({"type": None}, "missing_type"),
        ({"type": "click"}, "unknown_type"),
        ({"type": 5}, "wrong_type:type"),
        ({"event": None}, "missing_event"),
        ({"event": ["x"]}, "wrong_type:event"),
        ({"userId": None}, "missing_user"),
        ({"userId": 7}, "wrong_type:userId"),
        ({"type": "alias"}, "missing_previous_id"),
        ({"type": "alias", "previousId": "p", "userId": None, "anonymousId": "a"}, "missing_user"),
        ({"type": "group"}, "missing_group_id"),
        ({"type": "page", "name": 5}, "wrong_type:name"),
        ({"timestamp": None}, "missing_time"),
        ({"timestamp": "yesterday"}, "wrong_type:timestamp"),
        ({"timestamp": 1_700_000_000}, "wrong_type:timestamp"),
        ({"timestamp": "infinity"}, "wrong_type:timestamp"),
        ({"timestamp": "292000-01-01T00:00:00Z"}, "wrong_type:timestamp"),
        ({"timestamp": "2025-06-01T10:00:00+99:99"}, "wrong_type:timestamp"),
        ({"timestamp": "2025-06-01T10:00:00+15:00"}, "wrong_type:timestamp"),
        ({"timestamp": "2025-06-01T10:00:00-00:60"}, "wrong_type:timestamp"),
        ({"sentAt": "soon"}, "wrong_type:sentAt"),
        ({"properties": []}, "wrong_type:properties"),
        ({"properties": "{}"}, "wrong_type:properties"),
        ({"properties": {"a": [float("nan")]}}, "wrong_type:properties"),
        ({"context": {"a": float("-inf")}}, "wrong_type:context"),
        ({"traits": 1}, "wrong_type:traits"),
        ({"properties": {"revenue": "much"}}, "wrong_type:revenue"),
        ({"properties": {"revenue": 1e30}}, "wrong_type:revenue"),
        ({"properties": {"revenue": {}}}, "wrong_type:revenue"),
        ({"event": "Order Completed", "properties": {"price": 1e9, "quantity": 10**18}}, "wrong_type:revenue"),
        ({"event": "Order Completed", "properties": {"quantity": 1.5}}, "wrong_type:quantity"),
        ({"event": "Order Completed", "properties": {"total": "?"}}, "wrong_type:total"),
    ],
)
def test_reasons(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert one(tmp_path, **changes)["reason"] == reason


def test_words_that_only_look_like_nan_are_fine(tmp_path: Path) -> None:
    assert one(tmp_path, properties={"NaN": "Infinity", "a": ', NaN"', "finance": [": inf"]})["reason"] is None


def test_lines_that_are_no_call(tmp_path: Path) -> None:
    text = '{"type":\n[1]\nnull\n"x"\n{"batch": 5}\n{"batch": []}\n'
    rows = read_bytes(tmp_path, "no.ndjson", text, "segment")
    reasons = ["bad_json", "not_an_object", "not_an_object", "not_an_object", "wrong_type:batch", "empty_batch"]
    assert [row["reason"] for row in rows] == reasons
    assert [row["raw"] for row in rows] == text.splitlines()


@pytest.mark.parametrize(("depth", "reason"), [(62, None), (63, "too_deep"), (100_000, "too_deep")])
def test_depth_has_a_limit(tmp_path: Path, depth: int, reason: str | None) -> None:
    # The call and its properties are two levels.
    text = lines(a_call()).replace('"pro"', "[" * depth + "]" * depth)
    assert read_bytes(tmp_path, "deep.ndjson", text, "segment")[0]["reason"] == reason


def test_of_doubled_keys_the_first_counts(tmp_path: Path) -> None:
    text = lines(a_call()).replace('"messageId"', '"messageId": "first", "messageId"')
    row = read_bytes(tmp_path, "two.ndjson", text, "segment")[0]
    assert row["message_id"] == "first" and row["reason"] is None


def test_what_a_call_says_itself_stands_once_where_its_properties_say_it_too(tmp_path: Path) -> None:
    row = one(tmp_path, type="page", name="Home", category="Docs", properties={"category": "Blog", "plan": "pro"})
    assert row["properties"] == '{"category":"Docs","plan":"pro"}'


def test_siblings_of_a_bad_call_survive(tmp_path: Path) -> None:
    members = [a_call(), 5, None, [], a_call(messageId=None), {}, a_call(messageId="m2", sentAt="2025-06-01T10:01:00Z")]
    batch = {"batch": members, "sentAt": "2025-06-01T10:00:10Z", "receivedAt": "2025-06-01T10:02:00Z"}
    rows = read_bytes(tmp_path, "batch.json", lines(batch, a_call(messageId="m3")), "segment")
    assert [row["reason"] for row in rows] == [
        None, "not_an_object", "not_an_object", "not_an_object", "missing_message_id", "missing_message_id", None, None,
    ]  # fmt: skip
    # The batch's times count for its members, unless they have their own; the next line has none.
    good = [row["timestamp"] for row in rows if row["reason"] is None]
    assert good == [utc(2025, 6, 1, 10, 1, 50), utc(2025, 6, 1, 10, 1), utc(2025, 6, 1, 10)]
    assert content(reread(rows, "segment")) == content(rows)


def test_nan_in_one_member_harms_no_sibling(tmp_path: Path) -> None:
    batch = {"batch": [a_call(properties={"x": float("nan")}), a_call(messageId="m2")]}
    assert [row["reason"] for row in read_bytes(tmp_path, "b.json", lines(batch), "segment")] == [
        "wrong_type:properties",
        None,
    ]


def test_a_line_with_very_many_members_is_cut_into_slices(tmp_path: Path) -> None:
    text = '{"batch":[' + ",".join("0" * 1000) + "]}\n"
    rows = read_bytes(tmp_path, "many.json", text * 2, "segment", rows=300)
    assert len(rows) == 2000 and {row["reason"] for row in rows} == {"not_an_object"}


@pytest.mark.parametrize("form", ["csv", "parquet", "struct.parquet"])
def test_calls_in_columns(tmp_path: Path, form: str) -> None:
    calls = [a_call(), a_call(messageId="m2", properties={"a": [1, {"b": "c"}]}), a_call(messageId="m3", userId=None)]
    source = tmp_path / "calls.ndjson"
    source.write_text(lines(*calls))
    path = tmp_path / f"columns.{form}"
    nested = "" if form == "struct.parquet" else " replace (properties::varchar as properties)"
    with duckdb.connect() as con:
        types = "{type: 'VARCHAR', messageId: 'VARCHAR', userId: 'VARCHAR', event: 'VARCHAR', timestamp: 'TIMESTAMP', "
        types += "properties: 'STRUCT(plan VARCHAR)'}" if form == "struct.parquet" else "properties: 'JSON'}"
        kind = "csv, header" if form == "csv" else "parquet"
        select = f"select *{nested} from read_ndjson('{source}', columns = {types})"
        con.execute(f"copy ({select}) to '{path}' (format {kind})")
    rows = read(path, "segment")
    assert [row["reason"] for row in rows] == [None, None, "missing_user"]
    assert [row["timestamp"] for row in rows] == [utc(2025, 6, 1, 10)] * 3
    if form != "struct.parquet":
        assert content(rows) == content(read(source, "segment"))
    assert content(reread(rows, "segment")) == content(rows)
