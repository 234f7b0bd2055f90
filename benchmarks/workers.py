"""A writer or a reader of the concurrency benchmark: `workers.py write HOME CONFIG SECONDS FILE...` or `read HOME SECONDS`.

It prints a line when it is ready, waits for the file that BENCH_GO names, works, and prints what happened as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import duckdb

LOADS = 3


def _start() -> None:
    print("ready", flush=True)
    go = os.environ.get("BENCH_GO")
    while go and not Path(go).exists():
        time.sleep(0.01)


def write(home: Path, config: Path, seconds: float, files: list[Path]) -> dict[str, Any]:
    """Load a file, rebuild what it touched, publish; until time or files run out (with 0 seconds: all files)."""
    from datetime import timedelta

    from analytics_assets.pipeline import Pipeline, Waiting
    from analytics_assets.settings import Settings
    from benchmarks.generator import START

    pipeline = Pipeline(Settings(home, config))
    loaded: list[str] = []
    errors: list[str] = []
    published = 0
    _start()
    end = time.monotonic() + (seconds or 3600)
    # Several loads a publish, as happens where files land faster than rebuilds run.
    cycles = [files[start : start + LOADS] for start in range(0, len(files), LOADS)] or [[]]
    with pipeline.connect() as con:
        for paths in cycles:
            if time.monotonic() > end:
                break
            # All deliveries arrive at one moment after the last hour, so that no event lies in the future.
            now = START + timedelta(days=30, microseconds=time.monotonic_ns() // 1000 % 1_000_000)
            try:
                for path in paths:
                    pipeline.load(con, path, "canonical", None, now)
                    loaded.append(str(path))
                days = pipeline.pending(con)
                if days:
                    pipeline.rebuild_sessions(con, days)
                    pipeline.rebuild_users(con)
                    pipeline.rebuild_marts(con, days)
                published += pipeline.publish(con, now).changed
            except Waiting:
                # Another writer's days are half built; its own publish shows them.
                continue
            except Exception as error:  # what went wrong is a finding, and the others go on
                errors.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return {"loaded": loaded, "published": published, "errors": errors}


_BOOKS = (
    "select (select count(*) from events), (select sum(events) from batches), (select sum(events) from events_daily), "
    "(select sum(events) from events_hourly), (select min(version) from published_tables), "
    "(select max(version) from published_tables)"
)
_TENANTS = "select tenant_id, sum(events) from events_daily group by 1 order by 2 desc, 1"
_DRILL = (
    "select event, count(*), count(distinct anonymous_id) from events where tenant_id = ? "
    "and timestamp >= ?::timestamp and timestamp < ?::timestamp + interval 1 day group by 1 order by 2 desc"
)


def read(home: Path, seconds: float) -> dict[str, Any]:
    """Open the published file, ask three questions, close; over and over."""
    path = str(home / "published" / "analytics.duckdb")
    waits: list[float] = []
    errors: list[str] = []
    versions: set[int] = set()
    torn = 0
    _start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        try:
            with duckdb.connect(path, read_only=True, config={"threads": 1}) as con:
                events, batched, daily, hourly, oldest, newest = con.execute(_BOOKS).fetchall()[0]
                tenants = con.execute(_TENANTS).fetchall()
                con.execute(_DRILL, [tenants[len(tenants) // 2][0], "2026-01-05", "2026-01-05"]).fetchall()
            waits.append(time.monotonic() - started)
            whole = events == batched == daily == hourly == sum(row[1] for row in tenants) and oldest == newest
            torn += not whole
            versions.add(newest)
        except Exception as error:  # every failure of a reader counts
            errors.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return {"seconds": waits, "errors": errors, "torn": torn, "versions": sorted(versions)}


if __name__ == "__main__":
    _, role, home_, *rest = sys.argv
    if role == "write":
        result = write(Path(home_), Path(rest[0]), float(rest[1]), [Path(name) for name in rest[2:]])
    else:
        result = read(Path(home_), float(rest[0]))
    print(json.dumps(result), flush=True)
