"""What a pass of erasure does and did: kept in `privacy/erasing/<pass>/` until it is done, so that a kill ends nothing.

It says who goes, also in clear: only as long as their data are there too. While one pass waits for its publish another may
begin, for requests that came since: what is published is without the people of both.
"""

import json
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from analytics_assets.privacy.ledger import Person
from analytics_assets.warehouse.home import replace_file

# Noted when all who go are out of what is stored.
REMOVED = "removed"


@dataclass(frozen=True)
class Member:
    """Somebody who goes: as stored and as sent (the same where there are no pseudonyms), and until when all of theirs does."""

    stored: Person
    sent: str
    until: datetime

    @property
    def as_sent(self) -> Person:
        return Person(self.stored.tenant, self.stored.kind, self.sent)


@dataclass(frozen=True)
class Pass:
    """For which requests it is, who goes, who is not known at all (digests), and the newest version published before."""

    requests: tuple[str, ...]
    members: tuple[Member, ...]
    unknown: tuple[str, ...]
    version: int

    @property
    def id(self) -> str:
        return self.requests[0]

    @property
    def tenants(self) -> list[str]:
        return sorted({member.stored.tenant for member in self.members})


class Passes:
    """A pass that is under way, and its journal, in a folder of its own."""

    def __init__(self, folder: Path, going: Pass) -> None:
        self.folder, self.going = folder, going
        self._log = folder / "journal.ndjson"

    @classmethod
    def begun(cls, folder: Path) -> "list[Passes]":
        """All that are not done."""
        return [cls(path.parent, _read(path)) for path in sorted(folder.glob("*/pass.json"))]

    @classmethod
    def begin(cls, folder: Path, new: Pass) -> "Passes":
        begun = cls(folder / new.id, new)
        # What a kill left of one that was never begun.
        shutil.rmtree(begun.folder, ignore_errors=True)
        begun.folder.mkdir(parents=True, mode=0o700)
        begun.keep(new)
        return begun

    def keep(self, going: Pass) -> None:
        """Keep who goes, which is not noted in the journal."""
        members = [[list(vars(one.stored).values()), one.sent, one.until.isoformat()] for one in going.members]
        said = {"requests": going.requests, "members": members, "unknown": going.unknown, "version": going.version}
        path = self.folder / "pass.new"
        path.write_text(json.dumps(said), encoding="utf-8")
        replace_file(path, self.folder / "pass.json")
        self.going = going

    def end(self) -> None:
        """Forget the pass. What says that there is one goes first."""
        (self.folder / "pass.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def note(self, store: str, item: str = "", **said: Any) -> None:
        """Note what is about to be done to an item of a store, durably; of an item the last note counts."""
        with self._log.open("a+b") as log:
            if log.tell():
                log.seek(-1, os.SEEK_END)
                # A line cut off by a kill must not swallow this one.
                log.write(b"" if log.read(1) == b"\n" else b"\n")
            log.write(json.dumps({"store": store, "item": item, **said}).encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())

    def notes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """{(store, item): what was noted last}."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for line in self._log.read_bytes().splitlines() if self._log.exists() else ():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            found[said["store"], said["item"]] = said
        return found

    @property
    def is_removed(self) -> bool:
        """Whether its people are out of what is stored."""
        return (REMOVED, "") in self.notes()


def _read(path: Path) -> Pass:
    said = json.loads(path.read_text(encoding="utf-8"))
    members = [Member(Person(*stored), sent, datetime.fromisoformat(until)) for stored, sent, until in said["members"]]
    return Pass(tuple(said["requests"]), tuple(members), tuple(said["unknown"]), said["version"])
