"""The run queue as Dagster's own daemon empties it, one iteration at a time, under a clock of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test, create_test_daemon_workspace_context
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from analytics_assets.audit.log import Audit
from analytics_assets.audit.report import Wanted, report
from analytics_assets.commands.common import USAGE
from analytics_assets.defs import queues
from analytics_assets.defs.automation import busy
from analytics_assets.defs.instance import configure, open_instance
from analytics_assets.defs.queues import TieredRunCoordinator, queue_waits, release, runs_going, waiting
from analytics_assets.freshness.due import Due
from analytics_assets.freshness.overrides import Override, logged
from analytics_assets.freshness.queues import load_queues
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import CONFIG, UserError
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOON
from analytics_assets_tests.defs.home import REPOSITORY, DataHome, a_data_home
from analytics_assets_tests.test_cli import analytics

RULES = load_queues(CONFIG / "queues.yaml")
NIGHT, MORNING = NOON.replace(hour=22), NOON.replace(hour=5) + timedelta(days=1)
YEAR = {"dagster/asset_partition_range_start": "2025-01-01", "dagster/asset_partition_range_end": "2025-12-31"}
BACKFILL = {"dagster/backfill": "abc", **YEAR}
HOURLY, NEAR = ({"dagster/sensor_name": name, "analytics/tier": name} for name in ("hourly", "near_real_time"))
# So many runs the daemon reads at once.
PAGE = 2
CODE = RepositoryPythonOrigin("python", ModuleCodePointer("analytics_assets.definitions", "defs"))


class Queue:
    """The instance of a data home as `dagster.yaml` declares it; only the start of a process is left out."""

    def __init__(self, home: DataHome, instance: dg.DagsterInstance) -> None:
        self.home, self.instance, self.now = home, instance, NOON
        assert isinstance(instance.run_coordinator, TieredRunCoordinator)
        instance.run_coordinator.clock = lambda: self.now
        self.daemon = QueuedRunCoordinatorDaemon(interval_seconds=1, page_size=PAGE)

    def ask(self, job: str, tags: dict[str, str] | None = None) -> str:
        """Ask for a run, as the UI, a sensor or a schedule does; returns its id."""
        run = create_run_for_test(
            self.instance, job_name=job, tags=tags, remote_job_origin=REPOSITORY.get_job_origin(job),
            job_code_origin=JobPythonOrigin(job, CODE),
        )  # fmt: skip
        with create_test_daemon_workspace_context(EmptyWorkspaceTarget(), self.instance) as workspace:
            self.instance.submit_run(run.run_id, workspace.create_request_context())
        return run.run_id

    def started(self) -> list[str]:
        """The runs that the daemon's next iteration takes from the queue, in its order."""
        before = len(self.launched)
        with create_test_daemon_workspace_context(EmptyWorkspaceTarget(), self.instance) as workspace:
            list(self.daemon.run_iteration(workspace))
        return self.launched[before:]

    @property
    def launched(self) -> list[str]:
        return [run.run_id for run in self.instance.run_launcher.queue()]  # type: ignore[attr-defined]

    def end(self, run_id: str) -> None:
        self.instance.report_run_canceled(self.run(run_id))

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def overrides(self) -> list[Override]:
        stages = Pipeline(self.home.settings)
        with stages.connect() as con:
            return logged(con, stages.home)


@contextmanager
def a_queue(folder: Path, declare: Callable[[DataHome], None] = lambda home: None) -> Iterator[Queue]:
    """The queue of a fresh data home; `declare` changes its declarations first."""
    with a_data_home(folder) as home:
        declare(home)
        file = configure(Home(home.root).dagster) / "dagster.yaml"
        launcher = "run_launcher:\n  module: dagster._core.test_utils\n  class: MockedRunLauncher\n"
        file.write_text(file.read_text() + launcher)
        with open_instance(home.settings) as instance:
            yield Queue(home, instance)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with a_queue(tmp_path) as queue:
        yield queue


def test_runs_that_are_asked_for_together_start_in_the_order_of_their_tiers(queue: Queue) -> None:
    queue.now = NIGHT
    backfill, hourly = queue.ask("refresh", BACKFILL), queue.ask("refresh", HOURLY)
    files, near = queue.ask("ingest", {"dagster/sensor_name": "landing"}), queue.ask("refresh", NEAR)
    # Of equals the one that was asked for first.
    assert queue.started() == [files, near, hourly, backfill]


def test_backfill_runs_of_several_pages_keep_nobody_waiting_and_one_goes_at_a_time(queue: Queue) -> None:
    queue.now = NIGHT
    backfill = [queue.ask("refresh", BACKFILL) for _ in range(2 * PAGE)]
    assert queue.started() == backfill[:1]
    near, hourly = queue.ask("refresh", NEAR), queue.ask("refresh", HOURLY)
    assert queue.started() == [near, hourly]
    assert queue.started() == []
    queue.end(backfill[0])
    assert queue.started() == backfill[1:2]


