"""`analytics erase` as people and scripts call it: whom it takes, what it answers, and its exit codes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_assets.commands.common import DONE, FAILED, USAGE
from analytics_assets.commands.erase import _probed
from analytics_assets.erasure.probe import probe
from analytics_assets.privacy.ledger import Person
from analytics_assets_tests.builders import Line, a_config, write_events
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.test_cli import analytics
from analytics_assets_tests.test_erasure import ANNA, CANARIES, copied, make_shop, messages, of_anna, receipt, stored_as


def point_to(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("ANALYTICS_HOME", str(folder / "home"))
    patch.setenv("ANALYTICS_CONFIG", str(folder / "config"))
    # Opening Dagster's instance sets it.
    patch.setenv("DAGSTER_HOME", str(folder / "home" / "dagster"))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data home with the tenants acme and globex, keys of its own, and nothing loaded."""
    a_config(tmp_path / "config")
    point_to(tmp_path, monkeypatch)
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "keys"))
    return tmp_path / "home"


@pytest.fixture
def line(
    keys: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Line]:
    """The shop in which Anna stands everywhere."""
    shop = made_once(tmp_path_factory, "erasure-shop", lambda folder: make_shop(folder, pseudonyms=True))
    with copied(shop, keys, tmp_path / "shop") as line:
        point_to(tmp_path / "shop", monkeypatch)
        yield line


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"tenant,user\nacme,x1\nacme\n", "people.csv:3: name a tenant and one user, or one device"),
        (b"tenant,user,device\nacme,x1,y1\n", "people.csv:2: name a tenant and one user, or one device"),
        (b"tenant,user\nacme,x1\nnowhere,x2\n", "people.csv:3: tenant 'nowhere' is not declared"),
        (b"tenant;user\nacme;x1\n", "people.csv:1: the first line must name the columns"),
        (b"tenant,user,user\nacme,x1,x2\n", "people.csv:1: the first line must name the columns"),
        (b"", "people.csv:1: the first line must name the columns"),
        ("tenant,user\nacme,zo\u00eb\n".encode("latin-1"), "people.csv is not UTF-8"),
        (b"tenant,user\n", "nobody is named and nothing waits"),
    ],
)
def test_of_a_file_that_is_wrong_nobody_is_asked_for(empty: Path, tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    answer = analytics("erase", "--file", path)
    assert (answer.code, answer.error.startswith(fault)) == (FAILED, True), answer.error
    with Line.at(empty) as line:
        assert line.pipeline.erasures.ledger.requests() == []


@pytest.mark.parametrize("given", [("--user", "x1"), ("--tenant", "acme"), ("--tenant", "acme", "--user", "")])
def test_half_a_name_is_wrong_usage(empty: Path, given: tuple[str, ...]) -> None:
    assert analytics("erase", *given).code == USAGE


def test_what_the_probe_cannot_look_for_and_what_it_finds_is_said(empty: Path) -> None:
    short = analytics("erase", "--tenant", "acme", "--user", "u1", "--probe")
    assert short.code == DONE
    assert short.out.splitlines()[0] == "nothing was found of this person"
    assert short.out.splitlines()[2:] == [
        "the probe had nobody to look for", "1 name too short to mean nobody else was not looked for",
    ]  # fmt: skip
    # A file that waits is cleaned when it is loaded.
    write_events(empty / "landing" / "acme" / "waits.ndjson", [of_anna("a1")])
    found = analytics("erase", "--tenant", "acme", "--user", ANNA, "--probe", "--json")
    assert (found.code, [trace["file"] for trace in found.json["traces"]]) == (FAILED, ["landing/acme/waits.ndjson"])


def test_the_probe_finds_people_by_what_stands_for_them_too(line: Line) -> None:
    found = {trace.text for trace in _probed(line.pipeline, [Person("acme", "user", ANNA)]).traces}
    assert found == {ANNA, *stored_as(line, ANNA)}


def test_many_of_a_file_that_are_only_asked_for_are_done_by_the_next_publish(line: Line, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"tenant,user,device\nacme,{ANNA},\nacme,nobody-at-all,\nglobex,,bens-device\n")
    later = analytics("erase", "--file", path, "--later", "--json")
    assert (later.code, later.json["done"]) == (DONE, False)
    (request,) = later.json["requests"]
    assert "a1" in messages(line)
    assert analytics("publish").code == DONE
    assert (messages(line), messages(line, "globex")) == (["b1", "b2", "b3", "b4", "b5"], [])
    said = receipt(line, request)
    assert (said["people"], said["found"], len(said["unknown"])) == (3, 2, 1)
    assert probe(line.home, CANARIES) == []
