"""What a look at a data home finds of deliveries that brought nothing: they are told of until they are mended."""

from datetime import timedelta
from pathlib import Path

import pytest

from analytics_assets.alerts.problems import problems
from analytics_assets.freshness.judge import Unusable
from analytics_assets_tests.builders import NOW, Line, an_event, at, write_events


def delivered(line: Line, name: str, *records: dict[str, object] | str) -> Path:
    return write_events(line.home / "deliveries" / name, records)


def unusable(line: Line) -> dict[str, Unusable]:
    return dict(line.pipeline.watch.look(line.con, line.now).unusable)


@pytest.fixture
def rejected(line: Line) -> Line:
    """Something good came, and then a file of which every record lies in the future."""
    line.load(delivered(line, "good.ndjson", an_event("m0")), tenant="acme")
    report = line.load(delivered(line, "day.ndjson", an_event("m1", timestamp=at(day=40))), tenant="acme")
    assert (report.rejected, report.events) == (1, 0)
    return line


def test_a_wholly_rejected_file_is_no_fresh_tenant_but_a_state_of_its_own_and_an_alert(rejected: Line) -> None:
    look = rejected.pipeline.watch.look(rejected.con, rejected.now)
    states = {status.tenant_id: status.state for status in look.statuses}
    assert states == {"acme": "unusable", "globex": "empty"}
    assert look.unusable["acme"].said.endswith('day.ndjson: every record was rejected ({"time_in_future": 1})')
    found = [problem.key for problem in problems(rejected.pipeline.situation(rejected.con, rejected.now))]
    assert "delivery_not_usable/acme" in found


def test_an_unreadable_file_is_told_of_with_its_reason(line: Line) -> None:
    report = line.load(delivered(line, "a.parquet", "no parquet"), tenant="acme")
    assert report.status == "set_aside"
    assert unusable(line) == {"acme": Unusable(NOW, 1, "a.parquet", str(report.reason))}


def test_a_file_sent_again_under_its_name_mends_it_and_another_file_does_not(rejected: Line) -> None:
    rejected.load(delivered(rejected, "other.ndjson", an_event("m2")), tenant="acme")
    assert list(unusable(rejected)) == ["acme"]
    rejected.load(delivered(rejected, "day.ndjson", an_event("m1")), tenant="acme")
    assert unusable(rejected) == {}


def test_a_replay_mends_it(rejected: Line) -> None:
    rejected.pipeline.replay_rejected(
        rejected.con, NOW + timedelta(days=60), reason=None, source=None, tenant=None, dry_run=False
    )
    rejected.now = NOW + timedelta(days=1)
    assert unusable(rejected) == {}


def test_a_redelivery_and_a_file_with_some_good_records_are_of_use(line: Line) -> None:
    for name in ("a.ndjson", "b.ndjson"):
        line.load(delivered(line, name, an_event("m1"), "broken" * (name == "a.ndjson") or an_event("m1")), tenant="acme")
    assert unusable(line) == {}


def test_it_is_told_of_for_a_week(rejected: Line) -> None:
    rejected.now += timedelta(days=8)
    assert unusable(rejected) == {}
