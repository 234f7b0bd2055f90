"""Steps in pods: what dagster-k8s itself asks the API of Kubernetes for, and what the step finds in the process it gets."""

import os
from pathlib import Path

import pytest
import yaml

from analytics_assets.defs.instance import configure
from analytics_assets.tuning.clusters import VARIABLE
from analytics_assets.tuning.in_force import ResourceConfig, write_in_force
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.defs.home import DataHome
from analytics_assets_tests.test_cli import analytics
from cluster_tests.api import kubeconfig, kubernetes
from cluster_tests.runs import execute, measured
from cluster_tests.steps import one_hungry

PLACES = ("ANALYTICS_HOME", "ANALYTICS_CONFIG", "ANALYTICS_KEYS")


def launched_by_kubernetes(home: DataHome, file: str) -> None:
    """Declare dagster-k8s' run launcher in Dagster's instance, as a person does who runs Dagster on Kubernetes."""
    dagster = configure(Home(home.root).dagster)
    launcher = {
        "service_account_name": "analytics",
        "instance_config_map": "dagster-instance",
        "dagster_home": str(dagster),
        "job_image": "analytics-assets",
        "job_namespace": "analytics",
        "load_incluster_config": False,
        "kubeconfig_file": file,
        "env_vars": [f"{name}={os.environ[name]}" for name in PLACES],
        "resources": {"requests": {"memory": "64M"}},
    }
    section = {"run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher}}
    with (dagster / "dagster.yaml").open("a") as text:
        text.write(f"\n{yaml.safe_dump(section)}")


@pytest.mark.parametrize("home", ["kubernetes"], indirect=True)
def test_each_attempt_has_a_pod_of_its_size_and_duckdb_has_the_same_limits_inside(home: DataHome, tmp_path: Path) -> None:
    write_in_force(Home(home.root), {"hungry": ResourceConfig(128, 2, (256,), source="pinned")})
    said = {"hungry": {"pod_spec_config": {"node_selector": {"disk": "fast"}}}}
    with kubernetes() as cluster:
        launched_by_kubernetes(home, kubeconfig(cluster, tmp_path / "kube"))
        noted = execute(home, one_hungry, {"per_step_k8s_config": said})
        containers, jobs = cluster.containers, list(cluster.jobs.values())
    assert [one["resources"] for one in containers] == [
        {"requests": {"cpu": "2", "memory": "428M"}, "limits": {"memory": "428M"}},
        {"requests": {"cpu": "2", "memory": "556M"}, "limits": {"memory": "556M"}},
    ]
    assert [line for line in noted if line.startswith("attempt")] == ["attempt 1: 122.0 MiB, 2", "attempt 2: 244.1 MiB, 2"]
    # What a person said of the step, and of all pods, is there too.
    assert [job["spec"]["template"]["spec"]["nodeSelector"] for job in jobs] == [{"disk": "fast"}] * 2
    assert {VARIABLE, *PLACES} <= {one["name"] for one in containers[0]["env"]}
    rows = [row for row in measured(home) if row["step"] == "hungry"]
    assert [(row["outcome"], row["config_source"]) for row in rows] == [("out_of_memory", "pinned"), ("success", "pinned")]
    assert all(row["peak_memory_bytes"] < limit * 1_000_000 for row, limit in zip(rows, (428, 556), strict=True))
    assert [line for line in noted if "asks for" in line] == [
        "hungry asks for 428 MB, 128 of them for DuckDB, and 2 processors (pinned)",
        "hungry asks for 556 MB, 256 of them for DuckDB, and 2 processors (pinned)",
    ]


@pytest.mark.parametrize("home", ["in_process"], indirect=True)
def test_what_is_printed_renders_a_pod_in_which_every_attempt_fits(home: DataHome) -> None:
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    write_in_force(Home(home.root), {"sessions": ResourceConfig(1024, 1, (2048,), "pinned")})
    printed = yaml.safe_load(analytics("tuning", "render", "--kubernetes", "--job", "refresh").out)
    step = printed["execution"]["config"]["per_step_k8s_config"]["sessions"]
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="analytics-assets", dagster_home="/home"),
        args=["dagster"],
        job_name="sessions",
        user_defined_k8s_config=UserDefinedDagsterK8sConfig.from_dict(step),
    )
    (container,) = job.spec.template.spec.containers
    assert container.resources.requests == {"cpu": "1", "memory": "1324M"}
    assert container.resources.limits == {"memory": "2348M"}
    assert VARIABLE in [one.name for one in container.env]
