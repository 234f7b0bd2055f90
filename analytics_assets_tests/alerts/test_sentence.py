"""What customers may be told: a sentence for every state, without machinery, other customers and loose ends."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.alerts.sentence import Doing, overall, sentence, support_card
from analytics_assets.freshness.judge import BROKEN, State, Status
from analytics_assets_tests.alerts.test_problems import a_status
from analytics_assets_tests.builders import NOON, at

STATES: tuple[State, ...] = get_args(State)
DOING = [Doing(working, refused) for working in (False, True) for refused in (False, True)]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, "We have not received any events from you yet."),
        (a_status("empty"), "We have not received any events from you yet."),
        (a_status("fresh"), "Your analytics are up to date: all events received until 2026-03-10 12:00 UTC are included."),
        (
            a_status("fresh", age_minutes=2, data_through=at(-2)),
            "Your analytics are up to date: all events received until 2026-03-10 11:58 UTC are included, and newer ones follow "
            "within 5 min.",
        ),
        (
            a_status("quiet"),
            "Your analytics are complete: nothing was received since 2026-03-10 10:55 UTC, and all of before is included.",
        ),
        (
            a_status("unusable"),
            "Something that you sent could not be read and is not included; otherwise all events received until 2026-03-10 "
            "12:00 UTC are included. We are looking into it.",
        ),
        (
            a_status("silent"),
            "Your analytics are complete, but nothing was received since 2026-03-10 10:55 UTC: please check that events are "
            "sent.",
        ),
        (
            a_status("paused"),
            "Updates of your analytics are paused, as agreed; all events received until 2026-03-10 12:00 UTC are included.",
        ),
        (
            a_status("unknown"),
            "We cannot tell when your newest events will be included; all events received until 2026-03-10 12:00 UTC are "
            "included. We are looking into it.",
        ),
        (
            a_status("held"),
            "Your analytics show an earlier version while we correct an error: all events received until 2026-03-10 10:55 UTC "
            "are included, and newer ones follow.",
        ),
        (
            a_status("late"),
            "Your analytics are delayed: all events received until 2026-03-10 10:55 UTC are included; newer ones take longer "
            "than the promised 5 min. We are looking into it.",
        ),
    ],
)
def test_the_state_in_words(status: Status | None, text: str) -> None:
    assert sentence(status, Doing()) == text


def test_what_is_being_done_is_said() -> None:
    ends = [sentence(a_status("late"), Doing(working, refused)).split("5 min. ")[1] for working, refused in (
        (True, False), (False, True), (True, True)
    )]  # fmt: skip
    checks = "Newer data did not pass our checks; we hold them back until they are right."
    assert ends == ["They are being processed now.", checks, checks]


@given(
    st.sampled_from(STATES),
    st.sampled_from(DOING),
    st.sampled_from([None, at(-65), NOON]),
    st.sampled_from([None, at(-65)]),
    st.sampled_from([0.0, 65.0]),
)
def test_every_state_has_a_sentence_that_needs_no_explanation(
    state: State, doing: Doing, through: object, received: object, age: float
) -> None:
    status = a_status(state, data_through=through, received_through=received, age_minutes=age, reason="disk of node-7 is full")
    text = sentence(status, doing)
    assert text[0].isupper() and text.endswith(".") and len(text) < 260
    assert not re.search(r"none|null|node-7|acme|events_daily|sensor|dagster|duckdb|publish|run\b|\.\.|  ", text.lower())
    assert ("delayed" in text) == (state == "late")
    assert ("up to date" in text) == (state == "fresh")


@given(st.dictionaries(st.sampled_from(["acme", "globex", "initech"]), st.sampled_from(STATES)), st.sampled_from(DOING))
def test_all_together_are_told_how_many_are_delayed_and_not_who(states: dict[str, State], doing: Doing) -> None:
    text = overall({tenant: a_status(state, tenant) for tenant, state in states.items()}, doing)
    broken = sum(state in BROKEN for state in states.values())
    sending = sum(state != "empty" for state in states.values())
    assert not re.search("acme|globex|initech", text)
    assert ("delayed" in text) == (broken > 0)
    assert ("up to date" in text) == (broken == 0 and sending > 0)
    assert ("not included" in text) == (broken == 0 and "unusable" in states.values())
    assert (f"{broken} of {sending} customers" in text) == (broken > 0 and sending > 1)


def test_a_support_card_answers_three_questions_in_one_row() -> None:
    worst = {"acme": a_status("late"), "globex": a_status("fresh", "globex")}
    tiers = {"acme": "premium", "globex": "standard"}
    acme, globex = support_card(worst, Doing(), 7, tiers, {"acme": 0.4})
    assert acme["how_fresh"] == sentence(a_status("late"), Doing())
    assert acme["which_version"] == "version 7; no model takes part in its numbers"
    assert acme["what_if_it_fails"] == (
        "readers keep version 7, whole and unchanged; what was received stays, and is tried again every 10 minutes"
    )
    assert (acme["tenant_tier"], acme["budget_left"], globex["budget_left"]) == ("premium", 0.4, None)
    (new,) = support_card({"acme": a_status("empty")}, Doing(), None, tiers, {})
    assert (new["which_version"], "see nothing yet" in str(new["what_if_it_fails"])) == ("nothing is published yet", True)
