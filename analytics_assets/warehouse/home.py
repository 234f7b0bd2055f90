"""The data home: one folder that holds everything runs create, and the locks that keep writers apart.

Deleting the folder is a clean start; copying it is a backup.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Long enough for a small delivery on its whole way, and short enough that a stream of them starves nobody.
GIVE_WAY_SECONDS = 30.0
_RIGHT_OF_WAY = "right_of_way"
# Of folders as they are made: readers of the published file must get to its tables, and not to who people are.
OPEN, CLOSED = 0o777, 0o770
# The data homes in which this process has the right of way.
_FIRST: set[Path] = set()
_waited = 0.0


class Busy(Exception):
    """A lock was not free within the time the caller was willing to wait."""


@dataclass(frozen=True)
class Home:
    """Paths of the data home. Folders are made when they are first needed."""

    root: Path

    def _folder(self, *parts: str, mode: int = OPEN) -> Path:
        path = self.root.joinpath(*parts)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True, mode=mode)
        return path

    @property
    def warehouse(self) -> Path:
        """Delta tables, one folder a table."""
        return self._folder("warehouse")

    @property
    def published(self) -> Path:
        """`analytics.duckdb` and `versions/`: all that readers see."""
        return self._folder("published")

    @property
    def versions(self) -> Path:
        return self._folder("published", "versions")

    @property
    def landing(self) -> Path:
        """`<tenant>/` folders into which files are dropped."""
        return self._folder("landing")

    @property
    def received(self) -> Path:
        """Landed files after they were loaded, as they came."""
        return self._folder("received", mode=CLOSED)

    @property
    def set_aside(self) -> Path:
        """Landed files that could not be read at all, each with its reason beside it."""
        return self._folder("set_aside", mode=CLOSED)

    @property
    def audit(self) -> Path:
        """The audit log: files that only grow."""
        return self._folder("audit")

    @property
    def privacy(self) -> Path:
        """Which keys are in use; the keys themselves lie elsewhere (`Settings.keys`)."""
        return self._folder("privacy")

    @property
    def work(self) -> Path:
        """Scratch space; safe to delete while nothing runs."""
        return self._folder("work", mode=CLOSED)

    @property
    def marts_database(self) -> Path:
        """Where dbt works while a build goes on."""
        return self.work / "marts.duckdb"

    @property
    def dagster(self) -> Path:
        return self._folder("dagster")

    @contextmanager
    def lock(self, name: str, wait_seconds: float = 3600.0, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold the lock `name` across processes; the kernel frees it when its holder dies, however it dies.

        Raises Busy after `wait_seconds`. Not re-entrant.
        """
        with self._hold(name, wait_seconds, sleep, gives_way_seconds=0.0):
            yield

    @contextmanager
    def turn(self, name: str, wait_seconds: float = 3600.0, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold the lock `name` for a stretch of work: as `lock`, but those with the right of way go first.

        Nobody waits for them longer than GIVE_WAY_SECONDS. For callers that hold no other lock: what they held would keep
        those out for whom they wait.
        """
        gives_way = 0.0 if self.root in _FIRST else GIVE_WAY_SECONDS
        with self._hold(name, wait_seconds, sleep, gives_way):
            yield

    @contextmanager
    def right_of_way(self) -> Iterator[None]:
        """Let no other process begin a turn meanwhile, so that all turns of this one follow each other at once."""
        with self.lock(_RIGHT_OF_WAY):
            _FIRST.add(self.root)
            try:
                yield
            finally:
                _FIRST.discard(self.root)

    def in_use(self, name: str) -> bool:
        """Whether a process holds the lock `name` now."""
        with self._lock_file(name).open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _lock_file(self, name: str) -> Path:
        folder = self.work / "locks"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.lock"

    @contextmanager
    def _hold(self, name: str, wait_seconds: float, sleep: Callable[[float], None], gives_way_seconds: float) -> Iterator[None]:
        with self._lock_file(name).open("a") as handle:
            waited, pause = 0.0, 0.005
            while True:
                if waited >= gives_way_seconds or not self.in_use(_RIGHT_OF_WAY):
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        pass
                if waited >= wait_seconds:
                    raise Busy(f"{name} has been in use for {waited:.0f} s")
                sleep(pause)
                _note_wait(pause)
                waited, pause = waited + pause, min(pause * 1.5, 0.1)
            yield


def _note_wait(seconds: float) -> None:
    global _waited
    _waited += seconds


def seconds_waited() -> float:
    """What this process has waited for locks, in seconds."""
    return _waited


def replace_file(new: Path, target: Path) -> None:
    """Swap `target` for `new` at once and durably: readers see the old file or the new one, also after a power cut."""
    with new.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(new, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
