"""Who somebody is: devices and earlier ids stitched to users, also when the declarations go in circles."""

from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.sessions.build import resolved_identities
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS, USERS
from analytics_assets_tests.builders import Line, Opener, an_event, at, rows_of

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
    assert people(line, an_event("1"), an_event("2", anonymous_id="device-2")) == {"device-1": 1, "device-2": 1}


def test_an_earlier_id_is_the_user_that_an_alias_declares(line: Line) -> None:
    found = people(line, an_event("1", user_id="old", timestamp=at(-300)), an_alias("2", "old", "new"))
    assert found == {"new": 2}


def test_aliases_are_followed_one_after_the_other(line: Line) -> None:
    chain = [an_alias(f"a{n}", f"u{n}", f"u{n + 1}", timestamp=at(n)) for n in range(5)]
    assert set(people(line, an_event("1", user_id="u0", timestamp=at(-300)), *chain)) == {"u5"}


@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_circle_of_aliases_ends_and_counts_every_session_once(line: Line, length: int) -> None:
    circle = [an_alias(f"a{n}", f"u{n}", f"u{(n + 1) % length}", timestamp=at(n)) for n in range(length)]
    found = people(line, *circle, *(an_event(f"{n}", user_id=f"u{n}", timestamp=at(-600 + 60 * n)) for n in range(length)))
    assert sum(found.values()) == len(line.rows(SESSIONS))
    assert set(found) <= {f"u{n}" for n in range(length)}


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
    assert found == {"u1": 1, "device-1": 1}


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
        (None, "device-2"),
        ("u1", "u1"),
    ]
    assert rows_of(path, "select person_id, sessions from users order by 1") == [("device-2", 1), ("u1", 2)]


def resolved(pairs: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    rows = [("acme", kind, earlier, user) for (kind, earlier), user in pairs.items()]
    with duckdb.connect() as con:
        con.execute("create table known (tenant_id varchar, kind varchar, from_id varchar, user_id varchar)")
        con.executemany("insert into known values (?, ?, ?, ?)", rows)
        return con.execute(f"select from_id, user_id from ({resolved_identities('select * from known')}) order by 1").fetchall()


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


@settings(max_examples=60, deadline=None)
@given(pairs=st.dictionaries(st.tuples(st.sampled_from(["device", "alias"]), NAMES), NAMES, max_size=10))
def test_any_web_of_identities_gives_each_id_exactly_one_user(pairs: dict[tuple[str, str], str]) -> None:
    pairs = {key: user for key, user in pairs.items() if key[1] != user}
    if not pairs:
        return
    found = resolved(pairs)
    assert [earlier for earlier, _ in found] == sorted({earlier for _, earlier in pairs})
    assert {user for _, user in found} <= {*pairs.values()}
