"""Retention: what is past its limit is nowhere any more, what stays is as it was, and a row that is left is found."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.report import newest_first
from analytics_assets.cli import cli
from analytics_assets.defs.maintenance import nothing_is_past_its_limit, retained
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.expiry import Taken, late_role_files, late_versions, look, old_files, retain
from analytics_assets.labelling import load_labels
from analytics_assets.marts.tables import mart_tables
from analytics_assets.outgoing import keep_role_files
from analytics_assets.privacy import role_files
from analytics_assets.privacy.consent import CONSENT_STATEMENTS
from analytics_assets.privacy.ledger import Person
from analytics_assets.privacy.pseudonyms import IDENTIFIERS
from analytics_assets.privacy.retention import telling
from analytics_assets.privacy.withheld import CONSENT_EXCEPTIONS, CONSENT_STATUS
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.retention import age_of
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import ConfigError
from analytics_assets.warehouse.publish import PublishRefused, current_version, version_path, versions
from analytics_assets.warehouse.table import Table, replace_all, rewrite_rows
from analytics_assets_tests.builders import Line, Opener, a_config, a_view, an_event, rows_of, write_events
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.faults import run

NOW, OLD, LAST_NIGHT, KEPT, EARLY = map(
    datetime.fromisoformat,
    ("2026-03-20 12:00:00", "2026-02-08 12:00:00", "2026-02-19 23:50:00", "2026-03-10 12:00:00", "2026-02-25 00:00:00"),
)
# Thirty days before, and two more so that no night is too late: the first day that stays.
FIRST = date(2026, 2, 20)
THIRTY, EVER = {"days": 30}, {"days": "none"}
LIMITS: dict[str, Any] = {
    "classes": {
        "raw": THIRTY,
        "events": THIRTY,
        "aggregates": {"days": 365},
        "operations": {"days": 30, "then": "anonymise"},
    },
    "tenants": {"globex": {"events": {"days": 30, "then": "anonymise"}}, "initech": {"events": EVER, "aggregates": EVER}},
}
TENANTS = ("acme", "globex", "initech")
MONEY = next(spec for spec in mart_tables() if spec.name == "revenue_daily")
COUNTS = next(spec for spec in mart_tables() if spec.name == "events_daily")
BY_PERSON = (SESSIONS, PAGE_VIEWS, RUNAWAYS)


def bought(tenant: str, name: str, when: datetime, **changes: Any) -> list[dict[str, Any]]:
    """A view and a purchase of a person of this name."""
    whose = {"tenant_id": tenant, "user_id": f"{name}@{tenant}.test", "anonymous_id": f"{name}-phone", **changes}
    return [
        a_view(f"{name}-view", timestamp=when, **whose),
        an_event(
            f"{name}-buy", timestamp=when + timedelta(minutes=20), revenue=2.5, currency="GBP", product_id="cup",
            order_id=f"{name}-order", region="Kent", campaign="spring", **whose,
            properties={"price": 2.5, "coupon": name, "hue": 1},
        ),
    ]  # fmt: skip


def declare(line: Line, limits: object = LIMITS) -> None:
    (line.pipeline.settings.config / "retention.yaml").write_text(yaml.safe_dump(limits))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "retention", make_template)


def make_template(folder: Path) -> None:
    """Old events, sessions that cross the night of the limit, and new ones of three tenants, published without any limit."""
    with Line.at(
        folder / "home", a_config(folder / "config", tenants=TENANTS, pseudonyms=True), OLD + timedelta(days=13)
    ) as line:
        for tenant in TENANTS:
            landed = line.home / "landing" / tenant / f"{tenant}.ndjson"
            people = (("old", OLD), ("night", LAST_NIGHT))
            write_events(landed, [*(event for one in people for event in bought(tenant, *one)), "no json"])
            (waiting,), _ = line.pipeline.landed(NOW + timedelta(days=3650))
            line.pipeline.load_landed(line.con, waiting, line.now)
        line.now = KEPT + timedelta(days=1)
        line.load([event for tenant in TENANTS for event in bought(tenant, "new", KEPT)])
        line.rebuild()
        line.publish()


def copied(template: Path, target: Path) -> Path:
    shutil.copytree(template, target, symlinks=True)
    return target


def opened(folder: Path) -> Any:
    return Line.at(folder / "home", folder / "config", NOW)


@pytest.fixture
def line(template: Path, tmp_path: Path) -> Iterator[Line]:
    with opened(copied(template, tmp_path / "copy")) as line:
        declare(line)
        yield line


@pytest.fixture(scope="module")
def before(template: Path) -> Iterator[Line]:
    with opened(template) as line:
        yield line


@pytest.fixture(scope="module")
def passed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Line, Taken]]:
    """A home after one pass; tests only read it."""
    with opened(copied(template, tmp_path_factory.mktemp("passed") / "copy")) as line:
        declare(line)
        taken = retain(line.pipeline, line.con, NOW)
        line.pipeline.sweep(line.con)
        assert taken is not None and taken.not_published is None
        yield line, taken


def of(line: Line, tenant: str, spec: Any, columns: str = "*") -> list[tuple[Any, ...]]:
    select = line.pipeline.table(spec).snapshot().select()
    return line.con.execute(f"select {columns} from ({select}) where tenant_id = '{tenant}' order by all").fetchall()


@pytest.fixture
def after(passed: tuple[Line, Taken], tmp_path: Path) -> Iterator[Line]:
    """A copy of the home after one pass."""
    with opened(copied(passed[0].home.parent, tmp_path / "after")) as line:
        yield line


# What goes, and what stays


def test_events_past_their_limit_are_in_no_file_of_any_table(passed: tuple[Line, Taken]) -> None:
    line, taken = passed
    assert taken.dropped["events"] == 3
    for spec, time in ((EVENTS, "timestamp"), *((spec, "date") for spec in BY_PERSON)):
        for path in (line.home / "warehouse" / spec.name).glob("*.parquet"):
            past = f"select count(*) from read_parquet('{path}') where tenant_id = 'acme' and {time} < date '{FIRST}'"
            assert line.con.execute(past).fetchall() == [(0,)], spec.name


def test_a_session_that_crosses_the_limit_begins_with_its_first_event_that_stays(passed: tuple[Line, Taken]) -> None:
    line, _ = passed
    assert of(line, "acme", SESSIONS, "started_at, events") == [
        (LAST_NIGHT + timedelta(minutes=20), 1), (KEPT, 2)
    ]  # fmt: skip
    assert of(line, "initech", SESSIONS, "started_at, events") == [(OLD, 2), (LAST_NIGHT, 2), (KEPT, 2)]


def test_sums_of_days_whose_events_are_gone_stay_as_they_were(before: Line, passed: tuple[Line, Taken]) -> None:
    line, _ = passed
    for spec in (MONEY, COUNTS):
        assert line.rows(spec) == before.rows(spec)
    assert of(line, "acme", COUNTS, "sum(events)") == [(6,)]


def test_people_are_known_by_the_events_that_are_left(passed: tuple[Line, Taken]) -> None:
    line, _ = passed
    assert len(of(line, "acme", USERS)) == 2 and len(of(line, "globex", USERS)) == 2 and len(of(line, "initech", USERS)) == 3
    assert {len(of(line, tenant, IDENTITIES)) for tenant in ("acme", "globex")} == {2}
    assert len(of(line, "initech", IDENTITIES)) == 3


def test_anonymised_events_say_what_happened_and_nothing_about_whom(before: Line, passed: tuple[Line, Taken]) -> None:
    line, taken = passed
    assert taken.anonymised["events"] == 3
    old = [event for event in line.dicts(EVENTS) if event["tenant_id"] == "globex" and event["timestamp"].date() < FIRST]
    assert len(old) == 3
    for event in old:
        assert event["timestamp"].time() == clock_time.min
        assert event["message_id"].startswith("anonymous-")
        for name in ("user_id", "anonymous_id", "session_id", "order_id", "region", "page_url", "page_title", "page_view_id"):
            assert event[name] is None, name
    (sale,) = [event for event in old if event["revenue"]]
    assert (sale["event"], sale["product_id"], sale["campaign"]) == ("Product Ordered", "cup", "spring")
    # A coupon may be given to one person, and of a hue nobody has said what it is.
    assert sale["properties"] == '{"price":2.5}'
    stays = [event for event in line.dicts(EVENTS) if event["tenant_id"] == "initech"]
    assert stays == [event for event in before.dicts(EVENTS) if event["tenant_id"] == "initech"]


def test_identifiers_that_nothing_bears_any_more_leave_the_raw_store(passed: tuple[Line, Taken]) -> None:
    line, _ = passed
    assert [value for (value,) in of(line, "acme", IDENTIFIERS, "value")] == [
        "new-phone", "new@acme.test", "night-phone", "night@acme.test"
    ]  # fmt: skip
    assert len(of(line, "initech", IDENTIFIERS)) == 6


def test_received_files_and_rejected_records_go_with_their_own_limit(before: Line, passed: tuple[Line, Taken]) -> None:
    # Received on the 21st of February: within their 30 days at noon of the 20th of March, and within two of its end.
    line, taken = passed
    assert (len(before.rows(REJECTED)), len(line.rows(REJECTED)), taken.files) == (3, 3, 0)


def test_a_second_pass_finds_nothing(passed: tuple[Line, Taken]) -> None:
    line, _ = passed
    stood = {spec.name: line.pipeline.table(spec).snapshot().version for spec in line.pipeline.specs}
    again = retain(line.pipeline, line.con, NOW)
    assert again is not None and again.told == ["nothing is past its limit", "readers get version 2"]
    assert stood == {spec.name: line.pipeline.table(spec).snapshot().version for spec in line.pipeline.specs}


def test_versions_that_showed_what_went_are_gone(passed: tuple[Line, Taken]) -> None:
    line, taken = passed
    assert (taken.versions, versions(line.pipeline.home)) == ((1,), [2])
    path = line.home / "published" / "analytics.duckdb"
    assert rows_of(path, "select min(timestamp)::date from events where tenant_id = 'acme'") == [(FIRST,)]


def test_without_a_limit_nothing_is_done(before: Line) -> None:
    assert retain(before.pipeline, before.con, NOW) is None


def test_what_the_pipeline_notes_keeps_its_sums_and_loses_whom_it_names(
    after: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the night does it, in Dagster, when what was received on the 21st of February is past its limit too."""
    stored = after.pipeline.table(QUALITY_RESULTS).snapshot().select()
    spoilt = "('[1]' as samples, timestamp '2026-02-21 12:00:00' as judged_at)"
    after.con.execute(f"create temp table named as select * replace {spoilt} from ({stored})")
    replace_all(after.pipeline.table(QUALITY_RESULTS), after.con, "from named")
    monkeypatch.setattr("analytics_assets.events.intake.utc_now", lambda: NOW + timedelta(days=5))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(after.pipeline.settings.config))
    resources = {"pipeline": PipelineResource(home=str(after.home)), "duckdb": DuckDBResource(database=":memory:")}
    done = dg.materialize([retained, nothing_is_past_its_limit], resources=resources)
    (verdict,) = done.get_asset_check_evaluations()
    assert verdict.passed, verdict
    said = next(iter(newest_first(after.pipeline.home, ("publish",))))
    assert (said["outcome"], said["details"]["version"]) == ("done", current_version(after.pipeline.home))
    assert {row["samples"] for row in after.dicts(QUALITY_RESULTS) if row["judged_at"] < EARLY} == {None}
    old = [row for row in after.dicts(BATCHES) if row["received_at"] < EARLY]
    assert {(row["event_from"], row["event_to"]) for row in old} == {(None, None)} and sum(row["events"] for row in old) == 12
    assert after.rows(REJECTED) == [] and not list((after.home / "received").rglob("*.ndjson"))


