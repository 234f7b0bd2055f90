"""What is recorded: who did what to which data, and how it ended.

No identifier of a person whom the data are about stands here, and no free text, so that an erasure never has to rewrite the
log. Such a person is a keyed digest: with the key and the identifier one finds the entries about it, with the log alone nobody.
A reason that somebody gave stays where the act itself is kept, which can be rewritten; here is its digest. The staff's user
names are recorded: who answers for an act is what the log is for.
"""

import hashlib
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import click

from analytics_assets.audit.chain import Amiss, Chain
from analytics_assets.audit.outside import Head, Key, Outside
from analytics_assets.settings import Denied, Settings, UserError
from analytics_assets.warehouse.home import Home

Action = Literal[
    "run", "load", "publish", "rollback", "freeze_gate", "release_gate", "let_go", "scale", "tune", "set_aside", "replay",
    "query", "show_rejected", "look_up", "reidentify", "rotate_key", "erase", "retain", "export", "role_file", "command",
    "report", "accept", "gap", "repair", "backup", "restore_drill",
]  # fmt: skip
ACTIONS: tuple[Action, ...] = get_args(Action)
Outcome = Literal["begun", "done", "unchanged", "denied", "refused", "failed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
# What stands for a tenant or a role that is not declared: a person may have typed anything.
UNDECLARED = "(undeclared)"
# So many people are named in an entry; of more it tells how many.
MOST_SUBJECTS = 100
_MOST_LISTED = 100
# Words that a declaration, a version or a time may consist of. What people and senders write is not given to the log.
_WORDS = re.compile(r"[\w .:/+()-]{0,200}", re.ASCII)
_NO_WORDS = re.compile(r"[^\w .-]", re.ASCII)
_NOBODY = 2**32 - 1

Detail = int | bool | str | Sequence[str]
Subject = tuple[str | None, str]
"""A tenant, None where nobody said whose, and an identifier of a person."""


@dataclass
class Act:
    """What is learned of an act while it goes on, and recorded when it ends. `entry` is the number of the one it began with."""

    entry: int | None = None
    outcome: Outcome = "done"
    tables: Sequence[str] = ()
    subjects: Sequence[Subject] = ()
    details: dict[str, Detail] = field(default_factory=dict)


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def command() -> str:
    """The command that runs, without its arguments, in which anything may stand."""
    context = click.get_current_context(silent=True)
    return context.command_path if context else _NO_WORDS.sub("_", Path(sys.argv[0]).name)


def users() -> dict[str, str]:
    """The user of this process, as the kernel knows it, and who logged in where that is somebody else (by sudo, say).

    The environment is not asked: anybody can set it.
    """
    found = {"user": _name(os.getuid())}
    try:
        login = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return found
    return found if login in (_NOBODY, os.getuid()) else {**found, "login": _name(login)}


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


@dataclass(frozen=True)
class Audit:
    """The audit log of a data home, for acts that go `through` a command and, in Dagster, belong to a `run`.

    `zones` are those that limit what whoever acts may do.
    """

    settings: Settings
    run: str | None = None
    through: str = field(default_factory=command)
    clock: Callable[[], datetime] = utc_now
    zones: tuple[str, ...] = ()

    @property
    def chain(self) -> Chain:
        return Chain(Home(self.settings.home), Outside(self.settings.keys))

    @contextmanager
    def act(self, action: Action, **said: Any) -> Iterator[Act]:
        """Around an act: recorded before it begins, and again with its outcome. `said` is as in `record`.

        Of a process that is killed meanwhile the first entry stays: nothing is done without one.
        """
        begun = self.record(action, "begun", **said)
        act = Act(begun.entries)
        about = {name: value for name, value in said.items() if name == "tenant"}
        try:
            yield act
        except BaseException as error:
            details = {**act.details, "error": type(error).__name__}
            self.record(
                action, _outcome(error), of=begun.entries, tables=act.tables, subjects=act.subjects, details=details, **about
            )
            raise
        self.record(
            action, act.outcome, of=begun.entries, tables=act.tables, subjects=act.subjects, details=act.details, **about
        )

    def record(
        self, action: Action, outcome: Outcome = "done", *, tenant: str | None = None, tables: Sequence[str] = (),
        subjects: Sequence[Subject] = (), reason: str | None = None, query: str | None = None,
        details: Mapping[str, Detail] | None = None, of: int | None = None,
    ) -> Head:  # fmt: skip
        """Add an entry, durably. `query` is what `privacy.lookups` leaves of one; `of` is the entry with which the act began.

        Raises UserError if it cannot be recorded, ValueError for details that are no plain words.
        """

        def entry(key: Key) -> Iterator[tuple[str, Any]]:
            yield from (("tenant", self._declared(tenant)), ("tables", _plain(tables)), ("of", of), ("query", query))
            people = list(dict.fromkeys(subjects))
            yield "subjects", [key.subject(whose, person) for whose, person in people[:MOST_SUBJECTS]]
            yield "subjects_left_out", max(len(people) - MOST_SUBJECTS, 0)
            yield "reason", key.digest("reason", reason) if reason else None
            yield "details", {name: _plain(value) for name, value in (details or {}).items()}

        def say(key: Key, amiss: Sequence[Amiss]) -> list[dict[str, Any]]:
            who: dict[str, Any] = {
                "at": self.clock().isoformat(timespec="microseconds"),
                **users(),
                "via": _plain(self.through),
            }
            if self.run:
                who["run"] = self.run
            if self.zones:
                who["zones"] = list(self.zones)
            found = [{**who, "action": one.kind, "outcome": "done", "details": dict(one.details)} for one in amiss]
            about = {name: value for name, value in entry(key) if value not in (None, [], {}, 0)}
            return [*found, {**who, "action": action, "outcome": outcome, **about}]

        return self.chain.append(say)

    def declarations(self) -> str:
        """A digest of everything that is declared, by which a change of it shows."""
        digest = hashlib.sha256()
        for path in sorted(self.settings.config.rglob("*.yaml")):
            digest.update(f"{path.relative_to(self.settings.config)}\0".encode() + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def _declared(self, tenant: str | None) -> str | None:
        return tenant if tenant is None or tenant in self.settings.tenants else UNDECLARED


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, Denied):
        return "denied"
    return "refused" if isinstance(error, UserError) else "failed"


def _plain(value: Detail) -> Any:
    """A value that an entry may hold. Raises ValueError."""
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        if not _WORDS.fullmatch(value):
            raise ValueError("a detail of an audit entry must be plain words")
        return value
    if len(value) > _MOST_LISTED:
        return [*map(_plain, value[:_MOST_LISTED]), f"and {len(value) - _MOST_LISTED} more"]
    return [_plain(one) for one in value]
