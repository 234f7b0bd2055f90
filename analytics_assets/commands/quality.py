"""`analytics quality`: what the checks say, and setting events at fault aside."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.audit.log import Act
from analytics_assets.commands.common import DONE, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, running, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.aside import Chosen

_DAY = click.DateTime(["%Y-%m-%d"])


def _day(given: datetime | None) -> date | None:
    return given.date() if given else None


@click.group(invoke_without_command=True)
@click.option("--table", help="Only verdicts on this table; what is unknown is then listed by expectation.")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--day", type=_DAY, help="Only of this day (UTC).")
@json_option
@click.pass_context
def quality(context: click.Context, table: str | None, tenant: str | None, day: datetime | None, as_json: bool) -> int:
    """What failed, what is unknown and why; `quality aside` sets events aside.

    The newest verdict on every day, also on days that are not published.
    """
    if context.invoked_subcommand:
        return DONE
    from analytics_assets.quality.overview import overview

    stages = pipeline()
    with stages.connect() as con:
        holding = stages.gate.refusals(con)
        told = overview(
            con, stages.gate.results.snapshot(), holding, stages.settings.incidents,
            table=table, tenant=tenant, day=str(_day(day)) if day else None,
        )  # fmt: skip
    if as_json:
        echo_json(told)
    else:
        _show(told, by_expectation=table is not None)
    return DONE


def _show(told: dict[str, Any], *, by_expectation: bool) -> None:
    if not told["days"]:
        say("nothing is judged yet; `analytics demo` or `analytics ingest` judge what they load before they publish")
        return
    counts = told["counts"]
    days = f"{counted(told['days'], 'day')}, {told['first']}" + (f" to {told['last']}" if told["days"] > 1 else "")
    say(f"judged: {days}; last at {told['judged_at']:%Y-%m-%d %H:%M} UTC")
    say(f"verdicts: {counts['pass']:,} passed, {counts['fail']:,} failed, {counts['unknown']:,} unknown")
    click.echo()
    _show_failed(told["failed"])
    _show_unknown(told["unknown"], by_expectation)
    if told["holding"]:
        say(f"{counted(told['holding'], 'failure')} {'holds' if told['holding'] == 1 else 'hold'} the publish: mend the days, "
            "set the events aside (`analytics quality aside`), or declare the days in incidents.yaml")  # fmt: skip
    else:
        say("nothing holds the publish")


def _show_failed(failed: Sequence[dict[str, Any]], most: int = 50) -> None:
    if not failed:
        return
    rows = [
        (str(row["partition"]), row["table"], row["expectation"], row["tenant"] or "(all)", _number(row["observed"]),
         row["expected"], row["means"])
        for row in failed[:most]
    ]  # fmt: skip
    show(("day", "table", "failed", "tenant", "observed", "expected", "what follows"), rows)
    for row in failed[:most]:
        if row["example"]:
            say(f"for example, {row['expectation']}: {row['example']}")
    if any(row["example"] for row in failed[:most]):
        click.echo()
    if len(failed) > most:
        say(f"and {len(failed) - most:,} more; --day, --tenant and --table narrow, --json has all")


def _show_unknown(unknown: Sequence[dict[str, Any]], by_expectation: bool) -> None:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in unknown:
        groups.setdefault((row["table"], row["why"], row["expectation"] if by_expectation else ""), []).append(row)
    if not groups:
        return
    rows = []
    for (table, why, expectation), members in groups.items():
        first, last = min(row["first"] for row in members), max(row["last"] for row in members)
        which = expectation or counted(len(members), "expectation")
        verdicts = f"{sum(row['verdicts'] for row in members):,}"
        rows.append((table, which, why, verdicts, f"{first} to {last}" if first != last else str(first)))
    show(("table", "unknown", "why", "tenant days", "days"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


@quality.command("aside")
@click.option("--tenant", help="Events of this tenant.")
@click.option("--day", type=_DAY, help="Events of this day (UTC).")
@click.option("--expectation", help="Of the tenant's day only those that this expectation names.")
@click.option("--batch", help="Events of this batch: its id, or how it begins.")
@click.option("--file", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The delivery, where it was loaded by hand: the records are kept as they came.")  # fmt: skip
@click.option("--reason", required=True, help="Why; what is set aside is listed and replayed by it.")
@click.option("--apply", is_flag=True, help="Do it; without this the command only shows what would change.")
@json_option
def aside(
    tenant: str | None, day: datetime | None, expectation: str | None, batch: str | None, files: tuple[Path, ...],
    reason: str, apply: bool, as_json: bool,
) -> int:  # fmt: skip
    """Set stored events aside, then rebuild and publish without them.

    They leave every table and wait among the rejected records, with the reason. After a fix,
    `analytics rejected replay --reason "set_aside: REASON"` brings each back once.
    """
    from analytics_assets.aside import Wanted, set_aside
    from analytics_assets.events.intake import utc_now

    if not re.fullmatch(r"[^\x00-\x1f]{3,200}", reason.strip()):
        raise click.UsageError("--reason takes 3 to 200 characters on one line")
    stages = pipeline()
    wanted = Wanted(tenant, _day(day), batch, expectation)
    with stages.connect() as con, _recorded(tenant, reason) if apply else nullcontext(Act()) as act:
        chosen = set_aside(
            con, stages.intake, stages.gate, stages.sources, stages.settings.limits.sessions, wanted, reason.strip(), utc_now(),
            dry_run=not apply, files=files,
        )  # fmt: skip
        act.outcome = "done" if chosen.events else "unchanged"
        act.details |= {"events": chosen.events, "days": sorted({str(group[1]) for group in chosen.groups})}
    if not chosen.events:
        raise UserError("no events match; nothing was set aside")
    try:
        if apply:
            with running(settings()) as jobs:
                jobs.refresh()
    finally:
        if as_json:
            echo_json({"applied": apply, "reason": f"set_aside: {reason.strip()}", **chosen.__dict__, "events": chosen.events})
        else:
            _show_aside(chosen, reason.strip(), apply)
    return DONE


def _recorded(tenant: str | None, reason: str) -> AbstractContextManager[Act]:
    return audit_log().act("set_aside", tenant=tenant, reason=reason.strip(), tables=["events", "rejected_events"])


def _show_aside(chosen: "Chosen", reason: str, applied: bool) -> None:
    rows = [(tenant, str(day), f"{events:,} of {of:,}") for tenant, day, events, of in chosen.groups]
    show(("tenant", "day", "events"), rows)
    say(f"{counted(chosen.events, 'event')} {'set aside' if applied else 'would be set aside'}")
    other = chosen.events - chosen.as_they_came
    if chosen.as_they_came:
        say(f"kept as they came: {counted(chosen.as_they_came, 'record')}")
    if other:
        names = ", ".join(chosen.missing)
        say(f"kept as stored, so that no new mapping changes them: {counted(other, 'record')} ({names} is not at hand; "
            "name it by --file)")  # fmt: skip
    if applied:
        say(f'after a fix: analytics rejected replay --reason "set_aside: {reason}"')
    else:
        say(f"{counted(len(chosen.days), 'day')} would be rebuilt; nothing was changed, run again with --apply to do it")
