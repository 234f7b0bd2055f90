"""Days that readers have: judged again with more history or fewer rows, they hold nothing up unless a delivery changed them."""

import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from analytics_assets.marts.tables import mart_tables
from analytics_assets.privacy.ledger import Person
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.warehouse.publish import PublishRefused, current_version
from analytics_assets.warehouse.table import rewrite_rows
from analytics_assets_tests.builders import NOON, Line, a_config, an_event, rows_of
from analytics_assets_tests.conftest import made_once

WEEKS = 7
LAST = NOON + timedelta(weeks=WEEKS - 1)


def of(week: int, number: int, user: str = "", **changes: Any) -> dict[str, Any]:
    at = NOON + timedelta(weeks=week, seconds=number)
    return an_event(f"w{week}-{number}", timestamp=at, user_id=user or f"u{number % 40}", anonymous_id=None, **changes)


def judged(folder: Path) -> None:
    with Line.at(folder / "home", a_config(folder / "config"), LAST + timedelta(days=2)) as line:
        days = [of(week, n) for week in range(WEEKS) for n in range(1000 if week == WEEKS - 1 else 100)]
        others = [of(week, n, tenant_id="globex") for week in range(WEEKS) for n in range(100)]
        only_then = (of(WEEKS - 1, 200 + n, "anna" if n else "bea", tenant_id="globex") for n in range(900))
        line.load([*days, *others, *only_then])
        line.rebuild()
        line.pipeline.judge(line.con, line.now)


@pytest.fixture
def built(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Weeks that came in one delivery, so that none was judged by those before: the last day is ten times another.

    Of the tenant globex that is Anna's doing.
    """
    # Requests of erasure are kept beside the keys, by the id of the home, which a copy has too.
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "keys"))
    shutil.copytree(made_once(tmp_path_factory, "seen", judged), tmp_path / "copy", symlinks=True)
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config", LAST + timedelta(days=2)) as line:
        yield line


@pytest.fixture
def sale(built: Line) -> Line:
    """The same, published."""
    built.publish()
    return built


def failed(line: Line) -> set[tuple[str, str, date, str]]:
    return {
        (row["expectation"], row["tenant"], row["partition"], row["severity"])
        for row in line.dicts(QUALITY_RESULTS)
        if row["success"] == "fail"
    }


def erase(line: Line, user: str) -> None:
    person = Person("globex", "user", user)
    line.pipeline.erasures.ask([person], "tester")
    line.pipeline.erasures.remove(line.con, line.now, hints=[person])
    line.rebuild()


def test_an_erasure_is_published_though_its_days_are_unusual_by_now(sale: Line) -> None:
    assert failed(sale) == set()
    erase(sale, "anna")
    assert sale.publish().changed
    assert not sale.pipeline.erasures.ledger.pending()
    assert ("events_volume", "acme", LAST.date(), "warn") in failed(sale)
    assert {severity for *_, severity in failed(sale)} == {"warn"}
    path = sale.home / "published" / "analytics.duckdb"
    assert rows_of(path, "select count(*) from events where tenant_id = 'globex'") == [(WEEKS * 100 + 1,)]


def test_an_erasure_while_the_publish_of_one_before_is_held_is_published_with_it(sale: Line) -> None:
    for user in ("anna", "bea"):
        erase(sale, user)
        sale.pipeline.judge(sale.con, sale.now)
    assert sale.publish().changed
    assert {severity for *_, severity in failed(sale)} == {"warn"}


def test_sums_that_are_not_those_of_the_events_are_refused_after_an_erasure_too(sale: Line) -> None:
    erase(sale, "anna")
    hourly = next(spec for spec in mart_tables() if spec.name == "events_hourly")
    one_more = {"events": "events + 1"}
    rewrite_rows(sale.pipeline.table(hourly), sale.con, "false", 1, changes="tenant_id = 'globex'", replaced=one_more)
    with pytest.raises(PublishRefused, match="events_hourly_count_all"):
        sale.publish()


def test_a_delivery_to_such_a_day_is_judged_by_what_is_usual(sale: Line) -> None:
    sale.load([of(WEEKS - 1, 1001)])
    for _ in range(2):
        sale.rebuild()
        with pytest.raises(PublishRefused, match=r"events_volume of events \(acme, "):
            sale.publish()
        # Judged again without anything new, it stays what it is.
        sale.pipeline.judge(sale.con, sale.now, days=[LAST.date()])
    assert current_version(sale.pipeline.home) == 1


def test_an_erasure_that_reaches_far_back_lets_no_delivery_pass(sale: Line) -> None:
    sale.load([of(WEEKS - 1, 1001)])
    # They are in every week: together with all of these there would be nothing to compare the delivery with.
    for user in ("u1", "u2"):
        erase(sale, user)
        with pytest.raises(PublishRefused, match=r"events_volume of events \(acme, "):
            sale.publish()
    assert current_version(sale.pipeline.home) == 1


def test_a_day_that_readers_never_got_is_judged_by_what_is_usual(built: Line) -> None:
    assert failed(built) == set()
    built.pipeline.judge(built.con, built.now, days=[LAST.date()])
    assert {("events_volume", tenant, LAST.date(), "block") for tenant in ("acme", "globex")} <= failed(built)
