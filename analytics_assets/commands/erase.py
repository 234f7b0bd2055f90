"""`analytics erase`: people leave everything under the data home; receipts say what went."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.audit.log import users
from analytics_assets.commands.common import DONE, FAILED, REFUSED, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, running, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.erasure.probe import Trace
    from analytics_assets.privacy.ledger import Person, Request

_COLUMNS = ("tenant", "user", "device")
# Longer than another process waits for readers.
_WAIT_SECONDS = 600.0


@click.command()
@click.option("--tenant", help="Whose person it is.")
@click.option("--user", "named_users", multiple=True, help="A user, as the sender names them, or by pseudonym.")
@click.option("--device", "devices", multiple=True, help="A device of somebody who never logged in.")
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Many people: CSV with the columns tenant and user (or device), one a line.")  # fmt: skip
@click.option("--later", is_flag=True, help="Only ask for it; the next publish does all that was asked for in one pass.")
@click.option("--probe", is_flag=True, help="Afterwards look into every file of the data home for what they were named by.")
@json_option
def erase(
    tenant: str | None, named_users: tuple[str, ...], devices: tuple[str, ...], path: Path | None, later: bool, probe: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Erase people: they leave every table, file, log and older version. This cannot be undone.

    A person is found by every identifier that stitching knows. Everything that was summed over them is computed anew and
    published, and a receipt says what went from where. Without anybody named, it goes on with what waits.
    Exits with 1 if --probe found something, with 3 if it is not done yet.
    """
    from analytics_assets.privacy.ledger import Person

    stages = pipeline()
    if (named_users or devices) and tenant is None:
        raise click.UsageError("say whose person it is: --tenant")
    if not (named_users or devices) and tenant is not None:
        raise click.UsageError("say who it is: --user, or --device")
    if not all((*named_users, *devices)):
        raise click.UsageError("nobody is named by an empty text")
    people = [Person(str(tenant), "user", one) for one in named_users] + [Person(str(tenant), "device", one) for one in devices]
    people += _listed(path) if path else []
    for name in {person.tenant for person in people}:
        settings().confirm_tenant(name)
    erasures = stages.erasures
    if not people and not erasures.ledger.pending():
        raise UserError("nobody is named and nothing waits: give --tenant and --user, or --file")
    whom = sorted({person.tenant for person in people})
    with audit_log().act(
        "erase", tenant=whom[0] if len(whom) == 1 else None, subjects=[(one.tenant, one.id) for one in people],
        details={"people": len(people), "later": later},
    ) as act, stages.connect() as con:  # fmt: skip
        asked = [request.id for request in erasures.ledger.pending()]
        if people:
            asked.append(erasures.ask(people, users()["user"]).id)
        act.details["requests"] = asked
        if later:
            return _answer_later(asked, len(people), as_json)
        with running(settings()) as jobs:
            jobs.erase(con, people)
            jobs.refresh()
            # What another process is about to finish is waited for.
            erasures.finish(con, wait_seconds=_WAIT_SECONDS)
    return _answer(erasures.ledger, asked, _probed(stages, people) if probe else None, as_json)


def _listed(path: Path) -> "Iterator[Person]":
    """The people of a file. Raises UserError with the line that is wrong."""
    from analytics_assets.privacy.ledger import Person

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            names = list(reader.fieldnames or ())
            if len(set(names)) < len(names) or not {"tenant"} < set(names) <= set(_COLUMNS):
                raise _Wrong("the first line must name the columns: tenant and user, or tenant and device")
            for row in reader:
                whose = (row.get("tenant") or "").strip()
                named = [(kind, (row.get(kind) or "").strip()) for kind in ("user", "device")]
                given = [(kind, value) for kind, value in named if value]
                if not whose or len(given) != 1 or None in row:
                    raise _Wrong("name a tenant and one user, or one device")
                settings().confirm_tenant(whose)
                yield Person(whose, "user" if given[0][0] == "user" else "device", given[0][1])
        except UnicodeDecodeError:
            raise UserError(f"{path.name} is not UTF-8; write the file in UTF-8") from None
        except (csv.Error, _Wrong, UserError) as wrong:
            raise UserError(f"{path.name}:{max(reader.line_num, 1)}: {wrong}") from None


