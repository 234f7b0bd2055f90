"""What is learned of the memory of steps: judged by a week that it has not seen, and used only where it is better."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from analytics_assets.tuning.history import Begun, StepRun
from analytics_assets.tuning.in_force import ResourceConfig
from analytics_assets.tuning.learn import learned
from analytics_assets.tuning.models import Learned, LearnedClass, in_use, promote, use, versions
from analytics_assets.tuning.rules import TuningRules
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOW
from analytics_assets_tests.tuning.steps import daily

PRESET, RULES, MOST = ResourceConfig(512, 2), TuningRules(), 10_000
USED = Learned((256, 512, 1024, 2048), "most seen + 20 %", runs=30, judged=7, saving=0.5, lower=0.5, upper=0.5)
DAY = timedelta(days=1)


def learn(runs: list[StepRun], *, used: Learned | None = None, preset: ResourceConfig = PRESET) -> Learned | None:
    return learned({"sessions": runs}, {"sessions": used} if used else {}, preset, RULES, MOST, NOW).get("sessions")


def test_a_step_that_needs_a_quarter_of_its_preset_gets_less_and_then_the_preset() -> None:
    found = learn(daily(NOW, 40))
    assert found is not None and 120 <= found.requests_mb[0] < 256
    assert found.requests_mb[-3:] == (512, 1024, 2048)
    assert list(found.requests_mb) == sorted(set(found.requests_mb))
    assert 0.5 < found.saving < 0.8 and found.lower <= found.saving <= found.upper
    assert (found.runs, found.judged) == (40, 7) and found.others


def test_the_week_by_which_it_is_judged_is_not_learned_from() -> None:
    """What came since changes whether it is used, and never what it asks for."""
    before, since = daily(NOW - 7 * DAY, 33), daily(NOW, 7)
    calm = learn([*before, *since])
    grown = learn([*before, *(replace(run, need_mb=run.need_mb and 1.4 * run.need_mb) for run in since)])
    assert calm is not None and (grown is None or grown.requests_mb == calm.requests_mb)
    # All that was learned is too little in that week, and a killed attempt is paid: the preset wins.
    assert learn([*before, *(replace(run, need_mb=500.0) for run in since)]) is None


@pytest.mark.parametrize(
    "runs",
    [
        daily(NOW, 4),
        daily(NOW, 40, need_mb=None, over_mb=(512,), failed=True),
        daily(NOW, 40, need_mb=505.0),
    ],
)
def test_where_too_little_is_known_or_nothing_is_better_the_preset_stays(runs: list[StepRun]) -> None:
    assert learn(runs) is None


def test_what_is_in_use_stays_unless_something_is_better() -> None:
    best = learn(daily(NOW, 40))
    assert best is not None
    again = learn(daily(NOW, 40), used=best)
    assert again is not None and again.requests_mb == best.requests_mb
    better = learn(daily(NOW, 40), used=USED)
    assert better is not None and better.requests_mb == best.requests_mb
    # In a quiet week nothing is known against it.
    assert learn(daily(NOW - 8 * DAY, 30), used=USED) == USED


def test_a_step_that_outgrew_its_preset_is_advised_more() -> None:
    found = learn([replace(run, need_mb=900.0, over_mb=(512,)) for run in daily(NOW, 40)])
    assert found is not None and 900 <= found.requests_mb[0] < 1500
    assert found.saving > 0


# Classes of input


def of_input(size: int, days: int, need_mb: float, hour: int) -> list[StepRun]:
    """A run a day at that hour with so much before it."""
    return daily(NOW - timedelta(hours=hour), days, need_mb=need_mb, begun=Begun(input_bytes=size))


SMALL, LARGE = of_input(2_000_000, 40, 60.0, 0), of_input(500_000_000, 40, 450.0, 3)


def test_small_inputs_get_less_where_large_ones_need_all_of_the_preset() -> None:
    found = learn([*SMALL, *LARGE])
    assert found is not None and found.classes.keys() == {"up to 3 MB"}
    small = found.classes["up to 3 MB"]
    assert (small.runs, small.judged) == (33, 7) and small.requests_mb[0] < 180
    assert small.requests_mb[-3:] == found.requests_mb[-3:] == (512, 1024, 2048)
    assert found.requests_mb[0] >= 450 and found.requests_of("up to 1 GB") == found.requests_mb
    # What is said to be saved is of all runs.
    assert 0 < found.saving < small.saving


@pytest.mark.parametrize(
    "runs",
    [
        [*SMALL],
        [*SMALL, *of_input(500_000_000, 40, 60.0, 3)],
        [*SMALL[-12:], *LARGE],
        [*SMALL[:-7], *LARGE],
    ],
)
def test_a_class_of_which_too_little_is_known_or_that_needs_what_all_need_has_what_all_have(runs: list[StepRun]) -> None:
    found = learn(sorted(runs, key=lambda run: run.began))
    assert found is None or "up to 3 MB" not in found.classes


def test_a_class_in_a_quiet_week_keeps_what_it_has() -> None:
    used = learn([*SMALL, *LARGE])
    assert used is not None
    again = learn([*SMALL[:-7], *LARGE], used=used)
    assert again is not None and again.classes == used.classes


# Versions


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_model_is_kept_by_version_and_the_one_before_is_a_step_away(home: Home) -> None:
    assert (in_use(home).model, in_use(home).fault) == (None, None)
    used = replace(USED, classes={"up to 3 MB": LearnedClass((160, 512), "typical + 20 %", 33, 7, 0.4)})
    first, second = promote(home, {"sessions": used}, NOW), promote(home, {}, NOW + DAY)
    assert (first.version, first.before, second.version, second.before) == (1, 0, 2, 1)
    assert in_use(home).model == second
    use(home, second.before)
    assert in_use(home).model == first
    # Its number is never given again.
    assert promote(home, {}, NOW).version == 3 and versions(home) == [1, 2, 3]
    use(home, 0)
    assert (in_use(home).model, in_use(home).fault) == (None, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "model 1 is not there; steps have their presets"),
        ("{", "model 1 cannot be read (JSONDecodeError); steps have their presets"),
        ({"format": 9}, "model 1 is of another format; steps have their presets"),
        ({"version": 2}, "model 1 is of another format; steps have their presets"),
        ({"steps": {"sessions": {"requests_mb": [512, 128]}}}, "model 1 cannot be read (ValueError); steps have their presets"),
        ({"steps": {"sessions": {"requests_mb": [5]}}}, "model 1 cannot be read (ValueError); steps have their presets"),
    ],
)
def test_a_model_that_cannot_be_used_is_none_and_the_reason_is_told(home: Home, content: object, said: str) -> None:
    promote(home, {"sessions": USED}, NOW)
    (path,) = home.dagster.rglob("00001.json")
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else json.dumps({**json.loads(path.read_text()), **content}))  # type: ignore[dict-item]
    assert (in_use(home).model, in_use(home).fault) == (None, said)
