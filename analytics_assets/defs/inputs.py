"""How much lies before a step of a run as it begins, by what Dagster knows of it: what its assets are made from, and its days.

A step asks for none of this: it is noted as its connection is opened.
"""

from pathlib import Path

import dagster as dg

from analytics_assets.settings import Settings
from analytics_assets.telemetry.inputs import Given, in_files, in_tables

# The step whose input are files, which no asset stands for.
_TAKES_FILES = "intake"


def given(context: dg.OpExecutionContext, settings: Settings) -> Given:
    """What is known of the input of the step that runs; nothing where that cannot be told."""
    try:
        if str(context.op_handle) == _TAKES_FILES:
            return _files(context, settings)
        return _tables(context, settings)
    except Exception as error:
        # A step must not fail because it cannot be measured.
        context.log.debug(f"the size of the input is not known: {error}")
        return Given()


def _files(context: dg.OpExecutionContext, settings: Settings) -> Given:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.pipeline import Pipeline

    path = (context.op_config or {}).get("path")
    if path:
        return in_files([Path(path)])
    return in_files(file.path for file in Pipeline(settings).landed(utc_now())[0])


def _tables(context: dg.OpExecutionContext, settings: Settings) -> Given:
    from analytics_assets.defs.telemetry import partition_of
    from analytics_assets.pipeline import Pipeline
    from analytics_assets.telemetry.partitions import days_in

    if not context.has_assets_def:
        return Given()
    made = context.assets_def.keys
    read = {dep.asset_key for spec in context.assets_def.specs for dep in spec.deps} - made
    names = {key.to_user_string() for key in read}
    if not names:
        return Given()
    stages = Pipeline(settings)
    # What is made as a whole reads all days, also in a run for some.
    days = days_in(partition_of(context.run.tags)) if context.assets_def.partitions_def is not None else None
    return in_tables(stages.home.warehouse, stages.specs, names, days)
