"""How a data home stands, as a value and on one screen: what is published, how fresh it is, what waits."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.alerts.problems import Problem, problems, said, wrong_declarations
from analytics_assets.alerts.sentence import Doing, names, overall, sentence, support_card
from analytics_assets.console import counted, say, show, show_batches
from analytics_assets.freshness.judge import BROKEN, minutes, moment
from analytics_assets.freshness.tiers import TIERS
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.events.intake import BatchReport
    from analytics_assets.freshness.watch import Look
    from analytics_assets.pipeline import Pipeline


def state_of(stages: "Pipeline") -> dict[str, Any]:
    """What `status` tells: the published version, its tables, tenants, promises, rejections and what waits."""
    import duckdb

    from analytics_assets.declarations import faults
    from analytics_assets.events.intake import utc_now
    from analytics_assets.warehouse import publish as publishing

    now = utc_now()
    current = publishing.current_version(stages.home)
    landed, refused = stages.landed(now)
    with stages.connect() as con:
        pending = stages.pending(con)
        look, started = stages.watch.look(con, now), stages.watch.actions(con)
        found = stages.situation(con, now)
        alerts = [alert for alert in stages.alerts.alerts(con) if alert.resolved_at is None]
    going = _going(stages)
    doing = Doing(bool(going), bool(found.refused))
    left: dict[str, float] = {}
    for budget in found.budgets:
        if budget.tenant_id:
            left[budget.tenant_id] = min(budget.remaining, left.get(budget.tenant_id, 1.0))
    tiers = {tenant: stages.levels.objectives.tenant_tiers.of(tenant) for tenant in stages.settings.tenants}
    state: dict[str, Any] = {
        "home": str(stages.home.root),
        "version": current,
        "held": publishing.held(stages.home),
        "newer_is_built": False,
        "days_waiting": len(pending),
        "files_waiting": len(landed),
        "files_refused": refused,
        "queue": _queue(stages, now),
        "set_aside": sum(1 for _ in stages.home.set_aside.glob("*/*.reason.txt")),
        "freshness": {**_promises(stages, look), "last_started": next(iter(started), None)},
        "sentence": overall(look.worst_of_tenants, doing),
        "broken": [asdict(problem) for problem in [*wrong_declarations(faults(stages), now), *problems(found)]],
        "doing": going,
        "alerts": [{"key": one.key, "opened_at": one.opened_at, "notified_at": one.notified_at} for one in alerts],
        "budgets": [asdict(budget) for budget in found.budgets],
        "release_gate": {"state": found.gate.state, "said": found.gate.said} if found.gate else {"state": "open"},
        "support_card": support_card(look.worst_of_tenants, doing, current, tiers, left),
        "tables": [],
        "tenants": [],
        "rejected": {},
    }
    if current is None:
        return state
    path = publishing.current_path(stages.home)
    state["path"] = str(path)
    with duckdb.connect(str(path), read_only=True) as con:
        state["tables"] = _records(con, "select * from published_tables order by all")
        state["tenants"] = _records(
            con,
            "select tenant_id as tenant, count(*) as events, max(timestamp) as newest_event, "
            "max(received_at) as received_through from events group by 1 order by 2 desc, 1",
        )
        worst = look.worst_of_tenants
        for line in state["tenants"]:
            status = worst.get(line["tenant"])
            line["state"] = status.state if status else None
            line["data_through"] = status.data_through if status else None
        state["rejected"] = dict(
            con.execute("select reason, count(*) from rejected_events group by 1 order by 2 desc").fetchall()
        )
        state["sessions"] = con.execute("select count(*) from sessions").fetchall()[0][0]
        state["published_at"] = con.execute("select max(published_at) from published_tables").fetchall()[0][0]
    state["age_minutes"] = round((now - state["published_at"]).total_seconds() / 60, 1)
    state["newer_is_built"] = _newer_is_built(stages, {line["table"]: line["table_version"] for line in state["tables"]})
    return state


def _dagster_ran(stages: "Pipeline") -> bool:
    """Importing Dagster takes a second, and where it never ran nothing goes and nothing waits."""
    return (stages.home.dagster / "history").exists()


def _queue(stages: "Pipeline", now: datetime) -> dict[str, int]:
    """How many runs wait in Dagster's queue, by what they wait for."""
    if not _dagster_ran(stages):
        return {}
    from analytics_assets.defs.queues import counts

    return counts(stages.settings, now)


def _going(stages: "Pipeline") -> list[dict[str, str]]:
    """Runs that go or wait for their turn."""
    if not _dagster_ran(stages):
        return []
    from analytics_assets.defs.queues import runs_going

    return runs_going(stages.settings)


def _promises(stages: "Pipeline", look: "Look") -> dict[str, Any]:
    """The tiers with the states of their tables, strictest first, and the status of each tenant's tables."""
    declared = stages.watch.promises
    tiers = [
        {
            "tier": name,
            "promised_minutes": declared.tier(name).promise_minutes,
            "how": declared.tier(name).said,
            "states": look.counts(name),
        }
        for name in TIERS
    ]
    return {"tiers": tiers, "tables": [asdict(status) for status in look.statuses]}


