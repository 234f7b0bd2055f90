"""No group of fewer than k people gets out through the egress, and nothing that a role may not ask."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.privacy.egress import FORMATS, MASKED, Answer, Egress, Request, write
from analytics_assets.privacy.roles import NotPermitted
from analytics_assets_tests.privacy import attack
from analytics_assets_tests.privacy.attack import Row, some_rows

_SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


def ask(con: duckdb.DuckDBPyConnection, rows: Sequence[Row], *measures: Any, by: Sequence[Any] = (), **more: Any) -> Answer:
    egress = Egress(con, attack.roles(), lambda tenant: attack.select(con, rows))
    return egress.answer("all", "acme", Request(measures, tuple(by), **more))


def look(person: str | None = "p1", *, parts: Sequence[str] = ("events",), **values: str) -> Row:
    """One event of a person, alike for all but for `values`."""
    usual = {name: "" for name in attack.LEVELS} | {"day": "2026-03-30", "month": "2026-03", "event": "look"}
    return Row(person, usual | values, frozenset(parts))


def looks(*people: str, **values: Any) -> list[Row]:
    return [look(person, **values) for person in people]


# Getting round it


@settings(max_examples=25, deadline=None)
@given(_SEEDS)
def test_no_answers_together_tell_fewer_than_k_people_apart(con: duckdb.DuckDBPyConnection, folder: Path, seed: int) -> None:
    attacker = attack.attack(con, seed, 40, folder)
    assert attacker.too_small() == []
    assert attacker.rare_names() == []


def test_the_attacker_would_find_a_smaller_group(
    con: duckdb.DuckDBPyConnection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers, held against more people than were promised."""
    attackers = [attack.attack(con, seed, 20, folder) for seed in range(8)]
    monkeypatch.setattr(attack, "K", attack.K + 3)
    assert any(attacker.too_small() for attacker in attackers)
    assert any(attacker.rare_names() for attacker in attackers)


def test_what_would_tell_a_small_group_by_subtraction_is_masked_with_it(con: duckdb.DuckDBPyConnection) -> None:
    people = "abcdefghijklmnop"
    rows = looks(*people[:8], region="south") + looks(*people[8:14], region="north") + looks(*people[14:], region="west")
    told = {region: count for region, count, _ in ask(con, rows, "people_per_group", by=["region"]).rows}
    # West alone has two, and the smallest of the others goes with it: the total less the south tells eight, not two.
    assert told == {"south": 8, MASKED: 8}


def test_a_measure_is_masked_where_few_have_a_part_in_it_and_where_few_have_none(con: duckdb.DuckDBPyConnection) -> None:
    both = ("events", "quantity")
    few = looks(*"abcdef", region="few have") + looks("g", region="few have", parts=both)
    most = looks(*"hijklm", region="few have not", parts=both) + looks("n", region="few have not")
    enough = looks(*"opqrs", region="enough", parts=both) + looks(*"tuvwx", region="enough")
    lines = ask(con, few + most + enough, "quantity", by=["region"]).rows
    assert [(region, quantity is None, masked) for region, quantity, masked in lines] == [
        ("enough", False, 0), ("few have", True, 1), ("few have not", True, 1),
    ]  # fmt: skip


def test_those_who_are_not_known_make_no_group_large(con: duckdb.DuckDBPyConnection) -> None:
    rows = looks(*"abcdefgh") + [look(None, region="north") for _ in range(20)]
    assert [line[0] for line in ask(con, rows, "events", by=["region"]).rows] == [MASKED]


def test_fewer_than_k_people_are_told_nothing_about(con: duckdb.DuckDBPyConnection) -> None:
    assert ask(con, looks(*"abcd", *"abcd"), "people_per_group", "events").rows == []
    assert ask(con, looks(*"abcde"), "people_per_group").rows == [(5, 0)]


