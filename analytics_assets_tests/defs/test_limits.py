"""Real steps under their limits: what is in force, more after out of memory, and one clear message where there is no more."""

import os
from collections.abc import Iterator
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster_duckdb import DuckDBResource

from analytics_assets.defs.instance import open_instance
from analytics_assets.defs.intake import IntakeConfig
from analytics_assets.defs.partitions import DAYS, RANGE_END, RANGE_START
from analytics_assets.defs.resources import production_resources
from analytics_assets.defs.telemetry import collect
from analytics_assets.defs.timeouts import ended_in_time
from analytics_assets.pipeline import Pipeline
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets.tuning.in_force import ResourceConfig, folder, read_in_force, write_in_force
from analytics_assets.warehouse.home import Busy, Home
from analytics_assets.warehouse.leases import memory
from analytics_assets.warehouse.table import replace_days
from analytics_assets_tests.builders import NOW
from analytics_assets_tests.defs.home import DataHome, a_call, a_data_home
from analytics_assets_tests.tuning.steps import a_row

# DuckDB holds the list twice while it grows: it fits into 256 MB, and not into 150.
LARGE = "select sum(len(l)) from (select list(n) as l from range(9000000) t(n))"


@dg.asset
def large(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute(LARGE).fetchall()


@dg.asset
def small(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select 1").fetchall()


@dg.asset
def wrong(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select no_such_column").fetchall()


@dg.asset(deps=["step_telemetry", "no_table"], partitions_def=DAYS)
def reads_telemetry(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select 1").fetchall()


@dg.asset(name="made_as_a_whole", deps=["step_telemetry"])
def reads_all_telemetry(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select 1").fetchall()


@dg.asset(name="intake")
def takes_files(config: IntakeConfig, duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select 1").fetchall()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        (home.settings.config / "limits.yaml").write_text("storage: {memory_mb: 128, threads: 1}\n")
        yield home


def run(home: DataHome, asset: dg.AssetsDefinition, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """The attempts of a run of one asset as `step_telemetry` tells them, and what the run logged."""
    instance, stages = open_instance(home.settings), Pipeline(home.settings)
    done = dg.materialize([asset], instance=instance, resources=production_resources(), raise_on_error=False, **options)
    with stages.connect() as con:
        collect(instance, stages, con)
        select = stages.table(STEP_TELEMETRY).snapshot().select()
        found = con.execute(f"select * from ({select}) where run_id = ? order by attempt", [done.run_id]).fetchall()
    rows = [dict(zip(STEP_TELEMETRY.column_names, row, strict=True)) for row in found]
    logged = [entry for entry in instance.all_logs(done.run_id) if entry.user_message or entry.dagster_event]
    said = [entry.user_message for entry in logged]
    for entry in logged:
        error = getattr(entry.dagster_event and entry.dagster_event.event_specific_data, "error", None)
        while error is not None:
            said, error = [*said, error.message], error.cause
    return rows, "\n".join(said)


def limits(rows: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(row["outcome"], row["memory_limit_bytes"] // 1_000_000, row["config_source"]) for row in rows]


def test_a_step_that_runs_out_of_memory_succeeds_with_more(home: DataHome) -> None:
    rows, said = run(home, large)
    assert limits(rows) == [("out_of_memory", 128, "limits.yaml"), ("success", 256, "limits.yaml")]
    assert [row["lower_bound"] for row in rows] == [True, False]
    assert "large ran out of 128 MB; it is tried again with 256 MB" in said


def test_a_step_that_needs_more_than_the_machine_has_ends_in_one_message(home: DataHome) -> None:
    (home.settings.config / "tuning.yaml").write_text("memory: {budget_mb: 300, process_mb: 150}\n")
    rows, said = run(home, large)
    assert limits(rows) == [("out_of_memory", 128, "limits.yaml"), ("out_of_memory", 150, "limits.yaml")]
    assert "large ran out of memory with 128, 150 MB; that is all that steps have on this machine" in said


def test_a_step_that_fails_for_another_reason_is_not_tried_again(home: DataHome) -> None:
    rows, _ = run(home, wrong)
    assert limits(rows) == [("failure", 128, "limits.yaml")]


def test_what_is_in_force_for_a_step_is_what_it_gets(home: DataHome) -> None:
    write_in_force(Home(home.root), {"small": ResourceConfig(300, 2, source="pinned")})
    rows, _ = run(home, small)
    assert limits(rows) == [("success", 300, "pinned")]
    assert rows[0]["threads"] == 2


def test_a_step_has_its_preset_and_says_why_where_nothing_can_be_read(home: DataHome) -> None:
    folder(Home(home.root)).mkdir()
    (folder(Home(home.root)) / "in_force.json").write_text("{")
    rows, said = run(home, small)
    assert limits(rows) == [("success", 128, "limits.yaml: in_force.json unreadable")]
    assert "in_force.json cannot be read (JSONDecodeError): small has what limits.yaml says" in said


def test_a_step_that_does_not_fit_beside_the_others_waits_and_says_for_whom(home: DataHome) -> None:
    (home.settings.config / "tuning.yaml").write_text("memory: {budget_mb: 1000, wait_minutes: 0}\n")
    with memory(Home(home.root), "marts of run 1", 600, 1000, wait_seconds=0):
        rows, said = run(home, small)
    assert [row["outcome"] for row in rows] == ["failure"]
    assert "waits for 428 MB of the 1,000 MB that steps share; before it: marts of run 1 (600 MB)" in said
    assert "run it again when they have ended, or raise `wait_minutes` of tuning.yaml" in said


def test_a_step_that_is_to_have_more_than_there_is_says_so_and_does_not_begin(home: DataHome) -> None:
    (home.settings.config / "tuning.yaml").write_text("memory: {budget_mb: 400}\n")
    rows, said = run(home, small)
    assert [row["outcome"] for row in rows] == ["out_of_memory"]
    assert "small is to have 128 MB, and steps have 100 MB on this machine" in said


# The time that an attempt may take


@dg.asset(name="reads_telemetry", deps=["step_telemetry"])
def hangs(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as con:
        con.execute("select sum(hash(n)) from range(1000000000000) t(n)").fetchall()


def test_an_attempt_that_takes_far_too_long_is_ended_in_one_sentence_and_the_next_has_all_its_time(home: DataHome) -> None:
    Pipeline(home.settings).table(STEP_TELEMETRY).open()
    write_in_force(Home(home.root), {}, {"reads_telemetry": {"up to 100 kB": 0.2}, "small": {"up to 100 kB": 0.2}})
    rows, said = run(home, hangs)
    assert [(row["outcome"], row["error_class"], row["lower_bound"]) for row in rows] == [("timeout", "StepTimeout", True)]
    assert "reads_telemetry was ended after 0:00:00, much longer than it takes with such an input" in said
    assert read_in_force(Home(home.root)).timeouts == {"small": {"up to 100 kB": 0.2}}


def test_what_a_step_waits_for_others_is_not_of_its_time(tmp_path: Path) -> None:
    """A statement that somebody else interrupts stays what it is."""
    home = Home(tmp_path)
    with duckdb.connect() as con, pytest.raises(duckdb.InterruptException), ended_in_time(con, 1e-9), home.lock("rebuild"):
        with pytest.raises(Busy):
            home.lock("rebuild", wait_seconds=1000, sleep=lambda seconds: None).__enter__()
        raise duckdb.InterruptException("by a person")


# What lies before a step


def before(rows: list[dict[str, Any]]) -> list[tuple[int | None, int | None]]:
    return [(row["input_bytes"], row["input_rows"]) for row in rows]


def test_a_step_has_before_it_the_tables_it_reads_on_the_days_of_its_run(home: DataHome) -> None:
    stages, table = Pipeline(home.settings), Pipeline(home.settings).table(STEP_TELEMETRY)
    with stages.connect() as con:
        # A file a month.
        for month in range(3):
            kept = [a_row(NOW - timedelta(days=40 * month), f"run-{month}-{number}") for number in range(month + 1)]
            con.execute(f"create or replace temp table kept as {STEP_TELEMETRY.empty_select}")
            con.executemany(f"insert into kept values ({', '.join('?' * len(STEP_TELEMETRY.columns))})", map(astuple, kept))
            replace_days(table, con, "from kept", [kept[0].date], dense_day_rows=10)
    config = ResourceConfig(300, 1, source="model 1", classes={"up to 100 kB": (200, 400)})
    write_in_force(Home(home.root), {"reads_telemetry": config, "small": config})
    files = {file.rows: file.size for file in table.snapshot().files}
    day = str((NOW - timedelta(days=40)).date())
    rows, _ = run(home, reads_telemetry, partition_key=day)
    assert before(rows) == [(files[2], 2)]
    # It gets what is in force for an input of that size.
    assert limits(rows) == [("success", 200, "model 1")]
    # What is made as a whole reads all days in a run for some. The run before has left a row of its own.
    whole = table.snapshot()
    rows, _ = run(home, reads_all_telemetry, tags={RANGE_START: day, RANGE_END: day})
    assert before(rows) == [(whole.size, 7)]
    # Of a step that reads no table nothing is known.
    rows, _ = run(home, small)
    assert (before(rows), limits(rows)) == ([(None, None)], [("success", 300, "model 1")])


def test_files_that_wait_lie_before_the_step_that_takes_them(home: DataHome) -> None:
    landed = home.land("calls.ndjson", [a_call()])
    os.utime(landed, (1, 1))
    # Somebody writes it.
    home.land("more.ndjson.part", [a_call("m2")])
    rows, _ = run(home, takes_files)
    assert before(rows) == [(landed.stat().st_size, None)]
    named = home.file("named.ndjson", [a_call(), a_call("m2")])
    rows, _ = run(home, takes_files, run_config={"ops": {"intake": {"config": {"path": str(named)}}}})
    assert before(rows) == [(named.stat().st_size, None)]
