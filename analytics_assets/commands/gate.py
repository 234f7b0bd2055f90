"""`analytics gate`: whether promotions and rollouts may go on, and a person's word on it."""

import getpass

import click

from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline
from analytics_assets.console import say, show


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def gate(context: click.Context, as_json: bool) -> int:
    """Show, freeze or release the gate that promotions and rollouts must pass.

    It freezes by itself when an error budget is spent. Data are published all the same.
    """
    if context.invoked_subcommand:
        return DONE
    from analytics_assets.events.intake import utc_now

    stages, now = pipeline(), utc_now()
    with stages.connect() as con:
        changes = stages.levels.gate(con)
        standing = stages.levels.standing(con, stages.levels.look(con, now), now)
    if standing is not None and standing not in changes:
        changes = [*changes, standing]
    if as_json:
        echo_json({"state": standing.state if standing else "open", "changes": [vars(change) for change in changes]})
        return DONE
    if standing is None:
        say("releases are open; the gate was never frozen")
        return DONE
    show(
        ("state", "since (UTC)", "until (UTC)", "by", "reason"),
        [(change.state, change.since, change.until, change.by, change.reason) for change in changes],
    )
    say(standing.said)
    return DONE


def _turn(state: str, reason: str, by: str | None) -> int:
    from analytics_assets.events.intake import utc_now

    stages = pipeline()
    with stages.connect() as con:
        change = stages.levels.turn_gate(con, state, reason, by or getpass.getuser(), utc_now())
    say(change.said)
    return DONE


def _reason(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if len(value.strip()) < 3:
        raise click.BadParameter("say why, for those who come later")
    return value.strip()


_why = click.option("--reason", required=True, callback=_reason, help="Why; kept and shown.")
_who = click.option("--by", help="Who decides; the user of this machine, if left out.")


@gate.command()
@_why
@_who
def freeze(reason: str, by: str | None) -> int:
    """Stop promotions and rollouts until a person releases them."""
    return _turn("frozen", reason, by)


@gate.command()
@_why
@_who
def release(reason: str, by: str | None) -> int:
    """Let promotions and rollouts go on.

    Budgets start anew from here: only minutes that are broken from now on can freeze the gate again.
    """
    return _turn("open", reason, by)
