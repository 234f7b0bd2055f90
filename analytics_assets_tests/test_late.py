"""What comes after an erasure, or was kept aside before it, brings nobody back; records of others come without their names."""

import json
import resource
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.aside import Wanted, set_aside
from analytics_assets.audit.outside import Outside
from analytics_assets.erasure.erasures import Erasures
from analytics_assets.erasure.probe import probe
from analytics_assets.events.rewrite import replace_identifiers
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.single_keys import single
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.landing import Landed
from analytics_assets.privacy.ledger import Person
from analytics_assets.settings import UserError
from analytics_assets_tests.builders import Line, an_event, at
from analytics_assets_tests.test_erasure import (  # noqa: F401
    ANNA,
    CANARIES,
    HER_PHONE,
    SHE,
    after,
    copied,
    erased,
    in_received,
    land,
    of_anna,
    of_ben,
    remove,
    shop,
    stored_as,
)  # fmt: skip

BEN_NAMES_HER = of_ben(
    "late", timestamp=at(20), anonymous_id=HER_PHONE, properties={"previousId": ANNA, "colour": "red"},
    context={"traits": {"id": ANNA, "plan": "free"}, "device": {"id": HER_PHONE, "type": "phone"}},
)  # fmt: skip


@pytest.fixture
def line(shop: Path, keys: Path, tmp_path: Path) -> Iterator[Line]:  # noqa: F811
    with copied(shop, keys, tmp_path / "shop") as line:
        yield line


def stored(line: Line, message_id: str) -> dict:
    (found,) = (row for row in line.dicts(EVENTS) if row["message_id"] == message_id)
    return found


def kept(line: Line) -> list[str]:
    """The rejected records as they are kept, without those of before."""
    return [raw for reason, raw in line.rows(REJECTED, columns="reason, raw") if '"r2"' not in raw]


def nothing_of_her(line: Line) -> bool:
    return probe(line.home, [*CANARIES, *stored_as(line, *CANARIES)]) == []


def test_a_late_event_of_somebody_else_is_stored_without_what_names_an_erased_person(after: Line) -> None:  # noqa: F811
    land(after, [BEN_NAMES_HER], "late.ndjson")
    found = stored(after, "late")
    assert (found["user_id"], found["anonymous_id"]) == (stored_as(after, "ben-the-other")[0], None)
    assert json.loads(found["properties"]) == {"colour": "red"}
    assert json.loads(found["context"]) == {"traits": {"plan": "free"}, "device": {"type": "phone"}}
    assert in_received(after) == set()


def test_whoever_has_the_device_after_the_request_keeps_it(after: Line) -> None:  # noqa: F811
    later = after.now + timedelta(days=1)
    after.now = later + timedelta(hours=1)
    after.load([{**BEN_NAMES_HER, "timestamp": later, "received_at": later}])
    found = stored(after, "late")
    assert found["anonymous_id"] == stored_as(after, HER_PHONE)[0]
    assert json.loads(found["context"])["traits"]["id"] == stored_as(after, ANNA)[0]


def test_late_records_that_nobody_can_read_are_kept_without_an_erased_person(after: Line) -> None:  # noqa: F811
    bens = '{"message_id": "r10", "user_id": "ben-the-other", broken'
    records = [
        f'{{"message_id": "r9", "user_id": "{ANNA}", broken', f"GET /users/{ANNA}?x=1 broken", bens,
        of_ben("r11", timestamp="no time", anonymous_id=HER_PHONE, page_url=f"https://acme.test/?of={ANNA}"),
    ]  # fmt: skip
    land(after, records, "late.ndjson")
    # What does not say whose it is may be hers.
    first, second = sorted(kept(after))
    assert first == bens
    assert [json.loads(second)[name] for name in ("user_id", "anonymous_id", "page_url")] == [
        "ben-the-other", "(erased)", "https://acme.test/?of=(erased)",
    ]  # fmt: skip
    assert nothing_of_her(after)
    told = after.rows(BATCHES, columns="file, rejected_by_reason")
    assert ("late.ndjson", '{"bad_json": 1, "erased": 2, "wrong_type:timestamp": 1}') in told


def test_a_late_file_that_nobody_can_read_is_set_aside_without_the_lines_that_name_her(after: Line) -> None:  # noqa: F811
    path = after.home / "landing" / "acme" / "late.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"garbage\n{ANNA},1\nof others\n")
    assert after.pipeline.load_landed(after.con, Landed(path, "acme", "canonical"), after.now).status == "set_aside"
    assert nothing_of_her(after)
    (left,) = (after.home / "set_aside" / "acme").glob("*-late.csv")
    assert left.read_text() == "garbage\nof others\n"


TABLET = "tablet-canary-9"


