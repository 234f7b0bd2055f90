"""The days of the partitioned tables: those of Dagster's own definition, counted faster."""

from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.defs.partitions import DaysPartitionsDefinition

FIRST, LAST = datetime.fromisoformat("2025-12-30"), datetime.fromisoformat("2028-03-02")
MOMENTS = st.datetimes(FIRST, LAST, timezones=st.just(ZoneInfo("UTC")))


@given(now=MOMENTS, end_offset=st.integers(-1, 2))
def test_the_days_are_those_of_dagster(now: datetime, end_offset: int) -> None:
    own = dg.DailyPartitionsDefinition("2026-01-01", end_offset=end_offset)
    ours = DaysPartitionsDefinition("2026-01-01", end_offset=end_offset)
    assert list(ours.get_partition_keys(now)) == list(own.get_partition_keys(now))
