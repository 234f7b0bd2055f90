"""Four writers and twenty readers on one data home for a minute: errors, torn reads, lost and double rows, waiting.

The writers load overlapping deliveries, rebuild and publish without a pause; each reader opens the published file afresh,
asks three questions and starts over. Before, the same readers run alone.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.generator import Stream
from benchmarks.measure import PROJECT, Bench, BenchmarkError, Finding, Measured, child_environment, p95, run

WRITERS = 4
READERS = 20


def measure(bench: Bench) -> Measured:
    alone, together = (5, 12) if bench.small else (30, 60)
    # More than four writers load in the time: they must not run out of work.
    stream = Stream(2_000, 60 if bench.small else 400)
    files = bench.files(stream)
    home = bench.folder("concurrency")
    worker: list[str | Path] = [bench.python, "-m", "benchmarks.workers"]
    try:
        bench.say("concurrency: first version")
        run([*worker, "write", home, bench.config, "0", files[0]])
        bench.say(f"concurrency: {READERS} readers alone for {alone} s")
        before = _together([[*worker, "read", home, str(alone)]] * READERS, home)
        bench.say(f"concurrency: {WRITERS} writers and {READERS} readers for {together} s")
        # Neighbours share every third file, and each file repeats keys of files that another writer loads.
        shares = [files[1:][i::WRITERS] + files[1:][(i + 1) % WRITERS :: 3 * WRITERS] for i in range(WRITERS)]
        writers = [[*worker, "write", home, bench.config, str(together), *sorted(share)] for share in shares]
        readers = [[*worker, "read", home, str(together)]] * READERS
        outcomes = _together([*writers, *readers], home)
        wrote, read = outcomes[:WRITERS], outcomes[WRITERS:]
        bench.say("concurrency: last rebuild, then the books are checked")
        run([*worker, "write", home, bench.config, "0"])
        loaded = sorted({files[0], *(Path(name) for outcome in wrote for name in outcome["loaded"])})
        books = _books(home, loaded)
    finally:
        shutil.rmtree(home)
    waits = {"alone": _pooled(before), "together": _pooled(read)}
    quiet, busy = p95(waits["alone"]), p95(waits["together"])
    details = {
        **books, "files": len(loaded), "publishes": sum(outcome["published"] for outcome in wrote),
        "loads": sum(len(outcome["loaded"]) for outcome in wrote), "reads": {k: len(v) for k, v in waits.items()},
        "p95_seconds": {"alone": quiet, "together": busy}, "versions_seen": max(len(o["versions"]) for o in read),
        "writer_errors": [error for outcome in wrote for error in outcome["errors"]][:20],
        "reader_errors": [error for outcome in [*before, *read] for error in outcome["errors"]][:20],
    }  # fmt: skip
    return Measured(
        (
            Finding("concurrency: reader errors", sum(len(o["errors"]) for o in [*before, *read]), "", 0),
            Finding("concurrency: torn reads", sum(o["torn"] for o in [*before, *read]), "", 0),
            Finding("concurrency: lost rows", books["lost"], "", 0),
            Finding("concurrency: double rows", books["double"], "", 0),
            Finding("concurrency: writer errors", sum(len(o["errors"]) for o in wrote), "", 0),
            Finding("concurrency: readers' p95 with / without writers", busy / quiet, target=2.0),
        ),
        details,
        (
            f"{details['loads']} loads and {details['publishes']} publishes met {len(waits['together']):,} reads; "
            f"p95 {quiet * 1000:.0f} ms alone, {busy * 1000:.0f} ms beside the writers. Readers never pause, so that they "
            f"alone fill {os.cpu_count()} processors.",
        ),
    )


def _together(commands: list[list[str | Path]], home: Path) -> list[dict[str, Any]]:
    """Run processes side by side. They start working when all have imported what they need."""
    go = home.with_name(home.name + ".go")
    go.unlink(missing_ok=True)
    processes = [
        subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT,
            env={**child_environment(), "BENCH_GO": str(go)},
        )
        for command in commands
    ]  # fmt: skip
    try:
        ready = [process.stdout.readline() for process in processes if process.stdout]
        if not all(ready):
            raise BenchmarkError("a reader or writer died before it began")
        go.write_text(str(time.time()), encoding="ascii")
        results = []
        for process in processes:
            output, errors = process.communicate()
            if process.returncode != 0:
                raise BenchmarkError(errors.decode(errors="replace").strip().splitlines()[-1])
            results.append(json.loads(output.decode().splitlines()[-1]))
        return results
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        go.unlink(missing_ok=True)


def _pooled(outcomes: list[dict[str, Any]]) -> list[float]:
    return [seconds for outcome in outcomes for seconds in outcome["seconds"]]


def _books(home: Path, loaded: list[Path]) -> dict[str, int]:
    """Compare the published events with the files that were loaded, key by key."""
    names = ", ".join(f"'{path}'" for path in loaded)
    with duckdb.connect(str(home / "published" / "analytics.duckdb"), read_only=True) as con:
        sent = f"select distinct tenant_id, message_id from read_parquet([{names}])"
        lost = f"select count(*) from ({sent}) anti join events using (tenant_id, message_id)"
        strange = f"select count(*) from events anti join ({sent}) using (tenant_id, message_id)"
        double = "select count(*) - count(distinct (tenant_id, message_id)) from events"
        queries = {"lost": lost, "double": double, "strange": strange, "events": "select count(*) from events"}
        return {name: con.execute(query).fetchall()[0][0] for name, query in queries.items()}
