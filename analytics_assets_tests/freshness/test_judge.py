"""How fresh it is, under a clock of our own: what was received and is not shown is late, and nothing else is."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.freshness.due import due
from analytics_assets.freshness.judge import Evidence, Receipt, Status, Unusable, judge, open_time
from analytics_assets.freshness.tiers import Promises
from analytics_assets_tests.builders import NOON, at
from analytics_assets_tests.freshness.declared import TABLES, promises

NIGHT = at(9 * 60)


def seen(
    *waiting: datetime,
    now: datetime = NOON,
    newest: datetime | None = None,
    held: str | None = None,
    declared: Promises | None = None,
) -> dict[str, Status]:
    """The status of acme's tables, by tier, where deliveries `waiting` are not published."""
    evidence = Evidence(tuple(Receipt("acme", since) for since in waiting), {"acme": newest} if newest else {}, held)
    return {status.tier: status for status in judge(declared or promises(), ["acme"], evidence, now)}


def states(found: Mapping[str, Status]) -> list[str]:
    return [found[tier].state for tier in ("near_real_time", "hourly", "daily")]


# Waiting


def test_what_waits_is_fresh_within_the_promise_and_late_after_it() -> None:
    assert states(seen(at(-5))) == ["fresh", "fresh", "fresh"]
    assert states(seen(at(-6))) == ["late", "fresh", "fresh"]
    assert states(seen(at(-61))) == ["late", "late", "fresh"]
    assert states(seen(at(-1561))) == ["late", "late", "late"]


def test_a_row_says_what_was_promised_and_what_is_true() -> None:
    row = seen(at(-61), at(-2), newest=at(-2))["hourly"]
    assert (row.tenant_id, row.table, row.promised_minutes, row.age_minutes) == ("acme", "users", 60, 61)
    assert (row.data_through, row.received_through) == (at(-61), at(-2))
    assert row.reason == "2 deliveries wait, the oldest since 2026-03-10 10:59 UTC: 61 min, promised 60 min"


def test_publishing_what_came_later_leaves_a_late_table_late() -> None:
    before, after = seen(at(-90), at(-3)), seen(at(-90))
    assert states(before) == states(after) == ["late", "late", "fresh"]
    assert after["hourly"].data_through == before["hourly"].data_through == at(-90)


def test_a_tenant_does_not_stand_for_another() -> None:
    evidence = Evidence((Receipt("acme", at(-90)),), {"acme": at(-90), "globex": at(-3)})
    found = judge(promises({"events": "hourly"}), ["acme", "globex"], evidence, NOON)
    assert [(row.tenant_id, row.state) for row in found] == [("acme", "late"), ("globex", "fresh")]


def test_a_tenants_own_tier_is_what_counts_for_it() -> None:
    looser = promises({"events": "near_real_time"}, acme={"tier": "daily"})
    assert seen(at(-90), declared=looser)["daily"].state == "fresh"
    stricter = promises({"events": "daily"}, acme={"tables": {"events": "near_real_time"}})
    assert seen(at(-90), declared=stricter)["near_real_time"].state == "late"


# No events


def test_a_tenant_that_sends_nothing_is_quiet_and_its_data_are_complete() -> None:
    found = seen(newest=NOON, now=NIGHT)
    assert states(found) == ["quiet", "quiet", "fresh"]
    assert (found["hourly"].age_minutes, found["hourly"].data_through) == (0, NIGHT)
    assert found["hourly"].reason == "no event was received since 2026-03-10 12:00 UTC, and all of before is published"


def test_a_tenant_that_never_sent_anything_is_neither_fresh_nor_late() -> None:
    found = seen()
    assert states(found) == ["empty"] * 3
    assert (found["daily"].data_through, found["daily"].received_through) == (None, None)
    # its first file is judged as any other
    assert states(seen(at(-6))) == ["late", "fresh", "fresh"]


def test_silence_is_news_where_events_are_expected() -> None:
    declared = promises(acme={"expect_events_every_hours": 24})
    assert states(seen(newest=at(day=-1), declared=declared)) == ["quiet", "quiet", "fresh"]
    found = seen(newest=at(-1, day=-1), declared=declared)
    assert states(found) == ["silent"] * 3
    assert found["daily"].reason == (
        "no event was received since 2026-03-09 11:59 UTC, and all of before is published; they are expected every 24 h"
    )


