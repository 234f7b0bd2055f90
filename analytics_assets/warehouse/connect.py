"""DuckDB connections as the warehouse uses them: in memory, bounded, spilling into the data home."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.meter import watched


@contextmanager
def connection(
    home: Home, *, memory_mb: int = 512, threads: int = 2, source: str = "default", database: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with its own memory limit and threads; UTC, no extension is ever fetched.

    `database` opens a file instead of memory; `source` says where the limits come from.
    """
    con = duckdb.connect(
        str(database) if database else ":memory:",
        config={
            "memory_limit": f"{memory_mb}MB",
            "threads": threads,
            "temp_directory": str(home.work / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        con.execute("set timezone = 'UTC'")
        with watched(con, memory_mb=memory_mb, threads=threads, source=source):
            yield con
    finally:
        con.close()


def remove_database(path: Path) -> None:
    """Remove a database that nobody has open, with what DuckDB leaves beside it; nothing if there is none."""
    for file in (path, path.with_name(f"{path.name}.wal")):
        file.unlink(missing_ok=True)
    shutil.rmtree(path.with_name(f"{path.name}.tmp"), ignore_errors=True)


def limits_of(con: duckdb.DuckDBPyConnection) -> tuple[str, int]:
    """The memory limit, as DuckDB writes and reads it, and the threads of a connection."""
    memory, threads = con.execute("select current_setting('memory_limit'), current_setting('threads')").fetchall()[0]
    return memory, int(threads)
