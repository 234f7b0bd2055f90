"""A run as Dagster starts one, with what is read of it afterwards."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from analytics_assets.defs.instance import open_instance
from analytics_assets.defs.telemetry import collect
from analytics_assets.pipeline import Pipeline
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets_tests.defs.home import DataHome
from cluster_tests.steps import SEEN


def execute(home: DataHome, job: Callable[[], dg.JobDefinition], executor: dict[str, Any], **config: Any) -> list[str]:
    """Run a job to its end, which must be good; what its steps noted, and then what the run said of what they ask for."""
    home.root.mkdir(exist_ok=True)
    instance = open_instance(home.settings)
    run_config = {"execution": {"config": executor}, **config}
    with dg.execute_job(dg.reconstructable(job), instance, run_config=run_config) as done:
        assert done.success
        seen = home.root / SEEN
        asked = [entry.message for entry in instance.all_logs(done.run_id) if " asks for " in entry.message]
    return [*(seen.read_text().splitlines() if seen.exists() else ()), *asked]


def measured(home: DataHome) -> list[dict[str, Any]]:
    """The attempts of all steps, as telemetry tells them."""
    stages = Pipeline(home.settings)
    with stages.connect() as con:
        collect(open_instance(home.settings), stages, con)
        select = stages.table(STEP_TELEMETRY).snapshot().select()
        rows = con.execute(f"select * from ({select}) order by started_at").fetchall()
    return [dict(zip(STEP_TELEMETRY.column_names, row, strict=True)) for row in rows]
