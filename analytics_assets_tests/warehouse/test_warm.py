"""Warm caches: what readers ask is read before they come, the most asked and newest first, and no more than is to spare."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_assets.warehouse import publish as room
from analytics_assets.warehouse.connect import connection
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import Publishable, current_path, publish
from analytics_assets.warehouse.spec import Column, TableSpec
from analytics_assets.warehouse.table import Table, replace_days
from analytics_assets.warehouse.warm import Warmed, warm
from analytics_assets_tests.builders import DAY, NOW

SMALL, LARGE, ASKED = (
    TableSpec(name, "Numbers by day.", (Column("date", "DATE", "Day."), Column("n", "BIGINT", "Number.")), "date", ("date",))
    for name in ("small", "large", "asked")
)
SPECS = (SMALL, LARGE, ASKED)
EVERYTHING = 2**30


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A published version with a small table in the file, and two large ones behind views, of two months each."""
    home, days = Home(tmp_path / "home"), [DAY.replace(month=month) for month in (3, 4)]
    monkeypatch.setattr(room, "INLINE_ROWS", 10)
    with connection(home) as con:
        for spec, count in ((SMALL, 1), (LARGE, 2000), (ASKED, 1000)):
            rows = " union all ".join(f"select date '{day}' as date, n from range({count}) t(n)" for day in days)
            replace_days(Table(home.warehouse, spec), con, rows, days, dense_day_rows=10_000)
        publish(home, [Publishable(spec, Table(home.warehouse, spec).snapshot()) for spec in SPECS], now=NOW)
    yield home


def sizes(home: Home, *specs: TableSpec) -> list[int]:
    """Bytes of the files of tables, the newest first."""
    files = [file for spec in specs for file in sorted(Table(home.warehouse, spec).snapshot().files, key=lambda f: str(f.low))]
    return [file.size for file in reversed(files)]


def test_the_published_file_and_all_that_lies_behind_its_views_are_read(home: Home) -> None:
    whole = current_path(home).stat().st_size + sum(sizes(home, LARGE, ASKED))
    assert warm(home, SPECS, ["asked"], EVERYTHING) == Warmed(5, whole, ())


def test_what_is_asked_most_comes_first_and_of_that_the_newest(home: Home) -> None:
    file, (newer, older) = current_path(home).stat().st_size, sizes(home, ASKED)
    assert warm(home, SPECS, ["asked"], file + newer) == Warmed(2, file + newer, ("asked", "large"))
    assert warm(home, SPECS, ["asked"], file + newer + older) == Warmed(3, file + newer + older, ("large",))
    first = sizes(home, LARGE)[0]
    assert warm(home, SPECS, ["small", "large"], file + first) == Warmed(2, file + first, ("large", "asked"))
    assert warm(home, SPECS, [], 10) == Warmed(0, 0, ("analytics.duckdb", "large", "asked"))


def test_a_file_that_is_gone_keeps_nothing_else_back_and_nothing_is_read_while_nothing_is_published(
    home: Home, tmp_path: Path
) -> None:
    Path(Table(home.warehouse, LARGE).snapshot().files[0].path).unlink()
    assert (warm(home, SPECS, [], EVERYTHING).files, warm(home, SPECS, [], EVERYTHING).left_out) == (4, ())
    assert warm(Home(tmp_path / "new"), SPECS, [], EVERYTHING) == Warmed(0, 0, ())
