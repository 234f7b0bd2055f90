"""Faults injected into a day of the real sample: does the publish stay away from them, and is a clean year left in peace?

Each fault changes one delivery, which then goes the whole way: load, rebuild, judge, publish. Stopped means that the file was
set aside, all of it rejected, or the publish refused; warned, that a check failed and the publish went on. The clean replay
judges every day of the year with the history that it had then.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.pipeline import Pipeline
from analytics_assets.quality.judge import Numbers, failing_rows, limits
from analytics_assets.settings import Settings
from analytics_assets.warehouse.expectation import Expectation
from analytics_assets.warehouse.publish import PublishRefused
from benchmarks.injected import FAULTS, RETAIL, SOURCE, Fault, declare, morning_after, open_days, stand_lines
from benchmarks.measure import Bench, BenchmarkError, Finding, Measured

# A Thursday in autumn, with ten months before it.
DAY = date(2011, 10, 13)
ONE_DAY = timedelta(days=1)
FIRST = date(2010, 12, 1)
# Deliveries come a day at a time from here on, so that their own checks have a history.
DAILY_FROM = DAY - timedelta(days=18)
# What is learned looks back eight weeks, and the same weekday at least four times.
JUDGED_FROM = DAY - timedelta(days=63)
# What is judged of the clean year as a whole, or of its one delivery, says nothing about its days.
_OF_NO_DAY = ("batches", "rejected_events", "users", "cohort_retention_weekly")


@dataclass(frozen=True)
class Outcome:
    """What became of a fault, and the first checks that saw it."""

    fault: str
    verdict: str
    by: tuple[str, ...]
    seconds: float


@contextmanager
def _opened(home: Path) -> Iterator[tuple[Pipeline, duckdb.DuckDBPyConnection]]:
    pipeline = Pipeline(Settings(home, home / "config"))
    with pipeline.connect() as con:
        yield pipeline, con


def _rebuild(pipeline: Pipeline, con: duckdb.DuckDBPyConnection) -> None:
    days = pipeline.pending(con)
    if days:
        pipeline.rebuild_sessions(con, days)
        pipeline.rebuild_marts(con, days)
    pipeline.rebuild_users(con)


def prepare(home: Path) -> None:
    """A home that is published up to the day before, with nine weeks of verdicts and two of daily deliveries."""
    deliveries = home / "deliveries"
    deliveries.mkdir(parents=True)
    declare(home / "config", f"{{first: {FIRST}, last: {DAY - ONE_DAY}, kind: normal, reason: the sample as it is}}")
    with _opened(home) as (pipeline, con):
        stand_lines(con, DAY)
        days = open_days(con, FIRST, DAY - ONE_DAY)
        daily = [day for day in days if day >= DAILY_FROM]
        parts = [(f"InvoiceDate < date '{daily[0]}'", daily[0])]
        parts += [(f"InvoiceDate::date = date '{day}'", day) for day in daily]
        for number, (where, day) in enumerate(parts):
            path = deliveries / f"{number}.parquet"
            con.execute(f"copy (from lines where {where}) to '{path}'")
            pipeline.load(con, path, SOURCE, None, morning_after(day))
        _rebuild(pipeline, con)
        version = pipeline.built_version()
        weeks: dict[date, list[date]] = {}
        for day in days:
            monday = max(JUDGED_FROM, day - timedelta(days=day.weekday()))
            weeks.setdefault(monday if day >= JUDGED_FROM else days[0], []).append(day)
        for window in weeks.values():
            pipeline.gate.judge(con, window, morning_after(window[-1]), version, "prepared")
        pipeline.publish(con, morning_after(daily[-1]))


def deliver(base: Path, home: Path, fault: Fault) -> Outcome:
    """Bring the faulty day the whole way, in a copy of the prepared home."""
    began = time.monotonic()
    shutil.copytree(base, home)
    with _opened(home) as (pipeline, con):
        stand_lines(con, DAY)
        path, now = fault.write(con, home / "deliveries" / "day"), morning_after(DAY)
        report = pipeline.load(con, path, fault.source, None, now)
        if report.status == "set_aside":
            return Outcome(fault.name, "stopped", ("set aside: " + str(report.reason)[:60],), time.monotonic() - began)
        if report.events == 0:
            reasons = ", ".join(f"rejected: {reason}" for reason in report.rejected_by_reason)
            return Outcome(fault.name, "stopped" if reasons else "missed", (reasons,), time.monotonic() - began)
        try:
            _rebuild(pipeline, con)
            found = pipeline.judge(con, now)
            failed = [result for result in found if result.success == "fail"]
            by = tuple(dict.fromkeys(result.expectation for result in sorted(failed, key=lambda r: r.severity)))
            pipeline.publish(con, now)
            verdict = "warned" if by else "missed"
        except PublishRefused:
            verdict = "stopped"
    return Outcome(fault.name, verdict, by, time.monotonic() - began)


class Both:
    """Compares numbers with their bounds at once; in the end Great Expectations judges the same numbers of all days.

    A day needs the verdicts on the days before, and Great Expectations takes a second a pass, whatever it judges.
    """

    def __init__(self) -> None:
        self._expected: dict[tuple[str, str], Expectation] = {}
        self._numbers: dict[tuple[str, str], list[float | None]] = {}
        self._failed: dict[tuple[str, str], set[int]] = {}

    def failing(self, table: str, expectations: Sequence[Expectation], numbers: Numbers) -> Mapping[str, set[int]]:
        found = {}
        for expected in expectations:
            key, column = (table, expected.name), numbers[expected.name]
            low, high = limits(expected)
            found[expected.name] = {
                row
                for row, number in enumerate(column)
                if number is not None and ((low is not None and number < low) or (high is not None and number > high))
            }
            self._expected[key] = expected
            before = self._numbers.setdefault(key, [])
            self._failed.setdefault(key, set()).update(len(before) + row for row in found[expected.name])
            before.extend(column)
        return found

    def confirm(self) -> int:
        """Have Great Expectations judge all of it; returns how many numbers. Raises BenchmarkError where they differ."""
        for key, expected in self._expected.items():
            found = failing_rows(key[0], [expected], {expected.name: self._numbers[key]})[expected.name]
            if found != self._failed[key]:
                differ = len(found ^ self._failed[key])
                raise BenchmarkError(f"Great Expectations judges {differ} days of {'.'.join(key)} otherwise")
        return sum(number is not None for column in self._numbers.values() for number in column)


def replay(home: Path, say: Callable[[str], None], limit: int | None = None) -> tuple[int, int, list[tuple[date, str, str]]]:
    """Judge a clean year day by day with what was known then; (days, numbers, [(day, severity, failed expectation)]).

    The tables are built once, from the whole year: a day's own rows are the same, and history is only what lies before. Not
    so the users and cohorts, which are judged as a whole, and the deliveries, of which there is one: both are left out.
    """
    alarms: list[tuple[date, str, str]] = []
    declare(home / "config")
    both = Both()
    with _opened(home) as (pipeline, con):
        pipeline.load(con, RETAIL, SOURCE, None, morning_after(date(2011, 12, 9)))
        _rebuild(pipeline, con)
        events = pipeline.table(EVENTS).snapshot().select()
        days = [row[0] for row in con.execute(f"select distinct timestamp::date from ({events}) order by 1").fetchall()]
        version = pipeline.built_version()
        for number, day in enumerate(days[:limit]):
            found = pipeline.gate.judge(con, [day], morning_after(day), version, "replay", both.failing)
            for result in found:
                if result.success == "fail" and result.table not in _OF_NO_DAY:
                    alarms.append((day, result.severity, str(result)))
            if number % 50 == 0:
                say(f"replay: {number} of {len(days)} days, {len(alarms)} alarms")
    return len(days[:limit]), both.confirm(), alarms


def _matrix(outcomes: Sequence[Outcome], hard: Sequence[Outcome], days: int, held: int, warned: int) -> list[str]:
    """The confusion matrix as lines: what is at fault and what is clean, against what was done."""

    def row(what: str, found: Sequence[Outcome]) -> str:
        counts = [sum(outcome.verdict == verdict for outcome in found) for verdict in ("stopped", "warned", "missed")]
        return f"{f'{len(found)} {what}':28} {counts[0]:8} {counts[1]:8} {counts[2]:10}"

    return [
        f"{'':28} {'stopped':>8} {'warned':>8} {'published':>10}",
        row("faults", outcomes),
        row("hard faults", hard),
        f"{f'{days} clean days':28} {held:8} {warned:8} {days - held - warned:10}",
    ]


def measure(bench: Bench) -> Measured:
    base = bench.folder("prepared") / "home"
    bench.say("faults: a data home with ten months of clean history")
    prepare(base)
    control = deliver(base, bench.folder("clean") / "home", Fault("no fault"))
    outcomes: dict[bool, list[Outcome]] = {True: [], False: []}
    for fault in FAULTS[: 6 if bench.small else None]:
        folder = bench.folder("fault")
        outcome = deliver(base, folder / "home", fault)
        shutil.rmtree(folder)
        outcomes[fault.hard].append(outcome)
        bench.say(f"{outcome.verdict:8} {('hard: ' if fault.hard else '') + fault.name:50} {', '.join(outcome.by[:4])}")
    bench.say(f"{'published' if control.verdict == 'missed' else control.verdict} {control.fault} {', '.join(control.by)}")
    days, numbers, alarms = replay(bench.folder("replay") / "home", bench.say, 60 if bench.small else None)
    meant, hard = outcomes[False], outcomes[True]
    held = {day for day, severity, _ in alarms if severity == "block"}
    warned = {day for day, severity, _ in alarms if severity == "warn"} - held
    for day, severity, text in alarms:
        bench.say(f"alarm on a clean day, {severity}: {day} {text}")
    matrix = _matrix(meant, hard, days, len(held), len(warned))
    for line in matrix:
        bench.say(line)
    months = days / 25.4  # the shop is open so many days a month
    return Measured(
        findings=(
            Finding("faults stopped before publish, of " + str(len(meant)),
                    sum(outcome.verdict == "stopped" for outcome in meant), "", 25, "at least"),
            Finding("faults that were only warned of", sum(outcome.verdict == "warned" for outcome in meant), ""),
            Finding("faults missed", sum(outcome.verdict == "missed" for outcome in meant), "", 0),
            Finding("hard faults seen, of " + str(len(hard)), sum(outcome.verdict != "missed" for outcome in hard), ""),
            Finding("clean days that would hold a publish, a month", len(held) / months, "", 1),
            Finding("clean days with a warning, a month", len(warned) / months, ""),
        ),
        details={
            "outcomes": [replace(outcome, seconds=round(outcome.seconds, 1)).__dict__ for outcome in [control, *meant, *hard]],
            "matrix": matrix,
            "false alarms": [(str(day), severity, text) for day, severity, text in alarms],
            "clean days": days,
        },
        notes=(
            f"the clean delivery of {DAY}: {', '.join(control.by) or 'published, and nothing failed'}",
            f"Great Expectations judged all {numbers:,} numbers of the clean days",
        ),
    )  # fmt: skip
