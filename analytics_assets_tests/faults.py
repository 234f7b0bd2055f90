"""What tests of faults share: processes that are really killed, and a look at all that readers see."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from analytics_assets_tests.builders import digest, published

# Fork is out of the question with a storage library that has threads; the fork server only has the modules. All that a
# command imports is among them, so that a kill meets work and not the start.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "analytics_assets_tests.builders",
        "analytics_assets.cli",
        "analytics_assets.defs.run",
        "dagster._core.storage.event_log.sqlite.sqlite_event_log",
        "dbt.adapters.duckdb.connections",
        "dbt.cli.main",
        "great_expectations",
        "analytics_assets_tests.parsed",
    ]
)
# More rounds of random kills, and more examples, than a test run has time for.
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))

# What two runs over the same files may differ in.
_OF_THE_RUN = ("received_at", "landed_at", "loaded_at", "seconds")
# They tell what was judged together and when, how long readers waited, what was tried: it depends on where a run was killed.
VERDICTS, WAITED, TRIED = "quality_results", {"slo_measurements", "slo_error_budget"}, "audit_head"
# Tables about the version itself: what of them does not depend on the time.
_OF_THE_VERSION = {
    "published_tables": ["table", "rows"],
    "freshness_status": ["tenant_id", "table", "tier"],
    "time_to_insight": ["batch_id", "tenant", "source", "file"],
}


def shown(path: Path) -> dict[str, tuple[int, int]]:
    """Rows and order-free digest of every table and view of a published file; of those about the version only names."""
    found = {}
    with published(path) as con:
        for (name,) in con.execute("select table_name from information_schema.tables").fetchall():
            if name in {VERDICTS, *WAITED, TRIED}:
                continue
            described = [row[0] for row in con.execute(f"describe {name}").fetchall()]
            columns = _OF_THE_VERSION.get(name) or [c for c in described if c not in _OF_THE_RUN]
            others = f"where \"table\" <> '{VERDICTS}'" if name == "published_tables" else ""
            found[name] = digest(con, f"from {name} {others}", columns)
    return found


def process(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that does `work` in the environment of here and now; the server has that of when it was started."""
    return FORK.Process(target=_within, args=(dict(os.environ), work, *arguments))


def _within(environment: dict[str, str], work: Callable[..., None], *arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


def run(work: Callable[..., None], *arguments: Any) -> int:
    """Run `work` in a process of its own to its end, or to where it kills itself; returns its exit code."""
    child = process(work, *arguments)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def die() -> None:
    """The end of this process, as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)
