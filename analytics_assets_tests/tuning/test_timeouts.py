"""How long an attempt may take: far longer than such runs do, only where enough is known, and where a person says act."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.tuning.config_tables import Standing
from analytics_assets.tuning.history import Begun, StepRun
from analytics_assets.tuning.in_force import ResourceConfig
from analytics_assets.tuning.licence import Override
from analytics_assets.tuning.rules import TimeoutRules, TuningRules
from analytics_assets.tuning.settle import Known, Settled, first_standing, overridden, settle
from analytics_assets.tuning.timeouts import timeouts
from analytics_assets_tests.builders import NOW
from analytics_assets_tests.tuning.steps import a_run, daily

DAY, PRESET, RULES = timedelta(days=1), ResourceConfig(512, 2), TimeoutRules()
SMALL = Begun(input_bytes=2_000_000)
CLASS = "up to 3 MB"


def ran(count: int, seconds: float, **changes: Any) -> list[StepRun]:
    return daily(NOW, count, seconds=seconds, begun=SMALL, **changes)


def timeout(runs: list[StepRun]) -> float | None:
    return timeouts({"sessions": runs}, RULES).get("sessions", {}).get(CLASS)


def test_a_class_that_is_known_well_has_a_timeout_far_over_what_its_runs_took() -> None:
    found = timeout(ran(40, 1000.0))
    assert found is not None and 3000 <= found < 10_000
    # Nothing is ever ended before ten minutes.
    assert timeout(ran(40, 5.0)) == 600


@pytest.mark.parametrize(
    "runs",
    [
        ran(19, 1000.0),
        ran(40, 1000.0, failed=True, outcome="failure"),
        daily(NOW, 40, seconds=1000.0),
        [*ran(40, 10.0), a_run(NOW, seconds=5000.0, begun=SMALL)],
    ],
)
def test_without_enough_runs_or_a_known_input_or_where_one_took_that_long_there_is_none(runs: list[StepRun]) -> None:
    assert timeout(runs) is None


def test_what_a_timeout_ended_has_twice_the_time_next() -> None:
    ended = a_run(NOW, seconds=6000.0, failed=True, outcome="timeout", need_mb=None, begun=SMALL)
    assert timeout([*ran(40, 1000.0), ended]) == 12_000


@given(st.lists(st.floats(0, 5000), min_size=20, max_size=40))
def test_of_the_newest_runs_none_would_have_been_ended(seconds: list[float]) -> None:
    runs = [replace(run, seconds=took) for run, took in zip(ran(len(seconds), 1.0), seconds, strict=True)]
    found = timeout(runs)
    assert found is None or (found >= 600 and all(run.seconds < found for run in runs[-10:]))


# Put in force

ACT, ADVISE = TuningRules(mode="act"), TuningRules(mode="advise")
KNOWN = Known(PRESET, daily(NOW, 40), timeouts={CLASS: 900.0})
FIRST = first_standing("sessions", '["sessions"]', PRESET)
# As the look before left it: with a baseline.
READY = settle(FIRST, KNOWN, ACT, NOW - DAY).standing


def in_force(standing: Standing) -> dict[str, float]:
    return {one.input_class: one.timeout_seconds for one in standing.classes if one.timeout_seconds is not None}


def kinds(settled: Settled) -> list[str]:
    return [one.kind for one in settled.decisions]


def test_a_timeout_is_put_in_force_where_a_person_says_act_and_a_decision_tells_it() -> None:
    assert in_force(READY) == {}
    done = settle(READY, KNOWN, ACT, NOW)
    assert in_force(done.standing) == {CLASS: 900.0} and done.standing.source == "preset"
    assert kinds(done) == ["timeout"]
    assert done.decisions[0].reasons == "attempts end after their timeout, for an input up to 3 MB: 900 s"
    # A little more or less is no news.
    same = settle(done.standing, replace(KNOWN, timeouts={CLASS: 950.0}), ACT, NOW + DAY)
    assert (kinds(same), in_force(same.standing)) == ([], {CLASS: 900.0})
    assert kinds(settle(READY, KNOWN, ADVISE, NOW)) == []


def test_a_timeout_waits_while_changes_are_frozen_and_goes_whatever_holds() -> None:
    frozen = replace(KNOWN, frozen=lambda: "releases are frozen")
    assert in_force(settle(READY, frozen, ACT, NOW).standing) == {}
    has = settle(READY, KNOWN, ACT, NOW).standing
    assert in_force(settle(has, frozen, ACT, NOW + DAY).standing) == {CLASS: 900.0}
    for known, rules in ((replace(frozen, timeouts={}), ACT), (frozen, ADVISE)):
        gone = settle(has, known, rules, NOW + DAY)
        assert kinds(gone) == ["timeout"] and in_force(gone.standing) == {}
        assert gone.decisions[0].reasons == "attempts end after their timeout, for an input up to 3 MB: none any more"


def test_the_word_of_a_person_leaves_a_step_all_its_time() -> None:
    has = settle(READY, KNOWN, ACT, NOW).standing
    word = Override("pin", "the sale on Friday", NOW + 7 * DAY)
    pinned = overridden(has, KNOWN, word, NOW, ResourceConfig(1024, 1)).standing
    assert in_force(pinned) == {} and in_force(settle(pinned, KNOWN, ACT, NOW + DAY).standing) == {}
