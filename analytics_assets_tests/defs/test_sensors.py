"""The sensors: what they ask for, and what they say when they ask for nothing."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from analytics_assets.defs.automation import landing
from analytics_assets.defs.freshness import PROMISES, TIER_SENSORS, answer
from analytics_assets.defs.instance import WORKER_LOCK
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.events.tables import BATCHES
from analytics_assets.pipeline import Pipeline
from analytics_assets.quality.results import keep
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import rollback
from analytics_assets.warehouse.table import replace_all
from analytics_assets_tests.builders import NOW, Line, a_config, an_event, rows_of, write_events
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home

NOTHING = "no file waits in a landing folder"
# Tables of the strictest tier that is served.
SOON, DAILY = ([*PROMISES.tables.values()].count(tier) for tier in ("near_real_time", "daily"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        yield home


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data homes with acme's delivery of one day: `built/home`, and `published/home`."""

    def make(folder: Path) -> None:
        with a_data_home(folder / "built") as home:
            load(home, "2025-03-10")
            with Line.at(home.root, home.settings.config) as line:
                line.rebuild()
        with a_data_home(folder / "published") as home:
            shutil.copytree(folder / "built" / "home", home.root)
            publish_all(home)

    return made_once(tmp_path_factory, "sensors", make)


@pytest.fixture
def built(home: DataHome, templates: Path) -> DataHome:
    """The home with a day that is built and judged by nobody."""
    shutil.copytree(templates / "built" / "home", home.root, dirs_exist_ok=True)
    return home


