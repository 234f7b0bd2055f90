"""Memory of one machine, leased by the processes that share it: who does not fit beside the others waits for them.

A lease is a file that its holder keeps locked, so that the kernel ends it with the process, however that dies. Leases are
served in the order in which they were asked for: one begins as soon as it fits beside all that were asked for before it,
those that still wait among them. So nobody is overtaken for ever, and what goes together always fits.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analytics_assets.warehouse.home import Busy, Home

_LOCK = "memory"


class NoRoom(Busy):
    """Memory was not free within the time the caller was willing to wait."""


@dataclass(frozen=True)
class Lease:
    """Memory that a process holds or waits for, in MB."""

    who: str
    mb: int


def _folder(home: Home) -> Path:
    folder = home.work / "memory"
    folder.mkdir(exist_ok=True)
    return folder


def leases(home: Home, before: Path | None = None) -> list[Lease]:
    """All leases in the order in which they were asked for, or those before one; those of dead processes are removed."""
    found = []
    for path in sorted(_folder(home).glob("*.lease")):
        if path == before:
            break
        try:
            with path.open("r", encoding="utf-8") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(Lease(**json.load(handle)))
                else:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return found


@contextmanager
def memory(
    home: Home, who: str, mb: int, budget_mb: int, *, wait_seconds: float,
    waits: Callable[[str], None] = lambda reason: None, sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:  # fmt: skip
    """Hold `mb` of the `budget_mb` that all processes of this data home share.

    `waits` hears a sentence if that is not at once. Raises NoRoom after `wait_seconds`, ValueError for more than the budget.
    """
    if mb > budget_mb:
        raise ValueError(f"{mb} MB are more than the {budget_mb} MB of all")
    with home.lock(_LOCK):
        path = _next(home)
        new = path.with_suffix(".new")
        handle = new.open("w", encoding="utf-8")
        handle.write(json.dumps({"who": who, "mb": mb}))
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Only now it is seen: whole, and locked.
        new.rename(path)
    try:
        waited, pause = 0.0, 0.02
        while True:
            others = leases(home, before=path)
            if sum(other.mb for other in others) + mb <= budget_mb:
                break
            if waited == 0:
                waits(f"waits for {mb:,} MB of the {budget_mb:,} MB that steps share; before it: {_told(others)}")
            if waited >= wait_seconds:
                raise NoRoom(f"{mb:,} of {budget_mb:,} MB were not free for {waited / 60:.0f} minutes: {_told(others)}")
            sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 1.0)
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()


def _next(home: Home) -> Path:
    """The file of a lease that is asked for now: after all others, also if the clock was set back."""
    for unfinished in _folder(home).glob("*.new"):
        unfinished.unlink()
    last = max((int(path.stem.partition("-")[0]) for path in _folder(home).glob("*.lease")), default=0)
    number = max(time.time_ns(), last + 1)
    return _folder(home) / f"{number:020d}-{os.getpid()}.lease"


def _told(others: list[Lease]) -> str:
    return ", ".join(f"{other.who} ({other.mb:,} MB)" for other in others) or "none"
