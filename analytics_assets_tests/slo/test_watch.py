"""Service levels of a real data home: what came when, what the published file answers, and what stops releases."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES
from analytics_assets.settings import UserError
from analytics_assets.slo.broken import RunEnd
from analytics_assets.slo.budget import Budget
from analytics_assets.slo.tables import QUERY_PROBES
from analytics_assets.slo.watch import ReleasesFrozen, ServiceLevels
from analytics_assets.warehouse.publish import Publishable, rollback
from analytics_assets.warehouse.publish import publish as publish_tables
from analytics_assets_tests.builders import NOW, Line, an_event, rows_of, write_events
from analytics_assets_tests.conftest import Retail


def later(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def levels(line: Line) -> ServiceLevels:
    return line.pipeline.levels


def budgets(line: Line, now: datetime) -> dict[str, Budget]:
    """Of acme, or of all tenants, by SLO."""
    return {one.slo: one for one in levels(line).look(line.con, now).budgets if one.tenant_id in (None, "acme")}


def publish(line: Line, now: datetime) -> None:
    """Publish what is loaded, without the tables behind it: they cost seconds, and say nothing about when it was."""
    pipeline = line.pipeline
    events, batches = (pipeline.table(spec).snapshot() for spec in (EVENTS, BATCHES))
    facts = levels(line).facts(line.con, events.version, now)
    tables = [Publishable(EVENTS, events), Publishable(BATCHES, batches)]
    publish_tables(pipeline.home, tables, now=now, facts=facts, release=True)


def declare(line: Line, **changes: object) -> None:
    """Change declarations."""
    line.pipeline.__dict__.pop("levels", None)
    path = line.pipeline.settings.config / "slos.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


@pytest.fixture
def published(line: Line) -> Iterator[Line]:
    """A line with an event of acme, published on time."""
    declare(line, probes={"queries": {"events": "select count(*) from events"}})
    line.load([an_event("m1")])
    publish(line, later(1))
    yield line


def test_an_outage_of_two_hours_lowers_the_budget_of_its_tenant_by_the_computed_amount(published: Line) -> None:
    line = published
    line.now = later(10)
    line.load([an_event("m2"), an_event("m3", tenant_id="globex")])
    # nobody looks, nothing runs, until it is published two hours after the promise
    publish(line, later(10 + 5 + 120))
    acme = budgets(line, later(200))["freshness"]
    assert (acme.bad_minutes, acme.budget_minutes) == (120, 403.2)
    assert acme.remaining == pytest.approx(1 - 120 / 403.2, abs=1e-6)
    row = rows_of(
        line.home / "published" / "analytics.duckdb",
        "select b.bad_minutes, b.remaining, m.bad, m.good from slo_error_budget b join (select slo, tenant_id, "
        "sum(bad_minutes) as bad, sum(good_minutes) as good from slo_measurements group by all) m using (slo, tenant_id) "
        "where slo = 'freshness' and tenant_id = 'acme'",
    )
    assert row == [(120, acme.remaining, 120, 15)]


def test_a_file_that_nobody_takes_spends_ingestion_and_freshness_before_and_after_it_is_loaded(published: Line) -> None:
    line = published
    file = write_events(line.home / "landing" / "acme" / "a.ndjson", [an_event("m2")])
    os.utime(file, (later(60).replace(tzinfo=UTC).timestamp(),) * 2)
    waiting = budgets(line, later(180))
    assert (waiting["ingestion_lag"].bad_minutes, waiting["freshness"].bad_minutes) == (105, 115)
    (landed,) = line.pipeline.landed(later(180))[0]
    line.pipeline.load_landed(line.con, landed, later(180))
    publish(line, later(190))
    after = budgets(line, later(240))
    assert after["ingestion_lag"].bad_minutes == pytest.approx(105, abs=0.5)
    assert after["freshness"].bad_minutes == 125


def test_late_data_spend_nothing_while_freshness_calls_them_fresh(published: Line) -> None:
    line = published
    line.load([an_event("new", timestamp=NOW)])
    publish(line, later(2))
    line.now = later(10)
    line.load([an_event("old", timestamp=NOW - timedelta(days=60))])
    states = {status.state for status in line.pipeline.watch.look(line.con, later(10 + 1500)).statuses}
    assert "late" not in states
    assert budgets(line, later(10 + 1500))["freshness"].bad_minutes == 0
    # the loosest promise is 26 hours
    assert budgets(line, later(10 + 1560 + 30))["freshness"].bad_minutes == 30


def test_a_rollback_spends_freshness_while_it_hides_something(published: Line) -> None:
    line = published
    line.now = later(10)
    line.load([an_event("m2")])
    publish(line, later(11))
    rollback(line.pipeline.home, None, now=later(100), reason="wrong prices")
    assert budgets(line, later(130))["freshness"].bad_minutes == 30


def test_a_clock_that_went_back_hides_nothing_that_is_published(published: Line) -> None:
    line = published
    line.load([an_event("m2")])
    publish(line, later(60 * 24))
    line.now = later(10)
    line.load([an_event("m3")])
    publish(line, later(11))
    assert budgets(line, later(300))["freshness"].bad_minutes == 6


def test_a_new_home_has_no_budgets(line: Line) -> None:
    assert levels(line).look(line.con, NOW).budgets == ()


# Runs


def test_a_failed_run_is_noted_once_and_holds_until_one_succeeds(published: Line) -> None:
    line, keeper = published, levels(published)
    failed = RunEnd("r1", "refresh", later(60), True, "no space left")
    for _ in range(2):
        keeper.note_runs(line.con, [failed], later(61))
    keeper.note_runs(line.con, [RunEnd("r2", "refresh", later(70), True)], later(71))
    assert budgets(line, later(90))["pipeline_success"].bad_minutes == 30
    assert [run.reason for run in keeper.failures(line.con, later(90))] == ["no space left"]
    keeper.note_runs(line.con, [RunEnd("r3", "refresh", later(100), False)], later(101))
    assert budgets(line, later(190))["pipeline_success"].bad_minutes == 40
    assert keeper.failures(line.con, later(190)) == []


def test_a_job_that_fails_for_another_reason_is_noted_for_each_until_it_succeeds(published: Line) -> None:
    line, keeper = published, levels(published)
    for n, reason in enumerate(["no space left", "no space left", "batch 17 is cut", "batch 18 is cut", "no space left"]):
        keeper.note_runs(line.con, [RunEnd(f"r{n}", "refresh", later(60 + n), True, reason)], later(70))
    assert [run.reason for run in keeper.failures(line.con, later(90))] == ["no space left", "batch 17 is cut"]
    assert budgets(line, later(90))["pipeline_success"].bad_minutes == 30
    keeper.note_runs(line.con, [RunEnd("r9", "refresh", later(100), False)], later(101))
    assert keeper.failures(line.con, later(110)) == []


def test_a_publish_by_hand_mends_a_refresh_that_failed(published: Line) -> None:
    line = published
    levels(line).note_runs(line.con, [RunEnd("r1", "refresh", later(60), True)], later(61))
    line.now = later(70)
    line.load([an_event("m2")])
    publish(line, later(75))
    assert budgets(line, later(190))["pipeline_success"].bad_minutes == 15


# Probes


def test_the_published_file_answers_and_is_asked_again_when_it_is_new_or_the_answer_is_old(published: Line) -> None:
    line, keeper = published, levels(published)

    def asked() -> int:
        return len(line.con.execute(f"select * from ({line.pipeline.table(QUERY_PROBES).snapshot().select()})").fetchall())

    counts = []
    for minutes in (2, 3, 16, 17, 18):
        assert keeper.probe(line.con, later(minutes)) == []
        counts.append(asked())
    assert counts == [1, 1, 1, 2, 2]
    line.load([an_event("m2")])
    publish(line, later(19))
    keeper.probe(line.con, later(19))
    assert asked() == 3
    assert budgets(line, later(60))["query_latency"].bad_minutes == 0


def test_what_cannot_be_answered_spends_the_budget_until_it_can(published: Line) -> None:
    line = published
    declare(line, probes={"queries": {"gone": "select * from gone"}})
    (said,) = levels(line).probe(line.con, later(30))
    assert said.startswith("gone: failed: Catalog Error: Table with name gone does not exist")
    assert budgets(line, later(60))["query_latency"].bad_minutes == 30
    # while it is so, it is asked at each look
    assert levels(line).probe(line.con, later(31)) != []


def test_a_slow_answer_spends_the_budget(published: Line) -> None:
    line = published
    seconds = iter([0.0, 5.0])
    assert levels(line).probe(line.con, later(30), lambda: next(seconds)) == ["events: 5.00 s"]
    assert budgets(line, later(31))["query_latency"].bad_minutes == 1
    levels(line).probe(line.con, later(32))
    assert budgets(line, later(90))["query_latency"].bad_minutes == 2


# The release gate


def frozen(line: Line, now: datetime) -> bool:
    """What a promotion finds after a look."""
    levels(line).settle_gate(line.con, levels(line).look(line.con, now), now)
    try:
        levels(line).confirm_open(line.con, now)
    except ReleasesFrozen:
        return True
    return False


def test_a_spent_budget_freezes_releases_with_the_reason_and_not_the_publishing(published: Line) -> None:
    line = published
    line.load([an_event("m2")])
    assert not frozen(line, later(400))
    assert frozen(line, later(410))
    with pytest.raises(ReleasesFrozen) as raised:
        levels(line).confirm_open(line.con, later(410))
    assert str(raised.value) == (
        "releases are frozen since 2026-03-20 18:50 UTC (error budget: freshness of acme: the budget burned 1 times too fast "
        "over the whole window (freeze from 1)); a budget that recovers, or `analytics gate release`, opens them"
    )
    publish(line, later(420))
    shown = rows_of(line.home / "published" / "analytics.duckdb", 'select state, since, until, "by" from release_gate')
    assert shown == [("frozen", later(410), None, "error budget")]


def test_a_spent_budget_freezes_releases_also_while_nobody_looks(published: Line) -> None:
    line, keeper = published, levels(published)
    line.load([an_event("m2")])
    keeper.confirm_open(line.con, later(400))
    with pytest.raises(ReleasesFrozen, match="error budget: freshness of acme"):
        keeper.confirm_open(line.con, later(410))
    # asking notes nothing, and what was not noted can be released
    assert keeper.gate(line.con) == []
    keeper.turn_gate(line.con, "open", "the launch cannot wait", "ada", later(420))
    keeper.confirm_open(line.con, later(430))
    assert [(change.state, change.by) for change in keeper.gate(line.con)] == [("frozen", "error budget"), ("open", "ada")]


def test_a_gate_opens_by_itself_when_the_budget_has_recovered(published: Line) -> None:
    line = published
    line.load([an_event("m2")])
    assert frozen(line, later(500))
    publish(line, later(501))
    assert frozen(line, later(27 * 24 * 60))
    assert not frozen(line, later(28 * 24 * 60 + 300))
    assert [(change.state, change.by) for change in levels(line).gate(line.con)] == [
        ("frozen", "error budget"), ("open", "error budget")
    ]  # fmt: skip


def test_a_release_by_hand_stands_until_as_much_is_broken_again(published: Line) -> None:
    line, keeper = published, levels(published)
    line.load([an_event("m2")])
    assert frozen(line, later(500))
    keeper.turn_gate(line.con, "open", "the launch cannot wait", "ada", later(510))
    # the budget is spent as before
    assert budgets(line, later(520))["freshness"].state == "freeze"
    assert not frozen(line, later(520))
    assert not frozen(line, later(510 + 403))
    assert frozen(line, later(510 + 404))


def test_what_a_person_froze_only_a_person_opens(published: Line) -> None:
    line, keeper = published, levels(published)
    keeper.turn_gate(line.con, "frozen", "the auditors are here", "ada", later(5))
    with pytest.raises(UserError, match="the release gate is frozen already; nothing was changed"):
        keeper.turn_gate(line.con, "frozen", "again", "bob", later(6))
    assert frozen(line, later(10))
    keeper.turn_gate(line.con, "open", "they left", "bob", later(20))
    assert not frozen(line, later(30))
    changes = [(change.state, change.until, change.reason, change.by) for change in keeper.gate(line.con)]
    assert changes == [("frozen", later(20), "the auditors are here", "ada"), ("open", None, "they left", "bob")]


def test_a_publish_tells_of_the_levels_as_they_are_once_it_is_out(line: Line) -> None:
    line.load([an_event("m1")])
    publish(line, later(15))
    file = line.home / "published" / "analytics.duckdb"
    assert rows_of(file, "select bad_minutes from slo_error_budget where slo = 'freshness'") == [(10,)]
    assert rows_of(file, "select day, good_minutes, bad_minutes from slo_measurements where slo = 'freshness'") == [
        (NOW.date(), 5, 10)
    ]


def test_the_whole_sample_is_published_with_its_levels(retail: Retail) -> None:
    ((tenants,),) = rows_of(retail.published, "select count(distinct tenant_id) from events")
    counts = [
        rows_of(retail.published, f"select count(*) from {table}")
        for table in ("slo_definitions", "slo_error_budget", "release_gate")
    ]
    # two objectives a tenant, two for all together
    assert counts == [[(8,)], [(2 * tenants + 2,)], [(0,)]]
    assert rows_of(retail.published, "select distinct state, remaining from slo_error_budget") == [("ok", 1)]