# What comes later


def test_an_event_of_a_day_that_is_gone_is_rejected_and_other_tenants_change_no_sum_of_it(after: Line) -> None:
    before = {tenant: of(after, tenant, COUNTS) for tenant in TENANTS}
    report = after.load([event for tenant in TENANTS for event in bought(tenant, "late", OLD)])
    assert (report.rejected_by_reason, report.events) == ({"past_retention": 4}, 2)
    after.rebuild()
    assert after.publish().changed
    assert {tenant: of(after, tenant, COUNTS) == before[tenant] for tenant in TENANTS} == {
        "acme": True, "globex": True, "initech": False
    }  # fmt: skip
    assert of(after, "globex", SESSIONS, "min(date)") == [(FIRST,)]


def test_limits_that_are_loosened_later_bring_nothing_back_and_break_no_sum(after: Line) -> None:
    declare(after, {"classes": {name: {"days": "none", "then": limit.get("then", "drop")}
                                for name, limit in LIMITS["classes"].items()}})  # fmt: skip
    assert after.load(bought("acme", "late", OLD)).rejected_by_reason == {"past_retention": 2}


def test_an_identifier_that_comes_back_is_kept_again_also_by_a_process_that_remembers_it(open_line: Opener) -> None:
    worker, night = open_line(pseudonyms=True), open_line(pseudonyms=True)
    worker.load([an_event("m1", user_id="jane")])
    assert rewrite_rows(night.pipeline.pseudonyms.table, night.con, "value = 'device-1'", 1) == (1, 0)
    worker.load([an_event("m2", user_id="jane")])
    assert [row["value"] for row in worker.dicts(IDENTIFIERS)] == ["device-1", "jane"]


