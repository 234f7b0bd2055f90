"""What is wrong now, since when, how bad it is, and what upstream probably caused it: pure functions of what was found.

Every rule has a runbook of its name in `docs/runbooks/`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from pathlib import PurePath
from typing import Literal, get_args

from analytics_assets.freshness.judge import Status, Unusable, moment
from analytics_assets.privacy.alarm import ARTICLES, Finding
from analytics_assets.quality.tables import QualityResult, refusal
from analytics_assets.slo.broken import RunEnd
from analytics_assets.slo.budget import Budget
from analytics_assets.slo.release import GateChange
from analytics_assets.tuning.tables import Decided

Rule = Literal[
    "table_late", "publishing_held", "clock_ahead", "source_silent", "delivery_not_usable", "publish_refused", "run_failed",
    "file_not_taken", "declaration_wrong", "personal_data_found", "load_spike",
    "slo_ingestion_lag", "slo_freshness", "slo_query_latency", "slo_pipeline_success", "releases_frozen",
]  # fmt: skip
RULES: tuple[Rule, ...] = get_args(Rule)
Severity = Literal["warn", "page"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong. `rule` and `about` (a tenant, a file, ...) tell it from any other.

    What a person has to mend for itself is a problem of its own: of two only the first would be told while it lasts.
    """

    rule: Rule
    about: str
    tenant: str | None
    severity: Severity
    what: str
    since: datetime
    cause: str

    @property
    def key(self) -> str:
        return f"{self.rule}/{self.about}"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file of declarations, and what does not go on until it is right. `blinds`: each look reads it."""

    sentence: str
    without: str
    blinds: bool = False

    @property
    def said(self) -> str:
        return f"{self.sentence}; until it is right, {self.without}"


@dataclass(frozen=True)
class Situation:
    """What one look found. `files` counts a tenant's files that wait; `refused` are the failures that hold the publish."""

    now: datetime
    statuses: Sequence[Status] = ()
    budgets: Sequence[Budget] = ()
    gate: GateChange | None = None
    failures: Sequence[RunEnd] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    files_refused: Sequence[str] = ()
    days_waiting: int = 0
    held: tuple[str, datetime] | None = None
    refused: Sequence[QualityResult] = ()
    slow: Sequence[str] = ()
    unusable: Mapping[str, Unusable] = field(default_factory=dict)
    personal_data: Sequence[Finding] = ()
    spikes: Sequence[Decided] = ()

    @property
    def failed(self) -> dict[str, RunEnd]:
        return {run.job: run for run in self.failures}


def problems(found: Situation) -> list[Problem]:
    """All that is wrong, what wakes somebody first."""
    every = [problem for rule in _RULES for problem in rule(found)]
    return sorted(every, key=lambda problem: (problem.severity != "page", problem.since, problem.key))


def wrong_declarations(faults: Mapping[str, Fault], now: datetime) -> list[Problem]:
    """What is wrong with declarations, by file."""
    return [
        Problem("declaration_wrong", file, None, "page", fault.said, now, "a change of this file")
        for file, fault in faults.items()
        # A file may only be unreadable because of another one, which is the one to mend.
        if fault.sentence.startswith(f"{PurePath(file).name}:")
    ]


def cause(found: Situation, tenant: str) -> str:
    """What upstream probably keeps a tenant's events from readers: the first stage on their way that does not go on."""
    failed = found.failed
    if count := found.files.get(tenant, 0):
        files = "a file waits" if count == 1 else f"{count:,} files wait"
        if "ingest" in failed:
            return f"{files} to be loaded, and the last load failed: {_why(failed['ingest'])}"
        return f"{files} to be loaded, and no load failed: `analytics dev` may be down"
    if found.held:
        return f"publishing is held since a rollback ({found.held[0]})"
    if found.refused:
        return f"a check refused the publish: {refusal(found.refused)}"
    if found.days_waiting:
        days = "a day waits" if found.days_waiting == 1 else f"{found.days_waiting:,} days wait"
        if "refresh" in failed:
            return f"{days} to be rebuilt, and the last rebuild failed: {_why(failed['refresh'])}"
        return f"{days} to be rebuilt, and no rebuild failed: it is going still, or `analytics dev` is down"
    for job in ("publish", "refresh"):
        if job in failed:
            return f"all is built, and the last {job} failed: {_why(failed[job])}"
    return "all is built and not published yet: a run is going still, or `analytics dev` is down"


def _why(run: RunEnd) -> str:
    return run.reason or f"see run {run.run_id[:8]} in the UI"


def _late(found: Situation) -> Iterator[Problem]:
    worst: dict[str, Status] = {}
    counts: dict[str, int] = {}
    for status in found.statuses:
        if status.state == "late":
            counts[status.tenant_id] = counts.get(status.tenant_id, 0) + 1
            known = worst.get(status.tenant_id)
            # The strictest promise was broken first.
            if known is None or status.promised_minutes < known.promised_minutes:
                worst[status.tenant_id] = status
    for tenant, status in worst.items():
        tables = "1 table is" if counts[tenant] == 1 else f"{counts[tenant]} tables are"
        since = (status.data_through or found.now) + timedelta(minutes=status.promised_minutes)
        yield Problem("table_late", tenant, tenant, "warn", f"{tables} late: {status.reason}", since, cause(found, tenant))


def _held(found: Situation) -> Iterator[Problem]:
    if found.held:
        reason, since = found.held
        what = "readers see an older version, and nothing new is published"
        yield Problem("publishing_held", "all", None, "warn", what, since, f"a rollback: {reason}")


