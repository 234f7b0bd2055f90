"""What is rejected and why, what is kept of it, and that it can be replayed after a fix without doubling anything."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from analytics_assets.events.days import DayRange, ranges
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.landing import StillWritten, move_into
from analytics_assets.settings import UserError
from analytics_assets_tests.builders import DAY, NOON, NOW, Line, Opener, a_config, an_event, at, write_events

BROKEN = {
    "missing_tenant": {"tenant_id": None},
    "unknown_tenant": {"tenant_id": "initech"},
    "missing_message_id": {"message_id": None},
    "too_long:message_id": {"message_id": "m" * 256},
    "too_long:user_id": {"user_id": "u" * 256},
    "too_long:anonymous_id": {"anonymous_id": "é" * 256},
    "too_long:session_id": {"session_id": "s" * 256},
    "too_long:event": {"event": "e" * 256},
    "too_long:page_url": {"page_url": "https://acme.test/" + "p" * 4096},
    "too_long:product_id": {"product_id": "p" * 4097},
    "unknown_type": {"type": "purchase"},
    "missing_event": {"event": None},
    "missing_time": {"timestamp": None},
    "time_too_early": {"timestamp": "2009-12-31T23:59:59.999999"},
    "time_in_future": {"timestamp": NOW + timedelta(hours=24, microseconds=1)},
    "received_in_future": {"received_at": NOW + timedelta(hours=24, microseconds=1)},
    "properties_too_large": {"properties": {"text": "x" * 32_768}},
    "context_too_large": {"context": {"text": "x" * 32_768}},
    "wrong_type:properties": {"properties": [1, 2]},
    "wrong_type:context": {"context": "text"},
    "too_many_properties": {"properties": {f"k{n}": n for n in range(201)}},
}


def test_a_healthy_event_is_accepted(line: Line) -> None:
    assert line.load([an_event()]).events == 1


@pytest.mark.parametrize("reason", BROKEN)
def test_one_broken_signal_rejects_the_record_with_its_reason_and_keeps_it_as_it_came(line: Line, reason: str) -> None:
    broken = an_event("broken", **BROKEN[reason])
    path = write_events(line.home / "deliveries" / "1.ndjson", [an_event("healthy"), broken])
    report = line.load(path)
    assert (report.events, report.rejected, report.rejected_by_reason) == (1, 1, {reason: 1})
    assert line.rows(REJECTED, columns="reason, raw") == [(reason, path.read_text().splitlines()[1])]


@pytest.mark.parametrize(
    "limit",
    [
        {"message_id": "é" * 255},
        {"page_title": "é" * 4096},
        {"timestamp": "2010-01-01T00:00:00"},
        {"timestamp": NOW + timedelta(hours=24)},
        {"properties": {f"k{n}": n for n in range(200)}},
        {"properties": {"text": "x" * (32_768 - len('{"text":""}'))}},
        {"properties": None},
        {"anonymous_id": None},
    ],
)
def test_what_is_just_within_the_limits_is_accepted(line: Line, limit: dict[str, Any]) -> None:
    assert line.load([an_event(**limit)]).rejected_by_reason == {}


def test_every_rejected_record_counts_and_one_record_has_one_reason(line: Line) -> None:
    records = [an_event(f"m{n}", **broken) for n, broken in enumerate(BROKEN.values())]
    report = line.load([*records, "no json", "[1]", '"text"'])
    assert report.rejected == report.received == len(BROKEN) + 3
    assert sum(report.rejected_by_reason.values()) == report.rejected
    assert len(line.rows(REJECTED)) == report.rejected


def test_a_rejected_record_that_comes_again_is_kept_once(line: Line) -> None:
    broken = an_event("broken", tenant_id="initech")
    line.load([broken])
    assert line.load([broken, an_event("other")]).rejected == 1
    assert len(line.rows(REJECTED)) == 1


def with_tenant(line: Line, folder: Path) -> Any:
    """The same home after somebody declared the tenant that was unknown."""
    return Line.at(line.home, a_config(folder / "fixed", tenants=["acme", "globex", "initech"]))


def replay(line: Line, **options: Any) -> list[Any]:
    chosen = {"reason": None, "source": None, "tenant": None, "dry_run": False, **options}
    return line.pipeline.replay_rejected(line.con, line.now, **chosen)


def test_after_a_fix_rejected_records_become_events_and_leave(line: Line, tmp_path: Path) -> None:
    line.load([an_event("m1", tenant_id="initech"), an_event("m2", tenant_id="initech"), "no json"])
    with with_tenant(line, tmp_path) as fixed:
        (report,) = replay(fixed)
        assert (report.received, report.events, report.rejected, report.status) == (3, 2, 1, "replayed")
        assert fixed.keys() == [("initech", "m1"), ("initech", "m2")]
        assert fixed.rows(REJECTED, columns="reason") == [("bad_json",)]
        again = replay(fixed)
        assert [report.events for report in again] == [0]
        assert len(fixed.keys()) == 2


def test_a_dry_run_tells_what_would_happen_and_changes_nothing(line: Line, tmp_path: Path) -> None:
    line.load([an_event("m1", tenant_id="initech")])
    with with_tenant(line, tmp_path) as fixed:
        before = [fixed.pipeline.table(spec).snapshot() for spec in (EVENTS, REJECTED, BATCHES)]
        (report,) = replay(fixed, dry_run=True)
        assert report.events == 1
        assert [fixed.pipeline.table(spec).snapshot() for spec in (EVENTS, REJECTED, BATCHES)] == before


def test_only_the_chosen_records_are_replayed(line: Line, tmp_path: Path) -> None:
    line.load([an_event("m1", tenant_id="initech"), an_event("m2", timestamp=None)])
    with with_tenant(line, tmp_path) as fixed:
        replay(fixed, reason="missing_time")
        assert fixed.keys() == []
        replay(fixed, reason="unknown_tenant")
        assert fixed.keys() == [("initech", "m1")]


def test_a_replayed_record_whose_event_came_otherwise_is_a_duplicate(line: Line, tmp_path: Path) -> None:
    record = an_event("m1", tenant_id="initech")
    line.load([record])
    with with_tenant(line, tmp_path) as fixed:
        fixed.load([{**record, "event": "Sent again"}])
        (report,) = replay(fixed)
        assert (report.duplicates, report.events) == (1, 0)
        assert (len(fixed.keys()), fixed.rows(REJECTED)) == (1, [])


def test_a_record_that_is_still_rejected_stays_as_it_was(line: Line) -> None:
    line.load(["no json", "no json", an_event("m1", timestamp=None)])
    before = line.rows(REJECTED)
    replay(line)
    assert line.rows(REJECTED) == before


def test_a_file_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(line: Line, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but no more")
    report = line.load(broken)
    assert (report.status, report.received, report.events) == ("set_aside", 0, 0)
    assert report.reason
    line.load(broken)
    line.load([an_event()])
    assert sorted(line.rows(BATCHES, columns="status, events")) == [("loaded", 1), ("set_aside", 0)]


def test_a_file_that_breaks_off_in_the_middle_leaves_nothing(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of several slices whose last line is no record any more: what was read before is not kept either."""
    import gzip

    monkeypatch.setattr("analytics_assets.sources.text.SLICE_BYTES", 2_000)
    whole = write_events(tmp_path / "whole.ndjson", [an_event(f"m{n}") for n in range(500)]).read_bytes()
    cut = tmp_path / "cut.ndjson.gz"
    cut.write_bytes(gzip.compress(whole, mtime=0)[:-20])
    assert line.load(cut).status == "set_aside"
    assert (line.keys(), line.rows(REJECTED)) == ([], [])
    assert [path for path in line.pipeline.table(EVENTS).path.rglob("*.parquet") if "_delta_log" not in str(path)] == []


