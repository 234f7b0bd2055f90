"""The contestants that are not this project, each in a process of its own and with the peers' interpreter.

`peers.py copy|chdb|dlt WORK FILE...` prints one JSON line: processor seconds of the work and of starting, distinct events.
Nothing of this project is imported: the peers' environment does not hold it.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cpu_seconds() -> float:
    """Processor seconds of this process and the children it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def copy(work: Path, files: list[str]) -> dict[str, Any]:
    """DuckDB copies Parquet to Parquet with its default settings on two threads: the least that storing can cost."""
    import duckdb

    started = cpu_seconds()
    with duckdb.connect(config={"threads": 2}) as con:
        for number, name in enumerate(files):
            con.execute(f"copy (select * from read_parquet('{name}')) to '{work}/{number}.parquet' (format parquet)")
    spent = cpu_seconds() - started
    with duckdb.connect(config={"threads": 2}) as con:
        query = f"select count(distinct hash(tenant_id, message_id)) from read_parquet('{work}/*.parquet')"
        events = con.execute(query).fetchall()[0][0]
    return {"cpu": spent, "startup": started, "events": events}


def chdb(work: Path, files: list[str]) -> dict[str, Any]:
    """ClickHouse embedded: inserts into a ReplacingMergeTree, then one read with FINAL, which is where it deduplicates."""
    from chdb import session

    started = cpu_seconds()
    con = session.Session(str(work / "clickhouse"))
    types = {
        **dict.fromkeys(("tenant_id", "message_id", "type", "event", "anonymous_id"), "String"),
        **dict.fromkeys(("timestamp", "received_at"), "DateTime64(6)"),
        **dict.fromkeys(("user_id", "properties", "product_id", "campaign", "region"), "Nullable(String)"),
        "revenue": "Nullable(Decimal(18, 4))",
    }
    columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
    chosen = ", ".join(types)
    con.query("create database bench engine = Atomic")
    # Twins carry the same time, so this order finds them; ordering by tenant and id alone costs a tenth more.
    order = "(tenant_id, timestamp, message_id)"
    con.query(f"create table bench.events ({columns}) engine = ReplacingMergeTree order by {order}")
    for name in files:
        con.query(f"insert into bench.events ({chosen}) select {chosen} from file('{name}', Parquet) settings max_threads = 2")
    events = int(con.query("select count() from bench.events final settings max_threads = 2", "CSV").bytes())
    con.close()
    return {"cpu": cpu_seconds() - started, "startup": started, "events": events}


def dlt(work: Path, files: list[str]) -> dict[str, Any]:
    """dlt merges each file into DuckDB by primary key, from Arrow, its fastest way in."""
    os.environ.update(
        DLT_DATA_DIR=str(work / "dlt"), RUNTIME__DLTHUB_TELEMETRY="false", NORMALIZE__WORKERS="1", LOAD__WORKERS="2",
        RUNTIME__LOG_LEVEL="ERROR",
    )  # fmt: skip
    import dlt as library
    import duckdb
    import pyarrow.parquet

    started = cpu_seconds()
    target = library.destinations.duckdb(str(work / "dlt.duckdb"))
    pipeline = library.pipeline("bench", destination=target, dataset_name="bench", pipelines_dir=str(work / "pipelines"))

    def rows(name: str) -> Iterator[Any]:
        yield pyarrow.parquet.read_table(name)

    for name in files:
        pipeline.run(
            rows(name), table_name="events", write_disposition="merge", primary_key=["tenant_id", "message_id"],
            loader_file_format="parquet",
        )  # fmt: skip
    spent = cpu_seconds() - started
    with duckdb.connect(str(work / "dlt.duckdb"), read_only=True) as con:
        events = con.execute("select count(*) from bench.events").fetchall()[0][0]
    return {"cpu": spent, "startup": started, "events": events}


def main() -> None:
    contestant, work, files = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    work.mkdir(parents=True, exist_ok=True)
    result = {"copy": copy, "chdb": chdb, "dlt": dlt}[contestant](work, files)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
