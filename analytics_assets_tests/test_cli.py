"""The `analytics` command on a small data home, as people and scripts call it: answers, exit codes, one-line errors."""

import io
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from analytics_assets.cli import causes, explain, main
from analytics_assets.commands.common import DONE, FAILED, REFUSED, SET_ASIDE, USAGE
from analytics_assets.defs.maintenance import audit_log_is_whole
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.labelling import FACTS, derived_tables, load_labels
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.taxonomy import LABELS
from analytics_assets.settings import PROJECT, Settings, UserError
from analytics_assets.telemetry.tables import PERFORMANCE_METRICS, QUERY_LOG, RELIABILITY_METRICS
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import version_path
from analytics_assets_tests.builders import Line
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home, declare

PARTNER = """
  partner:
    purpose: what a partner may see of a shop
    tenants: all
    tables: [events]
    labels: [operational, behavioural]
    people: true
    file: true
"""
# A word in each of these fields, of an event and of a record that is rejected; nobody else has it.
WORDS = {
    name: f"word-in-{name.rpartition('.')[2].replace('_', '-')}" for name in (
        "events.order_id", "events.page_url", "events.page_title", "events.campaign", "events.context.ip",
        "events.context.traits.email", "events.context.location.region",
    )
}  # fmt: skip
TELLING: dict[str, Any] = {
    "properties": {"revenue": 10, "order_id": WORDS["events.order_id"]},
    "context": {
        "ip": WORDS["events.context.ip"], "campaign": {"name": WORDS["events.campaign"]},
        "page": {"url": WORDS["events.page_url"], "title": WORDS["events.page_title"]},
        "location": {"region": WORDS["events.context.location.region"]},
        "traits": {"email": WORDS["events.context.traits.email"]},
    },
}  # fmt: skip
NO_FILES: dict[str, list[str]] = {"written": [], "removed": []}


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error, which must be one line on standard error and nothing else."""
        lines = [line for line in self.err.splitlines() if line.startswith("analytics: ")]
        assert self.out == ""
        assert len(lines) == 1 and self.err.endswith(lines[0] + "\n")
        assert "Traceback" not in self.err
        return lines[0].removeprefix("analytics: ")


def analytics(*arguments: object) -> Answer:
    """The command within this process."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return Answer(left.value.code, out.getvalue(), err.getvalue())


def looked(query: object, *options: object) -> Answer:
    """A query on everything that is published, persons included."""
    return analytics("sql", query, "--unmasked", "--reason", "for a test", *options)


