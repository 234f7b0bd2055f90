"""Which files wait to be taken: those that lie still, whatever time their sender's clock gave them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analytics_assets.landing import landed_at, landed_files
from analytics_assets.settings import Tenant
from analytics_assets_tests.builders import an_event, write_events

TENANTS = {"acme": Tenant(id="acme", source="canonical")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_events(tmp_path / "acme" / "a.ndjson", [an_event()])


def waiting(file: Path, after: float) -> list[Path]:
    """What waits so many seconds after the file came here, where a file settles for two."""
    now = datetime.fromtimestamp(file.stat().st_ctime + after, UTC).replace(tzinfo=None)
    return [found.path for found in landed_files(file.parent.parent, TENANTS, now, 2.0)[0]]


def test_a_file_settles_before_it_is_taken(file: Path) -> None:
    assert (waiting(file, 1), waiting(file, 3)) == ([], [file])


def test_a_file_with_the_time_of_a_clock_that_is_ahead_is_taken_and_counts_from_when_it_came(file: Path) -> None:
    """As `cp -p` and rsync leave it."""
    tomorrow = file.stat().st_ctime + timedelta(days=1).total_seconds()
    os.utime(file, (tomorrow, tomorrow))
    assert (waiting(file, 1), waiting(file, 3)) == ([], [file])
    assert landed_at(file) == datetime.fromtimestamp(file.stat().st_ctime, UTC).replace(tzinfo=None)


def test_a_file_that_was_written_long_ago_counts_from_then(file: Path) -> None:
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert landed_at(file) == datetime.fromtimestamp(1_700_000_000, UTC).replace(tzinfo=None)
