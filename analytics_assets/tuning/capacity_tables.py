"""The tables from which capacity is sized for months: what tenants' days are like, what was used, and what is expected."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, get_args

from analytics_assets.warehouse.spec import Column, TableSpec

CAPACITY_INPUTS = TableSpec(
    name="capacity_inputs",
    comment="One row a tenant and day: what its events, sessions, properties and people are like, and how long it is kept.",
    columns=(
        Column("tenant_id", "VARCHAR", "Tenant."),
        Column("date", "DATE", "Day (UTC) of the events."),
        Column("segment", "VARCHAR", "Tenant tier of config/slos.yaml when the day was counted."),
        Column("kept_days", "INTEGER", "Days for which its events are kept by config/retention.yaml; empty: for ever."),
        Column("events", "BIGINT", "Events."),
        Column("sessions", "BIGINT", "Sessions that began on the day."),
        Column("events_per_session", "DOUBLE", "Events of these sessions over sessions; empty without one. No runaways."),
        Column("properties", "BIGINT", "Different properties of the day's events; at least, where some are not listed."),
        Column("properties_per_event", "DOUBLE", "Properties an event carries on average, as `properties_daily` has them."),
        Column("people", "BIGINT", "People with a session that began on the day, stitched. Never sum it over days."),
        Column("returning_people", "BIGINT", "Of these, those whose first session began on an earlier day."),
        Column("events_version", "BIGINT", "Version of the events table from which the day was built."),
    ),
    time_column="date",
    order_by=("tenant_id", "date"),
)

Resource = Literal["rows", "stored_bytes", "queue_depth", "scanned_bytes"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
_RESOURCE = Column(
    "resource", "VARCHAR",
    "rows (events received), stored_bytes (the data home at the end of the day), queue_depth (runs that wait, on average over "
    "the day) or scanned_bytes (read by steps and by queries of the command).",
)  # fmt: skip

CAPACITY_USE = TableSpec(
    name="capacity_use",
    comment="One row a resource and day that is over: how much of it was used.",
    columns=(
        Column("date", "DATE", "Day (UTC)."),
        _RESOURCE,
        Column("amount", "DOUBLE", "What was used."),
    ),
    time_column=None,
    order_by=("resource", "date"),
)


@dataclass(frozen=True)
class Use:
    """A row of `capacity_use`."""

    date: date
    resource: Resource
    amount: float


CAPACITY_FORECAST = TableSpec(
    name="capacity_forecast",
    comment="One row a resource and day of the next 90, of the newest forecast; one row that says why where there is none.",
    columns=(
        _RESOURCE,
        Column("made_at", "TIMESTAMP", "When it was forecast (UTC)."),
        Column("origin", "DATE", "Day (UTC) that was the last one known."),
        Column("lead", "INTEGER", "Days from `origin` to the day that the row is about; empty without a forecast."),
        Column("date", "DATE", "Day (UTC) that the row is about; empty without a forecast."),
        Column("value", "DOUBLE", "What is to be expected on that day."),
        Column("lower_80", "DOUBLE", "Over it on nine of ten days, by the back-test; empty if too little is known."),
        Column("upper_80", "DOUBLE", "Under it on nine of ten days, by the back-test; empty if too little is known."),
        Column("source", "VARCHAR", "level, trend, fading trend; last value where none of these errs less; or none."),
        Column("horizon", "INTEGER", "Days ahead up to which the errors are of the same back-test: 30, or 90 for 31 to 90."),
        Column("error", "DOUBLE", "Mean absolute error over the mean of what came, of what is served, in the back-test."),
        Column("last_value_error", "DOUBLE", "The same of the last value (of a flow, on the same weekday)."),
        Column("back_tests", "INTEGER", "Weeks from which it was tried; they overlap."),
        Column("reason", "VARCHAR", "Why this source, or why nothing."),
    ),
    time_column=None,
    order_by=("resource", "lead"),
)


@dataclass(frozen=True)
class Outlined:
    """A row of `capacity_forecast`. Times are UTC without an offset."""

    resource: Resource
    made_at: datetime
    origin: date | None
    lead: int | None
    date: date | None
    value: float | None
    lower_80: float | None
    upper_80: float | None
    source: str
    horizon: int | None
    error: float | None
    last_value_error: float | None
    back_tests: int | None
    reason: str
