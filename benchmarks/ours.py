"""The contestant that is this project, in a process of its own: `python -m benchmarks.ours HOME CONFIG HOURS FILE...`.

Each file holds HOURS hours of the stream and is loaded as one batch. Prints one JSON line a batch (processor seconds,
memory, what became of the rows) and one at the end.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
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


def peak_mib() -> float:
    """The kernel's high-water mark; `ru_maxrss` would also count the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main(home: Path, config: Path, hours: int, files: Sequence[Path]) -> None:
    pipeline = Pipeline(Settings(home, config))
    started = cpu_seconds()
    events = 0
    with pipeline.connect() as con:
        for number, path in enumerate(files):
            before, wall = cpu_seconds(), time.monotonic()
            # The clock of the stream, not of the wall: event times are judged against it.
            now = START + timedelta(hours=hours * (number + 1), minutes=1)
            report = pipeline.load(con, path, "canonical", None, now)
            events += report.events
            line = {
                "batch": number, "cpu": cpu_seconds() - before, "seconds": time.monotonic() - wall,
                "resident_mib": resident_mib(), "peak_mib": peak_mib(), "received": report.received,
                "rejected": report.rejected, "duplicates": report.duplicates, "events": report.events,
            }  # fmt: skip
            print(json.dumps(line), flush=True)
    spent = {"cpu": cpu_seconds() - started, "startup": started, "events": events, "peak_mib": peak_mib()}
    print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