@dataclass
class Shop:
    """A data home with one file ingested by the command, and what the command answered."""

    home: DataHome
    file: Path
    first: Answer
    # The version that `newer` made.
    views: int = 0

    @property
    def version(self) -> int:
        return analytics("status", "--json").json["version"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Tests share this home; one that publishes compares with the version it found."""
    with a_data_home(tmp_path_factory.mktemp("cli")) as home:
        calls = [a_call("m1"), a_call("m2", day="2025-03-11", **TELLING), a_call("m1"), a_call("m3", type="dance", **TELLING)]
        file = home.file("calls.ndjson", calls)
        yield Shop(home, file, analytics("ingest", file, "--source", "segment", "--tenant", "acme"))


@pytest.fixture
def newer(shop: Shop) -> int:
    """A later version of the shop, which has event m10 and holds all tables as views; made anew when others pushed it out."""
    if not shop.views or not version_path(Home(shop.home.root), shop.views).exists():
        name = "m10" if not shop.views else f"m10-{shop.views}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("analytics_assets.warehouse.publish.INLINE_ROWS", 0)
            analytics("ingest", shop.home.file(f"{name}.ndjson", [a_call(name)]), "--source", "segment", "--tenant", "acme")
        shop.views = shop.version
    return shop.views


@pytest.fixture
def empty_home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        yield home


# ingest


def test_ingest_shows_what_became_of_the_file_and_publishes(shop: Shop) -> None:
    assert shop.first.code == DONE
    (line,) = [line for line in shop.first.out.splitlines() if line.startswith("calls.ndjson ")]
    assert line.split() == ["calls.ndjson", "segment", "acme", "4", "1", "1", "2"]
    assert "calls.ndjson: rejected: 1 unknown_type" in shop.first.out
    assert "rebuilding 2025-03-10 to 2025-03-11" in shop.first.err
    rows = looked("select date, revenue from revenue_daily order by 1", "--json").json
    assert rows == [{"date": "2025-03-10", "revenue": "10.0000"}, {"date": "2025-03-11", "revenue": "10.0000"}]


def test_the_same_file_again_changes_nothing_and_says_so(shop: Shop) -> None:
    before = shop.version
    again = analytics("ingest", shop.file, "--source", "segment", "--tenant", "acme", "--json")
    assert again.code == DONE
    (batch,) = again.json["batches"]
    assert batch["known_before"] is True
    assert [batch[name] for name in ("received", "rejected", "duplicates", "events")] == [4, 1, 3, 0]
    assert shop.version == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--source", "nothing", "--tenant", "acme"), "there is no source 'nothing'; declared are canonical, "),
        (("--source", "segment", "--tenant", "nobody"), "tenant 'nobody' is not declared; add it to "),
    ],
)
def test_an_unknown_source_or_tenant_is_one_line(shop: Shop, arguments: tuple[str, ...], error: str) -> None:
    answer = analytics("ingest", shop.home.file("more.ndjson", [a_call("m5")]), *arguments)
    assert answer.code == FAILED
    assert answer.error.startswith(error)


def test_a_folder_without_a_file_is_wrong_usage_and_says_what_is_there(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "2025").mkdir()
    answer = analytics("ingest", tmp_path, "--source", "segment", "--tenant", "acme")
    assert (answer.code, answer.out) == (USAGE, "")
    assert f"Error: there is no file in {tmp_path}, only 2025/\n" in answer.err


@pytest.mark.parametrize(
    "arguments", [("ingest", "/there/is/nothing", "--source", "segment"), ("ingest", PROJECT), ("sql",), ("unheard-of",)]
)
def test_wrong_usage_has_its_own_code(shop: Shop, arguments: tuple[object, ...]) -> None:
    answer = analytics(*arguments)
    assert (answer.code, answer.out) == (USAGE, "")
    assert "Error: " in answer.err and "Traceback" not in answer.err


# Looking


def test_status_tells_people_and_scripts_the_same(shop: Shop) -> None:
    shown, state = analytics("status").out, analytics("status", "--json").json
    assert f"version {state['version']} published" in shown
    assert "nothing waits" in shown
    assert (state["days_waiting"], state["files_waiting"], state["held"]) == (0, 0, None)
    assert [tenant["tenant"] for tenant in state["tenants"]] == ["acme"]
    rows = {line["table"]: line["rows"] for line in state["tables"]}
    assert rows["events"] == state["tenants"][0]["events"]
    assert state["rejected"]["unknown_type"] == rows["rejected_events"]


def test_status_says_what_is_promised_and_how_it_stands(shop: Shop) -> None:
    shown, told = analytics("status").out, analytics("status", "--json").json["freshness"]
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "immediate 1 min served by the collector, which is not here yet" in lines
    states = ", ".join(f"{count} {state}" for state, count in told["tiers"][1]["states"].items())
    assert f"near_real_time 5 min starts at once {states}" in lines
    assert [(tier["tier"], tier["promised_minutes"]) for tier in told["tiers"]] == [
        ("immediate", 1), ("near_real_time", 5), ("hourly", 60), ("daily", 1560)
    ]  # fmt: skip
    # Quiet where the file was loaded more than five minutes ago.
    assert {row["state"] for row in told["tables"] if row["tenant_id"] == "acme"} <= {"fresh", "quiet"}
    assert {row["state"] for row in told["tables"] if row["tenant_id"] == "globex"} == {"empty"}
    assert {row["age_minutes"] for row in told["tables"]} == {0}


def test_status_names_what_is_late(shop: Shop) -> None:
    file = shop.home.land("b.ndjson", [a_call("b")])
    os.utime(file, (1_700_000_000, 1_700_000_000))
    (line, *_) = [line for line in analytics("status").out.splitlines() if line.startswith("late: acme (near_real_time): ")]
    (tenant,) = analytics("status", "--json").json["tenants"]
    # all that was received before the file; what the newest event is about is another thing
    assert tenant["data_through"] == "2023-11-14 22:13:20"
    assert tenant["newest_event"] != tenant["data_through"]
    assert re.search(r"promised 5 min; events, rejected_events, batches and \d+ more$", line)
    assert line.startswith("late: acme (near_real_time): a delivery waits since 2023-11-14 22:13 UTC: ")
    file.unlink()


def test_status_says_what_is_broken_why_it_probably_is_and_what_is_left(shop: Shop) -> None:
    before = analytics("status", "--json").json
    # how fast the published file answers is the machine's
    late = {"slo_ingestion_lag", "slo_freshness", "table_late"}
    assert late & {problem["rule"] for problem in before["broken"]} == set()
    assert (before["doing"], before["release_gate"]) == ([], {"state": "open"})
    assert [card["which_version"] for card in before["support_card"]] == [
        f"version {shop.version}; no model takes part in its numbers"
    ] * 2
    file = shop.home.land("b.ndjson", [a_call("b")])
    os.utime(file, (1_700_000_000, 1_700_000_000))
    shown, state = analytics("status").out, analytics("status", "--json").json
    file.unlink()
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "The analytics of our customer are delayed. We are looking into it." in lines
    assert "freshness standard 0% 40,320 of 403 min acme 1 freeze" in lines
    assert late <= {problem["rule"] for problem in state["broken"]}
    (line,) = [line for line in lines if line.startswith("warn: table_late: acme: ")]
    assert " tables are late: a delivery waits since 2023-11-14 22:13 UTC: " in line
    assert line.endswith("probably: a file waits to be loaded, and no load failed: `analytics dev` may be down")
    # one screen
    assert len(lines) < 45


def test_customers_are_told_a_sentence(shop: Shop) -> None:
    assert analytics("status", "--sentence").out == "The analytics of our customer are up to date.\n"
    assert analytics("status", "--sentence", "--tenant", "globex").out == "We have not received any events from you yet.\n"
    told = analytics("status", "--sentence", "--tenant", "acme", "--json").json
    assert told["tenant"] == "acme" and told["sentence"].startswith("Your analytics are ")
    assert analytics("status", "--sentence", "--tenant", "x").error == "tenant 'x' is not declared; see tenants.yaml"
    assert analytics("status", "--tenant", "acme").code == USAGE


def test_the_release_gate_is_turned_by_hand_with_a_reason(empty_home: DataHome) -> None:
    assert analytics("gate").out == "releases are open; the gate was never frozen\n"
    assert analytics("gate", "freeze").code == analytics("gate", "freeze", "--reason", " ").code == USAGE
    frozen = analytics("gate", "freeze", "--reason", "the auditors are here", "--by", "ada").out
    assert re.fullmatch(
        r"releases are frozen since .* UTC \(ada: the auditors are here\); `analytics gate release` opens them\n", frozen
    )
    assert analytics("gate", "freeze", "--reason", "again").error == "the release gate is frozen already; nothing was changed"
    assert "warn: releases_frozen: " in analytics("status").out
    analytics("gate", "release", "--reason", "they left", "--by", "bob")
    told = analytics("gate", "--json").json
    assert (told["state"], [(change["state"], change["by"], change["reason"]) for change in told["changes"]]) == (
        "open", [("frozen", "ada", "the auditors are here"), ("open", "bob", "they left")]
    )  # fmt: skip


def test_status_names_what_waits_and_what_cannot_be_taken(shop: Shop) -> None:
    file = shop.home.land("a.ndjson", [a_call()], tenant="nobody")
    assert "not taken: landing/nobody/a.ndjson: tenant 'nobody' is not declared in tenants.yaml" in analytics("status").out
    file.unlink()


def test_an_empty_home_says_what_to_do(empty_home: DataHome) -> None:
    assert analytics("status").out.startswith("nothing is published in ")
    assert analytics("status", "--json").json["version"] is None
    assert analytics("rejected", "list").out == "no rejected records\n"
    assert analytics("rejected", "replay").out == "no rejected records match\n"
    for command in (("versions",), ("rollback",), ("sql", "select 1")):
        answer = analytics(*command)
        assert answer.code == FAILED
        assert answer.error.startswith("nothing is published yet; run `analytics demo`")
    assert analytics("publish").error.startswith("there is nothing to publish yet; run `analytics demo`")


# sql


def test_sql_shows_a_table_and_counts_on_standard_error(shop: Shop) -> None:
    answer = looked("select 'a [b] c' as text, [1, 2] as list, null as nothing")
    assert (answer.code, answer.err) == (DONE, "1 row\n")
    assert "a [b] c" in answer.out and "[1, 2]" in answer.out


def test_sql_shows_what_a_terminal_would_obey_as_text(shop: Shop) -> None:
    shown = looked("select chr(27) || '[2J' as \"a\u009bb\", 'two' || chr(10) || 'lines' as t").out
    assert shown.splitlines()[0].split() == ["a\\x9bb", "t"]
    assert shown.splitlines()[2].split() == ["\\x1b[2J", "two\\nlines"]
    assert looked("select error('\x1b[2J')").error == "Invalid Input Error: \\x1b[2J"


def test_sql_in_json_loses_no_column_and_no_digit(shop: Shop) -> None:
    numbers = "['nan'::double, 1.5] as rates, 'inf'::float as most, {'a': 'nan'::float} as nested"
    (row,) = looked(f"select 1 as n, 2 as n, 0.1::decimal(18, 4) as money, {numbers}", "--json").json
    assert row == {"n": 1, "n_2": 2, "money": "0.1000", "rates": [None, 1.5], "most": None, "nested": {"a": None}}


@pytest.mark.parametrize(
    "query",
    [
        "pivot events_daily on event using sum(events) group by date",
        "with p as (pivot events_daily on event using sum(events) group by date) from p",
        "describe events",
        "summarize users",
        "show tables",
        "unpivot (select 1 as a, 2 as b) on a, b",
    ],
)
def test_sql_runs_whatever_only_reads(shop: Shop, query: str) -> None:
    answer = looked(query, "--json")
    assert answer.code == DONE and answer.json


def test_sql_reads_no_file_of_the_home_but_those_of_the_published_tables(shop: Shop, newer: int) -> None:
    def sql(query: str, *options: str) -> Answer:
        return looked(query, "--version", newer, *options)

    assert sql("select count(*) as n from events where message_id = 'm10'", "--json").json == [{"n": 1}]
    warehouse = shop.home.root / "warehouse"
    log = next((warehouse / "events" / "_delta_log").glob("*.json"))
    for files in (f"read_text('{log}')", f"glob('{warehouse}/**')", f"read_parquet('{warehouse}/events/*.parquet')"):
        assert sql(f"from {files}").error.startswith("this command reads published tables alone")


@pytest.mark.parametrize(
    "query",
    [
        "from read_parquet('{file}')",
        "select count(*) from '{file}'",
        'with e as (from "{file}") from e',
        "summarize '{file}'",
        "from query('fr' || 'om read_parquet(' || chr(39) || '{folder}' || '/' || '{start}' || '{end}' || chr(39) || ')')",
        "from query_table('{folder}/' || '{start}' || '{end}')",
        "select (select max(event) from read_blob('{folder}/' || '{start}' || '{end}'))",
        "pivot '{file}' on event using count(*)",
        "pivot (from /* */ \"Read_Parquet\" ('{folder}/' || '{start}' || '{end}')) on event using count(*)",
    ],
)
def test_sql_shows_nothing_of_a_file_that_its_published_table_leaves_out(shop: Shop, newer: int, query: str) -> None:
    (view,) = looked("select sql from duckdb_views() where view_name = 'events'", "--version", newer, "--json").json
    file = Path(re.findall(r"'([^']*[.]parquet)'", view["sql"])[0])
    named = query.format(file=file, folder=file.parent, start=file.name[:9], end=file.name[9:])
    answer = looked(named, "--version", newer)
    assert (answer.code, answer.out) == (FAILED, "")
    assert answer.error.startswith("this command reads published tables alone, and the query names ")


def test_sql_reads_a_kept_version(shop: Shop) -> None:
    count = "select count(*) as n from events"
    assert looked(count, "--version", "1", "--json").json == [{"n": 2}]
    assert looked(count, "--version", "99").error == "version 99 is not kept; see `analytics versions`"


@pytest.mark.parametrize(
    "query",
    [
        "delete from events_daily",
        "create table mine as select 1",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/hostname')",
        "copy (select 1) to '/tmp/analytics-cli-test.csv'",
        "attach '/tmp/analytics-cli-test.duckdb' as other",
        "copy (pivot events_daily on event using sum(events)) to '/tmp/analytics-cli-test.csv'",
        "select 1; select 2",
        "set enable_external_access = true",
        "install httpfs",
        "select broken from nowhere",
        "this is no SQL",
    ],
)
def test_sql_neither_writes_nor_leaves_the_home(shop: Shop, query: str) -> None:
    answer = looked(query)
    assert answer.code == FAILED
    assert answer.error


def test_sql_cannot_write_into_the_home_either(shop: Shop) -> None:
    target = shop.home.root / "written.csv"
    answer = looked(f"copy (select 1) to '{target}'")
    assert not target.exists()
    assert answer.code == FAILED


# sql without persons


@pytest.mark.parametrize(
    "query",
    [
        "from events", "select count(*) from sessions where user_id = 'u1'", "from revenue_daily", "summarize users",
        "pivot events_daily on event using sum(events)", "with batches as (from events) from batches",
        "select b.file, (select max(user_id) from users) from batches b", "from consent_status", "from rejected_events",
        "from version_file.events", "from version_file.main.users",
    ],
)  # fmt: skip
def test_whoever_does_not_say_why_sees_no_row_of_persons_and_is_told_what_to_ask_instead(shop: Shop, query: str) -> None:
    answer = analytics("sql", query)
    assert answer.code == FAILED and " tells of persons; ask `analytics export` about groups of people, " in answer.error
    assert acts("--action", "query")[-1]["outcome"] == "denied"


@pytest.mark.parametrize("query", ["show all tables", "select table_name, column_name, comment from duckdb_columns()"])
def test_what_is_let_go_is_not_even_listed(shop: Shop, query: str) -> None:
    shown = analytics("sql", query, "--json").out
    assert "batches" in shown and not {"events_daily", "user_id"} & set(re.findall(r"\w+", shown))


def test_what_the_pipeline_notes_about_its_work_is_shown_without_what_may_tell_of_persons(shop: Shop) -> None:
    answer = analytics("sql", "from batches where file = 'calls.ndjson'", "--json")
    assert answer.code == DONE and answer.json[0]["file"] == "calls.ndjson" and "event_from" not in answer.json[0]
    assert answer.err == "left out, since it may tell of persons: batches.event_from, batches.event_to\n"
    named = analytics("sql", "select count(*) from batches where event_from < now()")
    assert named.error.startswith("batches.event_from may tell of persons; ask `analytics export` ")
    everything = looked("from batches", "--json")
    assert "event_from" in everything.json[0] and everything.err == ""


def test_who_sees_persons_says_why_and_both_are_on_record(shop: Shop) -> None:
    for half in (("--unmasked",), ("--reason", "for a test"), ("--unmasked", "--reason", " ")):
        assert analytics("sql", "from users", *half).code == USAGE
    assert looked("from users").code == DONE
    seen = acts("--action", "query")[-1]
    assert (seen["outcome"], seen["details"]["unmasked"]) == ("done", True)
    analytics("sql", "from batches")
    assert acts("--action", "query")[-1]["details"]["unmasked"] is False


def test_no_zone_but_one_without_limits_may_see_persons(shop: Shop) -> None:
    why = ("--unmasked", "--reason", "for a test")
    assert analytics("--as", "analyst", "sql", "from users", *why).error.startswith(
        "zone 'analyst' may not see rows of persons"
    )
    assert analytics("--as", "analyst", "sql", "from batches").code == DONE


# What is published when


def test_a_folder_is_loaded_file_by_file_an_unreadable_one_set_aside_and_nothing_published_unasked(shop: Shop) -> None:
    before = shop.version
    folder = shop.home.file("folder/b.ndjson", [a_call("m4", day="2025-03-12")]).parent
    shop.home.file("folder/a.ndjson", [a_call("m4", day="2025-03-12"), a_call("m1")])
    shop.home.file("folder/.hidden.ndjson", [a_call("m9")])
    shop.home.file("folder/inner/d.ndjson", [a_call("m9")])
    (folder / "c.parquet").write_bytes(b"PAR1 and nothing else")
    answer = analytics("ingest", folder, "--source", "segment", "--tenant", "acme", "--no-publish", "--json")
    assert answer.code == SET_ASIDE
    batches = [(batch["file"], batch["status"], batch["duplicates"], batch["events"]) for batch in answer.json["batches"]]
    assert batches == [("a.ndjson", "loaded", 1, 1), ("b.ndjson", "loaded", 1, 0), ("c.parquet", "set_aside", 0, 0)]
    (line,) = [line for line in answer.err.splitlines() if line.startswith("analytics: ")]
    assert line == f"analytics: c.parquet was set aside: {answer.json['batches'][2]['reason']}"
    assert "left out: .hidden.ndjson, inner/ (only the visible files directly in the folder are loaded)\n" in answer.err
    assert (folder / "c.parquet").exists()
    assert shop.version == before
    assert "waiting: 1 day to rebuild" in analytics("status").out


def test_a_failed_check_refuses_the_publish_after_what_was_loaded_is_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from analytics_assets import pipeline

    def build_that_fails(*arguments: Any, **options: Any) -> Any:
        result = build(*arguments, **options)
        first, *rest = result.tests
        return replace(result, tests=(replace(first, status="fail", failures=1), *rest))

    before, build = shop.version, pipeline.build
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "build", build_that_fails)
        file = shop.home.file("failing.ndjson", [a_call("m11", day="2025-03-15")])
        answer = analytics("ingest", file, "--source", "segment", "--tenant", "acme")
    assert answer.code == REFUSED
    assert answer.out.splitlines()[2].split() == ["failing.ndjson", "segment", "acme", "1", "0", "0", "1"]
    assert answer.err.splitlines()[-1].startswith("analytics: the marts were not replaced, since these tests failed: ")
    assert shop.version == before
    assert analytics("publish", "--json").json == {"version": before + 1, "changed": True, "role_files": NO_FILES}


def test_a_publish_tells_which_files_for_roles_it_wrote_and_removed_also_where_the_version_stays(shop: Shop) -> None:
    analytics("publish")
    declared = shop.home.settings.config / "roles.yaml"
    before = declared.read_text()
    declared.write_text(before + PARTNER)
    made = analytics("publish", "--json")
    declared.write_text(before)
    removed = analytics("publish")
    names = ["partner/acme", "partner/globex"]
    files = {"written": names, "removed": []}
    assert json.loads(made.out or made.err) == {"version": shop.version, "changed": False, "role_files": files}
    assert removed.out == f"version {shop.version} stays; 2 files for roles removed: {', '.join(names)}\n"


def test_a_rollback_holds_publishing_until_it_is_released(shop: Shop, newer: int) -> None:
    publish = ("ingest", shop.home.file("held.ndjson", [a_call("m7", day="2025-03-13")]), "--source", "segment")
    newest = shop.version
    assert newest >= newer > 1
    back = analytics("rollback", "--reason", "a wrong price", "--json")
    assert (back.code, back.json) == (DONE, {"version": newest - 1, "held": True})
    held = "publishing is held since a rollback (a wrong price): newer data are built but held; `analytics publish` releases it"
    assert held in analytics("status").out.splitlines()
    assert analytics("rollback", newest - 1).error == f"version {newest - 1} is the one that readers see already"
    assert analytics("rollback", 99).error.startswith("version 99 is not kept; choose one of 1")

    refused = analytics(*publish, "--tenant", "acme")
    assert refused.code == REFUSED
    assert refused.out.splitlines()[2].split() == ["held.ndjson", "segment", "acme", "1", "0", "0", "1"]
    assert refused.err.splitlines()[-1].startswith("analytics: publishing is held since a rollback (a wrong price)")
    assert shop.version == newest - 1
    assert held in analytics("status").out.splitlines()

    released = analytics("publish", "--json")
    assert (released.code, released.json) == (DONE, {"version": newest + 1, "changed": True, "role_files": NO_FILES})
    assert looked("select count(*) as n from events where message_id = 'm7'", "--json").json == [{"n": 1}]
    assert analytics("publish").out == f"nothing changed: version {newest + 1} stays\n"

    told = analytics("versions", "--json").json
    assert told["current"] == newest + 1
    assert {newest, newest + 1} <= set(told["kept"])
    assert [entry["action"] for entry in told["history"]][-2:] == ["rollback", "publish"]
    shown = analytics("versions").out
    assert f"rollback from {newest}: a wrong price" in shown
    (marked,) = [line for line in shown.splitlines() if line.strip().startswith("->")]
    assert marked.split()[1] == str(newest + 1)


# Rejected records


def test_rejected_records_are_replayed_after_a_tenant_was_added(shop: Shop) -> None:
    call = {"tenant_id": "initech", "message_id": "m8", "event": "Order Completed", "timestamp": "2025-03-14 10:00:00"}
    file = shop.home.file("canonical.ndjson", [call])
    loaded = analytics("ingest", file, "--source", "canonical", "--no-publish", "--json")
    assert loaded.json["batches"][0]["rejected_by_reason"] == '{"unknown_tenant": 1}'

    told = analytics("rejected", "list", "--tenant", "initech", "--rows", "5", "--json").json
    assert [(line["source"], line["reason"], line["records"]) for line in told["counts"]] == [
        ("canonical", "unknown_tenant", 1)
    ]
    assert json.loads(told["records"][0]["raw"]) == call
    shown = analytics("rejected", "list", "--rows", "5").out
    assert "unknown_type" in shown and "unknown_tenant: {" in shown

    replay = ("rejected", "replay", "--reason", "unknown_tenant")
    (unchanged,) = analytics(*replay, "--json").json["batches"]
    assert (unchanged["events"], unchanged["rejected"]) == (0, 1)

    declare(shop.home.settings.config, ["acme", "globex", "initech"])
    dry = analytics(*replay)
    assert dry.out.endswith(
        "canonical, if applied: new events: 1 (2025-03-14)\nnothing was changed; run again with --apply to do it\n"
    )
    assert analytics("rejected", "list", "--tenant", "initech", "--json").json["counts"] == told["counts"]

    before = shop.version
    applied = analytics(*replay, "--apply", "--json")
    assert (applied.code, applied.json["applied"]) == (DONE, True)
    assert [batch["events"] for batch in applied.json["batches"]] == [1]
    assert shop.version == before + 1
    assert analytics("rejected", "list", "--tenant", "initech").out == "no rejected records\n"
    assert looked("select tenant_id as t from events where message_id = 'm8'", "--json").json == [{"t": "initech"}]


# Quality


def test_what_the_checks_say_is_a_table_and_json(shop: Shop) -> None:
    told = analytics("quality", "--table", "events", "--json").json
    # Money without a currency, which is only warned of.
    assert {(row["expectation"], row["means"]) for row in told["failed"]} == {("events_name_their_currency", "warning")}
    assert (told["counts"]["fail"], told["holding"]) == (len(told["failed"]), 0)
    assert {row["why"] for row in told["unknown"]} <= {"too little clean history", "too few rows", "nothing to measure"}
    shown = analytics("quality").out
    assert shown.startswith("judged: ") and shown.endswith("nothing holds the publish\n")


def test_events_are_set_aside_and_brought_back_by_their_reason(shop: Shop) -> None:
    aside = ("quality", "aside", "--tenant", "acme", "--day", "2025-03-11", "--file", shop.file, "--reason", "sent in pence")
    dry = analytics(*aside)
    assert "kept as they came: 1 record\n" in dry.out and dry.out.endswith("run again with --apply to do it\n")
    events, version = looked("select count(*) as n from events", "--json").json[0]["n"], shop.version
    told = analytics(*aside, "--apply", "--json")
    assert (told.code, told.json["reason"], told.json["events"]) == (DONE, "set_aside: sent in pence", 1)
    assert looked("select count(*) as n from events", "--json").json == [{"n": events - 1}]
    assert shop.version == version + 1

    assert "left out: 1 record set aside by hand" in analytics("rejected", "replay").out
    back = analytics("rejected", "replay", "--reason", "set_aside: sent in pence", "--apply", "--json")
    assert [batch["events"] for batch in back.json["batches"]] == [1]
    assert looked("select count(*) as n from events", "--json").json == [{"n": events}]
    assert analytics("quality", "aside", "--tenant", "acme", "--reason", "none").error.startswith("say which events")
    assert (
        analytics("quality", "aside", "--tenant", "acme", "--day", "2025-07-01", "--reason", "none").error
        == "no events match; nothing was set aside"
    )


# Errors


def test_an_error_whose_causes_form_a_circle_is_explained() -> None:
    """Dagster raises a step's error anew while it handles its own, which makes each the context of the other."""
    step, run = UserError("the cure"), RuntimeError("the run failed")
    step.__context__, run.__cause__ = run, step
    assert (list(causes(run)), explain(run), explain(step)) == ([run, step], "the cure", "the cure")


def test_an_error_is_one_line_and_debug_shows_the_rest(shop: Shop) -> None:
    def process(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "analytics_assets.cli", *arguments]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)

    said = process("sql", "select no_such_column from batches")
    assert (said.returncode, said.stdout) == (FAILED, "")
    assert said.stderr.startswith("analytics: ") and said.stderr.count("\n") == 1
    said = process("--debug", "sql", "select no_such_column from batches")
    assert said.returncode == FAILED
    assert "Traceback (most recent call last)" in said.stderr


