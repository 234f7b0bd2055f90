"""`analytics audit`: whether the log of who did what is whole, its head to keep elsewhere, and reports from it."""

import json
import re
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.audit.log import ACTIONS, OUTCOMES, utc_now
from analytics_assets.commands.common import DONE, FAILED, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.audit.report import Told
    from analytics_assets.audit.verify import Checkpoint, Verified

_SHOWN = 20
_HASH = re.compile("[0-9a-f]{64}")


@click.group()
def audit() -> None:
    """Who did what to which data: check the log, keep its head elsewhere, report from it."""


@audit.command()
@click.option("--checkpoint", "kept", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A checkpoint or a published version that was kept elsewhere; may be given several times.")  # fmt: skip
@click.option("--hashes-only", is_flag=True, help="Without the key: whoever wrote the whole log anew is then not found out.")
@json_option
def verify(kept: tuple[Path, ...], hashes_only: bool, as_json: bool) -> int:
    """Find what was changed in the log.

    Entries that were changed, removed, added, moved or cut off; the exit code is then 1.
    """
    from analytics_assets.audit import verify as verifying

    found = verifying.verify(audit_log().chain, [_checkpoint(path) for path in kept], seals=not hashes_only)
    if as_json:
        echo_json({"whole": found.whole, **asdict(found)})
    else:
        _show_verified(found, len(kept), hashes_only)
    return DONE if found.whole else FAILED


def _show_verified(found: "Verified", checkpoints: int, hashes_only: bool) -> None:
    for note in found.notes:
        say(f"note: {note}")
    for finding in found.accepted:
        say(f"accepted before: {finding}")
    for finding in found.findings[:_SHOWN]:
        say(finding)
    more = len(found.findings) - _SHOWN + found.left_out
    if more > 0:
        say(f"and {more:,} more; --json has the first of them")
    if found.findings:
        say(f"analytics: the audit log is not whole: {counted(len(found.findings) + found.left_out, 'finding')} in "
            f"{counted(found.entries, 'entry', 'entries')}; `analytics audit accept` keeps that somebody looked at "
            f"{'it' if len(found.findings) == 1 else 'them'}", err=True)  # fmt: skip
    elif not found.entries:
        say("nothing is recorded yet")
    else:
        checked = "hashes" if hashes_only else "hashes and seals"
        with_them = f", and the log goes through {counted(checkpoints, 'checkpoint')}" if checkpoints else ""
        say(f"whole: {counted(found.entries, 'entry', 'entries')} from {_moment(found.first)} to {_moment(found.last)} UTC, "
            f"{checked} checked{with_them}")  # fmt: skip


def _checkpoint(path: Path) -> "Checkpoint":
    """What was kept: a file of `analytics audit checkpoint`, or a published version. Raises UserError."""
    from analytics_assets.audit.outside import Head
    from analytics_assets.audit.verify import Checkpoint

    with path.open("rb") as file:
        is_duckdb = file.read(12)[8:] == b"DUCK"
    try:
        if is_duckdb:
            entries, hash_ = _published_head(path)
        else:
            found = json.loads(path.read_text(encoding="utf-8"))
            entries, hash_ = found["entries"], found["hash"]
    except (ValueError, TypeError, KeyError):
        entries, hash_ = None, ""
    if not isinstance(entries, int) or entries < 1 or not _HASH.fullmatch(str(hash_)):
        raise UserError(f"{path} is no checkpoint; `analytics audit checkpoint --out FILE` writes one")
    return Checkpoint(Head(entries, str(hash_)), f"in {path}")


def _published_head(path: Path) -> tuple[Any, Any]:
    import duckdb

    try:
        with duckdb.connect(str(path), read_only=True) as con:
            rows = con.execute("select entries, hash from audit_head").fetchall()
    except duckdb.Error:
        rows = []
    if not rows:
        raise UserError(f"{path} holds no head of an audit log; it was published before there was one")
    return rows[0][0], rows[0][1]


@audit.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A new file, to be kept elsewhere.")
def checkpoint(out: Path | None) -> int:
    """Give the head of the log, to keep elsewhere.

    The log can then not be cut off or written anew up to here without `verify --checkpoint` finding it.
    """
    head = audit_log().chain.head()
    if not head.entries:
        raise UserError("nothing is recorded yet, so there is no head to keep")
    text = json.dumps({"entries": head.entries, "hash": head.hash, "at": utc_now().isoformat(timespec="seconds")})
    if out is None:
        click.echo(text)
        return DONE
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise UserError(f"{out} exists; a checkpoint is kept as it is, so name a new file") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another file") from None
    say(f"{out} holds the head of {counted(head.entries, 'entry', 'entries')}")
    if out.resolve().is_relative_to(settings().home):
        say("it lies in the data home, where whoever changes the log can change it too: move it elsewhere", err=True)
    return DONE


@audit.command()
@click.option("--reason", required=True, help="Why it is as it is: a backup was restored, say.")
def accept(reason: str) -> int:
    """Accept what `verify` finds now.

    The log keeps who did, and a digest of the reason. What was found is still told, but fails `verify` no more; what is
    found later does.
    """
    from analytics_assets.audit import verify as verifying

    if len(reason.strip()) < 3:
        raise click.UsageError("--reason takes at least 3 characters")
    log = audit_log()
    if verifying.verify(log.chain).whole:
        say("the audit log is whole; there is nothing to accept")
        return DONE
    # What is lost is itself recorded by the entry with which this act begins.
    with log.act("accept", reason=reason.strip()) as act:
        found = verifying.verify(log.chain).findings
        act.details["findings"] = [verifying.digest(finding) for finding in found[:100]]
    say(f"accepted: {counted(min(len(found), 100), 'finding')}")
    return DONE


@audit.command()
@click.option("--actor", help="Only of this user of the machine.")
@click.option("--action", type=click.Choice(ACTIONS), help="Only such acts.")
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only what ended so; denied: somebody might not do it.")
@click.option("--tenant", help="Only about this tenant.")
@click.option(
    "--subject", help="Only what names this person: an identifier (user id, device id) or a pseudonym. Needs --tenant."
)
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="Only from then on (UTC).")
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="So many, the newest; JSON has all.")
@json_option
def report(
    actor: str | None, action: str | None, outcome: str | None, tenant: str | None, subject: str | None,
    since: datetime | None, last: int, as_json: bool,
) -> int:  # fmt: skip
    """Who did what to which data, by person, by subject, since when."""
    from analytics_assets.audit.report import Wanted, unnamed
    from analytics_assets.audit.report import report as reported

    if subject is not None and tenant is None:
        raise click.UsageError("--subject needs --tenant: the same identifier is somebody else for another tenant")
    log, names = audit_log(), list[str]()
    if subject is not None and tenant is not None:
        # Tables show pseudonyms, so that most of what was looked at names those.
        names = pipeline().pseudonyms.names(tenant, subject)
        # Whoever looks somebody up is recorded, here too.
        log.record("report", tenant=tenant, subjects=[(tenant, subject)])
    chain = log.chain
    found = reported(chain, Wanted(actor, action, tenant, names, since, outcome))
    more = unnamed(reported(chain, Wanted(actor, action, since=since, outcome=outcome))) if subject is not None else []
    if as_json:
        echo_json({"acts": [asdict(act) for act in found], "may_name_them_too": [act.entry for act in more]})
        return DONE
    if found:
        rows = [(a.entry, _moment(a.at), _who(a), a.via, a.action, a.tenant, a.outcome, _what(a)) for a in found[-last:]]
        show(("entry", "when (UTC)", "who", "by", "action", "tenant", "outcome", "what"), rows)
    said = counted(len(found), "act") + (f", the last {last:,} shown; --last shows more" if len(found) > last else "")
    say(said if found else "nothing that is recorded matches")
    if more:
        say(f"{counted(len(more), 'act')} showed more people than the log names, and may have shown this one: "
            f"{', '.join(f'{act.entry:,}' for act in more[-10:])}")  # fmt: skip
    return DONE


def _moment(text: str) -> str:
    return text[:19].replace("T", " ")


def _who(act: "Told") -> str:
    who = f"{act.user} (login {act.login})" if act.login else act.user
    return f"{who} as {', '.join(act.zones)}" if act.zones else who


def _what(act: "Told") -> str:
    parts = [f"{name.replace('_', ' ')} {_value(value)}" for name, value in act.details.items() if value != []]
    parts += [f"run {act.run[:8]}"] if act.run else []
    parts += [_value(act.tables)] if act.tables else []
    parts += [f"names {counted(act.subjects, 'subject')}"] if act.subjects else []
    return "; ".join([*parts, *([act.query] if act.query else [])])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:5])) + (f" and {len(value) - 5} more" if len(value) > 5 else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    # Enough of a digest to tell files apart; JSON has all of it.
    return value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else str(value)
