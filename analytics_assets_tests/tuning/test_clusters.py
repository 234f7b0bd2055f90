"""What a step asks of a cluster: never less than what it will use, the same limits inside as in force, and no surprises."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.settings import CONFIG, ConfigError, UserError
from analytics_assets.tuning.clusters import VARIABLE, Allotment, allotment, ask, for_kubernetes, for_ray, merged, told
from analytics_assets.tuning.in_force import InForce, NotEnoughMemory, ResourceConfig
from analytics_assets.tuning.rules import FILE, OutOfMemory, TuningRules
from analytics_assets_tests.builders import NOW

PRESET = ResourceConfig(512, 2)
PINNED = InForce({"sessions": ResourceConfig(1024, 1, (2048, 4096), "pinned", NOW + timedelta(days=1))})
RULES = TuningRules()

configs = st.builds(
    lambda sizes, threads: ResourceConfig(sizes[0], threads, tuple(sizes[1:]), "model 3"),
    st.lists(st.integers(128, 100_000), min_size=1, max_size=5, unique=True).map(sorted),
    st.integers(1, 256),
)
ladders = st.builds(OutOfMemory, retries=st.integers(0, 6), multiplier=st.floats(1.01, 10))


def in_force(config: ResourceConfig, most_mb: int, ladder: OutOfMemory = RULES.out_of_memory) -> Allotment:
    rules = RULES.model_copy(update={"out_of_memory": ladder})
    return allotment("sessions", InForce({"sessions": config}), PRESET, rules, most_mb, NOW)


def megabytes(text: str) -> int:
    """Kubernetes' M is a million, as DuckDB's MB is."""
    assert text.endswith("M")
    return int(text.removesuffix("M"))


@given(configs, ladders, st.integers(0, 65_536), st.integers(0, 1_000_000))
def test_every_attempt_fits_into_what_is_asked_for_it_and_none_asks_for_more_than_there_is(
    config: ResourceConfig, ladder: OutOfMemory, pod_mb: int, more: int
) -> None:
    most_mb = config.memory_mb + more
    allotted = in_force(config, most_mb, ladder)
    attempts = range(1, allotted.config.attempts + 1)
    whole = for_kubernetes(ask(allotted, pod_mb))["container_config"]["resources"]
    for attempt in attempts:
        asked = ask(allotted, pod_mb, attempt)
        pod = for_kubernetes(asked)["container_config"]["resources"]
        needs = allotted.config.memory_of(attempt) + pod_mb
        assert megabytes(pod["requests"]["memory"]) == megabytes(pod["limits"]["memory"]) == needs <= most_mb + pod_mb
        assert for_ray(asked) == {"num_cpus": config.threads, "memory": needs * 1_000_000}
        assert pod["requests"]["cpu"] == str(config.threads)
        # Who cannot ask anew for each attempt has a pod in which each of them fits.
        assert needs <= megabytes(whole["limits"]["memory"]) <= most_mb + pod_mb
    assert megabytes(whole["requests"]["memory"]) == config.memory_mb + pod_mb


@given(configs, ladders, st.integers(0, 1_000_000))
def test_the_process_of_a_step_has_the_limits_that_are_in_force(config: ResourceConfig, ladder: OutOfMemory, more: int) -> None:
    most_mb = config.memory_mb + more
    allotted = in_force(config, most_mb, ladder)
    found = told({VARIABLE: ask(allotted, 300).told})
    assert found == allotted
    assert found.config == config.within(ladder, most_mb)


def test_what_holds_for_a_step_is_asked_for_and_its_preset_after_that() -> None:
    assert allotment("sessions", PINNED, PRESET, RULES, 9000, NOW).config.source == "pinned"
    assert allotment("sessions", PINNED, PRESET, RULES, 9000, NOW + timedelta(days=1)).memory_mb == 512
    assert allotment("users", PINNED, PRESET, RULES, 9000, NOW).retry_mb == (1024, 2048)


def test_a_step_that_no_node_of_the_cluster_can_hold_says_so() -> None:
    with pytest.raises(NotEnoughMemory, match=r"^sessions is to have 1,024 MB, and a step of this cluster has 900 MB at most"):
        allotment("sessions", PINNED, PRESET, RULES, 900, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "512 MB",
        "{}",
        '{"memory_mb": 10, "threads": 2, "most_mb": 900}',
        '{"memory_mb": 512, "threads": 0, "most_mb": 900}',
        '{"memory_mb": 512, "retry_mb": [512], "threads": 1, "most_mb": 900}',
        '{"memory_mb": 512, "retry_mb": [1024], "threads": 1, "most_mb": 900}',
        '{"memory_mb": 512, "threads": 1, "most_mb": 900, "image": "x"}',
    ],
)
def test_an_environment_that_nobody_here_wrote_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^ANALYTICS_STEP is set to what no executor of this project writes; remove it$"):
        told({VARIABLE: text})


def test_a_process_that_no_cluster_made_is_told_nothing() -> None:
    assert told({}) is None
    assert told({VARIABLE: ""}) is None


def test_what_a_person_says_of_a_step_wins_and_takes_nothing_else_away() -> None:
    ours = for_kubernetes(ask(in_force(PRESET, 512), 300))
    theirs: dict[str, Any] = {
        "container_config": {"resources": {"limits": {"memory": "4G"}}, "env": [{"name": "REGION", "value": "eu"}]},
        "pod_spec_config": {"node_selector": {"disk": "fast"}},
    }
    both = merged(ours, theirs)
    assert both["container_config"]["resources"] == {"requests": {"cpu": "2", "memory": "812M"}, "limits": {"memory": "4G"}}
    assert [one["name"] for one in both["container_config"]["env"]] == [VARIABLE, "REGION"]
    assert both["pod_spec_config"] == theirs["pod_spec_config"] and both["merge_behavior"] == "DEEP"
    assert merged(ours, {}) == ours == merged(ours, ours)


def test_on_a_cluster_the_most_that_a_step_may_ask_for_must_be_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("executor: kubernetes\n")
    said = r"what a step of kubernetes may ask for at most is not said; add `budget_mb` to `memory`$"
    with pytest.raises(ConfigError, match=said):
        TuningRules.load(tmp_path / FILE)
    (tmp_path / FILE).write_text("executor: ray\nmemory: {budget_mb: 8000, pod_mb: 900}\n")
    assert (TuningRules.load(tmp_path / FILE).executor, TuningRules.load(tmp_path / FILE).beside_mb) == ("ray", 900)
    # As delivered, steps run with their run.
    assert TuningRules.load(CONFIG / FILE).executor == "in_process"
