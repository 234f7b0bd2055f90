"""A full disk: the error says so, readers keep what they have, and a rerun with room is exact.

The limit is that of a file's size in a process of its own, which every system has: a write fails in the middle of a file, as
on a full disk.
"""

import resource
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.warehouse.publish import current_path, versions
from analytics_assets_tests.builders import Line, Opener, an_event, at, rows_of, write_events
from analytics_assets_tests.faults import FORK, process


def work(home: Path, config: Path, what: str, file: Path, room: int, said: Connection) -> None:
    with Line.at(home, config) as line:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            if what == "load":
                line.load(file)
            else:
                line.rebuild()
                line.publish()
            said.send(None)
        except Exception as error:
            said.send(str(error))


def without_room(line: Line, config: Path, what: str, file: Path, room: int) -> str | None:
    """What the error said, or None if there was room enough."""
    hear, say = FORK.Pipe(duplex=False)
    child = process(work, line.home, config, what, file, room, say)
    child.start()
    said = hear.recv()
    child.join()
    assert child.exitcode == 0
    return said


def events(name: str, count: int) -> list[dict[str, object]]:
    return [an_event(f"{name}-{n}", timestamp=at(n % 500, day=n % 3), properties={"n": f"{n * 7919:x}"}) for n in range(count)]


@pytest.mark.parametrize("room", [100, 5_000])
def test_a_load_without_room_says_so_and_a_rerun_is_exact(open_line: Opener, tmp_path: Path, room: int) -> None:
    line, whole = open_line("home"), open_line("whole")
    first, second = events("first", 20), [*events("second", 2_000), "no json", *events("first", 10)]
    for each in (line, whole):
        each.load(first)
    file = write_events(tmp_path / "second.ndjson", second)
    before = line.digest(EVENTS)
    said = without_room(line, tmp_path / "home-config", "load", file, room)
    assert said is not None and ("File too large" in said or "No space left" in said), said
    assert line.digest(EVENTS) == before
    for each in (line, whole):
        each.load(file)
    assert line.digest(EVENTS) == whole.digest(EVENTS)
    assert line.rows(REJECTED, columns="reason, raw") == whole.rows(REJECTED, columns="reason, raw")
    columns = "received, rejected, duplicates, events"
    assert line.rows(BATCHES, columns=columns) == whole.rows(BATCHES, columns=columns)


def test_a_publish_without_room_leaves_the_published_version(open_line: Opener, tmp_path: Path) -> None:
    line = open_line("home")
    line.load(events("first", 20))
    line.rebuild()
    line.publish()
    path = current_path(line.pipeline.home)
    line.load(events("second", 2_000))
    said = without_room(line, tmp_path / "home-config", "publish", path, 50_000)
    assert said is not None and ("File too large" in said or "No space left" in said), said
    assert rows_of(path, "select count(*), max(version) from events, published_tables where \"table\" = 'events'") == [(20, 1)]
    assert versions(line.pipeline.home) == [1]
    line.rebuild()
    line.publish()
    assert rows_of(path, "select count(*) from events") == [(2_020,)]
