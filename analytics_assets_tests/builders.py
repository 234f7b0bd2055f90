"""Healthy cases that a test changes in one line: an event, a batch, a pipeline with its own data home and declarations.

What is compared lives here too: the rows of a table without the columns that tell when and by which batch they came.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import yaml

from analytics_assets.events.intake import BatchReport
from analytics_assets.events.schema import EVENTS
from analytics_assets.pipeline import Pipeline, Rebuild
from analytics_assets.settings import CONFIG, PROJECT, Settings
from analytics_assets.sources.mapping import Source, load_sources
from analytics_assets.warehouse.publish import Published
from analytics_assets.warehouse.spec import TableSpec

SAMPLE = PROJECT / "data" / "sample"
RETAIL = SAMPLE / "online_retail" / "online_retail.parquet"
SNOWPLOW = SAMPLE / "snowplow_web" / "events.csv"

NOW = datetime.fromisoformat("2026-03-20 12:00:00")
NOON = datetime.fromisoformat("2026-03-10 12:00:00")
DAY = NOON.date()
# What differs when the same records come in other pieces or at another time.
DELIVERY = ("batch_id", "received_at", "events_version")


def at(minutes: float = 0, *, day: int = 0) -> datetime:
    """A moment relative to noon of the usual day."""
    return NOON + timedelta(days=day, minutes=minutes)


def an_event(message_id: str = "m1", /, **changes: Any) -> dict[str, Any]:
    """A healthy event as the source `canonical` reads it. None leaves a field out."""
    event = {
        "tenant_id": "acme",
        "message_id": message_id,
        "type": "track",
        "event": "Product Ordered",
        "anonymous_id": "device-1",
        "timestamp": NOON,
        "properties": {"colour": "red"},
        **changes,
    }
    return {name: value for name, value in event.items() if value is not None}


def a_view(message_id: str = "m1", /, **changes: Any) -> dict[str, Any]:
    return an_event(
        message_id, **{"type": "page", "event": "page_view", "page_url": f"https://acme.test/{message_id}", **changes}
    )


def write_events(path: Path, events: Iterable[Mapping[str, Any] | str]) -> Path:
    """A file of NDJSON. A text stands for itself, to write a broken record."""
    lines = [event if isinstance(event, str) else json.dumps(event, default=_text) for event in events]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, (datetime, date)) else str(value)


def a_config(
    folder: Path,
    *,
    tenants: Sequence[str] = ("acme", "globex"),
    lookback_days: int = 0,
    limits: Mapping[str, Any] | None = None,
    pseudonyms: bool = False,
) -> Path:
    """The project's declarations with other tenants, limits and twin lookback of the source `canonical`."""
    shutil.copytree(CONFIG, folder)
    declared = {"tenants": [{"id": tenant, "source": "canonical", "pseudonyms": pseudonyms} for tenant in tenants]}
    (folder / "tenants.yaml").write_text(yaml.safe_dump(declared))
    (folder / "limits.yaml").write_text(yaml.safe_dump(dict(limits or {})))
    source = folder / "sources" / "canonical.yaml"
    text = source.read_text()
    assert text.count("twin_lookback: 0 days") == 1
    source.write_text(text.replace("twin_lookback: 0 days", f"twin_lookback: {lookback_days} days"))
    return folder


