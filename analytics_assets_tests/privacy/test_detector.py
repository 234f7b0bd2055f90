"""Personal data in texts: how much of a labelled set is found, how much of that is right, and what holds of any."""

import json

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.privacy.detector import KINDS, install
from benchmarks.detector import LABELLED, Score, found_in, labelled_values, scores


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1})
    install(con)
    return con


@pytest.fixture(scope="module")
def scored(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], Score]:
    return scores(con)


def test_the_labelled_set_is_large_has_many_countries_and_each_value_once() -> None:
    values = labelled_values()
    assert len(values) >= 2000 and len({(one.kind, one.value) for one in values}) == len(values)
    assert {one.kind for one in values} == {*KINDS, "none"}
    assert len({one.family for one in values if one.kind == "phone"}) >= 40
    assert sum(one.origin == "hand" for one in values) >= 300
    held_out = sum(one.part == "held_out" for one in values)
    assert 0.4 <= held_out / len(values) <= 0.6
    assert LABELLED.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("part", ["tuned", "held_out"])
def test_most_is_found_and_most_that_is_found_is_right(scored: dict[tuple[str, str], Score], part: str) -> None:
    total = scored[part, "all"]
    assert total.recall >= 0.95 and total.precision >= 0.9, total


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_hides_behind_another(scored: dict[tuple[str, str], Score], kind: str) -> None:
    assert scored["held_out", kind].recall >= 0.9 and scored["held_out", kind].precision >= 0.9, scored["held_out", kind]


_ISSUED = st.sampled_from(["4242", "5105", "2223", "6011", "6759"]).flatmap(
    lambda first: st.text("0123456789", min_size=11, max_size=11).map(lambda rest: first + rest)
)
_AROUND = st.sampled_from(["%s", '{"a":"%s"}', "paid %s.", "x=%s&y"])


def _check_digit(body: str) -> int:
    doubled = [int(digit) * 2 if place % 2 == 0 else int(digit) for place, digit in enumerate(reversed(body))]
    return -sum(value - 9 if value > 9 else value for value in doubled) % 10


# A query costs more than the texts that it asks about.
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(_ISSUED, st.integers(1, 9), st.sampled_from(["", " ", "-"]), _AROUND), min_size=10, max_size=10))
def test_a_card_is_found_however_it_is_grouped_and_not_with_a_wrong_check_digit(
    con: duckdb.DuckDBPyConnection, cards: list[tuple[str, int, str, str]]
) -> None:
    def written(digits: str, gap: str, around: str) -> str:
        return around.replace("%s", gap.join(digits[n : n + 4] for n in range(0, 16, 4)))

    right = [written(f"{body}{_check_digit(body)}", gap, around) for body, _, gap, around in cards]
    wrong = [written(f"{body}{(_check_digit(body) + off) % 10}", gap, around) for body, off, gap, around in cards]
    assert [text for text, kinds in zip(right, found_in(con, right), strict=True) if "card" not in kinds] == []
    assert [text for text, kinds in zip(wrong, found_in(con, wrong), strict=True) if "card" in kinds] == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10**18 - 1), min_size=10, max_size=10), st.sampled_from([22, 4]))
def test_an_account_is_found_and_not_with_two_digits_swapped(
    con: duckdb.DuckDBPyConnection, numbers: list[int], group: int
) -> None:
    def written(number: str, check: int) -> str:
        whole = f"DE{check:02d}{number}"
        return " ".join(whole[n : n + group] for n in range(0, 22, group))

    accounts = [f"{number:018d}" for number in numbers]
    checks = [98 - int(account + "131400") % 97 for account in accounts]
    right = [written(*one) for one in zip(accounts, checks, strict=True)]
    swapped = [
        written(one[1] + one[0] + one[2:], check) for one, check in zip(accounts, checks, strict=True) if one[0] != one[1]
    ]
    assert [text for text, kinds in zip(right, found_in(con, right), strict=True) if "iban" not in kinds] == []
    assert [text for text, kinds in zip(swapped, found_in(con, swapped), strict=True) if "iban" in kinds] == []


_PIECES = st.sampled_from(
    [
        "@",
        "a",
        "é",
        "x.",
        "com",
        "0",
        "4",
        "1",
        "+",
        "49",
        "00",
        "()",
        " ",
        "-",
        ".",
        "/",
        ",",
        '"',
        "\\",
        "\n",
        "DE",
        "tel ",
        "555",
    ]
) | st.characters(codec="utf-8", exclude_characters="\x00")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(_PIECES, max_size=30).map("".join), min_size=10, max_size=10))
def test_whatever_the_second_step_would_find_the_first_lets_through(con: duckdb.DuckDBPyConnection, texts: list[str]) -> None:
    """Also where the first reads it inside JSON, which writes some characters in another way."""
    of_json = [[json.dumps({"a": text}, ensure_ascii=ascii) for text in texts] for ascii in (True, False)]
    asked = (
        "select t, may_identify(t) and may_identify(j) and may_identify(k) as shaped, personal_kinds(t) as kinds from "
        "(select unnest(?::varchar[]) as t, unnest(?::varchar[]) as j, unnest(?::varchar[]) as k)"
    )
    lost = con.execute(f"select t, kinds from ({asked}) where len(kinds) > 0 and not shaped", [texts, *of_json]).fetchall()
    assert lost == []


def test_ids_without_meaning_are_nothing_of_it(con: duckdb.DuckDBPyConnection) -> None:
    """Digests, UUIDs and times in milliseconds: a table has millions, so that one in a thousand would be an alarm each day."""
    ids = "unnest([md5(n::varchar), md5(n::varchar)::uuid::varchar, (1700000000000 + n * 7919)::varchar])"
    some = f"select t from (select {ids} as t from range(10000) r(n)) where may_identify(t)"
    assert con.execute(f"select t from ({some}) where len(personal_kinds(t)) > 0").fetchall() == []


def test_usual_texts_do_not_reach_the_second_step(con: duckdb.DuckDBPyConnection) -> None:
    usual = [
        "",
        "shop",
        '{"price":3.5,"ts":1710072000000}',
        "550e8400-e29b-41d4-a716-446655440000",
        "2024-03-10T12:00:00+01:00",
    ]
    assert con.execute("select t from (select unnest(?::varchar[]) as t) where may_identify(t)", [usual]).fetchall() == []
