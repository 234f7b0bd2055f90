"""Peak memory: 50 million events in hourly batches, and the same events as one file."""

import shutil

from benchmarks.generator import write_one
from benchmarks.measure import Bench, BenchmarkError, Finding, Measured, median
from benchmarks.stream import hourly


def measure(bench: Bench) -> Measured:
    loaded = hourly(bench)
    batches = loaded.child.lines[:-1]
    resident = [line["resident_mib"] for line in batches]
    quarter = len(resident) // 4
    flat = median(resident[-quarter:]) / median(resident[quarter : 2 * quarter])
    bench.say("memory: writing all batches as one file")
    name = f"one-{loaded.stream.rows}x{loaded.stream.batches}.parquet"
    one = write_one(loaded.files, bench.work / "data" / name)
    bench.say("memory: loading the one file")
    home = bench.folder("one")
    try:
        child = bench.ours(home, [one], loaded.stream.batches)
    finally:
        shutil.rmtree(home)
    if child.last["events"] != loaded.stream.events:
        raise BenchmarkError(f"one file gave {child.last['events']} events instead of {loaded.stream.events}")
    return Measured(
        (
            Finding("memory: peak, hourly batches", loaded.child.last["peak_mib"], "MiB", 600),
            Finding("memory: last quarter / second quarter of the batches", flat, target=1.10),
            Finding("memory: peak, one file", child.last["peak_mib"], "MiB", 1536),
        ),
        {"resident_mib": resident, "peak_mib": [line["peak_mib"] for line in batches], "one_file": child.last,
         "rows": loaded.stream.rows * loaded.stream.batches},
    )  # fmt: skip
