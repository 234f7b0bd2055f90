"""Looking after storage: fewer files, the same rows, and nothing removed that a present or kept version needs."""

from datetime import timedelta

import pytest

from analytics_assets.events.schema import EVENTS
from analytics_assets.warehouse.maintain import closed_groups, layout_advice
from analytics_assets.warehouse.table import DataFile, Snapshot
from analytics_assets_tests.builders import NOON, Line, Opener, an_event, at, rows_of


def files_of(line: Line) -> tuple[DataFile, ...]:
    return line.pipeline.table(EVENTS).snapshot().files


def loaded(line: Line, batches: int = 6, *, day: int = -35) -> Line:
    """Events of five closed days, a file a batch."""
    for number in range(batches):
        line.load([an_event(f"m{number}-{n}", timestamp=at(n, day=day + n % 5)) for n in range(50)])
    return line


def test_compaction_changes_no_row_and_no_batch_of_any(line: Line) -> None:
    loaded(line)
    before = line.digest(EVENTS, without=())
    done = line.pipeline.compact(line.con, line.now)
    assert (done.files_before, done.files_after) == (6, 1)
    assert line.digest(EVENTS, without=()) == before


def test_twins_are_still_found_after_a_compaction(line: Line) -> None:
    loaded(line)
    line.pipeline.compact(line.con, line.now)
    report = line.load([an_event(f"m0-{n}", timestamp=at(n, day=-35 + n % 5), event="Again") for n in range(50)])
    assert (report.duplicates, report.events) == (50, 0)


def test_compacted_rows_are_ordered_as_the_table_declares(line: Line) -> None:
    loaded(line)
    line.load([an_event("late", tenant_id="globex", timestamp=at(0, day=-34)), an_event("z", timestamp=at(9, day=-33))])
    line.pipeline.compact(line.con, line.now)
    (file,) = files_of(line)
    order = f"select tenant_id, timestamp from read_parquet('{file.path}', file_row_number = true) order by file_row_number"
    rows = line.con.execute(order).fetchall()
    assert rows == sorted(rows)


def test_a_second_compaction_has_nothing_to_do(line: Line) -> None:
    loaded(line)
    line.pipeline.compact(line.con, line.now)
    version = line.pipeline.table(EVENTS).snapshot().version
    line.pipeline.compact(line.con, line.now)
    assert line.pipeline.table(EVENTS).snapshot().version == version


def test_days_that_may_still_get_events_are_left_alone(line: Line) -> None:
    loaded(line, day=-3)
    before = files_of(line)
    line.pipeline.compact(line.con, at(0, day=2))
    assert files_of(line) == before


DENSE = 1000


def a_file(low: float, high: float, *, size: int = 1000, rows: int = 10) -> DataFile:
    """A file from day `low` to day `high` after the usual noon, 10 March."""
    return DataFile(f"{low}-{high}", rows, size, NOON + timedelta(days=low), NOON + timedelta(days=high))


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        ([a_file(0, 0), a_file(0, 0.1)], {"2026-03-10": 2}),
        ([a_file(0, 0)], {}),
        ([a_file(0, 0), a_file(1, 1)], {}),
        # A file that spans days is that of its newest day.
        ([a_file(-1, 0), a_file(0, 0)], {"2026-03-10": 2}),
        # Thin days of a closed month come together.
        ([a_file(-20, -15), a_file(-18, -12), a_file(-45, -45)], {"2026-02": 2}),
        ([a_file(-20, -20, rows=DENSE), a_file(-18, -18, rows=DENSE)], {}),
        # A few late rows do not make a large file be written again; many files do.
        ([a_file(0, 0, size=11_000), a_file(0, 0)], {}),
        ([a_file(0, 0, size=90_000), *[a_file(0, 0)] * 7], {"2026-03-10": 8}),
        ([a_file(0, 0, size=1 << 30), a_file(0, 0)], {}),
        # What may still change waits.
        ([a_file(4, 4), a_file(4, 5)], {}),
    ],
)
def test_the_small_files_of_a_closed_day_or_month_become_one_where_it_pays(
    files: list[DataFile], groups: dict[str, int]
) -> None:
    found = closed_groups(Snapshot(EVENTS, 1, tuple(files)), NOON + timedelta(days=4.5), DENSE)
    assert {name: len(members) for name, members in found.items()} == groups


def test_late_rows_find_their_way_to_the_file_of_their_day(open_line: Opener) -> None:
    line = open_line(limits={"storage": {"dense_day_rows": 40}})
    for day in range(-33, -30):
        for number in range(3):
            fresh = [an_event(f"{day}-{number}-{n}", timestamp=at(n / 10, day=day)) for n in range(40)]
            late = [an_event(f"late-{day}-{number}-{n}", timestamp=at(n / 10, day=day - 1)) for n in range(20)]
            line.load([*fresh, *late])
    assert len(files_of(line)) == 9
    before = line.digest(EVENTS, without=())
    line.pipeline.compact(line.con, line.now)
    assert line.digest(EVENTS, without=()) == before
    # Three full days, and the one before them that got late rows only.
    assert [file.low.date() == file.high.date() for file in files_of(line) if file.low and file.high] == [True] * 4


def test_a_sweep_removes_what_no_version_names_and_counts_it(line: Line) -> None:
    loaded(line)
    orphan = line.pipeline.table(EVENTS).path / "batch_orphan.parquet"
    orphan.write_bytes(b"left by a killed process")
    removed, size = line.pipeline.sweep(line.con)
    assert not orphan.exists()
    assert removed >= 1 and size >= 24
    assert len(line.keys()) == 300


def test_a_sweep_keeps_the_files_of_published_versions_through_compaction(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics_assets.warehouse.publish.INLINE_ROWS", 0)
    loaded(line)
    line.rebuild()
    first = line.publish().path
    line.pipeline.compact(line.con, line.now)
    line.pipeline.sweep(line.con)
    assert rows_of(first, "select count(*) from events") == [(300,)]
    line.load([an_event("one more", timestamp=at(0, day=-35))])
    line.rebuild()
    line.publish()
    line.pipeline.sweep(line.con)
    assert rows_of(first, "select count(*), count(distinct batch_id) from events") == [(300, 6)]


def test_a_sweep_of_an_empty_home_is_quiet(line: Line) -> None:
    assert line.pipeline.sweep(line.con) == (0, 0)


def test_leftovers_of_spilling_are_swept(line: Line) -> None:
    spill = line.pipeline.home.work / "spill"
    spill.mkdir()
    (spill / "duckdb_temp_storage_0.tmp").write_bytes(b"x" * 10)
    assert line.pipeline.sweep(line.con) == (1, 10)


def test_what_a_killed_build_left_is_swept(line: Line) -> None:
    database = line.pipeline.home.marts_database
    database.write_bytes(b"people")
    database.with_name(f"{database.name}.tmp").mkdir()
    line.pipeline.sweep(line.con)
    assert [*database.parent.glob("marts*")] == []


def test_the_advice_names_a_table_of_many_tiny_files_and_no_other() -> None:
    many = Snapshot(EVENTS, 1, tuple(a_file(day, day) for day in range(100)))
    few = Snapshot(EVENTS, 1, tuple(a_file(day, day) for day in range(10)))
    assert layout_advice(many, 50_000).too_many_tiny_files
    assert not layout_advice(few, 50_000).too_many_tiny_files
    assert layout_advice(many, 50_000).share_per_day == pytest.approx(0.01)