def test_events_that_were_set_aside_say_who_is_who_and_go_also_where_a_key_was_changed_since(line: Line) -> None:
    hers, by_tablet = of_anna("c1", timestamp=at(3, day=-9)), of_anna("c2", timestamp=at(4, day=-9), user_id=None)
    line.load([{**event, "anonymous_id": TABLET} for event in (hers, by_tablet)])
    line.load([of_ben("c3", timestamp=at(5, day=-9))])
    line.sessions()
    stages, wanted = line.pipeline, Wanted(tenant="acme", day=at(0, day=-9).date())
    set_aside(line.con, stages.intake, stages.gate, stages.sources, stages.settings.limits.sessions, wanted, "wrong", line.now,
              dry_run=False)  # fmt: skip
    replace_identifiers(stages.intake, line.con, "acme", line.now)
    stages.erasures.ask([SHE], "tester")
    remove(line)
    stages.replay_rejected(line.con, line.now, reason="set_aside: wrong", source=None, tenant=None, dry_run=False)
    assert sorted(row["message_id"] for row in line.dicts(EVENTS) if row["message_id"].startswith("c")) == ["c3"]


def test_what_was_never_accepted_takes_no_event_of_a_device_that_others_use(line: Line) -> None:
    line.load([an_event("d1", anonymous_id="a-device-in-use", timestamp=at(3))])
    line.load([of_anna(name, anonymous_id=device, timestamp="no time") for name, device in
               (("r20", "a-device-in-use"), ("r21", TABLET))])  # fmt: skip
    line.load([an_event("r22", anonymous_id=TABLET, timestamp="no time")])
    line.pipeline.erasures.ask([SHE], "tester")
    remove(line)
    assert "d1" in {row["message_id"] for row in line.dicts(EVENTS)}
    assert [raw for raw in kept(line) if '"r2' in raw] == []


def test_what_is_left_of_a_cleaned_record_is_nobodys_device_when_it_is_tried_again(after: Line) -> None:  # noqa: F811
    after.load([of_ben("cleaned", timestamp=at(20), anonymous_id="(erased)")])
    assert stored(after, "cleaned")["anonymous_id"] is None


# A key that stands twice


class Members(tuple):
    """Members of an object, in order; names may stand twice."""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(st.sampled_from("abc"), inner), max_size=4).map(Members),
    max_leaves=8,
)


def written(value: object) -> str:
    if isinstance(value, Members):
        return "{" + ", ".join(f"{json.dumps(key)}: {written(own)}" for key, own in value) + "}"
    return "[" + ", ".join(map(written, value)) + "]" if isinstance(value, list) else json.dumps(value)


def first_of(value: object) -> object:
    if isinstance(value, Members):
        return {key: first_of(own) for key, own in reversed(value)}
    return [first_of(own) for own in value] if isinstance(value, list) else value


@given(JSON)
@settings(max_examples=100)
def test_of_a_key_that_stands_twice_the_first_counts_at_any_depth(value: object) -> None:
    assert json.loads(single(written(value))) == first_of(value)


def test_an_event_is_stored_with_each_key_once_and_an_erasure_finds_what_is_left(line: Line) -> None:
    plain, doubled = of_ben("k1", timestamp=at(30)), json.dumps(of_ben("k2", timestamp=at(31), context={"x": 0}), default=str)
    traits = f'"traits": {{"plan": 1e400, "id": "{ANNA}"}}'
    said = f'{{"page": {{"url": "a", "url": "b"}}, {traits}, "page": "{ANNA}", "l": [{{"a":1,"a":2}}]}}'
    line.load([plain, doubled.replace('{"x": 0}', said)])
    assert '"page":{"url":"a"}' in stored(line, "k2")["context"]
    assert '"l":[{"a":1}]' in stored(line, "k2")["context"]
    assert stored(line, "k1")["properties"] == '{"colour":"red"}'
    line.pipeline.erasures.ask([SHE], "tester")
    remove(line)
    assert '"traits":{"plan":1e400}' in stored(line, "k2")["context"]


# Two at once, and no room


def test_two_who_erase_at_once_do_each_request_once(line: Line) -> None:
    asked = [line.pipeline.erasures.ask([one], "tester").id for one in (SHE, Person("acme", "device", "bens-device"))]
    done: list[bool] = []

    def go() -> None:
        with Line.at(line.home, line.pipeline.settings.config) as other:
            other.pipeline.clock = lambda: line.now
            done.append(other.pipeline.erasures.remove(other.con, line.now))

    both = [threading.Thread(target=go) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(done) == 2
    assert True in done
    assert {row["message_id"] for row in line.dicts(EVENTS)} == {"g1"}
    assert [status for (status,) in line.rows(BATCHES, columns="status")].count("erased") == 1
    assert line.pipeline.erasures.waiting() == []
    assert {request.id for request in line.pipeline.erasures.ledger.pending()} == set(asked)


def test_where_there_is_no_room_for_a_key_half_of_one_is_not_left(tmp_path: Path) -> None:
    outside = Outside(tmp_path / "keys")
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, largest[1]))
    try:
        with pytest.raises(UserError, match="make room"):
            outside.key_to_seal(None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    assert outside.key_to_seal(None) == outside.key_to_seal(None)


def test_where_there_is_no_room_for_what_is_left_nothing_goes_until_there_is(
    line: Line,
) -> None:
    before = line.digest(EVENTS)
    erasures: Erasures = line.pipeline.erasures
    erasures.ask([SHE], "tester")
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, largest[1]))
    try:
        with pytest.raises(Exception, match=r"(?i)file too large|write"):
            remove(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    assert line.digest(EVENTS) == before
    remove(line)
    assert not [row for row in line.dicts(EVENTS) if row["message_id"].startswith("a")]
