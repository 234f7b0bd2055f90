"""Whether the audit log is what was written: every entry, none changed, none missing, none more.

What is not known is not passed: entries whose seals cannot be checked are a finding, unless only hashes were asked for. A
finding that a person has looked at and accepted is told and does not fail; it is known by its words, so that anything found
later is another one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analytics_assets.audit.chain import Chain, Entry, entry_of, is_torn
from analytics_assets.audit.outside import NOTHING, Head, Key

# So many findings are told; of more only how many.
MOST_FINDINGS = 1000


@dataclass(frozen=True)
class Checkpoint:
    """A head that was kept, and where."""

    head: Head
    where: str


@dataclass
class Verified:
    """What a look at the whole log found. `notes` are no faults."""

    entries: int = 0
    first: str = ""
    last: str = ""
    findings: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: int = 0

    @property
    def whole(self) -> bool:
        return not self.findings


def digest(finding: str) -> str:
    """What an accepted finding is known by."""
    return hashlib.sha256(finding.encode()).hexdigest()[:32]


def verify(chain: Chain, checkpoints: Sequence[Checkpoint] = (), *, seals: bool = True) -> Verified:
    """Read the whole log. Without `seals` only hashes are checked, for whoever has no key. Raises UserError."""
    files, known = chain.frozen()
    heads = [*checkpoints, *([Checkpoint(known, "outside of the data home")] if known else [])]
    look = _Look(chain, known or NOTHING, {checkpoint.head.entries for checkpoint in heads}, seals)
    for path, size in files:
        look.file(path, size, is_last=path == files[-1][0])
    look.sealed_by_others()
    if known is None and files:
        look.out.notes.append(
            f"no head of this log is kept in {chain.outside.folder}: an end that was cut off shows only with --checkpoint"
        )
    for checkpoint in heads:
        look.compare(checkpoint)
    return look.sorted_out()


class _Look:
    """One pass over all entries."""

    def __init__(self, chain: Chain, known: Head, wanted: set[int], seals: bool) -> None:
        self._chain, self._known, self._wanted, self._seals = chain, known, wanted, seals
        self._keys: dict[str, Key | None] = {}
        self._foreign: dict[str, list[int]] = {}
        self._passed = {0: NOTHING.hash}
        self._accepted: set[str] = set()
        self._head = NOTHING
        self.out = Verified()

    def file(self, path: Path, size: int, *, is_last: bool) -> None:
        # What is added meanwhile is another look's.
        for number, line in enumerate(_lines(path, size), 1):
            where = f"{path.name}, line {number}"
            if not line.endswith(b"\n"):
                self._torn(line, where, is_last)
            elif (entry := entry_of(line[:-1])) is None:
                self._find(f"{where}: is no entry, or was changed (its digest is {hashlib.sha256(line).hexdigest()[:16]})")
            else:
                if number == 1 and entry.number != int(path.stem):
                    self._find(f"{where}: begins with entry {entry.number:,}, but the file is named for {int(path.stem):,}")
                self._entry(entry, where)

    def _torn(self, line: bytes, where: str, is_last: bool) -> None:
        if not is_last:
            self._find(f"{where}: ends in the middle of an entry, and another file follows")
        elif (entry := entry_of(line)) and (entry.number, entry.previous) == (self._head.entries + 1, self._head.hash):
            if self._known.entries >= entry.number:
                self._find(f"{where}: the line end of entry {entry.number:,}, which counted, was cut off")
            self._entry(entry, where)
        elif not is_torn(line):
            self._find(f"{where}: is no entry and no beginning of one (its digest is {hashlib.sha256(line).hexdigest()[:16]})")
        else:
            # One that counted would be known outside.
            self.out.notes.append(f"{where}: was torn by a crash before it counted; the next entry repairs it")

    def _entry(self, entry: Entry, where: str) -> None:
        if (entry.number, entry.previous) != (self._head.entries + 1, self._head.hash):
            self._find(
                f"{where}: entry {entry.number:,} (hash {entry.hash[:16]}) does not follow entry {self._head.entries:,}, which "
                "stands before it: entries were removed, added, moved or changed there"
            )
        self._say(entry, trusted=not self._seals or self._sealed(entry, where))
        self._head = entry.head
        if entry.number in self._wanted:
            self._passed[entry.number] = entry.hash
        self.out.entries += 1
        self.out.last = str(entry.said.get("at", ""))
        self.out.first = self.out.first or self.out.last

    def _sealed(self, entry: Entry, where: str) -> bool:
        if entry.key not in self._keys:
            self._keys[entry.key] = self._chain.outside.key(entry.key)
        key = self._keys[entry.key]
        if key is None:
            self._foreign.setdefault(entry.key[:16], [entry.number, 0])[1] = entry.number
            return False
        sealed = key.seal(entry.hash) == entry.seal
        if not sealed:
            self._find(f"{where}: entry {entry.number:,} (hash {entry.hash[:16]}) was not written with the key that it names")
        return sealed

    def _say(self, entry: Entry, *, trusted: bool) -> None:
        """What the log itself tells of its own faults."""
        details = entry.said.get("details", {})
        if entry.said.get("action") == "gap":
            lines = f", and {details.get('damaged')} damaged" if details.get("damaged") else ""
            self._find(
                f"before entry {entry.number:,} (hash {entry.hash[:16]}) the log was not as it was left: of "
                f"{details.get('known')} entries that were known, the last of them {str(details.get('known_hash'))[:16]}, "
                f"{details.get('left')} were there{lines}; it was cut off, changed or begun "
                "anew, or a backup was restored"
            )
        elif entry.said.get("action") == "repair":
            self.out.notes.append(
                f"entry {entry.number:,}: a line of {details.get('bytes')} bytes, torn by a crash, was removed"
            )
        elif entry.said.get("action") == "accept" and trusted:
            self._accepted.update(details.get("findings", []))

    def sealed_by_others(self) -> None:
        for name, (first, last) in self._foreign.items():
            self._find(
                f"entries {first:,} to {last:,}: the key {name} that sealed them is not in {self._chain.outside.folder}, so "
                "whoever changed the data home may have written them; put the key back, or ask for --hashes-only"
            )

    def compare(self, checkpoint: Checkpoint) -> None:
        head, where = checkpoint.head, checkpoint.where
        if head.entries > self._head.entries:
            self._find(
                f"the log ends with entry {self._head.entries:,}, but {head.entries:,} (the last {head.hash[:16]}) were known "
                f"{where}: its end was cut off, or a backup was restored"
            )
        elif self._passed.get(head.entries) != head.hash:
            self._find(
                f"entry {head.entries:,} is not the one that was known {where} ({head.hash[:16]}): the log was written anew"
            )

    def _find(self, finding: str) -> None:
        if len(self.out.findings) < MOST_FINDINGS:
            self.out.findings.append(finding)
        else:
            self.out.left_out += 1

    def sorted_out(self) -> Verified:
        out = self.out
        out.accepted = [finding for finding in out.findings if digest(finding) in self._accepted]
        out.findings = [finding for finding in out.findings if digest(finding) not in self._accepted]
        return out


def _lines(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size > 0 and (line := file.readline(size)):
            size -= len(line)
            yield line
