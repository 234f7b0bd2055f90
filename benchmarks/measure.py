"""How a benchmark measures: contestants are processes of their own, and what counts is a ratio of two of them in one run.

Processor seconds and peak memory come from the kernel's account of the child, so a busy machine changes them little.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from benchmarks.generator import Stream, write_config

PROJECT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was measured, and the target it has, if any."""

    what: str
    measured: float
    unit: str = "x"
    target: float | None = None
    wanted: Literal["at most", "at least"] = "at most"

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "reported"
        met = self.measured <= self.target if self.wanted == "at most" else self.measured >= self.target
        return "met" if met else "missed"


@dataclass(frozen=True)
class Measured:
    """What a benchmark found. `details` keeps the numbers behind the findings, `notes` what a reader should know."""

    findings: tuple[Finding, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Child:
    """What a process cost, and the JSON lines it printed."""

    cpu: float
    seconds: float
    peak_mib: float
    lines: tuple[dict[str, Any], ...]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]


class BenchmarkError(Exception):
    """A contestant failed or gave a wrong result; the message is its last words."""


def child_environment() -> dict[str, str]:
    """Our environment, but bytecode is kept: where it is not, every start compiles all it imports (10 s for the demo)."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: Sequence[str | Path], **environment: str) -> Child:
    """Run a process to its end. Raises BenchmarkError if it fails."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        env = {**child_environment(), **environment}
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=errors, cwd=PROJECT, env=env)
        # wait4 alone tells what this child cost, apart from all others.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            words = errors.read().decode(errors="replace").strip().splitlines()[-5:]
            raise BenchmarkError(f"{Path(str(command[0])).name} failed ({process.returncode}): {' | '.join(words)}")
        lines = [json.loads(line) for line in output.read().decode().splitlines() if line.startswith("{")]
    return Child(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 1024, tuple(lines))


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


@dataclass(frozen=True)
class Bench:
    """What all benchmarks share: the scale, a scratch folder, the generated data, the interpreters."""

    small: bool
    work: Path
    console: Console

    @property
    def python(self) -> Path:
        return Path(sys.executable)

    @cached_property
    def peers(self) -> Path:
        """The interpreter that has the peers."""
        given = os.environ.get("ANALYTICS_BENCH_PYTHON")
        path = Path(given) if given else PROJECT / ".venv-bench" / "bin" / "python"
        if not path.exists():
            raise BenchmarkError("the peers are not installed; run `make bench`, or set ANALYTICS_BENCH_PYTHON")
        return path

    @cached_property
    def config(self) -> Path:
        return write_config(PROJECT / "analytics_assets" / "config", self.work / "config")

    def say(self, text: str) -> None:
        self.console.print(f"  [dim]{text}[/dim]", soft_wrap=True)

    def files(self, stream: Stream) -> list[Path]:
        self.say(f"data: {stream.batches} hourly batches of {stream.rows:,} rows")
        return stream.write(self.work / "data")

    def folder(self, name: str) -> Path:
        """A fresh, empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))

    def ours(self, home: Path, files: Sequence[Path], hours: int = 1) -> Child:
        """Load files of `hours` hours each into `home`, in one process."""
        return run([self.python, "-m", "benchmarks.ours", home, self.config, str(hours), *files])
