"""The resident worker: loads what lands and keeps the near-real-time promise, in one warm process.

A run of its own process costs ten seconds of imports on two busy cores before it does anything; here they are paid once. What
is due and why, tags, notes and the pause after a failure are those of the sensors, which leave this work to the worker while
it holds its lock, and do it when it is gone. Its runs are runs of the instance that the UI shows.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dagster._core.errors import DagsterExecutionInterruptedError

from analytics_assets.defs.automation import RETRY_MINUTES, failed_lately, told_apart
from analytics_assets.defs.freshness import PROMISES, WORKERS_TIER, answer, tier_tags
from analytics_assets.defs.instance import WORKER_LOCK
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.defs.run import Jobs
from analytics_assets.settings import Settings, UserError
from analytics_assets.warehouse.home import Busy, Home

if TYPE_CHECKING:
    from analytics_assets.landing import Landed
    from analytics_assets.pipeline import Pipeline

# Between two looks at the landing folders; and at what is due though nothing landed, which costs a few queries.
LOOK_SECONDS, DUE_SECONDS = 1.0, 5.0
# So many runs, and the process makes room for a fresh one: whatever its libraries hoard goes with it.
RUNS = 400
_STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a run may take to stop when the parent is gone.
_GRACE_SECONDS = 3.0


def serve(
    settings: Settings, say: Callable[[str], None], explain: Callable[[BaseException], str], *, parent: int | None = None,
    runs: int = RUNS,
) -> bool:  # fmt: skip
    """Work until a signal, the end of the process `parent`, or `runs` runs; returns whether a fresh process is to go on.

    One worker serves a data home. With a parent a second one stands by until the first is gone; without one it raises
    UserError. `explain` makes one line of an error.
    """
    for number in _STOPPED_BY:
        signal.signal(number, _interrupt)
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    home = Home(settings.home)
    with suppress(KeyboardInterrupt, DagsterExecutionInterruptedError), ExitStack() as held:
        try:
            # A sensor that looks whether a worker is here holds the lock for a moment.
            held.enter_context(home.lock(WORKER_LOCK, wait_seconds=1.0 if parent is None else float("inf")))
        except Busy:
            raise UserError("a worker serves this data home already (`analytics dev` starts one); end that one first") from None
        tell = say if parent is None else _nobody
        tell("warming up")
        # From here on a signal must not break off a library in the middle; steps of runs are broken off by Dagster.
        stopped = held.enter_context(Stopped())
        worker = Worker(settings, say, explain)
        worker.warm_up(stopped)
        if stopped():
            return False
        tell(f"ready; it loads what is dropped into {home.landing}/<tenant>/ (Ctrl-C ends it)")
        while worker.runs < runs and not stopped():
            if not worker.look(worker.now()):
                stopped.wait(LOOK_SECONDS)
        return not stopped()
    return False


class Stopped:
    """Whether a signal to stop has come. It is read from the wake-up descriptor, which is written whoever handles signals:

    Dagster puts handlers of its own in place of ours during a run, and forgets what came between two of its steps. Where one of
    them raises in the middle of a finalizer, Python cannot pass that on and writes it out; what is known here need not be said.
    """

    def __enter__(self) -> "Stopped":
        self._came: set[int] = set()
        self._read, self._written = os.pipe()
        for end in (self._read, self._written):
            os.set_blocking(end, False)
        self._before = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._handled = {number: signal.signal(number, lambda *_: None) for number in _STOPPED_BY}
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def _lost(self, told: Any) -> None:
        if not isinstance(told.exc_value, DagsterExecutionInterruptedError | KeyboardInterrupt):
            self._unraisable(told)

    def __call__(self) -> bool:
        with suppress(BlockingIOError):
            self._came.update(os.read(self._read, 4096))
        return not self._came.isdisjoint(_STOPPED_BY)

    def wait(self, seconds: float) -> None:
        """Wait until a signal comes, or so many seconds."""
        select.select([self._read], [], [], seconds)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handled.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._unraisable
        signal.set_wakeup_fd(self._before)
        os.close(self._read)
        os.close(self._written)


def _nobody(text: str) -> None:
    """Whoever starts a worker beside the UI says what is ready."""


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however that happened."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


class Worker:
    """Looks for work and does it."""

    def __init__(self, settings: Settings, say: Callable[[str], None], explain: Callable[[BaseException], str]) -> None:
        from analytics_assets.events.intake import utc_now

        self.now, self.runs = utc_now, 0
        self._say, self._explain = say, explain
        self._jobs = Jobs(settings, {"pipeline": WarmPipeline()})
        self._failed_on: str | None = None
        self._cursor: str | None = None
        self._due_next = 0.0

    def warm_up(self, stopped: Callable[[], bool]) -> None:
        """Import and parse what the first delivery would otherwise wait for: sources, the dbt project, Great Expectations."""
        from analytics_assets.marts.build import manifest
        from analytics_assets.quality.judge import warm_up

        stages = self._stages
        for warm in (lambda: stages.sources, lambda: manifest(stages.home.work / "dbt"), warm_up):
            if not stopped():
                warm()

    @property
    def _stages(self) -> "Pipeline":
        return WarmPipeline().get()

    def look(self, now: datetime) -> bool:
        """Do what waits; returns whether anything did."""
        waiting, _ = self._stages.landed(now)
        loads = bool(waiting) and not self._just_failed_on(waiting)
        if not loads and time.monotonic() < self._due_next:
            return False
        before = self.runs
        with self._stages.home.right_of_way():
            if loads:
                self._load(waiting)
            self._refresh()
        self._due_next = time.monotonic() + DUE_SECONDS
        return self.runs > before

    def _just_failed_on(self, waiting: "list[Landed]") -> bool:
        return self._failed_on == told_apart(waiting) and failed_lately(self._jobs.instance, "ingest")

    def _load(self, waiting: "list[Landed]") -> None:
        names = ", ".join(f"{landed.tenant}/{landed.path.name}" for landed in waiting[:3])
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        tags = tier_tags(WORKERS_TIER, PROMISES.tier(WORKERS_TIER), f"landed: {names}{more}")
        if not self._run("ingest", tags):
            self._failed_on = told_apart(self._stages.landed(self.now())[0])

    def _refresh(self) -> None:
        failed = any(failed_lately(self._jobs.instance, job) for job in ("refresh", "publish"))
        said = answer(self._stages, WORKERS_TIER, self.now(), cursor=self._cursor, going=None, failed=failed)
        self._cursor = said.cursor
        for request in said.run_requests or ():
            self._run(str(request.job_name), request.tags)

    def _run(self, job: str, tags: Mapping[str, str]) -> bool:
        """Run a job to its end; a failure is said in one line, and the UI has the rest."""
        self.runs += 1
        try:
            self._jobs.run(job, tags=tags)
        except Exception as error:
            again = f"tried again when something new comes, or in {RETRY_MINUTES} minutes"
            self._say(f"{job} failed: {self._explain(error)} ({again})")
            return False
        return True


class WarmPipeline(PipelineResource):
    """The same stages for run after run, until a declaration changes: to check the sources takes a second."""

    def get(self) -> "Pipeline":
        settings = Settings.from_env()
        changed = tuple((path, path.stat().st_mtime_ns) for path in sorted(settings.config.rglob("*.yaml")))
        if _WARM.get("settings") != (settings, changed):
            _WARM.update(settings=(settings, changed), stages=super().get())
        stages: Pipeline = _WARM["stages"]
        return stages


# Dagster copies a resource for each run; what is to outlive runs stands here.
_WARM: dict[str, Any] = {}