@settings(max_examples=6, deadline=None)
@given(_SEEDS)
def test_people_add_up_whatever_they_are_grouped_by(con: duckdb.DuckDBPyConnection, seed: int) -> None:
    """Else those who are in two groups could be counted by subtraction."""
    rng = random.Random(seed)
    rows = some_rows(rng)
    whole = [line[0] for line in ask(con, rows, "people_per_group").rows]
    for by in (rng.sample(attack.LEVELS, n) for n in (1, 2, 3)):
        lines = ask(con, rows, "people_per_group", by=by).rows
        assert sum(line[-2] for line in lines) == sum(whole)


@settings(max_examples=6, deadline=None)
@given(_SEEDS)
def test_an_answer_depends_on_the_rows_and_not_on_their_order(con: duckdb.DuckDBPyConnection, seed: int) -> None:
    rng = random.Random(seed)
    rows = [replace(row, parts=frozenset({"events"})) for row in some_rows(rng)]
    by, found = rng.sample(attack.LEVELS, 2), []
    for _ in range(2):
        found.append(ask(con, rows, "people_per_group", by=by))
        rng.shuffle(rows)
    assert found[0] == found[1]
    assert found[0].rows == sorted(found[0].rows)


def test_revenue_of_two_currencies_is_never_added_up(con: duckdb.DuckDBPyConnection) -> None:
    pay = {"parts": ("events", "revenue")}
    rows = [
        *looks(*"abcde", currency="EUR", **pay),
        *looks(*"fghij", currency="USD", **pay),
        *looks("k", currency="GBP", **pay),
    ]
    lines = ask(con, rows, "revenue").rows
    # The pound of one person goes with one of the others, and then nobody can tell what their sum is of.
    assert [(currency, revenue is None, masked) for currency, revenue, masked in lines] == [
        (MASKED, True, 1), ("USD", False, 0),
    ]  # fmt: skip


# What a role may ask


@pytest.mark.parametrize(
    ("role", "tenant", "request_", "sentence"),
    [
        ("nobody", "acme", Request(("events",)), "there is no role 'nobody' in roles.yaml; declared are: all, north"),
        ("north", "globex", Request(("events",)), "role 'north' may not get data of tenant 'globex'"),
        ("north", "acme", Request(("events",), ("region",)), "role 'north' may not ask by 'region'; it may ask by "),
        ("north", "acme", Request(("events",), where={"month": ["2026-03"]}), "role 'north' may not ask by 'month'"),
        ("north", "acme", Request(("visits",)), "role 'north' may not ask for 'visits'; it may ask for "),  # type: ignore[arg-type]
        ("north", "acme", Request(()), "name at least one measure"),
    ],
)
def test_what_a_role_may_not_ask_is_refused_before_a_row_is_read(
    con: duckdb.DuckDBPyConnection, role: str, tenant: str, request_: Request, sentence: str
) -> None:
    read = list[str]()
    egress = Egress(con, attack.roles(), lambda tenant: read.append(tenant) or "from rows")  # type: ignore[func-returns-value]
    with pytest.raises(NotPermitted) as refused:
        egress.answer(role, tenant, request_)
    assert str(refused.value).startswith(sentence)
    assert read == []


def test_a_role_gets_only_the_rows_that_its_policy_names(con: duckdb.DuckDBPyConnection) -> None:
    rows = looks(*"abcde", region="north") + looks(*"fghijk", region="south") + looks(*"lmnopqr")
    egress = Egress(con, attack.roles(), lambda tenant: attack.select(con, rows))
    assert egress.answer("north", "acme", Request(("people_per_group",))).rows == [(12, 0)]  # north, and those without one
    assert egress.answer("all", "acme", Request(("people_per_group",))).rows == [(18, 0)]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_tells_what_the_answer_does_to_its_owner_alone(con: duckdb.DuckDBPyConnection, folder: Path, form: Any) -> None:
    rows = [look(str(n), region='a,"b"\n;', currency="EUR", parts=("events", "revenue")) for n in range(7)]
    answer = ask(con, rows, "events", "revenue", by=["region", "day"])
    path = folder / f"one.{form}"
    path.write_text("what stood there before")
    write(answer, path, form)
    read = attack.read(path, form)
    assert (read.columns, read.rows) == (answer.columns, answer.rows)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in folder.iterdir() if found.name.startswith(".")] == []
