"""Landed files under any name, and events whose stored keys collide."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_assets.events.tables import BATCHES
from analytics_assets.landing import Landed
from analytics_assets_tests.builders import Line, Opener, an_event, at, write_events

# Names of files, without their ending; a name has at most 255 bytes.
STEMS = {
    "not UTF-8": os.fsdecode(b"caf\xe9 \xff\x80"),
    "long": "n" * 247,
    "long and not UTF-8": os.fsdecode(b"\xe9" * 247),
    "long, of four bytes a character": "🦆" * 61,
    "a line break": "two\nlines",
    "quotes and marks": "a'b\"c;--*?[x]{y}$",
    "a leading dash": "-rf",
}


@pytest.fixture(params=STEMS.values(), ids=STEMS.keys())
def stem(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(stem: str) -> str:
    return f"{stem}.ndjson"


def land(line: Line, name: str, content: bytes | None = None) -> Path:
    path = write_events(line.pipeline.home.landing / "acme" / name, [an_event("m1"), an_event("m2")])
    if content is not None:
        path.write_bytes(content)
    return path


def take(line: Line) -> Iterator[str]:
    """Load what waits, as the sensor does; a file counts as whole at once."""
    waiting, refused = line.pipeline.landed(line.now, settle_seconds=float("-inf"))
    assert refused == []
    for landed in waiting:
        yield line.pipeline.load_landed(line.con, landed, line.now).status


def received(line: Line) -> list[Path]:
    return sorted((line.pipeline.home.received / "acme").iterdir())


def test_a_landed_file_under_any_name_goes_the_whole_way_once(line: Line, name: str) -> None:
    path = land(line, name)
    content = path.read_bytes()
    assert list(take(line)) == ["loaded"]
    assert not path.exists()
    (moved,) = received(line)
    assert moved.read_bytes() == content
    assert os.fsencode(moved.name)[13:] == os.fsencode(name)[: 200 - 13]
    ((stored, events),) = line.rows(BATCHES, columns="file, events")
    assert (stored, events) == (os.fsencode(name).decode("utf-8", "backslashreplace"), 2)


def test_the_same_content_dropped_again_is_taken_and_doubles_nothing(line: Line, name: str) -> None:
    for _ in range(2):
        land(line, name)
        list(take(line))
    assert line.keys() == [("acme", "m1"), ("acme", "m2")]
    assert len(received(line)) == len(line.rows(BATCHES)) == 1
    assert list((line.pipeline.home.landing / "acme").iterdir()) == []


def test_other_content_under_the_same_name_does_not_replace_what_was_received(line: Line, name: str) -> None:
    for number in range(2):
        write_events(land(line, name), [an_event(f"other{number}")])
        list(take(line))
    assert len(received(line)) == len(line.keys()) == 2


def test_an_unreadable_file_under_any_name_is_set_aside_with_its_reason(line: Line, stem: str) -> None:
    land(line, f"{stem}.parquet", b"PAR1 and nothing else")
    assert list(take(line)) == ["set_aside"]
    aside = sorted((line.pipeline.home.set_aside / "acme").iterdir())
    assert len(aside) == 2
    assert sum(path.name.endswith(".reason.txt") for path in aside) == 1


def test_a_table_is_read_or_set_aside_with_the_cure(line: Line, stem: str, tmp_path: Path) -> None:
    """DuckDB opens Parquet files itself, and has no words for a name that is not UTF-8."""
    table = tmp_path / "plain.parquet"
    line.con.execute(f"copy (select 'm1' as message_id, 'Ordered' as event, timestamp '{at(0)}' as timestamp) to '{table}'")
    land(line, f"{stem}.parquet", table.read_bytes())
    if list(take(line)) == ["set_aside"]:
        assert not stem.isprintable() and "rename it" in line.rows(BATCHES, columns="reason")[0][0]
        land(line, "renamed.parquet", table.read_bytes())
        assert list(take(line)) == ["loaded"]
    assert line.keys() == [("acme", "m1")]


def test_a_file_under_any_name_given_by_hand_is_the_same_batch(line: Line, name: str, tmp_path: Path) -> None:
    first = line.pipeline.load_landed(line.con, Landed(land(line, name), "acme", "canonical"), line.now)
    again = line.load(write_events(tmp_path / "plain.ndjson", [an_event("m1"), an_event("m2")]), tenant="acme")
    assert again.known_before and again.batch_id == first.batch_id


# Keys that collide

ONE_KEY, FEW_KEYS = "0::bigint", "(hash(tenant_id, message_id) % 3)::bigint"


@pytest.fixture(params=[ONE_KEY, FEW_KEYS], ids=["one key", "three keys"])
def colliding(request: pytest.FixtureRequest, open_line: Opener, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line in which events of different identity have the same stored key; twins are found a day apart."""
    monkeypatch.setattr("analytics_assets.events.intake.MESSAGE_KEY", request.param)
    return open_line(lookback_days=1)


def some(low: int, high: int, minutes: float = 0) -> list[dict[str, object]]:
    """Events of both tenants: the same ids, each at its own time."""
    return [
        an_event(f"m{n}", tenant_id=tenant, timestamp=at(n + minutes))
        for n in range(low, high)
        for tenant in ("acme", "globex")
    ]


def identities(low: int, high: int) -> list[tuple[str, str]]:
    return sorted((tenant, f"m{n}") for n in range(low, high) for tenant in ("acme", "globex"))


def test_events_whose_keys_collide_are_all_kept_and_their_twins_dropped(colliding: Line) -> None:
    first = colliding.load([*some(0, 10), *some(5, 10)])
    assert (first.events, first.duplicates) == (20, 10)
    second = colliding.load([*some(5, 20), *some(18, 20)])
    assert (second.events, second.duplicates) == (20, 14)
    assert colliding.keys() == identities(0, 20)


def test_twins_at_other_times_are_found_among_colliding_keys(colliding: Line) -> None:
    colliding.load(some(0, 10))
    report = colliding.load([*some(0, 10, minutes=90.5), *some(10, 12)])
    assert (report.events, report.duplicates) == (4, 20)
    assert colliding.keys() == identities(0, 12)


def test_colliding_events_of_one_moment_in_one_batch_are_all_kept(colliding: Line) -> None:
    batch = [an_event(f"m{n % 10}", timestamp=at(0)) for n in range(20)]
    report = colliding.load(batch)
    assert (report.events, report.duplicates) == (10, 10)


def test_colliding_events_of_one_moment_and_two_tenants_are_both_kept_between_batches(colliding: Line) -> None:
    reports = [colliding.load([an_event("m1", tenant_id=tenant)]) for tenant in ("acme", "globex", "acme")]
    assert [report.events for report in reports] == [1, 1, 0]


def test_colliding_events_in_other_slices_of_one_file_are_all_kept(colliding: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics_assets.sources.text.SLICE_BYTES", 1_000)
    report = colliding.load([*some(0, 15), *some(0, 15, minutes=30.5)])
    assert (report.events, report.duplicates) == (30, 30)
    assert colliding.keys() == identities(0, 15)
