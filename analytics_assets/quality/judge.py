"""The verdicts: Great Expectations judges the numbers of each table, one suite a table and one pass a step.

Unknown is never a pass: what could not be measured, or has too little clean history to compare with, says so.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import duckdb

from analytics_assets.quality.history import Bounds, History
from analytics_assets.quality.measure import Cell, Judged, drop, measured, samples, stand
from analytics_assets.quality.tables import QualityResult, Success
from analytics_assets.warehouse.expectation import Expectation, Suite, Usual, expectations_of

if TYPE_CHECKING:
    import great_expectations as gx

Cells = Mapping[Cell, Mapping[str, float | None]]
Numbers = Mapping[str, Sequence[float | None]]
Limits = tuple[float | None, float | None]
Failing = Callable[[str, Sequence[Expectation], Numbers], Mapping[str, set[int]]]
"""The numbers of a table by expectation, a row a tenant and day, to the rows that are out of bounds."""


@dataclass(frozen=True)
class Occasion:
    """When and on what is judged: the days of the window, the clock, the version of events, the run.

    `received` are days of receipt that get a verdict on deliveries even where nothing of them is left. `told_of`: by tenant
    the newest day of which a delivery has told anything. A tenant is missed on no later day: what has not come yet is not lost.
    """

    days: tuple[date, ...]
    now: datetime
    version: int
    run: str
    received: tuple[date, ...] = ()
    told_of: Mapping[str, date] = field(default_factory=dict)


def judge(
    con: duckdb.DuckDBPyConnection,
    tables: Sequence[Judged],
    history: History,
    occasion: Occasion,
    failing: Failing | None = None,
) -> list[QualityResult]:
    """Judge every table of a window of days. All of it is compared with the history before the window only.

    `failing` finds what is out of bounds: Great Expectations, unless it is given.
    """
    stand(con, tables, history.clean, max(occasion.days))
    try:
        found: list[QualityResult] = []
        for table in tables:
            cells = with_the_absent(table.suite, measured(con, table), history, occasion.told_of)
            for verdict in verdicts(table.suite, cells, history, occasion, failing):
                if verdict.success == "fail" and verdict.tenant is not None:
                    expected = _by_name(table.suite)[verdict.expectation]
                    rows = samples(con, table, expected, (verdict.tenant, verdict.partition))
                    verdict = QualityResult(**{**verdict.__dict__, "samples": rows})
                found.append(verdict)
        return found
    finally:
        drop(con, tables)


def with_the_absent(suite: Suite, cells: Cells, history: History, told_of: Mapping[str, date]) -> Cells:
    """The cells and those of tenants that were seen before and have no row on a judged day on which others have some.

    That is of days of which the deliveries that bring a tenant's events have told.
    """
    absent: dict[Cell, dict[str, float | None]] = {}
    others = {day for _, day in cells}
    for expected in suite.expectations:
        if isinstance(expected, Usual) and expected.absent_is_zero:
            for tenant in history.tenants(suite.table.name, expected.name):
                told = {day for day in others if day <= told_of.get(tenant, date.min)}
                for day in told - {known for name, known in cells if name == tenant}:
                    absent.setdefault((tenant, day), {})[expected.name] = 0.0
    return {**cells, **absent}


def verdicts(
    suite: Suite, cells: Cells, history: History, occasion: Occasion, failing: Failing | None = None
) -> Iterator[QualityResult]:
    """What Great Expectations (or `failing`) says of the numbers of one table.

    A tenant has a row of its own where something failed or a number is to be learned from; all others share one a day.
    """
    table, rows = suite.table.name, sorted(cells)
    expectations = list(_by_name(suite).values())
    numbers: dict[str, list[float | None]] = {}
    expected_text: dict[tuple[str, Cell], str] = {}
    why: dict[tuple[str, Cell], str] = {}
    for expected in expectations:
        column: list[float | None] = []
        # Most numbers are judged as they are, and a year has a hundred thousand.
        plain, fixed = not isinstance(expected, Usual) and not expected.whole_day, _fixed(expected)
        for cell in rows:
            value = cells[cell].get(expected.name)
            number, text, reason = value, fixed, ""
            if value is None or not plain:
                number, text, reason = _to_judge(table, expected, cell, value, history, occasion)
            column.append(number)
            expected_text[expected.name, cell] = text
            why[expected.name, cell] = reason
        numbers[expected.name] = column
    failed = (failing or failing_rows)(table, expectations, numbers)
    for expected in expectations:
        shared: dict[tuple[date, Success, str], int] = {(day, "pass", ""): 0 for day in _days(suite, rows, occasion)}
        for index, cell in enumerate(rows):
            if expected.name not in cells[cell] and len(cells[cell]) == 1:
                continue  # an absent tenant, of whom nothing else is asked
            value, number = cells[cell].get(expected.name), numbers[expected.name][index]
            success: Success = "fail" if index in failed[expected.name] else "unknown" if number is None else "pass"
            own = success == "fail" or (isinstance(expected, Usual) and value is not None)
            if own and not (success == "unknown" and cells[cell].keys() == {expected.name}):
                yield _result(suite, expected, cell[0], cell[1], success, value, expected_text[expected.name, cell],
                              why[expected.name, cell] or expected.says, occasion)  # fmt: skip
            elif not own:
                key = (cell[1], success, why[expected.name, cell])
                shared[key] = shared.get(key, 0) + 1
        unknown_days = {day for day, success, _ in shared if success == "unknown"}
        for (day, success, reason), count in shared.items():
            if success == "pass" and count == 0 and (isinstance(expected, Usual) or day in unknown_days):
                continue
            told = f"{count} {'tenant' if count == 1 else 'tenants'}: {reason}" if reason else expected.says
            yield _result(suite, expected, None, day, success, None, _fixed(expected), told, occasion)


def _days(suite: Suite, rows: Sequence[Cell], occasion: Occasion) -> Iterable[date]:
    """The days that get a verdict even where no tenant has a row."""
    if suite.day is None:
        return [max(occasion.days)]
    judged = set(occasion.received if suite.day == "received_at::date" else occasion.days)
    return sorted({day for _, day in rows} | judged)


def _to_judge(
    table: str, expected: Expectation, cell: Cell, value: float | None, history: History, occasion: Occasion
) -> tuple[float | None, str, str]:
    """(the number that is judged, or None; what would pass, in words; why it is unknown)."""
    tenant, day = cell
    if expected.whole_day and occasion.now < datetime.combine(day + timedelta(days=1), time.min):
        return None, _fixed(expected), "the day is not over"
    if value is None:
        if expected.query is not None and not isinstance(expected, Usual):
            return None, _fixed(expected), "too few rows, or too few clean days before"
        return None, _fixed(expected), "too few rows" if isinstance(expected, Usual) else "nothing to measure"
    if not isinstance(expected, Usual):
        return value, _fixed(expected), ""
    bounds = history.bounds(table, expected, tenant, day)
    if isinstance(bounds, str):
        return None, _fixed(expected), bounds
    return bounds.distance(value), _usual(expected, bounds), ""


def _fixed(expected: Expectation) -> str:
    if isinstance(expected, Usual):
        return "as on clean days before"
    bounds = [f"at least {expected.low:.4g}" if expected.low is not None else "",
              f"at most {expected.high:.4g}" if expected.high is not None else ""]  # fmt: skip
    return " and ".join(filter(None, bounds))


def _usual(expected: Usual, bounds: Bounds) -> str:
    low = f"{bounds.low:,.4g} to " if expected.sides == "both" else "up to "
    return f"{low}{bounds.high:,.4g} (usually {bounds.middle:,.4g})"


def _result(
    suite: Suite, expected: Expectation, tenant: str | None, day: date, success: Success, observed: float | None,
    text: str, reason: str, occasion: Occasion,
) -> QualityResult:  # fmt: skip
    return QualityResult(suite.table.name, tenant, day, expected.name, expected.severity, success, observed, text, reason,
                         None, occasion.version, occasion.run, occasion.now)  # fmt: skip


def _by_name(suite: Suite) -> dict[str, Expectation]:
    return {expected.name: expected for expected in expectations_of(suite)}


def failing_rows(table: str, expectations: Sequence[Expectation], numbers: Numbers) -> dict[str, set[int]]:
    """The rows that Great Expectations finds outside of what is expected, by expectation; it passes over what is None."""
    found: dict[str, set[int]] = {expected.name: set() for expected in expectations}
    # Great Expectations takes 15 ms for each column, whatever it holds: numbers with the same bounds stand in one.
    columns: dict[Limits, list[Expectation]] = {}
    for expected in expectations:
        if any(number is not None for number in numbers[expected.name]):
            columns.setdefault(limits(expected), []).append(expected)
    if not columns:
        return found
    import pandas as pd

    stacked = {_says(those): [number for one in those for number in numbers[one.name]] for those in columns.values()}
    frame = pd.DataFrame({name: pd.Series(column, dtype="float64") for name, column in stacked.items()})
    batch = _measures().get_batch({"dataframe": frame})
    # Which rows fail costs as much again as whether any does, and nearly always none does.
    names = {name for name, judged in _validated(batch, table, columns, "BOOLEAN_ONLY") if not judged.success}
    if failed := {bounds: those for bounds, those in columns.items() if _says(those) in names}:
        rows = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
        of_name = {_says(those): those for those in failed.values()}
        for name, judged in _validated(batch, table, failed, rows):
            each = len(numbers[of_name[name][0].name])
            for place in judged.result["unexpected_index_list"]:
                found[of_name[name][place // each].name].add(place % each)
    return found


def _says(together: Sequence[Expectation]) -> str:
    """The column in which the numbers of these stand."""
    return ", ".join(expected.name for expected in together)


def _validated(
    batch: Any, table: str, columns: Mapping[Limits, Sequence[Expectation]], result_format: Any
) -> Iterator[tuple[str, Any]]:
    """What Great Expectations answers of each column. Raises RuntimeError where it could not judge."""
    for judged in batch.validate(_suite(table, columns), result_format=result_format).results:
        name = judged.expectation_config.kwargs["column"]
        if judged.exception_info and any(_raised(judged.exception_info)):
            raise RuntimeError(f"{name} of {table} could not be judged: {judged.exception_info}")
        yield name, judged


def _raised(info: Mapping[str, Any]) -> Iterator[bool]:
    if "raised_exception" in info:
        yield bool(info["raised_exception"])
    else:
        yield from (bool(entry.get("raised_exception")) for entry in info.values())


def _suite(table: str, columns: Mapping[Limits, Sequence[Expectation]]) -> "gx.ExpectationSuite":
    import great_expectations as gx

    between = gx.expectations.ExpectColumnValuesToBeBetween
    return gx.ExpectationSuite(
        name=table,
        expectations=[
            between(column=_says(those), min_value=low, max_value=high, meta={one.name: one.says for one in those})
            for (low, high), those in columns.items()
        ],
    )


def limits(expected: Expectation) -> Limits:
    if isinstance(expected, Usual):
        return (-1 if expected.sides == "both" else None), 1
    return expected.low, expected.high


def warm_up() -> None:
    """Import Great Expectations, which takes seconds: for callers who would otherwise do it while others wait for them."""
    _measures()


@cache
def _measures() -> Any:
    """Where Great Expectations gets its frames: without network or progress bars, once a process; it takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return (
        context.data_sources.add_pandas("quality").add_dataframe_asset("measures").add_batch_definition_whole_dataframe("all")
    )
