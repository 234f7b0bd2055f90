"""What a pool is to have: the forecast as rows, the calendar, and what may become of a decision."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from analytics_assets.settings import ConfigError
from analytics_assets.tuning.calendar import Calendar, load_calendar
from analytics_assets.tuning.declared import Pool, Scaling, load_scaling
from analytics_assets.tuning.keda import exposition, scaled_object
from analytics_assets.tuning.keep import Tuning, spikes
from analytics_assets.tuning.loads import Lately
from analytics_assets.tuning.plan import Known, decided, to_take_back
from analytics_assets.tuning.tables import Ahead, Decided
from analytics_assets_tests.builders import NOW, Line
from analytics_assets_tests.tuning.history import WAVE, burst, receive, work

HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)
# A unit serves 1,000 an hour at 80 % of it; the load is 2,400, so three units.
POOL = Pool(serves="events", unit_load=1000, floor=1, quota=8)
ACT = Scaling(mode="act", pools={"shop": POOL})


def an_hour(lead: int, **changes: Any) -> Ahead:
    """The forecast of an hour; the first one is the hour before now."""
    row = Ahead(
        None, "events", NOW - 2 * HOUR, lead, NOW - 2 * HOUR + lead * HOUR, 2300.0, 2200.0, 2400.0, 2100.0, 2500.0,
        "model", 0.8, None, "",
    )  # fmt: skip
    return replace(row, **changes)


KNOWN = Known(NOW, Lately((2400.0, 2400.0), NOW - 5 * WEEK), [an_hour(lead) for lead in range(1, 9)])


def plan(known: Known = KNOWN, scaling: Scaling = ACT, calendar: Calendar | None = None, pool: Pool = POOL) -> Decided:
    return decided("shop", pool, scaling, calendar or Calendar(), known)


def after(known: Known, *rows: Decided) -> Known:
    return replace(known, before=rows, limit=rows[-1].applied)


def test_a_decision_names_what_it_rests_on() -> None:
    row = plan()
    assert (row.capacity, row.was, row.applied, row.held, row.mode) == (3, 1, 3, None, "act")
    assert (row.observed, row.forecast_p90, row.expected_most, row.forecast_origin) == (2400, 2400, 2500, NOW - 2 * HOUR)
    assert row.reason == (
        "raised from 1 to 3: forecast: its 90th percentile needs 3 units; observed: the newest load needs 3 units"
    )


def test_capacity_is_there_before_the_load_that_is_forecast_for_the_next_hour() -> None:
    ahead = [*KNOWN.ahead[:2], an_hour(3, upper_80=4800.0), *KNOWN.ahead[3:]]
    assert plan(replace(KNOWN, ahead=ahead)).capacity == 6
    later = [*KNOWN.ahead[:3], an_hour(4, upper_80=4800.0), *KNOWN.ahead[4:]]
    assert plan(replace(KNOWN, ahead=later)).capacity == 3


@pytest.mark.parametrize(
    ("change", "scaling", "capacity", "held", "said"),
    [
        ({"lately": Lately((2400.0, 2400.0), NOW - 3 * WEEK)}, ACT, 3, "history",
         "only advised: its load is known for 21 days, acting needs 28"),
        ({"frozen": "releases are frozen"}, ACT, 1, "frozen", "3 not applied: releases are frozen"),
        ({"limit": 5}, ACT, 5, "person", "left alone: a person set the limit to 5"),
        ({}, ACT.model_copy(update={"mode": "advise"}), 3, None, "raised from 1 to 3"),
    ],
)  # fmt: skip
def test_nothing_is_applied_without_a_licence(
    change: dict[str, Any], scaling: Scaling, capacity: int, held: str | None, said: str
) -> None:
    row = plan(replace(KNOWN, **change), scaling)
    assert (row.capacity, row.applied, row.held) == (capacity, None, held)
    assert said in row.reason


def test_the_plan_goes_on_from_the_limit_that_it_set_and_keeps_off_one_that_a_person_set() -> None:
    first = plan()
    again = plan(after(KNOWN, first))
    assert (again.was, again.capacity, again.applied) == (3, 3, 3)
    person = replace(after(KNOWN, first, again), limit=6)
    assert plan(person).held == "person"
    # Noted and killed before it was set: the limit is the one before.
    killed = replace(after(KNOWN, first, replace(again, applied=4, capacity=4)), limit=3)
    assert plan(killed).applied == 3
    assert plan(replace(person, limit=None)).applied == 3


def test_a_limit_that_the_plan_set_is_taken_back_when_it_only_advises_and_a_persons_is_not() -> None:
    advise, known = ACT.model_copy(update={"mode": "advise"}), after(KNOWN, plan())
    assert to_take_back("shop", advise, known)
    assert to_take_back("shop", ACT.model_copy(update={"pools": {}}), known)
    assert not to_take_back("shop", ACT, known)
    assert not to_take_back("shop", advise, replace(known, limit=6))


def test_a_load_over_its_interval_raises_by_a_bounded_step_and_tells_people() -> None:
    row = plan(replace(after(KNOWN, plan()), lately=Lately((2400.0, 7000.0), NOW - 5 * WEEK)))
    assert (row.capacity, row.held) == (6, "spike")
    assert row.alert == "load of 7,000 is over the 2,500 expected at most: a spike, or a change to look at"


def test_what_was_not_forecast_is_no_spike() -> None:
    """The newest forecast begins at 11:00; at 11:40 most of the last hour is older."""
    high = Lately((2400.0, 7000.0), NOW - 5 * WEEK)
    for minutes, told in ((-20, False), (-9, True)):
        known = replace(after(KNOWN, plan()), now=NOW + timedelta(minutes=minutes), lately=high)
        assert (plan(known).alert is not None) is told


BERLIN = {"country": "DE", "timezone": "Europe/Berlin", "tenants": ["acme"]}
# NOW is Friday, 12:00 UTC: 13:00 in Berlin.
OPEN = {"name": "shop hours", "place": "berlin", "opens": "13:30", "closes": "18:00", "of": "events", "expected": 4800}


def a_calendar(**changes: Any) -> Calendar:
    hours = {**OPEN, **changes.pop("hours", {})}
    return Calendar.model_validate({"places": {"berlin": {**BERLIN, **changes}}, "opening_hours": [hours]})


@pytest.mark.parametrize(
    ("calendar", "capacity", "said"),
    [
        (a_calendar(), 6, "calendar: shop hours needs 6 units"),
        (a_calendar(hours={"warm_up_minutes": 29}), 3, None),
        (a_calendar(timezone="Europe/London"), 3, None),
        (a_calendar(hours={"weekdays": ["monday"]}), 3, None),
        (a_calendar(hours={"opens": "20:00", "closes": "14:00"}), 6, "calendar: shop hours needs 6 units"),
        (a_calendar(hours={"of": "work"}), 3, None),
        (a_calendar(hours={"tenant": "acme"}), 6, "calendar: shop hours needs 6 units"),
    ],
)
def test_capacity_is_warm_before_the_declared_hours_of_the_place(calendar: Calendar, capacity: int, said: str | None) -> None:
    row = plan(calendar=calendar)
    assert row.capacity == capacity
    assert said is None or said in row.reason
    assert (row.calendar is not None) == (said is not None)


def test_nobody_opens_on_a_public_holiday_of_the_place() -> None:
    christmas = datetime.fromisoformat("2026-12-25 12:00")
    known = replace(KNOWN, now=christmas, lately=Lately((2400.0, 2400.0), christmas - 5 * WEEK))
    row = plan(known, calendar=a_calendar())
    assert "calendar: shop hours is closed for Christmas Day (DE)" in row.reason and row.calendar is None
    assert plan(known, calendar=a_calendar(hours={"on_holidays": True})).calendar == 4800
    # Epiphany is one in Bavaria, and not in Berlin.
    epiphany = datetime(2027, 1, 6, 12, tzinfo=UTC)
    assert a_calendar(subdivision="BY").holiday("acme", epiphany) == "Epiphany (DE)"
    assert a_calendar(subdivision="BE").holiday("acme", epiphany) is None
    assert a_calendar(subdivision="BY").holiday("globex", epiphany) is None


def test_caches_are_warmed_up_shortly_before_what_opens_or_is_planned_and_has_a_warm_up() -> None:
    friday, ten = datetime(2026, 3, 20, 12, tzinfo=UTC), timedelta(minutes=10)

    def opening(minutes: float, calendar: Calendar) -> list[list[str]]:
        return list(calendar.opening(friday + timedelta(minutes=minutes), ten).values())

    # The shop opens at 12:30 UTC, and the sale begins at 13:00.
    shop = a_calendar()
    assert [opening(at, shop) for at in (19, 20, 29.9, 30)] == [[], [["shop hours"]], [["shop hours"]], []]
    assert opening(25, a_calendar(hours={"warm_up_minutes": 0})) == []
    assert [opening(at, a_calendar(hours={"warm_up_minutes": 3})) for at in (26, 27)] == [[], [["shop hours"]]]
    assert opening(25, a_calendar(hours={"weekdays": ["monday"]})) == []
    sale = Calendar.model_validate({"planned_events": [{**SALE, "begin": "2026-03-20T14:00:00+01:00"}]})
    assert [opening(at, sale) for at in (49, 50, 60)] == [[], [["the sale"]], []]
    assert shop.opening(datetime(2026, 12, 25, 12, 25, tzinfo=UTC), ten) == {}


SALE = {"name": "the sale", "begin": "2026-03-20T12:00:00Z", "end": "2026-03-20T20:00:00Z", "factor": 3}


@pytest.mark.parametrize(
    ("now", "tenant", "calendar", "said"),
    [
        (NOW, None, 6900.0, "calendar: the sale needs 9 units"),
        (NOW - HOUR, None, 6900.0, "calendar: the sale needs 9 units"),
        (NOW - HOUR - timedelta(minutes=1), None, None, None),
        # A fifth of all events are acme's: of all there are two fifths more.
        (NOW, "acme", 2300 * 1.4, "calendar: the sale needs 5 units"),
        (NOW, "globex", None, "what is usual is not known, so nothing follows from the sale"),
    ],
)
def test_a_planned_event_multiplies_what_is_usual(
    now: datetime, tenant: str | None, calendar: float | None, said: str | None
) -> None:
    declared = Calendar.model_validate({"planned_events": [{**SALE, "tenant": tenant}]})
    ahead = [*KNOWN.ahead, *(replace(row, tenant="acme", value=460.0) for row in KNOWN.ahead)]
    row = plan(replace(KNOWN, now=now, ahead=ahead), calendar=declared)
    assert row.calendar == pytest.approx(calendar)
    assert said is None or said in row.reason


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("scaling.yaml", "pools:\n  lab: {tenant: nobody, serves: events, unit_load: 1, quota: 2}\n",
         "scaling.yaml:2: 'nobody' is no declared tenant; correct it"),
        ("scaling.yaml", "pools:\n  a: {tenant: acme, serves: events, unit_load: 1, quota: 2}\n"
         "  b: {tenant: acme, serves: work, unit_load: 1, quota: 2}\n", "the tenant 'acme' has two pools; keep one"),
        ("scaling.yaml", "mode: perhaps\n", "scaling.yaml:1: mode: Input should be 'observe', 'advise' or 'act'"),
        ("scaling.yaml", "pools:\n  Lab: {serves: events, unit_load: 1, quota: 2}\n", "'Lab' is no name of a pool"),
        ("calendar.yaml", "places:\n  there:\n    country: XX\n    timezone: Europe/Berlin\n",
         "calendar.yaml:3: no public holidays are known of XX; correct it"),
        ("calendar.yaml", "places:\n  there: {country: DE, timezone: Berlin}\n", "'Berlin' is no time zone"),
        ("calendar.yaml", f"opening_hours:\n  - {yaml.safe_dump(OPEN, default_flow_style=True)}",
         "which is not declared; add it to places"),
        ("calendar.yaml", f"planned_events:\n  - {yaml.safe_dump({**SALE, 'tenant': 'x'}, default_flow_style=True)}",
         "'x' is no declared tenant; correct it"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_one_sentence_with_its_cure(tmp_path: Path, file: str, text: str, said: str) -> None:
    (tmp_path / file).write_text(text)
    load: Callable[..., object] = load_scaling if file == "scaling.yaml" else load_calendar
    with pytest.raises(ConfigError) as error:
        load(tmp_path / file, ("acme",))
    assert said in str(error.value)


# Over a data home


def declared(line: Line, **scaling: Any) -> Tuning:
    pools = {"background": {"serves": "work", "unit_load": 1000, "quota": 4}}
    (line.pipeline.settings.config / "scaling.yaml").write_text(yaml.safe_dump({"mode": "act", "pools": pools, **scaling}))
    return Tuning.declared(line.pipeline.settings)


def test_every_load_is_forecast_or_says_why_not(line: Line) -> None:
    receive(line, NOW, acme=5, globex=0.4)
    # Absurd times, as after a jump of the clock, are not learned from.
    work(line, NOW, 2, seconds=f"case n when 2 then -5 when 3 then 1e12 when 4 then 'nan'::double else {WAVE} end")
    calendar = {"places": {"berlin": BERLIN}}
    (line.pipeline.settings.config / "calendar.yaml").write_text(yaml.safe_dump(calendar))
    tuning = declared(line, forecast={"horizon_hours": 3})
    rows = tuning.forecast(line.con, NOW)
    acme = [row for row in rows if (row.tenant, row.load) == ("acme", "events")]
    assert [row.lead for row in acme] == [1, 2, 3]
    assert {row.origin for row in acme} == {NOW - HOUR} and acme[0].time == NOW
    # The same wave each day: the referee misses nothing.
    assert {row.source for row in acme} == {"referee"} and acme[0].value == pytest.approx(1500)
    assert [row.reason for row in rows if row.tenant == "globex"] == [
        "events of globex: needs a week of history and has 3 days"
    ]
    seconds = [row.value for row in rows if row.load == "work"]
    assert len(seconds) == 3 and max(value for value in seconds if value is not None) < 1600
    assert tuning.ahead(line.con) == sorted(
        rows, key=lambda row: (row.load, row.tenant is None, row.tenant or "", row.lead or 0)
    )


def test_nothing_is_known_of_a_data_home_without_events_and_nothing_fails(line: Line) -> None:
    tuning = declared(line)
    rows = tuning.forecast(line.con, NOW)
    assert {row.reason for row in rows} == {f"nothing was {what} in the last 8 weeks" for what in ("received", "measured")}
    (row,) = tuning.decide(line.con, NOW, {}).rows
    assert (row.capacity, row.applied, row.held) == (1, None, "history")
    assert spikes(line.con, line.pipeline.home, NOW) == []


def test_a_decision_of_the_last_hour_that_met_a_spike_is_told_until_the_next_one(line: Line) -> None:
    receive(line, NOW, acme=5)
    pools = {"shop": {"serves": "events", "unit_load": 1000, "quota": 9}}
    tuning = declared(line, pools=pools, forecast={"horizon_hours": 2, "history_hours": 504})
    tuning.forecast(line.con, NOW - HOUR)
    burst(line, NOW - HOUR / 4, "acme", 9000)
    (row,) = tuning.decide(line.con, NOW, {}).rows
    assert row.alert is not None and (row.observed, row.expected_most) == (10_483, pytest.approx(1500, abs=20))
    assert (row.capacity, row.held) == (2, "spike")
    assert spikes(line.con, line.pipeline.home, NOW + HOUR / 2) == [row]
    tuning.decide(line.con, NOW + 3 * HOUR, {})
    assert spikes(line.con, line.pipeline.home, NOW + 3 * HOUR) == []


def test_decisions_are_kept_as_declared_and_the_last_that_was_applied_for_longer(line: Line) -> None:
    receive(line, NOW, acme=5)
    tuning = declared(line, keep_days=2, pools={"shop": {"serves": "events", "unit_load": 1000, "quota": 9}})

    def kept(days: int, limits: dict[str, int]) -> list[int]:
        tuning.decide(line.con, NOW + timedelta(days=days), limits)
        return [(row.decided_at - NOW).days for row in tuning.plan(line.con)]

    assert kept(0, {}) == [0]
    # A person's limit: nothing was applied since.
    assert kept(1, {"shop": 7}) == [0, 1]
    assert kept(4, {"shop": 7}) == [0, 4]
    assert kept(5, {}) == [0, 4, 5]
    assert kept(6, {}) == [5, 6]


# Kubernetes


def test_the_plan_is_a_scaled_object_that_says_what_the_pool_may_do() -> None:
    pool = POOL.model_copy(update={"floor": 2, "cooldown_minutes": 20})
    calendar = a_calendar(hours={"opens": "00:15", "closes": "00:10", "weekdays": ["monday", "sunday"], "warm_up_minutes": 30})
    document = yaml.safe_load(scaled_object("shop", pool, calendar, target="loader", prometheus="http://prometheus:9090"))
    assert (document["apiVersion"], document["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = document["spec"]
    assert (spec["scaleTargetRef"]["name"], spec["minReplicaCount"], spec["maxReplicaCount"]) == ("loader", 2, 8)
    assert spec["cooldownPeriod"] == 1200
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 30 * 60
    capacity, hours = spec["triggers"]
    assert capacity["metadata"]["query"] == 'max(analytics_pool_capacity{pool="shop",mode="act"})'
    # Warm from the evening before on, and closed on the next day.
    assert hours["metadata"] == {
        "timezone": "Europe/Berlin", "start": "45 23 * * 0,6", "end": "10 0 * * 1,2", "desiredReplicas": "6"
    }  # fmt: skip
    told = exposition([plan()]).splitlines()
    assert told[-1] == 'analytics_pool_capacity{pool="shop",mode="act"} 3' and capacity["metricType"] == "AverageValue"


def test_holidays_are_known_of_the_years_to_come() -> None:
    calendar = a_calendar()
    assert calendar.places["berlin"].holiday(date(2030, 10, 3)) == "German Unity Day"
