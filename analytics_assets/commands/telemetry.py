"""`analytics telemetry`: what steps took, cost and how they ended: a report for people, numbers for Prometheus."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.telemetry.report import Report

_READ = ("runs read", "steps of them")
_NOTHING = "no step is known yet; run `analytics telemetry collect`, or let Dagster's hourly schedule do it"


@click.group()
def telemetry() -> None:
    """What the steps of all runs took, what that cost, and how they ended."""


@telemetry.command()
@json_option
def collect(as_json: bool) -> int:
    """Keep what the steps of the runs that ended took.

    Dagster's schedule does it once an hour while `analytics dev` runs.
    """
    from analytics_assets.defs.run import Jobs

    result = Jobs(settings()).run("telemetry")
    runs, steps = (result.asset_materializations_for_node("step_telemetry")[0].metadata[name].value for name in _READ)
    if as_json:
        echo_json({"runs": runs, "steps": steps})
    else:
        say(f"read {counted(int(str(runs)), 'run')} with {counted(int(str(steps)), 'step')}")
    return DONE


@telemetry.command("report")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="Steps of so many days back.")
@json_option
def report_steps(days: int, as_json: bool) -> int:
    """The dearest steps, those that fail most, and how reliable each job is.

    Two numbers with an arrow are those of the earlier and of the later half of the time.
    """
    from analytics_assets.events.intake import utc_now
    from analytics_assets.telemetry.report import report
    from analytics_assets.telemetry.tables import STEP_TELEMETRY, UNIT_COSTS

    stages = pipeline()
    steps, costs = (stages.table(spec).snapshot().select() for spec in (STEP_TELEMETRY, UNIT_COSTS))
    with stages.connect() as con:
        found = report(con, steps, costs, utc_now(), days)
    if found is None:
        raise UserError(_NOTHING)
    if as_json:
        echo_json(asdict(found))
    else:
        _show(found)
    return DONE


def _show(found: "Report") -> None:
    say(
        f"{counted(found.attempts, 'attempt')} of steps from {found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC; "
        f"the newest that is known began {found.last:%Y-%m-%d %H:%M}"
    )
    assumed = any(one.basis == "assumed" for one in found.dearest)
    say(f"The dearest steps, at {'assumed prices (prices.yaml)' if assumed else 'the prices of prices.yaml'}")
    show(
        ("job", "step", "attempts", "cost", "share", "earlier -> later"),
        [
            (one.job, one.step, one.attempts, f"{one.cost:.6f} {one.currency}", f"{one.share:.1%}",
             f"{one.earlier:.6f} -> {one.later:.6f}")
            for one in found.dearest
        ],
    )  # fmt: skip
    if found.failing:
        say("The steps that fail most")
        show(
            ("job", "step", "failed", "attempts", "mostly by", "last (UTC)", "earlier -> later"),
            [
                (one.job, one.step, one.failed, one.attempts, one.error_class or "a kill", one.last_failed_at,
                 f"{one.earlier} -> {one.later}")
                for one in found.failing
            ],
        )  # fmt: skip
    else:
        say("No step failed")
    say("How reliable each job is")
    show(
        ("job", "runs", "failed", "success", "earlier -> later", "times broken", "hours well between", "hours to mend", "now"),
        [
            (one.job, one.runs, one.failed, _share(one.success_rate),
             f"{_share(one.success_rate_earlier)} -> {_share(one.success_rate_later)}", one.times_broken,
             _hours(one.mtbf_hours), _hours(one.mttr_hours), _now(one.broken_since))
            for one in found.reliability
        ],
    )  # fmt: skip


def _share(rate: float | None) -> str:
    return "no run" if rate is None else f"{rate:.1%}"


def _hours(hours: float | None) -> str | None:
    return None if hours is None else f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}"


def _now(broken: datetime | None) -> str:
    return "works" if broken is None else f"broken since {broken:%Y-%m-%d %H:%M}"


@telemetry.command()
def prometheus() -> int:
    """Print what is known of all steps as Prometheus reads it.

    For its node exporter: `analytics telemetry prometheus > analytics.prom.new && mv analytics.prom.new analytics.prom`
    in the exporter's textfile folder.
    """
    from analytics_assets.telemetry.exposition import exposition
    from analytics_assets.telemetry.tables import STEP_TELEMETRY, UNIT_COSTS

    stages = pipeline()
    with stages.connect() as con:
        told = exposition(con, *(stages.table(spec).snapshot().select() for spec in (STEP_TELEMETRY, UNIT_COSTS)))
    click.echo(told, nl=False)
    return DONE