# audit


def acts(*arguments: str) -> list[dict[str, Any]]:
    return analytics("audit", "report", "--json", *arguments).json["acts"]


def recorded(home: DataHome) -> bytes:
    """The audit log as it lies on the disk."""
    return b"".join(path.read_bytes() for path in sorted((home.root / "audit").iterdir()))


def test_what_was_done_to_the_data_is_on_record_with_who_did_it_and_how_it_ended(shop: Shop) -> None:
    found = acts()[:4]
    me = pwd.getpwuid(os.getuid()).pw_name
    assert {(act["user"], act["via"]) for act in found} == {(me, "analytics ingest")}
    assert [(act["action"], act["outcome"]) for act in found] == [
        ("run", "done"), ("load", "done"), ("run", "done"), ("publish", "done")
    ]  # fmt: skip
    ingest, load, refresh, publish = found
    assert (ingest["details"]["job"], refresh["details"]["job"]) == ("ingest", "refresh")
    assert (load["run"], publish["run"]) == (ingest["run"], refresh["run"])
    assert load["details"]["new_events"] == 2
    assert publish["details"]["version"] == 1 and "events" in publish["tables"]
    shown = analytics("audit", "report", "--action", "publish", "--actor", me)
    assert re.search(rf" {me} +analytics ingest +publish +done ", shown.out)
    assert acts("--actor", "nobody-else") == []


