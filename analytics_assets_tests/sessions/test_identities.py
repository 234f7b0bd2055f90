"""Who somebody is: devices and earlier ids stitched to users, also when the declarations go in circles."""

import json
from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.events.schema import EVENTS
from analytics_assets.sessions.build import merge_identities
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS, USERS
from analytics_assets_tests.builders import Line, Opener, a_view, an_event, at, rows_of

Event = dict[str, Any]


def an_identify(message_id: str, user: str, device: str = "device-1", **changes: Any) -> Event:
    return an_event(message_id, **{"type": "identify", "event": "identify", "user_id": user, "anonymous_id": device, **changes})


def an_alias(message_id: str, earlier: str, user: str, **changes: Any) -> Event:
    declared = {"type": "alias", "event": "alias", "user_id": user, "anonymous_id": None, "properties": {"previousId": earlier}}
    return an_event(message_id, **{**declared, **changes})


def people(line: Line, *events: Event) -> dict[str, int]:
    """Sessions of each person, after loading all at once."""
    line.load(events)
    line.sessions()
    line.pipeline.rebuild_users(line.con)
    return dict(line.rows(USERS, columns="person_id, sessions"))


def test_who_logs_in_later_is_the_same_person_before(line: Line) -> None:
    assert people(line, an_event("1", timestamp=at(-300)), an_identify("2", "u1")) == {"u1": 2}


def test_who_never_logs_in_is_the_device(line: Line) -> None:
    assert people(line, an_event("1"), an_event("2", anonymous_id="device-2")) == {"device:device-1": 1, "device:device-2": 1}


def test_an_earlier_id_is_the_user_that_an_alias_declares(line: Line) -> None:
    found = people(line, an_event("1", user_id="old", timestamp=at(-300)), an_alias("2", "old", "new"))
    assert found == {"new": 2}


def test_aliases_are_followed_one_after_the_other_however_many_there_are(line: Line) -> None:
    chain = [an_alias(f"a{n}", f"u{n}", f"u{n + 1}", timestamp=at(n)) for n in range(25)]
    assert set(people(line, an_event("1", user_id="u0", timestamp=at(-300)), *chain)) == {"u25"}


@pytest.mark.parametrize("length", [2, 3, 7, 12])
def test_of_a_circle_of_aliases_everybody_is_the_smallest_id(line: Line, length: int) -> None:
    circle = [an_alias(f"a{n}", f"u{n:02}", f"u{(n + 1) % length:02}", timestamp=at(n)) for n in range(length)]
    known = [an_event(f"{n}", user_id=f"u{n:02}", timestamp=at(-6000 + 60 * n)) for n in range(length)]
    found = people(line, *circle, *known, an_alias("into", "before", "u01"), an_identify("device", "u01", "device-9"))
    assert found == {"u00": len(line.rows(SESSIONS))}


# The same id, borne by a user and by a device


def test_a_user_whose_id_is_somebody_elses_device_stays_a_person_of_its_own(line: Line) -> None:
    found = people(
        line,
        an_identify("1", "u1", "shared"),
        an_event("2", user_id="shared", anonymous_id="device-2"),
        an_event("3", anonymous_id="shared", timestamp=at(300)),
    )
    assert found == {"u1": 2, "shared": 1}


def test_a_device_that_nobody_logs_in_on_is_not_the_user_of_that_id(line: Line) -> None:
    found = people(line, an_event("1", anonymous_id="shared"), an_event("2", user_id="shared", anonymous_id=None))
    assert found == {"device:shared": 1, "shared": 1}


def test_an_alias_to_a_user_whose_id_is_somebody_elses_device_ends_at_that_user(line: Line) -> None:
    found = people(
        line,
        an_identify("1", "u1", "shared"),
        an_alias("2", "old", "shared", timestamp=at(300)),
        an_event("3", user_id="old", anonymous_id=None, timestamp=at(-300)),
    )
    assert found == {"u1": 1, "shared": 2}


