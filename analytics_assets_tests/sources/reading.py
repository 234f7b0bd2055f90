"""Reads bytes or texts through a source and gives back the rows of `mapped`, for the tests of this room."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.settings import CONFIG
from analytics_assets.sources.mapping import Source, load_sources
from analytics_assets.sources.readers import slices, slices_from_raw

SOURCES = load_sources(CONFIG / "sources")


def utc(*parts: int) -> datetime:
    """A time as the warehouse keeps it: UTC, without a zone."""
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[misc,arg-type]


RECEIVED = utc(2026, 1, 2, 3, 4, 5)

Row = dict[str, Any]


def fetched(con: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    cursor = con.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def read(path: Path, source: Source | str, *, tenant: str | None = None, rows: int = 1_000_000) -> list[Row]:
    """All rows of a file. What a slice promises is checked on the way."""
    declared = SOURCES[source] if isinstance(source, str) else source
    found: list[Row] = []
    with duckdb.connect() as con:
        for part in slices(con, path, declared, tenant=tenant, received_at=RECEIVED, rows=rows):
            current = fetched(con, "select * from mapped order by rn")
            assert len(current) == part.rows == len({row["rn"] for row in current}) <= rows
            found += current
    return found


def read_bytes(folder: Path, name: str, data: bytes | str, source: Source | str, **options: Any) -> list[Row]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read(path, source, **options)


def reread(rows: list[Row], source: Source | str, *, tenant: str | None = None) -> list[Row]:
    """The rows that come of the kept texts, in the order of the texts."""
    declared = SOURCES[source] if isinstance(source, str) else source
    with duckdb.connect() as con:
        raws = [row["raw"] for row in rows]
        found: list[Row] = []
        for _ in slices_from_raw(con, raws, declared, tenant=tenant, received_at=RECEIVED):
            found += fetched(con, "select * from mapped")
        return sorted(found, key=lambda row: row["rn"])


def alike_again(rows: list[Row], source: Source | str, *, tenant: str | None = None) -> None:
    """What was kept is judged the same again, gives the same events, and the same text would be kept of it."""
    again = reread(rows, source, tenant=tenant)
    assert [(row["reason"], row["raw"]) for row in again] == [(row["reason"], row["raw"]) for row in rows]
    accepted, before = ([row for row in side if row["reason"] is None] for side in (again, rows))
    assert content(accepted) == content(before)


def content(rows: list[Row]) -> list[Row]:
    """Rows without what depends on where they stood."""
    return [{name: value for name, value in row.items() if name not in ("rn", "raw")} for row in rows]


def a_call(**changes: Any) -> dict[str, Any]:
    """A healthy Segment track call; a change to None takes the member away."""
    call = {
        "type": "track",
        "messageId": "m1",
        "userId": "u1",
        "event": "Signed Up",
        "timestamp": "2025-06-01T10:00:00Z",
        "properties": {"plan": "pro"},
    }
    return {name: value for name, value in {**call, **changes}.items() if value is not None}


def an_event(**changes: Any) -> dict[str, Any]:
    """A healthy canonical record."""
    return {
        "tenant_id": "acme",
        "message_id": "m1",
        "event": "Signed Up",
        "timestamp": "2025-06-01 10:00:00",
        **changes,
    }


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