def test_an_undeclared_tenant_or_source_is_one_line_that_names_the_cure(line: Line, tmp_path: Path) -> None:
    path = write_events(tmp_path / "one.ndjson", [an_event()])
    with pytest.raises(UserError, match=r"tenant 'initech' is not declared; add it to .*tenants.yaml"):
        line.load(path, tenant="initech")
    with pytest.raises(UserError, match="there is no source 'csv'; declared are canonical, "):
        line.load(path, source="csv")


def test_landed_files_are_loaded_and_moved_and_what_cannot_be_read_lies_beside_its_reason(line: Line) -> None:
    landing = line.pipeline.home.landing
    write_events(landing / "acme" / "a.ndjson", [an_event()])
    write_events(landing / "acme" / "deep" / "b.ndjson", [an_event("m2")])
    (landing / "acme" / "broken.parquet").write_bytes(b"nothing")
    (landing / "acme" / ".hidden.ndjson").write_text("{}")
    (landing / "acme" / "being-written.ndjson.part").write_text("{}")
    write_events(landing / "initech" / "c.ndjson", [an_event()])
    later = NOW.replace(year=2100)
    waiting, refused = line.pipeline.landed(later)
    assert sorted(landed.path.name for landed in waiting) == ["a.ndjson", "b.ndjson", "broken.parquet"]
    assert refused == ["landing/initech/c.ndjson: tenant 'initech' is not declared in tenants.yaml"]
    for landed in waiting:
        line.pipeline.load_landed(line.con, landed, line.now)
    assert line.keys() == [("acme", "m1"), ("acme", "m2")]
    aside = sorted(path.name.split("-", 1)[1] for path in (line.pipeline.home.set_aside / "acme").iterdir())
    assert aside == ["broken.parquet", "broken.parquet.reason.txt"]
    assert line.pipeline.landed(later)[0] == []


def test_a_link_that_leaves_the_landing_folder_is_refused(line: Line, tmp_path: Path) -> None:
    secret = write_events(tmp_path / "secret.ndjson", [an_event()])
    folder = line.pipeline.home.landing / "acme"
    folder.mkdir()
    (folder / "link.ndjson").symlink_to(secret)
    waiting, refused = line.pipeline.landed(NOW.replace(year=2100))
    assert waiting == [] and refused == ["landing/acme/link.ndjson: is a link that leaves the tenant's folder"]


