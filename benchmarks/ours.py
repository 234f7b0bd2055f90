"""The contestant that is this project, in a process of its own: `python -m benchmarks.ours HOME CONFIG FILE...`.

Prints one JSON line a batch (processor seconds, memory, what became of the rows) and one at the end.
"""

import json
import os
import resource
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import Settings
from benchmarks.generator import START


def cpu_seconds() -> float:
    """Processor seconds of this process and the children it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(home: str, config: str, files: list[str], first: int = 0) -> None:
    pipeline = Pipeline(Settings(Path(home), Path(config)))
    started = cpu_seconds()
    events = 0
    with pipeline.connect() as con:
        for number, name in enumerate(files, start=first):
            before, wall = cpu_seconds(), time.monotonic()
            # The clock of the stream, not of the wall: event times are judged against it.
            now: datetime = START + timedelta(hours=max(number + 1, len(files)) if len(files) == 1 else number + 1, minutes=1)
            report = pipeline.load(con, Path(name), "canonical", None, now)
            events += report.events
            line = {"batch": number, "cpu": cpu_seconds() - before, "wall": time.monotonic() - wall,
                    "resident_mib": resident_mib(), "received": report.received, "rejected": report.rejected,
                    "duplicates": report.duplicates, "events": report.events}  # fmt: skip
            print(json.dumps(line), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu_seconds() - started, "startup": started, "events": events, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
