"""An event is stored once, by (tenant, message id), however its deliveries are cut, ordered and repeated."""

import random
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets_tests.builders import NOON, Line, Opener, a_config, an_event, at, write_events

Event = dict[str, Any]
Fresh = Callable[[], AbstractContextManager[Line]]
SLOW = settings(max_examples=10, deadline=None, suppress_health_check=[*HealthCheck])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Opens a new data home each time. Its source finds twins up to a day apart."""
    config = a_config(tmp_path_factory.mktemp("identity") / "config", lookback_days=1)
    return lambda: Line.at(tmp_path_factory.mktemp("home"), config)


@st.composite
def twins(draw: st.DrawFn) -> list[Event]:
    """Events of few ids over half a year, so that many are twins, at most the lookback of a day apart."""
    home_of = draw(st.lists(st.integers(0, 180), min_size=6, max_size=6))
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(["acme", "globex", "nobody"]), st.integers(0, 5), st.integers(0, 86_400_000_000)),
            min_size=1,
            max_size=40,
        )
    )
    return [
        an_event(
            f"m{number}",
            tenant_id=tenant,
            timestamp=NOON - timedelta(days=200 - home_of[number]) + timedelta(microseconds=offset),
        )
        for tenant, number, offset in rows
    ]


@SLOW
@given(events=twins(), seed=st.integers(0, 10**6))
def test_batches_in_any_cut_and_order_store_each_identity_once(fresh: Fresh, events: list[Event], seed: int) -> None:
    rng = random.Random(seed)
    rng.shuffle(events)
    cuts = sorted(rng.randrange(len(events) + 1) for _ in range(2))
    batches = [events[: cuts[0]], events[cuts[0] : cuts[1]], events[cuts[1] :], rng.sample(events, len(events) // 2), events]
    known = {(event["tenant_id"], event["message_id"]) for event in events if event["tenant_id"] != "nobody"}
    with fresh() as line:
        for batch in batches:
            report = line.load(batch)
            assert report.received == len(batch)
            assert report.received == report.rejected + report.duplicates + report.events
            assert report.rejected == sum(event["tenant_id"] == "nobody" for event in batch)
        assert Counter(line.keys()) == Counter(known)
        assert sum(events for (events,) in line.rows(BATCHES, columns="events")) == len(known)
        raw = {text for (text,) in line.rows(REJECTED, columns="raw")}
        assert len(raw) == len({tuple(event.items()) for event in map(flat, events) if event["tenant_id"] == "nobody"})


def flat(event: Event) -> Event:
    return {**event, "properties": str(event["properties"])}


def test_of_twins_the_one_that_came_first_stays(open_line: Opener) -> None:
    line = open_line(lookback_days=1)
    line.load([an_event(timestamp=at(0), event="First")])
    assert line.load([an_event(timestamp=at(-600), event="Earlier, but later received")]).duplicates == 1
    assert line.rows(EVENTS, columns="event") == [("First",)]


@pytest.mark.parametrize("hours", [-24, -1, 0, 1, 24])
def test_a_twin_within_the_lookback_is_found(open_line: Opener, hours: int) -> None:
    line = open_line(lookback_days=1)
    line.load([an_event(timestamp=at(0))])
    assert line.load([an_event(timestamp=at(60 * hours))]).duplicates == 1


def test_a_twin_beyond_the_lookback_is_the_declared_limit_of_the_guarantee(open_line: Opener) -> None:
    line = open_line(lookback_days=1)
    line.load([an_event(timestamp=at(0))])
    assert line.load([an_event(timestamp=at(0, day=-40))]).events == 1


@pytest.mark.parametrize("edge", ["first", "last"])
@pytest.mark.parametrize("microsecond", [1, 999, 123456, 999999])
def test_a_twin_at_the_very_edge_of_a_file_is_found_to_the_microsecond(open_line: Opener, edge: str, microsecond: int) -> None:
    """The range of a file must not be rounded, or the twin would be looked for in no file at all."""
    line = open_line()
    twin = an_event("twin", timestamp=NOON.replace(microsecond=microsecond))
    line.load([twin, an_event("other", timestamp=at(5 if edge == "first" else -5))])
    assert line.load([{**twin, "event": "Again"}]).duplicates == 1


def test_twins_in_two_slices_of_one_file_are_found(open_line: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than a slice: later slices must see what earlier ones wrote but nobody committed."""
    line = open_line()
    monkeypatch.setattr("analytics_assets.sources.text.SLICE_BYTES", 2_000)
    report = line.load([an_event(f"m{n % 30}", timestamp=at(n % 30)) for n in range(90)])
    assert (report.events, report.duplicates) == (30, 60)


