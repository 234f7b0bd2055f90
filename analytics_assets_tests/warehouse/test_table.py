"""Tables: what a commit holds, what a file is known to hold, and that replacing some days leaves the others."""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analytics_assets.warehouse.connect import connection
from analytics_assets.warehouse.home import Busy, Home
from analytics_assets.warehouse.spec import Column, TableSpec
from analytics_assets.warehouse.table import Table, file_groups, replace_all, replace_days
from analytics_assets_tests.builders import DAY, NOON
from analytics_assets_tests.faults import ROUNDS

COUNTS = TableSpec(
    name="counts",
    comment="A table of days.",
    columns=(Column("date", "DATE", "Day."), Column("name", "VARCHAR", "Name."), Column("n", "BIGINT", "Number.")),
    time_column="date",
    order_by=("date", "name"),
)
MOMENTS = TableSpec(
    name="moments",
    comment="A table of moments.",
    columns=(Column("moment", "TIMESTAMP", "Moment."), Column("n", "BIGINT", "Number.")),
    time_column="moment",
    order_by=("moment",),
)
DENSE = 1000


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def con(home: Home) -> Iterator[duckdb.DuckDBPyConnection]:
    with connection(home) as con:
        yield con


@pytest.fixture
def counts(home: Home) -> Table:
    return Table(home.warehouse, COUNTS)


def some_days(first: int, last: int, *, rows: int = 1, n: int = 1) -> str:
    """A SELECT of `rows` rows on each of the days from `first` to `last` after the usual day."""
    return (
        f"select (date '{DAY}' + d::integer)::date as date, 'name ' || r as name, {n}::bigint as n "
        f"from range({first}, {last + 1}) days(d), range({rows}) names(r)"
    )


def by_day(table: Table, con: duckdb.DuckDBPyConnection) -> dict[int, tuple[int, int]]:
    """Rows and the sum of `n` on each day, counted from the usual day."""
    select = f"select date, count(*), sum(n) from ({table.snapshot().select()}) group by 1 order by 1"
    return {(day - DAY).days: (rows, total) for day, rows, total in con.execute(select).fetchall()}


def days(*numbers: int) -> list[date]:
    return [DAY + timedelta(days=number) for number in numbers]


