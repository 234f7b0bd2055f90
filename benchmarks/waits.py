"""Queue waits with the scaling plan applied and not applied: real load through the real queue, under a clock of its own.

The load is the retail sample's: its invoice lines, when they were written, are work for runs of twelve tenants, beside an
hourly and a daily run. Each arm has its own data home with Dagster's instance as the project declares it. Runs are
submitted to its queue, its daemon decides which start, and the plan decides from a real forecast and sets the limits of
real pools. What is left out are the processes: a run holds its place for as long as its work takes, so three days pass in
minutes.
"""

import heapq
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import duckdb
import numpy as np
import yaml

from analytics_assets.defs.instance import configure, open_instance
from analytics_assets.defs.queues import QUEUE_TAG
from analytics_assets.defs.quotas import TENANT_TAG, limits_in_force
from analytics_assets.defs.scaling import settle
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import Settings
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets.tuning.declared import BACKGROUND
from analytics_assets.tuning.keep import Tuning
from analytics_assets.tuning.tables import Decided
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import identifier
from analytics_assets.warehouse.table import replace_all
from benchmarks.measure import PROJECT, Bench, Finding, Measured, median, run

Arm = Literal["plan", "reactive", "fixed"]
_RETAIL = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
_FIRST = datetime.fromisoformat("2011-11-15")
_HISTORY = timedelta(weeks=8)
_TENANTS = [f"tenant-{n:02}" for n in range(12)]
# Processor seconds of an invoice line, so that the pool is full in the busiest hours; and of a run, on average.
_A_LINE, _A_RUN = 24.0, 900.0
# As delivered, but for a quota and a history that the trace can fill.
_UNIT, _FLOOR, _QUOTA = 2400, 2, 8
_POOL = {"serves": "work", "unit_load": _UNIT, "floor": _FLOOR, "quota": _QUOTA}
_DECIDES, _FORECASTS = timedelta(minutes=15), timedelta(hours=1)
_TIERS = ("hourly", "daily", "tenants' own")


