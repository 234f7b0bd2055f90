"""Partitions of the tables behind `events`: one a day (UTC), from the first day that an event may carry."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.instance import DynamicPartitionsStore

from analytics_assets.settings import Settings

if TYPE_CHECKING:
    from analytics_assets.events.days import DayRange

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


class DaysPartitionsDefinition(dg.DailyPartitionsDefinition):
    """DailyPartitionsDefinition whose keys are counted as dates.

    Dagster walks a cron schedule through all days, for each input of each step: a tenth of a second every time where the first
    day is sixteen years ago, and a fifth of what a small delivery cost.
    """

    def get_partition_keys(
        self, current_time: datetime | None = None, dynamic_partitions_store: DynamicPartitionsStore | None = None
    ) -> Sequence[str]:
        with partition_loading_context(current_time, dynamic_partitions_store):
            first, last = self.get_first_partition_key(), self.get_last_partition_key()
        if first is None or last is None:
            return []
        days = range(date.fromisoformat(first).toordinal(), date.fromisoformat(last).toordinal() + 1)
        return [date.fromordinal(day).isoformat() for day in days]


# `end_offset=1`: today can be built before it is over.
DAYS = DaysPartitionsDefinition(start_date=Settings.from_env().limits.events.earliest, end_offset=1)
# A range is one run: starting a process costs more than a day of data.
ONE_RUN = dg.BackfillPolicy.single_run()


def days_of(context: dg.AssetExecutionContext) -> list[date]:
    """The days that a run was asked for."""
    return [date.fromisoformat(key) for key in context.partition_keys]


def range_tags(days: "DayRange") -> dict[str, str]:
    """The tags that make a run rebuild `days`."""
    return {RANGE_START: days.first.isoformat(), RANGE_END: days.last.isoformat()}
