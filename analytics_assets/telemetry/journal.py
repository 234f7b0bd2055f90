"""Measuring a step while it runs, into a small file beside its run: what a killed step had taken by then is known too.

A light thread looks at the memory of the children now and then; everything else is counters, read at both ends. The file
gets a line when the step begins, a line now and then, and one when it ends; the last whole line counts.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analytics_assets.settings import PROJECT
from analytics_assets.telemetry import probe, sampling
from analytics_assets.telemetry.amounts import sound, sound_counts
from analytics_assets.warehouse import meter
from analytics_assets.warehouse.home import Home

# However short a peak of the process is, the kernel notes it; looks are for children, and for steps that are killed.
SAMPLE_SECONDS = 0.5
# Looks may take this share of what the process takes; if they take more there are fewer, down to one in two seconds.
_OWN_SHARE, _SLOWEST_SECONDS = 0.003, 2.0
# A line when this share of the time or of the peak is new, so that a step of a day writes no more than a step of an hour.
_NEWS, _LINE_SECONDS = 0.02, 1.0
_AMOUNTS = (
    "seconds", "cpu_seconds", "read", "written", "peak", "memory_before", "spilled", "queries", "rows_read",
    "duckdb_thread_seconds", "duckdb_peak", "memory_limit", "threads",
)  # fmt: skip
_CODE = (".py", ".yaml", ".sql", ".yml")


@dataclass(frozen=True)
class Key:
    """One attempt of a step."""

    run_id: str
    step: str
    attempt: int


def folder(home: Home) -> Path:
    """Where the files lie until they are collected: a folder a run."""
    return home.dagster / "telemetry"


def _notes(home: Home) -> Path:
    """What the steps took last."""
    return folder(home) / "known.json"


class Measuring:
    """Measures one attempt of a step from here to `end`. `shared`: other steps run in this process before and after it.

    `peak` is the most memory that was seen so far, in bytes, of the process and its children together.
    """

    def __init__(self, home: Home, key: Key, now: datetime, *, shared: bool) -> None:
        own = time.thread_time()
        self._about = {**asdict(key), "process": os.getpid(), "began_at": now.isoformat(), "shared": shared}
        self._began, self._before = time.monotonic(), probe.usage()
        self._step, self._notes = key.step, _notes(home)
        self._known = sampling.known_of(self._notes, key.step)
        self._counts = meter.start(profiled=sampling.chosen(self._known, key.run_id, key.step))
        # Where the kernel's mark does not begin anew, it tells of this step only if it grew.
        self._largest_before = 0 if probe.begin_largest() else probe.largest()
        self._memory_before = self.peak = probe.resident()
        self._spill, self._spilled = str((home.work / "spill").resolve()), 0
        self._said_at, self._said_peak = self._began, 0
        self._code: str | None = None
        path = folder(home) / key.run_id / f"{quote(key.step, safe='')}.{key.attempt}.ndjson"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._own = 0.0
        self._say(self._before, ended=False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)
        self._own = time.thread_time() - own
        self._thread.start()

    def end(self) -> None:
        """Take the last look, and write what the step took."""
        own = time.thread_time()
        self._ended.set()
        self._thread.join()
        meter.stop()
        self._look()
        self._own += time.thread_time() - own
        with suppress(OSError):
            took = probe.usage()
            self._say(took, ended=True)
            self._note(took.cpu_seconds - self._before.cpu_seconds)
        self._file.close()

    def _note(self, cpu_seconds: float) -> None:
        """Keep for the next run what this one took, if that is news."""
        queries = self._counts.queries if self._counts.profiled else self._known and self._known.queries
        known = sampling.Known(cpu_seconds, queries or 0)
        if sampling.is_news(known, self._known):
            sampling.note(self._notes, self._step, known)

    def _watch(self) -> None:
        # Here and not at the end: it takes some milliseconds, once a process.
        self._code = code_version()
        pause, own, process = SAMPLE_SECONDS, time.thread_time(), time.process_time()
        while not self._ended.wait(pause):
            # Where others have the processor, a step lasts long and takes little: the usual looks would be a part of that.
            spare = time.thread_time() - own <= _OWN_SHARE * (time.process_time() - process)
            if spare or pause >= _SLOWEST_SECONDS:
                self._look()
                self._say_news()
            pause = SAMPLE_SECONDS if spare else min(pause * 2, _SLOWEST_SECONDS)
        self._own += time.thread_time()

    def _say_news(self) -> None:
        now = time.monotonic()
        elapsed, due = now - self._said_at, max(_LINE_SECONDS, _NEWS * (now - self._began))
        higher = self.peak > self._said_peak * (1 + _NEWS)
        if elapsed >= due or (higher and elapsed >= _LINE_SECONDS / 10):
            # A full disk takes the measurement, and never the step.
            with suppress(OSError):
                self._say(probe.usage(), ended=False)

    def _look(self) -> None:
        children = sum(map(probe.resident, probe.descendants()))
        self.peak = max(self.peak, probe.resident() + children)
        if (largest := probe.largest()) > self._largest_before:
            self.peak = max(self.peak, largest)
        self._spilled = max(self._spilled, probe.open_in(self._spill))

    def _say(self, now: probe.Usage, *, ended: bool) -> None:
        self._said_at, self._said_peak = time.monotonic(), self.peak
        line = {
            **self._about,
            "ended": ended,
            "seconds": self._said_at - self._began,
            "cpu_seconds": now.cpu_seconds - self._before.cpu_seconds,
            "read": _difference(now.read, self._before.read),
            "written": _difference(now.written, self._before.written),
            "peak": self.peak,
            "memory_before": self._memory_before,
            "code_version": self._code,
            "own_cpu_seconds": self._own,
            **vars(self._counts),
            "spilled": max(self._spilled, self._counts.spilled or 0),
            # Copies at once: the step may count a table while this is written.
            "rows_written": dict(self._counts.rows_written),
            "rows_by_tenant": dict(self._counts.rows_by_tenant),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


@cache
def code_version() -> str:
    """Twelve hex digits of the code, models and declarations that this process has; a change of any gives others."""
    digest = hashlib.sha256()
    for top in ("analytics_assets", "dbt_project"):
        for path, _, names in sorted(os.walk(PROJECT / top)):
            for name in sorted(names):
                if name.endswith(_CODE):
                    digest.update(f"{os.path.relpath(path, PROJECT)}/{name}\n".encode())
                    digest.update(Path(path, name).read_bytes())
    return digest.hexdigest()[:12]


def measured(home: Home, run_id: str) -> dict[Key, dict[str, Any]]:
    """What is known of a run's steps: of each attempt the last line that is whole."""
    found = {}
    for path in sorted((folder(home) / run_id).glob("*.ndjson")):
        for line in _lines(path):
            found[Key(line["run_id"], line["step"], line["attempt"])] = line
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # What is no entry is left out: a process that was killed while it wrote leaves half a line, a damaged disk anything.
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, Mapping) and _is_entry(line):
                yield dict(line)


def _is_entry(line: Mapping[str, Any]) -> bool:
    named = all(isinstance(line.get(name), kind) for name, kind in (("run_id", str), ("step", str), ("attempt", int)))
    return (
        named and "ended" in line and sound(line.get(name) for name in _AMOUNTS)
        and sound_counts(line.get("rows_written")) and sound_counts(line.get("rows_by_tenant"))
    )  # fmt: skip


def attempts(home: Home, run_id: str, step: str) -> int:
    """How many attempts of a step have left a file."""
    return len(list((folder(home) / run_id).glob(f"{quote(step, safe='')}.*.ndjson")))


def forget(home: Home, run_id: str) -> None:
    """Remove the files of a run."""
    run = folder(home) / run_id
    for path in run.glob("*.ndjson"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        run.rmdir()


def left(home: Home) -> list[str]:
    """The runs whose files are still here."""
    return sorted(path.name for path in folder(home).glob("*") if path.is_dir())