@pytest.fixture
def alone(template: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line with keys of its own: to the ledger of erasures, which lies with them, copies of a home are one."""
    monkeypatch.setenv("ANALYTICS_KEYS", str(copied(keys, tmp_path / "keys")))
    with opened(copied(template, tmp_path / "alone")) as line:
        declare(line)
        yield line


def test_while_an_erasure_waits_what_is_past_goes_and_readers_get_it_after_the_erasure(alone: Line) -> None:
    line = alone
    line.pipeline.erasures.ask([Person("acme", "user", "new@acme.test")], "tester")
    taken = retain(line.pipeline, line.con, NOW)
    assert taken is not None and taken.dropped["events"] == 3 and taken.published is None
    assert taken.told[-1].startswith("what went is gone, but readers still get the version of before: 1 request for erasure")
    line.pipeline.erasures.remove(line.con, NOW)
    taken = retain(line.pipeline, line.con, NOW)
    assert taken is not None and taken.published == 2 and late_versions(line.pipeline, NOW) == []
    assert {user for (user,) in of(line, "acme", USERS, "user_id")}.isdisjoint(
        {line.pipeline.pseudonyms.pseudonym("acme", "new@acme.test")}
    )


# What was left is found


def test_a_row_that_is_past_its_limit_refuses_the_publish(after: Line) -> None:
    """Nothing else would notice: of a day whose events are gone no sum is held against them."""
    (old,) = (row for row in of(after, "initech", SESSIONS) if OLD in row)
    after.con.execute(f"create temp table left_over as {SESSIONS.empty_select}")
    after.con.execute(f"insert into left_over values ({', '.join('?' for _ in old)})", ["acme", *old[1:]])
    stored = after.pipeline.table(SESSIONS).snapshot().select()
    replace_all(after.pipeline.table(SESSIONS), after.con, f"{stored} union all from left_over")
    found = r"no row of sessions is past its limit .*: found \('acme', '2026-02-08'\)"
    with pytest.raises(PublishRefused, match=found):
        after.publish()
    assert sum(one.past for one in look(after.pipeline, after.con, NOW)) == 2  # and the user that it makes


def test_what_is_past_is_counted_before_it_goes_in_tables_and_versions(line: Line) -> None:
    found = {(one.retention, one.tenant): one for one in look(line.pipeline, line.con, NOW, ahead=True)}
    assert found["events", None].tables["events"] == 3 and found["events", "globex"].tables["events"] == 3
    assert (found["events", "initech"].past, found["events", "initech"].oldest) == (0, "2026-02-08")
    assert late_versions(line.pipeline, NOW) == [1]
    assert [len(old_files(line.pipeline, line.con, NOW + timedelta(days=days))) for days in (0, 5)] == [0, 3]


def test_a_file_for_a_role_that_could_not_be_made_anew_is_found_and_goes_with_the_old_versions(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no column that tells how old its rows are."""
    roles = line.pipeline.settings.config / "roles.yaml"
    role = {"purpose": "what the owner of a shop sees", "tenants": ["acme"], "tables": ["users"], "labels": ["identifier"],
            "people": True, "file": True}  # fmt: skip
    roles.write_text(yaml.safe_dump({**yaml.safe_load(roles.read_text()), "roles": {"owner": role}}))
    keep_role_files(line.pipeline.settings, line.pipeline.specs, line.pipeline.table)
    made = line.home / "published" / "roles" / "owner" / "acme.duckdb"
    assert made.exists() and late_role_files(line.pipeline, NOW) == ["owner/acme"]

    def no_space(new: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(role_files, "replace_file", no_space)
        taken = retain(line.pipeline, line.con, NOW)
    assert taken is not None and (taken.role_files, taken.versions, taken.published) == (("owner/acme",), (1,), 2)
    assert "version 2 is published, but the file of role owner/acme: " in "".join(taken.told)
    assert not made.exists() and late_role_files(line.pipeline, NOW) == []


def test_every_table_without_an_age_tells_of_nobody(before: Line) -> None:
    specs = before.pipeline.specs
    labels = load_labels(before.pipeline.settings, specs)
    # What follows the events of whom it names, and goes with the last of them.
    follows = (IDENTIFIERS, CONSENT_STATEMENTS, CONSENT_EXCEPTIONS, CONSENT_STATUS)
    ageless = [spec for spec in specs if age_of(spec) is None and spec not in follows]
    assert {spec.name: telling(labels, spec) for spec in ageless if telling(labels, spec)} == {}


@pytest.mark.parametrize(
    ("name", "limit", "sentence"),
    [
        ("operations", {"days": 30}, "'batches' cannot be dropped, since sums are held against it; say `then: anonymise`"),
        ("raw", {"days": 30, "then": "anonymise"}, "'rejected_events' cannot be anonymised; say `then: drop`"),
        ("aggregates", {"days": 29}, "'aggregates' would go before the 'events' that it counts; keep it as long"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_one_sentence(line: Line, name: str, limit: dict[str, Any], sentence: str) -> None:
    declare(line, {**LIMITS, "classes": {**LIMITS["classes"], name: limit}})
    with pytest.raises(ConfigError) as error:
        look(line.pipeline, line.con, NOW)
    assert str(error.value).startswith("retention.yaml:") and str(error.value).endswith(sentence)


# Readers, kills, and the command


def test_a_version_that_somebody_reads_stays_until_its_readers_had_their_time(line: Line) -> None:
    read = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); sys.stdin.read()"
    old = version_path(line.pipeline.home, 1)
    with subprocess.Popen([sys.executable, "-c", read, old], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == b"open\n"
        first = retain(line.pipeline, line.con, NOW)
        assert first is not None and first.read_by_others == (1,) and old.exists()
        # Its files are left to whoever has it open.
        line.pipeline.sweep(line.con)
        assert rows_of(old, "select min(timestamp) from events where tenant_id = 'acme'") == [(OLD,)]
        declare(line, {**LIMITS, "readers_hours": 0})
        later = retain(line.pipeline, line.con, NOW)
        assert later is not None and later.versions == (1,) and not old.exists()


def killed_after_commits(home: Path, config: Path, commits: int) -> None:
    """A pass that dies right after so many commits; of none it comes to its end."""
    commit, done = Table.commit, [0]

    def count(*given: Any, **named: Any) -> int:
        version = commit(*given, **named)
        done[0] += 1
        if done[0] == commits:
            os.kill(os.getpid(), signal.SIGKILL)
        return version

    Table.commit = count  # type: ignore[method-assign]
    with Line.at(home, config, NOW) as line:
        retain(line.pipeline, line.con, NOW)


@pytest.mark.long
def test_killed_again_and_again_a_pass_comes_to_the_same_end(line: Line, passed: tuple[Line, Taken]) -> None:
    config, died = line.pipeline.settings.config, -signal.SIGKILL
    for commits, end in ((3, died), (12, died), (0, 0)):
        assert run(killed_after_commits, line.home, config, commits) == end
    whole, _ = passed
    # New ids of what was anonymised are no one's.
    for spec in (REJECTED, SESSIONS, PAGE_VIEWS, RUNAWAYS, IDENTITIES, USERS, IDENTIFIERS, *mart_tables()):
        assert line.rows(spec) == whole.rows(spec), spec.name
    without = ("message_id", "message_key", "batch_id")
    assert line.rows(EVENTS, without=without) == whole.rows(EVENTS, without=without)
    assert line.rows(BATCHES, columns="sum(events), sum(received)") == whole.rows(BATCHES, columns="sum(events), sum(received)")
    assert late_versions(line.pipeline, NOW + timedelta(days=1)) == []


def test_the_command_shows_what_would_go(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(line.home))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(line.pipeline.settings.config))
    done = CliRunner().invoke(
        cli, ["privacy", "retention", "--dry-run", "--json"], standalone_mode=False, catch_exceptions=False
    )
    classes = {(one["retention"], one["tenant"]): one for one in json.loads(done.stdout)["classes"]}
    assert classes["events", None]["limit"] == {"days": 30, "then": "drop"} and classes["events", None]["past"] > 0
    assert classes["events", "initech"]["past"] == 0