def test_a_number_is_explained_on_one_screen_with_the_run_that_published_it(shop: Shop) -> None:
    published = [act for act in acts("--action", "publish") if act["outcome"] == "done"]
    (publish,) = [act for act in published if act["details"].get("version") == shop.version]
    number = ("explain", "revenue_daily.revenue", "--tenant", "acme", "--day", "2025-03-10")
    runs = analytics(*number, "--json").json["runs"]
    assert runs["published"]["run"] == publish["run"]
    assert (runs["published"]["job"], runs["published"]["via"]) == ("refresh", publish["via"])
    assert runs["judged"]["job"] == "refresh"
    shown = analytics(*number)
    assert (shown.code, shown.err) == (DONE, "")
    for told in ("revenue_daily.revenue, acme, 2025-03-10", f"by run {publish['run']} (refresh", "calls.ndjson", "6 passed",
                 "behavioural (user.behavior.purchase_history)", "events.revenue", "model", "promised 5 min"):  # fmt: skip
        assert told in " ".join(shown.out.split())
    assert len(shown.out.splitlines()) < 40
    table = analytics("explain", "users")
    assert re.search(r"^person_id +identifier +events +sessions.person_id$", table.out, re.MULTILINE)
    assert (
        analytics("explain", "revenu_daily").error
        == "there is no published table 'revenu_daily'; did you mean 'revenue_daily'?"
    )
    assert analytics("explain", ".x").code == FAILED


