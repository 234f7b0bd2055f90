"""Ingest: raw Parquet to committed, deduplicated events, against copying Parquet, ClickHouse embedded and dlt.

Processor seconds of the work, without the start of each process (which would count against the peers). The contestants
take turns, and medians are compared, since other work on the machine slows a whole stretch of time.
"""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.generator import Stream
from benchmarks.measure import Bench, BenchmarkError, Finding, Measured, median, run


def measure(bench: Bench) -> Measured:
    stream = Stream(20_000, 10) if bench.small else Stream(166_667, 30)
    files = bench.files(stream)
    # dlt costs so much that it merges a part; its cost grows with the table, so scaling up in proportion favours it.
    part = files[: max(1, len(files) // 5)]
    rounds = 1 if bench.small else 3
    spent: dict[str, list[dict[str, Any]]] = {"copy": [], "ours": [], "chdb": [], "dlt": []}
    for number in range(rounds):
        for name in spent:
            if name == "dlt" and number:
                continue
            bench.say(f"ingest: {name}, round {number + 1} of {1 if name == 'dlt' else rounds}")
            result = _contest(bench, name, part if name == "dlt" else files)
            if result["events"] != stream.fresh * len(part if name == "dlt" else files):
                raise BenchmarkError(f"{name} ended with {result['events']} events; they cannot be compared")
            spent[name].append(result)
    cost = {name: median([result["cpu"] for result in results]) for name, results in spent.items()}
    dlt = cost["dlt"] * len(files) / len(part)
    million = stream.rows * stream.batches / 1e6
    return Measured(
        (
            Finding("ingest: ours / copying Parquet", cost["ours"] / cost["copy"], target=2.0),
            Finding("ingest: ours / ClickHouse embedded with FINAL", cost["ours"] / cost["chdb"], target=1.1),
            Finding("ingest: dlt merge / ours", dlt / cost["ours"], target=4.0, wanted="at least"),
            Finding("ingest: ours, per million rows", cost["ours"] / million, unit="CPU s"),
        ),
        {"rows": stream.rows * stream.batches, "events": stream.events, "rounds": spent},
        (
            f"dlt merged {len(part)} of {len(files)} batches; its cost is scaled up in proportion, which favours it.",
            "Every contestant ended with exactly the events that the generator made.",
        ),
    )


def _contest(bench: Bench, name: str, files: list[Path]) -> dict[str, Any]:
    work = bench.folder(name)
    try:
        if name == "ours":
            return bench.ours(work, files).last
        # The copy runs on our DuckDB, so that both sides of the ratio have the same engine.
        python = bench.python if name == "copy" else bench.peers
        return run([python, Path(__file__).with_name("peers.py"), name, work, *files]).last
    finally:
        shutil.rmtree(work)
