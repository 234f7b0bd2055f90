"""A chain of entries in files that only grow: each holds the hash of the one before it, its own hash, and a seal.

The hash lets anybody see that an entry was changed, removed or moved; the seal, for which one needs the key, that somebody
wrote the chain anew. Here is how entries are kept and not what they say. `home/audit/<number of its first entry>.ndjson`
are the files; a line is the canonical JSON of an entry, with its hash and seal at the end. An entry counts when `append`
returned: then it is on the disk, and its head is kept outside.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analytics_assets.audit.outside import NOTHING, Head, Key, Outside
from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import Busy, Home

AUDIT_LOCK = "audit"
# A new file from this size on, so that none gets too large to copy or to look at.
SEGMENT_BYTES = 64 * 1024 * 1024
# The longest line.
ENTRY_BYTES = 64 * 1024
_WAIT_SECONDS = 60.0
_ENDING = ".ndjson"
_ENDS = re.compile(rb',"hash":"([0-9a-f]{64})","seal":"([0-9a-f]{32})"}')
# Keys are written in their order, and every entry says what was done.
_BEGINS = b'{"action":"'
_END_BYTES = len(',"hash":"","seal":""}') + 64 + 32


@dataclass(frozen=True)
class Entry:
    """An entry whose hash is its own. `said` is what the caller gave."""

    number: int
    previous: str
    hash: str
    key: str
    seal: str
    said: Mapping[str, Any]

    @property
    def head(self) -> Head:
        return Head(self.number, self.hash)


@dataclass(frozen=True)
class Amiss:
    """What was wrong at the end of the log before an entry was added: a `gap` or the `repair` of a line torn by a crash."""

    kind: str
    details: Mapping[str, Any]


Say = Callable[[Key, Sequence[Amiss]], Sequence[Mapping[str, Any]]]
"""Makes the entries to add, the last of them the caller's own, with those about what was amiss before it."""


def entry_of(line: bytes) -> Entry | None:
    """The entry in a line without its line end; None if it is none, or if its hash is not its own."""
    ends = _ENDS.fullmatch(line, len(line) - _END_BYTES) if len(line) > _END_BYTES else None
    if ends is None:
        return None
    body, hash_ = line[:-_END_BYTES] + b"}", ends[1].decode()
    if hashlib.sha256(body).hexdigest() != hash_:
        return None
    try:
        said = json.loads(body)
        number, previous, key = said.pop("n"), said.pop("prev"), said.pop("key")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    if not isinstance(number, int) or not isinstance(previous, str) or not isinstance(key, str):
        return None
    if not isinstance(said.get("details", {}), dict):
        return None
    return Entry(number, previous, hash_, key, ends[2].decode(), said)


def _line(said: Mapping[str, Any], after: Head, key: Key) -> tuple[bytes, Head]:
    whole = {**said, "n": after.entries + 1, "prev": after.hash, "key": key.id}
    body = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    hash_ = hashlib.sha256(body).hexdigest()
    line = body[:-1] + f',"hash":"{hash_}","seal":"{key.seal(hash_)}"}}\n'.encode()
    if len(line) > ENTRY_BYTES:
        raise ValueError(f"an entry of {len(line):,} bytes; {ENTRY_BYTES:,} are the most")
    return line, Head(after.entries + 1, hash_)


def segments(home: Home) -> list[Path]:
    """The files of the log in their order."""
    folder = home.audit
    return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(_ENDING) and name[: -len(_ENDING)].isdigit()]


@dataclass(frozen=True)
class _End:
    """Where the log ends: its last entry, and in the last file the bytes that stay and those that are torn.

    `damaged` lines behind the last entry are none; `unended` says that the last line stays and lacks its line end.
    """

    last: Entry | None = None
    path: Path | None = None
    size: int = 0
    torn: bytes = b""
    damaged: int = 0
    unended: bool = False

    @property
    def head(self) -> Head:
        return self.last.head if self.last else NOTHING


