"""Personal data in a field that should name nobody: published all the same, but told of, hidden, and never shown."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from analytics_assets.alerts.problems import problems
from analytics_assets.cli import cli
from analytics_assets.events.schema import EVENTS
from analytics_assets.labelling import search_days
from analytics_assets.privacy.alarm import PERSONAL_DATA
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.warehouse.table import replace_all
from analytics_assets_tests.builders import DAY, Line, a_config, an_event, at, rows_of
from analytics_assets_tests.conftest import made_once

ADDRESS, NUMBER = "anna.schmidt@example.com", "+49 30 23125 042"
SHOWN = "select tenant_id, json_extract_string(properties, 'search') from events where event = 'Searched' order by all"


def searched(message_id: str, text: str, **changes: Any) -> dict[str, Any]:
    return an_event(message_id, **{"event": "Searched", "properties": {"search": text, "price": 3}, **changes})


@pytest.fixture(scope="session")
def leaked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published home in which two people of acme typed what names them into the search; those of globex did not."""

    def make(folder: Path) -> None:
        with Line.at(folder / "home", a_config(folder / "config")) as line:
            line.load(
                [
                    searched("m1", f"refund for {ADDRESS}"),
                    searched("m2", f"{ADDRESS} or {NUMBER}", timestamp=at(5)),
                    searched("m3", "red cups", timestamp=at(6)),
                    searched("m4", "red cups", tenant_id="globex"),
                    # Where a label says that a person is named, nothing is to be told.
                    an_event("m5", type="identify", properties={"previousId": ADDRESS}, user_id=ADDRESS),
                ]
            )
            line.rebuild()
            line.publish()

    return made_once(tmp_path_factory, "leaked", make)


@pytest.fixture
def line(leaked: Path, tmp_path: Path) -> Iterator[Line]:
    shutil.copytree(leaked, tmp_path / "copy")
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def published(line: Line) -> Path:
    return line.home / "published" / "analytics.duckdb"


def alarms(line: Line) -> list[str]:
    return [one.key for one in problems(line.pipeline.situation(line.con, line.now)) if one.rule == "personal_data_found"]


def test_each_field_and_kind_is_an_alert_of_its_own_that_names_no_value(line: Line) -> None:
    found = [one for one in problems(line.pipeline.situation(line.con, line.now)) if one.rule == "personal_data_found"]
    assert [(one.about, one.tenant, one.severity) for one in found] == [
        ("acme/canonical/properties.search/email", "acme", "warn"),
        ("acme/canonical/properties.search/phone", "acme", "warn"),
    ]
    what = "2 events have an e-mail address in properties.search, whose label says that it names nobody"
    assert found[0].what == what and found[0].since.date() == DAY
    assert "anna" not in repr(found) and "23125" not in repr(found)


def test_the_verdict_warns_and_names_field_kind_and_count(line: Line) -> None:
    failed = [row for row in line.dicts(QUALITY_RESULTS) if row["success"] == "fail"]
    assert [(row["tenant"], row["expectation"], row["severity"], row["observed"]) for row in failed] == [
        ("acme", "events_hold_no_personal_data_elsewhere", "warn", 2.0)
    ]
    assert json.loads(failed[0]["samples"]) == [
        {"field": "properties.search", "kind": "email", "events": 2},
        {"field": "properties.search", "kind": "phone", "events": 1},
    ]


def test_readers_do_not_see_the_key_of_that_tenant_and_all_else_as_before(line: Line) -> None:
    assert rows_of(published(line), SHOWN) == [("acme", None)] * 3 + [("globex", "red cups")]
    assert rows_of(published(line), "select count(*) from events where json_extract(properties, 'price') = '3'") == [(4,)]


def test_no_value_is_written_beside_the_events(line: Line) -> None:
    told = [*line.rows(QUALITY_RESULTS), *line.rows(PERSONAL_DATA)]
    assert len(line.rows(PERSONAL_DATA)) == 2 and not any("anna" in repr(row) or "23125" in repr(row) for row in told)


def declare(line: Line, change: Callable[[dict[str, Any]], None]) -> None:
    path = line.pipeline.settings.config / "taxonomy.yaml"
    content = yaml.safe_load(path.read_text())
    change(content["keys"]["properties"]["canonical"])
    path.write_text(yaml.safe_dump(content))


def test_what_is_labelled_as_what_it_is_is_shown_and_told_of_no_more(line: Line) -> None:
    declare(line, lambda keys: keys["search"].update(label="identifier"))
    assert alarms(line) == []
    line.publish()
    assert rows_of(published(line), SHOWN)[0][0] == "acme" and None not in [text for _, text in rows_of(published(line), SHOWN)]


def test_what_a_person_excuses_with_a_reason_is_told_of_no_more_and_other_kinds_are(line: Line) -> None:
    declare(line, lambda keys: keys["search"].update(no_alarm={"phone": "our part numbers look like it"}))
    assert alarms(line) == ["personal_data_found/acme/canonical/properties.search/email"]


def test_an_alert_lasts_while_its_events_do_and_a_lost_note_is_found_again(line: Line) -> None:
    line.load([searched("m9", "red cups", timestamp=at(9))])
    line.rebuild()
    line.publish()
    assert len(alarms(line)) == 2
    replace_all(line.pipeline.table(PERSONAL_DATA), line.con, PERSONAL_DATA.empty_select)
    line.pipeline.judge(line.con, line.now, days=[DAY])
    assert len(alarms(line)) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"page_url": "https://acme.test/?mail=anna%40example.com"}, "page_url"),
        ({"campaign": ADDRESS}, "campaign"),
        ({"properties": {"products": [{"name": "cup"}, {"phone": "2025550147"}]}}, "properties.products"),
        ({"properties": {"price": 4242424242424242}}, "properties.price"),
        ({"context": {"page": {"path": f"/u/{ADDRESS}"}}}, "context.page"),
        ({"context": {"location": {"city": ADDRESS}}}, "context.location.city"),
    ],
)
def test_columns_and_keys_are_looked_at_wherever_a_label_says_that_nobody_is_named(
    line: Line, changes: dict[str, Any], field: str
) -> None:
    assert line.load([an_event("new", tenant_id="globex", **changes)]).events == 1
    version = line.pipeline.table(EVENTS).snapshot().version
    search_days(line.con, line.pipeline.settings, line.pipeline.specs, line.pipeline.table, [DAY], version)
    assert [row[3] for row in line.rows(PERSONAL_DATA) if row[0] == "globex"] == [field]


def test_the_command_lists_what_was_found(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(line.home))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(line.pipeline.settings.config))
    done = CliRunner().invoke(cli, ["privacy", "found", "--json"])
    assert [(one["field"], one["kind"], one["events"]) for one in json.loads(done.output)] == [
        ("properties.search", "email", 2), ("properties.search", "phone", 1)
    ]  # fmt: skip
