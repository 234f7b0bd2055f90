"""The resource configs that are in force: a small file beside the runs, which every step reads as it begins.

It is made from decisions and can be made again from them. Where it cannot be used, a step has its preset, and says so.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from analytics_assets.settings import UserError
from analytics_assets.tuning.rules import OutOfMemory
from analytics_assets.warehouse.home import Home, replace_file

FORMAT = 1
# As limits.yaml may say.
LEAST_MB, MOST_MB, MOST_THREADS = 128, 1_048_576, 256
UNREADABLE = "in_force.json unreadable"


class NotEnoughMemory(UserError):
    """A step ran out of memory, and there is no more for it."""


class StepTimeout(UserError):
    """An attempt of a step was ended since it took much longer than such runs do."""


@dataclass(frozen=True)
class ResourceConfig:
    """Memory and threads of DuckDB in a step. `retry_mb`: memory of the attempts after one that ran out of it, ascending.

    `source` says where it comes from; `until` (UTC) when it is over, None for no end. `classes`: memory of the first attempt
    and of those after it, for inputs of a class that is to have something else. `timeout_seconds` is what an attempt may take.
    """

    memory_mb: int
    threads: int
    retry_mb: tuple[int, ...] = ()
    source: str = "default"
    until: datetime | None = None
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    timeout_seconds: float | None = None

    def for_input(self, name: str | None) -> "ResourceConfig":
        """The config for an input of that class; the one of all others where nothing is said of it, or nobody knows it."""
        sizes = self.classes.get(name) if name else None
        memory_mb, *retry_mb = sizes or (self.memory_mb, *self.retry_mb)
        return replace(self, memory_mb=memory_mb, retry_mb=tuple(retry_mb), classes={})

    @property
    def attempts(self) -> int:
        """How many attempts there are, if each runs out of memory."""
        return 1 + len(self.retry_mb)

    def memory_of(self, attempt: int) -> int:
        """MB of an attempt (from 1)."""
        return (self.memory_mb, *self.retry_mb)[min(attempt, self.attempts) - 1]

    def within(self, rules: OutOfMemory, most_mb: int) -> "ResourceConfig":
        """The same with a ladder of attempts that ends at `most_mb`; one is made by the rules where it has none."""
        rungs = tuple(rung for rung in self.retry_mb if rung < most_mb)
        if not self.retry_mb:
            rungs = ladder(self.memory_mb, rules, most_mb)
        elif len(rungs) < len(self.retry_mb) and self.memory_mb < most_mb:
            rungs = (*rungs, most_mb)
        return replace(self, retry_mb=rungs)

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


def ladder(memory_mb: int, rules: OutOfMemory, most_mb: int) -> tuple[int, ...]:
    """MB of the attempts after a first one with `memory_mb`, none over `most_mb`; fewer where that is reached before."""
    rungs: list[int] = []
    for _ in range(rules.retries):
        before = rungs[-1] if rungs else memory_mb
        rung = min(int(before * rules.multiplier), most_mb)
        if rung > before:
            rungs.append(rung)
    return tuple(rungs)


@dataclass(frozen=True)
class InForce:
    """What is in force, by step. `fault` says why nothing is, where the file cannot be used.

    `timeouts` are seconds by step and class of input, also of steps that have their preset.
    """

    configs: Mapping[str, ResourceConfig]
    fault: str | None = None
    timeouts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, step: str, preset: ResourceConfig, now: datetime, of_class: str | None = None) -> ResourceConfig:
        """The config of a step for inputs of a class, which is its preset where nothing else holds."""
        found = self.configs.get(step)
        if found is not None and found.holds(now):
            config = found.for_input(of_class)
        else:
            config = preset if self.fault is None else replace(preset, source=f"{preset.source}: {UNREADABLE}")
        timeout = self.timeouts.get(step, {}).get(of_class) if of_class else None
        return replace(config, timeout_seconds=timeout)


def folder(home: Home) -> Path:
    return home.dagster / "tuning"


def read_in_force(home: Home) -> InForce:
    """What `write_in_force` kept. Nothing, with the reason, where the file is corrupt or from another version."""
    path = folder(home) / "in_force.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return InForce({}, f"{path.name} has the format {content['format']}, and {FORMAT} is read here")
        # A file from before there were timeouts has none.
        timeouts = {str(step): _timeouts(by_class) for step, by_class in content.get("timeouts", {}).items()}
        return InForce({step: _config(one) for step, one in content["steps"].items()}, timeouts=timeouts)
    except FileNotFoundError:
        return InForce({})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return InForce({}, f"{path.name} cannot be read ({type(error).__name__})")


def write_in_force(
    home: Home, configs: Mapping[str, ResourceConfig], timeouts: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """Put these in force: all at once, for every step that begins from now on. Callers hold a lock."""
    steps = {step: {**asdict(one), "until": one.until and one.until.isoformat()} for step, one in configs.items()}
    folder(home).mkdir(exist_ok=True)
    new = folder(home) / f"in_force.json.{os.getpid()}"
    new.write_text(json.dumps({"format": FORMAT, "steps": steps, "timeouts": timeouts or {}}, indent=1), encoding="utf-8")
    replace_file(new, folder(home) / "in_force.json")


def suspend_timeouts(home: Home, step: str) -> None:
    """Leave a step all the time that it takes, until what is in force is written anew. Callers hold a lock."""
    known = read_in_force(home)
    if known.fault is None:
        write_in_force(home, known.configs, {name: one for name, one in known.timeouts.items() if name != step})


def _timeouts(by_class: Mapping[str, Any]) -> dict[str, float]:
    """Raises ValueError for what is no time."""
    found = {str(name): float(seconds) for name, seconds in by_class.items()}
    if not all(0 < seconds < math.inf for seconds in found.values()):
        raise ValueError(f"{found} are no times")
    return found


def _config(found: Mapping[str, Any]) -> ResourceConfig:
    """Raises ValueError for what no step can work with."""
    sizes = attempt_sizes((found["memory_mb"], *found["retry_mb"]))
    # A file from before there were classes has none.
    classes = {str(name): attempt_sizes(tuple(rungs)) for name, rungs in found.get("classes", {}).items()}
    threads = found["threads"]
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"{threads} are no threads")
    until = found["until"]
    ends = datetime.fromisoformat(until) if until else None
    return ResourceConfig(sizes[0], threads, sizes[1:], str(found["source"]), ends, classes)


def attempt_sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """MB of an attempt and of those after it. Raises ValueError for what no step can have."""
    known = all(isinstance(size, int) and LEAST_MB <= size <= MOST_MB for size in sizes)
    if not sizes or not known or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"{sizes} are no ascending sizes")
    return sizes