def test_a_closed_day_is_no_silence() -> None:
    friday, monday = datetime(2026, 3, 6, 20), datetime(2026, 3, 9, 8)  # noqa: DTZ001
    shop = {"expect_events_every_hours": 24, "closed": ["saturday", "sunday"]}
    assert states(seen(newest=friday, now=monday, declared=promises(acme=shop)))[0] == "quiet"
    late_monday = monday + timedelta(hours=13)
    assert states(seen(newest=friday, now=late_monday, declared=promises(acme=shop)))[0] == "silent"


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    st.timedeltas(timedelta(0), timedelta(days=40)),
    st.sets(st.sampled_from(["monday", "friday", "sunday"])),
)
def test_open_time_is_the_time_outside_of_closed_days(begin: datetime, length: timedelta, closed: set[str]) -> None:
    end = begin + length
    slow, moment = timedelta(0), begin
    while moment < end:
        step = min(datetime.combine(moment.date(), datetime.min.time()) + timedelta(days=1), end)
        slow += (step - moment) * (moment.strftime("%A").lower() not in closed)
        moment = step
    assert open_time(begin, end, frozenset(closed)) == slow


# Received, and of no use


def test_what_came_and_could_not_be_used_is_told_unless_events_that_came_are_late() -> None:
    came = {"acme": Unusable(at(-30), 2, "a.csv", "no header")}

    def told(*waiting: datetime, newest: datetime | None = None) -> Status:
        receipts = tuple(Receipt("acme", since) for since in waiting)
        evidence = Evidence(receipts, {"acme": newest} if newest else {}, unusable=came)
        return judge(promises({"events": "hourly"}), ["acme"], evidence, NOON)[0]

    for status in (told(), told(at(-5)), told(newest=at(-5)), told(newest=at(day=-9))):
        assert (status.state, status.reason) == (
            "unusable", "2 deliveries, the first received 2026-03-10 11:30 UTC could not be used: a.csv: no header"
        )  # fmt: skip
    assert told(at(-61)).state == "late"


# What keeps it from being judged or published


def test_a_paused_tenant_is_neither_judged_nor_started_and_its_age_is_told() -> None:
    declared = promises(acme={"pauses": [{"first": at(-120), "reason": "moves to a new shop"}]})
    found = seen(at(-90), declared=declared)
    assert states(found) == ["paused"] * 3
    assert (found["hourly"].age_minutes, found["hourly"].reason) == (90, "paused: moves to a new shop")
    assert due(declared, Evidence((Receipt("acme", at(-90)),)), NOON) == []


def test_a_pause_begins_and_ends_at_its_hour() -> None:
    for first, last, state in ((-120, -1, "late"), (-120, 0, "late"), (-120, 1, "paused"), (1, 9, "late")):
        pause = {"first": at(first), "last": at(last), "reason": "moves to a new shop"}
        assert seen(at(-90), declared=promises(acme={"pauses": [pause]}))["near_real_time"].state == state


def test_held_publishing_is_said_and_starts_nothing() -> None:
    assert states(seen(at(-90), held="wrong prices")) == ["held"] * 3
    assert "publishing is held since a rollback (wrong prices)" in seen(at(-90), held="wrong prices")["daily"].reason
    assert due(promises(), Evidence((Receipt("acme", at(-90)),), held="wrong prices"), NOON) == []
    # what readers see is complete all the same
    assert states(seen(newest=at(-3), held="wrong prices")) == ["fresh"] * 3


def test_a_clock_that_went_back_does_not_pass_for_freshness() -> None:
    found = seen(at(120))
    assert states(found) == ["unknown"] * 3
    assert found["daily"].reason.endswith("received at 2026-03-10 14:00 UTC, which is ahead of the clock")
    assert (found["daily"].age_minutes, found["daily"].data_through) == (0, NOON)
    # what is late is late, whatever else came
    assert states(seen(at(120), at(-61))) == ["late", "late", "unknown"]
    assert [found.tier for found in due(promises(), Evidence((Receipt("acme", at(120)),)), NOON)] == [
        "near_real_time", "hourly", "daily"
    ]  # fmt: skip


# What is due