def measure(bench: Bench) -> Measured:
    days = 1 if bench.small else 3
    work = bench.folder("waits")
    try:
        found: dict[str, dict[str, Any]] = {}
        for arm in ("plan", "reactive", "fixed"):
            bench.say(f"waits: {days} {'day' if days == 1 else 'days'} of load, {arm}")
            # The fixed limit gives as many slot hours as the plan, and more where they are no whole number.
            limit = str(-(-found["plan"]["slot hours"] // (24 * days))) if arm == "fixed" else "0"
            found[arm] = run([bench.python, "-m", "benchmarks.waits", work / arm, arm, str(days), limit]).last
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return judged(found)


def judged(found: dict[str, dict[str, Any]]) -> Measured:
    plan, reactive, fixed = (found[arm] for arm in ("plan", "reactive", "fixed"))
    findings = [
        Finding(f"waits: {tier}, {word}, {arm}", found[arm]["waits"][tier][word] / 60, "min")
        for tier in _TIERS for word in ("mean", "p95") for arm in found
    ]  # fmt: skip
    return Measured(
        (
            Finding("waits: all runs, mean, plan / fixed limit", plan["mean"] / max(fixed["mean"], 1e-9), target=1.0),
            Finding("waits: all runs, mean, plan / reactive", plan["mean"] / max(reactive["mean"], 1e-9), target=1.0),
            *findings,
            *(Finding(f"waits: slot hours, {arm}", one["slot hours"], "h") for arm, one in found.items()),
            Finding("waits: raises for a load that was only forecast", float(plan["raised ahead"]), ""),
            Finding("waits: from such a raise to a load that needed it, middle one", plan["minutes ahead"], "min"),
        ),
        found,
        (
            f"{plan['runs']} runs; the plan changed the limit {plan['changes']} times, {plan['raised']} of them raises.",
            f"Of a raise ahead the decision says: {plan['reason']}",
            f"The fixed limit is {fixed['limit']}, so that it has no fewer slot hours than the plan.",
            "A place is worth a processor of its own here; on one machine, places share what it has.",
            "What runs take is known at once here; telemetry tells it once an hour, so that reacting is later than that.",
        ),
    )


@dataclass(frozen=True)
class Work:
    """A run to ask for: at what second of the replay, with which tags, and the processor seconds that it takes."""

    at: float
    tier: str
    tags: dict[str, str]
    seconds: float


def load(begin: datetime, end: datetime) -> list[tuple[datetime, float]]:
    """Processor seconds that the invoice lines of each quarter of an hour ask for; only quarters with some."""
    quarter = "time_bucket(interval 15 minute, InvoiceDate)"
    lines = f"read_parquet('{_RETAIL}') where InvoiceDate >= ? and InvoiceDate < ?"
    with duckdb.connect() as con:
        counted = f"select {quarter}, (count(*) * {_A_LINE})::double from {lines} group by 1 order by 1"
        return con.execute(counted, [begin, end]).fetchall()


def asked(days: int, seed: int = 1) -> list[Work]:
    """The runs of so many days: the same for every arm."""
    random, found = np.random.default_rng(seed), []
    for moment, seconds in load(_FIRST, _FIRST + timedelta(days=days)):
        begin, left = (moment - _FIRST).total_seconds(), seconds
        while left > 0:
            takes = min(float(random.lognormal(np.log(_A_RUN) - 0.18, 0.6)), left)
            tenant = _TENANTS[int(random.integers(len(_TENANTS)))]
            found.append(Work(begin + float(random.uniform(0, 900)), "tenants' own", {TENANT_TAG: tenant}, takes))
            left -= takes
    for hour in range(24 * days):
        for tier in ("hourly", "daily") if hour % 24 == 3 else ("hourly",):
            tags = {"dagster/sensor_name": tier, "analytics/tier": tier}
            found.append(Work(hour * 3600 + 2400.0, tier, tags, 300.0))
    return sorted(found, key=lambda one: one.at)


@dataclass
class Replay:
    """One arm under a clock of its own, which begins with `_FIRST`."""

    arm: Arm
    home: Home
    stages: Pipeline
    instance: dg.DagsterInstance
    fixed: int
    now: float = 0.0
    waits: dict[str, list[float]] = field(default_factory=lambda: {tier: [] for tier in _TIERS})
    taken: list[tuple[datetime, float]] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)
    slot_seconds: float = 0.0

    @property
    def moment(self) -> datetime:
        return _FIRST + timedelta(seconds=self.now)

    def go(self, works: list[Work], days: int) -> None:
        """Let all that is asked for start and end; the plan looks at the load meanwhile."""
        from dagster._core.test_utils import create_test_daemon_workspace_context
        from dagster._core.workspace.load_target import EmptyWorkspaceTarget
        from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

        self.instance.run_coordinator.clock = lambda: self.moment  # type: ignore[attr-defined]
        daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
        ahead: list[tuple[float, int, str, Any]] = [(one.at, n, "ask", one) for n, one in enumerate(works)]
        looks = range(0, days * 24 * 3600, int(_DECIDES.total_seconds())) if self.arm != "fixed" else ()
        ahead += [(float(at), -1, "decide", None) for at in looks]
        heapq.heapify(ahead)
        waiting: dict[str, Work] = {}
        with create_test_daemon_workspace_context(EmptyWorkspaceTarget(), self.instance) as workspace:
            while ahead:
                at, _, what, about = heapq.heappop(ahead)
                self._wait_until(at, days * 24 * 3600.0)
                if what == "decide":
                    self._decide()
                elif what == "ask":
                    waiting[self._ask(about, workspace)] = about
                else:
                    self.instance.report_run_canceled(self._run(about))
                if ahead and ahead[0][0] == at:
                    continue
                before = len(self._launched())
                list(daemon.run_iteration(workspace))
                for run_id in self._launched()[before:]:
                    work = waiting.pop(run_id)
                    self.waits[work.tier].append(self.now - work.at)
                    self.taken.append((self.moment, work.seconds))
                    heapq.heappush(ahead, (self.now + work.seconds, len(works), "end", run_id))
        if waiting:
            raise RuntimeError(f"{len(waiting)} runs never started")

    def _wait_until(self, at: float, end: float) -> None:
        limit = self.fixed or limits_in_force(self.instance).get(BACKGROUND, _FLOOR)
        self.slot_seconds += float(limit) * (min(at, end) - min(self.now, end))
        self.now = at

    def _decide(self) -> None:
        with self.stages.connect() as con:
            self._tell(con)
            if self.arm == "plan" and self.now % _FORECASTS.total_seconds() == 0:
                Tuning.declared(self.stages.settings).forecast(con, self.moment)
            self.decided += settle(self.instance, self.stages, con, self.moment).rows

    def _tell(self, con: duckdb.DuckDBPyConnection) -> None:
        """What steps took, by the history of the load before the replay and by the runs that began since."""
        moments, seconds = zip(*[*load(_FIRST - _HISTORY, _FIRST), *self.taken], strict=True)
        values = {"run_id": "moment::varchar", "date": "moment::date", "started_at": "moment", "cpu_seconds": "amount",
                  "wall_seconds": "amount"}  # fmt: skip
        columns = [f"({values.get(one.name, 'null')})::{one.type} as {identifier(one.name)}" for one in STEP_TELEMETRY.columns]
        took = "select unnest(?::timestamp[]) as moment, unnest(?::double[]) as amount"
        con.execute(f"create or replace temp table took as {took}", [list(moments), list(seconds)])
        replace_all(self.stages.table(STEP_TELEMETRY), con, f"select {', '.join(columns)} from took")

    def _ask(self, work: Work, workspace: Any) -> str:
        from dagster._core.code_pointer import ModuleCodePointer
        from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
        from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
        from dagster._core.test_utils import create_run_for_test
        from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

        module = "analytics_assets.definitions"
        place = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=module), "here")
        code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer(module, "defs"))
        asked_for = create_run_for_test(
            self.instance, job_name="refresh", tags=work.tags, job_code_origin=JobPythonOrigin("refresh", code),
            remote_job_origin=RemoteRepositoryOrigin(place, "__repository__").get_job_origin("refresh"),
        )  # fmt: skip
        self.instance.submit_run(asked_for.run_id, workspace.create_request_context())
        if self._run(asked_for.run_id).tags[QUEUE_TAG] == "heavy":
            raise RuntimeError("a run of the replay waits for the night")
        return asked_for.run_id

    def _run(self, run_id: str) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def _launched(self) -> list[str]:
        return [one.run_id for one in self.instance.run_launcher.queue()]  # type: ignore[attr-defined]

    def told(self) -> dict[str, Any]:
        every = [wait for waits in self.waits.values() for wait in waits]
        raises = [row for row in self.decided if row.applied is not None and row.capacity > row.was]
        ahead = [(row, minutes) for row in raises if (minutes := self._ahead(row)) is not None]
        return {
            "arm": self.arm, "runs": len(every), "mean": float(np.mean(every)), "limit": self.fixed or None,
            "waits": {tier: {"runs": len(waits), "mean": float(np.mean(waits)), "p95": float(np.quantile(waits, 0.95)),
                             "longest": max(waits)} for tier, waits in self.waits.items()},
            "slot hours": self.slot_seconds / 3600, "raised": len(raises),
            "changes": sum(row.applied is not None and row.capacity != row.was for row in self.decided),
            "raised ahead": len(ahead), "minutes ahead": median([minutes for _, minutes in ahead]) if ahead else 0.0,
            "reason": ahead[0][0].reason if ahead else "",
        }  # fmt: skip

    def _ahead(self, row: Decided) -> float | None:
        """Minutes from a raise that the forecast alone asked for to the first look that saw such a load; None for others."""
        # At 80 % of it, as the pool declares no other headroom.
        need = row.was * _UNIT / 1.25
        if row.forecast_p90 is None or row.observed is None or row.observed > need:
            return None
        later = [one.decided_at for one in self.decided if one.decided_at > row.decided_at and (one.observed or 0) > need]
        return (later[0] - row.decided_at).total_seconds() / 60 if later else None


