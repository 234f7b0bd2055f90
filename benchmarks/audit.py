"""The audit log: what an entry costs, in a young log and in an old one, and how fast a whole log is verified."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from analytics_assets.audit.chain import Chain
from analytics_assets.audit.log import Audit
from analytics_assets.audit.outside import Outside
from analytics_assets.audit.verify import verify
from analytics_assets.settings import CONFIG, Settings
from analytics_assets.warehouse.home import Home
from benchmarks.measure import Bench, BenchmarkError, Finding, Measured, median

_AT_ONCE = 1000


def measure(bench: Bench) -> Measured:
    appends, entries = (200, 20_000) if bench.small else (1000, 1_000_000)
    os.environ["ANALYTICS_KEYS"] = str(bench.folder("keys"))
    young, old = Settings(bench.folder("young"), CONFIG), Settings(bench.folder("old"), CONFIG)
    bench.say(f"audit: a log of {entries:,} entries")
    _grow(old, entries)
    bench.say(f"audit: {appends:,} entries more in turns, each beside a bare write")
    logs = [("young", young), ("old", old)]
    bare, spent = bench.folder("bare"), dict[str, list[float]](bare=[], young=[], old=[])
    for number in range(appends):
        spent["bare"].append(_seconds(lambda: _bare(bare)))
        # Each goes first as often as the other: what follows a flush finds another disk.
        for name, settings in logs if number % 2 else reversed(logs):
            spent[name].append(_seconds(lambda settings=settings: _act(settings)))  # type: ignore[misc]
    costs = {name: median(found) for name, found in spent.items()}
    begun = time.process_time()
    found = verify(Audit(old).chain)
    seconds = time.process_time() - begun
    if not found.whole or found.entries != entries + appends:
        raise BenchmarkError(f"the log is not whole: {found.findings[:1]}")
    return Measured(
        (
            Finding("audit: an entry", costs["young"] * 1000, "ms"),
            Finding("audit: an entry / a bare write and flush of as much to two files", costs["young"] / costs["bare"]),
            Finding(f"audit: an entry after {entries:,} / after a few", costs["old"] / costs["young"], target=1.1),
            Finding("audit: verify, entries a CPU second", found.entries / seconds, "rows"),
        ),
        {**costs, "verify_cpu_seconds": seconds, "entries": found.entries},
    )


def _act(settings: Settings) -> None:
    Audit(settings, "a-run").record("publish", tables=["events", "sessions"], details={"version": 1})


def _grow(settings: Settings, entries: int) -> None:
    chain = Chain(Home(settings.home), Outside(settings.keys))
    said = {"at": "2026-03-20T12:00:00.000000", "user": "somebody", "via": "analytics publish", "action": "publish",
            "outcome": "done", "tables": ["events", "sessions"], "details": {"version": 1}}  # fmt: skip
    for _ in range(entries // _AT_ONCE):
        chain.append(lambda key, amiss: [said] * _AT_ONCE)


def _bare(folder: Path) -> None:
    for name, flags in (("log", os.O_APPEND), ("head", 0)):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | flags)
        os.write(handle, b"x" * 500)
        os.fsync(handle)
        os.close(handle)


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
