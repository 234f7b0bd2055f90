"""Partitions of the tables behind `events`: one a day (UTC), from the first day that an event may carry."""

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from analytics_assets.settings import Settings

if TYPE_CHECKING:
    from analytics_assets.events.days import DayRange

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

# `end_offset=1`: today can be built before it is over.
DAYS = dg.DailyPartitionsDefinition(start_date=Settings.from_env().limits.events.earliest, end_offset=1)
# A range is one run: starting a process costs more than a day of data.
ONE_RUN = dg.BackfillPolicy.single_run()


def days_of(context: dg.AssetExecutionContext) -> list[date]:
    """The days that a run was asked for."""
    return [date.fromisoformat(key) for key in context.partition_keys]


def range_tags(days: "DayRange") -> dict[str, str]:
    """The tags that make a run rebuild `days`."""
    return {RANGE_START: days.first.isoformat(), RANGE_END: days.last.isoformat()}
