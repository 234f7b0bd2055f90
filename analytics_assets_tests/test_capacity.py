"""What capacity is sized by, what a tenant's day is like, counted once and again when it changes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from analytics_assets.capacity import Capacity
from analytics_assets.events.days import BUILT_DAYS
from analytics_assets.marts.tables import mart_tables
from analytics_assets.tuning.capacity_tables import CAPACITY_INPUTS
from analytics_assets.tuning.inputs import Declared, Relations, inputs
from analytics_assets.warehouse.table import replace_all
from analytics_assets_tests.builders import DAY, Line, a_config, an_event, at
from analytics_assets_tests.conftest import made_once

HOURS = next(spec for spec in mart_tables() if spec.name == "events_hourly")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data home of two days, and its declarations. One person comes on both, another on the second."""

    def make(folder: Path) -> None:
        with Line.at(folder / "home", a_config(folder / "config")) as line:
            line.load(
                [
                    an_event("m1", user_id="ann", properties={"colour": "red", "size": 3}),
                    an_event("m2", user_id="ann", timestamp=at(5), properties={"colour": "red"}),
                    an_event("m3", user_id="ann", timestamp=at(day=1), properties=None),
                    an_event("m4", anonymous_id="device-2", timestamp=at(day=1)),
                ]
            )
            line.rebuild()

    return made_once(tmp_path_factory, "capacity", make)


@pytest.fixture
def built(template: Path, tmp_path: Path) -> Iterator[Line]:
    shutil.copytree(template, tmp_path / "copy")
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def look(line: Line) -> list[str]:
    """The days that a look counts anew."""
    return [str(day) for day in Capacity(line.pipeline.settings).count(line.con).days]


def test_a_day_tells_what_its_events_sessions_properties_and_people_are_like(built: Line) -> None:
    assert look(built) == ["2026-03-10", "2026-03-11"]
    figures = ("segment", "kept_days", "events", "sessions", "events_per_session", "properties", "properties_per_event",
               "people", "returning_people")  # fmt: skip
    assert [tuple(row[name] for name in figures) for row in built.dicts(CAPACITY_INPUTS)] == [
        ("standard", None, 2, 1, 2.0, 2, 1.5, 1, 0),
        ("standard", None, 2, 2, 1.0, 1, 0.5, 2, 1),
    ]


def test_only_a_day_that_was_built_since_is_counted_again(built: Line) -> None:
    look(built)
    assert look(built) == []
    table = built.pipeline.table(BUILT_DAYS)
    later = f"select date, events_version + (date = '{DAY}')::bigint as events_version from ({table.snapshot().select()})"
    replace_all(table, built.con, later)
    assert look(built) == [str(DAY)]
    assert look(built) == []


def test_a_day_of_which_readers_see_other_events_is_counted_again_and_one_that_is_gone_goes(built: Line) -> None:
    look(built)
    table = built.pipeline.table(HOURS)
    replace_all(table, built.con, f"select * from ({table.snapshot().select()}) where date = '{DAY}'")
    assert Capacity(built.pipeline.settings).faults(built.con) == {"every event is counted": ["acme 2026-03-11"]}
    assert look(built) == ["2026-03-11"]
    assert [str(row["date"]) for row in built.dicts(CAPACITY_INPUTS)] == ["2026-03-10"]
    assert Capacity(built.pipeline.settings).faults(built.con) == {}


def test_a_day_says_what_is_declared_of_its_tenant(built: Line) -> None:
    config = built.pipeline.settings.config
    kept = {"classes": {name: {"days": "none"} for name in ("raw", "aggregates", "operations")}}
    kept["classes"]["events"] = {"days": 400}  # type: ignore[dict-item]
    (config / "retention.yaml").write_text(yaml.safe_dump({**kept, "tenants": {"acme": {"events": {"days": 90}}}}))
    slos = (config / "slos.yaml").read_text()
    (config / "slos.yaml").write_text(slos.replace("tenants: {}}", "tenants: {globex: premium}}"))
    assert Capacity(built.pipeline.settings).declared() == {
        "acme": Declared("standard", 90), "globex": Declared("premium", 400)
    }  # fmt: skip


def test_keys_that_are_not_listed_count_once_and_a_day_without_sessions_has_no_events_a_session() -> None:
    of = Relations(
        "select 'a' as tenant_id, date '2026-03-10' as date, 6 as events",
        "from (values ('a', date '2026-03-10', 'x', 4, 1, false), ('a', date '2026-03-10', 'x', 2, 1, false), "
        "('a', date '2026-03-10', '(other)', 9, 7, true), ('a', date '2026-03-10', '(other)', 3, 3, true)) "
        "as t (tenant_id, date, property, events, keys, quarantined)",
        "select 'a' as tenant_id, null::date as date, 0 as events, '' as person_id where false",
        "select 'a' as tenant_id, '' as person_id, null::timestamp as first_seen_at where false",
        "select date '2026-03-10' as date, 3 as events_version",
    )
    with duckdb.connect() as con:
        (row,) = con.execute(inputs(of, {"a": Declared("standard", None)})).fetchall()
    told = dict(zip(CAPACITY_INPUTS.column_names, row, strict=True))
    assert (told["properties"], told["properties_per_event"]) == (8, 3.0)
    assert (told["sessions"], told["events_per_session"], told["people"]) == (0, None, 0)
