"""Runs jobs in this process, on the instance that the UI shows: what the `analytics` command starts is seen there."""

import os
import warnings
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import dagster as dg

from analytics_assets.audit.log import Audit
from analytics_assets.definitions import build_definitions
from analytics_assets.defs.instance import PROCESS_TAG, open_instance
from analytics_assets.defs.queues import days_told
from analytics_assets.settings import Settings, UserError

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class CheckFailed(UserError):
    """A check of an asset failed."""


class Jobs:
    """The jobs of the project, run one after the other in this process."""

    def __init__(self, settings: Settings, resources: Mapping[str, Any] | None = None) -> None:
        # Dagster warns of its own deprecations.
        warnings.filterwarnings("ignore", module="dagster")
        self._settings, self.instance = settings, open_instance(settings)
        self._definitions = build_definitions(resources)

    def run(
        self, job: str, ops: Mapping[str, Mapping[str, Any]] | None = None, tags: Mapping[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run a job to its end. A failed step raises what the step raised."""
        run_id = str(uuid4())
        config = {**_QUIET, "ops": {name: {"config": dict(values)} for name, values in (ops or {}).items()}}
        with Audit(self._settings, run_id).act("run", details={"job": job, **days_told(tags or {})}):
            result = self._definitions.resolve_job_def(job).execute_in_process(
                run_config=config,
                instance=self.instance,
                tags={**(tags or {}), PROCESS_TAG: str(os.getpid())},
                raise_on_error=True,
                run_id=run_id,
            )
            for verdict in result.get_asset_check_evaluations():
                if not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR:
                    check = f"{verdict.check_name} on {verdict.asset_key.to_user_string()}"
                    raise CheckFailed(f"the check {check} failed; the published version stays as it is")
        return result


def steps_of(job: str | None) -> list[str]:
    """The steps of a job by their names, or of all jobs. Raises UserError for a job that there is none of."""
    jobs = {one.name: one for one in build_definitions().resolve_all_job_defs()}
    if job is not None and job not in jobs:
        known = ", ".join(sorted(name for name in jobs if not name.startswith("__")))
        raise UserError(f"there is no job {job}; there are {known}")
    chosen = jobs.values() if job is None else [jobs[job]]
    return sorted({node.name for one in chosen for node in one.nodes})
