"""A row at fault shows what is wrong with it and nothing of whom it is about."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.events.schema import EVENTS
from analytics_assets.quality.masks import OURS, example, masked, masked_json

ROW = {
    "tenant_id": "acme", "user_id": "u-17850", "anonymous_id": "device-1", "message_id": "m1", "event": "Product Ordered",
    "properties": '{"email": "jane@acme.test"}', "revenue": Decimal("2.5500"), "message_key": 7, "campaign": None,
    "timestamp": datetime(2026, 3, 10, 12, tzinfo=UTC).replace(tzinfo=None),
}  # fmt: skip


KNOWN = {"event": {"Product Ordered"}, "currency": {"GBP"}}


def test_times_known_categories_and_the_numbers_that_are_asked_about_are_shown() -> None:
    shown = masked(ROW, KNOWN, {"revenue"})
    assert (shown["tenant_id"], shown["event"], shown["revenue"]) == ("acme", "Product Ordered", "2.5500")
    assert shown["timestamp"] == "2026-03-10 12:00:00"


def test_what_identifies_is_masked_and_only_says_how_long_it_is() -> None:
    shown = masked(ROW, KNOWN, {"message_key"})
    assert shown["user_id"] == "(7 characters masked)"
    assert {shown[name] for name in ("anonymous_id", "message_id", "properties", "message_key")} == {
        "(8 characters masked)", "(2 characters masked)", "(27 characters masked)", "(masked)",
    }  # fmt: skip
    assert "campaign" not in shown


def test_an_example_is_what_is_left_to_read() -> None:
    rows = [{"tenant_id": "acme", "user_id": "u-17850", "revenue": 2.5, "quantity": 3}, {"tenant_id": "other"}]
    assert example(masked_json(rows, {}, {"revenue"})) == "tenant_id acme, revenue 2.5"
    assert example(None) == ""


def test_a_person_in_the_place_of_a_category_or_a_number_is_masked() -> None:
    """Columns that were swapped."""
    row = {"event": "Anna Schmidt", "reason": "10.20.30.4", "kind": "+49 30 555", "currency": "Anna", "quantity": 17850.0}
    assert all(str(value).endswith("masked)") for value in masked(row, KNOWN, {"revenue"}).values())


def test_an_id_is_masked_even_where_clean_days_have_it() -> None:
    for value in ("17850", "jane@acme.test", "9e983d4a-e07c-4858", "x" * 41):
        assert masked({"event": value}, {"event": {value}}, ()) == {"event": f"({len(value)} characters masked)"}


def test_a_reason_of_ours_is_shown_and_what_a_file_or_a_person_wrote_is_not() -> None:
    shown = [masked({"reason": text}, {}, ())["reason"] for text in ("too_long:event", "set_aside: asked by Anna")]
    assert shown == ["too_long:event", "(24 characters masked)"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(EVENTS.column_names), st.text(min_size=9, max_size=60) | st.integers()))
def test_nothing_that_a_sender_writes_into_an_event_comes_through(row: dict[str, str | int]) -> None:
    for name, value in masked(row, KNOWN, ()).items():
        assert name in OURS or str(value).endswith("masked)")
    assert "@" not in masked_json([{name: f"{value}@x.test" for name, value in row.items()}], KNOWN, ())
