"""What the conditions on the assets ask for over simulated days on a small real data home, evaluated by Dagster."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions
from analytics_assets.defs.conditions import runs_for, see
from analytics_assets.defs.instance import WORKER_LOCK
from analytics_assets.defs.queues import ASSET_JOB
from analytics_assets.pipeline import Pipeline
from analytics_assets.quality.results import keep
from analytics_assets.quality.tables import QualityResult
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import Line, at
from analytics_assets_tests.defs.home import REPOSITORY, DataHome, a_call, a_data_home

# Dagster warns of what its own tester uses.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

BACKFILL = {"analytics/queue": "heavy", "dagster/priority": "-1"}
SESSIONS, PUBLISHED = dg.AssetKey("sessions"), dg.AssetKey("analytics_duckdb")


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions()


class Automation:
    """A data home, an instance and a clock: deliveries come, the conditions are evaluated, runs end."""

    def __init__(self, home: DataHome, instance: dg.DagsterInstance, definitions: dg.Definitions) -> None:
        self.home, self.instance, self.definitions = home, instance, definitions
        self.files = 0

    def load(self, *days: str, now: datetime, tenant: str = "acme") -> None:
        """A delivery about these days, loaded at `now`."""
        self.files += 1
        calls = [a_call(f"{self.files}-{day}", day=day) for day in days]
        with Line.at(self.home.root, self.home.settings.config, now) as line:
            line.load(self.home.file(f"{self.files}.ndjson", calls), "segment", tenant)

    def evaluate(self, now: datetime) -> tuple[set[str], bool]:
        """The days that the conditions ask to rebuild, and whether they ask to publish. Each tick forgets its cursor."""
        found = dg.evaluate_automation_conditions(self.definitions, self.instance, evaluation_time=now.replace(tzinfo=UTC))
        published = found.get_num_requested(PUBLISHED) == 1
        days = {str(day) for day in found.get_requested_partitions(SESSIONS)}
        for name in ("page_views", "events_daily", "cohort_retention_weekly", "quality_results"):
            assert {str(day) for day in found.get_requested_partitions(dg.AssetKey(name))} == days
        return days, published

    def tick(self, now: datetime) -> list[dg.DagsterRun]:
        """Evaluate, and put what is asked for into the queue; returns the runs."""
        days, published = self.evaluate(now)
        if not days and not published:
            return []
        requests = runs_for(see(self.instance, now), self.definitions.resolve_asset_graph())
        return [self.run(dg.DagsterRunStatus.QUEUED, request.tags, set(request.asset_selection or ())) for request in requests]

    def run(self, status: dg.DagsterRunStatus, tags: dict[str, str], assets: set[dg.AssetKey] | None = None) -> dg.DagsterRun:
        """A run of assets as Dagster notes it."""
        run = dg.DagsterRun(
            job_name=ASSET_JOB, status=status, tags=tags, asset_selection=frozenset(assets or {SESSIONS, PUBLISHED}),
            remote_job_origin=REPOSITORY.get_job_origin(ASSET_JOB),
        )  # fmt: skip
        return self.instance.add_run(run)

    def end(self, run: dg.DagsterRun, status: str) -> None:
        self.instance.run_storage.handle_run_event(run.run_id, dg.DagsterEvent(status, run.job_name))

    def rebuild(self, now: datetime, publish: bool = True) -> None:
        """What a run does."""
        with Line.at(self.home.root, self.home.settings.config, now) as line:
            line.rebuild()
            if publish:
                line.publish()

    def own(self, **own: object) -> None:
        """Declare what acme has of its own."""
        path = self.home.settings.config / "freshness.yaml"
        path.write_text(path.read_text().replace("tenants: {}", f"tenants: {json.dumps({'acme': own})}"))


@pytest.fixture
def automation(tmp_path: Path, definitions: dg.Definitions) -> Iterator[Automation]:
    with a_data_home(tmp_path) as home, dg.DagsterInstance.ephemeral() as instance:
        yield Automation(home, instance, definitions)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, definitions: dg.Definitions) -> Path:
    """A data home in which acme's delivery of noon is published."""
    folder = tmp_path_factory.mktemp("published")
    with a_data_home(folder) as home, dg.DagsterInstance.ephemeral() as instance:
        automation = Automation(home, instance, definitions)
        automation.load("2026-03-10", now=at())
        automation.rebuild(at())
    return folder / "home"


