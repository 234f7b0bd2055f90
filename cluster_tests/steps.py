"""Jobs that the processes of a cluster find by name, with the executor that is declared."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.definitions import build_definitions
from analytics_assets.defs.executors import declared_executor
from analytics_assets.defs.resources import production_resources
from analytics_assets.settings import Settings
from analytics_assets.warehouse.connect import limits_of
from analytics_assets_tests.defs.test_limits import LARGE

SEEN = "seen.txt"


def note(text: str) -> None:
    """A line for the test, from inside a step."""
    with (Settings.from_env().home / SEEN).open("a") as file:
        file.write(f"{text}\n")


@dg.asset
def hungry(context: dg.AssetExecutionContext, duckdb: DuckDBResource) -> None:
    """Runs out of 128 MB, and not of 256."""
    with duckdb.get_connection() as con:
        memory, threads = limits_of(con)
        note(f"attempt {context.retry_number + 1}: {memory}, {threads}")
        con.execute(LARGE).fetchall()


@dg.asset
def assigned(context: dg.AssetExecutionContext, duckdb: DuckDBResource) -> None:
    """As `hungry`, and tells what Ray keeps for the job that it is."""
    import ray
    from ray.util.state import list_actors

    ray.init(address="auto", logging_level="ERROR")
    alive = list_actors(detail=True, filters=[("class_name", "=", "JobSupervisor"), ("state", "=", "ALIVE")])
    (needs,) = [one.required_resources for one in alive]
    ray.shutdown()
    with duckdb.get_connection() as con:
        memory, threads = limits_of(con)
        kept = f"{needs['CPU']:g} CPU and {needs['memory'] / 1e6:g} MB"
        note(f"attempt {context.retry_number + 1}: {memory}, {threads}, and Ray keeps {kept}")
        con.execute(LARGE).fetchall()


def _job(*assets: dg.AssetsDefinition) -> dg.JobDefinition:
    job = dg.define_asset_job("steps", selection=list(assets))
    made = dg.Definitions(assets=list(assets), jobs=[job], resources=production_resources(), executor=declared_executor())
    return made.resolve_job_def("steps")


def one_hungry() -> dg.JobDefinition:
    return _job(hungry)


def one_assigned() -> dg.JobDefinition:
    return _job(assigned)


def ingest() -> dg.JobDefinition:
    """The project's own."""
    return build_definitions().resolve_job_def("ingest")


def refresh() -> dg.JobDefinition:
    return build_definitions().resolve_job_def("refresh")
