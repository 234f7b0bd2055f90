"""What makes a record unfit to be an event: the reasons, in the order in which they are tried, as conditions in SQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from analytics_assets.events.schema import TYPES
from analytics_assets.settings import EventLimits
from analytics_assets.warehouse.spec import literal


def rules_of(limits: EventLimits, tenants: Sequence[str], now: datetime, past: str = "false") -> list[tuple[str, str]]:
    """(reason, SQL condition), in the order in which they are tried; `past` is SQL: the day's events went for good."""
    known = ", ".join(literal(tenant) for tenant in tenants) or "''"
    types = ", ".join(literal(name) for name in TYPES)
    latest = f"timestamp {literal((now + timedelta(hours=limits.future_hours)).isoformat(sep=' '))}"
    # Counting keys means parsing; a key, its value and their punctuation take at least five bytes.
    many_keys = f"strlen(properties) > {5 * limits.property_keys} and len(json_keys(properties)) > {limits.property_keys}"
    return [
        ("missing_tenant", "tenant_id is null or tenant_id = ''"),
        ("unknown_tenant", f"tenant_id not in ({known})"),
        ("missing_message_id", "message_id is null or message_id = ''"),
        *(_too_long(name, limits.id_characters) for name in IDS),
        ("unknown_type", f"type is null or type not in ({types})"),
        ("missing_event", "event is null or event = ''"),
        _too_long("event", limits.id_characters),
        *(_too_long(name, limits.text_characters) for name in TEXTS),
        # A few amounts near the type's end would make every sum over them fail.
        ("amount_too_large", f"abs(revenue) > {limits.largest_amount} or abs(quantity) > {limits.largest_amount}"),
        ("missing_time", "timestamp is null"),
        ("time_too_early", f"timestamp < timestamp {literal(limits.earliest)}"),
        ("time_in_future", f"timestamp > {latest} or timestamp > received_at + interval {limits.future_hours} hours"),
        ("received_in_future", f"received_at > {latest}"),
        ("past_retention", past),
        ("properties_too_large", f"strlen(properties) > {limits.properties_bytes}"),
        ("context_too_large", f"strlen(context) > {limits.properties_bytes}"),
        ("too_many_properties", many_keys),
    ]


IDS = ("message_id", "user_id", "anonymous_id", "session_id")
TEXTS = ("page_view_id", "page_url", "page_title", "currency", "order_id", "product_id", "campaign", "region")


def _too_long(name: str, characters: int) -> tuple[str, str]:
    # Counting bytes is cheap, and never gives less than counting characters.
    return f"too_long:{name}", f"strlen({name}) > {characters} and length({name}) > {characters}"