def test_looser_work_leaves_room_for_the_strictest_tier(queue: Queue) -> None:
    queue.now = NIGHT
    daily = {"dagster/sensor_name": "daily", "analytics/tier": "daily"}
    looser = [queue.ask("refresh", HOURLY), queue.ask("refresh", daily), queue.ask("refresh", BACKFILL)]
    assert queue.started() == looser[:2]
    near, files = queue.ask("refresh", NEAR), queue.ask("ingest", {"dagster/sensor_name": "landing"})
    assert queue.started() == [near, files]


def test_heavy_work_waits_for_its_window_with_the_reason_and_starts_in_it(queue: Queue) -> None:
    heavy = queue.ask("refresh", BACKFILL)
    assert queue.started() == []
    assert queue.run(heavy).tags["analytics/waits_for"] == "the off-peak window 22:00-05:00 UTC"
    (line,) = waiting(queue.instance, RULES, queue.now)
    assert (line.work, line.queue) == ("refresh 2025-01-01 to 2025-12-31", "heavy")
    assert (line.waits_for, line.starts_at) == ("the off-peak window 22:00-05:00 UTC", NIGHT)
    queue.now = NIGHT - timedelta(seconds=1)
    assert queue.started() == []
    queue.now = NIGHT
    assert queue.started() == [heavy]
    # What has not started by the morning waits for the next night.
    queue.end(heavy)
    late = queue.ask("maintain", {"dagster/schedule_name": "nightly"})
    queue.now = MORNING
    assert queue.started() == []
    queue.now = MORNING - timedelta(seconds=1)
    assert queue.started() == [late]


def test_what_the_nightly_schedule_starts_falls_into_the_window() -> None:
    from analytics_assets.defs.automation import nightly

    minute, hour = str(nightly.cron_schedule).split()[:2]
    assert RULES.is_open(NOON.replace(hour=int(hour), minute=int(minute)))


def test_a_person_lets_a_run_go_and_that_is_logged(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues.getpass, "getuser", lambda: "ada")
    first, second = queue.ask("refresh", BACKFILL), queue.ask("maintain")
    assert [found.run_id for found in release(queue.instance, [first[:8]], "the year is closed", queue.now)] == [first]
    assert queue.started() == [first]
    expected = Override(NOON, first, "refresh 2025-01-01 to 2025-12-31", "ada", "command", "the year is closed")
    assert queue.overrides() == [expected]
    assert queue.run(first).tags["analytics/override"] == "the year is closed"
    release(queue.instance, [], "all of it", queue.now)
    queue.end(first)
    assert queue.started() == [second]
    reasons = {found.run_id: found.reason for found in queue.overrides()}
    assert reasons == {first: "the year is closed", second: "all of it"}


def test_a_tag_at_the_launch_lets_a_run_go_and_that_is_logged_too(queue: Queue) -> None:
    run = queue.ask("refresh", {**YEAR, "analytics/override": "the board meets at three"})
    assert queue.started() == [run]
    (found,) = queue.overrides()
    assert (found.run_id, found.how, found.reason) == (run, "tag", "the board meets at three")


def test_a_tag_of_a_queue_lets_nothing_go(queue: Queue) -> None:
    queue.ask("refresh", {**BACKFILL, "analytics/queue": "near-real-time", "dagster/priority": "99"})
    assert queue.started() == []


def test_only_what_waits_for_the_window_can_be_let_go(queue: Queue) -> None:
    hourly = queue.ask("refresh", HOURLY)
    for ids, said in (
        ([], "no run waits for the off-peak window"),
        ([hourly], "no run that waits for the off-peak window has"),
    ):
        with pytest.raises(UserError, match=said):
            release(queue.instance, ids, "why not", queue.now)
    assert queue.overrides() == []


def test_a_backfill_in_the_queue_or_going_is_no_reason_to_wait_for_the_tiers(queue: Queue) -> None:
    queue.ask("refresh", BACKFILL)
    assert not busy(queue.instance, "refresh")
    queue.now = NIGHT
    assert len(queue.started()) == 1
    assert not busy(queue.instance, "refresh")


def test_what_waits_for_the_night_is_no_work_that_is_being_done(queue: Queue) -> None:
    queue.ask("refresh", BACKFILL)
    assert runs_going(queue.home.settings) == []
    queue.ask("refresh", {**NEAR, "analytics/why": "acme waits"})
    assert [(run["job"], run["state"], run["why"]) for run in runs_going(queue.home.settings)] == [
        ("refresh", "waits", "acme waits")
    ]


