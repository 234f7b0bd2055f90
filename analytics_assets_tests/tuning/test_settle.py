"""What becomes of a step's resources: nothing by itself until a person says act, one change at a time, back if it got worse."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.tuning.classes import CLASSES
from analytics_assets.tuning.config_tables import OfClass, Standing, in_order, rows_of, standings_of
from analytics_assets.tuning.history import StepRun
from analytics_assets.tuning.in_force import ResourceConfig
from analytics_assets.tuning.licence import Override
from analytics_assets.tuning.models import Learned, LearnedClass
from analytics_assets.tuning.rules import TuningRules
from analytics_assets.tuning.settle import Known, Settled, config_of, first_standing, overridden, released, settle
from analytics_assets_tests.builders import NOW
from analytics_assets_tests.tuning.steps import daily

DAY = timedelta(days=1)
PRESET = ResourceConfig(512, 2)
LEARNED = Learned(
    (160, 320, 512), "most seen + 20 %", runs=40, judged=10, saving=0.6, lower=0.5, upper=0.7, others=("typical",)
)
ACT, ADVISE, OBSERVE = (TuningRules(mode=mode) for mode in ("act", "advise", "observe"))
RUNS = daily(NOW, 40)
KNOWN = Known(PRESET, RUNS, LEARNED, version=3)
# Of small inputs something else is known.
SMALL = LearnedClass((100, 512), "typical + 20 %", runs=20, judged=6, saving=0.3)
BY_CLASS = replace(LEARNED, classes={"up to 3 MB": SMALL})
FIRST = first_standing("sessions", '["sessions"]', PRESET)
# As the look before left it: with a baseline.
READY = settle(FIRST, KNOWN, ACT, NOW - DAY).standing
WEEK = Override("pin", "the sale on Friday", NOW + 7 * DAY)


def gate(frozen: bool) -> Callable[[], str | None]:
    return lambda: "releases are frozen" if frozen else None


def kinds(settled: Settled) -> list[str]:
    return [one.kind for one in settled.decisions]


def after(standing: Standing, days: int, **changes: Any) -> list[StepRun]:
    """The runs before, and one a day since the change, under what it put in force."""
    config = config_of(standing)
    assert config is not None and standing.since is not None
    end = standing.since + days * DAY
    return [*RUNS, *daily(end + timedelta(hours=2), days, source=config.source, limit_mb=config.memory_mb, **changes)]


def test_a_model_that_is_better_is_applied_where_a_person_allows_it_and_a_baseline_is_stored() -> None:
    assert READY.source == "preset" and READY.baseline_runs == 40
    done = settle(READY, KNOWN, ACT, NOW)
    assert kinds(done) == ["change"]
    config = config_of(done.standing)
    assert config == ResourceConfig(160, 2, (320, 512), "model 3")
    assert (done.decisions[0].was_mb, done.decisions[0].memory_mb, done.decisions[0].saving) == (512, 160, 0.6)
    assert done.decisions[0].reasons == "5 weeks of telemetry, a baseline of 40 runs, a won back-test"
    assert done.decisions[0].alternatives == '["typical"]'


def test_what_was_learned_of_a_class_of_input_is_applied_with_the_rest_and_taken_back_with_it() -> None:
    known = replace(KNOWN, learned=BY_CLASS)
    done = settle(READY, known, ACT, NOW)
    assert config_of(done.standing) == ResourceConfig(160, 2, (320, 512), "model 3", classes={"up to 3 MB": (100, 512)})
    assert done.decisions[0].by_class == '{"up to 3 MB": 100}'
    worse = replace(known, runs=after(done.standing, 6, gib_hours=14.0))
    back = settle(done.standing, worse, ACT, NOW + 7 * DAY)
    assert kinds(back) == ["revert"] and config_of(back.standing) is None
    assert [one.memory_mb for one in back.standing.classes] == [512]


def test_a_step_that_has_what_is_best_for_all_is_still_changed_for_a_class() -> None:
    usual = replace(BY_CLASS, requests_mb=(512, 1024))
    assert kinds(settle(READY, replace(KNOWN, learned=replace(usual, classes={})), ACT, NOW)) == []
    done = settle(READY, replace(KNOWN, learned=usual), ACT, NOW)
    assert kinds(done) == ["change"]
    # A run of that class that is lost to memory takes it back at once.
    lost = replace(KNOWN, learned=usual, runs=after(done.standing, 1, failed=True, over_mb=(100, 512)))
    assert kinds(settle(done.standing, lost, ACT, NOW + 2 * DAY)) == ["revert"]


def test_a_class_is_advised_once_and_a_person_has_the_word_for_all_inputs() -> None:
    first = settle(FIRST, replace(KNOWN, learned=BY_CLASS), ADVISE, NOW)
    assert kinds(first) == ["advice"] and first.decisions[0].by_class == '{"up to 3 MB": 100}'
    assert kinds(settle(first.standing, replace(KNOWN, learned=BY_CLASS), ADVISE, NOW + DAY)) == []
    more = replace(BY_CLASS, classes={"up to 3 MB": replace(SMALL, requests_mb=(130, 512))})
    assert kinds(settle(first.standing, replace(KNOWN, learned=more), ADVISE, NOW + DAY)) == ["advice"]
    changed = settle(READY, replace(KNOWN, learned=BY_CLASS), ACT, NOW).standing
    pinned = overridden(changed, KNOWN, WEEK, NOW, ResourceConfig(1024, 1)).standing
    assert config_of(pinned) == ResourceConfig(1024, 1, (), "pinned", NOW + 7 * DAY)


@given(st.lists(st.sampled_from(CLASSES), unique=True, max_size=4), st.booleans())
def test_a_step_is_kept_in_a_row_for_each_class_and_read_again(names: list[str], advised: bool) -> None:
    classes = in_order(
        OfClass(name, 128, "[512]", *((20, 256, "[512]", "typical", 6, 0.3) if advised else ())) for name in names
    )
    standing = replace(READY, classes=classes)
    rows = rows_of(standing)
    assert [row[1] for row in rows] == [None, *sorted(names, key=CLASSES.index)]
    assert standings_of(rows[::-1]) == {"sessions": standing}


def test_nothing_is_changed_without_a_baseline_that_was_stored_before() -> None:
    first = settle(FIRST, KNOWN, ACT, NOW)
    assert kinds(first) == ["advice"] and first.standing.reasons == "no baseline was stored before"
    assert kinds(settle(first.standing, KNOWN, ACT, NOW + DAY)) == ["change"]


def test_with_three_weeks_there_is_advice_alone_and_it_flips_at_the_fourth() -> None:
    three = replace(KNOWN, runs=daily(NOW, 22))
    ready = settle(FIRST, three, ACT, NOW).standing
    assert (ready.mode, ready.reasons) == ("advise", "3 weeks of telemetry, and acting needs 4; no baseline was stored before")
    four = replace(KNOWN, runs=daily(NOW + 7 * DAY, 29))
    assert kinds(settle(ready, four, ACT, NOW + 7 * DAY)) == ["change"]


def test_advice_is_told_once_and_changes_nothing() -> None:
    first = settle(FIRST, KNOWN, ADVISE, NOW)
    assert kinds(first) == ["advice"] and config_of(first.standing) is None
    assert (first.decisions[0].memory_mb, first.decisions[0].model) == (160, 3)
    again = settle(first.standing, KNOWN, ADVISE, NOW + DAY)
    assert kinds(again) == []
    other = replace(KNOWN, learned=replace(LEARNED, requests_mb=(200, 512)))
    assert kinds(settle(again.standing, other, ADVISE, NOW + 2 * DAY)) == ["advice"]


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"learned": None, "version": 0}, ACT),
        ({"learned": replace(LEARNED, saving=-0.1)}, ACT),
        ({"learned": replace(LEARNED, requests_mb=(500, 1024))}, ACT),
        ({"frozen": lambda: "releases are frozen"}, ACT),
        ({}, ADVISE),
        ({}, OBSERVE),
    ],
)
def test_a_step_stays_as_it_is(change: dict[str, Any], rules: TuningRules) -> None:
    done = settle(READY, replace(KNOWN, **change), rules, NOW)
    assert config_of(done.standing) is None
    assert "change" not in kinds(done)


def test_where_nothing_was_learned_yet_that_is_the_reason_and_not_a_lost_back_test() -> None:
    assert settle(READY, replace(KNOWN, learned=None, version=0), ACT, NOW).standing.reasons == "no back-test yet"
    assert settle(READY, replace(KNOWN, learned=None), ACT, NOW).standing.reasons == "the preset won the back-test"


def test_a_change_that_made_nothing_worse_is_kept_and_measured() -> None:
    changed = settle(READY, KNOWN, ACT, NOW).standing
    known = replace(KNOWN, runs=after(changed, 20, gib_hours=4.0))
    done = settle(changed, known, ACT, NOW + 21 * DAY)
    assert kinds(done) == ["keep"] and done.standing.trial == "kept"
    assert done.measured and done.measured.saving == pytest.approx(0.6, abs=0.05)
    assert config_of(done.standing) == config_of(changed)


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"gib_hours": 14.0}, "it costs "),
        ({"failed": True, "over_mb": (160, 320, 512)}, "6 of 6 runs since the change were lost to memory"),
        ({"gib_hours": 4.0, "seconds": 700.0}, "6 of 6 runs missed the deadline of 600 s"),
    ],
)
def test_a_change_that_made_something_worse_is_taken_back_also_while_changes_are_frozen(
    worse: dict[str, Any], reason: str
) -> None:
    changed = settle(READY, KNOWN, ACT, NOW).standing
    known = replace(KNOWN, runs=after(changed, 6, **worse), frozen=lambda: "releases are frozen")
    rules = ACT.model_copy(update={"deadlines": {"sessions": 10}})
    done = settle(changed, known, rules, NOW + 7 * DAY)
    assert kinds(done) == ["revert"] and done.decisions[0].reasons.startswith(reason)
    assert config_of(done.standing) is None and done.standing.memory_mb == 512
    # The same model is not tried again, a newer one is.
    later = settle(done.standing, replace(known, frozen=lambda: None), rules, NOW + 8 * DAY)
    assert kinds(later) == [] and "model 3 was taken back; only a newer one is tried" in later.standing.reasons
    newer = settle(later.standing, replace(known, frozen=lambda: None, version=4), rules, NOW + 9 * DAY)
    assert kinds(newer) == ["change"]


def test_one_change_at_a_time() -> None:
    changed = settle(READY, KNOWN, ACT, NOW).standing
    other = replace(KNOWN, learned=replace(LEARNED, requests_mb=(300, 512)), version=4, runs=after(changed, 2))
    done = settle(changed, other, ACT, NOW + 3 * DAY)
    assert kinds(done) == ["advice"] and config_of(done.standing) == config_of(changed)
    assert "one change at a time: model 3 since 2026-03-20 12:00 UTC is still being measured" in done.standing.reasons


def test_a_model_that_was_gone_back_from_leaves_its_steps_at_once() -> None:
    changed = settle(READY, KNOWN, ACT, NOW).standing
    done = settle(changed, replace(KNOWN, version=2), ACT, NOW + DAY)
    assert kinds(done) == ["revert"] and config_of(done.standing) is None
    assert done.decisions[0].reasons == "model 3 is not in use any more"


def test_the_word_of_a_person_wins_until_it_ends() -> None:
    pinned = overridden(READY, KNOWN, WEEK, NOW, ResourceConfig(1024, 1)).standing
    assert config_of(pinned) == ResourceConfig(1024, 1, (), "pinned", NOW + 7 * DAY)
    during = settle(pinned, KNOWN, ACT, NOW + DAY)
    assert kinds(during) == [] and config_of(during.standing) == config_of(pinned)
    assert during.standing.reasons == "a person pinned it until 2026-03-27 12:00 UTC: the sale on Friday"
    ended = settle(during.standing, KNOWN, ADVISE, NOW + 7 * DAY)
    assert kinds(ended)[0] == "ended" and config_of(ended.standing) is None


def test_a_veto_leaves_the_preset_whatever_was_in_force() -> None:
    changed = settle(READY, KNOWN, ACT, NOW).standing
    vetoed = overridden(changed, KNOWN, replace(WEEK, kind="veto"), NOW + DAY).standing
    assert config_of(vetoed) == ResourceConfig(512, 2, (), "vetoed", NOW + 7 * DAY)
    assert kinds(settle(vetoed, KNOWN, ACT, NOW + 2 * DAY)) == []
    freed = released(vetoed, KNOWN, "it was another table", NOW + 2 * DAY)
    assert kinds(freed) == ["release"] and config_of(freed.standing) is None


def test_the_effect_of_a_pin_is_measured_and_never_taken_back() -> None:
    pinned = overridden(READY, KNOWN, WEEK, NOW, ResourceConfig(1024, 1)).standing
    done = settle(pinned, replace(KNOWN, runs=after(pinned, 6, gib_hours=20.0)), ACT, NOW + 6.5 * DAY)
    assert kinds(done) == [] and config_of(done.standing) == config_of(pinned)
    assert done.measured and done.measured.saving and done.measured.saving < -0.8


learned = st.none() | st.builds(
    replace,
    st.just(LEARNED),
    saving=st.floats(-1, 1),
    requests_mb=st.sampled_from([(130, 512), (160, 512), (600,)]),
    classes=st.sampled_from([{}, {"up to 3 MB": SMALL}, {"up to 1 GB": replace(SMALL, requests_mb=(400, 512))}]),
)


@given(st.lists(st.tuples(st.booleans(), learned, st.integers(0, 5), st.booleans()), max_size=12))
def test_without_a_licence_to_act_no_step_ever_gets_anything_but_its_preset(
    looks: list[tuple[bool, Learned | None, int, bool]],
) -> None:
    """Whatever is learned, frozen or declared on the way: act is never declared."""
    standing, now = FIRST, NOW
    for observe, said, version, frozen in looks:
        now += DAY
        known = Known(PRESET, daily(now, 40), said, version, gate(frozen))
        standing = settle(standing, known, OBSERVE if observe else ADVISE, now).standing
        assert config_of(standing) is None


@given(st.lists(st.tuples(learned, st.integers(0, 5), st.sampled_from([4.0, 10.0, 30.0]), st.booleans()), max_size=12))
def test_whatever_comes_a_change_is_always_one_that_a_decision_tells(
    looks: list[tuple[Learned | None, int, float, bool]],
) -> None:
    standing, now, runs = READY, NOW, list(RUNS)
    for said, version, cost, frozen in looks:
        now += 3 * DAY
        config = config_of(standing)
        source, limit = (config.source, config.memory_mb) if config else ("default", 512)
        runs += daily(now, 3, source=source, limit_mb=limit, gib_hours=cost)
        done = settle(standing, Known(PRESET, runs, said, version, gate(frozen)), ACT, now)
        if config_of(done.standing) != config:
            assert set(kinds(done)) & {"change", "revert"}
            assert not (frozen and "change" in kinds(done))
        assert kinds(done).count("change") <= 1
        standing = done.standing