@pytest.fixture
def published(home: DataHome, templates: Path) -> DataHome:
    """The home with a day that readers see."""
    shutil.copytree(templates / "published" / "home", home.root, dirs_exist_ok=True)
    return home


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def settled(path: Path, seconds: float = 60) -> Path:
    """A file that was last written so long ago."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def ask(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> list[dg.RunRequest] | str:
    """What a sensor asks for, or why it asks for nothing."""
    context = dg.build_sensor_context(instance=instance, resources={"pipeline": PipelineResource()})
    answer = sensor.evaluate_tick(context)
    assert not (answer.run_requests and answer.skip_message)
    return list(answer.run_requests or []) or str(answer.skip_message)


def going(instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus) -> None:
    instance.add_run(dg.DagsterRun(job_name=job, status=status))


# landing


def test_nothing_is_asked_while_no_file_waits(home: DataHome, instance: dg.DagsterInstance) -> None:
    assert ask(landing, instance) == NOTHING


def test_files_that_wait_are_one_run(home: DataHome, instance: dg.DagsterInstance) -> None:
    for name, tenant in (("a.ndjson", "acme"), ("b.ndjson", "acme"), ("deep/c.ndjson", "globex")):
        settled(home.land(name, [a_call()], tenant))
    (request,) = ask(landing, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key is None


@pytest.mark.parametrize("name", ["a.ndjson.part", "a.tmp", ".a.ndjson", ".hidden/a.ndjson"])
def test_a_file_that_is_being_written_waits(home: DataHome, instance: dg.DagsterInstance, name: str) -> None:
    settled(home.land(name, [a_call()]))
    assert ask(landing, instance) == NOTHING


def test_a_folder_of_an_unknown_tenant_is_named(home: DataHome, instance: dg.DagsterInstance) -> None:
    settled(home.land("a.ndjson", [a_call()], tenant="nobody"))
    assert ask(landing, instance) == "landing/nobody/a.ndjson: tenant 'nobody' is not declared in tenants.yaml"


def test_a_link_out_of_the_landing_folder_is_not_followed(home: DataHome, instance: dg.DagsterInstance) -> None:
    secret = write_events(home.root.parent / "secret.ndjson", [a_call()])
    folder = settled(home.land("a.part", [])).parent
    (folder / "a.ndjson").symlink_to(secret)
    assert ask(landing, instance) == "landing/acme/a.ndjson: is a link that leaves the tenant's folder"


def test_a_link_to_another_tenants_folder_is_not_followed(home: DataHome, instance: dg.DagsterInstance) -> None:
    theirs = home.land("theirs.part", [a_call()], tenant="globex")
    folder = settled(home.land("a.part", [])).parent
    (folder / "a.ndjson").symlink_to(theirs)
    assert ask(landing, instance) == "landing/acme/a.ndjson: is a link that leaves the tenant's folder"


def test_a_file_that_failed_alone_is_not_tried_again_at_once(home: DataHome, instance: dg.DagsterInstance) -> None:
    settled(home.land("a.ndjson", [a_call()]))
    context = dg.build_sensor_context(instance=instance, resources={"pipeline": PipelineResource()})
    assert landing.evaluate_tick(context).run_requests
    going(instance, "ingest", dg.DagsterRunStatus.FAILURE)
    again = dg.build_sensor_context(instance=instance, resources={"pipeline": PipelineResource()}, cursor=context.cursor)
    said = "1 file waits (acme/a.ndjson) but the last run failed on this; tried again every 10 minutes"
    assert landing.evaluate_tick(again).skip_message == said
    settled(home.land("b.ndjson", [a_call("m2")]))
    assert landing.evaluate_tick(again).run_requests


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_a_run_that_is_going_takes_new_files_too(
    home: DataHome, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    settled(home.land("a.ndjson", [a_call()]))
    going(instance, "ingest", status)
    assert ask(landing, instance) == "1 file waits; an ingest run is going and takes what it finds"


def test_runs_that_ended_and_other_jobs_hold_nothing_up(home: DataHome, instance: dg.DagsterInstance) -> None:
    settled(home.land("a.ndjson", [a_call()]))
    going(instance, "ingest", dg.DagsterRunStatus.SUCCESS)
    going(instance, "ingest", dg.DagsterRunStatus.FAILURE)
    going(instance, "refresh", dg.DagsterRunStatus.STARTED)
    assert len(ask(landing, instance)) == 1


def test_files_are_left_to_a_worker_as_long_as_it_lives(home: DataHome, instance: dg.DagsterInstance) -> None:
    settled(home.land("a.ndjson", [a_call()]))
    with Home(home.root).lock(WORKER_LOCK):
        assert ask(landing, instance) == "1 file waits; the resident worker takes what it finds"
    assert len(ask(landing, instance)) == 1


def test_a_worker_does_the_work_of_its_tier_and_of_no_other(home: DataHome, instance: dg.DagsterInstance) -> None:
    load(home, "2025-03-10", now=datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=50))
    strictest, *others = TIER_SENSORS
    with Home(home.root).lock(WORKER_LOCK):
        assert str(ask(strictest, instance)).startswith("the resident worker starts it (acme: received ")
        assert [ranges_of(ask(sensor, instance)) for sensor in others] == [[("2025-03-10", "2025-03-10")]] * len(others)
    assert ranges_of(ask(strictest, instance)) == [("2025-03-10", "2025-03-10")]


# The tiers


class Tiers:
    """The tier sensors of a data home under a clock of our own; cursors are kept as the daemon keeps them."""

    def __init__(self, home: DataHome) -> None:
        self.stages, self.cursors = Pipeline(home.settings), dict[str, str]()
        self.events: dict[str, list[object]] = {}

    def look(
        self, tier: str, now: datetime, *, going: str | None = None, failed: bool = False, overdue: bool = False
    ) -> list[dg.RunRequest] | str:
        """What a tier asks for, or why it asks for nothing."""
        said = answer(self.stages, tier, now, cursor=self.cursors.get(tier), going=going, failed=failed, overdue=overdue)
        self.cursors[tier], self.events[tier] = str(said.cursor), list(said.asset_events)
        return list(said.run_requests or []) or str(said.skip_reason and said.skip_reason.skip_message)

    def actions(self) -> list[tuple[object, object]]:
        with self.stages.connect() as con:
            return [(found["tier"], found["action"]) for found in self.stages.watch.actions(con, 100)]


@pytest.fixture
def tiers(home: DataHome) -> Tiers:
    return Tiers(home)


def load(home: DataHome, *days: str, now: datetime = NOW) -> None:
    with Line.at(home.root, home.settings.config, now) as line:
        calls = [a_call(f"m-{day}", day=day) for day in days]
        line.load(home.file("-".join(days) + ".ndjson", calls), "segment", "acme")


def publish_all(home: DataHome) -> None:
    with Line.at(home.root, home.settings.config) as line:
        line.rebuild()
        line.publish(release=True)


def own_tier(home: DataHome, **own: object) -> None:
    """Declare what acme has of its own."""
    path = home.settings.config / "freshness.yaml"
    path.write_text(path.read_text().replace("tenants: {}", f"tenants: {json.dumps({'acme': own})}"))


def ranges_of(requests: list[dg.RunRequest] | str) -> list[tuple[str, str]]:
    assert isinstance(requests, list)
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return [(request.tags[first], request.tags[last]) for request in requests]


def test_in_a_new_home_nothing_is_due(tiers: Tiers) -> None:
    assert tiers.look("near_real_time", NOW) == f"nothing is due; tenants' tables: {2 * SOON} empty"


def test_days_that_wait_are_a_run_a_range_of_the_tier_that_asks(home: DataHome, tiers: Tiers) -> None:
    load(home, "2025-03-12", "2025-03-10", "2025-06-01")
    requests = tiers.look("near_real_time", NOW)
    assert ranges_of(requests) == [("2025-03-10", "2025-03-12"), ("2025-06-01", "2025-06-01")]
    assert isinstance(requests, list)
    for request in requests:
        assert request.job_name == "refresh"
        assert request.tags["dagster/priority"] == "30"
        assert request.tags["analytics/queue"] == "near-real-time"
        assert request.tags["analytics/why"] == (
            "acme: received 2026-03-20 12:00 UTC, waits 0 min of the promised 5 min; near_real_time starts at once"
        )
    assert tiers.actions() == [("near_real_time", "refresh 2025-03-10 to 2025-03-12, 2025-06-01")]


def test_a_sensor_leaves_to_automation_what_is_due_and_starts_what_is_overdue(home: DataHome, tiers: Tiers) -> None:
    own_tier(home, tier="hourly")
    load(home, "2025-03-10")
    due = NOW + timedelta(minutes=40)
    said = tiers.look("hourly", due, overdue=True)
    assert str(said).startswith("due, which automation starts (acme: received 2026-03-20 12:00 UTC, waits 40 min of the")
    assert isinstance(tiers.look("hourly", due + timedelta(seconds=119), overdue=True), str)
    assert tiers.actions() == []
    assert len(tiers.look("hourly", due + timedelta(minutes=2), overdue=True)) == 1


def test_a_sensor_publishes_nothing_that_a_failed_check_holds(built: DataHome, tiers: Tiers) -> None:
    with Line.at(built.root, built.settings.config) as line:
        judged = line.pipeline.judge(line.con, NOW)
        worst = next(result for result in judged if result.table == "events" and result.severity == "block")
        verdicts = [replace(result, success="fail") if result is worst else result for result in judged]
        keep(line.con, line.pipeline.gate.results, verdicts, 50_000)
    for overdue in (False, True):
        said = tiers.look("near_real_time", NOW + timedelta(hours=1), overdue=overdue)
        assert str(said).startswith("a check holds the publish: ")
    # New days are rebuilt: only that can set the day right.
    load(built, "2025-03-11")
    assert ranges_of(tiers.look("near_real_time", NOW + timedelta(hours=1))) == [("2025-03-11", "2025-03-11")]


def test_a_second_look_while_the_run_is_going_starts_nothing(home: DataHome, tiers: Tiers) -> None:
    load(home, "2025-03-10")
    assert len(tiers.look("near_real_time", NOW)) == 1
    for tier in ("near_real_time", "hourly", "daily"):
        said = tiers.look(tier, NOW + timedelta(hours=50), going="refresh")
        assert isinstance(said, str) and said.startswith("a refresh run is going (acme: received 2026-03-20 12:00 UTC")
    assert len(tiers.actions()) == 1


@pytest.mark.parametrize("job", ["refresh", "publish"])
def test_the_sensor_sees_the_run_that_is_going(home: DataHome, instance: dg.DagsterInstance, job: str) -> None:
    load(home, "2025-03-10")
    sensor = TIER_SENSORS[0]
    going(instance, job, dg.DagsterRunStatus.NOT_STARTED)
    assert str(ask(sensor, instance)).startswith(f"a {job} run is going (acme: ")
    for run in instance.get_runs():
        instance.delete_run(run.run_id)
    assert ranges_of(ask(sensor, instance)) == [("2025-03-10", "2025-03-10")]


def test_what_is_published_is_not_asked_for_again(published: DataHome, tiers: Tiers) -> None:
    assert tiers.look("near_real_time", NOW) == f"nothing is due; tenants' tables: {SOON} fresh, {SOON} empty"


def test_a_tenant_of_the_hourly_tier_waits_until_its_promise_comes_near(home: DataHome, tiers: Tiers) -> None:
    own_tier(home, tier="hourly")
    load(home, "2025-03-10")
    late = NOW + timedelta(minutes=40)
    assert tiers.look("near_real_time", late) == f"nothing is due; tenants' tables: {SOON} empty"
    fresh = 3 + DAILY + SOON
    assert tiers.look("hourly", late - timedelta(minutes=1)) == f"nothing is due; tenants' tables: {fresh} fresh, 3 empty"
    assert ranges_of(tiers.look("hourly", late)) == [("2025-03-10", "2025-03-10")]


def test_a_tenant_of_the_daily_tier_waits_for_the_night(home: DataHome, tiers: Tiers) -> None:
    own_tier(home, tier="daily")
    load(home, "2025-03-10")
    night = datetime.fromisoformat("2026-03-21 02:30:00")
    assert isinstance(tiers.look("daily", night - timedelta(seconds=1)), str)
    assert len(tiers.look("daily", night)) == 1


def test_after_six_hours_without_a_daemon_one_run_of_the_strictest_tier_is_asked_for(home: DataHome, tiers: Tiers) -> None:
    file = settled(home.land("a.ndjson", [a_call()]))
    os.utime(file, (NOW.replace(tzinfo=UTC).timestamp(),) * 2)
    back = NOW + timedelta(hours=6)
    # The file has been here for six hours, and is late before it is loaded as well as after.
    assert tiers.look("near_real_time", back) == f"nothing is due; tenants' tables: {SOON} late, {SOON} empty"
    with Line.at(home.root, home.settings.config, back) as line:
        for landed in line.pipeline.landed(back)[0]:
            line.pipeline.load_landed(line.con, landed, back)
    (request,) = tiers.look("hourly", back)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["analytics/tier"] == "near_real_time"
    assert "waits 6 h of the promised 5 min" in request.tags["analytics/why"]
    assert str(tiers.look("near_real_time", back, going="refresh")).startswith("a refresh run is going")


def test_a_clock_that_went_back_holds_nothing_up(home: DataHome, tiers: Tiers) -> None:
    assert isinstance(tiers.look("near_real_time", NOW + timedelta(hours=3)), str)
    load(home, "2025-03-10", now=NOW + timedelta(hours=3))
    assert len(tiers.look("near_real_time", NOW)) == 1


def test_held_publishing_starts_nothing_and_says_so(published: DataHome, tiers: Tiers) -> None:
    load(published, "2025-03-11")
    publish_all(published)
    rollback(tiers.stages.home, None, now=NOW, reason="wrong prices")
    assert tiers.look("near_real_time", NOW) == f"nothing is due; tenants' tables: {SOON} held, {SOON} empty"
    publish_all(published)
    assert tiers.look("near_real_time", NOW) == f"nothing is due; tenants' tables: {SOON} fresh, {SOON} empty"


def test_a_paused_tenant_starts_nothing(home: DataHome, tiers: Tiers) -> None:
    own_tier(home, pauses=[{"first": "2026-03-01", "reason": "moves"}])
    load(home, "2025-03-10")
    assert tiers.look("near_real_time", NOW) == f"nothing is due; tenants' tables: {SOON} paused, {SOON} empty"


def test_what_is_built_but_not_published_is_published(built: DataHome, tiers: Tiers) -> None:
    (request,) = tiers.look("near_real_time", NOW)
    assert isinstance(request, dg.RunRequest)
    assert request.job_name == "publish"


def test_a_delivery_that_comes_during_a_look_is_taken_with_its_days_by_the_next(
    home: DataHome, tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = tiers.stages.pending

    def and_then_load(con: duckdb.DuckDBPyConnection) -> list[date]:
        days = pending(con)
        load(home, "2025-03-10")
        return days

    monkeypatch.setattr(tiers.stages, "pending", and_then_load)
    assert tiers.look("near_real_time", NOW) == f"nothing is due; tenants' tables: {2 * SOON} empty"
    monkeypatch.undo()
    assert ranges_of(tiers.look("near_real_time", NOW)) == [("2025-03-10", "2025-03-10")]


def test_what_failed_is_not_tried_again_at_once(home: DataHome, tiers: Tiers) -> None:
    load(home, "2025-03-10")
    assert len(tiers.look("near_real_time", NOW)) == 1
    said = tiers.look("near_real_time", NOW, failed=True)
    assert str(said).startswith("the last run failed on this; tried again every 10 minutes")
    load(home, "2025-06-01")
    assert len(tiers.look("near_real_time", NOW, failed=True)) == 2


def test_a_kept_promise_is_reported_again_and_again_and_a_broken_one_once(built: DataHome, tiers: Tiers) -> None:
    """Dagster's own policy turns red when the beat stops."""
    kinds: list[list[str]] = []
    for minutes in (0, 1, 3, 6, 7):
        tiers.look("near_real_time", NOW + timedelta(minutes=minutes), going="refresh")
        kinds.append([type(event).__name__ for event in tiers.events["near_real_time"]])
    beat, verdict = "AssetMaterialization", "AssetCheckEvaluation"
    assert kinds == [[verdict, beat], [], [beat], [verdict], []]
    publish_all(built)
    tiers.look("near_real_time", NOW + timedelta(minutes=8))
    assert [type(event).__name__ for event in tiers.events["near_real_time"]] == [verdict, beat]


