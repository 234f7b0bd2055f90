"""How long Dagster's own log of a run is kept: the declared days, and never less than until telemetry has read it.

What goes is a file a run, with every event of it, and what its steps printed. The run stays in Dagster's list, and what is
known of assets stays too: which of their partitions were materialized, when, and what their checks said. Dagster's own way to
delete a run takes these along, so that days which are built long since would look as if they never were.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.metadata import AS_A_WHOLE
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.defs.telemetry import collect

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.pipeline import Pipeline

_RUNS = 200


@dg.asset(group_name="maintenance", kinds={"sqlite"}, owners=[OWNER], tags=AS_A_WHOLE)
def run_logs(context: dg.AssetExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource) -> dg.MaterializeResult:
    """Dagster's log of runs, without those that ended longer ago than `storage.run_log_days` of limits.yaml says."""
    from analytics_assets.events.intake import utc_now

    with duckdb.get_connection() as con:
        runs, size = forget_old(context.instance, pipeline.get(), con, utc_now())
    return dg.MaterializeResult(metadata={"logs removed": runs, "bytes removed": size})


def forget_old(
    instance: dg.DagsterInstance, stages: "Pipeline", con: "duckdb.DuckDBPyConnection", now: datetime
) -> tuple[int, int]:
    """Read what telemetry has not read yet, then remove the logs that are old at `now` (UTC); returns (logs, bytes)."""
    # Loading definitions should not load what only a running step needs.
    from analytics_assets.defs.storage import BatchedSqliteEventLogStorage

    collect(instance, stages, con)
    storage = instance.event_log_storage
    # Another storage keeps all events in one database, which has its own ways to forget.
    if not isinstance(storage, BatchedSqliteEventLogStorage):
        return 0, 0
    moment = (now - timedelta(days=stages.settings.limits.storage.run_log_days)).replace(tzinfo=UTC).timestamp()
    runs = size = 0
    for run_id in _ended_before(instance, storage.logs_before(moment), moment):
        size += storage.forget_log(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        runs += 1
    return runs, size


def _ended_before(instance: dg.DagsterInstance, runs: Sequence[str], moment: float) -> Iterator[str]:
    """Of these runs those that ended before `moment` (seconds since 1970)."""
    for start in range(0, len(runs), _RUNS):
        for record in instance.get_run_records(dg.RunsFilter(run_ids=runs[start : start + _RUNS])):
            if record.dagster_run.is_finished and (record.end_time or record.update_timestamp.timestamp()) < moment:
                yield record.dagster_run.run_id
