"""Which config is chosen for a job that nobody has run, and with how many probe runs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.tuning.choice import Advisor, Config, Outcome

# Nodes of three kinds: price by cores and memory, and each from 4 to 24 of them.
CONFIGS = [
    Config(f"{nodes} x {kind}", nodes * 4.0, nodes * memory, nodes, nodes * price)
    for kind, memory, price in (("lean", 7.0, 0.2), ("even", 16.0, 0.22), ("large", 30.0, 0.27))
    for nodes in (4, 6, 8, 12, 16, 24)
]


def a_job(work: float, scaling: float, memory: float) -> list[Outcome]:
    """Runs on all configs: so much work, how far cores help, and the memory under which it takes four times as long."""
    return [Outcome(work * 3600 / one.cores**scaling * (4 if one.memory < memory else 1)) for one in CONFIGS]


KNOWN = [a_job(10, 0.8, 0), a_job(30, 0.6, 150), a_job(5, 0.9, 0), a_job(20, 0.7, 240), a_job(8, 0.5, 0)]


def chosen(job: list[Outcome], probes: int = 3) -> tuple[str, float, Advisor, dict[int, Outcome]]:
    """The config, its cost over the cheapest, and what was known."""
    advisor, probed = Advisor(CONFIGS, KNOWN), dict[int, Outcome]()
    for _ in range(probes):
        place = advisor.probe(probed)
        probed[place] = job[place]
    costs = {one.name: run.seconds * one.price if run.completed else math.inf for one, run in zip(CONFIGS, job, strict=True)}
    name = advisor.table(probed)[0].config.name
    return name, costs[name] / min(costs.values()), advisor, probed


@pytest.mark.parametrize("memory", [0, 100, 200])
def test_three_probes_find_a_config_near_the_cheapest_for_a_job_that_needs_memory_as_others_do(memory: float) -> None:
    assert chosen(a_job(15, 0.7, memory))[1] <= 1.25


def test_probes_are_worth_their_runs() -> None:
    jobs = [a_job(15, scaling, memory) for scaling in (0.5, 0.9) for memory in (0, 150, 300)]
    without, three = (np.mean([chosen(job, probes)[1] for job in jobs]) for probes in (0, 3))
    assert three < without


@settings(max_examples=5, deadline=None)
@given(power=st.integers(-6, 6))
def test_times_in_another_unit_change_no_choice(power: int) -> None:
    job = a_job(15, 0.7, 200)
    slower = [Outcome(one.seconds * 2.0**power) for one in job]
    advisor = Advisor(CONFIGS, [[Outcome(one.seconds * 2.0**power) for one in known] for known in KNOWN])
    probed = {3: slower[3], 14: slower[14]}
    ours = Advisor(CONFIGS, KNOWN)
    ours_probed = {3: job[3], 14: job[14]}
    assert advisor.probe(probed) == ours.probe(ours_probed)
    assert advisor.table(probed)[0].config == ours.table(ours_probed)[0].config


def test_a_config_on_which_a_run_failed_is_not_chosen_nor_what_is_smaller_in_all() -> None:
    job = [Outcome(60.0, False) if one.memory < 200 else run for one, run in zip(CONFIGS, a_job(15, 0.7, 0), strict=True)]
    advisor = Advisor(CONFIGS, KNOWN)
    probed = {place: job[place] for place in (3, 8, 14)}
    best = advisor.table(probed)[0].config
    failed = [CONFIGS[place] for place, one in probed.items() if not one.completed]
    assert failed
    assert not any(best.memory <= one.memory and best.cores <= one.cores for one in failed)


def test_with_a_deadline_what_is_most_likely_in_time_comes_first() -> None:
    job = a_job(15, 0.7, 0)
    _, _, advisor, probed = chosen(job)
    free = advisor.table(probed)[0]
    tight = advisor.table(probed, deadline=free.seconds / 2)[0]
    assert (free.in_time, tight.seconds < free.seconds / 2) == (1.0, True)
    assert tight.in_time == max(row.in_time for row in advisor.table(probed, deadline=free.seconds / 2))


def test_what_a_probe_took_stands_in_the_table() -> None:
    _, _, advisor, probed = chosen(a_job(15, 0.7, 0))
    rows = {row.config.name: row for row in advisor.table(probed)}
    for place, outcome in probed.items():
        row = rows[CONFIGS[place].name]
        assert row.probed and row.seconds == row.seconds_95 == pytest.approx(outcome.seconds)


def test_one_known_job_is_too_little_to_choose_by() -> None:
    with pytest.raises(ValueError, match="two of each are needed"):
        Advisor(CONFIGS, KNOWN[:1])
