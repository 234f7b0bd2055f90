"""Steps as jobs of a real Ray cluster of two nodes on this machine: what Ray keeps for each, read from inside of it."""

import os
from collections.abc import Iterator

import pytest

from analytics_assets.tuning.in_force import ResourceConfig, write_in_force
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.defs.home import DataHome, a_call
from cluster_tests.runs import execute, measured
from cluster_tests.steps import ingest, one_assigned

MB = 1_000_000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the jobs of a cluster whose nodes have 2 processors and 2,000 MB each for what asks for them."""
    # Ray reads them as it is imported: it tells nobody that it is used, and a machine that is busy may take its time.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600"}
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "memory": 2000 * MB, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "dashboard_port": 0})
    try:
        cluster.add_node(num_cpus=2, memory=2000 * MB)
        client = ray.init(address=cluster.address, logging_level="ERROR")
        yield f"http://{client.dashboard_url}"
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize("home", ["ray"], indirect=True)
def test_ray_keeps_for_each_attempt_what_it_is_to_have(home: DataHome, address: str) -> None:
    write_in_force(Home(home.root), {"assigned": ResourceConfig(128, 2, (256,), source="pinned")})
    noted = execute(home, one_assigned, {"ray": {"address": address}})
    assert [line for line in noted if line.startswith("attempt")] == [
        "attempt 1: 122.0 MiB, 2, and Ray keeps 2 CPU and 428 MB",
        "attempt 2: 244.1 MiB, 2, and Ray keeps 2 CPU and 556 MB",
    ]
    rows = [row for row in measured(home) if row["step"] == "assigned"]
    assert [(row["outcome"], row["config_source"]) for row in rows] == [("out_of_memory", "pinned"), ("success", "pinned")]


@pytest.mark.parametrize("home", ["ray"], indirect=True)
def test_a_job_of_the_project_runs_on_ray(home: DataHome, address: str) -> None:
    home.land("calls.ndjson", [a_call("m1"), a_call("m2")])
    execute(home, ingest, {"ray": {"address": address}})
    (row,) = [row for row in measured(home) if row["step"] == "intake"]
    assert (row["outcome"], row["rows_written"] > 0, row["memory_limit_bytes"]) == ("success", True, 128 * MB)
