"""Audit logs that a test changes in one line, and a look at their files as somebody sees them who changes them by hand."""

import errno
import hashlib
import json
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from analytics_assets.audit.chain import Chain, entry_of, segments
from analytics_assets.audit.log import Audit
from analytics_assets.audit.outside import Head, Outside
from analytics_assets.audit.verify import Checkpoint, Verified, verify
from analytics_assets.settings import CONFIG, Settings
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOW

Files = dict[str, bytes]
"""Name of a file of the log -> its content."""


@dataclass
class Log:
    """An audit log in a folder."""

    home: Path

    @property
    def audit(self) -> Audit:
        return Audit(Settings(self.home, CONFIG), through="analytics test", clock=lambda: NOW)

    @property
    def chain(self) -> Chain:
        return self.audit.chain

    @property
    def files(self) -> Files:
        return {path.name: path.read_bytes() for path in segments(Home(self.home))}

    @files.setter
    def files(self, files: Files) -> None:
        for path in segments(Home(self.home)):
            path.unlink()
        for name, content in files.items():
            (Home(self.home).audit / name).write_bytes(content)

    @property
    def numbers(self) -> list[int]:
        """What was noted by `add`, in the order of the log."""
        lines = b"".join(self.files.values()).splitlines()
        entries = [entry for line in lines if (entry := entry_of(line))]
        return [entry.said["details"]["number"] for entry in entries if "number" in entry.said.get("details", {})]

    def add(self, *numbers: int) -> Head:
        for number in numbers:
            head = self.audit.record("publish", details={"number": number})
        return head

    def verify(self, checkpoints: Sequence[Head] = (), *, seals: bool = True) -> Verified:
        return verify(self.chain, [Checkpoint(head, "elsewhere") for head in checkpoints], seals=seals)


# What processes of their own do


def add_all(home: Path, first: int, count: int) -> None:
    Log(home).add(*range(first, first + count))


def add_until_killed(home: Path, number: int, said: Connection) -> None:
    log = Log(home)
    while True:
        log.add(number)
        said.send(number)
        number += 1


def add_on_a_full_disk(home: Path, number: int) -> None:
    """Add an entry of which the kernel takes 100 bytes and no more."""
    log = Log(home)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = sum(map(len, log.files.values())) + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        log.add(number)
    except OSError as error:
        assert error.errno == errno.EFBIG
    else:
        raise AssertionError("the disk was not full")


# Changing a log by hand


def lines_of(files: Files) -> list[tuple[str, bytes]]:
    """(file, line with its line end) of the whole log."""
    return [(name, line) for name, content in files.items() for line in content.splitlines(keepends=True)]


def files_of(lines: Sequence[tuple[str, bytes]]) -> Files:
    files: Files = {}
    for name, line in lines:
        files[name] = files.get(name, b"") + line
    return files


def forged(outside: Outside | None, files: Files, place: int, said: dict[str, object]) -> Files:
    """The log with entry `place` (from 0) saying something else, and all hashes from there on made right again.

    Its seals are those of the key, for a forger who has it; else they stay as they were.
    """
    lines, previous = lines_of(files), ""
    for n, (name, line) in enumerate(lines):
        entry = entry_of(line.rstrip(b"\n"))
        assert entry is not None
        if n < place:
            previous = entry.hash
            continue
        whole = {**entry.said, "n": entry.number, "prev": previous or entry.previous, "key": entry.key}
        whole |= said if n == place else {}
        body = json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()
        previous = hashlib.sha256(body).hexdigest()
        key = outside.key(entry.key) if outside else None
        seal = key.seal(previous) if key else entry.seal
        lines[n] = (name, body[:-1] + f',"hash":"{previous}","seal":"{seal}"}}\n'.encode())
    return files_of(lines)
