"""The marts computed from a small handmade work database, and what a build says of itself."""

import os
import shutil
import socket
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analytics_assets.events.schema import EVENTS
from analytics_assets.marts import build, project

Row = dict[str, Any]

DAILY = ("events_hourly", "events_daily", "properties_daily", "revenue_daily", "funnel_daily")
SUNDAY, MONDAY = date(2026, 3, 1), date(2026, 3, 2)


def an_event(at: str, event: str = "page_view", tenant: str = "shop", **columns: Any) -> Row:
    return {"tenant_id": tenant, "timestamp": at, "event": event, "type": "track", **columns}


def a_sale(at: str, revenue: str, **columns: Any) -> Row:
    return an_event(at, **{"event": "Product Ordered", "revenue": revenue, "currency": "GBP", "quantity": 1, **columns})


def a_session(at: str, user_id: str | None, tenant: str = "shop") -> Row:
    return {"tenant_id": tenant, "user_id": user_id, "date": at[:10], "started_at": at, "ended_at": at}


EVENT_ROWS = [
    a_sale("2026-03-01 23:59:59.999999", "10.10", user_id="ann", order_id="o1", product_id="cup", region="FR", properties="{}"),
    a_sale("2026-03-01 23:59:59.999999", "0.0001", user_id="ann", order_id="o1", product_id="lid", quantity=3),
    a_sale("2026-03-02 00:00:00", "5", user_id="bob", order_id="o2", campaign="spring"),
    a_sale("2026-03-02 08:00:00", "7", currency="EUR", anonymous_id="phone", order_id="o3"),
    a_sale("2026-03-02 09:00:00", "-7", currency="EUR", event="Product Returned", quantity=-1, anonymous_id="phone"),
    an_event("2026-03-02 10:00:00", "page_view", anonymous_id="tablet", properties='{"title": "Home", "": null}'),
    an_event("2026-03-02 10:00:05", "page_ping", anonymous_id="tablet"),
    an_event("2026-03-02 10:00:00", "page_view", session_id="s9"),
    an_event("2026-03-02 10:00:00", "page_view", "other"),
    an_event("2026-03-02 11:00:00", None, "other", type="identify", user_id="ann"),
]
SESSION_ROWS = [
    a_session("2026-02-22 10:00:00", "ann"),
    a_session("2026-03-01 23:59:00", "ann"),
    a_session("2026-03-02 00:00:00", "bob"),
    a_session("2026-03-02 08:00:00", "cat"),
    a_session("2026-03-09 10:00:00", None),
    a_session("2026-03-02 11:00:00", "ann", "other"),
]
IDENTITY_ROWS = [{"tenant_id": "shop", "anonymous_id": "phone", "user_id": "cat"}]


def a_work_db(
    path: Path,
    days: Iterable[date] = (SUNDAY, MONDAY),
    events: Iterable[Row] = EVENT_ROWS,
    sessions: Iterable[Row] = SESSION_ROWS,
    identities: Iterable[Row] = IDENTITY_ROWS,
) -> Path:
    """A work database as the caller prepares it: only the events of the days, all sessions and identities."""
    days = list(days)
    numbered = [{"message_id": f"m{n}", **event} for n, event in enumerate(events)]
    tables: dict[str, tuple[dict[str, str], list[Row]]] = {
        "days": ({"date": "DATE"}, [{"date": day} for day in days]),
        "stored_events": ({column.name: column.type for column in EVENTS.columns}, numbered),
        "sessions": (
            {
                **dict.fromkeys(("tenant_id", "session_id", "user_id", "anonymous_id", "person_id"), "VARCHAR"),
                **{"date": "DATE", "started_at": "TIMESTAMP", "ended_at": "TIMESTAMP"},
            },
            [{"session_id": f"s{n}", "person_id": "p", **session} for n, session in enumerate(sessions)],
        ),
        "identities": (dict.fromkeys(("tenant_id", "anonymous_id", "user_id"), "VARCHAR"), list(identities)),
    }
    with duckdb.connect(str(path)) as connection:
        for name, (columns, rows) in tables.items():
            typed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            connection.execute(f"create table {name} ({typed})")
            for row in rows:
                given = ", ".join(f'"{column}"' for column in row)
                marks = ", ".join("?" for _ in row)
                connection.execute(f"insert into {name} ({given}) values ({marks})", list(row.values()))
        connection.execute(
            "create view events as select * from stored_events where cast(timestamp as date) in (select date from days)"
        )
    return path


