"""`analytics telemetry`: what steps and queries took, cost and how they ended: for people, Prometheus and OpenTelemetry."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

import click

from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.pipeline import Pipeline
    from analytics_assets.telemetry.report import Report
    from analytics_assets.telemetry.review import Review
    from analytics_assets.telemetry.tables import Performance

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
    """The dearest steps, those that fail most, how reliable each job is, and what is used and read.

    Two numbers with an arrow are those of the earlier and of the later half of the time.
    """
    from analytics_assets.audit.report import interventions
    from analytics_assets.events.intake import utc_now
    from analytics_assets.telemetry.metrics import first_week, performance
    from analytics_assets.telemetry.probe import disk
    from analytics_assets.telemetry.report import report
    from analytics_assets.telemetry.review import review

    stages, until = pipeline(), utc_now()
    selects, room = _selects(stages), disk(stages.home.root)
    by_hand = interventions(stages.home, datetime.combine(first_week(until), time()))
    with stages.connect() as con:
        found = report(con, selects["step_telemetry"], selects["unit_costs"], until, days)
        if found is None:
            raise UserError(_NOTHING)
        seen = review(con, selects, until, days, feeds=_feeds(), disk=room)
        weeks = performance(con, selects, by_hand, room, until)
    if as_json:
        echo_json({**asdict(found), **asdict(seen), "performance": [asdict(row) for row in weeks]})
    else:
        _show(found)
        _show_review(seen)
        _show_weeks([row for row in weeks if not row.whole])
    return DONE


def _selects(stages: "Pipeline") -> dict[str, str]:
    from analytics_assets.telemetry.tables import QUERY_LOG, STEP_TELEMETRY, UNIT_COSTS

    return {spec.name: stages.table(spec).snapshot().select() for spec in (STEP_TELEMETRY, UNIT_COSTS, QUERY_LOG)}


def _feeds() -> dict[str, set[str]]:
    """The published tables that are computed from others, each with these."""
    from analytics_assets.privacy.labels import read_lineage
    from analytics_assets.shown import published

    names = {spec.name for spec in published()}
    return {
        table: {origin.split(".")[0] for origins in columns.values() for origin in origins}
        for table, columns in read_lineage().items()
        if table in names
    }


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


def _show_review(seen: "Review") -> None:
    say("Week by week (UTC, from Monday on)")
    show(
        ("week", "attempts", "failed", "hours", "rows a second", "cost", "processors used", "queries", "median s", "95 % in s"),
        [
            (week.begins, week.attempts, week.failed, _hours(week.hours), _number(week.rows_a_second),
             None if week.cost is None else f"{week.cost:.6f}",
             None if week.compute is None else f"{week.compute:.0%}", week.queries, _seconds(week.query_median),
             _seconds(week.query_p95))
            for week in seen.weeks
        ],
    )  # fmt: skip
    say("What is used of what is there")
    show(
        ("what", "used", "should be", "what to do"),
        [(one.kind, f"{one.used:.0%}", f"{one.low:.0%} to {one.high:.0%}", one.advice) for one in seen.usage],
    )
    say("Whose work it was")
    show(
        ("tenant", "cost", "share"),
        [(one.tenant or "nobody's alone", f"{one.cost:.6f} {one.currency}", f"{one.share:.1%}") for one in seen.tenants],
    )
    if seen.queries:
        say("The dearest queries, those that differ in values alone as one (the audit log has their words)")
        show(
            ("shape", "command", "reads", "asked", "failed", "median s", "cost"),
            [
                (one.shape, one.command, one.tables, one.queries, one.failed, _seconds(one.seconds),
                 f"{one.cost:.9f} {one.currency}")
                for one in seen.queries
            ],
        )  # fmt: skip
    _show_reading(seen)


def _show_reading(seen: "Review") -> None:
    from analytics_assets.telemetry.review import DAYS_TO_TELL

    reading = seen.reading
    if reading.unread is None:
        known = f"known since {reading.since:%Y-%m-%d %H:%M}" if reading.since else "not known yet"
        say(f"Which tables nobody reads cannot be told yet: queries are {known}, and {DAYS_TO_TELL} days are needed")
    elif not reading.unread:
        say("Every table that is made for readers is read, or others are made from it")
    else:
        say("Work that nobody reads, as far as this command sees (who opens the published file itself is not seen)")
        show(
            ("table", "cost", "share"),
            [(one.table, f"{one.cost:.6f} {one.currency}", f"{one.share:.1%}") for one in reading.unread],
        )


def _show_weeks(rows: Sequence["Performance"]) -> None:
    """This week; of what is held against a band, `_show_review` tells more."""
    say("This week against the four before it (before: the median of these; trend: change a week over eight)")
    show(
        ("what", "of", "this week", "95 % under", "before", "now / before", "trend"),
        [
            (row.measure.replace("_", " "), row.name, _measured(row, row.value), _seconds(row.slow),
             _measured(row, row.baseline), None if row.ratio is None else f"{row.ratio:.2f}",
             None if row.trend is None else f"{row.trend:+.0%}")
            for row in rows
        ],
    )  # fmt: skip


def _measured(row: "Performance", value: float | None) -> str | None:
    if value is None:
        return None
    if row.low is not None:
        return f"{value:.0%}"
    return _seconds(value) if row.measure.endswith("_seconds") else f"{value:,.0f}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


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

    stages = pipeline()
    selects = _selects(stages)
    with stages.connect() as con:
        told = exposition(con, selects["step_telemetry"], selects["unit_costs"])
    click.echo(told, nl=False)
    return DONE


@telemetry.command("export")
@click.option("--otlp", "url", required=True, metavar="URL", help="Collector for OTLP over HTTP: http://127.0.0.1:4318")
@click.option("--days", type=click.IntRange(1, 3650), default=1, show_default=True, help="Runs that began so many days back.")
def export_steps(url: str, days: int) -> int:
    """Send runs and steps as spans, and the sums of all as metrics, to a collector of OpenTelemetry.

    Headers, certificates and timeouts: OTEL_EXPORTER_OTLP_HEADERS and the like in the environment.
    """
    from analytics_assets.events.intake import utc_now
    from analytics_assets.telemetry.otlp import export

    stages, now = pipeline(), utc_now()
    selects = _selects(stages)
    # A collector that does not answer at once is asked again for ten seconds.
    say("sending to the collector", err=True)
    with stages.connect() as con:
        sent = export(con, selects, url, since=now - timedelta(days=days), now=now)
    if not sent.metrics:
        raise UserError(_NOTHING)
    say(
        f"sent {counted(sent.runs, 'run')} with {counted(sent.steps, 'attempt')} of steps as spans, and "
        f"{counted(sent.metrics, 'metric')} with {counted(sent.points, 'point')}"
    )
    return DONE