def test_the_status_of_every_tenant_and_table_is_published(templates: Path) -> None:
    rows = rows_of(
        templates / "published" / "home" / "published" / "analytics.duckdb",
        "select tenant_id, tier, state, count(*), max(data_through) from freshness_status group by all order by all",
    )
    assert rows == [
        ("acme", "daily", "fresh", DAILY, NOW), ("acme", "hourly", "fresh", 3, NOW),
        ("acme", "near_real_time", "fresh", SOON, NOW),
        ("globex", "daily", "empty", DAILY, None), ("globex", "hourly", "empty", 3, None),
        ("globex", "near_real_time", "empty", SOON, None),
    ]  # fmt: skip


def test_a_delivery_counts_for_the_tenants_whose_events_it_brought(tmp_path: Path) -> None:
    with Line.at(tmp_path / "home", a_config(tmp_path / "config", tenants=("acme", "globex", "initech"))) as line:
        line.load([an_event("m1"), an_event("m2", tenant_id="globex"), an_event("m2", tenant_id="nobody")])
        line.load([an_event("m1")])
        seen = {row.tenant_id: row.state for row in line.pipeline.watch.look(line.con, NOW + timedelta(days=9)).statuses}
        assert seen == {"acme": "late", "globex": "late", "initech": "empty"}


def test_a_delivery_from_before_tenants_were_noted_counts_for_all(tmp_path: Path) -> None:
    with Line.at(tmp_path / "home", a_config(tmp_path / "config")) as line:
        line.load([an_event("m1")])
        table = line.pipeline.table(BATCHES)
        replace_all(table, line.con, f"select * replace (null as events_by_tenant) from ({table.snapshot().select()})")
        assert {row.state for row in line.pipeline.watch.look(line.con, NOW + timedelta(days=9)).statuses} == {"late"}
