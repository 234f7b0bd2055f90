"""Layout: how much of a day's events a question about one tenant and one day reads, before and after compaction.

The same rows lie as batches brought them (unsorted), and compacted: ordered by tenant and time. DuckDB's own profile says
how many row groups a query read; a row group counts with the average rows of its layout.
"""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import Settings
from benchmarks.generator import START, Stream
from benchmarks.measure import Bench, Finding, Measured, median

TENANTS = ("tenant-00", "tenant-07", "tenant-20", "tenant-39")


def measure(bench: Bench) -> Measured:
    stream = Stream(20_000, 30) if bench.small else Stream(166_667, 30)
    home = bench.folder("query")
    try:
        bench.ours(home, bench.files(stream))
        pipeline = Pipeline(Settings(home, bench.config))
        loaded = [file.path for file in pipeline.table(EVENTS).snapshot().files]
        copies = home / "loaded"
        copies.mkdir()
        names = [str(shutil.copy(path, copies)) for path in loaded]
        with pipeline.connect() as con:
            compaction = pipeline.compact(con, START + timedelta(days=60))
        compacted = [file.path for file in pipeline.table(EVENTS).snapshot().files]
        layouts = {"as loaded": _ask(home, names), "compacted": _ask(home, compacted)}
    finally:
        shutil.rmtree(home)
    ratio = {name: sum(r["scanned"] for r in rows) / sum(r["returned"] for r in rows) for name, rows in layouts.items()}
    cost = {name: median([row["cpu"] for row in rows]) for name, rows in layouts.items()}
    return Measured(
        (
            Finding("query: rows scanned / returned, as loaded", ratio["as loaded"]),
            Finding("query: rows scanned / returned, compacted", ratio["compacted"]),
            Finding("query: CPU as loaded / compacted", cost["as loaded"] / cost["compacted"]),
        ),
        {"layouts": layouts, "files": {"as loaded": len(names), "compacted": len(compacted)},
         "compaction": {"bytes_before": compaction.bytes_before, "bytes_after": compaction.bytes_after}},
        (f"One tenant and day at a time, of {len(names)} files before and {len(compacted)} after compaction.",),
    )  # fmt: skip


def _ask(home: Path, files: list[str]) -> list[dict[str, Any]]:
    profile = home / "profile.json"
    names = ", ".join(f"'{name}'" for name in files)
    answers = []
    with duckdb.connect(config={"threads": 2}) as con:
        con.execute(f"create view events as select * from read_parquet([{names}])")
        groups = f"select row_group_id, row_group_num_rows as rows from parquet_metadata([{names}]) where column_id = 0"
        size = con.execute(f"select avg(rows) from ({groups})").fetchall()[0][0]
        con.execute(f"pragma enable_profiling = 'json'; set profiling_output = '{profile}'")
        for tenant in TENANTS:
            question = (
                f"select event, properties, revenue from events where tenant_id = '{tenant}' "
                f"and timestamp >= timestamp '{START}' and timestamp < timestamp '{START + timedelta(days=1)}'"
            )
            costs = []
            for _ in range(3):
                returned = len(con.execute(question).fetchall())
                read = json.loads(profile.read_text(encoding="utf-8"))["query"]
                costs.append(read["cpu_time"])
            scanned = round(read["total_row_groups_scanned"] * size)
            answers.append({"tenant": tenant, "returned": returned, "scanned": scanned, "cpu": median(costs)})
    return answers