def a_pseudonym(identifier: str) -> str:
    """What tables show of one of acme's identifiers."""
    return analytics("privacy", "pseudonym", identifier, "--tenant", "acme").out.strip()


def test_a_query_is_on_record_without_what_it_says_of_persons(shop: Shop) -> None:
    shown = a_pseudonym("u1")
    query = f"""select user_id, count(*) as "anna@acme.test" from events
               where user_id = '{shown}' or page_title = 'anna@acme.test' group by all -- for Anna"""
    assert looked(query).code == DONE
    (act,) = acts("--subject", "anna@acme.test", "--tenant", "acme", "--action", "query")
    assert act["query"] == "select user_id , count ( * ) as ? from events where user_id = ? or page_title = ? group by all"
    assert (act["action"], act["outcome"], act["tables"]) == ("query", "done", ["events"])
    assert {name: act["details"][name] for name in ("rows", "identifiers_in")} == {"rows": 1, "identifiers_in": ["column 1"]}
    log = recorded(shop.home).lower()
    assert b"anna" not in log and shown.encode() not in log


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("select count(*) from events, (from sessions limit 1)", ["events", "sessions"]),
        ("pivot events_daily on event using sum(events)", ["events", "events_daily"]),
        ("describe users", ["users"]),
        ("select events from (values (1)) given (events)", []),
    ],
)
def test_the_tables_that_a_query_read_are_on_record_also_where_they_are_views(
    shop: Shop, newer: int, query: str, tables: list[str]
) -> None:  # fmt: skip
    assert looked(query, "--version", newer).code == DONE
    assert acts("--action", "query")[-1]["tables"] == tables


