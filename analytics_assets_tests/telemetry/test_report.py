"""The report from history, and the text for Prometheus: from healthy runs, each with one thing changed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.telemetry.costs import cost, unit_costs
from analytics_assets.telemetry.exposition import exposition
from analytics_assets.telemetry.report import Report, Run, reliability, report
from analytics_assets.telemetry.rows import row
from analytics_assets.telemetry.tables import STEP_TELEMETRY, UNIT_COSTS, StepTelemetry
from analytics_assets.warehouse.spec import TableSpec, identifier
from analytics_assets_tests.builders import NOON
from analytics_assets_tests.telemetry.test_costs import PRICES
from analytics_assets_tests.telemetry.test_rows import HEALTHY, SEEN

UNTIL = NOON + timedelta(days=10)


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def a_step(run: str = "run-1", *, day: float = 0, **changes: object) -> StepTelemetry:
    """A healthy attempt so many days after the first noon."""
    healthy = replace(row(HEALTHY, SEEN), run_id=run, started_at=NOON + timedelta(days=day), wall_seconds=3600.0)
    return replace(healthy, **changes)  # type: ignore[arg-type]


def keep(con: duckdb.DuckDBPyConnection, steps: Sequence[StepTelemetry]) -> tuple[str, str]:
    """Make both tables; returns their names, which are SELECTs in a from-clause."""
    shares = [share for step in steps for share in unit_costs(step, PRICES)]

    def make(spec: TableSpec, rows: Sequence[object]) -> None:
        unnested = ", ".join(f"unnest(?::{column.type}[]) as {identifier(column.name)}" for column in spec.columns)
        values = [[getattr(row, name) for row in rows] for name in spec.column_names]
        con.execute(f"create or replace table {spec.name} as select {unnested}", values)

    make(STEP_TELEMETRY, steps)
    make(UNIT_COSTS, shares)
    return f"from {STEP_TELEMETRY.name}", f"from {UNIT_COSTS.name}"


def told(con: duckdb.DuckDBPyConnection, steps: Sequence[StepTelemetry], days: int = 90) -> Report | None:
    return report(con, *keep(con, steps), UNTIL, days)


# Steps


def test_the_dearest_steps_come_first_and_their_shares_are_of_the_whole(con: duckdb.DuckDBPyConnection) -> None:
    steps = [a_step(step=f"step-{n:02d}", cpu_seconds=100.0 * n) for n in range(12)]
    found = told(con, steps)
    assert found is not None
    assert [one.step for one in found.dearest] == [f"step-{n:02d}" for n in range(11, 1, -1)]
    whole = sum(cost(step, PRICES) for step in steps)
    assert all(one.cost == cost(steps[int(one.step[-2:])], PRICES) for one in found.dearest)
    assert sum(one.share for one in found.dearest) == pytest.approx(float(sum(one.cost for one in found.dearest) / whole))


def test_what_changes_is_told_by_halves_of_the_time(con: duckdb.DuckDBPyConnection) -> None:
    failed: dict[str, Any] = {"outcome": "failure", "error_class": "ValueError"}
    found = told(con, [a_step("run-1", **failed), a_step("run-2", day=9, **failed), a_step("run-3", day=9, **failed)])
    assert found is not None
    ((dear,), (failing,)) = (found.dearest, found.failing)
    assert (dear.earlier * 2, dear.earlier + dear.later) == (dear.later, dear.cost)
    assert (failing.failed, failing.earlier, failing.later) == (3, 1, 2)
    assert (failing.error_class, failing.last_failed_at) == ("ValueError", NOON + timedelta(days=9))


def test_of_steps_those_that_fail_most_come_first_and_a_cancelled_one_did_not_fail(con: duckdb.DuckDBPyConnection) -> None:
    steps = [a_step(f"run-{n}", step="marts", outcome="killed") for n in range(2)]
    steps += [a_step("run-1", step="sessions", outcome="out_of_memory"), a_step("run-1", step="users", outcome="cancelled")]
    found = told(con, steps)
    assert found is not None
    assert [(one.step, one.failed) for one in found.failing] == [("marts", 2), ("sessions", 1)]


def test_only_the_days_that_are_asked_for_count(con: duckdb.DuckDBPyConnection) -> None:
    steps = [a_step("run-1", outcome="failure"), a_step("run-2", day=9)]
    recent = told(con, steps, days=5)
    assert recent is not None
    assert (recent.attempts, recent.failing, recent.since) == (1, (), NOON + timedelta(days=9))
    assert told(con, steps[:1], days=5) is None


def test_a_retry_that_succeeds_makes_a_run_that_succeeded(con: duckdb.DuckDBPyConnection) -> None:
    steps = [a_step(attempt=1, outcome="failure"), a_step(attempt=2), a_step("run-2", outcome="failure"),
             a_step("run-3", outcome="cancelled")]  # fmt: skip
    found = told(con, steps)
    assert found is not None
    ((job,), (failing,)) = (found.reliability, found.failing)
    assert (job.runs, job.failed, job.success_rate) == (2, 1, 0.5)
    assert failing.failed == 2


# Runs


def a_run(hour: float, *, failed: bool = False) -> Run:
    """An hour long, so many hours after noon."""
    began = NOON + timedelta(hours=hour)
    return Run("refresh", began, began + timedelta(hours=1), failed)


def of(*runs: Run, until: datetime = NOON + timedelta(hours=100)) -> tuple[object, ...]:
    (one,) = reliability(runs, NOON, until)
    return one.times_broken, one.mtbf_hours, one.mttr_hours, one.broken_since


def test_a_job_that_never_failed_has_no_time_between_failures() -> None:
    assert of(a_run(0), a_run(50)) == (0, None, None, None)


def test_however_many_runs_fail_in_a_row_the_job_broke_once() -> None:
    # Broken from the end of the first to the end of the success: hour 11 to hour 31.
    assert of(a_run(0), a_run(10, failed=True), a_run(20, failed=True), a_run(30), a_run(40)) == (1, 80.0, 20.0, None)


def test_what_is_broken_now_counts_as_lost_and_not_as_mended() -> None:
    assert of(a_run(0), a_run(89, failed=True)) == (1, 90.0, None, NOON + timedelta(hours=90))


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=30, unique_by=lambda run: run[0]))
def test_times_well_and_broken_are_together_the_time_that_was_looked_at(runs: list[tuple[int, bool]]) -> None:
    until = NOON + timedelta(hours=2000)
    ((times, between, mend, since),) = [of(*(a_run(hour, failed=failed) for hour, failed in runs), until=until)]
    assert isinstance(times, int)
    mended = times - (since is not None)
    well = between * times if isinstance(between, float) else 2000 - min(hour for hour, _ in runs)
    lost = mend * mended if isinstance(mend, float) else 0.0
    still = (until - since) / timedelta(hours=1) if isinstance(since, datetime) else 0.0
    assert well + lost + still == pytest.approx(2000 - min(hour for hour, _ in runs))
    assert 0 <= times <= sum(failed for _, failed in runs)


# Prometheus

SAMPLE = re.compile(r'(?P<name>[a-z_]+)\{(?P<labels>(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (?P<value>[0-9.eE+-]+)')


def samples(text: str) -> dict[tuple[str, str], float]:
    """By metric and labels, as the format says: each metric opens with its help and type, and stands in one piece."""
    found, opened = {}, list[str]()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            opened.append(line.split()[2])
        elif not line.startswith("# HELP "):
            sample = SAMPLE.fullmatch(line)
            assert sample and sample["name"] == opened[-1], line
            assert (sample["name"], sample["labels"]) not in found
            found[sample["name"], sample["labels"]] = float(sample["value"])
    assert len(set(opened)) == len(opened) and text.endswith("\n")
    return found


def test_prometheus_reads_the_sums_of_all_attempts(con: duckdb.DuckDBPyConnection) -> None:
    steps = [a_step("run-1", cpu_seconds=1.5), a_step("run-2", day=1, cpu_seconds=2.5, peak_memory_bytes=7),
             a_step("run-3", day=2, outcome="killed", cpu_seconds=None, peak_memory_bytes=None)]  # fmt: skip
    found = samples(exposition(con, *keep(con, steps)))
    labels = 'job="refresh",step="sessions"'
    assert found["analytics_step_attempts_total", f'{labels},outcome="success"'] == 2
    assert found["analytics_step_attempts_total", f'{labels},outcome="killed"'] == 1
    assert found["analytics_step_cpu_seconds_total", labels] == 4.0
    assert found["analytics_step_peak_memory_bytes", labels] == 7
    newest = (NOON + timedelta(days=1)).replace(tzinfo=UTC).timestamp()
    assert found["analytics_step_last_success_timestamp_seconds", labels] == newest
    whole = float(sum(cost(step, PRICES) for step in steps))
    assert found["analytics_step_cost_total", f'{labels},currency="EUR",basis="assumed"'] == pytest.approx(whole)


def test_a_name_that_holds_quotes_or_lines_stays_one_label(con: duckdb.DuckDBPyConnection) -> None:
    text = exposition(con, *keep(con, [a_step(step='a"b\\c\nd')]))
    assert ("analytics_step_cpu_seconds_total", r'job="refresh",step="a\"b\\c\nd"') in samples(text)


def test_before_the_first_step_there_are_metrics_without_samples(con: duckdb.DuckDBPyConnection) -> None:
    assert samples(exposition(con, *keep(con, []))) == {}
