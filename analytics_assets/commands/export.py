"""`analytics export`: aggregates of groups that are large enough, into a file, for a role and a tenant."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from analytics_assets.audit.log import UNDECLARED
from analytics_assets.commands.common import DONE, asking, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.privacy.egress import Request

_DAY = click.DateTime(["%Y-%m-%d"])
_FORMATS = ("csv", "json", "parquet")


def _where(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[Any, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign:
            raise click.BadParameter(f"'{one}' is no DIMENSION=VALUE")
        found[name] = (*found.get(name, ()), value)
    return found


def _declared(request: "Request") -> dict[str, Sequence[str]]:
    """What is asked, by the names that are declared: what else was typed may be anything, and so are values."""
    from analytics_assets.privacy.roles import Dimension, MeasureName

    found: dict[str, Sequence[str]] = {
        "measures": [one for one in request.measures if one in get_args(MeasureName)],
        "by": [one for one in request.by if one in get_args(Dimension)],
        "where": [one for one in request.where if one in get_args(Dimension)],
        "from": [str(request.first)] if request.first else [],
        "to": [str(request.last)] if request.last else [],
    }
    return {name: names for name, names in found.items() if names}


@click.command()
@click.option("--role", required=True, help="Role of roles.yaml for which it is.")
@click.option("--tenant", required=True, help="Tenant whose data it is about.")
@click.option("--measure", "measures", multiple=True, required=True,
              help="people_per_group, events, quantity or revenue; may be given several times.")  # fmt: skip
@click.option("--by", multiple=True, help="A line for each value of month, day, event, ...; may be given several times.")
@click.option("--where", multiple=True, callback=_where, help="Only lines with DIMENSION=VALUE; twice: with either value.")
@click.option("--from", "first", type=_DAY, help="From this day on (UTC).")
@click.option("--to", "last", type=_DAY, help="Up to this day (UTC), included.")
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Of the file; by its ending, if left out.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file; it is replaced.")
@json_option
def export(
    role: str, tenant: str, measures: tuple[Any, ...], by: tuple[Any, ...], where: dict[Any, tuple[str, ...]],
    first: datetime | None, last: datetime | None, form: str | None, out: Path, as_json: bool,
) -> int:  # fmt: skip
    """Write aggregates of the published version to a file.

    They are of groups of at least k people (roles.yaml); what is smaller is told as (masked), together with as much
    beside it as hides it. Revenue is always by currency.
    """
    from analytics_assets.outgoing import declared_roles, egress
    from analytics_assets.privacy.egress import FORMATS, Request, write

    chosen = next((one for one in FORMATS if one == (form or re.sub(r".*\.", "", out.name))), None)
    if chosen is None:
        raise click.UsageError(f"the name '{out.name}' does not tell its format; add --format")
    target = out.resolve()
    if target.is_relative_to(settings().home):
        raise UserError("what is exported leaves the data home: name a file outside of it")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent}")
    stages = pipeline()
    roles = declared_roles(stages.settings, stages.specs)
    request = Request(measures, by, where, first.date() if first else None, last.date() if last else None)
    asked = {"role": role if role in roles.roles else UNDECLARED, "format": chosen, **_declared(request)}
    with audit_log().act("export", tenant=tenant, tables=["events"], details=asked) as act:
        stages.settings.confirm_tenant(tenant)
        with egress(stages.settings, roles, stages.table) as answers:
            version, words = answers.version or 0, f"{measures} {by} {sorted(where)}"
            with asking(words, act, version=version, tables=["events"], role=str(asked["role"])) as query:
                answer = answers.answer(role, tenant, request)
                query.answered(len(answer.rows))
        masked = sum(row[-1] for row in answer.rows)
        act.details = {"version": version, "rows": len(answer.rows), "masked_groups": masked}
        act.details["sha256"] = write(answer, target, chosen)
    k = roles.egress.k
    if as_json:
        echo_json({"file": target, "role": role, "tenant": tenant, "version": version, "k": k, "lines": len(answer.rows),
                   "masked_groups": masked})  # fmt: skip
        return DONE
    say(f"wrote {counted(len(answer.rows), 'line')} to {out}: version {version}, groups of at least {k} people")
    if not answer.rows:
        say("nothing matches, or too few people do")
    if masked:
        say(
            f"left out, since too few people have a part in it: a measure of {counted(masked, 'group')} (masked_groups tells "
            "in which lines)"
        )
    return DONE