def _clock(found: Situation) -> Iterator[Problem]:
    for tenant, status in _of_state(found, "unknown"):
        since = status.received_through or found.now
        yield Problem("clock_ahead", tenant, tenant, "warn", status.reason, since, "a clock of this machine was set back")


def _silent(found: Situation) -> Iterator[Problem]:
    for tenant, status in _of_state(found, "silent"):
        since = status.received_through or found.now
        yield Problem("source_silent", tenant, tenant, "warn", status.reason, since, "the source sends nothing")


def _unusable(found: Situation) -> Iterator[Problem]:
    for tenant, came in found.unusable.items():
        why = "the file was damaged on its way, or its format has changed"
        yield Problem("delivery_not_usable", tenant, tenant, "warn", came.said, came.since, why)


def _of_state(found: Situation, state: str) -> list[tuple[str, Status]]:
    """Of each tenant with a table in that state the first one."""
    tenants: dict[str, Status] = {}
    for status in found.statuses:
        if status.state == state:
            tenants.setdefault(status.tenant_id, status)
    return list(tenants.items())


def _refused(found: Situation) -> Iterator[Problem]:
    failed: dict[str, list[QualityResult]] = {}
    for result in sorted(found.refused, key=lambda result: result.partition):
        failed.setdefault(f"{result.table}.{result.expectation}/{result.tenant or 'all'}", []).append(result)
    for about, results in failed.items():
        more = len(results) - 1
        what = f"{results[0]}" + (f"; and on {more} more {'day' if more == 1 else 'days'}" if more else "")
        since = min(result.judged_at for result in results)
        why = "the data that came in, or a change of a declaration"
        yield Problem("publish_refused", about, results[0].tenant, "page", what, since, why)


def _failed(found: Situation) -> Iterator[Problem]:
    for run in found.failures:
        what = f"{run.job} failed, and no run mended it since"
        about = f"{run.job}: {run.kind}" if run.kind else run.job
        yield Problem("run_failed", about, None, "warn", what, run.ended_at, _why(run))


def _not_taken(found: Situation) -> Iterator[Problem]:
    for line in found.files_refused:
        about = line.split(": ")[0]
        yield Problem("file_not_taken", about, None, "warn", line, found.now, "the file lies in the wrong folder")


def _personal_data(found: Situation) -> Iterator[Problem]:
    for one in found.personal_data:
        events = "1 event has" if one.events == 1 else f"{one.events:,} events have"
        about = f"{one.tenant}/{one.source}/{one.field}/{one.kind}"
        what = f"{events} {ARTICLES[one.kind]} in {one.field}, whose label says that it names nobody"
        since = datetime.combine(one.first, time.min)
        why = f"the sender (source {one.source}) writes there what nobody declared"
        yield Problem("personal_data_found", about, one.tenant, "warn", what, since, why)


def _spikes(found: Situation) -> Iterator[Problem]:
    for row in found.spikes:
        pool = f"the pool {row.pool} {'is to have' if row.mode == 'act' else 'should have'} {row.capacity} at once"
        why = "more came than ever does at such an hour"
        yield Problem("load_spike", row.pool, row.tenant, "warn", f"{row.alert}; {pool}", row.decided_at, why)


def _budgets(found: Situation) -> Iterator[Problem]:
    rules: dict[str, Rule] = {
        "ingestion_lag": "slo_ingestion_lag", "freshness": "slo_freshness",
        "query_latency": "slo_query_latency", "pipeline_success": "slo_pipeline_success",
    }  # fmt: skip
    for budget in found.budgets:
        if budget.state == "ok":
            continue
        severity: Severity = "warn" if budget.state == "warn" else "page"
        whose = "" if budget.tenant_id else f" of {budget.whose}"
        what = f"{max(budget.remaining, 0):.0%} of the budget{whose} is left: {budget.reason}"
        about, why = budget.tenant_id or budget.tier, _spent_by(found, budget)
        yield Problem(rules[budget.slo], about, budget.tenant_id, severity, what, budget.since or found.now, why)


def _spent_by(found: Situation, budget: Budget) -> str:
    before = "nothing is wrong now: it was spent before"
    if budget.slo == "query_latency":
        return "; ".join(found.slow) or before
    if budget.slo == "pipeline_success":
        return "; ".join(f"{run.job} failed: {_why(run)}" for run in found.failures) or before
    tenant = budget.tenant_id or ""
    late = any(status.state in ("late", "held") for status in found.statuses if status.tenant_id == tenant)
    waits = found.files.get(tenant, 0) if budget.slo == "ingestion_lag" else late
    return cause(found, tenant) if waits else before


def _frozen(found: Situation) -> Iterator[Problem]:
    if found.gate and found.gate.state == "frozen":
        yield Problem("releases_frozen", "all", None, "warn", found.gate.said, found.gate.since, found.gate.reason)


_RULES: tuple[Callable[[Situation], Iterator[Problem]], ...] = (
    _late, _held, _clock, _silent, _unusable, _refused, _failed, _not_taken, _personal_data,
    _spikes, _budgets, _frozen,
)  # fmt: skip


def said(problem: Problem) -> str:
    """One line for a person."""
    whose = f"{problem.tenant}: " if problem.tenant else ""
    return f"{problem.rule}: {whose}{problem.what} (since {moment(problem.since)}); probably: {problem.cause}"