def sentence_of(stages: "Pipeline", tenant: str | None) -> str:
    """What customers may be told: of one tenant, or of all together."""
    from analytics_assets.events.intake import utc_now

    if tenant is not None and tenant not in stages.settings.tenants:
        raise UserError(f"tenant '{tenant}' is not declared; see tenants.yaml")
    now = utc_now()
    with stages.connect() as con:
        worst = stages.watch.look(con, now).worst_of_tenants
        refused = bool(stages.gate.refusals(con))
    doing = Doing(bool(_going(stages)), refused)
    return overall(worst, doing) if tenant is None else sentence(worst.get(tenant), doing)


def show_budgets(budgets: Sequence[dict[str, Any]]) -> None:
    """What is left of the error budgets, an SLO and tier each: of many tenants the one with the least."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for budget in budgets:
        rows.setdefault((budget["slo"], budget["tier"]), []).append(budget)
    shown = []
    for (slo, tier), mine in sorted(rows.items()):
        least = min(mine, key=lambda budget: budget["remaining"])
        states = [budget["state"] for budget in mine]
        bad = ", ".join(f"{states.count(state)} {state}" for state in ("freeze", "page", "warn") if state in states)
        used = f"{least['bad_minutes']:,.0f} of {least['budget_minutes']:,.0f} min"
        whose = least["tenant_id"] if least["bad_minutes"] else None
        shown.append((slo, tier, f"{max(least['remaining'], 0):.0%}", used, whose, bad or "ok"))
    show(("objective", "tenant tier", "budget left", "used", "least has", "state"), shown)


def show_broken(broken: Sequence[Problem], most: int = 8) -> None:
    """What is wrong, what wakes somebody first; tenants with the same trouble for the same cause share a line."""
    together: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in broken:
        together.setdefault((problem.severity, problem.rule, problem.cause), []).append(problem)
    for (severity, _, _), group in [*together.items()][:most]:
        others = list(dict.fromkeys(problem.tenant for problem in group if problem.tenant not in (None, group[0].tenant)))
        more = names([str(tenant) for tenant in others]) if others else f"{len(group) - 1:,} more"
        say(f"{severity}: {said(group[0])}" + (f" (and so {more})" if len(group) > 1 else ""))
    if len(together) > most:
        say(f"{len(together) - most:,} more are broken; --json has all")


def show_promises(freshness: dict[str, Any], most: int = 6) -> None:
    """What was promised and how it stands; then a line for each tenant and tier that is not as promised, and the last start."""
    rows = []
    for line in freshness["tiers"]:
        states = ", ".join(f"{count:,} {state}" for state, count in line["states"].items())
        rows.append((line["tier"], minutes(timedelta(minutes=line["promised_minutes"])), line["how"], states or None))
    show(("tier", "promised", "", "tables of tenants"), rows)
    wrong: dict[str, list[str]] = {}
    for line in freshness["tables"]:
        if line["state"] in BROKEN or line["state"] in ("silent", "unusable"):
            key = f"{line['state']}: {line['tenant_id']} ({line['tier']}): {line['reason']}"
            wrong.setdefault(key, []).append(line["table"])
    for text, tables in [*wrong.items()][:most]:
        say(f"{text}; {', '.join(tables[:3])}" + (f" and {len(tables) - 3} more" if len(tables) > 3 else ""))
    if len(wrong) > most:
        say(f"{len(wrong) - most:,} more are not as promised; --json has all")
    if started := freshness["last_started"]:
        say(f"last started: {moment(started['started_at'])} {started['action']} ({started['tier']}), for {started['reason']}")


def _newer_is_built(stages: "Pipeline", shown: dict[str, int]) -> bool:
    """Whether a rebuild made something that readers do not see."""
    from analytics_assets.shown import NOTED

    built = {spec.name: stages.table(spec).snapshot().version for spec in stages.specs if spec.name in shown}
    last = stages.last_rebuild()
    # What intake writes is no result of a rebuild, and what the system notes about itself no reason to publish.
    other = {"events", "rejected_events", "batches", *(spec.name for spec in NOTED)}
    built = {name: version for name, version in built.items() if name not in other}
    return (last or 0) > shown["events"] or any(version > shown[name] for name, version in built.items())


def _records(con: Any, query: str) -> list[dict[str, Any]]:
    result = con.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def show_state(state: dict[str, Any], everything: bool = False) -> None:
    """One screen: how fresh it is, what is broken, what is being done, how much budget is left. Or all that is known."""
    if state["version"] is None:
        say(f"nothing is published in {state['home']}; run `analytics demo` or drop files into its landing folders")
    else:
        say(_published_line(state))
        say(state["sentence"])
        click.echo()
        if everything:
            _show_published(state)
        show_tenants(state["tenants"], 100 if everything else 6)
    if state["budgets"]:
        show_budgets(state["budgets"])
    show_promises(state["freshness"])
    show_broken([Problem(**problem) for problem in state["broken"]])
    if untold := [alert["key"] for alert in state["alerts"] if alert["notified_at"] is None]:
        one = len(untold) == 1
        say(f"{counted(len(untold), 'open alert')} {'was' if one else 'were'} told to nobody yet: {names(untold)}")
    for run in state["doing"]:
        say(f"{run['job']} {run['state']} since {run['since']}" + (f" for {run['why']}" if run["why"] else ""))
    for line in waiting_lines(state):
        say(line)


def _published_line(state: dict[str, Any]) -> str:
    return f"version {state['version']} published {state['published_at']:%Y-%m-%d %H:%M:%S} UTC: {state['path']}"


def _show_published(state: dict[str, Any]) -> None:
    rows = [(line["table"], f"{line['rows']:,}", line["data_through"]) for line in state["tables"]]
    show(("table", "rows", "data through (UTC)"), rows)


def show_tenants(tenants: list[dict[str, Any]], most: int = 100) -> None:
    """How fresh each tenant is; of more than `most`, the rest by the one that is furthest behind."""
    shown, rest = tenants[:most], tenants[most:]
    rows = [
        (line["tenant"], f"{line['events']:,}", line["newest_event"], line["received_through"], line.get("state"))
        for line in shown
    ]
    if rest:
        oldest = min(rest, key=lambda line: line["newest_event"])
        events = f"{sum(line['events'] for line in rest):,}"
        name = f"{len(rest)} more, the oldest: {oldest['tenant']}"
        rows.append((name, events, oldest["newest_event"], oldest["received_through"], None))
    show(("tenant", "events", "newest event (UTC)", "received (UTC)", "freshness"), rows)


def waiting_lines(state: dict[str, Any]) -> list[str]:
    """What readers do not see yet, and why, a line each."""
    lines = []
    if state["held"]:
        newer = "newer data are built but held" if state["newer_is_built"] else "nothing newer is built"
        lines.append(f"publishing is held since a rollback ({state['held']}): {newer}; `analytics publish` releases it")
    elif state["newer_is_built"] and not state["days_waiting"]:
        lines.append("newer data are built but not published; run `analytics publish`")
    waiting = []
    if state["days_waiting"]:
        waiting.append(counted(state["days_waiting"], "day to rebuild", "days to rebuild"))
    if state["files_waiting"]:
        waiting.append(counted(state["files_waiting"], "file"))
    if waiting:
        lines.append(f"waiting: {', '.join(waiting)}")
    if runs := state.get("queue"):
        reasons = ", ".join(f"{count:,} for {reason}" for reason, count in runs.items())
        lines.append(f"{counted(sum(runs.values()), 'run waits', 'runs wait')} in the queue: {reasons} (`analytics queue`)")
    lines.extend(f"not taken: {line}" for line in state["files_refused"])
    return lines or ["nothing waits"]


def show_demo(stages: "Pipeline", reports: Sequence["BatchReport"], changed: bool) -> None:
    """What became of the demo's files, whatever else the data home holds, and the state of the home."""
    state = state_of(stages)
    show_batches(reports)
    show_tenants(state["tenants"])
    _show_published(state)
    show(("", "records"), [(name, f"{count:,}") for name, count in demo_totals(state["path"], reports)])
    say(_published_line(state))
    for line in waiting_lines(state):
        say(line)
    if not changed:
        say("nothing changed: the same files were loaded before, and the published version stays")
    click.echo("\nlook at it:")
    query = "select tenant_id, sum(revenue) as revenue from revenue_daily group by 1 order by 2 desc"
    say(f'  .venv/bin/analytics sql "{query}" --unmasked --reason "a look at the demo"')
    say(f"  duckdb -readonly {state['path']}    (or any DuckDB client)")
    say("  make dev                            (the assets in Dagster's UI)")


def demo_totals(path: str, reports: Sequence["BatchReport"]) -> list[tuple[str, int]]:
    """The sum over batches, as they were loaded: received = rejected + duplicates + events; and their tenants' sessions."""
    import duckdb

    rejected: dict[str, int] = {}
    for report in reports:
        for reason, count in report.rejected_by_reason.items():
            rejected[reason] = rejected.get(reason, 0) + count
    with duckdb.connect(path, read_only=True) as con:
        tenants = "select distinct tenant_id from events where batch_id in (select unnest(?))"
        ids = [report.batch_id for report in reports]
        ((sessions,),) = con.execute(f"select count(*) from sessions where tenant_id in ({tenants})", [ids]).fetchall()
    return [
        ("received", sum(report.received for report in reports)),
        *((f"rejected: {reason}", count) for reason, count in sorted(rejected.items())),
        ("duplicates", sum(report.duplicates for report in reports)),
        ("events", sum(report.events for report in reports)),
        ("sessions of these tenants", sessions),
    ]