class _Wrong(Exception):
    """What is wrong with a line."""


def _answer_later(asked: Sequence[str], people: int, as_json: bool) -> int:
    if as_json:
        echo_json({"requests": asked, "done": False})
    else:
        say(f"asked for: {counted(people, 'person', 'people')}; the next publish erases them (`analytics publish` does it now)")
    return DONE


@dataclass(frozen=True)
class _Probed:
    """What the probe found, of how many it looked for, and how many it could not look for."""

    traces: "list[Trace]"
    names: int
    short: int

    def lines(self) -> "Iterator[str]":
        found = f"the probe found {counted(len(self.traces), 'trace')}:" if self.traces else "the probe found nothing"
        yield found if self.names else "the probe had nobody to look for"
        yield from (f"  {trace.file} ({trace.read_as})" for trace in self.traces)
        if self.short:
            was = "was" if self.short == 1 else "were"
            yield f"{counted(self.short, 'name')} too short to mean nobody else {was} not looked for"


def _probed(stages: Any, people: "Sequence[Person]") -> _Probed:
    from analytics_assets.erasure.probe import probe
    from analytics_assets.events.values import is_telling

    names = {person.id for person in people}
    telling = set(filter(is_telling, names))
    # However short a name, what stands for it in the tables is like nothing else.
    pseudonyms = {one for person in people for one in stages.pseudonyms.names(person.tenant, person.id)} - names
    return _Probed(probe(stages.home.root, sorted(telling | pseudonyms)), len(telling | pseudonyms), len(names - telling))


def _answer(ledger: Any, asked: Sequence[str], probed: _Probed | None, as_json: bool) -> int:
    waiting: list[Request] = [request for request in ledger.pending() if request.id in asked]
    receipts = [_read(ledger, request) for request in asked if ledger.receipt_path(request).exists()]
    if as_json:
        told = {"traces": [vars(one) for one in probed.traces], "not_looked_for": probed.short} if probed else {"traces": None}
        echo_json({"requests": asked, "done": not waiting, "receipts": receipts, **told})
    else:
        for receipt in receipts:
            show_receipt(receipt)
            say(f"receipt: {ledger.receipt_path(receipt['erasure'])}")
        for line in probed.lines() if probed else ():
            say(line)
    if waiting:
        say("not done yet: nothing new could be published; the erasure goes on with the next publish", err=True)
        return REFUSED
    return FAILED if probed and probed.traces else DONE


def _read(ledger: Any, request: str) -> dict[str, Any]:
    from analytics_assets.audit.outside import Outside
    from analytics_assets.privacy.receipts import read

    return read(ledger.receipt_path(request), Outside(settings().keys))


def show_receipt(receipt: dict[str, Any]) -> None:
    """A receipt as a person reads it."""
    people, unknown = receipt["people"], len(receipt["unknown"])
    stores = [store for store in receipt["stores"] if store["gone"] or store["changed"]]
    if not stores:
        say(f"nothing was found of {'this person' if people == 1 else f'these {people:,} people'}")
        return
    known = f"{counted(people - unknown, 'person', 'people')} erased"
    say(known + (f", {unknown:,} of whom nothing is stored" if unknown else "") +
        f"; {counted(receipt['days_rebuilt'], 'day')} rebuilt")  # fmt: skip
    rows = [
        (store["store"], f"{store['gone']:,}" if store["gone"] else "", f"{store['changed']:,}" if store["changed"] else "",
         "computed anew" if store["recomputed"] else "")
        for store in stores
    ]  # fmt: skip
    show(("store", "gone", "changed", ""), rows)
    removed, shown = receipt["versions_removed"], receipt["published_version"]
    older = f"; {counted(len(removed), 'older version')} removed" if removed else ""
    say(f"readers see version {shown}{older}" if shown else "nothing was published before, and nothing is now")
    if receipt["readers_left_waiting"]:
        say("a reader still had an older version open, and kept what it had copied", err=True)
