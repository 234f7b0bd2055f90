"""Who is to be forgotten: a ledger outside of the data home, that grows and never names anybody.

A person stands in it as keyed digests (see `audit.outside.Key`). It is the list of what to do as well as the memory of what was
done: a request is done in a data home when its receipt lies there. So what is left after a kill, and what an older backup
brings back, is one and the same: requests without a receipt. Each data home has a number of its own, which its copies keep.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb

from analytics_assets.audit.outside import Key, Outside
from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import Home, replace_file
from analytics_assets.warehouse.spec import literal

Kind = Literal["user", "device"]


@dataclass(frozen=True, order=True)
class Person:
    """Somebody by one identifier. A user and a device of the same id are two people."""

    tenant: str
    kind: Kind
    id: str


class LedgerKeyLost(UserError):
    """The key is gone with which people stand in the ledger."""


@dataclass
class Request:
    """Who asked when, and for whom: as digests, those `asked` for, in order, and all `found` to be the same.

    `marks` are short digests of the same people, which a query can compute of millions: who has none of them is not meant.
    """

    id: str
    at: datetime
    by: str
    key: str
    asked: tuple[str, ...]
    found: set[str] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)

    @property
    def digests(self) -> set[str]:
        return {*self.asked, *self.found}


class Ledger:
    """The ledger of a data home."""

    def __init__(self, home: Home, outside: Outside) -> None:
        self._home, self._outside = home, outside
        self._seen: tuple[int, int] | None = None
        self._requests: list[Request] = []
        self._keys: dict[str, Key] = {}

    # Reading

    @property
    def path(self) -> Path:
        return self._outside.folder / f"erasures-{self._number()}.ndjson"

    def requests(self) -> list[Request]:
        """All requests, oldest first. Raises UserError if the ledger is damaged."""
        path = self.path
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._seen, self._requests = None, []
            return []
        if self._seen != (seen := (stat.st_mtime_ns, stat.st_size)):
            self._requests, self._seen = self._read(path), seen
        return self._requests

    def pending(self) -> list[Request]:
        """Requests that this data home has no receipt of."""
        return [request for request in self.requests() if not self.receipt_path(request.id).exists()]

    def receipt_path(self, request: str) -> Path:
        return self._home.privacy / "receipts" / f"{request}.json"

    def digests(self, request: Request, people: Iterable[Person]) -> list[str]:
        """The people as the request names them. Raises LedgerKeyLost."""
        key = self._key(request.key)
        return [_digest(key, person) for person in people]

    def stand_marks(self, con: duckdb.DuckDBPyConnection, requests: Iterable[Request]) -> str:
        """Make temp table `marked` of the marks of requests; returns SQL that is true of a person who may be meant.

        The person is `tenant_id`, `kind` and `id` in it. Raises LedgerKeyLost.
        """
        rows = [(_salt(self._key(request.key)), mark) for request in requests for mark in request.marks]
        con.execute(
            "create or replace temp table marked as select distinct unnest(?::varchar[]) as salt, unnest(?::varchar[]) as mark",
            [[salt for salt, _ in rows], [mark for _, mark in rows]],
        )
        salts = sorted({salt for salt, _ in rows})
        person = "concat_ws(chr(31), tenant_id, kind, id)"
        asked = (f"{_MARK.format(salt=literal(salt), person=person)} in (select mark from marked where salt = {literal(salt)})"
                 for salt in salts)  # fmt: skip
        return " or ".join(asked) or "false"

    def until(self, people: Collection[Person]) -> dict[Person, datetime]:
        """Of those who were to be forgotten, until when all of theirs is. Raises LedgerKeyLost."""
        found: dict[Person, datetime] = {}
        latest: dict[str, dict[str, datetime]] = {}
        for request in self.requests():
            known = latest.setdefault(request.key, {})
            for digest in request.digests:
                known[digest] = max(known.get(digest, request.at), request.at)
        for name, known in latest.items():
            key = self._key(name)
            for person in people:
                if (at := known.get(_digest(key, person))) is not None:
                    found[person] = max(found.get(person, at), at)
        return found

    def _read(self, path: Path) -> list[Request]:
        requests: dict[str, Request] = {}
        lines = path.read_bytes().split(b"\n")
        try:
            # What has no line end was not acknowledged.
            for line in lines[:-1]:
                said = json.loads(line)
                if "asked" in said:
                    at = datetime.fromisoformat(said["at"])
                    known = (said["erasure"], at, said["by"], said["key"], tuple(said["asked"]))
                    requests[said["erasure"]] = Request(*known, marks=set(said["marks"]))
                elif "found" in said:
                    requests[said["erasure"]].found.update(said["found"])
                    requests[said["erasure"]].marks.update(said["marks"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged: who is to be forgotten is not known; put its backup back") from None
        return list(requests.values())

    def _key(self, name: str) -> Key:
        if name not in self._keys:
            found = self._outside.key(name)
            if found is None:
                raise LedgerKeyLost(
                    f"the key audit-{name}.key is not in {self._outside.folder}, so that nobody can tell who was to be "
                    "erased; put its backup back"
                )
            self._keys[name] = found
        return self._keys[name]

    # Writing

    def add(self, people: Sequence[Person], by: str, now: datetime) -> Request:
        """Ask for people to be forgotten. On disk when this returns."""
        key = self._outside.key_to_seal(next((request.key for request in reversed(self.requests())), None))
        self._keys[key.id] = key
        asked = tuple(dict.fromkeys(_digest(key, person) for person in people))
        marks = {_mark(key, person) for person in people}
        request = Request(secrets.token_hex(8), now, by, key.id, asked, marks=marks)
        said = {"erasure": request.id, "at": now.isoformat(), "by": by, "key": key.id, "asked": asked, "marks": sorted(marks)}
        self._append(said)
        return request

    def note_found(self, request: Request, people: Iterable[Person]) -> None:
        """Note who turned out to be the same: the data that tell so are about to go."""
        people = list(people)
        new = sorted(set(self.digests(request, people)) - request.digests)
        if new:
            marks = {_mark(self._key(request.key), person) for person in people}
            self._append({"erasure": request.id, "found": new, "marks": sorted(marks)})
            request.found.update(new)
            request.marks.update(marks)

    def _append(self, said: Mapping[str, Any]) -> None:
        with self._writing(self.path) as log:
            if not log.tell():
                log.write(json.dumps({"home": str(self._home.root.resolve())}).encode() + b"\n")
            log.write(json.dumps(said).encode() + b"\n")
        self._seen = None

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Any]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}), and nobody is erased whom a backup would bring back; let this "
                "user write there, or name another folder in ANALYTICS_KEYS"
            ) from None
        with os.fdopen(handle, "r+b") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            _drop_torn_line(log)
            yield log
            log.flush()
            os.fsync(log.fileno())

    # The number of the data home

    def _number(self) -> str:
        """The number of the data home, made when it is first asked for.

        A backup of before it had one is known by its place.
        """
        path = self._home.privacy / "home_id"
        if path.exists():
            return path.read_text(encoding="ascii").strip()
        here = json.dumps({"home": str(self._home.root.resolve())}).encode()
        known = [found for found in sorted(self._outside.folder.glob("erasures-*.ndjson")) if _first_line(found) == here]
        number = known[0].stem.removeprefix("erasures-") if known else secrets.token_hex(8)
        new = path.with_name("home_id.new")
        new.write_text(number + "\n", encoding="ascii")
        replace_file(new, path)
        return number


def _digest(key: Key, person: Person) -> str:
    return key.digest("erasure", json.dumps([person.tenant, person.kind, person.id]))


# A person as 32 bits, keyed by a salt of the request's key: in Python, and as DuckDB computes it of columns.
_MARK = "left(md5({salt} || {person}), 8)"


def _mark(key: Key, person: Person) -> str:
    text = "\x1f".join((person.tenant, person.kind, person.id))
    return hashlib.md5((_salt(key) + text).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:8]


def _salt(key: Key) -> str:
    return key.digest("mark", "")


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline().rstrip(b"\n")


def _drop_torn_line(log: Any) -> None:
    """Leave `log` at its end, without half a line that a crash had left there."""
    log.seek(0)
    content = log.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        log.truncate(whole)
    log.seek(0, os.SEEK_END)