def test_whom_a_query_showed_is_on_record_though_it_did_not_name_them(shop: Shop) -> None:
    before = acts("--subject", "u1", "--tenant", "acme", "--action", "query")
    looked("select max(upper(user_id)), count(*) from users")
    looked("select * from (from users)")
    looked("select count(*) from users")
    (found,) = acts("--subject", "u1", "--tenant", "acme", "--action", "query")[len(before) :]
    assert found["query"] == "select * from ( from users )"
    (shouted,) = acts("--subject", a_pseudonym("u1").upper(), "--tenant", "acme", "--action", "query")
    assert shouted["details"]["identifiers_in"] == ["column 1"]


def test_people_stand_in_tables_and_published_files_and_nowhere_else(shop: Shop) -> None:
    name = a_pseudonym("u1").encode()
    files = [path for path in shop.home.root.rglob("*") if path.is_file() and name in path.read_bytes()]
    assert {path.relative_to(shop.home.root).parts[0] for path in files} <= {"published", "warehouse"}


def test_what_a_log_or_a_rejected_row_holds_of_a_field_is_labelled_as_strictly(shop: Shop) -> None:
    """Labels of what is computed by SQL follow from it; of what is noted beside that, it is looked at what it holds."""
    stages = Pipeline(Settings.from_env())
    labels, computed = load_labels(stages.settings, stages.specs), {spec.name for spec in derived_tables()}
    words = {**WORDS, "events.user_id": a_pseudonym("u1")}
    asked = ", ".join(f"'{word}'" for word in words.values())
    looked(f'select count(*) as "{WORDS["events.campaign"]}" from events where page_title in ({asked}) -- {asked}')
    analytics("telemetry", "collect")
    held: dict[str, set[str]] = {}
    with stages.connect() as con:
        con.execute(f"attach '{shop.home.root}/published/analytics.duckdb' as shown (read_only)")
        tables = {spec.name: stages.table(spec).snapshot().select() for spec in stages.specs}
        tables |= {spec.name: f"from shown.{spec.name}" for spec in FACTS}
        for name in tables.keys() - computed:
            rows = con.execute(tables[name])
            columns = [column for column, *_ in rows.description]
            text = {column: str(values) for column, values in zip(columns, zip(*rows.fetchall(), strict=True), strict=False)}
            held |= {f"{name}.{column}": {field for field, word in words.items() if word in text[column]} for column in text}
    for place, fields in held.items():
        own, strictest = labels.field(place), [labels.field(field) for field in fields]
        assert own and all(one and LABELS.index(own.label) >= LABELS.index(one.label) for one in strictest), (place, fields)
    # What was sent is found where it lies; and what queries said is nowhere.
    assert held["rejected_events.raw"] == set(WORDS) and held["events.user_id"] == {"events.user_id"}
    assert held["identifiers.value"] == {"events.context.ip", "events.context.traits.email"}
    assert held["query_log.shape"] == set() and len(held) > 100


