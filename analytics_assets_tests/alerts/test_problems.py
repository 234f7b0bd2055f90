"""What is wrong and why it probably is: from what was found, each rule alone, and the first stage that does not go on."""

from dataclasses import replace
from typing import Any

import pytest

from analytics_assets.alerts.problems import RULES, Problem, Situation, cause, problems, said
from analytics_assets.freshness.judge import State, Status, Unusable
from analytics_assets.privacy.alarm import Finding
from analytics_assets.quality.tables import QualityResult, refusal
from analytics_assets.slo.broken import RunEnd
from analytics_assets.slo.budget import Budget
from analytics_assets.slo.release import GateChange
from analytics_assets.tuning.tables import Decided
from analytics_assets_tests.builders import DAY, NOON, at


def a_status(state: State = "fresh", tenant: str = "acme", **changes: Any) -> Status:
    waits = state in ("late", "held")
    status = Status(
        tenant, "events", "near_real_time", 5, 65 if waits else 0, at(-65) if waits else NOON, at(-65), state, "in words"
    )
    return replace(status, **changes)


def a_budget(slo: Any = "freshness", state: Any = "warn", tenant: str | None = "acme") -> Budget:
    return Budget(slo, "standard", tenant, 403.2, 201.6, 0.5, "{}", state, at(-30), "202 of 403 min used")


def failed(job: str, reason: str = "no space left") -> RunEnd:
    return RunEnd("0123456789", job, at(-20), True, reason)


def a_failure(**changes: Any) -> QualityResult:
    """A blocking expectation that failed."""
    failure = QualityResult(
        "events", "acme", DAY, "nulls", "block", "fail", 0.5, "at most 0", "has no nulls", None, 1, "r1", at(-10)
    )
    return replace(failure, **changes)


def a_spike(pool: str = "shop") -> Decided:
    return Decided(
        pool, NOON, None, "events", "advise", 2, 1, None, 9, 9000, None, None, 1500, None, "spike", "raised from 1 to 2",
        "load of 9,000 is over the 1,500 expected at most",
    )  # fmt: skip


def found(**changes: Any) -> list[Problem]:
    return problems(Situation(NOON, **{"statuses": [a_status()], **changes}))


def test_a_healthy_home_has_no_problem() -> None:
    states: list[State] = ["fresh", "quiet", "paused", "empty"]
    healthy = [a_status(state) for state in states]
    assert found(statuses=healthy, budgets=[a_budget(state="ok")], gate=GateChange("open", NOON, None, "fine", "ada")) == []


@pytest.mark.parametrize(
    ("changes", "rule", "severity", "line"),
    [
        (
            {"statuses": [a_status("late"), a_status("late", table="users", promised_minutes=60)]}, "table_late", "warn",
            "table_late: acme: 2 tables are late: in words (since 2026-03-10 11:00 UTC); probably: all is built and not "
            "published yet: a run is going still, or `analytics dev` is down",
        ),
        (
            {"held": ("wrong prices", at(-30))}, "publishing_held", "warn",
            "publishing_held: readers see an older version, and nothing new is published (since 2026-03-10 11:30 UTC); "
            "probably: a rollback: wrong prices",
        ),
        (
            {"statuses": [a_status("unknown")]}, "clock_ahead", "warn",
            "clock_ahead: acme: in words (since 2026-03-10 10:55 UTC); probably: a clock of this machine was set back",
        ),
        (
            {"unusable": {"acme": Unusable(at(-30), 1, "a.csv", "no header")}}, "delivery_not_usable", "warn",
            "delivery_not_usable: acme: a delivery received 2026-03-10 11:30 UTC could not be used: a.csv: no header (since "
            "2026-03-10 11:30 UTC); probably: the file was damaged on its way, or its format has changed",
        ),
        (
            {"statuses": [a_status("silent")]}, "source_silent", "warn",
            "source_silent: acme: in words (since 2026-03-10 10:55 UTC); probably: the source sends nothing",
        ),
        (
            {"refused": [a_failure(), a_failure(partition=at(day=1).date())]}, "publish_refused", "page",
            "publish_refused: acme: nulls of events (acme, 2026-03-10): 0.5 instead of at most 0; and on 1 more day (since "
            "2026-03-10 11:50 UTC); probably: the data that came in, or a change of a declaration",
        ),
        (
            {"failures": [failed("refresh")]}, "run_failed", "warn",
            "run_failed: refresh failed, and no run mended it since (since 2026-03-10 11:40 UTC); probably: no space left",
        ),
        (
            {"files_refused": ["landing/x/a: tenant 'x' is not declared"]}, "file_not_taken", "warn",
            "file_not_taken: landing/x/a: tenant 'x' is not declared (since 2026-03-10 12:00 UTC); probably: the file lies in "
            "the wrong folder",
        ),
        (
            {"personal_data": [Finding("acme", "segment", "page_url", "email", 1200, DAY, DAY)]},
            "personal_data_found", "warn",
            "personal_data_found: acme: 1,200 events have an e-mail address in page_url, whose label says that it names nobody "
            "(since 2026-03-10 00:00 UTC); probably: the sender (source segment) writes there what nobody declared",
        ),
        (
            {"spikes": [a_spike()]}, "load_spike", "warn",
            "load_spike: load of 9,000 is over the 1,500 expected at most; the pool shop should have 2 at once "
            "(since 2026-03-10 12:00 UTC); probably: more came than ever does at such an hour",
        ),
        (
            {"budgets": [a_budget()]}, "slo_freshness", "warn",
            "slo_freshness: acme: 50% of the budget is left: 202 of 403 min used (since 2026-03-10 11:30 UTC); probably: "
            "nothing is wrong now: it was spent before",
        ),
        (
            {"budgets": [a_budget("ingestion_lag", "page")], "files": {"acme": 1}}, "slo_ingestion_lag", "page",
            "slo_ingestion_lag: acme: 50% of the budget is left: 202 of 403 min used (since 2026-03-10 11:30 UTC); probably: "
            "a file waits to be loaded, and no load failed: `analytics dev` may be down",
        ),
        (
            {"budgets": [a_budget("query_latency", "freeze", None)], "slow": ["events_by_day: 5.00 s"]}, "slo_query_latency",
            "page",
            "slo_query_latency: 50% of the budget of all tenants of the tier standard is left: 202 of 403 min used (since "
            "2026-03-10 11:30 UTC); probably: events_by_day: 5.00 s",
        ),
        (
            {"gate": GateChange("frozen", at(-5), None, "the auditors are here", "ada")}, "releases_frozen", "warn",
            "releases_frozen: releases are frozen since 2026-03-10 11:55 UTC (ada: the auditors are here); `analytics gate "
            "release` opens them (since 2026-03-10 11:55 UTC); probably: the auditors are here",
        ),
    ],
)  # fmt: skip
def test_a_problem_says_what_whose_since_when_and_why(changes: dict[str, Any], rule: str, severity: str, line: str) -> None:
    (problem,) = found(**changes)
    assert (problem.rule, problem.severity, said(problem)) == (rule, severity, line)
    assert problem.rule in RULES


