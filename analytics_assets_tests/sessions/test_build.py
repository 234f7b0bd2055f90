"""What a session is, in the words of a reader, and: built piece by piece it is what it is built as a whole."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
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


def test_a_late_event_joins_the_sessions_of_three_days_into_one() -> None:
    rules = SessionRules(inactivity_minutes=1440, longest_hours=72, most_events=10)
    tables = built(*events_at(0, 60 * 20, 60 * 52), rules=rules)
    assert sorted(row["date"] for row in tables.sessions()) == [DAY, DAY + timedelta(days=2)]
    tables.rebuild(tables.add([an_event("late", timestamp=at(60 * 36))]))
    assert tables.spans() == [(0, 60 * 52, 4)]
    assert [row["date"] for row in tables.sessions()] == [DAY]


def test_a_late_event_before_a_session_of_full_length_sets_its_end_aside() -> None:
    tables = built(*events_at(0, 1440, session_id="s1"))
    assert tables.spans() == [(0, 1440, 2)]
    tables.rebuild(tables.add([an_event("late", session_id="s1", timestamp=at(-721))]))
    assert tables.spans() == [(-721, 0, 2)]
    assert tables.runaways() == {("session:s1", "too_long"): 1}


def test_of_two_events_of_one_moment_the_smaller_id_is_the_first() -> None:
    views = [a_view(name, page_title=name, campaign=name, user_id=f"u{name}") for name in ("2", "1", "3")]
    (session,) = built(*views).sessions()
    assert (session["first_page_title"], session["last_page_title"]) == ("1", "3")
    assert (session["campaign"], session["user_id"]) == ("1", "u3")


def test_a_page_viewed_after_midnight_lies_on_its_own_day_and_keeps_its_place_in_the_session() -> None:
    tables = built(a_view("1", timestamp=at(715)), a_view("2", timestamp=at(725)))
    tables.rebuild([DAY + timedelta(days=1)])
    views = [dict(zip(PAGE_VIEWS.column_names, row, strict=True)) for row in tables.rows["new_page_views"]]
    assert sorted((view["date"], view["page_view_in_session"], view["page_views_in_session"]) for view in views) == [
        (DAY, 1, 2),
        (DAY + timedelta(days=1), 2, 2),
    ]


@pytest.mark.parametrize("key", ["session_id", "anonymous_id", "user_id"])
@pytest.mark.parametrize("odd", [" ", "\t\n", "\x00", "a\x00b", "\x1f", "\u202e", "'; drop table keys; --", "session:s1"])
def test_an_odd_id_is_an_id_like_any_other(key: str, odd: str) -> None:
    named = {"anonymous_id": None, key: odd}
    tables = built(an_event("m1", **named), an_event("m2", **named), an_event("m3", **{**named, key: f"{odd}x"}))
    assert sorted(row["events"] for row in tables.sessions()) == [1, 2]


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
                st.sampled_from([("device-1", None), ("device-2", "u1"), ("device-1", "u2"), (None, "u1"), (None, None)]),
                st.sampled_from([None, None, "s1", "s2"]),
                # Bursts at few hours, and steps around the limits of 30 minutes and 24 hours.
                st.integers(0, 12),
                st.sampled_from([0, 0, 6, 12, 18, 23, 24]),
                st.sampled_from([-31, -30, -29, -1, 0, 1, 29, 30, 31, 45]),
                st.sampled_from(["page", "page_ping", "track"]),
            ),
            min_size=1,
            max_size=60,
        )
    )
    return [
        (a_view if kind == "page" else an_event)(
            f"m{n:03}",
            anonymous_id=device,
            user_id=user,
            session_id=session,
            timestamp=at(60 * hour + minute, day=day),
            page_view_id=f"p{n % 7}" if kind != "track" and n % 3 else None,
            campaign=f"c{n}" if n % 4 == 0 else None,
            revenue=f"{n}.25" if n % 5 == 0 else None,
            **({"event": "page_ping", "page_url": f"https://acme.test/{n}"} if kind == "page_ping" else {}),
        )
        for n, ((device, user), session, day, hour, minute, kind) in enumerate(rows)
    ]


# What of each table the definition below speaks of.
SHOWN = {
    "new_sessions": ("date", "started_at", "ended_at", "events", "user_id", "anonymous_id", "revenue", "page_views",
                     "first_page_url", "last_page_url", "campaign"),
    "new_page_views": ("date", "page_view_id", "started_at", "ended_at", "page_view_in_session", "page_views_in_session",
                       "page_url", "user_id"),
    "new_runaways": ("date", "session_key", "events", "reason"),
}  # fmt: skip
KEYS = (("session", "session_id"), ("device", "anonymous_id"), ("user", "user_id"), ("event", "message_id"))


def shown(tables: Built) -> dict[str, Rows]:
    found = {}
    for name, columns in SHOWN.items():
        places = [TABLES[name].column_names.index(column) for column in columns]
        found[name] = sorted((tuple(row[place] for place in places) for row in tables.rows[name]), key=str)
    return found


def defined(events: Sequence[Event], rules: SessionRules) -> dict[str, Rows]:
    """The definition, event by event: the columns of SHOWN."""
    keyed: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event["timestamp"], event["message_id"])):
        kind, name = next((kind, name) for kind, name in KEYS if event.get(name) is not None)
        keyed[f"{kind}:{event[name]}"].append(event)
    longest = timedelta(hours=rules.longest_hours)
    found: dict[str, Rows] = {name: [] for name in SHOWN}
    aside: Counter[tuple[date, str, str]] = Counter()
    for key, stream in keyed.items():
        limit = longest if key.startswith("session:") else timedelta(minutes=rules.inactivity_minutes)
        chains: list[list[Event]] = []
        for event in stream:
            if chains and event["timestamp"] - chains[-1][-1]["timestamp"] <= limit:
                chains[-1].append(event)
            else:
                chains.append([event])
        for chain in chains:
            kept = [event for event in chain if event["timestamp"] - chain[0]["timestamp"] <= longest]
            crowded = len(kept) > rules.most_events
            for n, event in enumerate(chain):
                if n >= len(kept) or crowded:
                    reason = "too_long" if n >= len(kept) else "too_many_events"
                    aside[event["timestamp"].date(), key, reason] += 1
            if not crowded:
                found["new_sessions"].append(session_of(kept))
                found["new_page_views"] += views_of(kept)
    found["new_runaways"] = [(day, key, events, reason) for (day, key, reason), events in aside.items()]
    return {name: sorted(rows, key=str) for name, rows in found.items()}


def session_of(events: Sequence[Event]) -> tuple[Any, ...]:
    start = events[0]["timestamp"]
    users = [event["user_id"] for event in events if "user_id" in event]
    devices = [event["anonymous_id"] for event in events if "anonymous_id" in event]
    campaigns = [event["campaign"] for event in events if "campaign" in event]
    pages = [event["page_url"] for event in events if event["type"] == "page"]
    sights = [event for event in events if event["type"] == "page" or is_ping(event)]
    revenue = sum((Decimal(event.get("revenue", 0)) for event in events), Decimal("0.0000"))
    return (
        start.date(), start, events[-1]["timestamp"], len(events), (users or [None])[-1], (devices or [None])[0], revenue,
        len({event.get("page_view_id", event["message_id"]) for event in sights}),
        sights[0]["page_url"] if sights else None, (pages or [event["page_url"] for event in sights[:1]] or [None])[-1],
        (campaigns or [None])[0],
    )  # fmt: skip


def views_of(events: Sequence[Event]) -> Rows:
    views: dict[str, list[Event]] = {}
    for event in events:
        if event["type"] == "page":
            views.setdefault(str(event.get("page_view_id", event["message_id"])), []).append(event)
    user = ([None] + [event["user_id"] for event in events if "user_id" in event])[-1]
    rows: Rows = []
    for n, (name, seen) in enumerate(views.items(), 1):
        pings = [event["timestamp"] for event in events if is_ping(event) and event["page_view_id"] == name]
        start = seen[0]["timestamp"]
        url = seen[0]["page_url"]
        rows.append((start.date(), name, start, max([start, *pings]), n, len(views), url, user))
    return rows


def is_ping(event: Event) -> bool:
    return event["event"] == "page_ping" and "page_view_id" in event


@settings(max_examples=30, deadline=None)
@given(events=visits(), seed=st.integers(0, 10**6))
def test_sessions_are_what_the_definition_says_however_they_are_built(events: list[Event], seed: int) -> None:
    rng = random.Random(seed)
    whole = built(*events)
    assert shown(whole) == defined(events, RULES)

    rng.shuffle(events)
    pieces = Built()
    while events:
        size = rng.randint(1, len(events))
        waiting, events = pieces.add(events[:size]), events[size:]
        if rng.random() < 0.3:
            for day in rng.sample(waiting, len(waiting)):
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
