"""Which queue a run waits in, and when heavy work may start."""

from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.freshness.queues import Asked, Place, QueueRules, Window, load_queues, place
from analytics_assets.settings import CONFIG, ConfigError
from analytics_assets_tests.builders import at
from analytics_assets_tests.freshness.declared import promises

NIGHT = QueueRules.model_validate({"off_peak": [{"begin": "22:00", "end": "05:00"}]})
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
CLOCKS = st.times().map(lambda value: f"{value:%H:%M}")
WINDOWS = st.builds(Window, begin=CLOCKS, end=CLOCKS, weekdays=st.frozensets(st.sampled_from(WEEKDAYS), min_size=1))
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1))  # noqa: DTZ001


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# Windows


@pytest.mark.parametrize(
    ("now", "open_", "opens"),
    [
        ("2026-03-10 21:59", False, "2026-03-10 22:00"),
        ("2026-03-10 22:00", True, "2026-03-10 22:00"),
        ("2026-03-11 00:00", True, "2026-03-11 00:00"),
        ("2026-03-11 04:59", True, "2026-03-11 04:59"),
        ("2026-03-11 05:00", False, "2026-03-11 22:00"),
    ],
)
def test_a_window_may_cross_midnight(now: str, open_: bool, opens: str) -> None:
    assert (NIGHT.is_open(moment(now)), NIGHT.opens(moment(now))) == (open_, moment(opens))


def test_a_window_belongs_to_the_day_on_which_it_begins() -> None:
    friday = Window(begin="22:00", end="05:00", weekdays=frozenset({"friday"}))
    assert friday.contains(moment("2026-03-14 04:00")), "Saturday morning"
    assert not friday.contains(moment("2026-03-13 04:00")), "Friday morning"


def test_begin_and_end_alike_are_a_whole_day() -> None:
    sunday = Window(begin="00:00", end="00:00", weekdays=frozenset({"sunday"}))
    assert [sunday.contains(moment(f"2026-03-{day} 23:59")) for day in (14, 15, 16)] == [False, True, False]


def test_without_a_window_heavy_work_never_waits_for_one() -> None:
    rules = QueueRules.model_validate({"off_peak": []})
    assert rules.is_open(at()) and rules.opens(at()) == at()


@given(WINDOWS, MOMENTS)
def test_a_window_opens_within_a_week_and_is_open_from_then_on_for_its_length(window: Window, now: datetime) -> None:
    opens = window.opens(now)
    assert now < opens <= now + timedelta(days=7)
    assert window.contains(opens) and window.contains(opens + window.length - timedelta(seconds=1))


@given(WINDOWS, MOMENTS)
def test_an_open_window_is_one_that_began_on_its_weekday_less_than_its_length_ago(window: Window, now: datetime) -> None:
    began = datetime.combine(now.date(), time.fromisoformat(window.begin))
    began = began if began <= now else began - timedelta(days=1)
    assert window.contains(now) == (now - began < window.length and began.strftime("%A").lower() in window.weekdays)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('off_peak:\n  - {begin: "22:00"}\n', "2: off_peak.0.end: Field required"),
        ('off_peak:\n  - {begin: 22, end: "05:00"}\n', "2: off_peak.0.begin: Input should be a valid string"),
        ('off_peak:\n  - begin: "25:00"\n    end: "05:00"\n', "2: off_peak.0.begin: '25:00' is no time of day; write it as"),
        ('off_peak:\n  - {begin: "22:00", end: "05:00", weekdays: []}\n', "2: off_peak.0.weekdays: "),
        ('off_peak:\n  - {begin: "22:00", end: "05:00", weekdays: [sonntag]}\n', "2: off_peak.0.weekdays"),
        ("off_peak: []\nheavy_from_days: 1\n", "2: heavy_from_days: Input should be greater than or equal to 2"),
        ("heavy_from_days: 9\n", "1: off_peak: Field required"),
        ("- off_peak\n", "1: is no list of names with their values"),
        ("off_peak: []\nqueue: fast\n", "2: queue: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_line_is_a_sentence_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_queues(file)
    assert str(raised.value).startswith(f"queues.yaml:{said}")


def test_what_the_project_declares_loads_and_says_itself() -> None:
    assert load_queues(CONFIG / "queues.yaml").said == "the off-peak window 22:00-05:00 UTC"


# Queues


def placed(**asked: Any) -> Place:
    return place(Asked(**{"work": "rebuild", "by": "person", **asked}), NIGHT, promises())


def test_a_tiers_run_has_the_queue_and_the_priority_of_its_tier() -> None:
    found = [placed(by="sensor", tier=tier) for tier in ("near_real_time", "hourly", "daily")]
    assert [one.queue for one in found] == ["near-real-time", "hourly", "daily"]
    assert [one.priority for one in found] == [30, 20, 10]
    # The strictest keeps its place whatever the others do.
    assert [one.yields for one in found] == [False, True, True]


@pytest.mark.parametrize(
    "heavy", [{"by": "backfill", "days": 1}, {"work": "maintenance", "by": "schedule"}, {"days": 32}], ids=str
)
def test_heavy_work_comes_last_and_a_person_may_let_it_go(heavy: dict[str, Any]) -> None:
    loosest = placed(by="sensor", tier="daily")
    found = placed(**heavy)
    assert (found.queue, found.yields) == ("heavy", True)
    assert found.priority < loosest.priority
    released = placed(**heavy, override="the year is closed")
    assert (released.queue, released.priority) == ("released", found.priority)


def test_a_tiers_own_run_is_never_heavy_however_many_days_wait() -> None:
    assert placed(by="sensor", tier="near_real_time", days=365).queue == "near-real-time"


def test_a_few_days_that_a_person_asks_for_and_files_to_load_wait_for_no_tier() -> None:
    assert (placed(days=31).queue, placed(days=31).priority) == ("by-hand", 30)
    assert (placed(work="intake", by="sensor").queue, placed(work="intake", by="sensor").priority) == ("intake", 30)


def test_what_a_person_asks_for_one_tenant_waits_in_its_queue_behind_every_promise() -> None:
    own = placed(tenant="acme", days=3)
    assert (own.queue, own.yields) == ("tenant-acme", True)
    assert placed(days=32).priority < own.priority < placed(by="sensor", tier="daily").priority
    assert placed(work="intake", tenant="acme").queue == "tenant-acme"
    # The system's own work is for whom it is due.
    assert placed(by="sensor", tier="hourly", tenant="acme").queue == "hourly"


def test_a_tier_cannot_take_the_queue_of_other_work() -> None:
    with pytest.raises(ValueError, match="the queue 'heavy' is for other work; choose another name"):
        type(promises().tier("hourly")).model_validate({**promises().tier("hourly").model_dump(), "queue": "heavy"})
