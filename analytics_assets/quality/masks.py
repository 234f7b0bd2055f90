"""Rows at fault as a person may see them: nothing of them identifies anybody.

Shown are numbers, times and a few categories; every other text only says how long it is. A category is masked too where it
looks like an id or an address: swapped columns put ids where categories belong.
"""

import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

# Columns whose texts are categories of the sender, not of a person.
SHOWN = {"tenant_id", "type", "event", "source", "currency", "status", "kind", "reason", "funnel"}
# Columns of numbers that are ids, whatever their type.
HIDDEN = {"message_key"}
_IDENTIFIES = re.compile(r"@|\d{4}|[0-9a-fA-F]{8}")
_LONGEST = 40


def masked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every value that may identify masked; what is missing is left out."""
    return {name: _masked(name, value) for name, value in row.items() if value is not None}


def example(samples: str | None) -> str:
    """What `masked_json` left readable of the first row, in a line; nothing of no rows."""
    first: dict[str, Any] = next(iter(json.loads(samples or "[]")), {})
    return ", ".join(f"{name} {value}" for name, value in first.items() if not str(value).endswith("masked)"))


def masked_json(rows: list[dict[str, Any]]) -> str:
    return json.dumps([masked(row) for row in rows], default=str)


def _masked(name: str, value: Any) -> Any:
    if name in HIDDEN:
        return "(masked)"
    if isinstance(value, (bool, int, float, date, datetime)) or type(value).__name__ == "Decimal":
        return str(value) if isinstance(value, (date, datetime)) or type(value).__name__ == "Decimal" else value
    text = str(value)
    if name in SHOWN and len(text) <= _LONGEST and not _IDENTIFIES.search(text):
        return text
    return f"({len(text)} characters masked)"
