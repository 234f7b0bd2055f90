"""How long a delivery took: the stages sum to the whole, and each delivery has its row in the version that shows it first."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.events.schema import EVENTS
from analytics_assets.freshness.insight import Delivery, Insight, split
from analytics_assets.warehouse.publish import Publishable, current_path, publish, rollback
from analytics_assets_tests.builders import NOW, Line, Opener, an_event, at, rows_of

MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1))  # noqa: DTZ001
FIRST = datetime(2026, 3, 20, 12)  # noqa: DTZ001
_STAGES = "received_seconds, queued_seconds, processed_seconds, published_seconds, total_seconds"


def a_delivery(**changes: datetime) -> Delivery:
    """Landed at noon, begun 2 s later, loaded 1 s later, rebuilt from 4 s later on."""
    moments = {
        name: FIRST + timedelta(seconds=seconds)
        for name, seconds in (("landed_at", 0), ("received_at", 2), ("loaded_at", 3), ("rebuild_began_at", 7))
    }
    return Delivery("b1", "acme", "segment", "a.ndjson", **{**moments, **changes})


def test_each_stage_has_the_time_between_its_moments() -> None:
    parts = split(a_delivery(), FIRST + timedelta(seconds=15), FIRST + timedelta(seconds=15.75))
    assert (parts.received, parts.queued, parts.processed, parts.published) == (2, 4, 9, Decimal("0.75"))
    assert parts.total == Decimal("15.75")


@given(st.lists(MOMENTS, min_size=6, max_size=6))
def test_the_stages_sum_to_the_whole_and_none_is_negative_whatever_the_clock_did(moments: list[datetime]) -> None:
    landed, received, loaded, began, publishing, shown = moments
    parts = split(Delivery("b", None, "s", "f", landed, received, loaded, began), publishing, shown)
    stages = (parts.received, parts.queued, parts.processed, parts.published)
    assert min(stages) >= 0
    assert sum(stages) == parts.total
    # To the resolution of a column, which is a tenth of a millisecond.
    whole = (max(moments) - landed) / timedelta(microseconds=100)
    assert abs(parts.total * 10_000 - Decimal(whole)) <= 1


class Ticking:
    """A clock that goes on by a second with every look."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def line(open_line: Opener) -> Iterator[Line]:
    line = open_line()
    line.pipeline.clock = Ticking()
    yield line


def insight(line: Line, columns: str = "batch_id, total_seconds") -> list[tuple[Any, ...]]:
    return rows_of(current_path(line.pipeline.home), f"select {columns} from time_to_insight order by shown_at, file")


def show(line: Line, release: bool = False, *, killed: bool = False) -> None:
    """Publish the events alone, with their `time_to_insight`: a rebuild of all tables takes seconds."""
    line.sessions()
    events = line.pipeline.table(EVENTS).snapshot()
    found = Insight(line.pipeline.home, line.pipeline.clock)
    fact = found.fact(line.con, events.version)
    publish(line.pipeline.home, [Publishable(EVENTS, events)], now=NOW, facts=[fact], release=release)
    if not killed:
        found.keep(line.con, events.version)


def test_a_publish_shows_the_delivery_with_its_own_row(line: Line) -> None:
    batch = line.load([an_event("m1")]).batch_id
    line.rebuild()
    line.publish()
    # Ticks: loaded, rebuild began, publish began, shown.
    assert insight(line, f"batch_id, file, {_STAGES}") == [(batch, "1.ndjson", 0, 1, 2, 1, 4)]


def test_every_delivery_has_one_row_that_later_publishes_leave_as_it_is(line: Line) -> None:
    for number in (1, 2):
        line.load([an_event(f"m{number}")])
    show(line)
    before = insight(line)
    line.load([an_event("m3", timestamp=at(day=1))])
    show(line)
    assert len(before) == 2
    assert insight(line)[:2] == before and len(insight(line)) == 3


def test_what_brings_no_new_event_is_no_delivery(line: Line) -> None:
    line.load([an_event("m1")])
    show(line)
    line.load([an_event("m1"), "no json"])
    show(line)
    assert len(insight(line)) == 1


def test_a_rollback_and_its_release_leave_the_time_when_readers_first_got_it(line: Line) -> None:
    for number in (1, 2):
        line.load([an_event(f"m{number}")])
        show(line)
    before = insight(line)
    rollback(line.pipeline.home, None, now=NOW, reason="wrong prices")
    assert insight(line) == before[:1]
    show(line, release=True)
    assert insight(line) == before


def test_what_was_shown_before_there_were_rows_gets_none(line: Line) -> None:
    line.load([an_event("m1")])
    publish(line.pipeline.home, [Publishable(EVENTS, line.pipeline.table(EVENTS).snapshot())], now=NOW)
    batch = line.load([an_event("m2")]).batch_id
    show(line)
    assert [row[0] for row in insight(line)] == [batch]


def test_a_kill_after_the_swap_leaves_the_delivery_to_the_next_publish(line: Line) -> None:
    line.load([an_event("m1")])
    show(line, killed=True)
    line.load([an_event("m2")])
    show(line)
    assert len(insight(line)) == 2
