"""A row at fault shows what is wrong with it and nothing of whom it is about."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.events.schema import EVENTS
from analytics_assets.quality.masks import SHOWN, example, masked, masked_json

ROW = {
    "tenant_id": "acme", "user_id": "u-17850", "anonymous_id": "device-1", "message_id": "m1", "event": "Product Ordered",
    "properties": '{"email": "jane@acme.test"}', "revenue": Decimal("2.5500"), "message_key": 7, "campaign": None,
    "timestamp": datetime(2026, 3, 10, 12, tzinfo=UTC).replace(tzinfo=None),
}  # fmt: skip


def test_numbers_times_and_categories_are_shown() -> None:
    shown = masked(ROW)
    assert (shown["tenant_id"], shown["event"], shown["revenue"]) == ("acme", "Product Ordered", "2.5500")
    assert shown["timestamp"] == "2026-03-10 12:00:00"


def test_what_identifies_is_masked_and_only_says_how_long_it_is() -> None:
    shown = masked(ROW)
    assert shown["user_id"] == "(7 characters masked)"
    assert {shown[name] for name in ("anonymous_id", "message_id", "properties", "message_key")} == {
        "(8 characters masked)", "(2 characters masked)", "(27 characters masked)", "(masked)",
    }  # fmt: skip
    assert "campaign" not in shown


def test_an_example_is_what_is_left_to_read() -> None:
    assert example(masked_json([{"tenant_id": "acme", "user_id": "u-17850", "revenue": 2.5}, {"tenant_id": "other"}])) == (
        "tenant_id acme, revenue 2.5"
    )
    assert example(None) == ""


def test_an_id_in_the_place_of_a_category_is_masked() -> None:
    for value in ("17850", "jane@acme.test", "9e983d4a-e07c-4858", "x" * 41):
        assert masked({"event": value}) == {"event": f"({len(value)} characters masked)"}


@given(st.dictionaries(st.sampled_from(EVENTS.column_names), st.text(min_size=9, max_size=60)))
def test_no_text_of_an_event_comes_through_but_categories(row: dict[str, str]) -> None:
    for name, value in masked(row).items():
        assert name in SHOWN or value in (f"({len(row[name])} characters masked)", "(masked)")
    assert "@" not in masked_json([{name: f"{value}@x.test" for name, value in row.items()}])