def test_the_same_id_of_two_tenants_is_two_events(line: Line) -> None:
    report = line.load([an_event("m1"), an_event("m1", tenant_id="globex")])
    assert (report.events, report.duplicates) == (2, 0)


def test_a_file_under_another_name_or_touched_again_is_the_same_batch(line: Line, tmp_path: Path) -> None:
    first = line.load(write_events(tmp_path / "one.ndjson", [an_event()]))
    again = line.load(write_events(tmp_path / "two.ndjson", [an_event()]))
    assert again.known_before and again.batch_id == first.batch_id
    assert len(line.rows(BATCHES)) == 1


def test_the_same_file_for_another_tenant_is_another_batch(line: Line, tmp_path: Path) -> None:
    path = write_events(tmp_path / "one.ndjson", [an_event(tenant_id=None)])
    assert [line.load(path, tenant=tenant).events for tenant in ("acme", "globex")] == [1, 1]
    assert line.keys() == [("acme", "m1"), ("globex", "m1")]


HOSTILE = [
    "'; drop table events; --", '"', "\\", "../../etc/passwd", "/etc/passwd", "a\x00b", "\x01\x1f\x7f", "🦆👩\u200d👧",
    "\U0001d518", "\u202eabc", "\ufeffbom", "${HOME}", "{{ jinja }}", "%s%n", "null", "NaN", "-1", "1e309",
    " leading and trailing ", "a\nb\r\nc\td", "é" * 120,
]  # fmt: skip


def visible(text: str) -> bool:
    """Whether it can be an id: one of blanks and zero-width characters alone counts as missing."""
    return any(unicodedata.category(char)[0] not in "ZC" for char in text)


@SLOW
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(visible), min_size=1, max_size=15))
def test_any_text_comes_through_unchanged(fresh: Fresh, texts: list[str]) -> None:
    texts = sorted({*texts, *HOSTILE})
    events = [
        an_event(text, event=text, user_id=text, anonymous_id=text, session_id=text, campaign=text, properties={"text": text})
        for text in texts
    ]
    with fresh() as line:
        report = line.load(events)
        assert (report.events, report.rejected_by_reason) == (len(texts), {})
        columns = "message_id, event, user_id, anonymous_id, session_id, campaign, properties ->> 'text'"
        assert sorted(line.rows(EVENTS, columns=columns)) == [(text,) * 7 for text in texts]
        line.load([*events, an_event("one more")])
        assert len(line.keys()) == len(texts) + 1


def test_hostile_tenants_are_rejected_with_their_records_kept_and_touch_nothing_else(line: Line, tmp_path: Path) -> None:
    def elsewhere() -> set[Path]:
        return {path for path in tmp_path.rglob("*") if line.home / "warehouse" not in path.parents}

    tenants = [*HOSTILE, "Acme", "acme ", "acme/../globex", "*"]
    path = write_events(tmp_path / "hostile.ndjson", [an_event(f"m{n}", tenant_id=name) for n, name in enumerate(tenants)])
    line.load([an_event()])
    before = elsewhere()
    assert line.load(path).rejected_by_reason == {"unknown_tenant": len(tenants)}
    assert elsewhere() == before
    kept = sorted(zip(tenants, path.read_text().split("\n"), strict=False))
    assert sorted(line.rows(REJECTED, columns="tenant_id, raw")) == kept
    assert line.keys() == [("acme", "m1")]
