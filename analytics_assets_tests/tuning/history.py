"""A data home whose loads were counted for weeks: rows as intake and telemetry would have left them, hour by hour."""

from datetime import datetime

from analytics_assets.events.tables import BATCHES
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets.warehouse.spec import TableSpec, identifier
from analytics_assets.warehouse.table import Table, replace_all
from analytics_assets_tests.builders import Line

# By day and by night: what comes at noon is three times what comes at midnight.
WAVE = "(1000 - 500 * cos(2 * pi() * hour(moment) / 24))"


def rows(spec: TableSpec, moments: str, **values: str) -> str:
    """A SELECT of rows with these columns, all others empty; `moments` gives each row its `moment`."""
    columns = (f"({values.get(one.name, 'null')})::{one.type} as {identifier(one.name)}" for one in spec.columns)
    return f"select {', '.join(columns)} from ({moments})"


def hours(until: datetime, weeks: float) -> str:
    """A SELECT of a moment in each of the hours before `until`."""
    count = round(weeks * 7 * 24)
    return f"select timestamp '{until}' - to_hours(n) + interval 30 minute as moment, n from range(1, {count + 1}) t(n)"


def receive(line: Line, until: datetime, **weeks: float) -> None:
    """Each tenant was sent WAVE events an hour for so many weeks."""
    parts = [
        rows(
            BATCHES, hours(until, known), batch_id=f"'{tenant}-' || n", status="'loaded'", received_at="moment",
            tenant=f"'{tenant}'", events=f"{WAVE}::bigint", events_by_tenant=f"json_object('{tenant}', {WAVE}::bigint)",
        )
        for tenant, known in weeks.items()
    ]  # fmt: skip
    replace_all(Table(line.pipeline.home.warehouse, BATCHES), line.con, " union all ".join(parts))


def burst(line: Line, moment: datetime, tenant: str, events: int) -> None:
    """A further batch of a tenant."""
    row = rows(
        BATCHES, f"select timestamp '{moment}' as moment", batch_id="'burst'", status="'loaded'", received_at="moment",
        tenant=f"'{tenant}'", events=str(events), events_by_tenant=f"json_object('{tenant}', {events})",
    )  # fmt: skip
    table = Table(line.pipeline.home.warehouse, BATCHES)
    replace_all(table, line.con, f"{table.snapshot().select()} union all {row}")


def work(line: Line, until: datetime, weeks: float, seconds: str = WAVE) -> None:
    """Steps took so many processor seconds an hour."""
    steps = rows(
        STEP_TELEMETRY, hours(until, weeks), run_id="'run-' || n", started_at="moment", date="moment::date",
        cpu_seconds=seconds, wall_seconds="3600",
    )  # fmt: skip
    replace_all(Table(line.pipeline.home.warehouse, STEP_TELEMETRY), line.con, steps)
