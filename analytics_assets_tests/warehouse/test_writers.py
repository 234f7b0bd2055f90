"""Several processes at once: writers that bring the same events, and readers beside them."""

from collections import Counter
from pathlib import Path

from analytics_assets.events.tables import BATCHES
from analytics_assets.warehouse.publish import current_path
from analytics_assets_tests.builders import DAY, Line, Opener, an_event, at, rows_of, write_events
from analytics_assets_tests.faults import process

WRITERS, FILES, EVENTS_A_FILE, STEP = 4, 6, 300, 200


def load_all(home: Path, config: Path, files: list[Path]) -> None:
    with Line.at(home, config) as line:
        for file in files:
            line.load(file)


def rebuild_and_publish(home: Path, config: Path, times: int) -> None:
    with Line.at(home, config) as line:
        for _ in range(times):
            line.sessions([DAY])
            line.rebuild()
            line.publish()


def test_writers_that_bring_overlapping_events_at_once_lose_none_and_double_none(open_line: Opener, tmp_path: Path) -> None:
    line = open_line("home")
    files = [
        write_events(
            tmp_path / "files" / f"{number}.ndjson",
            [an_event(f"m{n}", timestamp=at(n % 50)) for n in range(number * STEP, number * STEP + EVENTS_A_FILE)],
        )
        for number in range(FILES)
    ]
    # Each writer brings every file, each in another order: the same batch also races itself.
    writers = [
        process(load_all, line.home, tmp_path / "home-config", files[number:] + files[:number]) for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    distinct = (FILES - 1) * STEP + EVENTS_A_FILE
    assert Counter(line.keys()) == Counter({("acme", f"m{n}"): 1 for n in range(distinct)})
    rows = line.rows(BATCHES, columns="received, rejected, duplicates, events")
    assert len(rows) == FILES
    assert all(received == rejected + duplicates + events for received, rejected, duplicates, events in rows)
    assert sum(events for *_, events in rows) == distinct


def test_what_is_loaded_while_others_rebuild_and_publish_is_seen_whole(open_line: Opener, tmp_path: Path) -> None:
    line = open_line("home")
    line.load([an_event(f"first-{n}", timestamp=at(n % 50)) for n in range(100)])
    line.rebuild()
    files = [
        write_events(tmp_path / "files" / f"{number}.ndjson", [an_event(f"{number}-{n}", timestamp=at(n)) for n in range(100)])
        for number in range(8)
    ]
    loader = process(load_all, line.home, tmp_path / "home-config", files)
    publisher = process(rebuild_and_publish, line.home, tmp_path / "home-config", 3)
    loader.start()
    publisher.start()
    path = current_path(line.pipeline.home)
    while publisher.is_alive():
        if path.exists():
            ((events, placed, brought),) = rows_of(
                path,
                "select (select count(*) from events), (select sum(events) from sessions), (select sum(events) from batches)",
            )
            assert events == placed == brought
            assert events % 100 == 0
    for each in (loader, publisher):
        each.join()
        assert each.exitcode == 0
    line.rebuild()
    line.publish()
    assert rows_of(path, "select count(*) from events") == [(900,)]


def test_a_day_waits_again_if_another_run_built_newer_sessions_between_its_stages(open_line: Opener) -> None:
    """Else its marts would count events that its sessions do not know, and no publish would ever be right again."""
    line, later = open_line(), at(day=9)
    line.load([an_event("m1")])
    line.sessions([DAY])
    line.load([an_event("m2", timestamp=at(5)), an_event("m3", timestamp=later)])
    line.sessions([later.date()])
    line.pipeline.rebuild_marts(line.con, [DAY])
    assert line.pipeline.pending(line.con) == [DAY, later.date()]
    line.rebuild()
    assert line.pipeline.pending(line.con) == []
