"""`analytics tuning`: the load that is expected, what each pool is to have for it and why, and the same for Kubernetes."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from analytics_assets.commands.capacity import capacity
from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline, settings
from analytics_assets.commands.render import render
from analytics_assets.commands.step_resources import COMMANDS
from analytics_assets.console import counted, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.tuning.keep import Tuning
    from analytics_assets.tuning.tables import Ahead, Decided

_NOTHING = "nothing is {} yet; run `analytics tuning now`, or let Dagster's hourly schedule do it"


@click.group()
def tuning() -> None:
    """Load ahead and the capacity that is kept for it; what each step may have.

    config/scaling.yaml declares the pools, and whether the plan is only written or applied; config/calendar.yaml what people
    know of the load that comes.
    """


def _tuning() -> "Tuning":
    from analytics_assets.tuning.keep import Tuning

    return Tuning.declared(settings())


@tuning.command()
@json_option
def now(as_json: bool) -> int:
    """Forecast and decide now.

    Dagster's schedule does it once an hour while `analytics dev` runs, and its sensor decides every quarter of an hour.
    """
    from analytics_assets.defs.run import Jobs

    Jobs(settings()).run("plan")
    with pipeline().connect() as con:
        rows, ahead = _newest(_tuning().plan(con)), _tuning().ahead(con)
    if as_json:
        echo_json({"plan": [asdict(row) for row in rows], "forecast": [asdict(row) for row in ahead]})
        return DONE
    loads = {(row.load, row.tenant) for row in ahead}
    known = {(row.load, row.tenant) for row in ahead if row.lead is not None}
    say(f"{counted(len(known), 'load')} of {len(loads)} can be forecast; `analytics tuning forecast` lists them")
    _show(rows)
    return DONE


@tuning.command()
@click.option("--tenant", help="Of this tenant alone; otherwise of all together, and which tenants have none.")
@json_option
def forecast(tenant: str | None, as_json: bool) -> int:
    """The load of the next hours, with the intervals in which four of five and 95 of 100 hours lie."""
    settings().confirm_tenant(tenant)
    with pipeline().connect() as con:
        every = _tuning().ahead(con)
    rows = [row for row in every if row.tenant == tenant]
    if as_json:
        echo_json({"forecast": [asdict(row) for row in rows]})
        return DONE
    if not rows:
        raise UserError(_NOTHING.format("forecast"))
    for load in dict.fromkeys(row.load for row in rows):
        _show_load([row for row in rows if row.load == load])
    if tenant is None:
        _show_others([row for row in every if row.tenant is not None])
    return DONE


def _show_load(rows: "list[Ahead]") -> None:
    first = rows[0]
    unit = "events received an hour" if first.load == "events" else "processor seconds of steps an hour"
    if first.lead is None:
        say(f"{unit}: no forecast, {first.reason}")
        return
    say(f"{unit}, as of {first.origin:%Y-%m-%d %H:%M} UTC, by {'the model' if first.source == 'model' else 'last week'}")
    say(first.reason)
    show(
        ("hour (UTC)", "load", "4 of 5 hours", "95 of 100", "holiday"),
        [
            (f"{row.time:%Y-%m-%d %H:%M}", _number(row.value), _between(row.lower_80, row.upper_80),
             _between(row.lower_95, row.upper_95), row.holiday)
            for row in rows
        ],
    )  # fmt: skip


def _show_others(rows: "list[Ahead]") -> None:
    if known := sorted({str(row.tenant) for row in rows if row.lead is not None}):
        say(f"forecast too, with --tenant: {', '.join(known)}")
    why: dict[str, int] = {}
    for row in rows:
        if row.lead is None:
            reason = row.reason.partition(": ")[2] or row.reason
            why[reason] = why.get(reason, 0) + 1
    for reason, count in why.items():
        say(f"{counted(count, 'tenant')} without a forecast: {reason}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _between(lower: float | None, upper: float | None) -> str:
    return "" if lower is None or upper is None else f"{lower:,.0f} to {upper:,.0f}"


@tuning.command()
@click.option(
    "--last", type=click.IntRange(1, 10_000), help="So many decisions, the newest first; else the newest of each pool."
)
@click.option("--keda", is_flag=True, help="As ScaledObjects of KEDA, for Kubernetes.")
@click.option("--prometheus", "metrics", is_flag=True, help="As Prometheus reads it: the capacity of each pool.")
@click.option("--target", metavar="NAME", help="Deployment that KEDA scales.  [default: analytics-POOL]")
@click.option("--server", default="http://prometheus:9090", show_default=True, help="Prometheus that KEDA asks.")
@json_option
def plan(last: int | None, keda: bool, metrics: bool, target: str | None, server: str, as_json: bool) -> int:
    """What each pool is to have, and why.

    `--keda | kubectl apply -f -` has Kubernetes follow the plan, if `--prometheus` is collected as `analytics telemetry
    prometheus` is.
    """
    if keda + metrics + as_json > 1:
        raise click.UsageError("choose one of --keda, --prometheus and --json")
    known = _tuning()
    if keda:
        from analytics_assets.tuning.keda import scaled_object

        if target is not None and len(known.scaling.pools) != 1:
            raise click.UsageError(f"--target goes with one pool; scaling.yaml declares {len(known.scaling.pools)}")
        documents = [
            scaled_object(name, pool, known.calendar, target=target or f"analytics-{name}", prometheus=server)
            for name, pool in known.scaling.pools.items()
        ]
        click.echo("---\n".join(documents), nl=False)
        return DONE
    with pipeline().connect() as con:
        rows = known.plan(con)
    if metrics:
        from analytics_assets.tuning.keda import exposition

        click.echo(exposition([row for row in _newest(rows) if row.pool in known.scaling.pools]), nl=False)
        return DONE
    chosen = _newest(rows) if last is None else rows[::-1][:last]
    if as_json:
        echo_json({"mode": known.scaling.mode, "plan": [asdict(row) for row in chosen]})
        return DONE
    if known.scaling.mode == "observe":
        say("scaling.yaml only observes: nothing new is decided")
    elif not known.scaling.pools:
        say("scaling.yaml declares no pool")
    elif not chosen:
        raise UserError(_NOTHING.format("decided"))
    _show(chosen)
    return DONE


def _newest(rows: "list[Decided]") -> "list[Decided]":
    """The newest decision of each pool."""
    return list({row.pool: row for row in rows}.values())


def _show(rows: "list[Decided]") -> None:
    if not rows:
        return
    show(
        ("pool", "decided (UTC)", "mode", "at once", "applied", "held by", "why"),
        [
            (row.pool, f"{row.decided_at:%Y-%m-%d %H:%M}", row.mode, row.capacity, "yes" if row.applied is not None else "no",
             row.held, row.reason)
            for row in rows
        ],
    )  # fmt: skip
    for row in rows:
        if row.alert:
            say(f"{row.pool}: {row.alert}")


for _command in (capacity, *COMMANDS, render):
    tuning.add_command(_command)
