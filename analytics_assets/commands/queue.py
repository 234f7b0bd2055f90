"""`analytics queue`: which runs wait and for what, how long runs have waited, and letting heavy ones go before their window."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say, show
from analytics_assets.freshness.queues import load_queues

if TYPE_CHECKING:
    from analytics_assets.freshness.overrides import Override


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def queue(context: click.Context, as_json: bool) -> int:
    """List the runs that wait, in the order in which they start.

    Heavy work (backfills, the nightly maintenance, rebuilds of many days by hand) waits for the off-peak window that
    config/queues.yaml declares.
    """
    if context.invoked_subcommand:
        return DONE
    from analytics_assets.defs.instance import open_instance
    from analytics_assets.defs.queues import waiting
    from analytics_assets.events.intake import utc_now
    from analytics_assets.freshness.overrides import logged

    rules, stages, now = load_queues(settings().config / "queues.yaml"), pipeline(), utc_now()
    with open_instance(settings()) as instance:
        found = waiting(instance, rules, now)
    with stages.connect() as con:
        let_go = logged(con, stages.home, 5)
    if as_json:
        echo_json({"waiting": [asdict(run) for run in found], "overrides": [asdict(one) for one in let_go]})
        return DONE
    if found:
        rows = [(run.run_id[:8], run.work, run.queue, run.since, run.waits_for, _opens(run.starts_at)) for run in found]
        show(("run", "work", "queue", "since (UTC)", "waits for", "opens (UTC)"), rows)
    else:
        say("no run waits")
    for one in let_go:
        say(_told(one))
    return DONE


def _opens(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else None


def _told(one: "Override") -> str:
    return f"{one.let_go_at:%Y-%m-%d %H:%M} UTC: {one.by} let {one.work} ({one.run_id[:8]}) go by {one.how}: {one.reason}"


@queue.command()
@click.argument("runs", nargs=-1, metavar="[RUN_ID]...")
@click.option("--all", "everything", is_flag=True, help="All runs that wait for the off-peak window.")
@click.option("--reason", required=True, help="Why, kept in the log.")
@json_option
def release(runs: tuple[str, ...], everything: bool, reason: str, as_json: bool) -> int:
    """Let heavy runs go before their window.

    The beginning of an id is enough. Who, when and why is logged in `queue_overrides`.
    """
    if bool(runs) == everything:
        raise click.UsageError("name the runs, or say --all")
    if not reason.strip():
        raise click.UsageError("the reason is empty")
    from analytics_assets.defs.instance import open_instance
    from analytics_assets.defs.queues import release as let_go
    from analytics_assets.events.intake import utc_now

    with open_instance(settings()) as instance:
        found = let_go(instance, runs, reason.strip(), utc_now())
    if as_json:
        echo_json({"released": [asdict(one) for one in found]})
        return DONE
    for one in found:
        say(_told(one))
    say(f"{counted(len(found), 'run')} may start; one at a time, after everything that promises more")
    return DONE


@queue.command()
@click.option("--last", type=click.IntRange(1, 1000), default=20, show_default=True, help="So many, the newest first.")
@json_option
def started(last: int, as_json: bool) -> int:
    """What the tiers started, and why: by automation, a sensor or the resident worker.

    What people, backfills and schedules start stands in Dagster's list of runs.
    """
    stages = pipeline()
    with stages.connect() as con:
        found = stages.watch.actions(con, last)
    if as_json:
        echo_json({"started": found})
        return DONE
    if not found:
        say("no tier has started anything yet")
        return DONE
    rows = [(one["started_at"], one["tier"], one["action"], one["reason"]) for one in found]
    show(("started (UTC)", "tier", "what", "why"), rows)
    return DONE


@queue.command()
@click.option("--days", type=click.IntRange(1, 3650), default=7, show_default=True, help="Runs of so many days back.")
@json_option
def waits(days: int, as_json: bool) -> int:
    """How long runs waited to start, by queue."""
    from analytics_assets.defs.instance import open_instance
    from analytics_assets.defs.queues import queue_waits
    from analytics_assets.events.intake import utc_now

    with open_instance(settings()) as instance:
        found = queue_waits(instance, utc_now() - timedelta(days=days))
    if as_json:
        echo_json({"queue_wait": [asdict(line) for line in found]})
        return DONE
    if not found:
        say(f"no run of the queue has started in the last {counted(days, 'day')}")
        return DONE
    rows = [(one.queue, one.runs, *(f"{value:,.1f} s" for value in (one.median, one.p95, one.longest))) for one in found]
    show(("queue", "runs", "median", "95 of 100 within", "longest"), rows)
    return DONE
