"""Service levels and alerts in Dagster: one sensor that looks, freezes, opens and tells; and a check for each objective."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from analytics_assets.alerts.declared import load_alert_rules
from analytics_assets.alerts.problems import Fault, problems, wrong_declarations
from analytics_assets.defs.jobs import JOBS
from analytics_assets.defs.metadata import AS_A_WHOLE, asset_spec
from analytics_assets.defs.queues import job_of
from analytics_assets.defs.resources import OWNER, PipelineResource
from analytics_assets.settings import Settings
from analytics_assets.slo.declared import SAYS, SLOS, SloName, load_objectives
from analytics_assets.slo.tables import RELEASE_GATE, SLO_ERROR_BUDGET

if TYPE_CHECKING:
    from analytics_assets.pipeline import Pipeline
    from analytics_assets.slo.broken import RunEnd
    from analytics_assets.slo.budget import Budget

_SETTINGS = Settings.from_env()
# Read at load: a wrong declaration fails it.
OBJECTIVES = load_objectives(_SETTINGS.config / "slos.yaml", _SETTINGS.tenants)
load_alert_rules(_SETTINGS.config / "alerts.yaml")
_LOOKED_AT = {job.name for job in JOBS}
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
# At most so many runs are read in one look; the next one goes on from there.
_RUNS = 500
IS_OPEN = "is_open"

SERVICE_LEVELS = [
    asset_spec(
        spec, group="freshness", kinds={"duckdb"}, owner=OWNER, tags=AS_A_WHOLE, deps=["analytics_duckdb"],
    )
    for spec in (SLO_ERROR_BUDGET, RELEASE_GATE)
]  # fmt: skip


def _check(slo: SloName) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=SLO_ERROR_BUDGET.name, name=f"{slo}_is_kept", description=f"{SAYS[slo]}, as often as promised.")
    def is_kept(pipeline: PipelineResource) -> dg.AssetCheckResult:
        from analytics_assets.events.intake import utc_now

        stages = pipeline.get()
        with stages.connect() as con:
            passed, severity, metadata = verdict(slo, stages.levels.look(con, utc_now()).budgets)
        return dg.AssetCheckResult(passed=passed, severity=severity, metadata=metadata)

    return is_kept


@dg.asset_check(asset=RELEASE_GATE.name, name=IS_OPEN, description="Promotions and rollouts may go on.")
def release_gate_is_open(pipeline: PipelineResource) -> dg.AssetCheckResult:
    """What promotions call before they begin is `ServiceLevels.confirm_open`, which this shows."""
    from analytics_assets.events.intake import utc_now
    from analytics_assets.slo.watch import ReleasesFrozen

    stages = pipeline.get()
    try:
        with stages.connect() as con:
            stages.levels.confirm_open(con, utc_now())
    except ReleasesFrozen as reason:
        return dg.AssetCheckResult(passed=False, description=str(reason))
    return dg.AssetCheckResult(passed=True)


SLO_CHECKS = [*(_check(slo) for slo in SLOS), release_gate_is_open]


def verdict(slo: str, budgets: "tuple[Budget, ...]") -> tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]:
    """Whether an SLO is kept, how bad it is if not, and what the UI shows of it."""
    mine = [budget for budget in budgets if budget.slo == slo]
    wrong = [budget for budget in mine if budget.state != "ok"]
    severe = any(budget.state != "warn" for budget in wrong)
    records = [
        dg.TableRecord(
            {"of": budget.whose, "left": f"{budget.remaining:.1%}", "state": budget.state, "burn": budget.burn_rates,
             "why": budget.reason}
        )
        for budget in (wrong or mine)[:20]
    ]  # fmt: skip
    metadata: dict[str, Any] = {"least left": min((budget.remaining for budget in mine), default=1.0)}
    if records:
        metadata["budgets"] = dg.MetadataValue.table(records)
    return not wrong, dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN, metadata


def ended_runs(instance: dg.DagsterInstance, since: datetime) -> "tuple[list[RunEnd], datetime]":
    """The runs of our jobs that ended after `since` (UTC), and until when they were read."""
    from analytics_assets.slo.broken import RunEnd

    records = instance.get_run_records(
        dg.RunsFilter(statuses=_ENDED, updated_after=since.replace(tzinfo=UTC)),
        limit=_RUNS, order_by="update_timestamp", ascending=True,
    )  # fmt: skip
    found = []
    for record in records:
        run = record.dagster_run
        if (job := job_of(run)) not in _LOOKED_AT:
            continue
        ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
        failed = run.status == dg.DagsterRunStatus.FAILURE
        reason = failure(instance, run.run_id) if failed else ""
        found.append(RunEnd(run.run_id, job, ended.replace(tzinfo=None), failed, reason))
    return found, max((record.update_timestamp.replace(tzinfo=None) for record in records), default=since)


def failure(instance: dg.DagsterInstance, run_id: str) -> str:
    """What a run failed with, in one line; nothing if that is not known."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    for record in instance.get_records_for_run(run_id, of_type=kinds, limit=2).records:
        event = record.event_log_entry.dagster_event
        error = getattr(event.event_specific_data, "error", None) if event else None
        while error is not None and error.cause is not None:
            error = error.cause
        said = error.message if error is not None else event.message if event else ""
        if said:
            return " ".join((said or "").split())[:300]
    return ""


