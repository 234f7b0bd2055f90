"""Rows at fault as a person may see them: nothing of them identifies anybody.

Shown are times, the numbers that are asked about, and a few categories; every other text only says how long it is. Swapped
columns put names and ids where categories and numbers belong. So what a sender writes into a category is shown only where it
is known to be one, and a number only where it is the very question.
"""

import json
import re
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

# Columns whose texts are ours, or declared: a sender does not write into them.
OURS = {"tenant_id", "type", "source", "status", "funnel"}
# Columns of the sender's categories: shown where clean days have the same.
CATEGORIES = ("event", "currency")
# Columns of numbers that are ids, whatever their type.
HIDDEN = {"message_key"}
_IDENTIFIES = re.compile(r"@|\d{4}|[0-9a-fA-F]{8}")
# Reasons of ours are words, with a field or a person's reason after a colon; that of a file may quote it.
_REASON = re.compile(r"[a-z_]+(:[a-z_]+)?")
_LONGEST = 40

Known = Mapping[str, Collection[str]]
"""Of a column of categories the values that clean days have."""


def masked(row: Mapping[str, Any], known: Known, about: Collection[str]) -> dict[str, Any]:
    """The row with every value that may identify masked, but for numbers in columns `about`; what is missing is left out."""
    return {name: _masked(name, value, known, about) for name, value in row.items() if value is not None}


def example(samples: str | None) -> str:
    """What `masked_json` left readable of the first row, in a line; nothing of no rows."""
    first: dict[str, Any] = next(iter(json.loads(samples or "[]")), {})
    return ", ".join(f"{name} {value}" for name, value in first.items() if not str(value).endswith("masked)"))


def masked_json(rows: list[dict[str, Any]], known: Known, about: Collection[str]) -> str:
    return json.dumps([masked(row, known, about) for row in rows], default=str)


def _masked(name: str, value: Any, known: Known, about: Collection[str]) -> Any:
    if isinstance(value, (bool, date, datetime)):
        return value if isinstance(value, bool) else str(value)
    if not isinstance(value, str) and name in HIDDEN:
        return "(masked)"
    if isinstance(value, (int, float)) or type(value).__name__ == "Decimal":
        if name not in about:
            return "(number masked)"
        return value if isinstance(value, (int, float)) else str(value)
    text = str(value)
    shown = name in OURS or text in known.get(name, ()) or (name == "reason" and _REASON.fullmatch(text))
    if shown and len(text) <= _LONGEST and not _IDENTIFIES.search(text):
        return text
    return f"({len(text)} characters masked)"
