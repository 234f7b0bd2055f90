"""The query log: what was asked of the published file, each query once, and never its words."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from analytics_assets.settings import UserError
from analytics_assets.telemetry import queries
from analytics_assets.telemetry.journal import folder
from analytics_assets.telemetry.steps import Steps
from analytics_assets.telemetry.tables import QUERY_LOG, UNIT_COSTS, Query
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import DAY, NOON, NOW, Line

HEALTHY = Query(
    query_id="00" * 8,
    date=DAY,
    asked_at=NOON,
    command="analytics sql",
    role=None,
    audit_entry=3,
    shape="ab" * 6,
    version=1,
    tables='["events"]',
    outcome="success",
    error_class=None,
    seconds=0.5,
    cpu_seconds=0.4,
    memory_bytes=300_000_000,
    bytes_read=1_000_000,
    rows=7,
)


def a_query(**changes: Any) -> Query:
    return replace(HEALTHY, **changes)


def ask(home: Home, words: str = "select ? from events", error: BaseException | None = None) -> None:
    about = {"role": "analyst", "audit_entry": 3, "version": 1, "tables": ["users", "events"]}
    with queries.asking(home, NOW, "analytics sql", words, **about) as asked:  # type: ignore[arg-type]
        if error:
            raise error
        asked.answered(7)


def kept(line: Line, prices: Any) -> tuple[Steps, list[dict[str, Any]]]:
    steps = Steps(line.pipeline.home, prices, 50_000)
    steps.keep_queries(line.con)
    return steps, line.dicts(QUERY_LOG)


def test_a_row_has_the_columns_of_the_table() -> None:
    assert tuple(field.name for field in fields(Query)) == QUERY_LOG.column_names


def test_a_query_is_kept_with_what_it_took_and_without_its_words(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    from analytics_assets_tests.telemetry.test_costs import PRICES

    home = line.pipeline.home
    for words in ("select ? from events", "select ? from events", "select ? from users"):
        ask(home, words)
    (path,) = folder(home).glob("queries*")
    assert "select" not in path.read_text()

    class Killed(BaseException):
        """What a killed process leaves: nothing that comes after it."""

    def die(*_: Sequence[Any]) -> None:
        raise Killed

    # After the commits, before the file goes.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pathlib.Path.unlink", die)
        kept(line, PRICES)
    ask(home)
    _, rows = kept(line, PRICES)
    assert len(rows) == 4 and len({row["query_id"] for row in rows}) == 4
    assert len({row["shape"] for row in rows}) == 2
    for row in rows:
        assert (row["command"], row["role"], row["audit_entry"], row["version"]) == ("analytics sql", "analyst", 3, 1)
        assert (row["tables"], row["rows"], row["outcome"], row["asked_at"]) == ('["events", "users"]', 7, "success", NOW)
        assert row["seconds"] > 0 and row["memory_bytes"] > 10_000_000
    shares = line.dicts(UNIT_COSTS)
    assert len(shares) == 8 and {share["unit"] for share in shares} == {"query"}
    assert not list(folder(home).glob("queries*"))


@pytest.mark.parametrize(
    ("error", "became"),
    [
        (UserError("this command only reads"), ("refused", "UserError", None)),
        (ValueError("anna@example.com"), ("failure", "ValueError", None)),
        (KeyboardInterrupt(), ("failure", "KeyboardInterrupt", None)),
    ],
)
def test_a_query_without_an_answer_is_kept_by_the_class_of_its_error(line: Line, error: BaseException, became: object) -> None:
    home = line.pipeline.home
    with pytest.raises(type(error)):
        ask(home, error=error)
    (found,) = queries.read(queries.waiting(home))
    assert (found.outcome, found.error_class, found.rows) == became
    assert found.seconds >= 0


def test_half_a_line_and_a_strange_one_are_left_out(line: Line) -> None:
    home = line.pipeline.home
    ask(home)
    (path,) = folder(home).glob("queries*")
    whole = json.loads(path.read_text())
    with path.open("a") as log:
        for changes in ({"seconds": -1}, {"rows": "many"}, {"memory_bytes": 2**70}):
            log.write(json.dumps({**whole, "query_id": "9", **changes}) + "\n")
        log.write(json.dumps({"query_id": "1", "date": "2026-03-20"}) + '\n[1]\n{"query_id": "2", "da')
    assert len(queries.read(queries.waiting(home))) == 1


def test_a_log_that_cannot_be_written_keeps_no_answer_back(line: Line) -> None:
    home = line.pipeline.home
    folder(home).parent.mkdir(parents=True, exist_ok=True)
    folder(home).write_text("a file where the folder should be")
    ask(home)