def test_a_file_that_grows_while_it_is_read_is_left_alone_until_it_is_whole(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_events(line.pipeline.home.landing / "acme" / "growing.ndjson", [an_event()])
    store = line.pipeline.intake.store

    def store_while_it_grows(*arguments: Any, **options: Any) -> Any:
        with path.open("a") as file:
            file.write(json.dumps(an_event("m2"), default=str) + "\n")
        return store(*arguments, **options)

    monkeypatch.setattr(line.pipeline.intake, "store", store_while_it_grows)
    (waiting,), _ = line.pipeline.landed(NOW.replace(year=2100))
    with pytest.raises(StillWritten, match=r"growing\.ndjson is still being written"):
        line.pipeline.load_landed(line.con, waiting, line.now)
    assert (line.keys(), path.exists()) == ([], True)
    monkeypatch.undo()
    assert line.pipeline.load_landed(line.con, waiting, line.now).events == 2


def test_what_is_written_after_the_load_is_not_carried_away_with_the_file(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_events(line.pipeline.home.landing / "acme" / "growing.ndjson", [an_event()])

    def move_then_write(folder: Path, source: Path, name: str) -> Path:
        with source.open("a") as file:
            moved = move_into(folder, source, name)
            file.write(json.dumps(an_event("m2"), default=str) + "\n")
        return moved

    monkeypatch.setattr("analytics_assets.pipeline.move_into", move_then_write)
    (waiting,), _ = line.pipeline.landed(NOW.replace(year=2100))
    with pytest.raises(StillWritten, match="it stays in its landing folder"):
        line.pipeline.load_landed(line.con, waiting, line.now)
    monkeypatch.undo()
    assert path.exists()
    report = line.pipeline.load_landed(line.con, waiting, line.now)
    assert (report.duplicates, report.events, line.keys()) == (1, 1, [("acme", "m1"), ("acme", "m2")])


def test_an_empty_file_of_one_kind_says_nothing_of_one_of_another_kind(line: Line, tmp_path: Path) -> None:
    for name in ("empty.ndjson", "empty.parquet"):
        (tmp_path / name).touch()
    assert line.load(tmp_path / "empty.ndjson").status == "loaded"
    assert line.load(tmp_path / "empty.parquet").status == "set_aside"


def test_a_batch_names_the_days_that_wait_for_a_rebuild(line: Line) -> None:
    report = line.load([an_event("1", timestamp=at(0)), an_event("2", timestamp=at(0, day=-3))])
    assert report.days == (DAY - timedelta(days=3), DAY)
    assert line.pipeline.pending(line.con) == [*report.days]
    assert (report.event_from, report.event_to) == (at(0, day=-3), NOON)


def test_days_that_wait_are_few_ranges() -> None:
    days = [DAY + timedelta(days=n) for n in (0, 1, 5, 36, 100)]
    assert ranges(days) == [DayRange(days[0], days[3]), DayRange(days[4], days[4])]
    assert ranges([]) == []


def test_limits_come_from_the_declarations(open_line: Opener) -> None:
    line = open_line(limits={"events": {"property_keys": 2, "id_characters": 16}})
    report = line.load([an_event("a" * 17), an_event("b", properties={"k1": "long enough", "k2": "to be", "k3": "parsed"})])
    assert report.rejected_by_reason == {"too_long:message_id": 1, "too_many_properties": 1}


def test_properties_keep_their_json_as_it_came(line: Line) -> None:
    properties = {"n": 0.1, "big": 12345678901234567890, "nested": {"a": [1, None, True]}, "text": "é🦆"}
    line.load([an_event(properties=properties)])
    ((stored,),) = line.rows(EVENTS, columns="properties")
    assert json.loads(stored) == properties


def test_the_declarations_of_the_tests_are_those_of_the_project_but_for_tenants(tmp_path: Path) -> None:
    declared = yaml.safe_load((a_config(tmp_path / "config") / "tenants.yaml").read_text())
    assert {tenant["source"] for tenant in declared["tenants"]} == {"canonical"}


def test_where_a_backup_is_put_back_under_a_process_it_goes_on_from_there(line: Line, tmp_path: Path) -> None:
    """The backup was taken while a batch was between its events and its row."""
    line.load([an_event("m1")])
    shutil.copytree(line.home, tmp_path / "backup")
    shutil.rmtree(tmp_path / "backup" / "warehouse" / BATCHES.name)
    line.load([an_event("m2")])
    shutil.rmtree(line.home)
    shutil.copytree(tmp_path / "backup", line.home)
    assert line.load([an_event("m1"), an_event("m2")]).events == 1
    assert line.keys() == [("acme", "m1"), ("acme", "m2")]
    assert sorted(line.rows(BATCHES, columns="received, events")) == [(1, 1), (2, 1)]
