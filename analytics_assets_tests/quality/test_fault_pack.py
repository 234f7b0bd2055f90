"""Real days of the retail sample, each with a fault of its own: every fault is caught before the publish.

The faults lie on the open days of seven weeks, one a day, behind eight clean weeks: all of them are loaded, rebuilt and
judged together, the whole way. `python -m benchmarks faults` takes each the whole way alone.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analytics_assets.pipeline import Pipeline
from analytics_assets.quality.tables import QualityResult
from analytics_assets.settings import Settings
from analytics_assets.warehouse.publish import PublishRefused, current_version
from analytics_assets_tests.conftest import made_once
from benchmarks.injected import FAULTS, SOURCE, Fault, declare, morning_after, open_days, stand_lines

pytestmark = pytest.mark.long

MEANT = [fault for fault in FAULTS if not fault.hard]
# Eight weeks in one delivery, two of daily deliveries, then a fault a day.
HISTORY, CONTROL, FAULTY = date(2011, 7, 25), date(2011, 9, 11), date(2011, 9, 26)
ONE_DAY = timedelta(days=1)


def plan(days: Sequence[date]) -> Iterator[tuple[date, Fault]]:
    """A day for every fault: what leaks into the next day goes before a closed one, what tells by itself on thin Sundays."""
    leaking = [fault for fault in MEANT if fault.later or "ahead" in fault.name]
    telling = [fault for fault in MEANT if fault.at_intake]
    others = [fault for fault in MEANT if fault not in leaking and fault not in telling]
    for day in days:
        first = {4: leaking, 6: telling}.get(day.weekday(), others)
        for group in (first, others, telling):
            if group:
                yield day, group.pop(0)
                break


class Shop:
    """The pipeline with deliveries of the sample: what a day's file did, and what was said of the day."""

    def __init__(self, folder: Path, con: duckdb.DuckDBPyConnection, pipeline: Pipeline) -> None:
        self.folder, self.con, self.pipeline = folder, con, pipeline
        folder.mkdir()

    def deliver(self, day: date, fault: Fault) -> dict[str, Any]:
        stand_lines(self.con, day)
        path = fault.write(self.con, self.folder / str(day))
        report = self.pipeline.load(self.con, path, fault.source, None, morning_after(day))
        return {"status": report.status, "events": report.events, "rejected": report.rejected_by_reason}

    def rebuild(self) -> None:
        days = self.pipeline.pending(self.con)
        self.pipeline.rebuild_sessions(self.con, days)
        assert self.pipeline.rebuild_marts(self.con, days)[1].ok
        self.pipeline.rebuild_users(self.con)

    def judge(self, days: Sequence[date]) -> list[QualityResult]:
        found = self.pipeline.gate.judge(self.con, days, morning_after(days[-1]), self.pipeline.built_version(), "pack")
        return [result for result in found if result.success == "fail"]


def make(folder: Path) -> None:
    """Clean weeks that are published, then the faulty ones; keeps what became of each fault in `outcomes.json`."""
    pipeline = Pipeline(Settings(folder / "home", declare(folder / "config")))
    with pipeline.connect() as con:
        shop = Shop(folder / "deliveries", con, pipeline)
        before = f"from lines where InvoiceDate::date >= date '{HISTORY}' and InvoiceDate::date < date '{CONTROL}'"
        stand_lines(con, CONTROL)
        path = Fault("none", before).write(con, shop.folder / "history")
        pipeline.load(con, path, SOURCE, None, morning_after(CONTROL - ONE_DAY))
        history, control = open_days(con, HISTORY, CONTROL - ONE_DAY), open_days(con, CONTROL, FAULTY - ONE_DAY)
        for day in control:
            shop.deliver(day, Fault("none"))
        shop.rebuild()
        shop.judge(history)
        outcomes: dict[str, Any] = {"clean": [str(result) for result in shop.judge(control) if result.severity == "block"]}
        pipeline.publish(con, morning_after(control[-1]))
        planned = list(plan(open_days(con, FAULTY, date(2011, 11, 30))))
        came = {fault.name: shop.deliver(day, fault) for day, fault in planned}
        shop.rebuild()
        try:
            pipeline.publish(con, morning_after(planned[-1][0]))
        except PublishRefused as refused:
            outcomes["refused"] = str(refused)
        outcomes["version"] = current_version(pipeline.home)
        holding = pipeline.gate.refusals(con)
        stored = pipeline.gate.results.snapshot().select()
        warned = con.execute(
            f"""select "table", "partition", expectation from ({stored}) where success = 'fail' and severity = 'warn'"""
        ).fetchall()
        for day, fault in planned:
            blocking = {r.expectation for r in holding if r.partition == judged_on(r.table, day, fault)}
            warning = {name for table, partition, name in warned if partition == judged_on(table, day, fault)}
            outcomes[fault.name] = {**came[fault.name], "blocking": sorted(blocking), "warning": sorted(warning)}
    (folder / "outcomes.json").write_text(json.dumps(outcomes, indent=1))


def judged_on(table: str, day: date, fault: Fault) -> date:
    """The day under which a table's verdict on the fault stands: deliveries are judged by their receipt."""
    return day + ONE_DAY if table in ("batches", "rejected_events") else day + fault.later * ONE_DAY


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return json.loads((made_once(tmp_path_factory, "fault-pack", make) / "outcomes.json").read_text())


def test_clean_days_are_published(outcomes: dict[str, Any]) -> None:
    assert outcomes["clean"] == []


def test_readers_keep_the_clean_version(outcomes: dict[str, Any]) -> None:
    assert outcomes["version"] == 1
    assert "blocking expectations failed" in outcomes["refused"]


def test_there_are_at_least_25_kinds_of_trouble() -> None:
    assert len({fault.name for fault in MEANT}) == len(MEANT) >= 25


@pytest.mark.parametrize("fault", MEANT, ids=lambda fault: fault.name)
def test_a_fault_is_caught_before_the_publish(outcomes: dict[str, Any], fault: Fault) -> None:
    outcome = outcomes[fault.name]
    if fault.seen_by == "set aside":
        assert outcome["status"] == "set_aside"
    elif fault.seen_by in outcome["rejected"]:
        assert outcome["events"] == 0
    elif fault.seen_by == "batch_has_declared_columns_only":
        # The new column is left out, and the rest stays right: it is said, and holds nothing up.
        assert fault.seen_by in outcome["warning"]
    else:
        assert fault.seen_by in outcome["blocking"]
