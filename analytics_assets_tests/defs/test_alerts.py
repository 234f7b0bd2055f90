"""The sensor that looks for what is wrong: what it keeps, freezes, tells and shows in the UI, and what it reads of runs."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from analytics_assets.declarations import FILES
from analytics_assets.defs.alerts import alerts, answer, ended_runs, release_gate_is_open
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.events.intake import utc_now
from analytics_assets.settings import CONFIG
from analytics_assets_tests.alerts.receivers import a_web_server
from analytics_assets_tests.builders import NOW, Line
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        yield home


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Looks:
    """The sensor of a data home under a clock of our own; its cursor is kept as the daemon keeps it."""

    def __init__(self, home: DataHome, instance: dg.DagsterInstance) -> None:
        self.home, self.instance, self.cursor = home, instance, None
        self.log = home.root / "alerts.log"

    def look(self, minutes: float) -> tuple[str, dict[str, bool]]:
        """What it says, and the verdicts that it reports, by check."""
        moment = NOW + timedelta(minutes=minutes)
        said, self.cursor, verdicts = answer(PipelineResource().get(), self.instance, moment, self.cursor)
        return said, {verdict.check_name: verdict.passed for verdict in verdicts}

    def told(self) -> list[str]:
        return [line.split(" ", 2)[2].split(" | ")[0] for line in self.log.read_text().splitlines()]


def test_a_file_that_nobody_takes_is_told_once_freezes_releases_and_is_over_when_it_is_published(
    home: DataHome, instance: dg.DagsterInstance
) -> None:
    file = home.land("a.ndjson", [a_call()])
    os.utime(file, (NOW.replace(tzinfo=UTC).timestamp(),) * 2)
    looks = Looks(home, instance)
    healthy = {
        "ingestion_lag_is_kept": True, "freshness_is_kept": True, "query_latency_is_kept": True,
        "pipeline_success_is_kept": True, "is_open": True,
    }  # fmt: skip
    assert looks.look(1) == ("0 alerts are open", healthy)
    assert looks.look(6) == ("1 alert is open; 1 message was sent", {})
    assert looks.look(7) == ("1 alert is open", {})
    said, verdicts = looks.look(500)
    assert said == "4 alerts are open; 3 messages were sent"
    assert verdicts == {"ingestion_lag_is_kept": False, "freshness_is_kept": False, "is_open": False}
    frozen = release_gate_is_open(PipelineResource())
    assert isinstance(frozen, dg.AssetCheckResult) and not frozen.passed
    assert str(frozen.description).startswith("releases are frozen since 2026-03-20 20:20 UTC (error budget: ")
    # publishing is not held up by it
    with Line.at(home.root, home.settings.config, NOW + timedelta(minutes=501)) as line:
        for landed in line.pipeline.landed(line.now)[0]:
            line.pipeline.load_landed(line.con, landed, line.now)
        line.rebuild()
        line.publish()
    said, _ = looks.look(502)
    assert said == "3 alerts are open; 1 message was sent"
    assert sorted(looks.told()) == [
        "[page] slo_freshness: acme", "[page] slo_ingestion_lag: acme", "[resolved] table_late: acme",
        "[warn] releases_frozen", "[warn] table_late: acme",
    ]  # fmt: skip


def a_job(name: str, *, fails: bool) -> dg.JobDefinition:
    @dg.op
    def work() -> None:
        if fails:
            try:
                raise OSError("no space left\non device")
            except OSError as error:
                raise RuntimeError("the step could not go on") from error

    @dg.job(name=name)
    def one() -> None:
        work()

    return one


def run(instance: dg.DagsterInstance, name: str, *, fails: bool) -> None:
    a_job(name, fails=fails).execute_in_process(instance=instance, raise_on_error=False)


def test_what_a_run_failed_with_is_known_in_one_line(instance: dg.DagsterInstance) -> None:
    for name, fails in (("refresh", True), ("somebody_elses", True), ("refresh", False)):
        run(instance, name, fails=fails)
    found, read_until = ended_runs(instance, utc_now() - timedelta(hours=1))
    assert [(end.job, end.failed, end.reason) for end in found] == [
        ("refresh", True, "OSError: no space left on device"), ("refresh", False, "")
    ]  # fmt: skip
    assert found[0].ended_at < found[1].ended_at <= utc_now()
    assert ended_runs(instance, read_until + timedelta(seconds=1)) == ([], read_until + timedelta(seconds=1))


def test_a_failed_run_is_an_alert_until_one_succeeds(home: DataHome, instance: dg.DagsterInstance) -> None:
    cursor = None

    def look() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"pipeline": PipelineResource()})
        said = alerts.evaluate_tick(context)
        cursor = said.cursor
        return str(said.skip_message)

    run(instance, "ingest", fails=True)
    assert look() == "1 alert is open; 1 message was sent"
    run(instance, "ingest", fails=True)
    assert look() == "1 alert is open"
    run(instance, "ingest", fails=False)
    assert look() == "0 alerts are open; 1 message was sent"
    (opened, over) = (home.root / "alerts.log").read_text().splitlines()
    assert "[warn] run_failed | ingest failed, and no run mended it since | since: " in opened
    assert "probably: OSError: no space left on device | what to do: docs/runbooks/run_failed.md" in opened
    assert "[resolved] run_failed" in over


def test_a_dead_receiver_is_named_and_the_sensor_goes_on(home: DataHome, instance: dg.DagsterInstance) -> None:
    path = home.settings.config / "alerts.yaml"
    path.write_text("channels: {chat: {kind: webhook, url_from: NO_SUCH_VARIABLE}}\nroutes: {warn: [chat], page: [chat]}\n")
    home.land("a.ndjson", [a_call()], tenant="nobody")
    looks = Looks(home, instance)
    assert looks.look(0)[0] == "1 alert is open; chat cannot be told: the environment variable NO_SUCH_VARIABLE is not set"


# A declaration that is saved wrong while the sensor goes on


@pytest.mark.parametrize(
    "file", ["tenants.yaml", "limits.yaml", "freshness.yaml", "slos.yaml", "incidents.yaml", "consent.yaml", "taxonomy.yaml"]
)
def test_a_wrong_declaration_is_told_once_and_the_other_alerts_stand_as_they_are(
    home: DataHome, instance: dg.DagsterInstance, file: str
) -> None:
    home.land("a.ndjson", [a_call()], tenant="nobody")
    looks = Looks(home, instance)
    looks.look(0)
    path = home.settings.config / file
    right = path.read_text()
    path.write_text(f"{right}\nno_such_key: 1\n")
    said, _ = looks.look(1)
    assert said.startswith(f"{file}:") and said.endswith("; 2 alerts are open; 1 message was sent")
    path.write_text("the editor is not done yet")
    assert looks.look(2)[0].endswith("; 2 alerts are open")
    # what ends meanwhile is read when it is right
    run(instance, "ingest", fails=True)
    assert looks.look(3)[0].endswith("; 2 alerts are open")
    path.write_text(right)
    looks.look((utc_now() - NOW) / timedelta(minutes=1))
    told = looks.told()
    assert told[:2] == ["[warn] file_not_taken", "[page] declaration_wrong"]
    assert sorted(told[2:]) == ["[resolved] declaration_wrong", "[warn] run_failed"]


def test_what_no_look_reads_is_told_beside_all_else(home: DataHome, instance: dg.DagsterInstance) -> None:
    files = [name for name, file in FILES.items() if file.without != FILES["tenants.yaml"].without]
    paths = {name: home.settings.config / name for name in [*files, "sources/segment.yaml"]}
    right = {name: path.read_text() for name, path in paths.items()}
    looks = Looks(home, instance)
    for name, path in paths.items():
        path.write_text(f"{right[name]}\nno_such_key: 1\n")
    home.land("a.ndjson", [a_call()], tenant="nobody")
    said, _ = looks.look(0)
    assert said.endswith(f"; {len(paths) + 1} alerts are open; 2 messages were sent")
    stages = PipelineResource().get()
    with stages.connect() as con:
        told = {alert.key.removeprefix("declaration_wrong/"): alert.what for alert in stages.alerts.alerts(con)}
    for name, path in paths.items():
        assert told[name].startswith(f"{path.name}:{len(right[name].splitlines()) + 2}: no_such_key: "), name
    assert told["prices.yaml"].endswith("; until it is right, what steps and queries take is not kept")
    for name, path in paths.items():
        path.write_text(right[name])
    assert looks.look(1)[0] == "1 alert is open; 1 message was sent"


def test_every_file_of_declarations_is_looked_at() -> None:
    assert FILES.keys() == {path.name for path in CONFIG.glob("*.yaml")}


def test_while_alerts_yaml_is_wrong_the_log_is_told_and_the_rest_when_it_is_right(
    home: DataHome, instance: dg.DagsterInstance
) -> None:
    rules, levels = (home.settings.config / file for file in ("alerts.yaml", "slos.yaml"))
    right = levels.read_text()
    looks = Looks(home, instance)
    with a_web_server() as web:
        declared = f"channels: {{chat: {{kind: webhook, url: '{web.url}'}}}}\nroutes: {{warn: [chat], page: [chat]}}\n"
        rules.write_text(declared.replace("page: [chat]", "page: [chta]"))
        levels.write_text("windows: [")
        for minute in range(2):
            said, _ = looks.look(minute)
        assert said.startswith("alerts.yaml:2: there is no channel 'chta'; declared are chat; slos.yaml:2: ")
        (line,) = looks.log.read_text().splitlines()
        assert "[page] declaration_wrong | alerts.yaml:2: there is no channel 'chta'" in line
        rules.write_text(declared)
        assert looks.look(2)[0].endswith("; 1 alert is open; 2 messages were sent")
        assert looks.told() == ["[page] declaration_wrong", "[resolved] declaration_wrong"]
        levels.write_text(right)
        assert looks.look(3)[0] == "0 alerts are open; 1 message was sent"
        assert [(one["event"], one["text"].splitlines()[1][:7]) for one in web.got] == [
            ("opened", "slos.ya"), ("resolved", "over si")
        ]  # fmt: skip


def test_what_is_wrong_with_one_file_does_not_end_what_is_wrong_with_another(
    home: DataHome, instance: dg.DagsterInstance
) -> None:
    """The objectives cannot be read without the tenants: nobody knows then whether they are right."""
    levels, tenants = (home.settings.config / file for file in ("slos.yaml", "tenants.yaml"))
    right = levels.read_text(), tenants.read_text()
    looks = Looks(home, instance)
    levels.write_text("windows: [")
    looks.look(0)
    tenants.write_text("tenants: [")
    looks.look(1)
    tenants.write_text(right[1])
    looks.look(2)
    levels.write_text(right[0])
    looks.look(3)
    assert looks.told() == ["[page] declaration_wrong"] * 2 + ["[resolved] declaration_wrong"] * 2


def test_datetimes_are_utc(instance: dg.DagsterInstance) -> None:
    run(instance, "ingest", fails=False)
    (end,) = ended_runs(instance, datetime.fromtimestamp(0, UTC).replace(tzinfo=None))[0]
    assert abs(end.ended_at - utc_now()) < timedelta(minutes=10)