def test_a_failed_run_spends_the_budget_and_is_named() -> None:
    runs = [failed("ingest", "")]
    every = found(budgets=[a_budget("pipeline_success", tenant=None)], failures=runs)
    told = {problem.rule: problem.cause for problem in every}
    where = "see run 01234567 in the UI"
    assert told == {"slo_pipeline_success": f"ingest failed: {where}", "run_failed": where}


def test_what_wakes_somebody_comes_first_then_what_is_older() -> None:
    every = found(
        statuses=[a_status("silent"), a_status("late", "globex")], refused=[a_failure()], failures=[failed("refresh")]
    )
    assert [problem.rule for problem in every] == ["publish_refused", "source_silent", "table_late", "run_failed"]
    assert len({problem.key for problem in every}) == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"refused": [a_failure()]}, {"refused": [a_failure(), a_failure(tenant="globex")]}),
        ({"refused": [a_failure()]}, {"refused": [a_failure(), a_failure(expectation="keys")]}),
        ({"failures": [failed("refresh")]}, {"failures": [failed("refresh"), failed("refresh", "out of memory")]}),
        (
            {"personal_data": [Finding("acme", "segment", "page_url", "email", 1, DAY, DAY)]},
            {"personal_data": [Finding("acme", "segment", "page_url", kind, 2, DAY, DAY) for kind in ("email", "card")]},
        ),
        ({"spikes": [a_spike()]}, {"spikes": [a_spike(), a_spike("lab")]}),
        (
            {"files_refused": ["landing/x/a: is a link"]},
            {"files_refused": ["landing/x/a: is a link", "landing/x/b: is a link"]},
        ),
    ],
)
def test_a_second_incident_of_a_rule_is_a_problem_of_its_own(first: dict[str, Any], second: dict[str, Any]) -> None:
    """What is told is told once, under the key: with the key of the first the second would stay untold."""
    before, after = ({problem.key for problem in found(**case)} for case in (first, second))
    assert len(after - before) == 1 and before < after


def test_an_incident_that_goes_on_is_the_same_problem() -> None:
    cases: list[dict[str, Any]] = [
        {"refused": [a_failure()], "failures": [failed("refresh", "run 1a2b: 17 rows")]},
        {"refused": [a_failure(), a_failure(partition=at(day=1).date())], "failures": [failed("refresh", "run 3c4d: 18 rows")]},
    ]
    assert len({problem.key for case in cases for problem in found(**case)}) == 2


# The first stage that does not go on

EVERYTHING: dict[str, Any] = {
    "files": {"acme": 2}, "failures": [failed("ingest", "locked"), failed("refresh", "killed"), failed("publish", "full")],
    "held": ("wrong prices", at(-30)), "refused": [a_failure()], "days_waiting": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("mended", "why"),
    [
        ((), "2 files wait to be loaded, and the last load failed: locked"),
        (("ingest",), "2 files wait to be loaded, and no load failed: `analytics dev` may be down"),
        (("ingest", "files"), "publishing is held since a rollback (wrong prices)"),
        (("ingest", "files", "held"), f"a check refused the publish: {refusal([a_failure()])}"),
        (("ingest", "files", "held", "refused"), "2 days wait to be rebuilt, and the last rebuild failed: killed"),
        (
            ("ingest", "files", "held", "refused", "refresh"),
            "2 days wait to be rebuilt, and no rebuild failed: it is going still, or `analytics dev` is down",
        ),
        (("ingest", "files", "held", "refused", "refresh", "days_waiting"), "all is built, and the last publish failed: full"),
        (
            ("ingest", "files", "held", "refused", "refresh", "days_waiting", "publish"),
            "all is built and not published yet: a run is going still, or `analytics dev` is down",
        ),
    ],
)
def test_the_cause_is_the_first_stage_on_the_way_that_does_not_go_on(mended: tuple[str, ...], why: str) -> None:
    """One thing after the other is mended."""
    left = {name: value for name, value in EVERYTHING.items() if name not in mended}
    left["failures"] = [run for run in EVERYTHING["failures"] if run.job not in mended]
    assert cause(Situation(NOON, **left), "acme") == why
    # another tenant's files are not its own
    assert "files" not in cause(Situation(NOON, **left), "globex")
