"""Steps that a cluster runs: what they were made for holds inside, and what they ask for can be read before."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from analytics_assets.commands.common import FAILED, USAGE
from analytics_assets.defs.executors import declared_executor, kubernetes_config, ray_config
from analytics_assets.settings import ConfigError
from analytics_assets.tuning.clusters import VARIABLE, Allotment, ask
from analytics_assets.tuning.in_force import ResourceConfig, write_in_force
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.leases import memory
from analytics_assets_tests.defs.home import DataHome, a_data_home
from analytics_assets_tests.defs.test_limits import large, limits, run
from analytics_assets_tests.test_cli import analytics

ASKED = ask(Allotment(memory_mb=512, threads=2, most_mb=900), 300)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        (home.settings.config / "limits.yaml").write_text("storage: {memory_mb: 700, threads: 1}\n")
        yield home


def test_the_process_of_a_cluster_has_what_it_was_made_for_and_waits_for_nobody(
    home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The memory of the machine is gone, and what is in force has changed since the process was asked for.
    (home.settings.config / "tuning.yaml").write_text("memory: {budget_mb: 1000, wait_minutes: 0}\n")
    write_in_force(Home(home.root), {"large": ResourceConfig(600, 1, source="pinned")})
    made_for = Allotment(memory_mb=128, threads=1, retry_mb=(256,), source="model 4", most_mb=256)
    monkeypatch.setenv(VARIABLE, made_for.model_dump_json())
    with memory(Home(home.root), "marts of run 1", 1000, 1000, wait_seconds=0):
        rows, _ = run(home, large)
    assert limits(rows) == [("out_of_memory", 128, "model 4"), ("success", 256, "model 4")]


def test_an_executor_that_is_not_installed_is_one_line(home: DataHome, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.settings.config / "tuning.yaml").write_text("executor: kubernetes\nmemory: {budget_mb: 8000}\n")
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    with pytest.raises(ConfigError, match=r"^tuning.yaml: `executor: kubernetes` needs what is not installed here; install "):
        declared_executor()


def test_only_the_step_that_is_launched_is_sized_and_the_rest_of_the_config_stays() -> None:
    theirs = {"job_image": "analytics", "per_step_k8s_config": {"users": {"pod_spec_config": {}}}}
    kubernetes = kubernetes_config(theirs, "sessions", ASKED)
    assert kubernetes["job_image"] == "analytics"
    assert kubernetes["per_step_k8s_config"]["users"] == {"pod_spec_config": {}}
    assert kubernetes["per_step_k8s_config"]["sessions"]["container_config"]["resources"]["limits"] == {"memory": "812M"}
    ray = ray_config({"ray": {"address": "auto", "env_vars": ["REGION=eu"]}, "retries": {}}, "sessions", ASKED)
    *places, theirs_too, ours = ray["ray"].pop("env_vars")
    assert (theirs_too, ours) == ("REGION=eu", f"{VARIABLE}={ASKED.told}")
    assert {"DAGSTER_HOME", "ANALYTICS_HOME"} <= {*places}
    assert ray == {"ray": {"address": "auto", "num_cpus": 2, "memory": 812_000_000}, "retries": {}}


def test_what_the_steps_of_a_job_ask_for_can_be_printed_and_pasted(home: DataHome) -> None:
    (home.settings.config / "tuning.yaml").write_text("memory: {budget_mb: 8000}\n")
    write_in_force(Home(home.root), {"sessions": ResourceConfig(1024, 1, (2048,), "pinned")})
    steps = yaml.safe_load(analytics("tuning", "render", "--kubernetes", "--job", "refresh").out)
    pods = steps["execution"]["config"]["per_step_k8s_config"]
    assert {"sessions", "users", "marts", "quality", "analytics_duckdb"} <= pods.keys() and "intake" not in pods
    assert pods["sessions"]["container_config"]["resources"] == {
        "requests": {"cpu": "1", "memory": "1724M"}, "limits": {"memory": "2748M"},
    }  # fmt: skip
    jobs = yaml.safe_load(analytics("tuning", "render", "--ray").out)
    assert jobs["sessions"] == {"dagster-ray/config": {"num_cpus": 1, "memory": 2_748_000_000}}
    assert jobs["intake"] == {"dagster-ray/config": {"num_cpus": 1, "memory": 3_500_000_000}}
    unknown = analytics("tuning", "render", "--ray", "--job", "refreshed")
    assert (unknown.code, unknown.err.partition(";")[0]) == (FAILED, "analytics: there is no job refreshed")
    assert analytics("tuning", "render").code == USAGE
