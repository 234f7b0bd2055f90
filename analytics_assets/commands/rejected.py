"""`analytics rejected`: records that could not become events, listed and tried again."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.audit.log import Act
from analytics_assets.commands.common import DONE, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, running, say, show, show_batches

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.events.intake import BatchReport
    from analytics_assets.pipeline import Pipeline


@click.group()
def rejected() -> None:
    """List or replay records that could not become events."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (("tenant", "Only of this tenant."), ("source", "Only of this source."), ("reason", "Only this reason.")):
        command = click.option(f"--{name}", help=text)(command)
    return command


@rejected.command("list")
@_filters
@click.option("--rows", type=click.IntRange(0), default=0, show_default=True, help="Also show this many records as they came.")
@json_option
def rejected_list(reason: str | None, source: str | None, tenant: str | None, rows: int, as_json: bool) -> int:
    """Count rejected records by source, tenant and reason."""
    from analytics_assets.events.tables import REJECTED

    stages = pipeline()
    with stages.connect() as con:
        select = stages.table(REJECTED).snapshot().select()
        where = "where ($1 is null or reason = $1) and ($2 is null or source = $2) and ($3 is null or tenant_id = $3)"
        counted = con.execute(
            f"select source, coalesce(tenant_id, '') as tenant, reason, count(*) as records, min(received_at) as first "
            f"from ({select}) {where} group by 1, 2, 3 order by 4 desc, 1, 2, 3",
            [reason, source, tenant],
        )
        counts = [dict(zip([c[0] for c in counted.description], row, strict=True)) for row in counted.fetchall()]
        recorded = audit_log().act("show_rejected", tenant=tenant, tables=[REJECTED.name]) if rows else None
        with recorded or nullcontext(Act()) as act:
            examples = con.execute(
                f"select reason, raw from ({select}) {where} limit {int(rows)}", [reason, source, tenant]
            ).fetchall()
            act.details["rows"] = len(examples)
    if as_json:
        echo_json({"counts": counts, "records": [{"reason": name, "raw": raw} for name, raw in examples]})
        return DONE
    if not counts:
        click.echo("no rejected records")
        return DONE
    lines = [(c["source"], c["tenant"], c["reason"], f"{c['records']:,}", c["first"]) for c in counts]
    show(("source", "tenant", "reason", "records", "first seen (UTC)"), lines)
    for name, raw in examples:
        say(f"{name}: {raw[:500]}" + (f" ... ({len(raw):,} characters)" if len(raw) > 500 else ""))
    return DONE


def _set_aside(con: "duckdb.DuckDBPyConnection", stages: "Pipeline", source: str | None, tenant: str | None) -> int:
    """How many records wait that a person set aside."""
    from analytics_assets.events.tables import REJECTED
    from analytics_assets.events.withdraw import SET_ASIDE

    return con.execute(
        f"select count(*) from ({stages.table(REJECTED).snapshot().select()}) where starts_with(reason, $1) "
        "and ($2 is null or source = $2) and ($3 is null or tenant_id = $3)",
        [SET_ASIDE, source, tenant],
    ).fetchall()[0][0]


def _outcome(report: "BatchReport", applied: bool) -> str:
    """What a replay changes, or would, in a line."""
    days = ", ".join(map(str, report.days[:3])) + (f" and {len(report.days) - 3} more" if len(report.days) > 3 else "")
    parts = [f"new events: {report.events:,}" + (f" ({days})" if days else "")]
    if report.duplicates:
        parts.append(f"there already, so no longer rejected: {report.duplicates:,}")
    parts += [f"still {reason}: {count:,}" for reason, count in report.rejected_by_reason.items()]
    return f"{report.source}{'' if applied else ', if applied'}: {'; '.join(parts)}"


@rejected.command("replay")
@_filters
@click.option("--apply", is_flag=True, help="Do it; without this the command only shows what would change.")
@json_option
def rejected_replay(reason: str | None, source: str | None, tenant: str | None, apply: bool, as_json: bool) -> int:
    """Try rejected records again, after a fix.

    A fix is a change of the mapping, of the tenants or of a limit. Records that were set aside by hand are only taken
    when --reason names theirs.
    """
    from analytics_assets.events.intake import utc_now

    stages, log = pipeline(), audit_log()
    recorded = log.act("replay", tenant=tenant, reason=reason, tables=["events", "rejected_events"]) if apply else None
    with stages.connect() as con, recorded or nullcontext(Act()) as act:
        reports = stages.replay_rejected(con, utc_now(), reason=reason, source=source, tenant=tenant, dry_run=not apply)
        act.outcome = "done" if reports else "unchanged"
        act.details["events"] = sum(report.events for report in reports)
        aside = 0 if reason else _set_aside(con, stages, source, tenant)
    try:
        if apply and any(report.events for report in reports):
            with running(settings()) as jobs:
                jobs.refresh()
    finally:
        if as_json:
            echo_json({"applied": apply, "batches": [report.as_row() for report in reports]})
        elif reports:
            show_batches(reports)
            for report in reports:
                say(_outcome(report, apply))
    if aside and not as_json:
        say(f"left out: {counted(aside, 'record')} set aside by hand; --reason takes them, `analytics rejected list` names it")
    if not as_json and not (reports and apply):
        say("nothing was changed; run again with --apply to do it" if reports else "no rejected records match")
    return DONE