@pytest.fixture
def published(automation: Automation, template: Path) -> Automation:
    shutil.copytree(template, automation.home.root, dirs_exist_ok=True)
    automation.files = 1
    return automation


def spans(runs: list[dg.DagsterRun]) -> list[tuple[str, ...]]:
    return [
        (*(run.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")), run.tags["analytics/tier"])
        for run in runs
    ]


NOTHING: tuple[set[str], bool] = (set(), False)


# What waits and is due


def test_nothing_waits_nothing_is_asked_for(automation: Automation) -> None:
    assert automation.evaluate(at()) == NOTHING


def test_the_days_of_a_delivery_are_one_run_a_range_from_sessions_to_the_publish(automation: Automation) -> None:
    automation.load("2026-03-10", "2026-03-08", now=at())
    assert automation.evaluate(at()) == ({"2026-03-08", "2026-03-10"}, True)
    (run,) = automation.tick(at())
    assert spans([run]) == [("2026-03-08", "2026-03-10", "near_real_time")]
    assert {SESSIONS, dg.AssetKey("users"), dg.AssetKey("quality_results"), PUBLISHED} < (run.asset_selection or set())


def test_a_day_that_was_judged_before_it_was_over_is_judged_once_more_at_night(published: Automation) -> None:
    """Nothing comes any more, and what asks about whole days was not asked yet."""
    pass_all_checks(published)
    assert published.evaluate(at(60 * 14)) == NOTHING  # 02:00
    assert published.evaluate(at(60 * 15)) == (set(), True)
    (run,) = published.tick(at(60 * 15))
    assert run.tags["analytics/tier"] == "daily"
    assert "1 day is over and was not judged as a whole yet (first 2026-03-10)" in run.tags["analytics/why"]
    published.end(run, "PIPELINE_SUCCESS")
    with Line.at(published.home.root, published.home.settings.config, at(60 * 15)) as line:
        line.publish()
        assert line.pipeline.gate.pending(line.con, line.now) == []
    assert published.evaluate(at(60 * 16)) == published.evaluate(at(60 * 40)) == NOTHING


def test_a_table_of_a_looser_tier_goes_along_since_a_version_is_whole(automation: Automation) -> None:
    automation.own(tables={"sessions": "daily"})
    automation.load("2026-03-10", now=at())
    assert automation.evaluate(at()) == ({"2026-03-10"}, True)


def test_a_tenant_of_a_looser_tier_waits_for_its_promise(automation: Automation) -> None:
    automation.own(tier="hourly")
    automation.load("2026-03-10", now=at())
    assert automation.evaluate(at(39)) == NOTHING
    assert spans(automation.tick(at(40))) == [("2026-03-10", "2026-03-10", "hourly")]


def test_a_paused_tenant_starts_nothing(automation: Automation) -> None:
    automation.own(pauses=[{"first": "2026-03-01", "reason": "moves to a new shop"}])
    automation.load("2026-03-10", now=at())
    assert automation.evaluate(at(day=9)) == NOTHING
    # What another tenant sends takes its days along.
    automation.load("2026-03-10", now=at(), tenant="globex")
    assert automation.evaluate(at(1)) == ({"2026-03-10"}, True)


# Asked once


def test_what_is_asked_for_is_not_asked_for_again_while_it_waits_goes_or_after_it_failed(automation: Automation) -> None:
    automation.load("2026-03-10", now=at())
    (run,) = automation.tick(at())
    assert automation.tick(at(1)) == []
    automation.end(run, "PIPELINE_START")
    assert automation.tick(at(2)) == []
    automation.end(run, "PIPELINE_FAILURE")
    # The sensor of the tier tries again; something new is asked for at once.
    assert automation.tick(at(3)) == []
    automation.load("2026-03-09", now=at(4))
    assert spans(automation.tick(at(4))) == [("2026-03-09", "2026-03-10", "near_real_time")]


def test_a_daemon_that_was_away_for_six_hours_asks_once_for_all_in_the_strictest_tier(automation: Automation) -> None:
    automation.own(tier="hourly")
    for minutes in range(-360, 0, 60):
        automation.load("2026-03-10", now=at(minutes))
    automation.load("2026-03-09", now=at(-5), tenant="globex")
    assert spans(automation.tick(at())) == [("2026-03-09", "2026-03-10", "near_real_time")]
    assert [automation.tick(at(minutes)) for minutes in (1, 60, 360)] == [[], [], []]


def test_days_go_by_and_each_delivery_is_asked_for_once(automation: Automation) -> None:
    asked = []
    for hours in range(0, 48, 8):
        now = at(hours * 60)
        if hours % 24 == 0:
            automation.load(str(now.date()), now=now)
        for run in automation.tick(now):
            asked.append((hours, *spans([run])))
            automation.rebuild(now)
            automation.end(run, "PIPELINE_SUCCESS")
    assert asked == [(hours, (day, day, "near_real_time")) for hours, day in ((0, "2026-03-10"), (24, "2026-03-11"))]


# Others at work


def test_a_busy_parent_and_a_backfill_starve_nobody(automation: Automation) -> None:
    """Files are loaded all the time, and a backfill of the same assets waits or goes."""
    for _ in range(3):
        automation.instance.report_runless_asset_event(dg.AssetMaterialization("events"))
        automation.run(dg.DagsterRunStatus.STARTED, {}, {dg.AssetKey("events")})
    automation.run(dg.DagsterRunStatus.QUEUED, BACKFILL)
    automation.run(dg.DagsterRunStatus.STARTED, BACKFILL)
    automation.load("2026-03-10", now=at())
    assert automation.evaluate(at()) == ({"2026-03-10"}, True)


def test_a_looser_run_that_waits_holds_up_no_stricter_one(automation: Automation) -> None:
    automation.run(dg.DagsterRunStatus.QUEUED, {"analytics/queue": "hourly", "dagster/priority": "20"})
    automation.load("2026-03-10", now=at())
    assert len(automation.tick(at())) == 1


def test_what_the_resident_worker_serves_is_left_to_it(automation: Automation) -> None:
    automation.load("2026-03-10", now=at())
    with Home(automation.home.root).lock(WORKER_LOCK):
        assert automation.evaluate(at()) == NOTHING
    assert automation.evaluate(at()) == ({"2026-03-10"}, True)


def test_looser_tiers_are_asked_for_beside_the_resident_worker(automation: Automation) -> None:
    automation.own(tier="hourly")
    automation.load("2026-03-10", now=at())
    with Home(automation.home.root).lock(WORKER_LOCK):
        assert spans(automation.tick(at(40))) == [("2026-03-10", "2026-03-10", "hourly")]


# Late data


def test_late_data_within_the_bound_are_asked_for_at_once(published: Automation) -> None:
    published.load("2026-02-07", now=at(1))
    assert spans(published.tick(at(1))) == [("2026-02-07", "2026-02-07", "near_real_time")]


def test_late_data_beyond_the_bound_wait_for_the_night_and_their_promise_is_the_loosest(published: Automation) -> None:
    published.load("2026-02-06", now=at(1))
    night = datetime(2026, 3, 11, 2, 30)  # noqa: DTZ001
    assert published.evaluate(night - timedelta(seconds=1)) == NOTHING
    stages = Pipeline(published.home.settings)
    with stages.connect() as con:
        seen = {(row.tenant_id, row.state, row.data_through) for row in stages.watch.look(con, at(60)).statuses}
    assert seen == {("acme", "fresh", at(1)), ("globex", "empty", None)}
    assert spans(published.tick(night)) == [("2026-02-06", "2026-02-06", "daily")]


def test_late_data_go_along_with_what_is_due_since_a_version_is_whole(published: Automation) -> None:
    published.load("2025-02-06", now=at(1))
    published.load("2026-03-10", now=at(2))
    assert spans(published.tick(at(2))) == [
        ("2025-02-06", "2025-02-06", "near_real_time"), ("2026-03-10", "2026-03-10", "near_real_time"),
    ]  # fmt: skip


def test_the_first_delivery_of_a_tenant_is_never_late(published: Automation) -> None:
    published.load("2011-12-09", now=at(1), tenant="globex")
    assert spans(published.tick(at(1))) == [("2011-12-09", "2011-12-09", "near_real_time")]


# Failed checks


def test_after_a_failed_expectation_nothing_is_published_until_the_day_is_right_or_declared(automation: Automation) -> None:
    automation.load("2026-03-10", now=at())
    automation.rebuild(at(), publish=False)
    pass_all_checks(automation)
    stages = Pipeline(automation.home.settings)
    with stages.connect() as con:
        judged = stages.judge(con, at())
        assert automation.evaluate(at()) == (set(), True)
        worst = next(result for result in judged if result.table == "events" and result.severity == "block")
        keep(con, stages.gate.results, _with_failure(judged, worst), 50_000)
        assert automation.evaluate(at(1)) == NOTHING
        # What comes is rebuilt all the same: only that can set the day right.
        automation.load("2026-03-09", now=at(2))
        assert automation.evaluate(at(2)) == ({"2026-03-09"}, True)
        automation.rebuild(at(2), publish=False)
        stages.judge(con, at(3))
    assert automation.evaluate(at(3)) == NOTHING
    declared = "{first: 2026-03-10, last: 2026-03-10, kind: incident, reason: looked at}"
    (automation.home.settings.config / "incidents.yaml").write_text(f"incidents:\n  - {declared}\n")
    assert automation.evaluate(at(4)) == (set(), True)


def _with_failure(judged: list[QualityResult], failing: QualityResult) -> list[QualityResult]:
    return [replace(result, success="fail") if result is failing else result for result in judged]


def pass_all_checks(automation: Automation, failing: str | None = None) -> None:
    """Dagster's records of a run in which every blocking check passed, but for `failing`."""
    graph = automation.definitions.resolve_asset_graph()
    for key in {check.asset_key for check in graph.asset_check_keys}:
        automation.instance.report_runless_asset_event(dg.AssetMaterialization(key))
    for check in graph.asset_check_keys:
        if graph.get(check).blocking:
            passed = check.name != failing
            automation.instance.report_runless_asset_event(dg.AssetCheckEvaluation(check.asset_key, check.name, passed=passed))


def test_a_failed_dbt_test_keeps_what_is_built_from_the_publish(automation: Automation) -> None:
    automation.load("2026-03-10", now=at())
    automation.rebuild(at(), publish=False)
    pass_all_checks(automation, failing="revenue_daily_equals_events")
    assert automation.evaluate(at(1)) == NOTHING
    pass_all_checks(automation)
    assert automation.evaluate(at(1)) == (set(), True)


# Clocks


def test_a_clock_that_went_back_holds_nothing_up(automation: Automation) -> None:
    automation.load("2026-03-10", now=at(180))
    assert len(automation.tick(at())) == 1
    assert automation.tick(at(-60)) == []


@pytest.mark.parametrize("changes_at", ["2026-03-29 01:00", "2026-10-25 01:00"], ids=["summer begins", "summer ends"])
def test_where_clocks_change_an_hour_has_sixty_minutes(automation: Automation, changes_at: str) -> None:
    """Times are UTC: an evaluation under a local time sees the same."""
    automation.own(tier="hourly")
    change, berlin = datetime.fromisoformat(changes_at), ZoneInfo("Europe/Berlin")
    automation.load(str(change.date()), now=change - timedelta(minutes=30))
    asked = []
    for minutes in (-1, 9, 10):
        local = (change + timedelta(minutes=minutes)).replace(tzinfo=UTC).astimezone(berlin)
        found = dg.evaluate_automation_conditions(automation.definitions, automation.instance, evaluation_time=local)
        asked.append(found.get_num_requested(PUBLISHED))
    assert asked == [0, 0, 1]
