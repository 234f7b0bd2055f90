"""Every rule that alerts has a runbook, and what a runbook says can be followed: its links, commands and tables exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from analytics_assets.alerts.declared import load_alert_rules
from analytics_assets.alerts.problems import RULES
from analytics_assets.cli import cli
from analytics_assets.defs.queues import OVERRIDE_TAG
from analytics_assets.freshness.tables import FRESHNESS_STATUS
from analytics_assets.settings import CONFIG, PROJECT
from analytics_assets.shown import published
from analytics_assets.slo.tables import RELEASE_GATE, SLO_DEFINITIONS, SLO_ERROR_BUDGET, SLO_MEASUREMENTS
from analytics_assets.warehouse.publish import PUBLISHED_TABLES

FOLDER = PROJECT / "docs" / "runbooks"
PAGES = sorted(FOLDER.glob("*.md"))
FACTS = (PUBLISHED_TABLES, FRESHNESS_STATUS, SLO_DEFINITIONS, SLO_MEASUREMENTS, SLO_ERROR_BUDGET, RELEASE_GATE)


def test_every_rule_has_a_runbook_and_every_runbook_a_rule() -> None:
    assert load_alert_rules(CONFIG / "alerts.yaml").runbooks == "docs/runbooks"
    assert {page.stem for page in PAGES} == {*RULES, "README"}
    listed = re.findall(r"\((\w+)\.md\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == sorted(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_runbook_says_what_it_means_how_to_look_how_to_mend_and_whom_to_call(rule: str) -> None:
    text = (FOLDER / f"{rule}.md").read_text()
    assert text.startswith(f"# {rule}\n")
    assert [word in text for word in ("**Means.**", "**Look.**", "**Mend", "**Escalate**")] == [True] * 4
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def commands(page: Path) -> Iterator[list[str]]:
    for quoted in re.findall(r"`([^`]+)`", page.read_text()):
        if quoted.startswith("analytics "):
            yield shlex.split(quoted)[1:]


def parsed(words: list[str]) -> None:
    """The command with its words, as click reads them, without running it. Raises click's own error."""
    command: click.Command = cli
    context = None
    # A group takes its own options, then the name of a command.
    while isinstance(command, click.Group) and (words or not command.invoke_without_command):
        context = click.Context(command, parent=context, allow_extra_args=True, allow_interspersed_args=False)
        _, rest, _ = command.make_parser(context).parse_args(list(words))
        _, found, words = command.resolve_command(context, rest)
        assert found is not None
        command = found
    command.make_context(command.name, list(words), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist_and_take_what_they_are_given(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        parsed(words)


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for words in (["repair"], ["gate", "thaw"], ["gate", "release", "--why", "x"], ["publish", "--now"]):
        with pytest.raises(click.UsageError):
            parsed(words)


@pytest.mark.parametrize("page", [page for page in PAGES if "`maintain`" in page.read_text()], ids=lambda page: page.stem)
def test_who_is_sent_to_maintenance_is_told_how_it_starts_before_the_night(page: Path) -> None:
    assert f"`{OVERRIDE_TAG}`" in page.read_text()
    assert ["queue", "release"] in [words[:2] for words in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_queries_ask_tables_and_columns_that_are_published(page: Path) -> None:
    specs = {spec.name: spec for spec in (*published(), *FACTS)}
    for words in commands(page):
        if words[0] == "sql":
            (table,) = re.findall(r"from (\w+)", words[1])
            named = re.sub(r"'[^']*'", "", words[1].removeprefix("select "))
            unknown = set(re.findall(r"[a-z_]+", named)) - set(specs[table].column_names)
            assert unknown <= {"from", "where", "order", "by", "group", "and", "desc", "sum", table}, words[1]
