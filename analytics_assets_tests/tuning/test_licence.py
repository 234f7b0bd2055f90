"""Who may change what, and when: four weeks, a baseline, a won back-test, one change at a time, no freeze, and people first."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.tuning.licence import Evidence, Override, licence, weeks_known
from analytics_assets.tuning.rules import LicenceRules, Mode
from analytics_assets_tests.builders import NOW

RULES, DAY = LicenceRules(), timedelta(days=1)
READY = Evidence(weeks=4, baseline_runs=10, won=True)
PIN = Override("pin", "the sale on Friday", NOW + DAY)
STRICTEST: dict[Mode, int] = {"observe": 0, "advise": 1, "act": 2}

modes = st.sampled_from(list(STRICTEST))
some = st.none() | st.just("because")
overrides = st.none() | st.builds(Override, st.sampled_from(["pin", "veto"]), st.just("why"), st.just(NOW + DAY))
evidence = st.builds(
    Evidence,
    weeks=st.none() | st.integers(0, 60),
    baseline_runs=st.none() | st.integers(0, 60),
    won=st.none() | st.booleans(),
    active=some,
    taken_back=some,
    frozen=some,
    override=overrides,
)


@given(modes, evidence)
def test_acting_needs_everything_and_says_every_reason(declared: Mode, known: Evidence) -> None:
    given_ = licence(declared, known, RULES, NOW)
    enough = (known.weeks or 0) >= 4 and (known.baseline_runs or 0) >= 10 and known.won
    against = (known.active, known.taken_back, known.frozen, known.override)
    assert (given_.mode == "act") == bool(declared == "act" and enough and not any(against))
    assert STRICTEST[given_.mode] <= STRICTEST[declared]
    assert given_.reasons and all(given_.reasons)


@given(modes, evidence, evidence)
def test_what_is_not_known_never_permits_more(declared: Mode, known: Evidence, other: Evidence) -> None:
    for name in ("weeks", "baseline_runs", "won"):
        less = replace(known, **{name: None})
        assert STRICTEST[licence(declared, less, RULES, NOW).mode] <= STRICTEST[licence(declared, known, RULES, NOW).mode]


@pytest.mark.parametrize(
    ("change", "mode", "reason"),
    [
        ({}, "act", "4 weeks of telemetry, a baseline of 10 runs, a won back-test"),
        ({"weeks": 3}, "advise", "3 weeks of telemetry, and acting needs 4"),
        ({"weeks": 1}, "observe", "1 week of telemetry, and advice needs 2"),
        ({"baseline_runs": None}, "advise", "no baseline was stored before"),
        ({"baseline_runs": 9}, "advise", "the stored baseline has 9 of 10 runs"),
        ({"won": False}, "advise", "the preset won the back-test"),
        ({"active": "model 3 since Monday"}, "advise", "one change at a time: model 3 since Monday"),
        ({"taken_back": "model 3 cost more"}, "advise", "model 3 cost more"),
        ({"frozen": "releases are frozen"}, "advise", "releases are frozen"),
        ({"override": PIN}, "advise", "a person pinned it until 2026-03-21 12:00 UTC: the sale on Friday"),
        ({"override": replace(PIN, until=NOW)}, "act", "4 weeks of telemetry, a baseline of 10 runs, a won back-test"),
    ],
)
def test_each_rule_holds_by_itself(change: dict[str, object], mode: Mode, reason: str) -> None:
    given_ = licence("act", replace(READY, **change), RULES, NOW)  # type: ignore[arg-type]
    assert (given_.mode, given_.reasons) == (mode, (reason,))


@given(st.lists(st.integers(-10 * 24, 70 * 24).map(lambda hours: NOW - timedelta(hours=hours)), max_size=30))
def test_a_week_counts_if_the_step_ran_in_it_and_in_all_since(began: list[datetime]) -> None:
    weeks, known = weeks_known(began, NOW), [one for one in began if one <= NOW]
    for week in range(weeks):
        assert any(NOW - (week + 1) * 7 * DAY < one <= NOW - week * 7 * DAY for one in known)
    assert weeks == 0 or min(known) <= NOW - weeks * 7 * DAY


def test_four_weeks_are_four_whole_ones() -> None:
    hourly = [NOW - timedelta(hours=hour) for hour in range(28 * 24)]
    assert (weeks_known(hourly, NOW), weeks_known([*hourly, NOW - 28 * DAY], NOW)) == (3, 4)
