"""The gate: what fails a blocking expectation is not published, readers keep what they have, and a person can go on."""

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from analytics_assets.events.schema import EVENTS
from analytics_assets.gate import suites
from analytics_assets.marts.project import models
from analytics_assets.quality.judge import Numbers
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.settings import CONFIG, ConfigError, Settings
from analytics_assets.warehouse.expectation import Expectation
from analytics_assets.warehouse.publish import PublishRefused, current_version
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import replace_all
from analytics_assets_tests.builders import DAY, NOON, Line, Opener, a_config, an_event, at, rows_of, write_events

MONEY = next(suite.table for suite in suites() if suite.table.name == "revenue_daily")


def sold(message_id: str, **changes: object) -> dict[str, object]:
    return an_event(message_id, **{"revenue": 2.5, "quantity": 1, "currency": "GBP", "product_id": "cup", **changes})


def spoil(line: Line, spec: TableSpec, **columns: str) -> None:
    """Change what is stored, as a fault behind our back would; the day waits for a verdict again."""
    stored = line.pipeline.table(spec).snapshot().select()
    changed = ", ".join(f"{sql} as {name}" for name, sql in columns.items())
    line.con.execute(f"create or replace temp table spoilt as select * replace ({changed}) from ({stored})")
    replace_all(line.pipeline.table(spec), line.con, "select * from spoilt")
    line.pipeline.judge(line.con, line.now, days=[DAY])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data home in which two sales are published, and its declarations."""
    folder = tmp_path_factory.mktemp("gate")
    with Line.at(folder / "home", a_config(folder / "config")) as line:
        line.load([sold("m1"), sold("m2", timestamp=at(5))])
        line.rebuild()
        line.publish()
    return folder


@pytest.fixture
def published(template: Path, tmp_path: Path) -> Iterator[Line]:
    shutil.copytree(template, tmp_path / "copy", symlinks=True)
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def test_every_published_day_has_verdicts_on_every_table(published: Line) -> None:
    path = published.home / "published" / "analytics.duckdb"
    judged = {
        name for (name,) in rows_of(path, f"""select distinct "table" from quality_results where "partition" = '{DAY}'""")
    }
    assert judged >= {suite.table.name for suite in suites()} - {"batches", "rejected_events"}
    assert rows_of(path, "select count(*) from quality_results where success = 'fail'") == [(0,)]
    assert rows_of(path, "select count(*) > 0 from quality_results where success = 'unknown'") == [(True,)]


def test_a_blocking_failure_leaves_readers_what_they_have_and_says_which_and_how_many(published: Line) -> None:
    published.load([sold("m3", timestamp=at(9))])
    published.rebuild()
    spoil(published, MONEY, revenue="revenue + 1")
    with pytest.raises(PublishRefused, match=r"revenue_daily_adds_up of revenue_daily \(acme, 2026-03-10\): 1 instead of"):
        published.publish()
    assert current_version(published.pipeline.home) == 1


def test_a_refusal_lasts_until_the_day_is_right_again(published: Line) -> None:
    spoil(published, MONEY, revenue="revenue + 1")
    for _ in range(2):
        with pytest.raises(PublishRefused):
            published.publish()
    published.pipeline.rebuild_marts(published.con, [DAY])
    published.pipeline.judge(published.con, published.now, days=[DAY])
    assert published.publish().changed


def test_a_warning_holds_nothing_up(published: Line) -> None:
    published.load([sold("m3", currency="pounds")])
    published.rebuild()
    assert published.publish().changed
    path = published.home / "published" / "analytics.duckdb"
    assert rows_of(path, "select expectation, severity, tenant, observed from quality_results where success = 'fail'") == [
        ("events_name_their_currency", "warn", "acme", 1.0)
    ]


def test_rows_at_fault_are_shown_with_what_identifies_masked(published: Line) -> None:
    published.load([sold("m3", currency="pounds", user_id="jane@acme.test", anonymous_id="phone-77")])
    published.rebuild()
    published.publish()
    failed = [row for row in published.dicts(QUALITY_RESULTS) if row["success"] == "fail"]
    (sample,) = json.loads(failed[0]["samples"])
    # No clean day had either: they may be anything.
    assert (sample["currency"], sample["event"]) == ("(6 characters masked)", "(15 characters masked)")
    assert (sample["revenue"], sample["quantity"]) == ("2.5000", "(number masked)")
    assert "jane" not in failed[0]["samples"] and "phone" not in failed[0]["samples"] and "m3" not in failed[0]["samples"]


def test_every_failure_but_that_of_a_sum_can_show_rows_at_fault(published: Line) -> None:
    def everything(table: str, expectations: Sequence[Expectation], numbers: Numbers) -> dict[str, set[int]]:
        return {expected.name: set(range(len(numbers[expected.name]))) for expected in expectations}

    published.load([sold(f"n{n}", timestamp=at(n % 3)) for n in range(9)] + ["no event"] * 3)
    published.rebuild()
    judged = published.pipeline.gate.judge(published.con, [DAY], NOON, 1, "test", failing=everything)
    no_rows = {result.expectation for result in judged if result.success == "fail" and result.samples is None}
    accounting = {name for name in no_rows if name.endswith(("_count_all", "_earn_all", "_earns_all", "_schema", "_volume"))}
    assert no_rows - accounting == {
        "batch_is_as_recent_as_usual", "events_begin_when_usual", "events_end_when_usual", "events_miss_no_hour",
        "events_pieces", "events_revenue", "properties_are_carried_as_before", "sessions_length", "sessions_time_of_day",
        "users_hold_every_session",
    }  # fmt: skip
    shown = {result.expectation for result in judged if result.samples and json.loads(result.samples)}
    assert {"events_do_not_repeat_a_day"}.isdisjoint(no_rows) and "events_have_no_twins" in shown


def test_a_row_that_is_stored_twice_is_shown(published: Line) -> None:
    stored = published.pipeline.table(MONEY).snapshot().select()
    published.con.execute(f"create or replace temp table spoilt as select * from ({stored}) union all from ({stored})")
    replace_all(published.pipeline.table(MONEY), published.con, "select * from spoilt")
    found = published.pipeline.judge(published.con, published.now, days=[DAY])
    (doubled,) = [result for result in found if result.expectation == "revenue_daily_key" and result.success == "fail"]
    assert doubled.samples and [row["tenant_id"] for row in json.loads(doubled.samples)] == ["acme", "acme"]


def test_a_category_that_clean_days_have_is_shown(line: Line) -> None:
    for record in (sold("m1", timestamp=at(day=-1)), sold("m2", currency="pounds")):
        line.load([record])
        line.rebuild()
        line.publish()
    (failed,) = [row for row in line.dicts(QUALITY_RESULTS) if row["success"] == "fail"]
    (sample,) = json.loads(failed["samples"])
    assert (sample["event"], sample["currency"]) == ("Product Ordered", "(6 characters masked)")


def test_a_day_that_a_person_declared_holds_nothing_up_any_more(open_line: Opener) -> None:
    line = open_line()
    line.load([sold("m1")])
    line.rebuild()
    spoil(line, MONEY, revenue="revenue + 1")
    with pytest.raises(PublishRefused):
        line.publish()
    entry = {"tenant": "acme", "first": DAY, "last": DAY, "kind": "incident", "reason": "known, the shop corrects it"}
    (line.pipeline.settings.config / "incidents.yaml").write_text(yaml.safe_dump({"incidents": [entry]}))
    # The accounting between whole tables still refuses what does not add up.
    assert line.pipeline.gate.refusals(line.con) == []


def test_a_batch_of_which_a_fifth_is_rejected_holds_the_publish(published: Line) -> None:
    published.load([*(sold(f"n{n}", timestamp=at(n)) for n in range(20)), *("no event" for _ in range(10))])
    published.rebuild()
    with pytest.raises(PublishRefused, match="batch_rejects_few of batches"):
        published.publish()


def changed_format(line: Line) -> None:
    """Two thirds of a file come through, and the publish is refused; then another day comes, and a night passes."""
    path = write_events(line.home / "deliveries" / "changed.ndjson", [*GOOD, *("no event" for _ in range(10))])
    line.load(path)
    line.rebuild()
    with pytest.raises(PublishRefused, match="batch_rejects_few"):
        line.publish()
    line.now += timedelta(days=2)


GOOD = [sold(f"n{n}", timestamp=at(n)) for n in range(20)]
MENDED = [sold(f"x{n}", timestamp=at(n)) for n in range(10)]


@pytest.mark.parametrize("name", ["changed.ndjson", "mended.ndjson"])
def test_a_file_that_is_sent_again_whole_holds_nothing_up_any_more(published: Line, name: str) -> None:
    changed_format(published)
    published.load(write_events(published.home / "again" / name, [*GOOD, *MENDED]))
    published.rebuild()
    assert published.publish().changed


def test_another_file_of_the_tenant_does_not_set_right_what_waits_rejected(published: Line) -> None:
    changed_format(published)
    published.load([sold(f"other{n}", timestamp=at(n)) for n in range(40)])
    published.rebuild()
    with pytest.raises(PublishRefused, match="batch_rejects_few"):
        published.publish()


def test_what_was_replayed_holds_nothing_up_any_more_also_where_it_brought_no_event(published: Line, tmp_path: Path) -> None:
    wrong = [sold(f"x{n}", timestamp=at(n), tenant_id="initech") for n in range(10)]
    published.load([*GOOD, *wrong])
    published.rebuild()
    with Line.at(published.home, a_config(tmp_path / "fixed", tenants=["acme", "initech"]), at(day=12)) as line:
        # The same came otherwise meanwhile, so that the replay finds duplicates and no day waits.
        line.load([{**event, "properties": {"colour": "blue"}} for event in wrong])
        line.rebuild()
        with pytest.raises(PublishRefused, match="batch_rejects_few"):
            line.publish()
        (report,) = line.pipeline.replay_rejected(line.con, line.now, reason=None, source=None, tenant=None, dry_run=False)
        assert (report.duplicates, line.pipeline.pending(line.con)) == (10, [])
        assert line.publish().changed


def test_a_column_that_no_source_declares_is_warned_of(published: Line) -> None:
    path = published.home / "deliveries" / "wide.csv"
    path.write_text("tenant_id,message_id,event,timestamp,colour\nacme,w1,Seen,2026-03-10T12:30:00Z,red\n")
    assert published.load(path).undeclared == "colour"
    published.rebuild()
    published.publish()
    failed = [row["expectation"] for row in published.dicts(QUALITY_RESULTS) if row["success"] == "fail"]
    assert failed == ["batch_has_declared_columns_only"]


def test_what_was_judged_before_its_day_was_over_is_judged_again_afterwards(line: Line) -> None:
    line.load([sold("m1")])
    line.rebuild()
    line.now = NOON + timedelta(hours=1)
    line.publish()
    assert line.pipeline.gate.pending(line.con, line.now) == []
    assert line.pipeline.gate.pending(line.con, NOON + timedelta(days=1)) == [DAY]


def test_judging_a_day_leaves_the_verdicts_on_other_days(published: Line) -> None:
    published.load([sold("later", timestamp=at(day=1))])
    published.rebuild()
    published.publish()
    before = [row for row in published.dicts(QUALITY_RESULTS) if row["partition"] == DAY and row["table"] == "events"]
    published.pipeline.judge(published.con, published.now, days=[DAY + timedelta(days=1)])
    after = [row for row in published.dicts(QUALITY_RESULTS) if row["partition"] == DAY and row["table"] == "events"]
    assert before and before == after


def test_volume_is_learned_from_days_before_the_window_and_a_silent_tenant_is_missed(line: Line) -> None:
    days = [DAY + timedelta(days=n) for n in range(36)]
    both = [("acme", day) for day in days] + [("globex", day) for day in days]

    def of(tenant: str, day: date) -> list[dict[str, object]]:
        start = NOON + (day - DAY)
        return [
            sold(f"{tenant}-{day}-{n}", tenant_id=tenant, timestamp=start + timedelta(minutes=n), received_at=at(day=37))
            for n in range(100 if tenant == "acme" else 3)
        ]

    line.now = NOON + timedelta(days=37)
    line.load([event for tenant, day in both[:-1] if (tenant, day) != ("acme", days[-1]) for event in of(tenant, day)])
    line.load(of("globex", days[-1]))
    line.rebuild()
    version = line.pipeline.built_version()
    for window in (days[:-1], days[-1:]):
        line.pipeline.gate.judge(line.con, window, line.now, version, "test")
    volumes = {
        (row["tenant"], row["partition"]): row["success"]
        for row in line.dicts(QUALITY_RESULTS)
        if row["expectation"] == "events_volume"
    }
    assert {volumes["acme", day] for day in days[:-1]} == {"unknown"}
    assert volumes["acme", days[-1]] == "fail"
    assert volumes["globex", days[-1]] == "unknown"


def test_a_late_event_of_long_ago_does_not_take_todays_history_away(line: Line) -> None:
    """Nothing is learned from the window that is judged, so days far apart are windows of their own."""
    days = [DAY + timedelta(days=7 * n) for n in range(6)]
    line.now = NOON + timedelta(days=43)
    line.load([sold(f"{day}-{n}", timestamp=NOON + (day - DAY), received_at=at(day=43)) for day in days for n in range(100)])
    line.rebuild()
    line.pipeline.judge(line.con, line.now)
    today = at(day=42)
    line.load([sold("now", timestamp=today), sold("late", timestamp=at(day=-300))])
    line.rebuild()
    line.pipeline.judge(line.con, line.now)
    failed = {row["expectation"] for row in line.dicts(QUALITY_RESULTS) if row["success"] == "fail"}
    assert failed == {"events_volume"}


@pytest.mark.parametrize(("every_day", "success"), [(True, "pass"), (False, "fail")])
def test_a_repeated_day_is_a_fault_only_of_a_tenant_that_does_not_repeat_itself(
    line: Line, every_day: bool, success: str
) -> None:
    """One sends the same each day, as a timer does; of the other, whose minutes differ, a day comes again on the last one."""

    def of(number: int) -> list[dict[str, object]]:
        drift = 0 if every_day else 60 * min(number, 11)
        return [sold(f"{number}-{n}", timestamp=at(drift + n, day=number), received_at=at(day=14)) for n in range(60)]

    line.now = at(day=15)
    line.load([event for number in range(12) for event in of(number)] + of(12))
    line.rebuild()
    version, days = line.pipeline.built_version(), [DAY + timedelta(days=n) for n in range(13)]
    for window in (days[:-1], days[-1:]):
        found = line.pipeline.gate.judge(line.con, window, line.now, version, "test")
    told = {r.success for r in found if r.expectation == "events_do_not_repeat_a_day"}
    assert told == {success}


def test_every_published_table_of_data_has_a_list_and_no_name_is_used_twice() -> None:
    names = [expected.name for suite in suites() for expected in suite.expectations]
    assert len(names) == len(set(names))
    assert not set(names) & {test.name for model in models().values() for test in model.tests}
    assert all(expected.says.endswith(".") or ":" in expected.says for suite in suites() for expected in suite.expectations)
    assert {suite.table.name for suite in suites()} >= {EVENTS.name, *(n for n, m in models().items() if m.layer == "marts")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("incidents:\n  - {first: 2026-03-02, last: 2026-03-01, kind: normal, reason: none}\n", "2: incidents.0: it ends on"),
        ("incidents:\n  - {first: 2026-03-02, last: 2026-03-03, kind: odd, reason: none}\n", "2: incidents.0.kind: "),
    ],
)
def test_a_wrong_declaration_of_an_incident_is_one_sentence_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    config = a_config(tmp_path / "config")
    (config / "incidents.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"incidents.yaml:{said}"):
        Settings(tmp_path, config).incidents  # noqa: B018


def test_the_declarations_of_the_project_hold_no_incident() -> None:
    assert Settings(Path("nowhere"), CONFIG).incidents == ()
