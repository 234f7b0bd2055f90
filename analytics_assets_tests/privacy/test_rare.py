"""Texts that few people have are masked where rows of persons leave, with as much beside them as hides them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.labelling import load_labels
from analytics_assets.outgoing import TEXTS
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.rare import MASKED, common_values, masking, origins_of, shown
from analytics_assets.sessions.tables import SESSIONS, USERS
from analytics_assets.settings import Settings
from analytics_assets.shown import published

K = 3
Row = tuple[str | None, str | None]
ROWS = st.lists(st.tuples(st.sampled_from([None, *"abcdefg"]), st.sampled_from([None, "", "u", "v", "w", "x"])), max_size=40)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute("create table rows (person varchar, region varchar)")
        yield con


def common(con: duckdb.DuckDBPyConnection, rows: Sequence[Row]) -> list[str]:
    con.execute("delete from rows")
    if rows:
        con.executemany("insert into rows values (?, ?)", rows)
    return common_values(con, "from rows", ["region"], K)["region"]


def people(rows: Sequence[Row], values: set[str]) -> int:
    return len({person for person, value in rows if person and value in values})


@given(ROWS)
def test_every_text_that_is_shown_is_of_k_people_and_what_is_masked_is_too(
    con: duckdb.DuckDBPyConnection, rows: list[Row]
) -> None:
    seen = set(common(con, rows))
    known = {value for _, value in rows if value}
    masked = known - seen
    assert all(people(rows, {value}) >= K for value in seen)
    assert not masked or not seen or people(rows, masked) >= K
    rare = {value for value in known if people(rows, {value}) < K}
    # No more than one goes with those that are rare, and none where they hide each other.
    assert len(masked - rare) <= 1
    assert (masked == rare) == (not rare or people(rows, rare) >= K or masked == known == rare)
    assert seen == set(common(con, rows[::-1]))


def test_one_rare_text_takes_that_of_the_fewest_people_along(con: duckdb.DuckDBPyConnection) -> None:
    rows: list[Row] = [(who, "germany") for who in "abcd"] + [(who, "france") for who in "abc"]
    assert common(con, rows) == ["france", "germany"]
    assert common(con, [*rows, ("e", "malta")]) == ["germany"]
    assert common(con, [*rows, *((who, f"island {who}") for who in "efg")]) == ["france", "germany"]


def test_only_what_somebody_has_is_masked(con: duckdb.DuckDBPyConnection) -> None:
    masking(con, {"region": ["germany"], "page_url": ["/"]})
    values = "(values ('germany'), ('malta'), ('/'), (''), (null), ('(other)')) as rows(region)"
    found = con.execute(f"select {shown('region', ['region'])} from {values}").fetchall()
    assert [value for (value,) in found] == ["germany", MASKED, MASKED, "", None, "(other)"]


def test_what_comes_from_texts_of_events_is_masked_with_them_in_every_table(tmp_path: Path) -> None:
    pipeline = Pipeline(Settings(tmp_path))
    labels = load_labels(pipeline.settings, pipeline.specs)
    pages = ["page_title", "page_url"]
    views = {f"{which}_page_{what}": pages for which in ("first", "last") for what in ("url", "title")}
    assert origins_of(labels, SESSIONS, TEXTS) == {**views, "campaign": ["campaign"], "region": ["region"]}
    assert origins_of(labels, USERS, TEXTS) == views
    found = {spec.name: origins_of(labels, spec, TEXTS) for spec in published()}
    assert found["events"] == {name: [name] for name in TEXTS}
    assert found["events_daily"] == {name: [name] for name in ("event", "campaign", "region", "product_id")}
    assert found["events_hourly"] == {"event": ["event"]} and found["batches"] == {}
