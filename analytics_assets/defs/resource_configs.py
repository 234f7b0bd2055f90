"""What steps may have, in Dagster: the assets that keep it, made once a day from what the steps took."""

from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.audit.log import Audit, utc_now
from analytics_assets.defs.jobs import CALM
from analytics_assets.defs.metadata import AS_A_WHOLE, asset_spec
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.tuning.config_tables import RESOURCE_CONFIGS, TUNING_DECISIONS
from analytics_assets.tuning.features import STEP_FEATURES

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.pipeline import Pipeline
    from analytics_assets.tuning.step_resources import Looked

_KINDS = {"deltalake", "duckdb"}
MODELS = "resource_models"
# What puts something else in force.
_CHANGES = ("change", "revert", "ended", "timeout")


@dg.multi_asset(
    name="resource_configs",
    specs=[
        asset_spec(spec, group="tuning", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=["step_telemetry", MODELS])
        for spec in (RESOURCE_CONFIGS, TUNING_DECISIONS)
    ],
)
def resource_configs(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource
) -> Iterator[dg.MaterializeResult]:
    stages = pipeline.get()
    with duckdb.get_connection() as con:
        looked = look(stages, con, utc_now(), context.run.run_id)
    if looked.fault is not None:
        context.log.warning(looked.fault)
    shown = [
        dg.TableRecord(
            {"step": row.step, "MB": row.memory_mb, "from": row.source, "advised": row.advised_mb, "why": row.reasons}
        )
        for row in looked.standings
    ]
    in_force = {"in force": dg.MetadataValue.table(shown)} if shown else {}
    aside = {f"set aside: {reason}": runs for reason, runs in looked.set_aside.items()}
    counts = {"dagster/row_count": len(looked.standings), **aside}
    yield dg.MaterializeResult(RESOURCE_CONFIGS.name, metadata={**counts, **in_force})
    yield dg.MaterializeResult(TUNING_DECISIONS.name, metadata={
        "dagster/row_count": stages.table(TUNING_DECISIONS).snapshot().rows, "new": len(looked.decisions),
    })  # fmt: skip


def look(stages: "Pipeline", con: "duckdb.DuckDBPyConnection", now: datetime, run: str | None = None) -> "Looked":
    """Decide about every step, keep that and put it in force; what changes a step is recorded."""
    from analytics_assets.tuning.step_resources import StepResources

    # Asked for each step that is to be changed, and the same for all.
    frozen = cache(lambda: stages.levels.held(con, now))
    with Audit(stages.settings, run).act("tune", details={"what": "look"}) as act:
        looked = StepResources.declared(stages.settings).look(con, now, frozen)
        changed = [row for row in looked.decisions if row.kind in _CHANGES]
        act.outcome = "done" if changed else "unchanged"
        # Of which inputs and times, `tuning_decisions` tells: an entry holds plain words alone.
        told = [
            f"timeout of {row.step}" if row.kind == "timeout"
            else f"{row.kind} {row.step} from {row.was_mb} to {row.memory_mb} MB"
            for row in changed
        ]  # fmt: skip
        act.details.update({"changes": told} if told else {})
    return looked


@dg.multi_asset(
    name=STEP_FEATURES.name,
    specs=[asset_spec(STEP_FEATURES, group="tuning", kinds=_KINDS, owner=OWNER, tags=AS_A_WHOLE, deps=["step_telemetry"])],
)
def step_features(pipeline: PipelineResource, duckdb: DuckDBResource) -> dg.MaterializeResult:
    from analytics_assets.tuning.step_resources import StepResources

    with duckdb.get_connection() as con:
        rows = StepResources.declared(pipeline.get().settings).keep_features(con, utc_now())
    return dg.MaterializeResult(STEP_FEATURES.name, metadata={"dagster/row_count": rows})


@dg.asset(
    name=MODELS,
    deps=["step_telemetry"],
    group_name="tuning",
    kinds={"duckdb"},
    owners=[OWNER],
    tags=AS_A_WHOLE,
    description="What was learned of the memory that steps need; a model that is not better is not promoted.",
)
def resource_models(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stages = pipeline.get()
    with duckdb.get_connection() as con:
        said, metadata = retrain(stages, con, utc_now(), context.run.run_id)
    context.log.info(said)
    return dg.MaterializeResult(metadata={"said": said, **metadata})


def retrain(
    stages: "Pipeline", con: "duckdb.DuckDBPyConnection", now: datetime, run: str | None = None
) -> tuple[str, dict[str, int]]:
    """Learn anew, promote what is better, and say what became of it."""
    from analytics_assets.tuning.step_resources import StepResources

    with Audit(stages.settings, run).act("tune", details={"what": "retrain"}) as act:
        done = StepResources.declared(stages.settings).retrain(con, now)
        version = done.promoted.version if done.promoted else done.before.version
        act.outcome = "done" if done.promoted else "unchanged"
        act.details["model"] = version
    runs = {"runs learned from": sum(map(len, done.found.runs.values())), "set aside": sum(done.found.set_aside.values())}
    return done.said, {"model in use": version, "steps": len(done.found.runs), **runs}


RESOURCES = [step_features, resource_models, resource_configs]

tune = dg.define_asset_job(
    "tune",
    selection=dg.AssetSelection.assets(STEP_FEATURES.name, RESOURCE_CONFIGS.name, TUNING_DECISIONS.name),
    config=CALM,
    description="Decide what steps may have from what they took, and measure what was changed.",
)

daily_tune = dg.ScheduleDefinition(
    name="daily_tune",
    job=tune,
    cron_schedule="20 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

relearn = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(STEP_FEATURES.name, MODELS, RESOURCE_CONFIGS.name, TUNING_DECISIONS.name),
    config=CALM,
    description="Learn anew what steps need, promote it if it is better, and decide what they may have.",
)

weekly_retrain = dg.ScheduleDefinition(
    name="weekly_retrain",
    job=relearn,
    cron_schedule="40 4 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
