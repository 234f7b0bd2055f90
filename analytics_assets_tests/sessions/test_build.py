"""What a session is, in the words of a reader, and: built piece by piece it is what it is built as a whole."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.events.schema import EVENTS
from analytics_assets.sessions.build import build_sessions, window
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS
from analytics_assets.settings import SessionRules
from analytics_assets_tests.builders import DAY, NOON, a_view, an_event, at

Event = dict[str, Any]
Rows = list[tuple[Any, ...]]
RULES = SessionRules(inactivity_minutes=30, longest_hours=24, most_events=10)
TABLES = {"new_sessions": SESSIONS, "new_page_views": PAGE_VIEWS, "new_runaways": RUNAWAYS}


class Built:
    """The tables as they stand after each rebuild, which replaces whole days, as the warehouse does."""

    def __init__(self, rules: SessionRules = RULES) -> None:
        self.con = duckdb.connect()
        self.con.execute(f"create table events as {EVENTS.empty_select}")
        self.rules = rules
        self.rows: dict[str, Rows] = {name: [] for name in TABLES}

    def add(self, events: Sequence[Event]) -> list[date]:
        """Store events; returns the days that wait."""
        for event in events:
            names = [name for name in event if name in EVENTS.column_names and name != "properties"]
            marks = ", ".join("?" for _ in names)
            self.con.execute(f"insert into events ({', '.join(names)}) values ({marks})", [event[name] for name in names])
        return sorted({event["timestamp"].date() for event in events})

    def rebuild(self, days: Sequence[date]) -> tuple[date, ...]:
        low, high = window(days, self.rules)
        seen = f"select * from events where timestamp between timestamp '{low}' and timestamp '{high}'"
        built = build_sessions(self.con, seen, days, self.rules)
        for name, spec in TABLES.items():
            place = spec.column_names.index("date")
            kept = [row for row in self.rows[name] if row[place] not in built.days]
            fresh = self.con.execute(f"select {spec.select_list} from {name}").fetchall()
            assert {row[place] for row in fresh} <= set(built.days)
            self.rows[name] = sorted(kept + fresh, key=str)
        return built.days

    def sessions(self) -> list[Event]:
        return [dict(zip(SESSIONS.column_names, row, strict=True)) for row in self.rows["new_sessions"]]

    def runaways(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for row in self.rows["new_runaways"]:
            aside = dict(zip(RUNAWAYS.column_names, row, strict=True))
            found[aside["session_key"], aside["reason"]] += aside["events"]
        return found

    def spans(self) -> list[tuple[float, float, int]]:
        """(start, end, events) of each session, in minutes from the usual noon."""
        rows = [(minutes(row["started_at"]), minutes(row["ended_at"]), row["events"]) for row in self.sessions()]
        return sorted(rows)


def minutes(moment: datetime) -> float:
    return (moment - NOON).total_seconds() / 60


def built(*events: Event, rules: SessionRules = RULES) -> Built:
    tables = Built(rules)
    tables.rebuild(tables.add(events))
    return tables


def events_at(*when: float, **changes: Any) -> list[Event]:
    return [an_event(f"m{n}", timestamp=at(minute), **changes) for n, minute in enumerate(when)]


# What a session is


def test_a_pause_longer_than_the_declared_inactivity_ends_a_session() -> None:
    assert built(*events_at(0, 30, 60)).spans() == [(0, 60, 3)]
    assert built(*events_at(0, 30, 60 + 1 / 60)).spans() == [(0, 30, 2), (60 + 1 / 60, 60 + 1 / 60, 1)]


def test_a_session_that_the_source_gives_lives_on_over_longer_pauses() -> None:
    assert built(*events_at(0, 300, 1000, session_id="s1")).spans() == [(0, 1000, 3)]


def test_a_session_goes_on_across_midnight_and_lies_on_the_day_it_began() -> None:
    tables = built(*events_at(715, 725, 735))
    assert tables.spans() == [(715, 735, 3)]
    assert [row["date"] for row in tables.sessions()] == [DAY]


def test_a_late_event_between_two_sessions_makes_them_one() -> None:
    tables = built(*events_at(0, 50))
    assert len(tables.spans()) == 2
    tables.rebuild(tables.add([an_event("late", timestamp=at(25))]))
    assert tables.spans() == [(0, 50, 3)]


def test_a_late_event_moves_the_start_of_a_session_to_the_day_before() -> None:
    tables = built(*events_at(725, 730))
    before = tables.sessions()[0]
    tables.rebuild(tables.add([an_event("late", timestamp=at(715))]))
    assert tables.spans() == [(715, 730, 3)]
    assert before["date"] == DAY + timedelta(days=1) and tables.sessions()[0]["date"] == DAY


def test_devices_users_and_tenants_do_not_share_a_session() -> None:
    tables = built(
        an_event("1"),
        an_event("2", anonymous_id="device-2"),
        an_event("3", tenant_id="globex"),
        an_event("4", anonymous_id=None, user_id="u1"),
        an_event("5", anonymous_id=None, user_id="u2"),
        an_event("6", anonymous_id=None),
        an_event("7", anonymous_id=None),
    )
    assert len(tables.sessions()) == 7
    assert len({row["session_id"] for row in tables.sessions()}) == 7


def test_the_id_of_a_session_by_inactivity_does_not_depend_on_what_follows() -> None:
    (short,), (long,) = built(*events_at(0)).sessions(), built(*events_at(0, 10, 20)).sessions()
    assert short["session_id"] == long["session_id"]


def test_a_session_ends_at_its_longest_length_and_the_rest_is_set_aside() -> None:
    tables = built(*events_at(0, 1440, 1441, 1450, session_id="s1"))
    assert tables.spans() == [(0, 1440, 2)]
    assert tables.runaways() == {("session:s1", "too_long"): 2}


def test_a_session_with_too_many_events_is_set_aside_whole() -> None:
    assert built(*events_at(*range(10))).spans() == [(0, 9, 10)]
    tables = built(*events_at(*range(11)))
    assert (tables.spans(), tables.runaways()) == ([], {("device:device-1", "too_many_events"): 11})


def test_a_session_id_that_comes_back_after_a_silence_longer_than_a_session_begins_another() -> None:
    assert built(*events_at(0, 1441, session_id="s1")).spans() == [(0, 0, 1), (1441, 1441, 1)]


def test_pages_are_counted_once_in_order_with_the_first_and_the_last() -> None:
    tables = built(
        a_view("1", page_view_id="p1", timestamp=at(0)),
        a_view("2", page_view_id="p2", timestamp=at(1), page_title="Second"),
        a_view("3", page_view_id="p1", timestamp=at(2)),
        an_event("4", event="page_ping", page_view_id="p2", timestamp=at(9), page_url="https://acme.test/2"),
        an_event("5", timestamp=at(10)),
    )
    (session,) = tables.sessions()
    assert (session["page_views"], session["events"]) == (2, 5)
    assert (session["first_page_url"], session["last_page_url"]) == ("https://acme.test/1", "https://acme.test/3")
    views = [dict(zip(PAGE_VIEWS.column_names, row, strict=True)) for row in tables.rows["new_page_views"]]
    columns = ("page_view_id", "page_view_in_session", "page_views_in_session", "started_at", "ended_at", "page_title")
    assert [tuple(view[column] for column in columns) for view in views] == [
        ("p1", 1, 2, at(0), at(0), None),
        ("p2", 2, 2, at(1), at(9), "Second"),
    ]


def test_the_title_of_the_first_page_is_its_own_even_if_it_has_none() -> None:
    (session,) = built(a_view("1", timestamp=at(0)), a_view("2", timestamp=at(1), page_title="Second")).sessions()
    assert (session["first_page_title"], session["last_page_title"]) == (None, "Second")


def test_the_revenue_of_a_session_is_net() -> None:
    (session,) = built(an_event("1", revenue="10.25"), an_event("2", revenue="-3.05"), an_event("3")).sessions()
    assert str(session["revenue"]) == "7.2000"


# Pieces equal the whole


@st.composite
def visits(draw: st.DrawFn) -> list[Event]:
    """A few weeks of few visitors, dense enough that chains meet, cross midnight, run long and hold too many events."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["device-1", "device-2", None]),
                st.sampled_from([None, None, "s1", "s2"]),
                # Bursts at few hours, and steps around the limits of 30 minutes and 24 hours.
                st.integers(0, 12),
                st.sampled_from([0, 0, 6, 12, 18, 23, 24]),
                st.sampled_from([-31, -30, -29, -1, 0, 1, 29, 30, 31, 45]),
                st.booleans(),
            ),
            min_size=1,
            max_size=60,
        )
    )
    return [
        (a_view if page else an_event)(
            f"m{n:03}",
            anonymous_id=device,
            session_id=session,
            timestamp=at(60 * hour + minute, day=day),
            page_view_id=f"p{n % 7}" if page else None,
            user_id=f"u{n % 3}" if n % 5 == 0 else None,
        )
        for n, (device, session, day, hour, minute, page) in enumerate(rows)
    ]


