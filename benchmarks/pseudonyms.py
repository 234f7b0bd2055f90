"""Pseudonyms: what replacing identifiers costs at intake, as processor seconds with them against without.

Streams of canonical Parquet, the cheapest there is to load: a person sends a hundred events in a row, or ten, or every event is
of somebody else, so that every identifier is new. Two homes load each file in turns, so that both meet the same other work on
the machine; that process is `python -m benchmarks.pseudonyms WORK FILE...`, and prints one JSON line a file.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import Settings
from benchmarks.generator import START, Stream, write_config
from benchmarks.measure import PROJECT, Bench, BenchmarkError, Finding, Measured, median, run
from benchmarks.ours import cpu_seconds

_WHO = {
    100: "a person sends a hundred events in a row",
    10: "a person sends ten events in a row",
    1: "every event is of somebody else",
}


def measure(bench: Bench) -> Measured:
    rows, batches = (20_000, 6) if bench.small else (166_667, 30)
    findings, details = [], {}
    for in_a_row, who in _WHO.items():
        files = bench.files(Stream(rows, batches, in_a_row=in_a_row))
        bench.say(f"pseudonyms: with and without, {who}")
        work = bench.folder("pseudonyms")
        try:
            lines = run([bench.python, "-m", "benchmarks.pseudonyms", work, *files], ANALYTICS_KEYS=str(work / "keys")).lines
        finally:
            shutil.rmtree(work)
        # The first file pays for imports.
        share = median([line["with"] / line["without"] for line in lines[1:]]) - 1
        target = 0.1 if in_a_row == 10 else None
        findings.append(Finding(f"pseudonyms: share of ingest CPU, {who}", share, unit="", target=target))
        details[who] = lines
    return Measured(tuple(findings), details)


def main(work: Path, files: Sequence[Path]) -> None:
    declared = PROJECT / "analytics_assets" / "config"
    configs = {on: write_config(declared, work / f"config-{on}", pseudonyms=on) for on in (False, True)}
    lines = {on: Pipeline(Settings(work / f"home-{on}", config)) for on, config in configs.items()}
    with lines[False].connect() as without, lines[True].connect() as bearing:
        for number, path in enumerate(files):
            spent, events = {}, set()
            for on in (False, True) if number % 2 else (True, False):
                before = cpu_seconds()
                now = START + timedelta(hours=number + 1, minutes=1)
                events.add(lines[on].load(bearing if on else without, path, "canonical", None, now).events)
                spent["with" if on else "without"] = cpu_seconds() - before
            if len(events) > 1:
                raise BenchmarkError(f"{path.name} brought {events} events; they cannot be compared")
            print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
