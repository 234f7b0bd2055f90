"""Faults injected into a day of the real sample: does the publish stay away from them, and is a clean year left in peace?

Each fault changes one delivery, which then goes the whole way: load, rebuild, judge, publish. Stopped means that the file was
set aside, all of it rejected, or the publish refused; warned, that a check failed and the publish went on. The clean replay
judges every day of the year with the history that it had then.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import CONFIG, Settings
from analytics_assets.warehouse.publish import PublishRefused
from benchmarks.measure import PROJECT, Bench, Finding, Measured

RETAIL = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
# A Thursday in autumn, with ten months before it.
DAY = date(2011, 10, 13)
# Deliveries come a day at a time from here on, so that their own checks have a history.
DAILY_FROM = DAY - timedelta(days=18)
# What is learned looks back eight weeks, and the same weekday at least four times.
JUDGED_FROM = DAY - timedelta(days=63)

_COLUMNS = "InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country"


@dataclass(frozen=True)
class Fault:
    """A fault: the SELECT over `day` (the day's lines) that is delivered instead, or a change of the file's bytes."""

    name: str
    select: str = "from day"
    kind: str = "parquet"
    damage: Callable[[bytes], bytes] | None = None


def _with(**columns: str) -> str:
    """The day's lines with some columns computed otherwise."""
    replaced = ", ".join(f"{sql} as {name}" for name, sql in columns.items())
    return f"select * replace ({replaced}) from day"


def _some(share: int, sql: str, otherwise: str) -> str:
    """`sql` for so many lines in a hundred, chosen by their content."""
    return f"case when hash(InvoiceNo, StockCode, Quantity) % 100 < {share} then {sql} else {otherwise} end"


FAULTS: tuple[Fault, ...] = (
    Fault("an hour is missing (12:00)", "from day where hour(InvoiceDate) <> 12"),
    Fault("the day ends at noon", "from day where hour(InvoiceDate) < 12"),
    Fault("a file cut off, Parquet", damage=lambda content: content[: len(content) * 6 // 10]),
    Fault("a file cut off, CSV", kind="csv", damage=lambda content: content[: len(content) * 2 // 5]),
    Fault("the main tenant is silent", "from day where Country <> 'United Kingdom'"),
    Fault("the main tenant's lines name another", _with(Country="replace(Country, 'United Kingdom', 'Germany')")),
    Fault("sent twice with new ids", "from day union all select * replace ('9' || InvoiceNo as InvoiceNo) from day"),
    Fault("a third sent again with new ids, seconds later",
          "from day union all select * replace (InvoiceNo || 'x' as InvoiceNo, "
          "InvoiceDate + interval 7 seconds as InvoiceDate) from day where hash(StockCode, Quantity) % 3 = 0"),
    Fault("the file of the day before, dated today",
          "select * replace (InvoiceDate + interval 1 day as InvoiceDate, '9' || InvoiceNo as InvoiceNo) from yesterday"),
    Fault("clock 5 hours ahead", _with(InvoiceDate="InvoiceDate + interval 5 hours")),
    Fault("clock 4 hours behind", _with(InvoiceDate="InvoiceDate - interval 4 hours")),
    Fault("the time of day is lost", _with(InvoiceDate="date_trunc('day', InvoiceDate)")),
    Fault("dates of next year", _with(InvoiceDate="InvoiceDate + interval 1 year")),
    Fault("dates of last year", _with(InvoiceDate="InvoiceDate - interval 1 year")),
    Fault("quantity and price swapped", _with(Quantity="round(UnitPrice)::bigint", UnitPrice="Quantity::double")),
    Fault("product and description swapped", _with(StockCode="Description", Description="StockCode")),
    Fault("invoice and customer swapped",
          _with(InvoiceNo="CustomerID::bigint::varchar", CustomerID="try_cast(InvoiceNo as double)")),
    Fault("prices in pence, 100 times", _with(UnitPrice="UnitPrice * 100")),
    Fault("prices in euro, unsaid (x 1.15)", _with(UnitPrice="round(UnitPrice * 1.15, 2)")),
    Fault("prices rounded to whole pounds", _with(UnitPrice="greatest(round(UnitPrice), 1)")),
    Fault("quantity stuck at 1", _with(Quantity="sign(Quantity)::bigint")),
    Fault("quantities 100 times", _with(Quantity="Quantity * 100")),
    Fault("all lines become returns", _with(Quantity="-abs(Quantity)", InvoiceNo="'C' || ltrim(InvoiceNo, 'C')")),
    Fault("nulls: 90 % of the customers", _with(CustomerID=_some(90, "null", "CustomerID"))),
    Fault("nulls: 30 % of the descriptions", _with(Description=_some(30, "null", "Description"))),
    Fault("nulls: 30 % of the products", _with(StockCode=_some(30, "null", "StockCode"))),
    Fault("nulls: 30 % of the prices", _with(UnitPrice=_some(30, "null", "UnitPrice"))),
    Fault("schema: a column is renamed", "select * exclude (UnitPrice), UnitPrice as Price from day"),
    Fault("schema: a column is added", "select *, 'web' as Channel from day"),
    Fault("schema: dates as day/month/year text",
          "select * replace (strftime(InvoiceDate, '%d/%m/%Y %H:%M') as InvoiceDate) from day"),
    Fault("schema: prices with a decimal comma",
          "select * replace (replace(UnitPrice::varchar, '.', ',') as UnitPrice) from day"),
    Fault("encoding: UTF-8 read as Latin-1", _with(Description="replace(Description, 'E', chr(195) || chr(137))")),
    Fault("encoding: replacement characters",
          _with(Description=_some(10, "replace(Description, 'A', chr(65533))", "Description"))),
    Fault("a fifth of test products", "from day union all select * replace ('TEST' || (hash(InvoiceNo) % 50) as StockCode, "
          "'9' || InvoiceNo as InvoiceNo) from day where hash(StockCode, Quantity) % 4 = 0"),
    # Known to be hard: small in itself, or no more than what happens on a good day.
    Fault("hard: clock 1 hour ahead", _with(InvoiceDate="InvoiceDate + interval 1 hour")),
    Fault("hard: a small tenant is silent", "from day where Country <> 'Germany'"),
    Fault("hard: returns without their sign", _with(Quantity="abs(Quantity)")),
    Fault("hard: 5 % of the lines lost", "from day where hash(InvoiceNo, StockCode) % 20 <> 0"),
)  # fmt: skip


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


def _declare(home: Path, *incidents: str) -> None:
    """The project's declarations, with these days looked at by a person."""
    shutil.copytree(CONFIG, home / "config")
    (home / "config" / "incidents.yaml").write_text("incidents:\n" + "".join(f"  - {entry}\n" for entry in incidents))


def _lines(con: duckdb.DuckDBPyConnection) -> None:
    source = f"select {_COLUMNS} from read_parquet('{RETAIL}')"
    con.execute(f"create or replace temp table lines as {source}")
    con.execute(f"create or replace temp table day as from lines where InvoiceDate::date = date '{DAY}'")
    con.execute(f"create or replace temp table yesterday as from lines where InvoiceDate::date = date '{DAY}' - 1")


def _morning_after(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), clock_time(6))


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
    _declare(home, f"{{first: 2010-12-01, last: {DAY - timedelta(days=1)}, kind: normal, reason: the sample as it is}}")
    with _opened(home) as (pipeline, con):
        _lines(con)
        before = f"select distinct InvoiceDate::date from lines where InvoiceDate < date '{DAY}' order by 1"
        days = [row[0] for row in con.execute(before).fetchall()]
        daily = [day for day in days if day >= DAILY_FROM]
        parts = [(f"InvoiceDate < date '{daily[0]}'", daily[0])]
        parts += [(f"InvoiceDate::date = date '{day}'", day) for day in daily]
        for number, (where, day) in enumerate(parts):
            path = deliveries / f"{number}.parquet"
            con.execute(f"copy (from lines where {where}) to '{path}'")
            pipeline.load(con, path, "online_retail", None, _morning_after(day))
        _rebuild(pipeline, con)
        version = pipeline.built_version()
        weeks: dict[date, list[date]] = {}
        for day in days:
            monday = max(JUDGED_FROM, day - timedelta(days=day.weekday()))
            weeks.setdefault(monday if day >= JUDGED_FROM else days[0], []).append(day)
        for window in weeks.values():
            pipeline.gate.judge(con, window, _morning_after(window[-1]), version, "prepared")
        pipeline.publish(con, _morning_after(daily[-1]))


def deliver(base: Path, home: Path, fault: Fault) -> Outcome:
    """Bring the faulty day the whole way, in a copy of the prepared home."""
    began = time.monotonic()
    shutil.copytree(base, home)
    path = home / "deliveries" / f"day.{fault.kind}"
    with _opened(home) as (pipeline, con):
        _lines(con)
        con.execute(f"copy ({fault.select}) to '{path}' (format {fault.kind})")
        if fault.damage is not None:
            path.write_bytes(fault.damage(path.read_bytes()))
        now = _morning_after(DAY)
        report = pipeline.load(con, path, "online_retail", None, now)
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


def replay(home: Path, say: Callable[[str], None], limit: int | None = None) -> tuple[int, list[tuple[date, str, str]]]:
    """Judge a clean year day by day with what was known then; (days, [(day, severity, failed expectation)]).

    The tables are built once, from the whole year: a day's own rows are the same, and history is only what lies before. Not
    so the users and cohorts, which are judged as a whole, and the deliveries, of which there is one: both are left out.
    """
    alarms: list[tuple[date, str, str]] = []
    shutil.copytree(CONFIG, home / "config")
    with _opened(home) as (pipeline, con):
        pipeline.load(con, RETAIL, "online_retail", None, _morning_after(date(2011, 12, 9)))
        _rebuild(pipeline, con)
        events = pipeline.table(EVENTS).snapshot().select()
        days = [row[0] for row in con.execute(f"select distinct timestamp::date from ({events}) order by 1").fetchall()]
        for number, day in enumerate(days[:limit]):
            for result in pipeline.gate.judge(con, [day], _morning_after(day), pipeline.built_version(), "replay"):
                if result.success == "fail" and result.table not in ("batches", "users", "cohort_retention_weekly"):
                    alarms.append((day, result.severity, str(result)))
            if number % 50 == 0:
                say(f"replay: {number} of {len(days)} days, {len(alarms)} alarms")
    return len(days[:limit]), alarms


def measure(bench: Bench) -> Measured:
    base = bench.folder("prepared") / "home"
    bench.say("faults: a data home with ten months of clean history")
    prepare(base)
    control = deliver(base, bench.folder("clean") / "home", Fault("no fault"))
    outcomes = []
    for fault in FAULTS[: 6 if bench.small else None]:
        folder = bench.folder("fault")
        outcomes.append(deliver(base, folder / "home", fault))
        shutil.rmtree(folder)
        bench.say(f"{outcomes[-1].verdict:8} {fault.name:50} {', '.join(outcomes[-1].by[:4])}")
    bench.say(f"{control.verdict:8} {control.fault} {', '.join(control.by)}")
    days, alarms = replay(bench.folder("replay") / "home", bench.say, 60 if bench.small else None)
    meant = [outcome for outcome in outcomes if not outcome.fault.startswith("hard: ")]
    blocking = sorted({day for day, severity, _ in alarms if severity == "block"})
    warned = sorted({day for day, severity, _ in alarms if severity == "warn"})
    months = days / 25.4  # the shop is open so many days a month
    return Measured(
        findings=(
            Finding("faults stopped before publish, of " + str(len(meant)),
                    sum(outcome.verdict == "stopped" for outcome in meant), "", 25, "at least"),
            Finding("faults that were only warned of", sum(outcome.verdict == "warned" for outcome in meant), ""),
            Finding("faults missed", sum(outcome.verdict == "missed" for outcome in meant), "", 0),
            Finding("hard faults seen, of " + str(len(outcomes) - len(meant)),
                    sum(outcome.verdict != "missed" for outcome in outcomes if outcome not in meant), ""),
            Finding("clean days that would hold a publish, a month", len(blocking) / months, "", 1),
            Finding("clean days with a warning, a month", len(warned) / months, ""),
        ),
        details={
            "matrix": [replace(outcome, seconds=round(outcome.seconds, 1)).__dict__ for outcome in [control, *outcomes]],
            "false alarms": [(str(day), severity, text) for day, severity, text in alarms],
            "clean days": days,
        },
        notes=(f"the clean delivery of {DAY}: {', '.join(control.by) or 'published, and nothing failed'}",),
    )  # fmt: skip