def test_who_people_are_is_closed_to_other_users_of_the_machine(shop: Shop) -> None:
    home = Home(shop.home.root)
    closed = (home.warehouse / "identifiers", home.received, home.set_aside, home.work)
    rights = {path.name: path.stat().st_mode & 0o007 for path in (*closed, home.warehouse / "events", home.published)}
    mask = os.umask(0)
    os.umask(mask)
    others = 0o007 & ~mask
    assert rights == {"identifiers": 0, "received": 0, "set_aside": 0, "work": 0, "events": others, "published": others}


def test_a_report_says_nothing_of_what_a_query_showed_nobody_of(shop: Shop) -> None:
    looked("select count(*) from users")
    (line,) = [line for line in analytics("audit", "report", "--last", 1).out.splitlines() if "from users" in line]
    assert "identifiers" not in line


def test_the_log_is_asked_once_for_a_person_by_identifier_or_pseudonym(shop: Shop) -> None:
    named = "select count(*) as n from events where user_id = '{}'"
    for name in ("u1", a_pseudonym("u1"), "u2"):
        looked(named.format(name))
    by_identifier, by_pseudonym = (
        [act["entry"] for act in acts("--subject", name, "--tenant", "acme", "--action", "query")]
        for name in ("u1", a_pseudonym("u1"))
    )
    written, shown, other = [act["entry"] for act in acts("--action", "query")][-3:]
    assert by_identifier == by_pseudonym
    assert by_identifier[-2:] == [written, shown] and other not in by_identifier


def test_a_query_that_fails_and_an_act_that_is_refused_are_on_record_too(shop: Shop) -> None:
    assert looked("select no_such_column from events").code == FAILED
    assert analytics("rollback", 99, "--reason", "because of Anna").code == FAILED
    assert analytics("rejected", "list", "--rows", 1).code == DONE
    none = ("--tenant", "acme", "--day", "2020-01-01", "--reason", "because of Anna", "--apply")
    assert analytics("quality", "aside", *none).code == FAILED
    assert analytics("rejected", "replay", "--reason", "because of Anna", "--apply").code == DONE
    found = [(act["action"], act["outcome"]) for act in acts()][-5:]
    assert found == [
        ("query", "failed"), ("rollback", "refused"), ("show_rejected", "done"), ("set_aside", "unchanged"),
        ("replay", "unchanged"),
    ]  # fmt: skip
    assert b"anna" not in recorded(shop.home).lower()


def test_looking_somebody_up_in_the_log_is_on_record_itself(shop: Shop) -> None:
    assert analytics("audit", "report", "--subject", "u77").code == USAGE
    acts("--subject", "u77", "--tenant", "acme")
    assert [act["action"] for act in acts("--subject", "u77", "--tenant", "acme")] == ["report", "report"]


