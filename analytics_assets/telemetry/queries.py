"""What was asked of the published file: a line a query as it ends, which the next collection keeps in `query_log`.

No text of a query and nobody's name: these stand in the audit log, under the entry that is named here. That log may stop a
query; this one never does.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path

import duckdb

from analytics_assets.settings import UserError
from analytics_assets.telemetry import probe
from analytics_assets.telemetry.amounts import sound
from analytics_assets.telemetry.journal import folder
from analytics_assets.telemetry.tables import Query
from analytics_assets.warehouse.home import Busy, Home

_LOCK = "query_log"
_WAIT_SECONDS = 2.0


class Asked:
    """A query that goes on: what it took counts from here to its answer."""

    def __init__(self) -> None:
        self._began, self._before = time.monotonic(), probe.usage()
        self.took: dict[str, float | int | None] = {}

    def answered(self, rows: int | None) -> None:
        """Its last row is here."""
        now = probe.usage()
        read = None if now.read is None or self._before.read is None else now.read - self._before.read
        self.took = {
            "seconds": time.monotonic() - self._began,
            "cpu_seconds": now.cpu_seconds - self._before.cpu_seconds,
            "memory_bytes": probe.resident(),
            "bytes_read": read,
            "rows": rows,
        }


@contextmanager
def asking(
    home: Home, now: datetime, command: str, words: str, *, role: str | None, audit_entry: int | None, version: int,
    tables: Sequence[str],
) -> Iterator[Asked]:  # fmt: skip
    """Around a query: a line when it ends, however it does. `words` are those of the query without its values."""
    asked, outcome, error_class = Asked(), "success", None
    try:
        yield asked
    except BaseException as error:
        outcome, error_class = "refused" if isinstance(error, UserError) else "failure", type(error).__name__
        raise
    finally:
        if not asked.took:
            asked.answered(None)
        shape = hashlib.blake2b(words.encode(), digest_size=6).hexdigest()
        line = Query(
            os.urandom(8).hex(), now.date(), now, command, role or None, audit_entry, shape, version,
            json.dumps(sorted(tables)), outcome, error_class, **asked.took,  # type: ignore[arg-type]
        )  # fmt: skip
        # A full disk takes the line, and never the answer.
        with suppress(OSError, Busy):
            _append(home, line)


def _append(home: Home, line: Query) -> None:
    path = _current(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with home.lock(_LOCK, _WAIT_SECONDS), path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(asdict(line), default=str) + "\n")


def _current(home: Home) -> Path:
    return folder(home) / "queries.ndjson"


def waiting(home: Home) -> list[Path]:
    """The files of what was asked up to now, which nobody writes to any more; they go when their lines are kept."""
    with home.lock(_LOCK), suppress(FileNotFoundError):
        _current(home).rename(folder(home) / f"queries.{os.urandom(6).hex()}.ndjson")
    return sorted(folder(home).glob("queries.*.ndjson"))


def read(paths: Sequence[Path]) -> list[Query]:
    """The queries in files. What is no line of one is left out: a process that was killed leaves half a line."""
    found = {}
    for path in paths:
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                line = json.loads(text)
                moments = {"date": date.fromisoformat(line["date"]), "asked_at": datetime.fromisoformat(line["asked_at"])}
                query = Query(**{**line, **moments})
                if sound((query.seconds, query.cpu_seconds, query.memory_bytes, query.bytes_read, query.rows, query.version)):
                    found[query.query_id] = query
    return list(found.values())


def most_asked(con: duckdb.DuckDBPyConnection, log: str, since: datetime) -> list[str]:
    """The published tables that queries read since then, the one that most did first; `log` is a SELECT of `query_log`."""
    rows = con.execute(
        f"select name, count(*) from (select unnest(json_extract_string(tables, '$[*]')) as name from ({log}) "
        "where asked_at >= ? and outcome = 'success') group by name order by count(*) desc, name",
        [since],
    ).fetchall()
    return [name for name, _ in rows]
