"""Capacity for months as a person asks for it: measured and forecast by the jobs that the schedules start."""

from pathlib import Path

from analytics_assets_tests.defs.home import a_data_home
from analytics_assets_tests.test_cli import analytics

UNKNOWN = "nothing is forecast yet; run `analytics tuning capacity --now`, or let Dagster's weekly schedule do it"


def test_a_person_sees_what_will_be_used_or_why_nobody_can_tell(tmp_path: Path) -> None:
    with a_data_home(tmp_path):
        before = analytics("tuning", "capacity")
        assert (before.code, before.err) == (1, f"analytics: {UNKNOWN}\n")
        now = analytics("tuning", "capacity", "--now")
        assert now.code == 0 and "bytes of the data home" in now.out and "needs 14 days of history and has 1 day" in now.out
        rows = analytics("tuning", "capacity", "--json").json["forecast"]
        assert {row["resource"]: row["reason"] for row in rows if row["resource"] != "stored_bytes"} == dict.fromkeys(
            ("rows", "queue_depth", "scanned_bytes"), "nothing of it was measured on a day that is over"
        )
