"""The plan on a real instance: the limits of Dagster's pools change while runs go on, and the queue keeps to them."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from analytics_assets.audit.log import Audit
from analytics_assets.audit.report import Wanted, report
from analytics_assets.commands.common import USAGE
from analytics_assets.defs.queues import waiting
from analytics_assets.defs.quotas import limits_in_force
from analytics_assets.defs.scaling import settle
from analytics_assets.events.tables import BATCHES
from analytics_assets.pipeline import Pipeline
from analytics_assets.tuning.tables import LOAD_FORECAST, SCALING_PLAN, Decided
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOW, Line
from analytics_assets_tests.defs.home import DataHome
from analytics_assets_tests.defs.test_queues import BACKFILL, HOURLY, NIGHT, RULES, Queue, a_queue
from analytics_assets_tests.test_cli import analytics
from analytics_assets_tests.tuning.history import receive

ANOTHER = "another-run"
UNKNOWN = "nothing is forecast yet; run `analytics tuning now`, or let Dagster's hourly schedule do it"
DAILY = {"dagster/sensor_name": "daily", "analytics/tier": "daily"}
# The load of noon is 1,500: at 80 % of it each unit serves 1,000, so two.
POOLS: dict[str, Any] = {
    name: {"serves": "events", "unit_load": 1000, "floor": 1, "quota": 4} for name in ("background", "lab")
}


def declare(home: DataHome, **scaling: Any) -> None:
    declared = {"mode": "act", "pools": POOLS, **scaling}
    (home.settings.config / "scaling.yaml").write_text(yaml.safe_dump(declared))


def scale(queue: Queue, **known: float) -> list[Decided]:
    """What is decided and applied for tenants that were sent events for so many weeks."""
    stages = Pipeline(queue.home.settings)
    with stages.connect() as con:
        if known:
            receive(Line(stages, con), NOW, **known)
        return list(settle(queue.instance, stages, con, NOW).rows)


@pytest.fixture(scope="module")
def one_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with a_queue(tmp_path_factory.mktemp("scaling"), declare) as queue:
        yield queue


@pytest.fixture
def acting(one_home: Queue) -> Iterator[Queue]:
    """The queue, by night, of a data home whose plan acts and never did."""
    declare(one_home.home)
    one_home.now = NIGHT
    yield one_home
    for run in one_home.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING])):
        one_home.end(run.run_id)
    one_home.instance.event_log_storage.free_concurrency_slots_for_run(ANOTHER)
    for pool in limits_in_force(one_home.instance):
        one_home.instance.event_log_storage.delete_concurrency_limit(pool)
    for spec in (BATCHES, LOAD_FORECAST, SCALING_PLAN):
        shutil.rmtree(Home(one_home.home.root).warehouse / spec.name, ignore_errors=True)


def test_a_plan_that_acts_lets_one_more_run_start_while_others_go(acting: Queue) -> None:
    acting.instance.event_log_storage.set_concurrency_slots("background", 1)
    looser = [acting.ask("refresh", HOURLY), acting.ask("refresh", DAILY), acting.ask("refresh", BACKFILL)]
    assert acting.started() == looser[:1]
    # As after somebody deleted the limit in the UI: the plan gives the pool its own.
    acting.instance.event_log_storage.delete_concurrency_limit("background")
    (row, _) = scale(acting, acme=5)
    assert (row.pool, row.capacity, row.applied, limits_in_force(acting.instance)["background"]) == ("background", 2, 2, 2)
    assert acting.started() == looser[1:2]
    told = report(Audit(acting.home.settings).chain, Wanted(action="scale"))[-2:]
    assert [(act.outcome, act.details["pool"], act.details["to"]) for act in told] == [
        ("done", "background", 2), ("done", "lab", 2)
    ]  # fmt: skip


def test_a_run_that_waits_inside_for_a_pool_goes_on_when_the_plan_raises_it(acting: Queue) -> None:
    storage = acting.instance.event_log_storage
    scale(acting, acme=5)
    storage.set_concurrency_slots("lab", 1)
    assert storage.claim_concurrency_slot("lab", ANOTHER, "its_step").is_claimed

    @dg.asset(pool="lab")
    def experiment() -> None:
        pass

    done: list[bool] = []
    job = dg.Definitions([experiment], jobs=[dg.define_asset_job("some", "*")]).resolve_job_def("some")
    run = threading.Thread(target=lambda: done.append(job.execute_in_process(instance=acting.instance).success))
    run.start()
    while not storage.get_concurrency_info("lab").pending_step_count:
        assert run.is_alive()
    assert done == []
    # Nobody keeps the one place any more: it is the plan's again.
    storage.delete_concurrency_limit("lab")
    scale(acting)
    run.join(60)
    assert done == [True] and limits_in_force(acting.instance)["lab"] == 2


@pytest.mark.parametrize(
    ("scaling", "weeks", "held"), [({"mode": "advise"}, 5, None), ({"mode": "observe"}, 5, None), ({}, 3, "history")]
)
def test_what_is_only_advised_or_not_known_for_long_changes_no_limit(
    acting: Queue, scaling: dict[str, Any], weeks: float, held: str | None
) -> None:
    declare(acting.home, **scaling)
    rows = scale(acting, acme=weeks)
    assert limits_in_force(acting.instance) == {}
    assert [(row.capacity, row.held) for row in rows] == ([] if scaling.get("mode") == "observe" else [(2, held)] * 2)


def test_a_frozen_release_gate_stops_every_change(acting: Queue) -> None:
    stages = Pipeline(acting.home.settings)
    with stages.connect() as con:
        stages.levels.turn_gate(con, "frozen", "the shop moves", "anna", NOW)
    rows = scale(acting, acme=5)
    assert {(row.held, row.applied) for row in rows} == {("frozen", None)} and "the shop moves" in rows[0].reason
    assert limits_in_force(acting.instance) == {}
    with stages.connect() as con:
        stages.levels.turn_gate(con, "open", "it has moved", "anna", NOW)
    assert {row.applied for row in scale(acting)} == {2}


def test_a_limit_of_the_plan_is_taken_back_with_its_licence_and_a_persons_stays(acting: Queue) -> None:
    scale(acting, acme=5)
    acting.instance.event_log_storage.set_concurrency_slots("lab", 3)
    declare(acting.home, mode="advise")
    scale(acting)
    assert limits_in_force(acting.instance) == {"lab": 3}


# Tenants


def own(tenant: str) -> dict[str, str]:
    return {"analytics/tenant": tenant}


def test_one_tenants_experiments_wait_for_each_other_and_keep_nobody_else_waiting(acting: Queue) -> None:
    queue = acting
    acme = [queue.ask("refresh", own("acme")) for _ in range(3)]
    globex, files = queue.ask("refresh", own("globex")), queue.ask("ingest", {"dagster/sensor_name": "landing"})
    near = queue.ask("refresh", {"dagster/sensor_name": "near_real_time", "analytics/tier": "near_real_time"})
    assert sorted(queue.started()) == sorted([acme[0], globex, files, near])
    assert {line.waits_for for line in waiting(queue.instance, RULES, queue.now)} == {"its turn among the runs for acme"}
    queue.end(globex)
    assert queue.started() == []
    hourly = queue.ask("refresh", HOURLY)
    queue.end(acme[0])
    assert queue.started() == [hourly, acme[1]]


def test_a_run_is_a_tenants_own_by_the_config_of_its_steps_too_and_only_if_it_is_declared(acting: Queue) -> None:
    queue = acting
    someones = [queue.ask("refresh", own("nobody-we-know")) for _ in range(2)]
    assert {queue.run(run).tags["analytics/queue"] for run in someones} == {"by-hand"}
    heavy = queue.ask("refresh", {**BACKFILL, **own("acme")})
    assert queue.run(heavy).tags["analytics/queue"] == "heavy"


def test_a_large_tenant_has_a_pool_of_its_own_that_follows_its_own_load(tmp_path: Path) -> None:
    with a_queue(tmp_path, lambda home: declare(home, pools={"large": {**POOLS["lab"], "tenant": "acme"}})) as queue:
        scale(queue, acme=5, globex=5)
        assert limits_in_force(queue.instance) == {"large": 2}
        acme = [queue.ask("refresh", own("acme")) for _ in range(3)]
        globex = [queue.ask("refresh", own("globex")) for _ in range(2)]
        # Two runs that leave room for stricter ones go at once, as dagster.yaml says.
        assert queue.started() == acme[:2]
        queue.end(acme[0])
        queue.end(acme[1])
        assert queue.started() == [acme[2], globex[0]]
        assert queue.started() == []


def test_a_person_sees_what_is_expected_and_what_each_pool_is_to_have(acting: Queue) -> None:
    """By the job that the schedule starts, at the time of the machine: what was received stopped long before."""
    before = analytics("tuning", "forecast")
    assert (before.code, before.err) == (1, f"analytics: {UNKNOWN}\n")
    now = analytics("tuning", "now")
    assert "0 loads of 4 can be forecast" in now.out and "observed: nothing is known" in now.out
    assert "2 tenants without a forecast: nothing was received in the last 8 weeks" in analytics("tuning", "forecast").out
    rows = analytics("tuning", "plan", "--json").json["plan"]
    assert [(row["pool"], row["mode"], row["capacity"], row["held"]) for row in rows] == [
        ("background", "advise", 1, "history"), ("lab", "advise", 1, "history")
    ]  # fmt: skip
    told = analytics("tuning", "plan", "--prometheus").out
    assert 'analytics_pool_capacity{pool="lab",mode="advise"} 1' in told.splitlines()
    documents = list(yaml.safe_load_all(analytics("tuning", "plan", "--keda").out))
    assert [one["metadata"]["name"] for one in documents] == ["analytics-background", "analytics-lab"]
    assert analytics("tuning", "plan", "--keda", "--json").code == USAGE
