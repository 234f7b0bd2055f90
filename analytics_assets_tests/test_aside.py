"""Events at fault are set aside and brought back: each is in one place at any time, and readers see what adds up."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analytics_assets.aside import Chosen, Wanted, set_aside
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.landing import Landed
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS
from analytics_assets.settings import UserError
from analytics_assets.warehouse.publish import PublishRefused, current_path
from analytics_assets_tests.builders import DAY, DELIVERY, NOW, Line, Opener, a_config, an_event, at, rows_of, write_events
from analytics_assets_tests.faults import run
from analytics_assets_tests.test_faults import killed_at, steps_of

REASON = "the shop sent prices in pence"
# What says how an event came here, and not what it is.
CAME = (*DELIVERY, "source")


def sold(message_id: str, **changes: object) -> dict[str, object]:
    return an_event(message_id, **{"revenue": 2.5, "currency": "GBP", **changes})


DAMAGED = [sold(f"bad{n}", timestamp=at(n), properties={"name": "CAFÃ‰"}, received_at=at(99)) for n in range(25)]
HEALTHY = [sold("good", timestamp=at(3)), sold("before", timestamp=at(day=-1)), sold("theirs", tenant_id="globex")]
FAULT = Wanted("acme", DAY, expectation="events_text_is_readable")


def aside(line: Line, wanted: Wanted = FAULT, *, dry_run: bool = False, files: tuple[Path, ...] = ()) -> Chosen:
    stages = line.pipeline
    return set_aside(
        line.con, stages.intake, stages.gate, stages.sources, stages.settings.limits.sessions, wanted, REASON, line.now,
        dry_run=dry_run, files=files,
    )  # fmt: skip


def bring_back(line: Line, reason: str | None = f"set_aside: {REASON}") -> int:
    reports = line.pipeline.replay_rejected(line.con, line.now, reason=reason, source=None, tenant=None, dry_run=False)
    return sum(report.events for report in reports)


def renew(line: Line) -> None:
    line.rebuild()
    line.publish()


def begun(line: Line) -> Line:
    """A landed file with damaged texts is stored."""
    line.load(HEALTHY)
    path = write_events(line.pipeline.home.landing / "acme" / "day.ndjson", DAMAGED)
    line.pipeline.load_landed(line.con, Landed(path, "acme", "canonical"), line.now)
    return line


def add_up(line: Line) -> None:
    """Every received record is in one place."""
    received = line.rows(BATCHES, columns="sum(received), sum(rejected + duplicates + events), sum(events)")
    assert received[0][0] == received[0][1]
    assert received[0][2] == len(line.keys()) == len(set(line.keys()))


def test_events_that_an_expectation_names_leave_every_table_and_the_publish_goes_through(line: Line) -> None:
    begun(line)
    line.rebuild()
    with pytest.raises(PublishRefused, match="events_text_is_readable"):
        line.publish()
    chosen = aside(line)
    assert (chosen.groups, chosen.as_they_came, chosen.missing) == ((("acme", DAY, 25, 26),), 25, ())
    renew(line)
    path = current_path(line.pipeline.home)
    assert rows_of(path, "select message_id from events order by 1") == [("before",), ("good",), ("theirs",)]
    assert rows_of(path, "select count(*), any_value(reason) from rejected_events") == [(25, f"set_aside: {REASON}")]
    assert rows_of(path, "select sum(events), sum(received) from batches") == [(3, 28)]
    add_up(line)


def test_without_a_word_nothing_is_changed(line: Line) -> None:
    begun(line)
    before = {spec: line.rows(spec) for spec in (EVENTS, REJECTED, BATCHES)}
    assert aside(line, dry_run=True).events == 25
    assert before == {spec: line.rows(spec) for spec in before}


def test_what_was_set_aside_comes_back_once_as_it_was(line: Line) -> None:
    begun(line)
    before = line.digest(EVENTS)
    aside(line)
    assert line.keys() == sorted(("acme" if name != "theirs" else "globex", name) for name in ("before", "good", "theirs"))
    assert [bring_back(line), bring_back(line)] == [25, 0]
    assert line.digest(EVENTS) == before
    assert line.rows(REJECTED) == []
    add_up(line)


def test_a_replay_of_everything_leaves_what_a_person_set_aside(line: Line) -> None:
    begun(line)
    aside(line)
    assert bring_back(line, reason=None) == 0
    assert len(line.rows(REJECTED)) == 25


def test_the_record_as_it_came_is_read_by_a_mended_mapping(line: Line) -> None:
    begun(line)
    aside(line)
    source = line.pipeline.sources["canonical"]
    mended = source.model_copy(update={"fields": {**source.fields, "properties": "object({'name': 'CAFE'})"}})
    line.pipeline.__dict__["sources"] = {**line.pipeline.sources, "canonical": mended}
    assert bring_back(line) == 25
    assert line.rows(EVENTS, columns="count(*) filter (properties like '%CAFE%')") == [(25,)]


def test_an_event_whose_file_is_gone_is_kept_as_it_was_stored(line: Line) -> None:
    nasty = {"properties": {"a": [1.0, None, 1e300, "ü\u2028"], "b": {}}, "context": {"c": "\"'"}, "timestamp": at(0.00001),
             "revenue": "-0.0001", "quantity": -3, "user_id": " x ", "received_at": at(1)}  # fmt: skip
    line.load([sold("m1", **nasty), sold("m2")])
    before = line.digest(EVENTS, without=CAME)
    assert aside(line, Wanted("acme", DAY)).missing == ("1.ndjson",)
    assert line.keys() == []
    assert bring_back(line) == 2
    assert line.digest(EVENTS, without=CAME) == before


def test_a_file_that_was_loaded_by_hand_can_be_named(line: Line) -> None:
    line.load([sold("m1"), sold("m2")])
    file = line.home / "deliveries" / "1.ndjson"
    assert aside(line, Wanted("acme", DAY), files=(file,), dry_run=True).as_they_came == 2


def test_a_batch_is_set_aside_as_a_whole_and_other_batches_stay(line: Line) -> None:
    line.load([sold("m1"), sold("m2", timestamp=at(day=-40)), sold("m3", tenant_id="globex")])
    report = line.load([sold("x1"), sold("x2", timestamp=at(day=-40)), sold("x3", tenant_id="globex"), sold("m1")])
    chosen = aside(line, Wanted(batch=report.batch_id[:8]))
    assert [group[:3] for group in chosen.groups] == [
        ("acme", at(day=-40).date(), 1), ("acme", DAY, 1), ("globex", DAY, 1),
    ]  # fmt: skip
    assert sorted(message for _, message in line.rows(EVENTS, columns="tenant_id, message_id")) == ["m1", "m2", "m3"]
    assert bring_back(line) == 3
    add_up(line)


def test_the_same_events_can_be_set_aside_again(line: Line) -> None:
    begun(line)
    for _ in range(2):
        aside(line)
        assert len(line.keys()) == 3
        assert bring_back(line) == 25
    add_up(line)


def test_what_was_rejected_before_for_another_reason_is_kept_and_comes_back_too(line: Line) -> None:
    """Five lines came before their time and were rejected, one of them twice; later they were stored, with a sixth."""
    events = [sold(f"m{n}", timestamp=at(n)) for n in range(6)]
    line.now = at(day=-5)
    assert line.load([*events[:5], events[0]]).rejected == 6
    line.now = NOW
    assert line.load(events).events == 6
    delivered = line.home / "deliveries" / "2.ndjson"
    assert aside(line, Wanted("acme", DAY), files=(delivered,)).as_they_came == 6
    assert line.rows(REJECTED, columns="count(distinct raw), min(reason), max(reason)") == [(6, *2 * (f"set_aside: {REASON}",))]
    assert bring_back(line, reason=None) == 0
    assert [bring_back(line), len(line.keys()), line.rows(REJECTED)] == [6, 6, []]
    add_up(line)


def test_a_redelivery_of_what_was_set_aside_is_one_event(line: Line) -> None:
    begun(line)
    aside(line)
    line.load(DAMAGED[:5])
    assert bring_back(line) == 20
    assert line.rows(REJECTED) == []
    add_up(line)


def test_who_is_who_is_learned_anew_without_what_was_set_aside(line: Line) -> None:
    line.load([sold("m1", user_id="jane")])
    wrong = line.load([sold("m2", user_id="swapped", timestamp=at(5)), sold("n1", tenant_id="globex", user_id="joe")])
    line.sessions()
    aside(line, Wanted("acme", DAY, batch=wrong.batch_id))
    line.sessions()
    assert line.rows(IDENTITIES, columns="tenant_id, user_id") == [("acme", "jane"), ("globex", "joe")]


def test_a_session_that_is_cut_is_cut_on_every_day_that_it_reaches(line: Line) -> None:
    """Without its middle, what was one session over midnight is two, the first of which lies on another day."""
    steps = [at(minutes, day=-1) for minutes in (690, 715, 740)]  # 23:30, 23:55, 00:20
    line.load([sold(f"m{n}", timestamp=moment) for n, moment in enumerate(steps)])
    line.sessions()
    chosen = aside(line, Wanted("acme", DAY))
    assert chosen.days == (at(day=-1).date(), DAY)
    line.sessions()
    assert line.rows(SESSIONS, columns="date, events") == [(at(day=-1).date(), 2)]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted("acme"), "say which events: give --tenant and --day, or --batch"),
        (Wanted("acme", DAY, expectation="events_volume"), "'events_volume' does not tell which events are at fault"),
        (
            Wanted(batch="0", expectation="events_text_is_readable"),
            "no batch with events begins with '0'|an expectation is about",
        ),
        (Wanted(batch="no such"), "no batch with events begins with 'no such'"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(line: Line, wanted: Wanted, said: str) -> None:
    line.load([sold("m1")])
    with pytest.raises(UserError, match=said):
        aside(line, wanted)


KINDS = st.lists(st.sampled_from(["load", "aside", "back", "again"]), min_size=1, max_size=6)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(KINDS)
@example(["aside", "back", "back", "aside"])
def test_in_any_order_every_record_is_in_one_place(tmp_path_factory: pytest.TempPathFactory, kinds: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    with Line.at(folder / "home", a_config(folder / "config")) as line:
        line.load([sold(f"m{n}", timestamp=at(day=-(n % 3))) for n in range(9)])
        for number, kind in enumerate(kinds):
            if kind == "load":
                line.load([sold(f"m{n}", timestamp=at(day=-(n % 3))) for n in range(number, number + 12)])
            elif kind == "aside":
                aside(line, Wanted("acme", at(day=-(number % 3)).date()))
            else:
                bring_back(line, None if kind == "again" else f"set_aside: {REASON}")
            add_up(line)
        bring_back(line)
        assert line.rows(REJECTED) == []
        add_up(line)


# Killed


def setting_aside(line: Line) -> None:
    aside(line)


def bringing_back(line: Line) -> None:
    bring_back(line)


@pytest.mark.parametrize(("act", "steps"), [(setting_aside, 3), (bringing_back, 3)], ids=["set aside", "bring back"])
def test_killed_at_each_step_and_run_again_every_event_is_in_one_place(
    open_line: Opener, tmp_path: Path, act: Callable[[Line], None], steps: int
) -> None:
    whole, line = open_line("whole"), open_line("killed")
    for each in (whole, line):
        begun(each)
        if act is bringing_back:
            aside(each)
    taken = steps_of(whole, act)
    assert len(taken) == steps, taken
    for step in taken:
        assert run(killed_at, step, line.home, tmp_path / "killed-config", act) == -signal.SIGKILL, step
    act(line)
    # The row of a batch that was killed is noted by whatever comes next.
    assert line.pipeline.pending(line.con) == whole.pipeline.pending(whole.con)
    add_up(line)
    assert line.digest(EVENTS) == whole.digest(EVENTS)
    without = ("batch_id", "received_at")
    assert line.rows(REJECTED, without=without) == whole.rows(REJECTED, without=without)
