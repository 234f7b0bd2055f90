"""How long each delivery took from its folder to readers, split by stage: `time_to_insight`.

Every moment was noted by the stage itself: the load in `batches`, the rebuild in `session_days`, the publish here. The last
one is taken when the new version is built and checked, just before the swap, and goes into that version with the rows of
the deliveries that it shows first; the rename that follows takes milliseconds and is in no row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import accumulate
from typing import Any

import duckdb

from analytics_assets.events.days import SESSION_DAYS
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES
from analytics_assets.freshness.tables import TIME_TO_INSIGHT
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import Fact, shown_version
from analytics_assets.warehouse.table import Table, replace_all

_KEPT = 5000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - as all times in the warehouse


@dataclass(frozen=True)
class Delivery:
    """A batch with new events, and when it came to lie here, was begun, was committed, and met its rebuild (UTC)."""

    batch_id: str
    tenant: str | None
    source: str
    file: str
    landed_at: datetime
    received_at: datetime
    loaded_at: datetime
    rebuild_began_at: datetime


@dataclass(frozen=True)
class Parts:
    """Seconds of each stage; together they are the whole to the last digit."""

    received: Decimal
    queued: Decimal
    processed: Decimal
    published: Decimal

    @property
    def total(self) -> Decimal:
        return self.received + self.queued + self.processed + self.published


def split(delivery: Delivery, publish_began_at: datetime, shown_at: datetime) -> Parts:
    """The way of a delivery that readers got at `shown_at`, split where one stage handed it to the next.

    Received: until its load began. Queued: loaded, and waiting for its rebuild. Processed: loading, rebuilding and judging.
    Published: building and checking the version. A clock that went back gives a stage no time.
    """
    way = [delivery.landed_at, delivery.received_at, delivery.loaded_at, delivery.rebuild_began_at, publish_began_at, shown_at]
    moments = [_tenths_of_milliseconds(moment) for moment in way]
    landed, received, loaded, rebuilt, publishing, shown = accumulate(moments, max)
    lengths = (received - landed, rebuilt - loaded, loaded - received + publishing - rebuilt, shown - publishing)
    return Parts(*(Decimal(length).scaleb(-4) for length in lengths))


def _tenths_of_milliseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10_000 + since.microseconds // 100


@dataclass
class Insight:
    """The deliveries that the next version is the first to show. Made for one publish: `fact` for it, `keep` after it."""

    home: Home
    clock: Callable[[], datetime]
    _rows: list[tuple[Any, ...]] = field(default_factory=list)

    def fact(self, con: duckdb.DuckDBPyConnection, events_version: int) -> Fact:
        """`time_to_insight` of a version that shows events as of `events_version`: the publish begins now."""
        began = self.clock()
        fresh = self._deliveries(con, events_version)

        def rows() -> Sequence[tuple[Any, ...]]:
            shown = self.clock()
            self._rows = [_row(delivery, began, shown) for delivery in fresh]
            return self._rows

        known = self._table.snapshot().select()
        kept = con.execute(f"select * from ({known}) order by shown_at desc, landed_at desc limit {_KEPT}").fetchall()
        return Fact(TIME_TO_INSIGHT, kept, rows if fresh else None)

    def keep(self, con: duckdb.DuckDBPyConnection, events_version: int) -> None:
        """Note that readers have got these deliveries. A kill before leaves them to the next publish, with its later time."""
        if self._rows:
            self._note(con, events_version)

    def _note(self, con: duckdb.DuckDBPyConnection, events_version: int) -> None:
        columns = [[row[n] for row in self._rows] for n in range(len(TIME_TO_INSIGHT.columns))]
        unnested = ", ".join(f"unnest(?::{column.type}[]) as {column.name}" for column in TIME_TO_INSIGHT.columns)
        con.execute(f"create or replace temp table just_shown as select {unnested}", columns)
        both = f"from just_shown union all from ({self._table.snapshot().select()})"
        newest = f"select * from ({both}) order by shown_at desc, landed_at desc limit {_KEPT}"
        replace_all(self._table, con, newest, {"events_version": str(events_version)})
        con.execute("drop table just_shown")

    @property
    def _table(self) -> Table:
        return Table(self.home.warehouse, TIME_TO_INSIGHT)

    def _shown_before(self, con: duckdb.DuckDBPyConnection) -> int:
        """The version of events up to which deliveries have their rows. Of what was shown before there were any, none has."""
        noted = self._table.open().history(1)[0].get("events_version")
        if noted is None:
            shown = shown_version(self.home, EVENTS.name)
            noted = -1 if shown is None else shown
            self._note(con, noted)
        return int(noted)

    def _deliveries(self, con: duckdb.DuckDBPyConnection, events_version: int) -> list[Delivery]:
        before = self._shown_before(con)
        batches, sessions = (Table(self.home.warehouse, spec).snapshot().select() for spec in (BATCHES, SESSION_DAYS))
        rows = con.execute(
            f"""
            with fresh as (
                select *, unnest(days) as day from ({batches})
                where events > 0 and events_version > $before and events_version <= $shown
            )
            select batch_id, any_value(tenant), any_value(source), any_value(file),
                coalesce(min(least(landed_at, received_at)), min(received_at)), min(received_at),
                coalesce(min(loaded_at), min(received_at)),
                coalesce(min(built.began_at), min(loaded_at), min(received_at))
            from fresh left join ({sessions}) built on built.date = day and built.events_version >= fresh.events_version
            group by batch_id, fresh.events_version order by fresh.events_version
            """,
            {"before": before, "shown": events_version},
        ).fetchall()
        return [Delivery(*row) for row in rows]


def _row(delivery: Delivery, publish_began_at: datetime, shown_at: datetime) -> tuple[Any, ...]:
    parts = split(delivery, publish_began_at, shown_at)
    return (
        delivery.batch_id, delivery.tenant, delivery.source, delivery.file, delivery.landed_at, delivery.received_at,
        delivery.loaded_at, delivery.rebuild_began_at, publish_began_at, shown_at,
        parts.received, parts.queued, parts.processed, parts.published, parts.total,
    )  # fmt: skip