def rows_of(work_db: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(work_db), read_only=True) as connection:
        return connection.execute(query).fetchall()


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dbt")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, target: Path) -> tuple[Path, build.BuildResult]:
    """The healthy case, in a place with an unfriendly name."""
    work_db = a_work_db(tmp_path_factory.mktemp("it's a {{ place }}") / "work 1.db.duckdb")
    return work_db, build.build(work_db, target)


# What the marts say


def test_every_test_holds_on_the_healthy_case(built: tuple[Path, build.BuildResult]) -> None:
    _, result = built
    assert [(test.name, test.message) for test in result.tests if test.status != "pass"] == []
    assert result.ok
    assert list(result.models) == list(project.models())
    assert {test.name for test in result.tests} == {t.name for m in project.models().values() for t in m.tests}


def test_columns_and_types_are_those_declared(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    for model in project.models().values():
        found = [(name, kind) for name, kind, *_ in rows_of(work_db, f"describe {model.name}")]
        assert found == [(column.name, column.type) for column in model.columns], model.name


def test_midnight_divides_days_and_hours(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    assert rows_of(
        work_db,
        "select date, hour::varchar, events, revenue from events_hourly where event = 'Product Ordered' order by hour limit 2",
    ) == [
        (SUNDAY, "2026-03-01 23:00:00", 2, Decimal("10.1001")),
        (MONDAY, "2026-03-02 00:00:00", 1, Decimal("5.0000")),
    ]


def test_an_unknown_region_or_campaign_stays_unknown(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    query = "select region, campaign, product_id, events, quantity, revenue from events_daily where date = '2026-03-01'"
    assert rows_of(work_db, f"{query} order by product_id") == [
        ("FR", None, "cup", 1, 1, Decimal("10.1000")),
        (None, None, "lid", 1, 3, Decimal("0.0001")),
    ]


def test_an_event_without_a_name_is_counted(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    assert rows_of(work_db, "select events from events_daily where event is null") == [(1,)]


def test_a_property_is_a_key_or_a_filled_column(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    query = "select event, property, events, distinct_values, keys, quarantined from properties_daily"
    assert rows_of(work_db, f"{query} where tenant_id = 'shop' order by date, event, property") == [
        ("Product Ordered", "product_id", 2, 2, 1, False),
        ("Product Ordered", "region", 1, 1, 1, False),
        ("Product Ordered", "campaign", 1, 1, 1, False),
        ("page_view", "", 1, 1, 1, False),
        ("page_view", "title", 1, 1, 1, False),
    ]


def test_currencies_and_returns_stay_apart(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    assert rows_of(work_db, "select * exclude (tenant_id) from revenue_daily order by date, currency") == [
        (SUNDAY, "GBP", Decimal("10.1001"), Decimal("10.1001"), Decimal(0), 1, 0, 4, 0),
        (MONDAY, "EUR", Decimal(0), Decimal(7), Decimal(-7), 1, 1, 1, -1),
        (MONDAY, "GBP", Decimal(5), Decimal(5), Decimal(0), 1, 0, 1, 0),
    ]


def test_weeks_begin_on_monday_and_quiet_weeks_are_zeros(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    query = "select cohort_week, weeks_since, cohort_users, active_users, retention from cohort_retention_weekly"
    assert rows_of(work_db, f"{query} where tenant_id = 'shop' order by all") == [
        # ann: Sunday 22 February and Sunday 1 March, the week after; then nobody, until a stranger's last week.
        (date(2026, 2, 16), 0, 1, 1, 1.0),
        (date(2026, 2, 16), 1, 1, 1, 1.0),
        (date(2026, 2, 16), 2, 1, 0, 0.0),
        (date(2026, 2, 16), 3, 1, 0, 0.0),
        (MONDAY, 0, 2, 2, 1.0),
        (MONDAY, 1, 2, 0, 0.0),
    ]


def test_funnels_show_only_where_somebody_began(built: tuple[Path, build.BuildResult]) -> None:
    work_db, _ = built
    assert rows_of(work_db, "select tenant_id, date, funnel, step, people from funnel_daily order by all") == [
        ("shop", SUNDAY, "orders_to_returns", 1, 1),
        ("shop", SUNDAY, "orders_to_returns", 2, 0),
        ("shop", MONDAY, "orders_to_returns", 1, 2),
        ("shop", MONDAY, "orders_to_returns", 2, 1),
        # The tablet and the session; an event of nobody, as in the other tenant, is not a person.
        ("shop", MONDAY, "web", 1, 2),
        ("shop", MONDAY, "web", 2, 1),
        ("shop", MONDAY, "web", 3, 0),
    ]


def test_rebuilding_one_day_equals_the_full_build(built: tuple[Path, build.BuildResult], tmp_path: Path, target: Path) -> None:
    whole, _ = built
    one_day = a_work_db(tmp_path / "monday.duckdb", days=[MONDAY])
    assert build.build(one_day, target).ok
    for name in DAILY:
        expected = rows_of(whole, f"from {name} where date = '{MONDAY}' order by all")
        assert expected
        assert rows_of(one_day, f"from {name} order by all") == expected
    cohorts = "from cohort_retention_weekly order by all"
    assert rows_of(one_day, cohorts) == rows_of(whole, cohorts)


def test_days_without_events_give_no_rows(tmp_path: Path, target: Path) -> None:
    work_db = a_work_db(tmp_path / "quiet.duckdb", events=[], sessions=[], identities=[])
    result = build.build(work_db, target)
    assert result.ok
    assert [result.models[name].rows for name in DAILY] == [0, 0, 0, 0, 0]


def test_unit_tests_of_dbt(built: tuple[Path, build.BuildResult], target: Path) -> None:
    work_db, _ = built
    results = build.run_dbt(["test", "--select", "test_type:unit"], work_db=work_db, target_dir=target)
    assert [(run.node.name, run.message) for run in results if run.status != "pass"] == []
    assert len(results) == 9


# What a build says of itself


def test_rows_and_seconds_are_reported(built: tuple[Path, build.BuildResult]) -> None:
    work_db, result = built
    for model in result.models.values():
        assert model.seconds > 0
        rows = rows_of(work_db, f"select count(*) from {model.name}")[0][0] if model.name in result.tables else None
        assert model.rows == rows
    assert 0 < sum(model.seconds for model in result.models.values()) <= 2 * result.seconds


def test_a_selection_stands_on_its_own(tmp_path: Path, target: Path) -> None:
    result = build.build(a_work_db(tmp_path / "w.duckdb"), target, ["events_daily"])
    assert list(result.models) == ["stg_events", "events_daily"]
    # The comparison with events_hourly waits for a build that has both.
    assert [test.name for test in result.tests] == ["events_daily_one_row_per_drill_down", "events_daily_always_known"]
    assert build.build(a_work_db(tmp_path / "v.duckdb"), target, ["stg_sessions"]).tests == ()


def test_dbt_keeps_to_the_threads_and_the_memory_that_it_is_given(tmp_path: Path, target: Path) -> None:
    work_db = a_work_db(tmp_path / "w.duckdb")
    told = "current_setting('threads')::varchar as region, current_setting('memory_limit') as campaign"
    with duckdb.connect(str(work_db)) as connection:
        connection.execute(f"create or replace view events as select * replace ({told}) from stored_events")
    build.build(work_db, target, ["events_daily"], memory_limit="200MiB", threads=3)
    assert rows_of(work_db, "select distinct region, campaign from events_daily") == [("3", "200.0 MiB")]


def test_a_broken_identity_is_reported_not_raised(tmp_path: Path, target: Path) -> None:
    work_db = a_work_db(tmp_path / "w.duckdb")
    with duckdb.connect(str(work_db)) as connection:
        connection.execute("delete from days where date = '2026-03-01'")
        connection.execute("create or replace view events as from stored_events")
    result = build.build(work_db, target)
    (broken,) = [test for test in result.tests if test.status != "pass"]
    assert (broken.name, broken.model) == ("events_hourly_holds_only_the_days_asked", "events_hourly")
    assert (broken.status, broken.failures) == ("fail", 1)
    assert broken.message.startswith("1 row breaks it: No row lies on a day")
    assert not result.ok
    assert all(model.status == "success" for model in result.models.values())


def test_returns_that_bring_money_are_a_warning(tmp_path: Path, target: Path) -> None:
    events = [a_sale("2026-03-01 10:00:00", "3", event="Order Refunded")]
    result = build.build(a_work_db(tmp_path / "w.duckdb", events=events), target, ["revenue_daily"])
    assert [(t.name, t.status) for t in result.tests if t.status != "pass"] == [
        ("revenue_daily_returns_are_not_positive", "warn")
    ]
    assert result.ok


def a_project_with(folder: Path, changes: Iterable[tuple[str, str, str]]) -> Path:
    copy = shutil.copytree(project.PROJECT, folder / "dbt_project", ignore=shutil.ignore_patterns("target", "logs"))
    for model, old, new in changes:
        path = copy / "models" / "marts" / f"{model}.sql"
        text = path.read_text()
        assert text.count(old) == 1, (model, old)
        path.write_text(text.replace(old, new))
    return copy


def test_every_test_can_fail(tmp_path: Path) -> None:
    """Each mart is made wrong, twice over: doubled rows, then wrong and missing values."""
    doubled = [
        (model, f"select * from {step}", f"select * from {step} union all select * from {step}")
        for model, step in (
            ("events_hourly", "by_hour"),
            ("events_daily", "bounded"),
            ("properties_daily", "bounded"),
            ("revenue_daily", "typed"),
            ("cohort_retention_weekly", "retention\n"),
            ("funnel_daily", "funnel\n"),
        )
    ]
    wrong = [
        ("events_hourly", "count(*) as events", "nullif(count(*), 1) as events"),
        ("events_hourly", "        date,\n", "        date + 1 as date,\n"),
        ("events_daily", "count(*) as events", "nullif(count(*), 1) as events"),
        ("properties_daily", "cast(1 as bigint) as keys", "nullif(events, 1) as keys"),
        ("properties_daily", "length(property) <= 255", "length(property) <= 6"),
        ("revenue_daily", "cast(revenue as", "cast(nullif(revenue, 5) + 0.0001 as"),
        ("revenue_daily", "cast(coalesce(returned_revenue, 0)", "cast(abs(coalesce(returned_revenue, 0))"),
        ("cohort_retention_weekly", "/ triangle.cohort_users as", "/ nullif(triangle.cohort_users, 2) * 2 as"),
        ("cohort_retention_weekly", "count(*) as cohort_users", "count(*) + 1 as cohort_users"),
        ("funnel_daily", "coalesce(people_by_step.people, 0) as", "nullif(funnel_steps.step, 1) as"),
    ]
    failed: set[str] = set()
    for name, changes in (("doubled", doubled), ("wrong", wrong)):
        copy = a_project_with(tmp_path / name, changes)
        result = build.build(a_work_db(tmp_path / f"{name}.duckdb"), tmp_path / "target", project_dir=copy)
        failed |= {test.name for test in result.tests if test.status in ("fail", "warn")}
        assert not result.ok
    assert {test.name for model in project.models().values() for test in model.tests} - failed == set()


def test_a_test_that_cannot_run_is_an_error_not_a_pass(tmp_path: Path, target: Path) -> None:
    work_db = a_work_db(tmp_path / "w.duckdb")
    with duckdb.connect(str(work_db)) as connection:
        connection.execute("drop view events; create table events as from stored_events; drop table days")
    result = build.build(work_db, target, ["events_hourly"])
    (broken,) = [test for test in result.tests if test.status != "pass"]
    assert (broken.name, broken.status, broken.failures) == ("events_hourly_holds_only_the_days_asked", "error", None)
    assert "days does not exist" in broken.message
    assert not result.ok


def test_a_failed_model_is_one_line_with_its_name_and_cause(tmp_path: Path, target: Path) -> None:
    work_db = a_work_db(tmp_path / "w.duckdb")
    with duckdb.connect(str(work_db)) as connection:
        connection.execute("alter table stored_events drop column region")
    with pytest.raises(build.MartsBuildError) as error:
        build.build(work_db, target)
    message = str(error.value)
    assert message.startswith("stg_events: ")
    assert "region" in message
    assert "\n" not in message
    assert_free(work_db)


def test_too_little_memory_is_told_from_what_is_wrong_with_a_model(tmp_path: Path, target: Path) -> None:
    """Whoever runs it may try again with more."""
    work_db = a_work_db(tmp_path / "w.duckdb")
    with pytest.raises(build.MartsOutOfMemoryError, match="Out of Memory Error"):
        build.build(work_db, target, ["events_hourly"], memory_limit="2MB", threads=1)
    assert_free(work_db)


def test_a_project_that_cannot_be_parsed_is_one_line(tmp_path: Path) -> None:
    copy = a_project_with(tmp_path, [("events_hourly", "}}", "}")])
    with pytest.raises(build.MartsBuildError, match=r"^dbt parse: .*events_hourly") as error:
        build.build(a_work_db(tmp_path / "w.duckdb"), tmp_path / "target", ["events_daily"], project_dir=copy)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path, target: Path) -> None:
    (tmp_path / "w.duckdb").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(build.MartsBuildError) as error:
        build.build(tmp_path / "w.duckdb", target)
    assert "not a valid DuckDB database" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_named(tmp_path: Path, target: Path) -> None:
    with pytest.raises(build.MartsBuildError, match=r"^w\.duckdb: the work database is not there$"):
        build.build(tmp_path / "w.duckdb", target)
    assert not (tmp_path / "w.duckdb").exists()
    with pytest.raises(build.MartsBuildError, match=r"^nowhere: no such model; there are stg_events, "):
        build.build(a_work_db(tmp_path / "w.duckdb"), target, ["nowhere"])


def assert_free(work_db: Path) -> None:
    """Nobody in this process holds the file: DuckDB would refuse a second configuration."""
    with duckdb.connect(str(work_db), read_only=True):
        pass
    with duckdb.connect(str(work_db)) as connection:
        connection.execute("create or replace table mine as select 1")
    if Path("/proc/self/fd").exists():
        held = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
        assert not {path for path in held if path.startswith(str(work_db.resolve()))}


def test_a_build_leaves_nothing_behind(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No connection to the file or the network, no word on the console, no file or variable but those it was given."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a build needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    a_work_db(tmp_path / "w.duckdb")
    before, variables = files_of(project.PROJECT), dict(os.environ)
    assert build.build(Path("w.duckdb"), target).ok
    assert_free(tmp_path / "w.duckdb")
    assert files_of(project.PROJECT) == before
    assert dict(os.environ) == variables
    assert [path.name for path in tmp_path.iterdir()] == ["w.duckdb"]
    assert capfd.readouterr() == ("", "")
