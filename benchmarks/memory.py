"""Peak memory: 50 million events in hourly batches, and the same events as one file."""

import shutil
from pathlib import Path

from benchmarks.generator import Stream, write_one
from benchmarks.measure import Bench, BenchmarkError, Child, Finding, Measured, median


def measure(bench: Bench) -> Measured:
    stream = Stream(10_000, 50) if bench.small else Stream(166_667, 300)
    files = bench.files(stream)
    bench.say(f"memory: loading {stream.batches} hourly batches in one process")
    hourly = _loaded(bench, stream, files, 1)
    batches = hourly.lines[:-1]
    resident = [line["resident_mib"] for line in batches]
    quarter = len(resident) // 4
    flat = median(resident[-quarter:]) / median(resident[quarter : 2 * quarter])
    bench.say("memory: writing all batches as one file")
    one = write_one(files, bench.work / "data" / f"one-{stream.rows}x{stream.batches}.parquet")
    bench.say("memory: loading the one file")
    whole = _loaded(bench, stream, [one], stream.batches)
    return Measured(
        (
            Finding("memory: peak, hourly batches", hourly.last["peak_mib"], "MiB", 600),
            Finding("memory: last quarter / second quarter of the batches", flat, target=1.10),
            Finding("memory: peak, one file", whole.last["peak_mib"], "MiB", 1536),
        ),
        {"resident_mib": resident, "peak_mib": [line["peak_mib"] for line in batches], "one_file": whole.last,
         "rows": stream.rows * stream.batches},
    )  # fmt: skip


def _loaded(bench: Bench, stream: Stream, files: list[Path], hours: int) -> Child:
    """Load files of `hours` hours each into a data home of their own. Raises BenchmarkError if an event is missing."""
    home = bench.folder("memory")
    try:
        child = bench.ours(home, files, hours)
    finally:
        shutil.rmtree(home)
    if child.last["events"] != stream.events:
        raise BenchmarkError(f"{child.last['events']} events instead of {stream.events}")
    return child
