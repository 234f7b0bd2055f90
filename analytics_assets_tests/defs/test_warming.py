"""Caches are warmed before what the calendar declares: the sensor asks once an opening, and the run reads what is published."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from analytics_assets.defs.run import Jobs
from analytics_assets.defs.warming import asked_for
from analytics_assets.telemetry.queries import most_asked
from analytics_assets.telemetry.tables import QUERY_LOG
from analytics_assets_tests.builders import NOW, Line
from analytics_assets_tests.defs.home import a_data_home
from analytics_assets_tests.tuning.history import hours, rows

OPEN = {"name": "shop hours", "place": "berlin", "opens": "09:00", "closes": "18:00", "of": "events", "expected": 100}
CALENDAR = {
    "places": {"berlin": {"country": "DE", "timezone": "Europe/Berlin"}},
    "opening_hours": [OPEN, {**OPEN, "name": "night shift", "opens": "21:00"}],
}
# A Monday, 08:55 in Berlin.
BEFORE = datetime(2026, 3, 16, 7, 55, tzinfo=UTC)


def test_one_run_an_opening_is_asked_for_and_says_why(tmp_path: Path) -> None:
    with a_data_home(tmp_path) as home:
        assert list(asked_for(BEFORE)) == []
        (home.settings.config / "calendar.yaml").write_text(yaml.safe_dump(CALENDAR))
        (one,), (again,) = asked_for(BEFORE), asked_for(BEFORE + timedelta(minutes=4))
        assert one.run_key == again.run_key == "warm-2026-03-16T08:00"
        assert one.tags["analytics/why"] == "shop hours from 09:00 CET on"
        assert [asked.run_key for asked in asked_for(BEFORE + timedelta(hours=12))] == ["warm-2026-03-16T20:00"]
        assert list(asked_for(BEFORE + timedelta(minutes=6))) == []
        scaling = home.settings.config / "scaling.yaml"
        scaling.write_text(scaling.read_text().replace("warm_mb: 2048", "warm_mb: 0"))
        assert list(asked_for(BEFORE)) == []
        # By the time of the machine, before anything is published.
        result = Jobs(home.settings).run("warm_caches")
        (told,) = result.asset_materializations_for_node("read_what_is_asked_most")
        assert told.description == "0 files, 0 bytes read"


def test_what_queries_read_most_of_late_comes_first(line: Line) -> None:
    tables = """case when n <= 3 then '["sessions"]' when n <= 8 then '["users", "events"]' else '["batches"]' end"""
    log = rows(QUERY_LOG, hours(NOW, 1), asked_at="moment", tables=tables, outcome="case when n <= 9 then 'success' end")
    assert most_asked(line.con, log, NOW - timedelta(days=1)) == ["events", "users", "sessions", "batches"]
    assert most_asked(line.con, log, NOW - timedelta(hours=3)) == ["sessions"]
