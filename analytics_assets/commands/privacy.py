"""`analytics privacy`: what fields are, keys that wait, personal data that no label tells of; pseudonyms and their keys."""

import tempfile
from pathlib import Path

import click

from analytics_assets.commands.common import DONE, FAILED, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, running, say, show
from analytics_assets.settings import PROJECT, UserError


@click.group()
def privacy() -> None:
    """What every field is, which keys wait for a label; pseudonyms and whom they stand for."""


@privacy.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a file is not as it should be.")
def document(check: bool) -> int:
    """Find out where every column comes from, and write docs/taxonomy.md.

    Needed after a change of taxonomy.yaml or of the SQL that computes tables.
    """
    from analytics_assets.labelling import written

    with tempfile.TemporaryDirectory() as work:
        texts = written(pipeline().settings, pipeline().specs, Path(work))
    old = {path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text}
    for path in texts:
        name = path.relative_to(PROJECT)
        if path not in old:
            say(f"{name} is as it should be")
        elif check:
            say(f"{name} is out of date; run `analytics privacy document`", err=True)
        else:
            path.write_text(texts[path], encoding="utf-8")
            say(f"wrote {name}")
    return FAILED if check and old else DONE


@privacy.command()
@json_option
def waiting(as_json: bool) -> int:
    """List keys of properties that wait for a label, and are hidden from readers until then.

    Also lists fields that were labelled identifier after their events were stored: these stand in clear until a rotation.
    """
    from analytics_assets.events.schema import EVENTS
    from analytics_assets.labelling import waiting_now

    stages = pipeline()
    with stages.connect() as con:
        found = waiting_now(con, stages.settings, stages.specs, stages.table)
        clear = stages.pseudonyms.in_clear(con, stages.table(EVENTS).snapshot().select())
    if as_json:
        labels = [{**vars(one), "waits_for": "label"} for one in found]
        echo_json([*labels, *({**vars(one), "waits_for": "rotation"} for one in clear)])
        return DONE
    if not found:
        click.echo("no key waits for a label")
    else:
        rows = [(one.key, one.tenant, one.event, f"{one.events:,}", one.first) for one in found]
        show(("key", "tenant", "event", "events", "first day (UTC)"), rows)
        say("label them in taxonomy.yaml under keys, properties, and the source that sends them; then run `analytics publish`")
    if clear:
        listed = [(one.field, one.tenant, f"{one.events:,}", one.first) for one in clear]
        show(("identifiers in clear", "tenant", "events", "first day (UTC)"), listed)
        say("these were stored before their field was labelled identifier, and readers see them; `analytics privacy rotate "
            "--tenant TENANT` replaces them")  # fmt: skip
    return DONE


@privacy.command()
@json_option
def found(as_json: bool) -> int:
    """List e-mail addresses, cards, phone numbers and accounts in fields whose label says that they name nobody.

    Values are never shown or kept, only where they stand and in how many events.
    """
    stages = pipeline()
    with stages.connect() as con:
        findings = stages.personal_data(con)
    if as_json:
        echo_json([vars(one) for one in findings])
    elif not findings:
        click.echo("nothing was found in the days judged so far")
    else:
        rows = [(one.field, one.kind, one.tenant, one.source, f"{one.events:,}", one.first, one.last) for one in findings]
        show(("field", "what", "tenant", "source", "events", "first day (UTC)", "last day (UTC)"), rows)
        say("a key is hidden from readers, a column is not. In taxonomy.yaml, label the field identifier or restricted; or say "
            "under its no_alarm why its values only look so; then run `analytics publish`")  # fmt: skip
    return DONE


def _declared(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value not in settings().tenants:
        raise UserError(f"tenant '{value}' is not declared; see tenants.yaml")
    return value


_tenant = click.option("--tenant", required=True, callback=_declared, help="Whose.")


def _reason(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if len(value.strip()) < 3:
        raise click.BadParameter("say why, for those who come later")
    return value.strip()


@privacy.command()
@click.argument("value")
@_tenant
@json_option
def pseudonym(value: str, tenant: str, as_json: bool) -> int:
    """The pseudonym that stands for VALUE, a user, device or session as the sender names it.

    The audit log keeps who asked for whom.
    """
    stages = pipeline()
    made = stages.pseudonyms.pseudonym(tenant, value)
    known = made in stages.pseudonyms.values(tenant, [made])
    audit_log().record("look_up", tenant=tenant, tables=["identifiers"], subjects=[(tenant, value), (tenant, made)])
    if as_json:
        echo_json({"tenant": tenant, "pseudonym": made, "known": known})
        return DONE
    click.echo(made)
    if not known:
        say("no event of this tenant brought that value yet", err=True)
    return DONE


@privacy.command()
@click.argument("pseudonym")
@_tenant
@click.option("--reason", required=True, callback=_reason, help="Why somebody must be known by name.")
@json_option
def reidentify(pseudonym: str, tenant: str, reason: str, as_json: bool) -> int:
    """Say whom PSEUDONYM stands for.

    This shows an identifier as it came, and the audit log keeps who asked for whom; the reason as a digest.
    """
    with audit_log().act("reidentify", tenant=tenant, tables=["identifiers"], reason=reason) as act:
        found = pipeline().pseudonyms.reidentify(tenant, pseudonym)
        act.subjects = [(tenant, found), (tenant, pseudonym)]
    if as_json:
        echo_json({"tenant": tenant, "pseudonym": pseudonym, "value": found})
    else:
        click.echo(found)
    return DONE


@privacy.command()
@_tenant
@json_option
def rotate(tenant: str, as_json: bool) -> int:
    """Make a new key, and all pseudonyms of the tenant's events anew with it; then rebuild and publish.

    Also replaces what stands in clear: from before pseudonyms were declared, or before a key was labelled identifier.
    Versions that were published before show the old pseudonyms until they are swept.
    """
    from analytics_assets.events.intake import utc_now
    from analytics_assets.events.rewrite import replace_identifiers

    stages = pipeline()
    with audit_log().act("rotate_key", tenant=tenant, tables=["events", "identifiers"]), stages.connect() as con:
        report = replace_identifiers(stages.intake, con, tenant, utc_now())
    days = len(report.days) if report else 0
    if report:
        say(f"new pseudonyms stand in the events of {counted(days, 'day')}, which are rebuilt now", err=True)
        with running(settings()) as jobs:
            jobs.refresh()
    key = stages.pseudonyms.in_use.tenants()[tenant]["id"]
    if as_json:
        echo_json({"tenant": tenant, "key": key, "days": days})
    else:
        say(f"the pseudonyms of '{tenant}' are made with {key}; keep a copy of {stages.pseudonyms.keyring.path}")
    return DONE


@privacy.command()
@click.option("--dry-run", is_flag=True, help="Change nothing: show what has a limit, and what would go now.")
@json_option
def retention(dry_run: bool, as_json: bool) -> int:
    """Take out what is past the limits of retention.yaml, as every night does; then publish, and remove what nobody needs.

    Exits with 3 if the publish was refused: what went is gone, but readers still get the version of before.
    """
    from analytics_assets.commands.retention import show_limits, take_out

    return show_limits(as_json) if dry_run else take_out(as_json)