def test_an_alias_of_a_user_leaves_the_device_of_that_id_with_whom_it_was_seen_with(line: Line) -> None:
    found = people(
        line,
        an_identify("1", "u1", "shared"),
        an_alias("2", "shared", "u2", timestamp=at(300)),
        an_event("3", anonymous_id="shared", timestamp=at(600)),
    )
    assert found == {"u1": 2, "u2": 1}


def test_an_alias_of_a_device_stitches_its_anonymous_events(line: Line) -> None:
    assert people(line, an_event("1", timestamp=at(-300)), an_alias("2", "device-1", "u1")) == {"u1": 2}


def test_of_two_users_of_a_device_the_latest_owns_what_is_anonymous(line: Line) -> None:
    found = people(
        line,
        an_identify("1", "u1", timestamp=at(-600)),
        an_identify("2", "u2", timestamp=at(-300)),
        an_event("3", timestamp=at(0)),
    )
    assert found == {"u1": 1, "u2": 2}


def test_identities_stay_within_their_tenant(line: Line) -> None:
    found = people(line, an_identify("1", "u1"), an_event("2", tenant_id="globex"))
    assert found == {"u1": 1, "device:device-1": 1}


@pytest.mark.parametrize("order", [lambda days: days, lambda days: days[::-1]], ids=["oldest first", "newest first"])
def test_the_latest_sight_wins_in_whatever_order_days_are_built(line: Line, order: Callable[[list[Any]], list[Any]]) -> None:
    line.load([an_identify(f"{day}", f"u{day}", timestamp=at(day=day)) for day in range(3)])
    for day in order(line.pipeline.pending(line.con)):
        line.sessions([day])
    assert line.rows(IDENTITIES, columns="from_id, user_id") == [("device-1", "u2")]


def test_the_published_events_and_sessions_bear_the_stitched_user_and_person(open_line: Opener) -> None:
    line = open_line()
    line.load([an_event("1", timestamp=at(-300)), an_identify("2", "u1"), an_event("3", anonymous_id="device-2")])
    line.rebuild()
    path = line.publish().path
    assert rows_of(path, "select user_id, person_id from sessions order by started_at, 2") == [
        ("u1", "u1"),
        (None, "device:device-2"),
        ("u1", "u1"),
    ]
    assert rows_of(path, "select person_id, sessions from users order by 1") == [("device:device-2", 1), ("u1", 2)]


ODD = [" ", "\t\n", "\x01", "\x1f", "\u202e", "'; drop table users; --", "device:device-1"]


def test_an_odd_id_goes_the_whole_way(open_line: Opener) -> None:
    odd_by_tenant = {f"tenant-{n}": odd for n, odd in enumerate(ODD)}
    line = open_line(tenants=list(odd_by_tenant))
    for tenant, odd in odd_by_tenant.items():
        line.load(
            [
                an_identify("1", odd, tenant_id=tenant),
                an_alias("2", odd, "u1", timestamp=at(300), tenant_id=tenant),
                an_event("3", anonymous_id=odd, session_id=odd, tenant_id=tenant),
                an_alias("4", "u2", odd, timestamp=at(600), tenant_id=tenant),
            ]
        )
    line.rebuild()
    found = rows_of(line.publish().path, "select tenant_id, sum(sessions), sum(events) from users group by all order by 1")
    assert found == [(tenant, 4, 4) for tenant in odd_by_tenant]