def answer(
    stages: "Pipeline", instance: dg.DagsterInstance, now: datetime, cursor: str | None
) -> tuple[str, str, list[dg.AssetCheckEvaluation]]:
    """One look: what is wrong is kept and told. Returns what it says, the next cursor, and verdicts that changed."""
    from analytics_assets.declarations import faults

    wrong = faults(stages)
    if any(fault.blinds for fault in wrong.values()):
        # The cursor stays: what ended meanwhile is read when the declaration is right.
        return _despite(stages, wrong, now), cursor or "{}", []
    memory = json.loads(cursor) if cursor else {}
    since = datetime.fromisoformat(memory["runs"]) if "runs" in memory else now - stages.levels.objectives.window
    # Two runs may end in one moment, of which only the first was read: noting one again changes nothing.
    ended, read_until = ended_runs(instance, since - timedelta(seconds=1))
    with stages.connect() as con:
        stages.levels.note_runs(con, ended, now)
        stages.levels.probe(con, now)
        levels = stages.levels.look(con, now)
        stages.levels.settle_gate(con, levels, now)
        found = stages.situation(con, now, levels)
        alerts = stages.alerts.settle(con, [*problems(found), *wrong_declarations(wrong, now)], now)
        told, dead = stages.alerts.tell(con, now)
    verdicts = list(_changed(memory, levels.budgets, found.gate.said if found.gate and found.gate.state == "frozen" else None))
    memory["runs"] = read_until.isoformat()
    return _said(wrong, len(alerts), told, dead), json.dumps(memory), verdicts


def _despite(stages: "Pipeline", faults: dict[str, Fault], now: datetime) -> str:
    """What a look does while a declaration is wrong: that is kept and told, and says so."""
    from analytics_assets.alerts.watch import AlertWatch
    from analytics_assets.warehouse.connect import connection

    watch = AlertWatch.despite(stages.settings, faults)
    # Not as `limits.yaml` wants it, which may be the wrong one.
    with connection(stages.home) as con:
        alerts = watch.settle_faults(con, faults, now)
        told, dead = watch.tell(con, now)
    return _said(faults, len(alerts), told, dead)


def _said(faults: dict[str, Fault], alerts: int, told: int, dead: dict[str, str]) -> str:
    said = [*dict.fromkeys(fault.sentence for fault in faults.values())]
    said.append(f"{alerts} {'alert is' if alerts == 1 else 'alerts are'} open")
    if told:
        said.append(f"{told} {'message was' if told == 1 else 'messages were'} sent")
    said += [f"{channel} cannot be told: {why}" for channel, why in dead.items()]
    return "; ".join(said)


def _changed(memory: dict[str, Any], budgets: "tuple[Budget, ...]", frozen: str | None) -> Iterator[dg.AssetCheckEvaluation]:
    """The verdicts that are others than at the last look, which are noted in `memory`."""
    before, after = memory.get("verdicts", {}), dict[str, list[Any]]()
    for slo in SLOS:
        passed, severity, metadata = verdict(slo, budgets)
        after[slo] = [passed, severity.value]
        if before.get(slo) != after[slo]:
            key = dg.AssetKey(SLO_ERROR_BUDGET.name)
            yield dg.AssetCheckEvaluation(key, f"{slo}_is_kept", passed, severity=severity, metadata=metadata)
    after[IS_OPEN] = [frozen is None, frozen or ""]
    if before.get(IS_OPEN) != after[IS_OPEN]:
        yield dg.AssetCheckEvaluation(dg.AssetKey(RELEASE_GATE.name), IS_OPEN, frozen is None, description=frozen)
    memory["verdicts"] = after


@dg.sensor(
    name="alerts",
    # It starts nothing, but Dagster wants a sensor to have a target.
    jobs=JOBS,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks for what is wrong: promises, refused publishes, error budgets, failed runs. Tells it once, and its end.",
)
def alerts(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    from analytics_assets.events.intake import utc_now

    said, cursor, verdicts = answer(pipeline.get(), context.instance, utc_now(), context.cursor)
    return dg.SensorResult(skip_reason=said, cursor=cursor, asset_events=verdicts)