def sessionised(events: Sequence[Event], rules: SessionRules) -> tuple[list[tuple[Any, ...]], Counter[tuple[str, str]]]:
    """The definition, event by event: (start, end, events) of each session, and what is set aside."""
    keyed: dict[str, list[datetime]] = defaultdict(list)
    for event in events:
        key = next(
            (f"{kind}:{event[name]}" for kind, name in KEYS if event.get(name) is not None), f"event:{event['message_id']}"
        )
        keyed[key].append(event["timestamp"])
    longest = timedelta(hours=rules.longest_hours)
    sessions, aside = [], Counter[tuple[str, str]]()
    for key, moments in keyed.items():
        limit = longest if key.startswith("session:") else timedelta(minutes=rules.inactivity_minutes)
        chains: list[list[datetime]] = []
        for moment in sorted(moments):
            if chains and moment - chains[-1][-1] <= limit:
                chains[-1].append(moment)
            else:
                chains.append([moment])
        for chain in chains:
            kept = [moment for moment in chain if moment - chain[0] <= longest]
            if len(chain) > len(kept):
                aside[key, "too_long"] += len(chain) - len(kept)
            if len(kept) > rules.most_events:
                aside[key, "too_many_events"] += len(kept)
            else:
                sessions.append((kept[0], kept[-1], len(kept)))
    return sorted(sessions), aside


