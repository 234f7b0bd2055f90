"""`analytics tuning capacity`: what will be used in the next months, how sure that is, and what tenants' days are like."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline, settings
from analytics_assets.console import say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.tuning.capacity_tables import Outlined

_NOTHING = "nothing is forecast yet; run `analytics tuning capacity --now`, or let Dagster's weekly schedule do it"
_SAID = {
    "rows": "events received a day", "stored_bytes": "bytes of the data home", "queue_depth": "runs that wait at a time",
    "scanned_bytes": "bytes read a day by steps and queries",
}  # fmt: skip


@click.command()
@click.option("--now", "anew", is_flag=True, help="Measure and forecast first. Dagster's schedules do it each day and week.")
@json_option
def capacity(anew: bool, as_json: bool) -> int:
    """What will be used 30 and 90 days ahead: events, disk, waiting runs and scans.

    Beside each number stands how far such forecasts were off, and how far the last value was. `capacity_forecast` has every
    day, `capacity_use` what was used, `capacity_inputs` what tenants' days are like.
    """
    from analytics_assets.tuning.months import ahead

    if anew:
        from analytics_assets.defs.run import Jobs

        jobs = Jobs(settings())
        for job in ("capacity", "outlook"):
            jobs.run(job)
    with pipeline().connect() as con:
        rows = ahead(con, pipeline().home)
    if as_json:
        echo_json({"forecast": [asdict(row) for row in rows]})
        return DONE
    if not rows:
        raise UserError(_NOTHING)
    say(f"as of {rows[0].made_at:%Y-%m-%d %H:%M} UTC")
    shown = [row for row in rows if row.lead is None or row.lead == row.horizon]
    shown.sort(key=lambda row: (list(_SAID).index(row.resource), row.lead or 0))
    show(
        ("what", "on", "expected", "4 of 5 days", "by", "off by", "last value off by", "why"),
        [
            (_SAID[row.resource], row.date, _number(row.value, row), _between(row), row.source, _share(row.error),
             _share(row.last_value_error), row.reason)
            for row in shown
        ],
    )  # fmt: skip
    return DONE


def _number(value: float | None, row: "Outlined") -> str:
    if value is None:
        return ""
    if row.resource in ("stored_bytes", "scanned_bytes"):
        return f"{value / 2**20:,.1f} MiB" if value < 2**30 else f"{value / 2**30:,.1f} GiB"
    return f"{value:,.2f}" if row.resource == "queue_depth" else f"{value:,.0f}"


def _between(row: "Outlined") -> str:
    known = row.lower_80 is not None and row.upper_80 is not None
    return f"{_number(row.lower_80, row)} to {_number(row.upper_80, row)}" if known else ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
