"""Keys that no label names are hidden, exactly these, and nothing else of the object changes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.events.tables import BATCHES
from analytics_assets.labelling import load_labels, source_names
from analytics_assets.marts.tables import mart_tables
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.keys import shown, waiting
from analytics_assets.privacy.labels import Labels
from analytics_assets.settings import CONFIG, Settings

_KEYS = next(spec for spec in mart_tables() if spec.name == "properties_daily")
_COUNTED = "(tenant_id, date, event, property, events, quarantined)"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(Settings(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def labels(pipeline: Pipeline) -> Labels:
    return load_labels(pipeline.settings, pipeline.specs)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_NAME = st.sampled_from(["price", "path", "mood", "a/b", "~", 'quo"te', "price.x", "description"]) | st.text(max_size=3)
_OBJECT = st.dictionaries(_NAME.filter(lambda text: "\x00" not in text), _VALUE, max_size=5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["canonical", "online_retail", "a_new_one"]), st.none() | _OBJECT), max_size=4))
def test_only_labelled_keys_are_shown_as_they_came(
    con: duckdb.DuckDBPyConnection, pipeline: Pipeline, labels: Labels, rows: list[tuple[str, dict[str, Any] | None]]
) -> None:
    sources = source_names(pipeline.settings)
    con.execute("create or replace table t (source varchar, tenant_id varchar, properties varchar)")
    for source, given_ in rows:
        con.execute("insert into t values (?, 'acme', ?)", [source, None if given_ is None else json.dumps(given_)])
    hidden = shown("properties", labels, sources)
    for whole, left, source in con.execute(f"select properties, {hidden}, source from t").fetchall():
        known = labels.shown_keys("properties", source)
        if whole is None or json.loads(whole).keys() <= set(known):
            assert left == whole
        else:
            assert json.loads(left) == {key: value for key, value in json.loads(whole).items() if key in known}


def test_only_the_tenants_that_are_named_are_looked_at(con: duckdb.DuckDBPyConnection, labels: Labels) -> None:
    con.execute("create or replace table t as select 'canonical' as source, t as tenant_id, '{\"mood\":1}' as properties "
                "from (values ('acme'), ('glo''bex')) as v(t)")  # fmt: skip
    sql = shown("properties", labels, ["canonical"], ["glo'bex"])
    assert con.execute(f"select {sql} from t order by tenant_id").fetchall() == [('{"mood":1}',), ("{}",)]


@pytest.fixture
def counted(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Acme has sent two batches through `canonical`; nothing is counted yet."""
    con.execute(f"create or replace table batches as {BATCHES.empty_select}")
    con.execute(f"create or replace table counted as {_KEYS.empty_select}")
    con.execute("""insert into batches (source, events, events_by_tenant) values
        ('canonical', 3, '{"acme": 2, "globex": 1}'), ('canonical', 1, '{"acme": 1}'), ('snowplow', 0, '{}')""")
    return con


def _count(con: duckdb.DuckDBPyConnection, *keys: tuple[str, str, bool]) -> None:
    for tenant, key, quarantined in keys:
        con.execute(f"insert into counted {_COUNTED} values (?, '2026-03-10', 'look', ?, 5, ?)",
                    [tenant, key, quarantined])  # fmt: skip


@pytest.mark.parametrize(
    ("key", "waits"),
    [
        (("acme", "price", False), False),
        (("acme", "region", False), False),  # of the name of a column
        (("acme", "mood", False), True),
        (("acme", "se_action", False), True),  # labelled, but not for what acme sends through
        (("acme", "(other)", True), True),
    ],
)
def test_a_key_waits_if_a_source_of_its_tenant_has_no_label_for_it(
    counted: duckdb.DuckDBPyConnection, labels: Labels, key: tuple[str, str, bool], waits: bool
) -> None:
    _count(counted, key)
    found = waiting(counted, "from counted", "from batches", labels, ["canonical", "snowplow"])
    assert [(one.tenant, one.key, one.events) for one in found] == ([(key[0], key[1], 5)] if waits else [])


def test_a_batch_that_does_not_tell_whose_it_is_may_be_of_anyone(counted: duckdb.DuckDBPyConnection, labels: Labels) -> None:
    _count(counted, ("acme", "price", False), ("nobody", "price", False), ("nobody", "region", False))
    counted.execute("insert into batches (source, events) values ('snowplow', 1)")
    found = waiting(counted, "from counted", "from batches", labels, ["canonical", "snowplow"])
    assert [(one.tenant, one.key) for one in found] == [("acme", "price"), ("nobody", "price")]


@pytest.mark.parametrize(
    ("source", "column"), [("snowplow", "properties"), ("snowplow", "context"), ("online_retail", "properties")]
)
def test_every_key_that_a_mapping_names_has_a_label(labels: Labels, source: str, column: str) -> None:
    mapping = yaml.safe_load((CONFIG / "sources" / f"{source}.yaml").read_text())["fields"][column]
    named = set(re.findall(r"'(\w+)':", mapping))
    assert named and named <= set(labels.shown_keys(column, source))