@pytest.mark.parametrize(("asset", "job"), [("events", "ingest"), ("sessions", "refresh"), ("analytics_duckdb", "publish")])
def test_a_run_of_assets_is_known_by_the_work_it_does(asset: str, job: str) -> None:
    run = dg.DagsterRun(queues.ASSET_JOB, asset_selection=frozenset({dg.AssetKey(asset)}))
    assert (queues.job_of(run), queues.does(run, job)) == (job, True)
    assert queues.job_of(dg.DagsterRun(queues.ASSET_JOB, asset_selection=frozenset({dg.AssetKey("users")}))) == "__ASSET_JOB"


def test_a_looser_run_in_the_queue_keeps_no_stricter_one_from_being_asked_for(queue: Queue) -> None:
    run = queue.ask("refresh", HOURLY)
    assert busy(queue.instance, "refresh", priority=20) and not busy(queue.instance, "refresh", priority=30)
    assert queue.started() == [run]
    # Once it goes, it takes its turn.
    assert busy(queue.instance, "refresh", priority=30)


def test_the_waits_are_those_of_dagsters_own_records(queue: Queue) -> None:
    for tier, started in (("near_real_time", 2), ("hourly", 30)):
        run = queue.ask("refresh", {"dagster/sensor_name": tier, "analytics/tier": tier})
        at = datetime.now(UTC).timestamp() + started
        event = dg.DagsterEvent("PIPELINE_START", "refresh")
        queue.instance.run_storage.handle_run_event(run, event, datetime.fromtimestamp(at, UTC))
    near, hourly = queue_waits(queue.instance, datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1))
    assert (near.queue, hourly.queue) == ("near-real-time", "hourly")
    assert 2 <= near.median < 30 <= hourly.longest


# The command


def test_the_command_lists_what_waits_lets_it_go_and_tells_who_did(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues.getpass, "getuser", lambda: "ada")
    close_the_window(queue)
    assert analytics("queue").out == "no run waits\n"
    run = queue.ask("refresh", BACKFILL)
    listed = analytics("queue").out.splitlines()[2]
    assert listed.startswith(f"{run[:8]}  refresh 2025-01-01 to 2025-12-31  heavy  ")
    assert "  the off-peak window " in listed
    (line,) = analytics("queue", "--json").json["waiting"]
    assert analytics("status", "--json").json["queue"] == {line["waits_for"]: 1}
    assert analytics("queue", "release", run[:8]).code == USAGE
    told = analytics("queue", "release", run[:8], "--reason", "the year is closed").out.splitlines()
    assert told[0].endswith(f" ada let refresh 2025-01-01 to 2025-12-31 ({run[:8]}) go by command: the year is closed")
    assert told[1] == "1 run may start; one at a time, after everything that promises more"
    assert analytics("queue").out.splitlines()[-1] == told[0]
    assert analytics("queue", "--json").json["waiting"][0]["waits_for"] == "its turn"


def test_the_command_lists_what_the_tiers_started_and_why(queue: Queue) -> None:
    assert analytics("queue", "started").out == "no tier has started anything yet\n"
    stages = Pipeline(queue.home.settings)
    with stages.connect() as con:
        for minute in range(3):
            due = Due("hourly", NOON, f"acme: reason {minute}")
            stages.watch.note(con, due, "refresh 2025-01-01", NOON + timedelta(minutes=minute))
    found = analytics("queue", "started", "--last", "2", "--json").json["started"]
    assert [(one["started_at"], one["reason"]) for one in found] == [
        ("2026-03-10 12:02:00", "acme: reason 2"), ("2026-03-10 12:01:00", "acme: reason 1")
    ]  # fmt: skip
    shown = " ".join(analytics("queue", "started").out.splitlines()[2].split())
    assert shown == "2026-03-10 12:02:00 hourly refresh 2025-01-01 acme: reason 2"


def close_the_window(queue: Queue) -> None:
    """A window that opens in twelve hours of the real clock, which the command goes by."""
    begin, end = (f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}" for hours in (12, 13))
    declared = {"off_peak": [{"begin": begin, "end": end}]}
    (queue.home.settings.config / "queues.yaml").write_text(yaml.safe_dump(declared))


def test_who_asks_for_a_run_and_who_lets_it_go_is_on_record(queue: Queue) -> None:
    backfill = queue.ask("refresh", BACKFILL)
    tagged = queue.ask("refresh", {**YEAR, "analytics/override": "month end, says Anna"})
    release(queue.instance, [backfill], "Anna waits for it", NOON)
    found = report(Audit(queue.home.settings).chain, Wanted())
    assert [(act.action, act.outcome, act.run) for act in found] == [
        ("run", "begun", backfill), ("let_go", "done", ""), ("run", "begun", tagged), ("let_go", "done", "")
    ]  # fmt: skip
    days = "2025-01-01 to 2025-12-31"
    assert found[0].details == {"job": "refresh", "asked_by": "backfill", "queue": "heavy", "days": days}
    assert [found[place].details for place in (1, 3)] == [
        {"runs": [tagged], "how": "tag"}, {"runs": [backfill], "how": "command"}
    ]  # fmt: skip
