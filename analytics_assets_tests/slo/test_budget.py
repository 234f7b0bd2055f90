"""Error budgets under a clock of our own: minutes of a broken promise, and nothing else, use them up."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.freshness.tiers import Promises
from analytics_assets.slo.broken import Arrival, Delivery, Probe, RunEnd, Shown, failing, late, publishes, slow, turns
from analytics_assets.slo.budget import Budget, Evidence, Measured, measure
from analytics_assets.slo.declared import Objectives
from analytics_assets.slo.spans import Timeline, clip, length, union, without
from analytics_assets_tests.builders import NOON, at
from analytics_assets_tests.freshness.declared import promises
from analytics_assets_tests.slo.declared import SLOS, objectives

PAUSE = {"first": at(day=-10), "reason": "moves to a new shop"}
# 1 % of 28 days.
ALLOWED = 403.2
FIRST = {"acme": at(day=-60)}


def measured(
    slo: str = "freshness",
    *,
    first: dict[str, datetime] | None = None,
    declared: Objectives | None = None,
    promised: Promises | None = None,
    now: datetime = NOON,
    **evidence: Any,
) -> Measured:
    found = measure(declared or objectives(), promised or promises(), ["acme"], Evidence(first or FIRST, **evidence), now)
    return next(one for one in found if one.slo == slo)


def budget(slo: str = "freshness", **case: Any) -> Budget:
    return measured(slo, **case).budget(case.get("declared", objectives()).thresholds)


def delivered(since: datetime, version: int = 1) -> Delivery:
    return Delivery("acme", since, version)


def published(*moments: datetime) -> list[tuple[datetime, int, int]]:
    """Publications that show versions 1, 2, 3, ... of events."""
    return [(moment, n, n) for n, moment in enumerate(moments, 1)]


# What is counted


def test_an_outage_of_two_hours_costs_exactly_its_minutes_of_the_budget() -> None:
    received = at(-600)
    # five minutes are promised
    healthy = budget(deliveries=[delivered(received)], publications=published(received + timedelta(minutes=5)))
    outage = budget(deliveries=[delivered(received)], publications=published(received + timedelta(minutes=125)))
    assert (healthy.bad_minutes, healthy.remaining) == (0, 1)
    assert (outage.budget_minutes, outage.bad_minutes) == (ALLOWED, 120)
    assert outage.remaining == pytest.approx(1 - 120 / ALLOWED, abs=1e-6)
    assert healthy.remaining - outage.remaining == pytest.approx(120 / ALLOWED, abs=1e-6)


def test_it_is_the_same_whether_anybody_looked_meanwhile() -> None:
    """What is committed tells it all: a daemon that was down for six hours has the minutes counted when it is back."""
    received = at(-360)
    looked = [budget(deliveries=[delivered(received)], now=at(-n)).bad_minutes for n in (300, 120, 0)]
    assert looked == [55, 235, 355]
    assert budget(deliveries=[delivered(received)], publications=published(NOON), now=at(60)).bad_minutes == 355


def test_deliveries_that_wait_together_are_late_once() -> None:
    waiting = [delivered(at(-60 + n), 1 + n) for n in range(30)]
    assert budget(deliveries=waiting).bad_minutes == 55


def test_a_rollback_breaks_the_promise_for_what_it_hides() -> None:
    shown = [(at(-300), 1, 10), (at(-200), 2, 20), (at(-100), 1, 10), (at(-40), 3, 20)]
    assert budget(deliveries=[delivered(at(-205), 20)], publications=shown).bad_minutes == 60
    assert budget(deliveries=[delivered(at(-305), 10)], publications=shown).bad_minutes == 0


def test_a_quiet_tenant_spends_nothing() -> None:
    assert budget(deliveries=[]).remaining == 1


def test_a_tenant_without_evidence_and_a_paused_one_are_not_measured() -> None:
    seen = Evidence(FIRST, [delivered(at(-600))])
    for tenants, promised in ((["globex"], promises()), (["acme"], promises(acme={"pauses": [PAUSE]}))):
        found = measure(objectives(), promised, tenants, seen, NOON)
        assert {one.slo for one in found} == {"query_latency", "pipeline_success"}


def test_a_tenant_is_measured_from_its_first_evidence_and_has_the_whole_budget_then() -> None:
    row = measured(first={"acme": at(-90)}, deliveries=[delivered(at(-90))])
    (day,) = row.days()
    assert (day.good_minutes, day.bad_minutes) == (5, 85)
    assert row.budget(objectives().thresholds).budget_minutes == ALLOWED


def test_a_tenant_with_a_looser_tier_is_measured_by_it() -> None:
    own = promises(acme={"tier": "daily"})
    assert budget(deliveries=[delivered(at(-600))], promised=own).bad_minutes == 0


def test_a_tenant_has_the_objective_of_its_tenant_tier() -> None:
    tiers = {"standard": {"objective": 0.99}, "premium": {"objective": 0.995}}
    lag = {"standard": {"objective": 0.99, "within_minutes": 15}, "premium": {"objective": 0.995, "within_minutes": 5}}
    slos = {**SLOS, "freshness": {"tiers": tiers}, "pipeline_success": {"tiers": tiers}, "ingestion_lag": {"tiers": lag}}
    slos["query_latency"] = {"tiers": {name: {**tier, "within_seconds": 1} for name, tier in tiers.items()}}
    declared = objectives(slos=slos, tenant_tiers={"default": "standard", "tenants": {"acme": "premium"}})
    row = budget(deliveries=[delivered(at(-105))], declared=declared)
    assert (row.tier, row.budget_minutes, row.bad_minutes) == ("premium", ALLOWED / 2, 100)
    assert budget("ingestion_lag", arrivals=[Arrival("acme", at(-16))], declared=declared).bad_minutes == 11


def test_a_file_that_lies_in_its_folder_uses_up_the_budget_of_ingestion() -> None:
    arrivals = [Arrival("acme", at(-100), at(-70)), Arrival("acme", at(-20), at(-19)), Arrival("acme", at(-16))]
    assert budget("ingestion_lag", arrivals=arrivals).bad_minutes == 15 + 1


def test_a_slow_answer_counts_until_the_next_good_one() -> None:
    probes = [Probe("a", at(-90), 0.1), Probe("a", at(-60), 3.0), Probe("a", at(-45), None), Probe("a", at(-30), 0.1)]
    assert budget("query_latency", probes=probes).bad_minutes == 30
    # the answer to another query mends nothing
    assert budget("query_latency", probes=[*probes[:2], Probe("b", at(-50), 0.1)]).bad_minutes == 60


def ended(minutes: float, job: str = "refresh", *, failed: bool = True) -> RunEnd:
    return RunEnd(f"{job}{minutes}", job, at(minutes), failed)


@pytest.mark.parametrize(
    ("runs", "bad"),
    [
        ([ended(-60)], 60),
        ([ended(-60), ended(-20, failed=False)], 40),
        ([ended(-60), ended(-50), ended(-20, failed=False)], 40),
        # another job mends nothing, except that a refresh publishes
        ([ended(-60), ended(-20, "ingest", failed=False)], 60),
        ([ended(-60), ended(-20, "publish", failed=False)], 60),
        ([ended(-60, "publish"), ended(-20, failed=False)], 40),
        ([ended(-60, "ingest"), ended(-50), ended(-40, "ingest", failed=False)], 60),
    ],
)
def test_work_is_held_up_from_a_failed_run_until_one_succeeds(runs: list[RunEnd], bad: float) -> None:
    assert budget("pipeline_success", runs=runs).bad_minutes == bad
    # noting only what changes anything loses nothing
    assert budget("pipeline_success", runs=turns(runs)).bad_minutes == bad


def test_a_publish_shows_that_what_failed_is_mended_and_a_rollback_does_not() -> None:
    shown = [(at(-300), 1, 1), (at(-200), 2, 2)]
    assert budget("pipeline_success", runs=[ended(-60)], publications=[*shown, (at(-30), 1, 1)]).bad_minutes == 60
    assert budget("pipeline_success", runs=[ended(-60)], publications=[*shown, (at(-30), 3, 2)]).bad_minutes == 30
    assert budget("pipeline_success", runs=[ended(-60, "ingest")], publications=[*shown, (at(-30), 3, 2)]).bad_minutes == 60


def test_excused_time_is_good_time() -> None:
    move = {"first": at(-400), "last": at(-30), "reason": "agreed move"}
    case = {"deliveries": [delivered(at(-305))]}
    assert budget(**case).bad_minutes == 300
    assert budget(**case, declared=objectives(excused=[move])).bad_minutes == 30
    for others in ({"tenant": "globex"}, {"slo": "query_latency"}):
        assert budget(**case, declared=objectives(excused=[{**move, **others}])).bad_minutes == 300


def test_a_pause_that_is_over_has_spent_nothing_and_what_came_in_it_has_its_time_from_its_end() -> None:
    over = promises(acme={"pauses": [{**PAUSE, "last": at(-60)}]})
    waiting = [delivered(at(day=-9))]
    assert budget(deliveries=waiting, promised=promises()).bad_minutes > ALLOWED
    # five minutes are promised
    assert budget(deliveries=waiting, promised=over, publications=published(at(-56))).bad_minutes == 0
    assert budget(deliveries=waiting, promised=over).bad_minutes == 55
    # what was late before the pause was late
    assert (
        budget(deliveries=[delivered(at(-5 - 30, day=-10))], promised=over, publications=published(at(-56))).bad_minutes == 30
    )
    arrivals = [Arrival("acme", at(day=-9), at(-50))]
    assert budget("ingestion_lag", arrivals=arrivals, promised=over).bad_minutes == 0


# What it means


def late_for(minutes: float, *, ended_ago: float = 0) -> dict[str, Any]:
    """A delivery that came too late by so many minutes."""
    received = at(-ended_ago - minutes - 5)
    return {"deliveries": [delivered(received)], "publications": published(at(-ended_ago)) if ended_ago else []}


@pytest.mark.parametrize(
    ("case", "state"),
    [
        (late_for(0.5), "ok"),
        # 1 % of three days are 43 min, 6 % of six hours 22
        (late_for(21), "ok"),
        (late_for(22), "page"),
        (late_for(44, ended_ago=28), "page"),
        # it has stopped: nobody is woken
        (late_for(44, ended_ago=29), "warn"),
        (late_for(44, ended_ago=7 * 60), "ok"),
        (late_for(403), "page"),
        (late_for(404), "freeze"),
        # what is spent stays spent until it leaves the window
        (late_for(404, ended_ago=27 * 24 * 60), "freeze"),
        (late_for(404, ended_ago=28 * 24 * 60), "ok"),
    ],
)
def test_the_state_tells_how_fast_the_budget_goes(case: dict[str, Any], state: str) -> None:
    assert budget(**case).state == state


def test_a_budget_says_what_it_is_about() -> None:
    row = budget(**late_for(44))
    assert row.reason == "44 of 403 min used; the budget burned 12.2 times too fast over the last 6 h (page from 6)"
    assert row.burn_rates == '{"0.5 h": 100.0, "6 h": 12.222, "72 h": 1.019, "672 h": 0.109}'
    # it was reached after 21.6 minutes
    assert row.since and at(-22.4) <= row.since < at(-21.4)
    assert budget().since is None


# Rules

MOMENTS = st.integers(-50_000, 600).map(at)
SPANS = st.lists(st.tuples(MOMENTS, MOMENTS), max_size=12)
EVIDENCE = st.builds(
    Evidence,
    st.fixed_dictionaries({"acme": MOMENTS}),
    st.lists(st.builds(Delivery, st.just("acme"), MOMENTS, st.one_of(st.none(), st.integers(0, 9))), max_size=9),
    st.lists(st.builds(Arrival, st.just("acme"), MOMENTS, st.one_of(st.none(), MOMENTS)), max_size=9),
    st.lists(st.tuples(MOMENTS, st.integers(1, 9), st.integers(0, 9)), max_size=9).map(sorted),
    st.lists(st.builds(Probe, st.sampled_from(["a", "b"]), MOMENTS, st.sampled_from([None, 0.1, 9.0])), max_size=9),
    st.lists(
        st.builds(RunEnd, st.uuids().map(str), st.sampled_from(["ingest", "refresh", "publish"]), MOMENTS, st.booleans()),
        max_size=9,
    ),
)


@given(EVIDENCE)
def test_every_measured_minute_is_either_good_or_bad(evidence: Evidence) -> None:
    for one in measure(objectives(), promises(), ["acme"], evidence, NOON):
        days = one.days()
        minutes = (NOON - one.begin) / timedelta(minutes=1)
        assert minutes <= 28 * 24 * 60
        assert sum(day.good_minutes + day.bad_minutes for day in days) == pytest.approx(minutes)
        assert all(day.good_minutes >= 0 and day.bad_minutes >= 0 for day in days)
        assert len({day.day for day in days}) == len(days)
        row = one.budget(objectives().thresholds)
        assert row.bad_minutes == pytest.approx(sum(day.bad_minutes for day in days))
        assert row.remaining == pytest.approx(1 - row.bad_minutes / ALLOWED, abs=1e-5)


@given(EVIDENCE, st.integers(0, 40_000))
def test_time_that_passes_changes_nothing_that_was_measured(evidence: Evidence, minutes: int) -> None:
    """What a look finds of a day that is over is what any later look finds, as long as nothing else is committed."""
    before, after = (measure(objectives(), promises(), ["acme"], evidence, now) for now in (at(-minutes), NOON))
    for old, new in zip(before, after, strict=True):
        begin = max(old.begin, new.begin)
        assert old.bad.between(begin, old.now) == new.bad.between(begin, old.now)


@given(
    st.lists(st.tuples(MOMENTS, st.integers(0, 9)), max_size=9).map(sorted),
    st.lists(st.tuples(MOMENTS, st.integers(0, 9)), max_size=9),
)
def test_a_minute_is_late_if_readers_lack_what_came_before_its_promise(
    publications: list[tuple[datetime, int]], received: list[tuple[datetime, int]]
) -> None:
    """Held against the definition, a moment at a time."""
    spans = late((Delivery("acme", *one) for one in received), Shown(publications), timedelta(minutes=5), NOON)
    for minute in (-49_000, -20_000, -5_000, -600, -60, -1):
        moment = at(minute + 0.5)
        seen = next((version for since, version in reversed(publications) if since <= moment), -1)
        lacking = any(version > seen and since + timedelta(minutes=5) <= moment for since, version in received)
        assert any(begin <= moment < end for begin, end in spans) == lacking


@given(SPANS, SPANS, MOMENTS, MOMENTS)
def test_spans_are_sets_of_moments(one: Sequence[Any], other: Sequence[Any], begin: datetime, end: datetime) -> None:
    inside = clip(one, begin, end)
    assert Timeline(one).between(begin, end) == length(inside)
    both = length(one) + length(other) - length(union([*one, *other]))
    assert length(without(one, other)) == length(one) - both


def test_jobs_fail_apart() -> None:
    found = failing([ended(-60, "ingest"), ended(-30)], [], NOON)
    assert found == {"ingest": [(at(-60), NOON)], "refresh": [(at(-30), NOON)]}
    assert publishes([(at(-3), 1), (at(-2), 2), (at(-1), 1), (NOON, 3)]) == [at(-3), at(-2), NOON]
    assert slow([], 1, NOON) == []
