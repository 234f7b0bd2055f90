"""What is in force for a step: kept as it was written, bounded by the machine, and the preset where nothing can be read."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.settings import CONFIG, ConfigError
from analytics_assets.tuning.in_force import ResourceConfig, folder, ladder, read_in_force, suspend_timeouts, write_in_force
from analytics_assets.tuning.rules import FILE, MemoryRules, OutOfMemory, TuningRules
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOW

PRESET = ResourceConfig(512, 2)
LEARNED = ResourceConfig(1024, 2, (2048,), "model 4", classes={"up to 3 MB": (160, 512), "up to 1 GB": (2048,)})
PINNED = ResourceConfig(1024, 1, (2048, 4096), "pinned", NOW + timedelta(days=1))
MINUTE = timedelta(minutes=1)

sizes = st.integers(128, 1_048_576)


@settings(max_examples=15)
@given(st.dictionaries(st.text(max_size=8), st.lists(sizes, min_size=1, max_size=5, unique=True).map(sorted), max_size=4))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, asked: dict[str, list[int]]) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    configs = {
        step: ResourceConfig(rungs[0], 3, tuple(rungs[1:]), "model 4", NOW, {"up to 3 MB": tuple(rungs)})
        for step, rungs in asked.items()
    }
    write_in_force(home, configs)
    assert (read_in_force(home).configs, read_in_force(home).fault) == (configs, None)


def test_a_config_holds_until_its_end_and_for_its_step_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_in_force(home, {"sessions": PINNED})
    known = read_in_force(home)
    assert known.of("sessions", PRESET, NOW) == PINNED
    assert known.of("sessions", PRESET, NOW + timedelta(days=1)) == PRESET
    assert known.of("users", PRESET, NOW) == PRESET


@pytest.mark.parametrize(
    ("of_class", "sizes"),
    [("up to 3 MB", (160, 512)), ("up to 1 GB", (2048,)), ("up to 30 MB", (1024, 2048)), (None, (1024, 2048))],
)
def test_a_step_has_what_is_said_of_its_input_and_else_what_all_have(
    tmp_path: Path, of_class: str | None, sizes: tuple[int, ...]
) -> None:
    home = Home(tmp_path)
    write_in_force(home, {"sessions": LEARNED})
    found = read_in_force(home).of("sessions", PRESET, NOW, of_class)
    assert (found.memory_mb, *found.retry_mb) == sizes
    assert (found.source, found.classes) == ("model 4", {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("half", "in_force.json cannot be read (JSONDecodeError)"),
        ({"format": 0}, "in_force.json has the format 0, and 1 is read here"),
        ({"steps": {"sessions": {"memory_mb": 512}}}, "in_force.json cannot be read (KeyError)"),
        ({"memory_mb": 10}, "in_force.json cannot be read (ValueError)"),
        ({"memory_mb": 512, "retry_mb": [512]}, "in_force.json cannot be read (ValueError)"),
        ({"classes": {"up to 3 MB": [512, 160]}}, "in_force.json cannot be read (ValueError)"),
        ({"classes": {"up to 3 MB": []}}, "in_force.json cannot be read (ValueError)"),
        ({"timeouts": {"sessions": {"up to 3 MB": -1}}}, "in_force.json cannot be read (ValueError)"),
        ({"threads": "many"}, "in_force.json cannot be read (ValueError)"),
        ({"until": "soon"}, "in_force.json cannot be read (ValueError)"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_the_preset_and_says_so(tmp_path: Path, change: object, said: str) -> None:
    home = Home(tmp_path)
    write_in_force(home, {"sessions": PINNED})
    path = folder(home) / "in_force.json"
    content = json.loads(path.read_text())
    if isinstance(change, dict):
        target = content if change.keys() & content.keys() else content["steps"]["sessions"]
        target.update(change)
        path.write_text(json.dumps(content))
    else:
        path.write_text(path.read_text()[:40])
    known = read_in_force(home)
    assert known.fault == said
    assert known.of("sessions", PRESET, NOW) == replace(PRESET, source="default: in_force.json unreadable")


def test_a_step_with_its_preset_has_a_timeout_for_the_inputs_of_which_one_is_known(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_in_force(home, {"marts": LEARNED}, {"sessions": {"up to 3 MB": 900.0}, "marts": {"up to 1 GB": 7200.0}})
    known = read_in_force(home)
    assert known.of("sessions", PRESET, NOW, "up to 3 MB") == replace(PRESET, timeout_seconds=900.0)
    assert known.of("marts", PRESET, NOW, "up to 1 GB").timeout_seconds == 7200.0
    assert known.of("sessions", PRESET, NOW, "up to 10 MB") == known.of("sessions", PRESET, NOW) == PRESET
    suspend_timeouts(home, "sessions")
    assert (read_in_force(home).timeouts, read_in_force(home).configs) == (
        {"marts": {"up to 1 GB": 7200.0}},
        {"marts": LEARNED},
    )


@given(sizes, st.integers(0, 6), st.floats(1.01, 10), st.integers(128, 1_048_576))
def test_an_attempt_after_out_of_memory_has_more_and_never_more_than_there_is(
    first: int, retries: int, multiplier: float, most: int
) -> None:
    rungs = ladder(first, OutOfMemory(retries=retries, multiplier=multiplier), most)
    assert len(rungs) <= retries
    assert list(rungs) == sorted(set(rungs)) and all(first < rung <= most for rung in rungs)
    config = ResourceConfig(first, 2, rungs).within(OutOfMemory(retries=retries, multiplier=multiplier), most)
    assert config.retry_mb == rungs
    assert config.memory_of(1) == first and config.memory_of(99) == (rungs or (first,))[-1]


def test_a_ladder_that_was_chosen_elsewhere_ends_where_this_machine_does() -> None:
    assert PINNED.within(OutOfMemory(), 3000).retry_mb == (2048, 3000)
    assert PINNED.within(OutOfMemory(), 1024).retry_mb == ()
    assert PINNED.within(OutOfMemory(), 5000) == PINNED


def test_what_steps_share_is_a_part_of_the_machine_unless_it_is_declared() -> None:
    assert MemoryRules(share=0.5).budget(16_000) == 8_000
    assert MemoryRules(share=0.5, budget_mb=3_000).budget(16_000) == 3_000


def test_nothing_changes_by_itself_until_a_person_says_so() -> None:
    rules = TuningRules.load(CONFIG / FILE)
    assert (rules.mode, rules.steps) == ("advise", {})
    assert rules.model_copy(update={"steps": {"sessions": "act"}}).mode_of("sessions") == "act"
    assert rules.mode_of("users") == "advise"


def test_a_wrong_mode_is_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("mode: advise\nsteps:\n  sessions: acting\n")
    with pytest.raises(ConfigError, match=r"^tuning.yaml:3: steps.sessions: Input should be 'observe', 'advise' or 'act'$"):
        TuningRules.load(tmp_path / FILE)