def tiers_due(*waiting: datetime, now: datetime = NOON, declared: Promises | None = None, loaded: bool = True) -> list[str]:
    evidence = Evidence(tuple(Receipt("acme", since, loaded) for since in waiting))
    return [found.tier for found in due(declared or promises(), evidence, now)]


def test_near_real_time_starts_at_once_hourly_near_its_promise_daily_at_night() -> None:
    assert tiers_due(NOON) == ["near_real_time"]
    hourly = promises({"users": "hourly", "cohorts": "daily"})
    assert tiers_due(at(-39), declared=hourly) == []
    assert tiers_due(at(-40), declared=hourly) == ["hourly"]
    assert tiers_due(at(-39), now=at(14 * 60 + 30), declared=promises({"cohorts": "daily"})) == ["daily"]


def test_nothing_waits_nothing_is_due() -> None:
    assert tiers_due() == []


def test_a_file_is_loaded_before_its_tier_is_due() -> None:
    assert tiers_due(at(-90), loaded=False) == []


def test_after_six_hours_without_a_daemon_all_that_is_overdue_starts_in_tier_order() -> None:
    received = [at(-360 + 10 * n) for n in range(36)]
    assert states(seen(*received)) == ["late", "late", "fresh"]
    found = due(promises(), Evidence(tuple(Receipt("acme", since) for since in received)), NOON)
    assert [one.tier for one in found] == ["near_real_time", "hourly"]
    assert {one.since for one in found} == {at(-360)}
    assert found[1].reason == (
        "acme: received 2026-03-10 06:00 UTC, waits 6 h of the promised 60 min; hourly starts after 40 min"
    )
    # and once it is published, all is well
    assert states(seen(newest=received[-1])) == ["quiet", "fresh", "fresh"]


# Rules

MOMENTS = st.integers(-5000, 200).map(at)
RECEIPTS = st.lists(st.tuples(st.sampled_from(["acme", "globex", "initech"]), MOMENTS), max_size=8)
OWN: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {}, optional={"tier": st.sampled_from(list(TABLES.values())), "expect_events_every_hours": st.just(1)}
)


def newest(receipts: Sequence[tuple[str, datetime]]) -> dict[str, datetime]:
    return {tenant: max(since for name, since in receipts if name == tenant) for tenant, _ in receipts}


@given(RECEIPTS, RECEIPTS, st.booleans(), OWN)
def test_data_through_never_passes_the_receipt_of_an_unprocessed_event(
    published: list[tuple[str, datetime]], waiting: list[tuple[str, datetime]], held: bool, own: dict[str, Any]
) -> None:
    evidence = Evidence(tuple(Receipt(*one) for one in waiting), newest(published + waiting), "why" if held else None)
    for row in judge(promises(acme=own), ["acme", "globex", "initech"], evidence, NOON):
        unseen = [since for tenant, since in waiting if tenant == row.tenant_id]
        assert row.data_through is None or all(row.data_through <= since for since in unseen)
        assert row.data_through is None or row.data_through <= NOON
        late = unseen and NOON - min(unseen) > timedelta(minutes=row.promised_minutes)
        assert (row.state == "late") == bool(late and not held)


@given(RECEIPTS)
def test_publishing_everything_makes_everything_fresh_or_quiet(receipts: list[tuple[str, datetime]]) -> None:
    tenants = sorted({tenant for tenant, _ in receipts})
    found = judge(promises(), tenants, Evidence((), newest(receipts)), NOON)
    assert {row.state for row in found} <= {"fresh", "quiet"}
    assert {row.data_through for row in found} <= {NOON}
    assert due(promises(), Evidence((), newest(receipts)), NOON) == []


@given(RECEIPTS, st.integers(0, 7))
def test_publishing_some_of_it_never_makes_a_table_look_fresher_than_what_is_left(
    receipts: list[tuple[str, datetime]], done: int
) -> None:
    """Whatever is published first, an old day or a new one: the oldest that is left decides."""
    left = receipts[done:]
    for row in judge(promises(), ["acme"], Evidence(tuple(Receipt(*one) for one in left), newest(receipts)), NOON):
        mine = [since for tenant, since in left if tenant == "acme"]
        age = max((NOON - min(mine)).total_seconds() / 60, 0) if mine else 0
        assert row.age_minutes == pytest.approx(age, abs=0.01)
