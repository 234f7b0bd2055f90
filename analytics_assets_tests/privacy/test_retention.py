"""How long what is kept: a wrong line is one sentence, and whatever limits are declared, what is past goes and nothing else."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.privacy.horizons import Horizons
from analytics_assets.privacy.retention import Cutoffs, Limit, RetentionRules, load_retention
from analytics_assets.settings import ConfigError
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.spec import Column, TableSpec
from analytics_assets.warehouse.table import Table, replace_days, rewrite_rows

CLASSES, TENANTS = ("raw", "events"), ("acme", "globex", "initech")
NOW = datetime.fromisoformat("2026-03-20 12:00:00")
HEALTHY: dict[str, Any] = {
    "classes": {"raw": {"days": 30}, "events": {"days": 90, "then": "anonymise"}},
    "tenants": {"acme": {"raw": {"days": 7}}},
}
THINGS = TableSpec(
    "things",
    "Things.",
    (Column("tenant_id", "VARCHAR", "Whose."), Column("seen_at", "TIMESTAMP", "When.")),
    "seen_at",
    ("tenant_id",),
)


def declared(folder: Path, content: object) -> RetentionRules:
    path = folder / "retention.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_retention(path, CLASSES, TENANTS)


def test_a_tenants_own_limit_counts_for_it_and_that_of_the_class_for_all_others(tmp_path: Path) -> None:
    rules = declared(tmp_path, HEALTHY)
    cutoffs = rules.cutoffs("raw", NOW, ahead=False)
    assert (cutoffs.of("acme"), cutoffs.of("globex"), cutoffs.of(None)) == (
        date(2026, 3, 13), date(2026, 2, 18), date(2026, 2, 18)
    )  # fmt: skip
    assert rules.cutoffs("events", NOW, ["drop"], ahead=False).newest is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"classes": {"raw": {"days": 30}}}, r"retention.yaml:1: the class 'events' of taxonomy.yaml has no line; add `events"),
        ({"classes": {**HEALTHY["classes"], "photos": {"days": 9}}}, r"retention.yaml:7: there is no retention class 'photos'"),
        ({"classes": {"raw": {"days": 6}}}, r"yaml:3: classes.raw.days: '6' is no time to .*; say 7 to 36500 days, or none"),
        ({"classes": {"raw": {"days": "ever"}}}, r"'ever' is no time to keep rows"),
        ({"classes": {"raw": {"days": True}}}, r"'True' is no time to keep rows"),
        ({"classes": {"raw": {"days": 30, "then": "hide"}}}, r"classes.raw.then: Input should be 'drop' or 'anonymise'"),
        ({"tenants": {"acem": {"raw": {"days": 7}}}}, r"tenant 'acem' is not declared in tenants.yaml; correct it"),
        ({"tenants": {"acme": {"rows": {"days": 7}}}}, r"there is no retention class 'rows'; taxonomy.yaml declares raw"),
        ({"ahead_days": 6}, r"ahead_days: Input should be less than or equal to 5"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_one_sentence(tmp_path: Path, changed: Mapping[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        declared(tmp_path, {**HEALTHY, **changed})
    assert "\n" not in str(error.value)


limits = st.one_of(st.none(), st.integers(7, 60))
rows = st.tuples(st.sampled_from([*TENANTS, None, "o'neill"]), st.integers(0, 80), st.integers(0, 86_399))


@settings(max_examples=12)
@given(limits, st.dictionaries(st.sampled_from(TENANTS), limits), st.integers(1, 5), st.lists(rows, max_size=12), st.booleans())
def test_whatever_the_limits_and_ages_all_that_is_past_goes_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, default: int | None, own: dict[str, int | None], ahead: int,
    given_rows: list[tuple[str | None, int, int]], early: bool,
) -> None:  # fmt: skip
    rules = RetentionRules(
        ahead_days=ahead, classes={"raw": Limit(days="none" if default is None else default)},
        tenants={tenant: {"raw": Limit(days="none" if days is None else days)} for tenant, days in own.items()},
    )  # fmt: skip
    cutoffs = rules.cutoffs("raw", NOW, ahead=early)
    held = [
        (whose, datetime.fromisoformat("2026-03-20") - timedelta(days=age) + timedelta(seconds=more))
        for whose, age, more in given_rows
    ]

    def limit(whose: str | None) -> int | None:
        return own.get(whose, default) if whose else default

    def past(whose: str | None, at: datetime) -> bool:
        days = limit(whose)
        return days is not None and (NOW.date() - at.date()).days > days - (ahead if early else 0)

    table = Table(tmp_path_factory.mktemp("retention"), THINGS)
    with duckdb.connect() as con:
        con.execute("create table given (tenant_id varchar, seen_at timestamp)")
        for row in held:
            con.execute("insert into given values (?, ?)", row)
        days = sorted({at.date() for _, at in held})
        if days:
            con.execute("create table fresh as select * from given")
            replace_days(table, con, "from fresh", days, dense_day_rows=2)
        went, _ = rewrite_rows(table, con, cutoffs.past("seen_at"), 2)
        left = con.execute(f"from ({table.snapshot().select()})").fetchall()
    assert sorted(map(repr, left)) == sorted(repr(row) for row in held if not past(*row))
    assert went == len(held) - len(left)


def test_what_went_is_noted_for_ever_whatever_is_declared_later(tmp_path: Path) -> None:
    horizons = Horizons(Home(tmp_path))
    horizons.note({"sessions": Cutoffs(None, {"acme": date(2026, 1, 5)})})
    horizons.note({"sessions": Cutoffs(None, {"acme": date(2025, 1, 1), "globex": date(2026, 2, 1)})})
    horizons.note({"events": Cutoffs(None, {"acme": date(2026, 1, 1)})})
    assert dict(horizons.people.own) == {"acme": date(2026, 1, 5), "globex": date(2026, 2, 1)}
    assert horizons.people.of("initech") is None
