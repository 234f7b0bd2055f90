"""Reports from the audit log: acts by person, by subject, since when. An act is one line, however many entries it has."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from typing import Any

from analytics_assets.audit.chain import Chain, Entry, entry_of, segments
from analytics_assets.audit.log import Action
from analytics_assets.audit.outside import Key
from analytics_assets.warehouse.home import Home

_BY_HAND: tuple[Action, ...] = (
    "rollback", "freeze_gate", "release_gate", "let_go", "set_aside", "replay", "rotate_key", "accept", "tune",
)  # fmt: skip
_ASKED_FOR: tuple[Action, ...] = ("run",)


@dataclass(frozen=True)
class Wanted:
    """Acts that meet all that is given. `actor`: a user of this machine; `names`: what a person of `tenant` may be named by."""

    actor: str | None = None
    action: str | None = None
    tenant: str | None = None
    names: Collection[str] = ()
    since: datetime | None = None
    outcome: str | None = None


@dataclass
class Told:
    """An act as the log tells it. `outcome` is `begun` where no end is recorded: it goes on, was killed, or Dagster has it."""

    entry: int
    at: str
    user: str
    via: str
    action: str
    outcome: str
    login: str = ""
    run: str = ""
    tenant: str = ""
    query: str = ""
    zones: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    subjects: int = 0
    names_subject: bool = False
    subjects_left_out: int = 0


def entries(chain: Chain) -> Iterator[Entry]:
    """Every entry that is one, oldest first. Whether the log is whole, `verify` tells."""
    for path, size in chain.frozen()[0]:
        with path.open("rb") as file:
            while size > 0 and (line := file.readline(size)):
                size -= len(line)
                if entry := entry_of(line.rstrip(b"\n")):
                    yield entry


def newest_first(home: Home, actions: Sequence[Action], holding: bytes = b"") -> Iterator[Mapping[str, Any]]:
    """What the entries of these actions say, the newest first: for a caller who knows how far back to look.

    With `holding`, only of entries in whose line these bytes stand: the others are not read.
    """
    # Keys are written in their order, and `action` is the first of them.
    begins = tuple(f'{{"action":"{action}"'.encode() for action in actions)
    for path in reversed(segments(home)):
        for line in reversed(path.read_bytes().split(b"\n")):
            if line.startswith(begins) and holding in line and (entry := entry_of(line)):
                yield entry.said


def interventions(home: Home, since: datetime) -> list[tuple[datetime, str]]:
    """When a person stepped in since then (UTC), and how: what the system does not do by itself, and runs asked for by hand."""
    return [
        (at, kind)
        for actions, holding in ((_BY_HAND, b""), (_ASKED_FOR, b'"asked_by":"person"'))
        for at, kind in takewhile(lambda one: one[0] >= since, map(_acted, newest_first(home, actions, holding)))
        if kind
    ]


def _acted(said: Mapping[str, Any]) -> tuple[datetime, str | None]:
    """When an act was begun, and of which kind it is; None for its end, and for what tuning does by itself."""
    kind: str | None = str(said.get("action"))
    if kind == "tune":
        what = said.get("details", {}).get("what")
        kind = f"{what} resources" if what in ("pin", "veto", "release", "rollback") else None
    return datetime.fromisoformat(str(said["at"])), None if "of" in said else kind


def report(chain: Chain, wanted: Wanted) -> list[Told]:
    """The acts that are asked for, oldest first."""
    acts: dict[int, Told] = {}
    keys: dict[str, Key | None] = {}
    for entry in entries(chain):
        said = entry.said
        if "of" not in said and _begins_as(said, wanted):
            acts[entry.number] = _begun(entry)
        begun = acts.get(said.get("of", entry.number))
        if begun is None:
            continue
        begun.outcome = str(said.get("outcome", begun.outcome))
        begun.tables += [name for name in said.get("tables", []) if name not in begun.tables]
        begun.details.update(said.get("details", {}))
        begun.subjects += len(said.get("subjects", [])) + int(said.get("subjects_left_out", 0))
        begun.subjects_left_out += int(said.get("subjects_left_out", 0))
        if wanted.names:
            if entry.key not in keys:
                keys[entry.key] = chain.outside.key(entry.key)
            begun.names_subject |= _names(said, keys[entry.key], wanted)
    return [act for act in acts.values() if _is_about(act, wanted)]


def _begins_as(said: Mapping[str, Any], wanted: Wanted) -> bool:
    if wanted.since is not None and str(said.get("at", "")) < wanted.since.isoformat():
        return False
    return wanted.actor in (None, said.get("user"), said.get("login")) and wanted.action in (None, said.get("action"))


def _begun(entry: Entry) -> Told:
    said: Mapping[str, Any] = entry.said
    names = ("at", "user", "via", "action", "outcome", "login", "run", "tenant", "query")
    texts: dict[str, Any] = {name: str(said.get(name, "")) for name in names}
    return Told(entry.number, zones=[str(zone) for zone in said.get("zones", [])], **texts)


def _names(said: Mapping[str, Any], key: Key | None, wanted: Wanted) -> bool:
    """Whether an entry names the person: as of the tenant, or where nobody said whose."""
    named = set(said.get("subjects", []))
    if key is None or not named:
        return False
    return any(key.subject(tenant, name) in named for tenant in (wanted.tenant, None) for name in wanted.names)


def _is_about(act: Told, wanted: Wanted) -> bool:
    if wanted.outcome not in (None, act.outcome):
        return False
    if wanted.names:
        # An act that nobody said the tenant of may be about this one.
        if not act.names_subject or act.tenant not in ("", wanted.tenant):
            return False
    elif wanted.tenant is not None and act.tenant != wanted.tenant:
        return False
    return True


def unnamed(acts: list[Told]) -> list[Told]:
    """Acts that showed more people than the log names: whether somebody was among these is not known."""
    return [act for act in acts if act.subjects_left_out]
