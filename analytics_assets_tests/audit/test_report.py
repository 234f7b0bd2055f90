"""What is told from the log: when people stepped in, whatever else was done meanwhile."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from analytics_assets.audit.log import Audit
from analytics_assets.audit.report import interventions
from analytics_assets.settings import CONFIG, Settings
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOW


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, CONFIG)


def on(settings: Settings, day: int) -> Audit:
    return Audit(settings, through="analytics test", clock=lambda: NOW + timedelta(days=day))


def stepped_in(settings: Settings, since: datetime = NOW) -> list[tuple[int, str]]:
    """(day, kind), in the order of time."""
    return sorted(((at - NOW).days, kind) for at, kind in interventions(Home(settings.home), since))


def test_what_a_person_had_to_do_counts_once_and_what_goes_by_itself_does_not(settings: Settings) -> None:
    with on(settings, 1).act("rollback", reason="wrong prices"):
        pass
    on(settings, 2).record("publish")
    on(settings, 2).record("scale", details={"pool": "background", "to": 3})
    for asker in ("sensor", "schedule", "person"):
        on(settings, 3).record("run", "begun", details={"job": "refresh", "asked_by": asker})
    for what in ("look", "retrain", "pin"):
        with on(settings, 4).act("tune", details={"what": what}):
            pass
    assert stepped_in(settings) == [(1, "rollback"), (3, "run"), (4, "pin resources")]


def test_only_what_was_done_since_then_counts(settings: Settings) -> None:
    for day in (1, 2, 3):
        on(settings, day).record("replay")
    assert stepped_in(settings, NOW + timedelta(days=2)) == [(2, "replay"), (3, "replay")]
