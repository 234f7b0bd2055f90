"""The long hourly stream that growth and memory both look at; it is loaded once a run."""

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.generator import Stream
from benchmarks.measure import Bench, BenchmarkError, Child


@dataclass(frozen=True)
class Loaded:
    """A stream, its files, and the process that loaded them hour by hour."""

    stream: Stream
    files: tuple[Path, ...]
    child: Child


@cache
def hourly(bench: Bench) -> Loaded:
    """Load the stream; without the memory benchmark 210 batches suffice."""
    batches = 300 if "memory" in bench.names else 210
    stream = Stream(10_000, 50) if bench.small else Stream(166_667, batches)
    files = bench.files(stream)
    bench.say(f"loading {stream.batches} hourly batches in one process")
    home = bench.folder("hourly")
    try:
        child = bench.ours(home, files)
    finally:
        shutil.rmtree(home)
    if child.last["events"] != stream.events:
        raise BenchmarkError(f"{child.last['events']} events instead of {stream.events}")
    return Loaded(stream, tuple(files), child)