def test_replacing_days_keeps_the_others(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    replace_days(counts, con, some_days(0, 9, rows=3), days(*range(10)), dense_day_rows=DENSE)
    version, written = replace_days(counts, con, some_days(4, 5, rows=2, n=7), days(4, 5), dense_day_rows=DENSE)
    assert (version, written) == (2, 4)
    assert by_day(counts, con) == {day: (2, 14) if day in (4, 5) else (3, 3) for day in range(10)}


def test_a_day_that_became_empty_is_empty(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    replace_days(counts, con, some_days(0, 2), days(0, 1, 2), dense_day_rows=DENSE)
    replace_days(counts, con, some_days(0, 0, rows=0), days(1), dense_day_rows=DENSE)
    assert by_day(counts, con).keys() == {0, 2}


def test_replacing_a_day_by_the_same_rows_changes_no_row(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    for _ in range(3):
        replace_days(counts, con, some_days(0, 2, rows=5), days(0, 1, 2), dense_day_rows=DENSE)
    assert by_day(counts, con) == dict.fromkeys(range(3), (5, 5))


def test_a_dense_day_gets_a_file_of_its_own_and_thin_days_share_one_a_month(
    counts: Table, con: duckdb.DuckDBPyConnection
) -> None:
    select = f"{some_days(0, 30)} union all {some_days(7, 7, rows=DENSE)}"
    replace_days(counts, con, select, days(*range(31)), dense_day_rows=DENSE)
    ranges = sorted((file.low, file.high, file.rows) for file in counts.snapshot().files if file.low and file.high)
    months = [(low.date(), high.date(), rows) for low, high, rows in ranges]
    # From 10 March to 9 April: the dense day, the rest of March, and April.
    assert (date(2026, 3, 17), date(2026, 3, 17), DENSE + 1) in months
    assert len(months) == 3 and sum(rows for *_, rows in months) == 31 + DENSE


def test_replacing_a_dense_day_leaves_the_files_of_other_days_alone(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    replace_days(counts, con, some_days(0, 3, rows=DENSE), days(0, 1, 2, 3), dense_day_rows=DENSE)
    before = {file.path for file in counts.snapshot().files}
    replace_days(counts, con, some_days(2, 2, rows=DENSE, n=2), days(2), dense_day_rows=DENSE)
    assert len(before & {file.path for file in counts.snapshot().files}) == 3


def test_an_old_version_stays_readable(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    first = replace_all(counts, con, some_days(0, 4))
    replace_all(counts, con, some_days(0, 0))
    old = counts.snapshot(first).select()
    assert con.execute(f"select count(*) from ({old})").fetchall() == [(5,)]
    assert counts.snapshot().rows == 1


def test_an_empty_table_has_its_columns(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    described = con.execute(f"describe {counts.snapshot().select()}").fetchall()
    assert [(name, type_) for name, type_, *_ in described] == [(column.name, column.type) for column in COUNTS.columns]


@pytest.mark.parametrize("microseconds", [(1, 2), (123456, 123457), (999_998, 999_999), (0, 999_999)])
def test_the_range_of_a_file_is_known_to_the_microsecond(
    home: Home, con: duckdb.DuckDBPyConnection, microseconds: tuple[int, int]
) -> None:
    low, high = (NOON + timedelta(microseconds=part) for part in microseconds)
    table = Table(home.warehouse, MOMENTS)
    replace_all(table, con, f"select unnest([timestamp '{low}', timestamp '{high}']) as moment, 1::bigint as n")
    (file,) = table.snapshot().files
    assert (file.low, file.high) == (low, high)


def test_the_range_of_a_file_survives_the_checkpoint_that_the_log_makes(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    """A checkpoint rewrites the statistics in another form: they must not lose their microseconds there."""
    table = Table(home.warehouse, MOMENTS)
    moment = NOON + timedelta(microseconds=123456)
    for number in range(45):
        delta = table.open()
        adds = table.write(con, f"select timestamp '{moment}' + to_days({number}) as moment, 1::bigint as n", "t")
        table.commit(delta, adds)
    assert list((table.path / "_delta_log").glob("*.checkpoint.parquet"))
    assert sorted(file.high for file in table.snapshot().files if file.high) == [moment + timedelta(days=n) for n in range(45)]


def move_in(backup: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.move(backup, folder)


def copy_over(backup: Path, folder: Path) -> None:
    """As `rsync --delete` without times: files of the same name are written anew in their place."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not (backup / path.relative_to(folder)).exists():
            path.unlink()
    shutil.copytree(backup, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


def link_in(backup: Path, folder: Path) -> None:
    """Other files under the old names, with the times that they had."""
    shutil.rmtree(folder)
    shutil.copytree(backup, folder, copy_function=os.link)


@settings(max_examples=8 * ROUNDS)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["commit", "commit elsewhere", "back up", "look"]),
            st.tuples(st.sampled_from([move_in, copy_over, link_in]), st.integers(0, 9)),
        ),
        min_size=4, max_size=10,
    )
)  # fmt: skip
@example(["commit", "back up", "commit", "look", (move_in, 0), "commit"])
@example(["commit", "back up", "commit", "commit", (link_in, 0), "commit elsewhere", "commit elsewhere", "look"])
def test_a_process_that_lives_on_sees_a_restored_table_as_a_new_one_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Its handle too, on which it commits: to go on from what it knew would leave a hole in the restored log."""
    folder = tmp_path_factory.mktemp("restored")
    table, backups = Table(Home(folder / "home").warehouse, COUNTS), list[Path]()
    table.snapshot()
    for number, step in enumerate(steps):
        with duckdb.connect() as con:
            if step == "commit":
                adds = table.write(con, some_days(0, 0, n=number), "kept")
                table.commit(table.latest(), adds)
            elif step == "commit elsewhere":
                other = Table(table.path.parent, COUNTS)
                other.commit(other.open(), other.write(con, some_days(0, 0, n=number), "kept"))
            elif step == "back up":
                backups.append(folder / f"backup {number}")
                shutil.copytree(table.path, backups[-1])
            elif backups and step != "look":
                restore, which = step
                shutil.copytree(backups[which % len(backups)], folder / "taken")
                restore(folder / "taken", table.path)
                shutil.rmtree(folder / "taken", ignore_errors=True)
        stored = table.open()
        assert table.snapshot() == table.snapshot_of(stored)
        assert table.latest().version() == stored.version()
        assert all(Path(file.path).exists() for file in table.snapshot().files)


def test_a_file_without_a_time_meets_every_range(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    table = Table(home.warehouse, MOMENTS)
    replace_all(table, con, "select null::timestamp as moment, 1::bigint as n")
    (file,) = table.snapshot().files
    assert file.meets(NOON, NOON)


def test_a_commit_bears_its_transaction_and_note(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    delta = counts.open()
    assert not Table.has(delta, "batch-1")
    counts.commit(delta, counts.write(con, some_days(0, 0), "t"), transaction="batch-1", note={"who": "us"})
    assert Table.has(counts.open(), "batch-1")
    assert counts.open().history(1)[0]["who"] == "us"


def test_files_that_were_never_committed_are_seen_by_nobody(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    replace_all(counts, con, some_days(0, 0))
    counts.write(con, some_days(1, 5), "lost")
    assert by_day(counts, con).keys() == {0}


def test_what_a_commit_says_of_a_file_is_true(counts: Table, con: duckdb.DuckDBPyConnection) -> None:
    counts.open()
    (add,) = counts.write(con, some_days(0, 3), "t")
    stats = json.loads(add.stats)
    assert (stats["numRecords"], stats["minValues"]["date"], stats["maxValues"]["date"]) == (4, "2026-03-10", "2026-03-13")
    assert add.size == (counts.path / add.path).stat().st_size


@pytest.mark.parametrize(
    ("near_days", "groups"),
    [
        # From 8 March, with 10 and 11 March dense, to 1 April.
        (0, [[-2, -1, 20], [0], [1], [22]]),
        (1, [[-2, 20], [-1, 0], [1], [22]]),
        (2, [[-2, -1, 0], [1], [20], [22]]),
    ],
)
def test_a_dense_day_has_a_file_and_thin_days_share_one_a_month_or_that_of_a_near_dense_day(
    near_days: int, groups: list[list[int]]
) -> None:
    rows = dict.fromkeys(days(-2, -1, 20, 22), 1) | dict.fromkeys(days(0, 1), DENSE)
    found = file_groups(rows, DENSE, near_days)
    assert sorted([(day - DAY).days for day in group] for group in found) == sorted(groups)


def test_a_file_of_some_days_is_cut_out_by_the_reader_before_anything_is_computed(
    home: Home, con: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is written from the same SELECT: were its rows chosen afterwards, all would be mapped once a file."""
    source = tmp_path / "source.parquet"
    con.execute(f"copy (select timestamp '{NOON}' + to_hours(i) as moment, i as n from range(48) t(i)) to '{source}'")
    table, selects = Table(home.warehouse, MOMENTS), []
    monkeypatch.setattr(table, "write", lambda con, select, tag, **_: selects.append(select) or [])
    table.write_days(
        con, f"select moment, abs(n) as n from read_parquet('{source}')", "t", dict.fromkeys(days(0, 1, 2), DENSE), DENSE
    )
    assert len(selects) == 3
    for select in selects:
        plan = con.execute(f"explain {select}").fetchall()[0][1]
        assert "Filters" in plan.split("READ_PARQUET")[1], plan


@given(
    rows=st.dictionaries(st.integers(-40, 40), st.integers(1, 2 * DENSE), min_size=1, max_size=12),
    near_days=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_row_is_written_once_whatever_the_days(
    rows: dict[int, int], near_days: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = Table(tmp_path_factory.mktemp("home"), COUNTS)
    with duckdb.connect() as con:
        table.open()
        con.execute("create table asked as select unnest(?::date[]) as date, unnest(?::int[]) as many",
                    [days(*rows), list(rows.values())])  # fmt: skip
        select = "select date, 'name' as name, unnest(range(many)) as n from asked"
        adds = table.write_days(
            con, select, "t", dict(zip(days(*rows), rows.values(), strict=True)), DENSE, near_days=near_days
        )
        files = [str(table.path / add.path) for add in adds]
        found = con.execute("select date, count(*), count(distinct n) from read_parquet(?) group by 1", [files]).fetchall()
    assert found and {day: (count, distinct) for day, count, distinct in found} == {
        DAY + timedelta(days=day): (many, many) for day, many in rows.items()
    }


def test_a_lock_that_is_held_refuses_others_and_says_for_how_long(home: Home) -> None:
    waited: list[float] = []
    with home.lock("intake"), pytest.raises(Busy, match="intake has been in use for"), home.lock("intake", 2.0, waited.append):
        pass
    assert sum(waited) >= 2.0
    with home.lock("intake", wait_seconds=0):
        pass
