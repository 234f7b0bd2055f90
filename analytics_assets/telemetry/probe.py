"""What the kernel says of this process and of those that it started: memory, processor seconds, bytes read and written.

All of it is of the whole process. Where a system has no `/proc`, memory is the most it ever held, children are not seen and
bytes are unknown.
"""

import os
import resource
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "/proc/self/clear_refs"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Since the process began: processor seconds (with those of children that ended), bytes through read and write calls.

    Bytes count also what the page cache answered; None where the kernel does not tell.
    """

    cpu_seconds: float
    read: int | None
    written: int | None


def usage() -> Usage:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(part.ru_utime + part.ru_stime for part in (own, children))
    text = _read("/proc/self/io")
    if text is None:
        return Usage(cpu, None, None)
    counts = dict(line.split(": ") for line in text.splitlines())
    return Usage(cpu, int(counts["rchar"]), int(counts["wchar"]))


def resident(process: int | None = None) -> int:
    """Bytes of memory that a process (default: this one) holds now; 0 if it is gone."""
    text = _read(f"/proc/{process or 'self'}/statm")
    if text is None:
        return 0 if process else largest()
    return int(text.split()[1]) * _PAGE


def largest() -> int:
    """The most bytes of memory that this process held, ever or since `begin_largest`."""
    # Not `ru_maxrss`, which begins with what the process held that started this one.
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_memory() -> int:
    """Bytes of memory that the processes of this machine, or of the container that they run in, may hold together."""
    whole = os.sysconf("SC_PHYS_PAGES") * _PAGE
    limits = (_read(path) for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min([whole, *(int(limit) for limit in limits if limit and limit.strip().isdigit())])


def disk(folder: Path) -> tuple[int, int]:
    """Bytes of the volume of a folder that are used, and all that may be."""
    found = shutil.disk_usage(folder)
    # What is kept back for root is not there to be used.
    return found.used, found.used + found.free


def begin_largest() -> bool:
    """Let `largest` begin anew, with what the process holds now; whether the kernel does that."""
    try:
        with open(MARK, "w", encoding="ascii") as handle:
            handle.write("5")
    except OSError:
        return False
    return True


def descendants(process: int | None = None) -> list[int]:
    """The processes that a process (default: this one) started and that are there now, with those that they started."""
    found: list[int] = []
    if process is None and not _has_children():
        return found
    folder = f"/proc/{process or 'self'}/task"
    try:
        threads = os.listdir(folder)
    except OSError:
        return found
    for thread in threads:
        for child in map(int, (_read(f"{folder}/{thread}/children") or "").split()):
            found += [child, *descendants(child)]
    return found


def _has_children() -> bool:
    """One question to the kernel, where `/proc` takes one for each thread. Whoever waits for a child still gets it."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def open_in(folder: str) -> int:
    """Bytes of the files below `folder` that this process has open, also of those that have no name any more."""
    size = 0
    with suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            # What was closed meanwhile counts no more.
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}").startswith(folder):
                    size += os.stat(int(number)).st_size
    return size


def _read(path: str) -> str | None:
    """A file of `/proc`; None if there is none, or if its process has ended meanwhile."""
    try:
        with open(path, encoding="ascii") as handle:
            return handle.read()
    except OSError:
        return None
