"""The tables of load ahead and of the capacity kept for it, and what a row of each is."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from analytics_assets.warehouse.spec import Column, TableSpec

Load = Literal["events", "work"]
Mode = Literal["observe", "advise", "act"]

_WHOSE = (
    Column("tenant", "VARCHAR", "Tenant; empty for all together."),
    Column("load", "VARCHAR", "events (received) or work (processor seconds of the steps that began), an hour."),
)

LOAD_FORECAST = TableSpec(
    name="load_forecast",
    comment="One row a tenant, load and hour ahead, of the newest forecast; one row that says why where there is none.",
    columns=(
        *_WHOSE,
        Column("origin", "TIMESTAMP", "Hour (UTC, its begin) that was the last one known."),
        Column("lead", "INTEGER", "Hours from `origin` to the hour that the row is about; empty without a forecast."),
        Column("time", "TIMESTAMP", "Hour (UTC, its begin) that the row is about; empty without a forecast."),
        Column("value", "DOUBLE", "Load to expect in that hour."),
        Column("lower_80", "DOUBLE", "Over it in nine of ten hours; empty if too little is known."),
        Column("upper_80", "DOUBLE", "The 90th percentile, for which capacity is kept: under it in nine of ten hours."),
        Column("lower_95", "DOUBLE", "With `upper_95` the interval in which 95 of 100 hours lie."),
        Column("upper_95", "DOUBLE", "A load over it is a spike."),
        Column("source", "VARCHAR", "model, referee (the same hour last week), or none."),
        Column("error_ratio", "DOUBLE", "The model's error over the referee's in the rolling back-test; 1 and more: referee."),
        Column("holiday", "VARCHAR", "Public holiday of the tenant on that day, which the forecast does not know of."),
        Column("reason", "VARCHAR", "Why model or referee, or why nothing."),
    ),
    time_column=None,
    order_by=("load", "tenant", "lead"),
)  # fmt: skip


@dataclass(frozen=True)
class Ahead:
    """A row of `load_forecast`."""

    tenant: str | None
    load: Load
    origin: datetime | None
    lead: int | None
    time: datetime | None
    value: float | None
    lower_80: float | None
    upper_80: float | None
    lower_95: float | None
    upper_95: float | None
    source: Literal["model", "referee", "none"]
    error_ratio: float | None
    holiday: str | None
    reason: str


SCALING_PLAN = TableSpec(
    name="scaling_plan",
    comment="One row a decision: how many runs at once a pool is to have, and why.",
    columns=(
        Column("pool", "VARCHAR", "Pool, as config/scaling.yaml and Dagster name it."),
        Column("decided_at", "TIMESTAMP", "When it was decided (UTC)."),
        *_WHOSE,
        Column("mode", "VARCHAR", "advise: only written; act: Dagster's pool has it as its limit."),
        Column("capacity", "INTEGER", "Runs at once that the pool is to have from then on."),
        Column("was", "INTEGER", "What it had before, by the decision before this one or by Dagster's limit."),
        Column("applied", "INTEGER", "Limit that Dagster's pool was given; empty if it was left as it is."),
        Column("quota", "INTEGER", "Most that the pool may have."),
        Column("observed", "DOUBLE", "Load of the last hour; empty if not known."),
        Column("calendar", "DOUBLE", "Load an hour that the declared calendar says to expect; empty if nothing."),
        Column("forecast_p90", "DOUBLE", "`upper_80` of this hour or the next, the larger; empty if not known."),
        Column("expected_most", "DOUBLE", "Load of the last hour that would not have been a spike; empty if not known."),
        Column("forecast_origin", "TIMESTAMP", "`origin` of the forecast that was used (UTC)."),
        Column("held", "VARCHAR", "What kept it from what was asked for: quota, spike (its step is bounded), window, cooldown, "
               "changes, hysteresis, history, frozen or person; empty if nothing."),
        Column("reason", "VARCHAR", "Every rule that spoke, in a sentence."),
        Column("alert", "VARCHAR", "What people are told of a load over its interval."),
    ),
    time_column=None,
    order_by=("decided_at", "pool"),
)  # fmt: skip


@dataclass(frozen=True)
class Decided:
    """A row of `scaling_plan`. Times are UTC without an offset."""

    pool: str
    decided_at: datetime
    tenant: str | None
    load: Load
    mode: Mode
    capacity: int
    was: int
    applied: int | None
    quota: int
    observed: float | None
    calendar: float | None
    forecast_p90: float | None
    expected_most: float | None
    forecast_origin: datetime | None
    held: str | None
    reason: str
    alert: str | None
