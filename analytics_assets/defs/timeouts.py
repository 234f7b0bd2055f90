"""The time that an attempt of a step may take: far more than such runs do, and then what its connection does is interrupted.

DuckDB ends a statement between two chunks of rows, as it does for a person who presses Ctrl-C: nothing of it is committed, and
a step may end at any point. What is not DuckDB's is not interrupted: Python between two statements, dbt, a commit; the
step then ends with the next statement. Waiting for others does not count.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from analytics_assets.settings import Settings
from analytics_assets.tuning.in_force import StepTimeout, suspend_timeouts
from analytics_assets.warehouse.home import Home, seconds_waited

if TYPE_CHECKING:
    import duckdb

# Between two interrupts: a statement may begin just after one.
_AGAIN_SECONDS = 0.5


@contextmanager
def ended_in_time(con: "duckdb.DuckDBPyConnection", seconds: float | None) -> Iterator[None]:
    """Around what a step does with its connection. None: it has all the time it wants.

    Raises StepTimeout for a step that was still at work after so many seconds; then it has no timeout until tuning looks again.
    """
    if seconds is None:
        yield
        return
    began, ended = time.monotonic() - seconds_waited(), threading.Event()

    def left() -> float:
        return seconds - (time.monotonic() - seconds_waited() - began)

    def watch() -> None:
        while not ended.wait(max(left(), _AGAIN_SECONDS)):
            if left() <= 0:
                con.interrupt()

    watcher = threading.Thread(target=watch, name="timeout", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if left() > 0:
            raise
        step = _without_timeout()
        if not _interrupted(error):
            # It failed for a reason of its own, after that time.
            raise
        raise StepTimeout(
            f"{step} was ended after {timedelta(seconds=round(seconds))}, much longer than it takes with such an input; "
            "its next run has all the time it wants: run it again if there was more to do"
        ) from error
    finally:
        ended.set()
        watcher.join()


def _interrupted(error: BaseException | None) -> bool:
    from duckdb import InterruptException

    while error is not None and not isinstance(error, InterruptException):
        error = error.__cause__ or error.__context__
    return error is not None


def _without_timeout() -> str:
    """Take the timeout away from the step that runs; returns its name."""
    from analytics_assets.telemetry.steps import STEPS_LOCK

    settings, step = Settings.from_env(), str(dg.OpExecutionContext.get().op_handle)
    home = Home(settings.home)
    with home.lock(STEPS_LOCK):
        suspend_timeouts(home, step)
    return step
