"""Only labelled columns and keys are published; what waits is hidden and found; page and lineage are those of the code."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from analytics_assets.cli import cli
from analytics_assets.events.schema import EVENTS
from analytics_assets.settings import ConfigError
from analytics_assets.warehouse import publish as publishing
from analytics_assets.warehouse.publish import PublishRefused, current_version
from analytics_assets_tests.builders import Line, a_config, an_event, rows_of
from analytics_assets_tests.conftest import made_once

SHOWN = "select message_id, properties, context from events order by message_id"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one published version: an event with labelled keys, and one with keys that wait."""

    def make(folder: Path) -> None:
        with Line.at(folder / "home", a_config(folder / "config")) as line:
            line.load(
                [
                    an_event("labelled", properties={"price": 3}, context={"ip": "::1"}),
                    an_event("waiting", properties={"price": None, "mood": {"a": 1}}, context={"ip": "::1", "odd": 1}),
                ]
            )
            line.rebuild()
            line.publish()

    return made_once(tmp_path_factory, "labelling", make)


@pytest.fixture
def line(built: Path, tmp_path: Path) -> Iterator[Line]:
    shutil.copytree(built, tmp_path / "copy")
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def _declare(line: Line, change: Any) -> None:
    """Change the content of taxonomy.yaml."""
    path = line.pipeline.settings.config / "taxonomy.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("rows", [200_000, 0], ids=["table", "view"])
def test_readers_do_not_see_keys_that_wait(line: Line, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(publishing, "INLINE_ROWS", rows)
    _declare(line, lambda content: content["defaults"].update(owner="somebody else"))
    assert rows_of(line.publish().path, SHOWN) == [
        ("labelled", '{"price":3}', '{"ip":"::1"}'),
        ("waiting", '{"price":null}', '{"ip":"::1"}'),
    ]
    # The raw events keep all.
    assert {key for (text,) in line.rows(EVENTS, columns="properties") for key in json.loads(text)} == {"price", "mood"}


def test_a_label_shows_the_key_with_the_next_publish(line: Line) -> None:
    assert not line.publish().changed
    _declare(line, lambda content: content["keys"]["properties"]["canonical"].update(mood="behavioural"))
    labelled = line.publish()
    assert labelled.changed
    assert rows_of(labelled.path, SHOWN)[1][1] == '{"price":null,"mood":{"a":1}}'


def test_the_published_table_of_labels_names_every_field(line: Line) -> None:
    path = line.publish().path
    unnamed = """
        select table_name, column_name from duckdb_columns() where not internal
        except select "table", field from field_taxonomy where label is not null
    """
    assert rows_of(path, unnamed) == []
    # Those of the warehouse that readers do not get, too.
    tables = {table for (table,) in rows_of(path, 'select distinct "table" from field_taxonomy')}
    assert tables >= {spec.name for spec in line.pipeline.specs}
    waits = """select "table", field, label, handling from field_taxonomy where label is null"""
    assert rows_of(path, waits) == [("events", "properties.mood", None, "hidden")]
    one = """select field, label, handling, inherited_from from field_taxonomy where "table" = 'users' and field = 'user_id'"""
    assert rows_of(path, one) == [("user_id", "identifier", "masked", "sessions.user_id")]


@pytest.mark.parametrize(
    ("table", "column", "named"),
    [
        ("events", "region", "events.region, sessions.region, events_daily.region: no label, "),
        ("batches", "file", "batches.file: no label, and only labelled columns are published; label it in taxonomy.yaml"),
        ("freshness_status", "state", "freshness_status.state: no label, "),
    ],
)
def test_a_column_without_a_label_is_not_published(line: Line, table: str, column: str, named: str) -> None:
    before = line.publish()
    _declare(line, lambda content: content["tables"][table]["columns"].pop(column))
    with pytest.raises(PublishRefused) as caught:
        line.publish()
    assert str(caught.value).startswith(named)
    assert current_version(line.pipeline.home) == before.version


def test_a_computed_column_of_unknown_origin_is_not_published(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    from analytics_assets import labelling

    known = labelling.read_lineage()
    without = {column: found for column, found in known["sessions"].items() if column != "duration_seconds"}
    monkeypatch.setattr(labelling, "read_lineage", lambda: {**known, "sessions": without})
    with pytest.raises(PublishRefused, match=r"^sessions\.duration_seconds: no label, .*; run `analytics privacy document`"):
        line.publish()


def test_a_broken_taxonomy_stops_the_publish_and_loses_nothing(line: Line) -> None:
    before = line.publish()
    path = line.pipeline.settings.config / "taxonomy.yaml"
    whole = path.read_text()
    for broken in ("tables: [", whole.replace("label: identifier", "label: harmless", 1)):
        path.write_text(broken)
        with pytest.raises(ConfigError, match=r"^taxonomy\.yaml:\d+: "):
            line.publish()
    path.unlink()
    with pytest.raises(ConfigError, match=r"^taxonomy\.yaml:1: cannot be read .* restore the file"):
        line.publish()
    assert current_version(line.pipeline.home) == before.version
    path.write_text(whole)
    assert not line.publish().changed


def _analytics(line: Line, *arguments: str) -> tuple[int, str]:
    environment = {"ANALYTICS_HOME": str(line.home), "ANALYTICS_CONFIG": str(line.pipeline.settings.config)}
    done = CliRunner().invoke(cli, arguments, env=environment, standalone_mode=False, catch_exceptions=False)
    return done.return_value, done.output


def test_the_command_lists_keys_that_wait(line: Line) -> None:
    code, answer = _analytics(line, "privacy", "waiting", "--json")
    assert code == 0 and json.loads(answer) == [
        {"tenant": "acme", "event": "Product Ordered", "key": "mood", "events": 1, "first": "2026-03-10"}
    ]
    _declare(line, lambda content: content["keys"]["properties"]["canonical"].update(mood="behavioural"))
    assert _analytics(line, "privacy", "waiting") == (0, "no key waits for a label\n")


def test_page_and_lineage_are_those_of_the_declarations_and_the_code() -> None:
    """Of a change of either, `analytics privacy document` brings them up to date."""
    done = CliRunner().invoke(cli, ["privacy", "document", "--check"], standalone_mode=False, catch_exceptions=False)
    assert done.return_value == 0, done.output


def test_drift_is_said_and_nothing_is_written(line: Line) -> None:
    _declare(line, lambda content: content["tables"]["events"].update(owner="somebody else"))
    code, answer = _analytics(line, "privacy", "document", "--check")
    assert code == 1 and "docs/taxonomy.md is out of date; run `analytics privacy document`" in answer
    assert "analytics_assets/privacy/lineage.yaml is as it should be" in answer
