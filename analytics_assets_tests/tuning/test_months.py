"""What days used is noted once they are over, kept when its sources are gone, and forecast."""

import os
import shutil
from datetime import date, timedelta

import pytest

from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets.tuning.capacity_tables import Resource, Use
from analytics_assets.tuning.months import ahead, forecast, measure, outlined, stored_bytes
from analytics_assets.warehouse.table import Table, replace_all
from analytics_assets_tests.builders import NOW, Line
from analytics_assets_tests.tuning.history import hours, receive, rows

DAY = timedelta(days=1)
TODAY = NOW.date()


def steps(line: Line, days: int, **values: str) -> None:
    """Two steps of a run began each hour, each waited a minute of its queue and read a hundred bytes."""
    taken = {"run_id": "'run-' || n", "started_at": "moment", "date": "moment::date", "queue_seconds": "60"}
    one = rows(STEP_TELEMETRY, hours(NOW, days / 7), **{**taken, "bytes_read": "100", **values})
    replace_all(Table(line.pipeline.home.warehouse, STEP_TELEMETRY), line.con, f"{one} union all {one}")


def told(uses: list[Use], resource: Resource) -> dict[date, float]:
    return {one.date: one.amount for one in uses if one.resource == resource}


@pytest.fixture
def noted(line: Line) -> Line:
    """A data home that got 24,000 events a day for a week, and ran for as long."""
    receive(line, NOW, acme=0.5, globex=1)
    steps(line, 7)
    # What steps took was read now, by the clock of the machine.
    return line


def test_days_that_are_over_are_noted(noted: Line) -> None:
    found = measure(noted.con, noted.pipeline.home, NOW)
    events = told(found, "rows")
    assert list(events) == [TODAY - n * DAY for n in range(7, 0, -1)]
    assert events[TODAY - 5 * DAY] == 24_000 and events[TODAY - DAY] == 48_000
    assert told(found, "scanned_bytes")[TODAY - DAY] == 2 * 24 * 100
    # Both steps are of one run, which waited once.
    assert told(found, "queue_depth")[TODAY - DAY] == pytest.approx(24 * 60 / 86_400)
    (stored,) = told(found, "stored_bytes").items()
    assert stored[0] == TODAY - DAY and 10_000 < stored[1] <= stored_bytes(noted.home)


def test_what_was_noted_stays_when_telemetry_goes_and_the_last_days_are_counted_again(noted: Line) -> None:
    home = noted.pipeline.home
    before = measure(noted.con, home, NOW)
    assert measure(noted.con, home, NOW) == before
    steps(noted, 7, bytes_read="300")
    later = told(measure(noted.con, home, NOW), "scanned_bytes")
    assert [later[TODAY - n * DAY] for n in (1, 4, 5)] == [14_400, 14_400, 4_800]
    steps(noted, 7, bytes_read="-5", queue_seconds="'nan'::double")
    absurd = measure(noted.con, home, NOW)
    assert told(absurd, "scanned_bytes")[TODAY - DAY] == 0 and told(absurd, "queue_depth")[TODAY - DAY] == 0
    # Nobody looked for a while, and nothing came.
    found = measure(noted.con, home, NOW + 3 * DAY)
    assert told(found, "rows")[TODAY + DAY] == 0 and told(found, "rows")[TODAY - 5 * DAY] == 24_000
    assert list(told(found, "stored_bytes")) == [TODAY - DAY, TODAY + 2 * DAY]


def test_a_home_in_which_nothing_was_measured_says_so(line: Line) -> None:
    home = line.pipeline.home
    assert ahead(line.con, home) == []
    measure(line.con, home, NOW)
    found = {row.resource: (row.source, row.value, row.reason) for row in forecast(line.con, home, NOW)}
    assert found == {
        "stored_bytes": ("none", None, "needs 14 days of history and has 1 day"),
        **dict.fromkeys(
            ("rows", "queue_depth", "scanned_bytes"), ("none", None, "nothing of it was measured on a day that is over")
        ),
    }


def test_a_forecast_is_a_row_a_resource_and_day_and_takes_the_place_of_the_one_before(line: Line) -> None:
    home = line.pipeline.home
    receive(line, NOW, acme=30)
    measure(line.con, home, NOW)
    rows = forecast(line.con, home, NOW)
    events = [row for row in rows if row.resource == "rows"]
    assert [row.lead for row in events] == list(range(1, 91)) and events[0].date == TODAY
    assert {(row.value, row.source) for row in events} == {(24_000, "last value")}
    assert (events[0].error, events[0].back_tests) == (0, 22)
    forecast(line.con, home, NOW + DAY)
    assert {row.made_at for row in ahead(line.con, home)} == {NOW + DAY} and len(ahead(line.con, home)) == len(rows)


def test_a_gap_in_what_is_stored_is_what_it_was_before() -> None:
    uses = [Use(TODAY - n * DAY, "stored_bytes", 1e6) for n in (20, 19, 1)]
    found = outlined("stored_bytes", uses, NOW)
    assert {row.value for row in found} == {1e6} and found[0].origin == TODAY - DAY


def test_a_file_of_two_names_is_stored_once(line: Line) -> None:
    folder = line.home / "some"
    folder.mkdir()
    (folder / "one").write_bytes(b"x" * 1000)
    os.link(folder / "one", folder / "other")
    (folder / "gone").symlink_to(folder / "nowhere")
    assert 1000 <= stored_bytes(folder) < 1500
    shutil.rmtree(folder)