KEYS = (("session", "session_id"), ("device", "anonymous_id"), ("user", "user_id"))


@settings(max_examples=40, deadline=None)
@given(events=visits(), seed=st.integers(0, 10**6))
def test_sessions_are_what_the_definition_says_however_they_are_built(events: list[Event], seed: int) -> None:
    rng = random.Random(seed)
    whole = built(*events)
    spans = sorted((row["started_at"], row["ended_at"], row["events"]) for row in whole.sessions())
    assert (spans, whole.runaways()) == sessionised(events, RULES)

    rng.shuffle(events)
    pieces = Built()
    while events:
        size = rng.randint(1, len(events))
        waiting, events = pieces.add(events[:size]), events[size:]
        if rng.random() < 0.3:
            for day in waiting:
                pieces.rebuild([day])
        else:
            pieces.rebuild(waiting)
    assert pieces.rows == whole.rows
    for day in {row["date"] for row in whole.sessions()}:
        pieces.rebuild([day])
    assert pieces.rows == whole.rows


@settings(max_examples=25, deadline=None)
@given(events=visits())
def test_every_event_is_in_one_session_or_set_aside(events: list[Event]) -> None:
    tables = built(*events)
    assert sum(row["events"] for row in tables.sessions()) + sum(tables.runaways().values()) == len(events)
    keys = [(row["tenant_id"], row["session_id"], row["started_at"]) for row in tables.sessions()]
    assert len(keys) == len(set(keys))


def test_days_built_one_by_one_through_the_warehouse_are_those_built_at_once(open_line: Any) -> None:
    rng = random.Random(5)
    events = [
        an_event(f"m{n}", anonymous_id=f"device-{n % 4}", timestamp=at(rng.uniform(-1000, 1000), day=rng.randrange(4)))
        for n in range(150)
    ]
    whole, pieces = open_line("whole"), open_line("pieces")
    whole.load(events)
    whole.sessions()
    rng.shuffle(events)
    for start in range(0, 150, 50):
        pieces.load(events[start : start + 50])
        waiting = pieces.pipeline.pending(pieces.con)
        rng.shuffle(waiting)
        for day in waiting:
            pieces.sessions([day])
    for spec in (SESSIONS, RUNAWAYS):
        assert pieces.rows(spec) == whole.rows(spec)


@pytest.mark.parametrize("hours", [1, 23, 24, 25, 72])
def test_an_inactivity_longer_than_a_session_is_bounded_by_it(hours: int) -> None:
    rules = SessionRules(inactivity_minutes=1440, longest_hours=hours, most_events=1000)
    events = events_at(*(n * 60 * min(hours, 24) for n in range(6)))
    whole = built(*events, rules=rules)
    pieces = Built(rules)
    for event in reversed(events):
        pieces.rebuild(pieces.add([event]))
    assert pieces.rows == whole.rows
