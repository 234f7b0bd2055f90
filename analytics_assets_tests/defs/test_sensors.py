"""The sensors: what they ask for, and what they say when they ask for nothing."""

import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from analytics_assets.defs.automation import landing, waiting_days
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.events.days import mark_built
from analytics_assets_tests.builders import Line, write_events
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home

NOTHING = "no file waits in a landing folder"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        yield home


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


def test_a_file_settles_before_it_is_taken(home: DataHome, instance: dg.DagsterInstance) -> None:
    young = settled(home.land("a.ndjson", [a_call()]), seconds=-60)
    assert ask(landing, instance) == NOTHING
    settled(young)
    assert len(ask(landing, instance)) == 1


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


# waiting_days


def load(home: DataHome, *days: str) -> None:
    with Line.at(home.root, home.settings.config) as line:
        calls = [a_call(f"m-{day}", day=day) for day in days]
        line.load(home.file("-".join(days) + ".ndjson", calls), "segment", "acme")


def ranges_asked(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    requests = ask(waiting_days, instance)
    assert isinstance(requests, list)
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return [(request.tags[first], request.tags[last]) for request in requests]


def test_a_new_home_has_no_day_that_waits(home: DataHome, instance: dg.DagsterInstance) -> None:
    assert ask(waiting_days, instance) == "no day waits for a rebuild"


def test_days_that_wait_are_a_run_a_range(home: DataHome, instance: dg.DagsterInstance) -> None:
    load(home, "2025-03-12", "2025-03-10", "2025-06-01")
    assert ranges_asked(instance) == [("2025-03-10", "2025-03-12"), ("2025-06-01", "2025-06-01")]


def test_a_range_that_was_rebuilt_is_not_asked_for_again(home: DataHome, instance: dg.DagsterInstance) -> None:
    load(home, "2025-03-10", "2025-06-01")
    with Line.at(home.root, home.settings.config) as line:
        mark_built(line.con, line.pipeline.home, [date(2025, 3, 10)], 1)
        assert ranges_asked(instance) == [("2025-06-01", "2025-06-01")]
        mark_built(line.con, line.pipeline.home, [date(2025, 6, 1)], 1)
    assert ask(waiting_days, instance) == "no day waits for a rebuild"


def test_one_refresh_at_a_time(home: DataHome, instance: dg.DagsterInstance) -> None:
    load(home, "2025-03-10")
    going(instance, "refresh", dg.DagsterRunStatus.STARTED)
    assert ask(waiting_days, instance) == "a refresh run is going"
