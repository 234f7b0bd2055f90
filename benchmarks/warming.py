"""Warm caches: the first query after a night that left nothing in memory, with and without what `warm_caches` reads before.

The retail sample is published. Before each query the kernel is told to forget the files of the data home
(`POSIX_FADV_DONTNEED`), and what the query then reads from the disk itself is counted beside its time. A query is a
process of its own, as `analytics sql` is; imports are over before its clock begins.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb

from analytics_assets.shown import published
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import current_path
from analytics_assets.warehouse.warm import warm
from benchmarks.measure import Bench, Finding, Measured, child_environment, median, run

# A question that reads several columns of every event, behind a view, and one that the file itself answers.
QUESTIONS = {
    "events": "select tenant_id, count(*), sum(revenue), count(distinct session_id), count(distinct product_id) from events "
    "group by all",
    "rollup": "select date, sum(events), sum(revenue) from events_daily group by date",
}
_MOST = 4 * 2**30


def measure(bench: Bench) -> Measured:
    rounds = 3 if bench.small else 15
    work = bench.folder("warming")
    try:
        home = work / "home"
        bench.say("warming: publishing the retail sample")
        run([bench.python, "-m", "analytics_assets.cli", "demo"], ANALYTICS_HOME=str(home))
        return compare(Home(home), rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def compare(home: Home, rounds: int) -> Measured:
    """Each question cold, warmed and warm, in turns."""
    path = current_path(home).resolve()
    times: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warmed": [], "warm": []} for name in QUESTIONS}
    read: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warmed": [], "warm": []} for name in QUESTIONS}
    took = []
    for name, question in QUESTIONS.items():
        for _ in range(rounds):
            forget(home.root)
            for state in ("cold", "warm"):
                _note(times[name][state], read[name][state], path, question)
            forget(home.root)
            began = time.perf_counter()
            done = warm(home, published(), [name], _MOST)
            took.append(time.perf_counter() - began)
            _note(times[name]["warmed"], read[name]["warmed"], path, question)
    # The quickest of each: whoever else has the machine only slows.
    ratio = {name: {state: min(of[state]) / min(of["warm"]) for state in of} for name, of in times.items()}
    return Measured(
        (
            *(Finding(f"warming: first query of {name}, cold / warm", ratio[name]["cold"]) for name in QUESTIONS),
            *(Finding(f"warming: first query of {name}, warmed before / warm", ratio[name]["warmed"], target=1.1)
              for name in QUESTIONS),
            *(Finding(f"warming: {name}, read from disk after warming", median(read[name]["warmed"]) / 2**20, "MiB", 0.1)
              for name in QUESTIONS),
            Finding("warming: reading it all before", median(took), "s"),
        ),
        {"seconds": times, "bytes from disk": read, "warmed": {"files": done.files, "bytes": done.bytes}},
        (
            f"Warmed are {done.files} files of {done.bytes / 2**20:.1f} MiB; cold, the query of events reads "
            f"{median(read['events']['cold']) / 2**20:.1f} MiB from the disk, that of the rollup "
            f"{median(read['rollup']['cold']) / 2**20:.1f} MiB.",
            "How much slower cold is depends on the disk; that nothing is read from it after warming does not.",
        ),
    )  # fmt: skip


def forget(root: Path) -> None:
    """Have the kernel drop the pages of all files below; what is not written yet is written first."""
    os.sync()
    for folder, _, names in os.walk(root):
        for name in names:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _note(times: list[float], read: list[float], path: Path, question: str) -> None:
    command = [sys.executable, "-m", "benchmarks.warming", str(path), question]
    told = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=True).stdout
    seconds, size = json.loads(told)
    times.append(seconds)
    read.append(size)


def _from_disk() -> int:
    """Bytes that this process had read from the disk itself."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def _ask(path: str, question: str) -> None:
    before, began = _from_disk(), time.perf_counter()
    with duckdb.connect(path, read_only=True, config={"threads": 2}) as con:
        con.execute(question).fetchall()
    print(json.dumps([time.perf_counter() - began, _from_disk() - before]))


if __name__ == "__main__":
    _ask(*sys.argv[1:])
