"""What stands behind a number: only what really is behind it, and a typo is one sentence with the nearest name."""

import shutil
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.explain import Asked, Behind, behind_of, explain, models_behind, overview
from analytics_assets.labelling import load_labels
from analytics_assets.settings import UserError
from analytics_assets.warehouse.publish import current_path, rollback
from analytics_assets_tests.builders import DAY, NOW, Line, a_config, an_event, at
from analytics_assets_tests.conftest import made_once

NEXT_DAY = DAY + timedelta(days=1)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four deliveries. A session of acme begins in the first and ends, after midnight, in the second, which is all of its day.

    What acme sold the day after that (the third) breaks an expectation that only warns; the fourth is of globex. Version 2 has
    other users than version 1, and all else alike.
    """

    def make(folder: Path) -> None:
        with Line.at(folder / "home", a_config(folder / "config")) as line:
            deliveries: list[list[Any]] = [
                [an_event("m1", revenue=2.5, currency="GBP"), an_event("m2", timestamp=at(11 * 60 + 50))],
                [an_event("m3", timestamp=at(12 * 60 + 5)), "no event"],
                [an_event("m4", timestamp=at(day=2), revenue=1, currency="pounds")],
                [an_event("g1", tenant_id="globex", timestamp=at(day=2), revenue=1, currency="GBP", user_id="u1")],
            ]
            for events in deliveries:
                line.load(events)
                line.now += timedelta(minutes=1)
            line.rebuild()
            line.publish()
            line.pipeline.rebuild_users(line.con)
            line.publish()

    return made_once(tmp_path_factory, "explained", make)


@pytest.fixture(scope="module")
def line(template: Path) -> Iterator[Line]:
    """Tests of this line only look."""
    with Line.at(template / "home", template / "config") as line:
        yield line


@pytest.fixture
def own(template: Path, tmp_path: Path) -> Iterator[Line]:
    """A copy that a test may change."""
    shutil.copytree(template, tmp_path / "copy")
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def told(line: Line, name: str, tenant: str | None = None, day: date | None = None) -> dict[str, Any]:
    table, _, column = name.partition(".")
    stages = line.pipeline
    return explain(
        stages.settings, stages.specs, Asked(table, column or None, tenant, day),
        lambda: stages.watch.look(line.con, NOW + timedelta(hours=1)).statuses,
    )  # fmt: skip


def files(told: dict[str, Any]) -> list[str]:
    return sorted(one["file"] for one in told["deliveries"]["newest"])


def test_a_number_names_the_batches_that_brought_its_events_and_no_other(line: Line) -> None:
    everything = told(line, "revenue_daily.revenue")["deliveries"]
    assert (everything["rows"], everything["batches"]) == (5, 4)
    assert [one["file"] for one in everything["newest"]] == ["4.ndjson", "3.ndjson", "2.ndjson"]
    assert files(told(line, "revenue_daily.revenue", "acme")) == ["1.ndjson", "2.ndjson", "3.ndjson"]
    assert files(told(line, "revenue_daily.revenue", "globex")) == ["4.ndjson"]
    # These files may hold rows of others, of which somebody who asks about one tenant is told nothing.
    assert [one["records"] for one in everything["newest"]] == [1, 1, 2]
    assert {one["records"] for one in told(line, "revenue_daily.revenue", "acme")["deliveries"]["newest"]} == {None}
    of_a_day = told(line, "revenue_daily.revenue", "acme", DAY)["deliveries"]
    (newest,) = of_a_day["newest"]
    assert (of_a_day["rows"], newest["file"], newest["source"], newest["rows"]) == (2, "1.ndjson", "canonical", 2)


def test_a_session_names_what_came_of_it_after_midnight(line: Line) -> None:
    assert files(told(line, "sessions.events", "acme", DAY)) == ["1.ndjson", "2.ndjson"]
    assert files(told(line, "events_daily.events", "acme", DAY)) == ["1.ndjson"]


def test_a_table_that_names_its_batches_is_asked_itself(line: Line) -> None:
    assert files(told(line, "rejected_events")) == ["2.ndjson"]
    assert files(told(line, "batches.received")) == ["2.ndjson", "3.ndjson", "4.ndjson"]
    assert files(told(line, "batches", "globex")) == ["4.ndjson"]
    assert told(line, "freshness_status.state")["deliveries"] is None


def test_a_verdict_counts_for_whom_it_is_about_and_a_shared_one_for_all_who_have_none(line: Line) -> None:
    acme, globex = (told(line, "events.currency", tenant)["checks"] for tenant in ("acme", "globex"))
    assert [(one["expectation"], one["failed_on"]) for one in acme["not_passed"] if one["failed"]] == [
        ("events_name_their_currency", DAY + timedelta(days=2))
    ]
    assert globex["failed"] == 0 and globex["passed"] == acme["passed"] + 1
    assert told(line, "events.currency", "acme", DAY)["checks"]["failed"] == 0
    assert told(line, "revenue_daily.revenue", "acme")["checks"]["behind"]["events"]["failed"] == 1


def test_it_tells_what_a_field_is_and_where_its_values_come_from(line: Line) -> None:
    found = told(line, "users.revenue")
    assert found["comes_from"]["directly"] == ("sessions.revenue",)
    assert found["comes_from"]["ends"] == ("events.revenue",)
    assert found["comes_from"]["sources"] == [{"source": "canonical", "column": "revenue", "as": "revenue"}]
    assert (found["label"]["label"], found["label"]["owner"]) == ("behavioural", "product analytics")
    assert found["label"]["category"] == "user.behavior.purchase_history"
    assert told(line, "events.properties.price")["label"]["label"] == "behavioural"
    # No label yet: hidden from readers.
    assert told(line, "events.properties.colour")["label"] is None
    columns = {one["column"]: one["label"]["label"] for one in told(line, "users")["columns"]}
    assert columns["person_id"] == "identifier" and "message_key" not in columns


def test_it_tells_how_fresh_the_number_is_and_what_was_promised(own: Line) -> None:
    (fresh,) = told(own, "users.revenue", "acme")["freshness"]
    assert (fresh["state"], fresh["tier"], fresh["promised_minutes"], fresh["age_minutes"]) == ("fresh", "hourly", 60, 0)
    own.now = NOW + timedelta(minutes=30)
    own.load([an_event("m9")])
    late, other = told(own, "revenue_daily.revenue")["freshness"]
    assert (late["tenant_id"], late["state"], late["age_minutes"]) == ("acme", "late", 30)
    assert (other["tenant_id"], other["state"], late["data_through"]) == ("globex", "quiet", own.now)


def test_it_tells_with_which_version_the_table_last_changed_and_whether_readers_were_put_back(own: Line) -> None:
    users, events = (told(own, table)["version"] for table in ("users", "events"))
    assert [(one["version"], one["unchanged_since"]) for one in (users, events)] == [(2, 2), (2, 1)]
    rollback(own.pipeline.home, 1, now=NOW, reason="users were wrong")
    back = told(own, "users")["version"]
    assert (back["version"], back["unchanged_since"], back["rolled_back"]) == (1, 1, "users were wrong")


def test_a_model_had_a_part_in_all_that_comes_from_what_it_computes(own: Line) -> None:
    def models(name: str) -> list[tuple[str, str]]:
        return [(one["model"], one["part"]) for one in told(own, name)["model"]["models"]]

    names = ("revenue_daily.revenue", "users.revenue", "events.revenue", "batches.events")
    assert [models(name) for name in names] == [[], [], [], []]
    assert models("load_forecast.value") == [("load forecast", "its values")]
    assert models("tuning_decisions.memory_mb") == [("step resources", "its values")]
    path = own.pipeline.settings.config / "taxonomy.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["tables"]["events"]["model"] = "guesses"
    path.write_text(yaml.safe_dump(declared))
    of_it = [("guesses", "its values")]
    assert [models(name) for name in names] == [of_it, of_it, of_it, []]
    labels = load_labels(own.pipeline.settings, own.pipeline.specs)
    only_chosen = models_behind(labels, "vip_orders", Behind((), (), (), ("events",)))
    assert only_chosen == {
        "had_a_part": True,
        "models": [{"model": "guesses", "table": "events", "part": "its choice of rows"}],
    }
    (line,) = [one for one in _overview(own) if one["table"] == "revenue_daily"]
    assert line["a model's part"] == "guesses"


def _overview(line: Line) -> list[dict[str, Any]]:
    return overview(current_path(line.pipeline.home), line.pipeline.settings, line.pipeline.specs)


def test_the_overview_says_the_same_of_every_table(line: Line) -> None:
    for one in _overview(line):
        found = told(line, one["table"])
        counts = {name: found["checks"][name] for name in ("passed", "failed", "unknown")}
        assert one["checks"] == (", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none")
        assert one["rows"] == found["rows"]
        assert (one["made from"] == "deliveries") == (one["table"] in ("events", "rejected_events", "batches"))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("revenu_daily", None, None), "there is no published table 'revenu_daily'; did you mean 'revenue_daily'?"),
        (("identities", None, None), "there is no published table 'identities'"),
        (("users.revnue", None, None), "'users' has no column 'revnue'; did you mean 'revenue'?"),
        (("events.message_key", None, None), "'events' has no column 'message_key'; did you mean 'message_id'?"),
        (("users.revenue.gross", None, None), "'users' has no column 'revenue.gross'; did you mean 'revenue'?"),
        (("events.properties.prise", None, None), "is known to carry 'properties.prise'; did you mean 'properties.price'?"),
        (("users", "acmee", None), "tenant 'acmee' is not declared in tenants.yaml; did you mean 'acme'?"),
        (("users", "zzz", None), "tenant 'zzz' is not declared in tenants.yaml; there are acme, globex"),
        (("published_tables", "acme", None), "'published_tables' does not tell whose its rows are; leave out --tenant"),
        (("users", "acme", DAY), "'users' has no days of its own"),
        (("cohort_retention_weekly", None, DAY), "'cohort_retention_weekly' has no days of its own"),
        (("events_daily", "globex", DAY), f"'events_daily' has no row of 'globex' on {DAY}; the nearest day with one is "
                                          f"{DAY + timedelta(days=2)}"),
        (("runaway_sessions", None, DAY), f"'runaway_sessions' has no row on {DAY}, and on no other day"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_one_sentence_with_the_nearest_name(
    line: Line, asked: tuple[str, str | None, date | None], sentence: str
) -> None:
    with pytest.raises(UserError) as wrong:
        told(line, *asked)
    assert sentence in str(wrong.value) and "\n" not in str(wrong.value)


def test_without_a_version_there_is_nothing_to_explain(tmp_path: Path) -> None:
    with (
        Line.at(tmp_path / "empty", a_config(tmp_path / "config")) as empty,
        pytest.raises(UserError, match="nothing is published"),
    ):
        told(empty, "users")


# Tables `t0` to `t5`, each made from earlier ones; a column is `c0` or `c1`, and `*` are the rows.
_FIELDS = ("c0", "c1", "*")


@st.composite
def lineages(draw: st.DrawFn) -> dict[str, dict[str, frozenset[str]]]:
    found = {}
    for n in range(draw(st.integers(1, 3)), 6):
        earlier = st.sampled_from([f"t{before}.{field}" for before in range(n) for field in _FIELDS])
        found[f"t{n}"] = {field: frozenset(draw(st.sets(earlier, max_size=3))) for field in _FIELDS}
    return found


def _all_ways(lineage: dict[str, dict[str, frozenset[str]]], table: str, column: str) -> set[Sequence[str]]:
    """Every way from a column back, as the list of fields on it."""
    ways: set[Sequence[str]] = set()
    for origin in lineage.get(table, {}).get(column, ()):
        before, _, name = origin.partition(".")
        ways |= {(origin,), *((origin, *rest) for rest in _all_ways(lineage, before, name))}
    return ways


@given(lineages())
def test_what_is_behind_a_column_is_what_some_way_back_leads_to(lineage: dict[str, dict[str, frozenset[str]]]) -> None:
    for column in ("c0", "c1"):
        behind = behind_of(lineage, "t5", column)
        reached = {way[-1] for way in _all_ways(lineage, "t5", column)}
        tables = {field.split(".")[0] for field in reached}
        rows = {way[-1].split(".")[0] for way in _all_ways(lineage, "t5", "*")}
        assert set(behind.directly) == lineage["t5"][column]
        assert set(behind.ends) == {field for field in reached if field.split(".")[0] not in lineage}
        assert set(behind.tables) == tables and set(behind.choosing) == rows - tables