def test_a_changed_log_is_found_and_told_in_one_line(shop: Shop) -> None:
    whole = analytics("audit", "verify")
    assert (whole.code, whole.out.startswith("whole: ")) == (DONE, True)
    assert audit_log_is_whole(PipelineResource()).passed
    (file,) = (shop.home.root / "audit").iterdir()
    before = file.read_bytes()
    file.write_bytes(before.replace(b'"outcome":"refused"', b'"outcome":"removed"').replace(b'"done"', b'"dune"', 1))
    try:
        changed = analytics("audit", "verify")
        assert changed.code == FAILED
        assert changed.err.startswith("analytics: the audit log is not whole: ")
        assert f"{file.name}, line " in changed.out
        assert not audit_log_is_whole(PipelineResource()).passed
        assert analytics("audit", "verify", "--json").json["whole"] is False
    finally:
        file.write_bytes(before)


def test_a_checkpoint_or_a_published_version_kept_elsewhere_shows_whether_the_log_still_goes_through_it(
    shop: Shop, tmp_path: Path
) -> None:
    kept = tmp_path / "checkpoint.json"
    assert analytics("audit", "checkpoint", "--out", kept).code == DONE
    version = tmp_path / "kept.duckdb"
    oldest = min((shop.home.root / "published" / "versions").glob("v*.duckdb"))
    version.write_bytes(oldest.read_bytes())
    assert analytics("audit", "verify", "--checkpoint", kept, "--checkpoint", version).code == DONE
    assert "exists" in analytics("audit", "checkpoint", "--out", kept).error
    assert "is no checkpoint" in analytics("audit", "verify", "--checkpoint", shop.file).error
    other = {**json.loads(kept.read_text()), "hash": "0" * 64}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert analytics("audit", "verify", "--checkpoint", tmp_path / "other.json").code == FAILED


def test_a_log_that_lost_its_end_is_found_until_somebody_accepts_that(empty_home: DataHome) -> None:
    assert analytics("audit", "verify").out == "nothing is recorded yet\n"
    assert analytics("audit", "checkpoint").error == "nothing is recorded yet, so there is no head to keep"
    analytics("gate", "freeze", "--reason", "Anna asked for it")
    analytics("gate", "release", "--reason", "Anna is content")
    assert [(act["action"], act["outcome"]) for act in acts()] == [("freeze_gate", "done"), ("release_gate", "done")]
    assert b"Anna" not in recorded(empty_home)
    (file,) = (empty_home.root / "audit").iterdir()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    assert analytics("audit", "verify").code == FAILED
    assert analytics("audit", "accept", "--reason", "a backup was restored").out == "accepted: 1 finding\n"
    after = analytics("audit", "verify")
    assert (after.code, after.out.startswith("accepted before: before entry 3 ")) == (DONE, True)


def test_what_cannot_be_recorded_is_not_done(empty_home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-file").touch()
    for folder in (tmp_path / "a-file", tmp_path / "a-file" / "keys"):
        monkeypatch.setenv("ANALYTICS_KEYS", str(folder))
        assert "name another folder in ANALYTICS_KEYS" in analytics("gate", "freeze", "--reason", "for a test").error
    assert analytics("gate").out == "releases are open; the gate was never frozen\n"


# What steps took


def test_telemetry_tells_what_the_runs_of_the_commands_took_and_cost(shop: Shop) -> None:
    looked("select count(*) from events where user_id = 'anna@example.com'")
    looked("from read_csv('/etc/passwd')")
    assert set(analytics("telemetry", "collect", "--json").json) == {"runs", "steps"}
    told = analytics("telemetry", "report", "--json").json
    assert {one["job"] for one in told["reliability"]} >= {"ingest", "refresh"}
    assert sum(one["share"] for one in told["dearest"]) <= 1.0000001
    shown = analytics("telemetry", "report").out
    assert "The dearest steps, at assumed prices (prices.yaml)" in shown
    assert re.search(r"^ingest +intake +\d+ +\d+\.\d{6} EUR ", shown, re.MULTILINE), shown
    sums = analytics("telemetry", "prometheus").out
    assert 'analytics_step_attempts_total{job="ingest",step="intake",outcome="success"} ' in sums
    assert {one["tenant"] for one in told["tenants"]} >= {"acme"}
    assert told["queries"]
    assert told["reading"]["unread"] is None
    assert "Which tables nobody reads cannot be told yet: queries are known since " in shown
    assert re.search(r"^job seconds +refresh +\d+\.\d{3} ", shown, re.MULTILINE), shown
    # What was kept of steps is no news that waits for a publish.
    assert not analytics("status", "--json").json["newer_is_built"]
    measures = {row["measure"] for row in told["performance"]}
    assert measures >= {"query_seconds", "job_seconds", "rows_per_second", "processors_used", "disk_used", "manual_actions"}
    with Line.at(shop.home.root, shop.home.settings.config) as line:
        reliable = {row["asset_group"]: row for row in line.dicts(RELIABILITY_METRICS)}
        assert reliable["intake"]["runs"] >= 1 and reliable["sessions"]["failed"] == 0
        assert {row["measure"] for row in line.dicts(PERFORMANCE_METRICS)} >= {"job_seconds", "disk_used"}
        asked = line.dicts(QUERY_LOG)
        assert any(row["tables"] == '["events"]' and row["outcome"] == "success" and row["seconds"] > 0 for row in asked)
        assert any(row["outcome"] == "refused" for row in asked)
    assert "anna" not in shown + json.dumps(told)


def test_a_collector_that_does_not_answer_is_one_line(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    answer = analytics("telemetry", "export", "--otlp", url)
    assert (answer.code, answer.error) == (FAILED, f"no collector listens at {url}; start it, or correct the address")
    for wrong in ("collector:4318", "http://[", "http://collector:port", "http://anna:secret@collector:4318"):
        answer = analytics("telemetry", "export", "--otlp", wrong)
        assert answer.code == FAILED and "secret" not in answer.error


def test_where_nothing_was_measured_yet_the_report_says_what_to_do(empty_home: DataHome) -> None:
    answer = analytics("telemetry", "report")
    assert (answer.code, "run `analytics telemetry collect`" in answer.error) == (FAILED, True)