@dataclass
class Line:
    """A pipeline with a connection and a clock: the stages in one call each."""

    pipeline: Pipeline
    con: duckdb.DuckDBPyConnection
    now: datetime = NOW
    files: int = field(default=0)

    @property
    def home(self) -> Path:
        return self.pipeline.home.root

    def load(
        self, events: Iterable[Mapping[str, Any] | str] | Path, source: str = "canonical", tenant: str | None = None
    ) -> BatchReport:
        """Load events as one batch, or a file."""
        if isinstance(events, Path):
            path = events
        else:
            self.files += 1
            path = write_events(self.home / "deliveries" / f"{self.files}.ndjson", events)
        return self.pipeline.load(self.con, path, source, tenant, self.now)

    def sessions(self, days: Sequence[date] | None = None) -> Rebuild:
        """Rebuild sessions of `days`, or of all days that wait."""
        return self.pipeline.rebuild_sessions(self.con, self.pipeline.pending(self.con) if days is None else days)

    def rebuild(self) -> None:
        """Sessions, marts and users of all days that wait."""
        days = self.pipeline.pending(self.con)
        if days:
            self.pipeline.rebuild_sessions(self.con, days)
            _, result = self.pipeline.rebuild_marts(self.con, days)
            assert result.ok, [test for test in result.tests if test.status != "pass"]
        self.pipeline.rebuild_users(self.con)

    def publish(self, **options: Any) -> Published:
        return self.pipeline.publish(self.con, self.now, **options)

    def rows(self, spec: TableSpec, *, without: Sequence[str] = (), columns: str | None = None) -> list[tuple[Any, ...]]:
        """All rows of a warehouse table in a fixed order."""
        select = self.pipeline.table(spec).snapshot().select()
        chosen = columns or ", ".join(f'"{name}"' for name in spec.column_names if name not in without)
        return self.con.execute(f"select {chosen} from ({select}) order by all").fetchall()

    def dicts(self, spec: TableSpec) -> list[dict[str, Any]]:
        return [dict(zip(spec.column_names, row, strict=True)) for row in self.rows(spec)]

    def digest(self, spec: TableSpec, *, without: Sequence[str] = DELIVERY) -> tuple[int, int]:
        """Rows and an order-free digest of a table, for tables too large to fetch."""
        select = self.pipeline.table(spec).snapshot().select()
        return digest(self.con, select, [name for name in spec.column_names if name not in without])

    def keys(self) -> list[tuple[str, str]]:
        """Identities of the stored events, each as often as it is stored."""
        return self.rows(EVENTS, columns="tenant_id, message_id")

    @classmethod
    @contextmanager
    def at(cls, home: Path, config: Path = CONFIG, now: datetime = NOW) -> "Iterator[Line]":
        pipeline = Pipeline(Settings(home, config))
        pipeline.__dict__["sources"] = _sources(config / "sources")
        with pipeline.connect() as con:
            yield cls(pipeline, con, now)


def _sources(folder: Path) -> dict[str, Source]:
    """Declared sources. Checking them takes a second, so equal declarations are checked once by all processes of a test run."""
    text = "".join(path.read_text() for path in sorted(folder.glob("*.yaml")))
    if text not in _CHECKED:
        shared = os.environ.get(CHECKED_SOURCES)
        kept = Path(shared) / hashlib.sha256(text.encode()).hexdigest() if shared else None
        if kept and kept.exists():
            _CHECKED[text] = pickle.loads(kept.read_bytes())
        else:
            _CHECKED[text] = load_sources(folder)
            if kept:
                whole = kept.with_suffix(f".{os.getpid()}")
                whole.write_bytes(pickle.dumps(_CHECKED[text]))
                whole.rename(kept)
    return _CHECKED[text]


# The variable that names the folder in which the processes of a test run keep the sources that they checked.
CHECKED_SOURCES = "ANALYTICS_TESTS_CHECKED_SOURCES"
_CHECKED: dict[str, dict[str, Source]] = {}


def digest(con: duckdb.DuckDBPyConnection, select: str, columns: Sequence[str]) -> tuple[int, int]:
    """(rows, digest) of a relation, whatever the order of its rows; doubled rows count."""
    row = ", ".join(f'"{name}"' for name in columns)
    return con.execute(f"select count(*), coalesce(sum(hash({row})::hugeint), 0) from ({select})").fetchall()[0]


def published(path: Path) -> duckdb.DuckDBPyConnection:
    """The published file as an analyst opens it."""
    return duckdb.connect(str(path.resolve()), read_only=True)


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    with published(path) as con:
        return con.execute(query).fetchall()


Opener = Callable[..., Line]