@dataclass(frozen=True)
class Chain:
    """The chain of one data home."""

    home: Home
    outside: Outside

    def append(self, say: Say) -> Head:
        """Add entries, durably, and return the new head. Costs the same however long the chain is.

        Raises UserError if it cannot be recorded.
        """
        with _turn(self.home):
            end, known = _end(self.home), self.outside.known(self.home.root)
            key = self.outside.key_to_seal(end.last.key if end.last else None)
            head, lines = end.head, []
            for said in say(key, self._amiss(end, known)):
                line, head = _line(said, head, key)
                lines.append(line)
            self._write(end, b"".join(lines))
            self.outside.keep(self.home.root, head)
            return head

    def head(self) -> Head:
        """How far the chain goes."""
        return head_of(self.home)

    def frozen(self) -> tuple[list[tuple[Path, int]], Head | None]:
        """The files with their sizes, and the head kept outside, at one moment."""
        with _turn(self.home):
            return [(path, path.stat().st_size) for path in segments(self.home)], self.outside.known(self.home.root)

    def _amiss(self, end: _End, known: Head | None) -> list[Amiss]:
        if end.damaged or (known is not None and not self._holds(end, known)):
            known = known or end.head
            lost = {"known": known.entries, "known_hash": known.hash, "left": end.head.entries, "damaged": end.damaged}
            return [Amiss("gap", lost)]
        if end.torn:
            return [Amiss("repair", {"bytes": len(end.torn), "digest": hashlib.sha256(end.torn).hexdigest()[:32]})]
        return []

    def _holds(self, end: _End, known: Head) -> bool:
        """Whether the chain goes through `known`: its last entry, or where a process was killed, one before."""
        if known.entries in (0, end.head.entries):
            return known in (NOTHING, end.head)
        if end.last is None or known.entries > end.last.number:
            return False
        if known.entries == end.last.number - 1:
            return known.hash == end.last.previous
        return any(entry.head == known for entry in self._around(known.entries))

    def _around(self, number: int) -> Iterator[Entry]:
        for path in [path for path in segments(self.home) if int(path.stem) <= number][-1:]:
            with path.open("rb") as file:
                yield from (entry for line in file if (entry := entry_of(line.rstrip(b"\n"))))

    def _write(self, end: _End, lines: bytes) -> None:
        if end.torn and end.path is not None:
            os.truncate(end.path, end.size)
        if end.unended and end.path is not None:
            _add(end.path, b"\n")
        if end.path is None or end.size >= SEGMENT_BYTES:
            _add(self.home.audit / f"{end.head.entries + 1:012d}{_ENDING}", lines)
            _sync_folder(self.home.audit)
        else:
            _add(end.path, lines)


def head_of(home: Home) -> Head:
    """How far the chain of a data home goes; needs nothing from outside of it."""
    with _turn(home):
        return _end(home).head


@contextmanager
def _turn(home: Home) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(home.lock(AUDIT_LOCK, wait_seconds=_WAIT_SECONDS))
        except Busy:
            raise UserError("the audit log has been in use for a minute, and what cannot be recorded is not done") from None
        yield


def _end(home: Home) -> _End:
    found = segments(home)
    if not found:
        return _End()
    # The last file may hold nothing yet, or a torn line alone.
    path, damaged = found[-1], 0
    entry, skipped, torn = _tail(path)
    for earlier in reversed(found[:-1]):
        if entry is not None:
            break
        damaged += skipped
        entry, skipped, cut = _tail(earlier)
        skipped += bool(cut)
    size, damaged = path.stat().st_size, damaged + skipped
    end = _End(entry, path, size - len(torn), torn, damaged)
    # A torn line that lacks nothing but its line end is an entry.
    last = entry_of(torn) if torn and not damaged else None
    if last is not None and (last.number, last.previous) == (end.head.entries + 1, end.head.hash):
        return _End(last, path, size, unended=True)
    return end if is_torn(torn) else _End(entry, path, size, damaged=damaged + 1, unended=True)


def is_torn(end: bytes) -> bool:
    """Whether bytes without a line end may be what a crash left of an entry: its beginning, and zeros behind it."""
    text = end.rstrip(b"\0")
    return all(32 <= byte < 127 for byte in text) and text[: len(_BEGINS)] == _BEGINS[: len(text)]


def _tail(path: Path) -> tuple[Entry | None, int, bytes]:
    """The last entry of a file, how many whole lines behind it are none, and what follows the last line end."""
    size = path.stat().st_size
    # Few entries are long, and more than twice the longest has to be read only where something is damaged.
    for most in (8 * 1024, 2 * ENTRY_BYTES, size):
        with path.open("rb") as file:
            file.seek(max(0, size - most))
            lines, _, torn = file.read().rpartition(b"\n")
        skipped = 0
        for line in reversed(lines.split(b"\n") if lines else []):
            if entry := entry_of(line):
                return entry, skipped, torn
            skipped += 1
        if most >= size:
            break
    return None, skipped, torn


def _add(path: Path, lines: bytes) -> None:
    """Add to the end of a file, durably and as a whole: what was written of it is taken back if the disk is full."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        size = os.fstat(handle).st_size
        try:
            rest = lines
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fdatasync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