def test_sessions_page_views_users_and_marts_speak_of_the_same_people(open_line: Opener) -> None:
    line = open_line()
    line.load(
        [
            an_event("1", event="Product Viewed", anonymous_id="phone", timestamp=at(-600)),
            a_view("2", anonymous_id="phone", timestamp=at(-590)),
            an_identify("3", "old", "phone", timestamp=at(-300)),
            an_alias("4", "old", "new", timestamp=at(-200)),
            an_alias("5", "a", "b"),
            an_alias("6", "b", "a", timestamp=at(100)),
            an_event("7", event="Product Viewed", user_id="phone", anonymous_id="laptop"),
            a_view("8", user_id="b", anonymous_id="tablet"),
            a_view("9", anonymous_id="new"),
            an_event("10", event="Product Viewed", anonymous_id="a"),
        ]
    )
    line.rebuild()
    path = line.publish().path
    assert rows_of(path, "select person_id, sessions, page_views from users order by all") == [
        ("a", 4, 1),
        ("device:new", 1, 1),
        ("new", 3, 1),
        ("phone", 1, 0),
    ]
    of_users = "select person_id, user_id, sessions, events, page_views from users order by all"
    of_sessions = "select person_id, user_id, count(*), sum(events), sum(page_views) from sessions group by all order by all"
    assert rows_of(path, of_users) == rows_of(path, of_sessions)
    assert rows_of(path, "select user_id, count(*) from page_views group by all order by all") == [
        ("a", 1),
        ("new", 1),
        (None, 1),
    ]
    assert rows_of(path, "select cohort_users from cohort_retention_weekly") == [(3,)]
    assert rows_of(path, "select people from funnel_daily where funnel = 'shop' and step = 1") == [(3,)]


# Any web of identities

Web = dict[tuple[str, str], str]


def stitched_ids(web: Web, pieces: int = 1) -> Web:
    """(kind, id): the stitched user, where the web is merged in pieces."""
    edges = list(web.items())
    with duckdb.connect() as con:
        con.execute(f"create table merged as {IDENTITIES.empty_select}")
        for n in range(pieces):
            con.execute(f"create or replace table seen as {EVENTS.empty_select}")
            for (kind, earlier), user in edges[n::pieces]:
                event = an_alias("a", earlier, user) if kind == "alias" else an_identify("i", user, earlier)
                event = {**event, "properties": json.dumps(event["properties"])}
                marks = ", ".join("?" for _ in event)
                con.execute(f"insert into seen ({', '.join(event)}) values ({marks})", list(event.values()))
            merge_identities(con, "select * from seen", "select * from merged")
            con.execute("create or replace table merged as select * from new_identities")
        rows = con.execute("select kind, from_id, stitched_user_id from merged").fetchall()
    return {(kind, earlier): user for kind, earlier, user in rows}


def followed(web: Web, user: str) -> str:
    """The definition: the end of the aliases, or the smallest id of the circle they run into."""
    way: list[str] = []
    while ("alias", user) in web and user not in way:
        way.append(user)
        user = web["alias", user]
    return min(way[way.index(user) :]) if user in way else user


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f", "g"])


@settings(max_examples=60, deadline=None)
@given(web=st.dictionaries(st.tuples(st.sampled_from(["device", "alias", "alias"]), NAMES), NAMES), pieces=st.integers(1, 3))
def test_in_any_web_everybody_is_the_end_of_the_aliases_or_the_smallest_id_of_a_circle(web: Web, pieces: int) -> None:
    web = {(kind, earlier): user for (kind, earlier), user in web.items() if kind == "device" or earlier != user}
    assert stitched_ids(web, pieces) == {edge: followed(web, user) for edge, user in web.items()}


@pytest.mark.parametrize(
    ("user", "last"),
    [("'one'", "one"), ("'u' || n + 1", "u100000"), ("'u' || (n + 1) % 100000", "u0")],
    ids=["one user of all", "a chain", "a circle"],
)
def test_a_hundred_thousand_aliases_are_followed_to_the_end(user: str, last: str) -> None:
    known = f"select 'acme' as tenant_id, 'alias' as kind, 'u' || n as from_id, {user} as user_id, now()::timestamp as seen_at"
    with duckdb.connect(config={"memory_limit": "256MB", "threads": 2}) as con:
        merge_identities(con, EVENTS.empty_select, f"{known} from range(100000) numbers(n)")
        assert con.execute("select stitched_user_id, count(*) from new_identities group by 1").fetchall() == [(last, 100_000)]
