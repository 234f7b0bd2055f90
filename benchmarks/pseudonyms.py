"""Pseudonyms: what replacing identifiers costs at intake, as processor seconds with them against without.

Two streams of canonical Parquet, the cheapest there is to load: in one a person sends ten events in a row, in the other every
event is of somebody else, so that nothing is ever remembered and every identifier is new.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.generator import Stream, write_config
from benchmarks.measure import PROJECT, Bench, BenchmarkError, Finding, Measured, median, run


def measure(bench: Bench) -> Measured:
    rows, batches, rounds = (20_000, 6, 1) if bench.small else (166_667, 30, 3)
    findings, details = [], {}
    for in_a_row, who in ((10, "a person sends ten events in a row"), (1, "every event is of somebody else")):
        stream = Stream(rows, batches, in_a_row=in_a_row)
        files = bench.files(stream)
        spent: dict[bool, list[float]] = {False: [], True: []}
        for number in range(rounds):
            for on in spent:
                bench.say(f"pseudonyms: {'with' if on else 'without'}, {who}, round {number + 1} of {rounds}")
                spent[on].append(_load(bench, files, stream.events, pseudonyms=on))
        share = median(spent[True]) / median(spent[False]) - 1
        target = 0.1 if in_a_row > 1 else None
        findings.append(Finding(f"pseudonyms: share of ingest CPU, {who}", share, unit="", target=target))
        details[who] = spent
    return Measured(tuple(findings), details)


def _load(bench: Bench, files: Sequence[Path], events: int, *, pseudonyms: bool) -> float:
    """Processor seconds of loading the files into an empty data home."""
    work = bench.folder("pseudonyms")
    try:
        config = write_config(PROJECT / "analytics_assets" / "config", work / "config", pseudonyms=pseudonyms)
        command: list[str | Path] = [bench.python, "-m", "benchmarks.ours", work / "home", config, "1", *files]
        last = run(command, ANALYTICS_KEYS=str(work / "keys")).last
        if last["events"] != events:
            raise BenchmarkError(f"{last['events']} events instead of {events}; they cannot be compared")
        return last["cpu"]
    finally:
        shutil.rmtree(work)