@contextmanager
def _a_home(folder: Path, arm: Arm, limit: int) -> Iterator[tuple[Settings, dg.DagsterInstance]]:
    """A data home that declares the pool, and the project's instance but for the start of processes."""
    config = folder / "config"
    shutil.copytree(PROJECT / "analytics_assets" / "config", config)
    tenants = [{"id": name, "source": "segment"} for name in _TENANTS]
    (config / "tenants.yaml").write_text(yaml.safe_dump({"tenants": tenants}))
    mode = "observe" if arm == "fixed" else "act"
    scaling = {"mode": mode, "least_weeks": 4, "tenant_runs": 2, "pools": {BACKGROUND: _POOL}}
    (config / "scaling.yaml").write_text(yaml.safe_dump(scaling))
    os.environ.update(ANALYTICS_HOME=str(folder / "home"), ANALYTICS_CONFIG=str(config), ANALYTICS_KEYS=str(folder / "keys"))
    settings = Settings.from_env()
    file = configure(Home(settings.home).dagster) / "dagster.yaml"
    declared = yaml.safe_load(file.read_text())
    declared["run_coordinator"]["config"]["max_concurrent_runs"] = _QUOTA + 1
    for one in declared["run_coordinator"]["config"]["tag_concurrency_limits"]:
        if one["key"] == "analytics/yields":
            one["limit"] = limit or _FLOOR
    declared["run_launcher"] = {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}
    file.write_text(yaml.safe_dump(declared))
    with open_instance(settings) as instance:
        yield settings, instance


def main(folder: Path, arm: Arm, days: int, limit: int) -> None:
    with _a_home(folder, arm, limit) as (settings, instance):
        replay = Replay(arm, Home(settings.home), Pipeline(settings), instance, limit)
        replay.go(asked(days), days)
        print(json.dumps(replay.told()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(float(sys.argv[4])))  # type: ignore[arg-type]
