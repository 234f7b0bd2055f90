"""A column's origins are all that its values can come from: on SQL of every kind that is used, and on what really flows."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.labelling import derived_tables, lineage
from analytics_assets.privacy.labels import Lineage
from analytics_assets.privacy.lineage import ROWS, Relation, Traced, Unresolved, relation_of
from analytics_assets.settings import SessionRules
from analytics_assets_tests.privacy.flows import Outputs, Row, renamed, tables_of

T = Relation({name: frozenset({f"t.{name}"}) for name in "abcd"}, frozenset({"t.*"}))
U = Relation({"a": frozenset({"u.a"}), "j": frozenset({"u.j"})}, frozenset({"u.*"}))


def origins(select: str) -> dict[str, set[str]]:
    with duckdb.connect() as con:
        return {name: set(found) for name, found in relation_of(con, select, {"t": T, "u": U}).columns.items()}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("select a, b || c as x from t", {"a": {"t.a"}, "x": {"t.b", "t.c"}}),
        ("select * exclude (c, d) replace (d as b) from t", {"a": {"t.a"}, "b": {"t.d"}}),
        ("select r.* from (select a as x from t) r", {"x": {"t.a"}}),
        ("select x, y from (select a, b from t) as q(x, y)", {"x": {"t.a"}, "y": {"t.b"}}),
        ("with w as (select a as x from t) select x as y, y as z from w", {"y": {"t.a"}, "z": {"t.a"}}),
        ("select a from t join u using (a)", {"a": {"t.a", "u.a"}}),
        ("select t.a, u.a as other from t join u on t.a = u.a", {"a": {"t.a"}, "other": {"u.a"}}),
        ("select a as x from t union all select b from t", {"x": {"t.a", "t.b"}}),
        ("select a as x from t except select b from t", {"x": {"t.a", "t.b"}}),
        ("select s.x as y from (select {'x': a, 'z': b} as s from t)", {"y": {"t.a", "t.b"}}),
        ("select j ->> 'k' as k, j as whole from u", {"k": {"u.j.k"}, "whole": {"u.j"}}),
        ("select (select max(u.a) from u where u.a = t.b) as x from t", {"x": {"u.a"}}),
        ("select v from (values (1), (2)) as w(v) cross join t", {"v": {"t.*"}}),
        # What only chooses gives no value.
        ("select a from t where b = 1 and c in (select a from u) order by d", {"a": {"t.a"}}),
        ("select arg_max(a, (b, c)) filter (d is null) as x from t group by d", {"x": {"t.a"}}),
        ("select lag(a) over (partition by b order by c) as x from t", {"x": {"t.a"}}),
        ("select case when a = 1 then b else c end as x from t", {"x": {"t.b", "t.c"}}),
        # Which of two constants it is tells what was asked.
        ("select case when a = 1 then 'yes' end as x from t", {"x": {"t.a"}}),
        # A count tells that rows are there.
        ("select count(*) as n, count(distinct a) as m, row_number() over (order by b) as o from t group by all",
         {"n": {"t.*"}, "m": {"t.*"}, "o": {"t.*"}}),
        ("select count(*) as n from t join u using (a)", {"n": {"t.*", "u.*"}}),
        ("select 1 as one, null as nothing from t", {"one": {"t.*"}, "nothing": {"t.*"}}),
    ],
)  # fmt: skip
def test_where_a_column_comes_from(select: str, expected: dict[str, set[str]]) -> None:
    assert origins(select) == expected


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("select z from t", "no column z"),
        ("select a from elsewhere", "elsewhere"),
        ("select * from read_parquet('x.parquet')", "TABLE_FUNCTION"),
        ("select list_transform([a], lambda x: x || b) as y from t", "lambda"),
        ("selec a from t", "syntax error"),
    ],
)
def test_what_cannot_be_resolved_is_an_error(select: str, names: str) -> None:
    with pytest.raises(Unresolved, match=names):
        origins(select)


def test_statements_hand_their_origins_on() -> None:
    with duckdb.connect() as con:
        con.execute("create table t (a int, b int, c int, d int)")
        traced = Traced(con, {"t": T})
        traced.execute("create temp table v as select a as x, b as y from t; create view w as select x as z, y from v")
        traced.execute("update v set y = other.c from t other where other.a = v.x")
        traced.execute("create or replace temp table v2 as select * from v")
        assert set(traced.known["w"].columns["z"]) == {"t.a"}
        assert set(traced.known["v2"].columns["y"]) == {"t.b", "t.c"}
        with pytest.raises(Unresolved, match="insert"):
            traced.execute("insert into t select * from t")


# Random queries over a table of two keys, which alone group, join and order, and three values.

VALUES = ("a", "b", "c")
_STEPS = (
    "select k, l, {0} || coalesce({1}, '-') as a, coalesce({2}, {0}) as b, 'w' as c from ({q})",
    "select k, l, case when k is null then {0} else {1} end as a, {2} as b, case when {0} is null then 1 else 2 end::text as c "
    "from ({q})",
    "select k, min(l) as l, max({0}) as a, arg_min({1}, l) as b, count({2})::text as c from ({q}) group by k",
    "select * replace (lag({0}) over (partition by k order by l) as b) from ({q})",
    "select * from ({q}) union all select l, k, {1}, {2}, {0} from ({q})",
    "with w as (select * from ({q})) select w.k, o.l, w.{0} as a, o.{1} as b, coalesce(o.{2}, w.{2}) as c "
    "from w left join w o using (k)",
    "select q.* exclude (a, b), {1} as a, first_value({0}) over (partition by l order by k) as b from ({q}) q",
    "select k, l, s.x as a, s.y as b, s.x as c from (select k, l, {{'x': {0}, 'y': {2}}} as s from ({q}))",
)
_TEXT = st.sampled_from(["", "m", "n", "mn", None])


@pytest.fixture(scope="module")
def one_thread() -> Iterator[duckdb.DuckDBPyConnection]:
    """With one thread, rows of equal keys keep their order."""
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_STEPS), st.permutations(VALUES)), min_size=1, max_size=3),
    st.lists(st.tuples(*[_TEXT] * 5), min_size=2, max_size=6),
)
def test_what_a_random_query_gives_on_is_named(
    one_thread: duckdb.DuckDBPyConnection, steps: list[tuple[str, list[str]]], rows: list[tuple[str | None, ...]]
) -> None:
    """No column changes when values are renamed that it does not name as its origin."""
    query = "select * from r"
    for step, order in steps:
        query = step.format(*order, q=query)
    known = Relation({name: frozenset({name}) for name in ("k", "l", *VALUES)}, frozenset({"*"}))
    found = relation_of(one_thread, query, {"r": known})
    results = [_result(one_thread, query, rows, None), *(_result(one_thread, query, rows, name) for name in VALUES)]
    for name, result in zip(VALUES, results[1:], strict=True):
        changed = {column for column in found.columns if result[column] != results[0][column]}
        assert all(name in found.columns[column] for column in changed)


def _result(con: duckdb.DuckDBPyConnection, query: str, rows: list[tuple[str | None, ...]], name: str | None) -> Any:
    con.execute("create or replace table r (k text, l text, a text, b text, c text)")
    places = ["k", "l", *VALUES]
    given = [
        [f"q{v}" if column == name and v is not None else v for column, v in zip(places, row, strict=True)] for row in rows
    ]
    con.execute(f"insert into r values {', '.join(['(?, ?, ?, ?, ?)'] * len(rows))}", [v for row in given for v in row])
    cursor = con.execute(query)
    names = [entry[0] for entry in cursor.description]
    table = cursor.fetchall()
    return {column: sorted(repr(row[n]) for row in table) for n, column in enumerate(names)}


# The tables of the project


def test_every_column_of_every_computed_table_has_origins(marts: dict[str, str]) -> None:
    found = lineage(marts)
    assert found.keys() == {spec.name for spec in derived_tables()}
    for spec in derived_tables():
        assert found[spec.name].keys() == {*spec.column_names, ROWS}
        assert all(found[spec.name].values())


_NOON = datetime.fromisoformat("2026-03-10 12:00:00")
_LATER = 60 * 24 * 8
# Renamed together: both name a user.
_INPUTS = {
    **{name: (f"events.{name}",) for name in (
        "tenant_id", "message_id", "anonymous_id", "session_id", "timestamp", "received_at", "properties", "context", "revenue",
        "quantity", "currency", "order_id", "product_id", "campaign", "region", "page_view_id", "page_url", "page_title",
        "source", "batch_id", "event")},
    "user_id": ("events.user_id", "events.properties.previousId"),
}  # fmt: skip


def _an_event(minute: int, **changes: Any) -> Row:
    event = {
        "tenant_id": "acme", "message_id": f"m{minute}", "type": "track", "event": "look", "source": "canonical",
        "timestamp": _NOON + timedelta(minutes=minute), "received_at": _NOON, "batch_id": "b1", "message_key": minute,
        "properties": {"colour": "red"}, "context": {"ip": "::1"},
    }  # fmt: skip
    return {**event, **changes}


_SOLD = {"revenue": Decimal(5), "quantity": 2, "currency": "GBP", "order_id": "o1", "product_id": "p1"}
_BOB = {"user_id": "bob", "session_id": "s1"}
EVENTS_OF_EVERY_KIND = [
    _an_event(1, user_id="ann", anonymous_id="phone"),
    _an_event(2, anonymous_id="phone", event="Product Ordered", campaign="spring", region="GB", **_SOLD),
    _an_event(3, anonymous_id="phone", event="Product Returned", **{**_SOLD, "revenue": Decimal(-2)}),
    _an_event(4, type="page", event="page_view", page_url="/a", page_title="A", page_view_id="v1", **_BOB),
    _an_event(5, event="page_ping", page_url="/a", page_title="A", page_view_id="v1", **_BOB),
    _an_event(6, type="page", event="page_view", page_url="/b", page_title="B", campaign="x", region="DE", **_BOB),
    _an_event(8, type="alias", user_id="robert", previous_id="bob"),
    _an_event(9, tenant_id="globex"),
    _an_event(10, tenant_id="globex", user_id="carl"),
    _an_event(_LATER, user_id="ann", anonymous_id="laptop"),
    *(_an_event(100 + n, anonymous_id="mad") for n in range(12)),
]


def _built(marts: dict[str, str], renamed_input: str | None) -> Outputs:
    rows: list[Row] = []
    for event in EVENTS_OF_EVERY_KIND:
        row = {**event, "previous_id": event.get("previous_id")}
        # Names that the SQL knows stay as they are, or other rows would be chosen.
        if renamed_input and row.get(renamed_input) is not None and (renamed_input, row["event"] == "look") != ("event", False):
            row[renamed_input] = renamed(row[renamed_input])
        if renamed_input == "user_id" and row["previous_id"]:
            row["previous_id"] = renamed(row["previous_id"])
        if row["previous_id"]:
            row["properties"] = {**row["properties"], "previousId": row["previous_id"]}
        rows.append({**row, "properties": json.dumps(row["properties"]), "context": json.dumps(row["context"])})
    return tables_of(rows, marts, [_NOON.date(), date(2026, 3, 18)], SessionRules(most_events=10))


def unnamed(found: Lineage, flows: Mapping[str, set[tuple[str, str]]]) -> list[str]:
    """Flows that the lineage does not name, as `input -> table.column`."""
    return sorted(
        f"{name} -> {table}.{column}"
        for name, fields in flows.items()
        for table, column in fields
        if not _roots(found, f"{table}.{column}") & set(_INPUTS[name])
    )


def _roots(found: Lineage, field: str) -> set[str]:
    table, column, *_ = field.split(".")
    if table not in found:
        return {field}
    return set().union(*(_roots(found, origin) for origin in found[table][column]))


def test_what_really_flows_is_named(marts: dict[str, str]) -> None:
    """Each input is renamed; what changes in any computed table must name it. (`type` is left: its words are fixed.)"""
    found = lineage(marts)
    before = _built(marts, None)
    assert {table for table, _ in before} == found.keys() and all(before.values())
    flows = {}
    for name in _INPUTS:
        after = _built(marts, name)
        flows[name] = {field for field, values in before.items() if values != after[field]}
    assert unnamed(found, flows) == []
    # Those that are needed for it, and that the events here do show.
    for missing in (
        ("sessions", "region", "region"),
        ("events_daily", "campaign", "campaign"),
        ("users", "person_id", "user_id"),
    ):
        table, column, name = missing
        assert f"{name} -> {table}.{column}" in unnamed({**found, table: {**found[table], column: frozenset()}}, flows)
