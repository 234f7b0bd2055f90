"""Growth: what an hourly batch costs after 200 hours against 40, with late rows of up to 30 hours and a growing history."""

import shutil
from pathlib import Path

from benchmarks.generator import Stream
from benchmarks.measure import Bench, Finding, Measured, median, run
from benchmarks.turns import PAIRS


def measure(bench: Bench) -> Measured:
    # Late rows reach back 30 hours: before batch 31 a batch has less to compare with, and proves nothing.
    begun = (32, 44) if bench.small else (40, 200)
    stream = Stream(10_000 if bench.small else 166_667, begun[1] + PAIRS)
    files = bench.files(stream)
    homes = [bench.folder(f"after-{number}") for number in begun]
    try:
        for home, number in zip(homes, begun, strict=True):
            bench.say(f"growth: loading {number} hourly batches")
            bench.ours(home, files[:number])
        bench.say(f"growth: batches {begun[0]} and {begun[1]} and the {PAIRS - 1} after them, in turns")
        turns: list[str | Path] = [bench.python, "-m", "benchmarks.turns", bench.config, *homes, *map(str, begun), *files]
        pairs = run(turns).lines[1:]  # the first pair also pays for what is loaded once
    finally:
        for home in homes:
            shutil.rmtree(home)
    ratio = median([pair["old"] / pair["young"] for pair in pairs])
    return Measured(
        (Finding(f"growth: batch {begun[1]} / batch {begun[0]}", ratio, target=1.10),),
        {"pairs": pairs, "rows_a_batch": stream.rows},
        (f"The median of {len(pairs)} pairs of batches that were loaded in turns.",),
    )
