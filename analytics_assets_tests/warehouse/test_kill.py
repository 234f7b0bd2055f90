"""Processes that are really killed. Whatever is interrupted wherever, the rerun gives the exact tables, and readers of the
published file never meet a broken or a mixed version.
"""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.warehouse.publish import current_path
from analytics_assets_tests.builders import DAY, Line, Opener, a_config, an_event, at, published, write_events
from analytics_assets_tests.faults import FORK, ROUNDS, process

SEED = 20260310
BATCHES_TO_LOAD = 4


def work(home: Path, config: Path, what: str, files: list[Path], said: Connection) -> None:
    """What a killed process is doing, again and again. It says when it begins, so that kills meet work and not start-up."""
    with Line.at(home, config) as line:
        said.send("begin")
        while True:
            if what == "ingest":
                for file in files:
                    line.load(file)
            elif what == "compact":
                line.pipeline.compact(line.con, line.now)
                line.pipeline.sweep(line.con)
            elif what == "replay":
                line.pipeline.replay_rejected(line.con, line.now, reason=None, source=None, tenant=None, dry_run=False)
            elif what == "publish":
                line.sessions([DAY])
                line.publish()


def kill_after(delay: float, home: Path, config: Path, what: str, files: list[Path] | None = None) -> None:
    """Kill a process `delay` seconds into its work."""
    hear, say = FORK.Pipe(duplex=False)
    child = process(work, home, config, what, files or [], say)
    child.start()
    assert hear.recv() == "begin"
    child.join(delay)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def deliveries(folder: Path) -> list[Path]:
    """Batches that overlap, over several days, each with broken records."""
    return [
        write_events(
            folder / f"batch{number}.ndjson",
            [
                *(an_event(f"m{n}", timestamp=at(n % 7, day=n % 4)) for n in range(number * 3000, number * 3000 + 4500)),
                *(an_event(f"x{number}-{n}", tenant_id="unknown") for n in range(20)),
                "no json",
            ],
        )
        for number in range(BATCHES_TO_LOAD)
    ]


def tables(line: Line) -> list[object]:
    return [
        line.digest(EVENTS),
        line.rows(REJECTED, without=("batch_id", "received_at", "copy")),
        line.rows(BATCHES, without=("seconds", "loaded_at")),
    ]


def assert_sound(line: Line) -> None:
    assert len(line.keys()) == len(set(line.keys()))
    accounts = line.rows(BATCHES, columns="received - rejected - duplicates - events, batch_id")
    assert {account for account, _ in accounts} <= {0}
    assert len(accounts) == len(set(accounts))


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_ingest_that_is_killed_and_run_again_gives_the_exact_tables(open_line: Opener, tmp_path: Path, round_: int) -> None:
    files = deliveries(tmp_path / "files")
    undisturbed = open_line("undisturbed")
    for file in files:
        undisturbed.load(file)
    rng = random.Random(SEED + round_)
    home, config = tmp_path / "killed", a_config(tmp_path / "killed-config")
    for _ in range(5):
        kill_after(rng.uniform(0.02, 2.0), home, config, "ingest", files)
    line = open_line("killed")
    for file in files:
        line.load(file)
    assert_sound(line)
    assert tables(line) == tables(undisturbed)


def test_compaction_that_is_killed_loses_and_doubles_nothing(open_line: Opener, tmp_path: Path) -> None:
    line = open_line("home")
    for number in range(12):
        line.load([an_event(f"m{number}-{n}", timestamp=at(n, day=n % 3 - 30)) for n in range(200)])
    before = tables(line)
    rng = random.Random(SEED)
    for _ in range(5):
        kill_after(rng.uniform(0.0, 0.5), line.home, tmp_path / "home-config", "compact")
        assert tables(line) == before
    line.pipeline.compact(line.con, line.now)
    line.pipeline.sweep(line.con)
    assert tables(line) == before
    assert len(line.pipeline.table(EVENTS).snapshot().files) < 12


def test_a_replay_that_is_killed_and_run_again_is_exact(open_line: Opener, tmp_path: Path) -> None:
    records = [an_event(f"m{n}", tenant_id="new", timestamp=at(n % 60)) for n in range(3000)]
    line = open_line("home", tenants=["acme"])
    assert line.load(records).rejected == 3000
    fixed = a_config(tmp_path / "fixed-config", tenants=["acme", "new"])
    rng = random.Random(SEED)
    for _ in range(5):
        kill_after(rng.uniform(0.0, 0.5), line.home, fixed, "replay")
        with Line.at(line.home, fixed) as now:
            held = {("new", key) for (key,) in now.rows(REJECTED, columns="raw ->> 'message_id'")}
            assert held | set(now.keys()) == {("new", f"m{n}") for n in range(3000)}
    with Line.at(line.home, fixed) as now:
        now.pipeline.replay_rejected(now.con, now.now, reason=None, source=None, tenant=None, dry_run=False)
        assert_sound(now)
        assert len(now.keys()) == 3000
        assert now.rows(REJECTED) == []


@contextmanager
def readers(path: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that open the published file again and again until their input closes, and report the first thing amiss."""
    code = """
import select, sys, duckdb
seen = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    with duckdb.connect(sys.argv[1], read_only=True) as con:
        rows = con.execute("select (select count(*) from events), (select sum(events) from sessions), "
                           "(select count(distinct version) from published_tables)").fetchall()[0]
    assert rows[0] == rows[1] and rows[2] == 1, rows
    seen += 1
print("sound", seen)
"""
    command = [sys.executable, "-c", code, str(path)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        yield running
    finally:
        for reader in running:
            reader.kill()
            reader.wait()


def test_a_publish_that_is_killed_leaves_a_version_that_opens_and_fits_together(open_line: Opener, tmp_path: Path) -> None:
    line = open_line("home")
    line.load([an_event(f"m{n}", timestamp=at(n % 600), revenue="1.5") for n in range(2000)])
    line.rebuild()
    line.publish()
    rng = random.Random(SEED)
    path = current_path(line.pipeline.home)
    with readers(path, 1) as running:
        for _ in range(6):
            kill_after(rng.uniform(0.0, 0.6), line.home, tmp_path / "home-config", "publish")
            with published(path) as con:
                assert con.execute("select count(*) from events").fetchall() == [(2000,)]
        for reader in running:
            out, err = reader.communicate("stop")
            assert out.startswith("sound"), err
    line.sessions([DAY])
    after = line.publish()
    assert after.changed
    with published(path) as con:
        assert con.execute("select max(version), count(*) from published_tables").fetchall()[0][0] == after.version
    leftovers = [file.name for file in line.pipeline.home.versions.iterdir() if not file.name.endswith(".duckdb")]
    assert len(leftovers) <= 1


def test_the_locks_of_a_killed_process_are_free(open_line: Opener, tmp_path: Path) -> None:
    line = open_line("home")
    kill_after(0.1, line.home, tmp_path / "home-config", "ingest", [write_events(tmp_path / "batch.ndjson", [an_event()])])
    for lock in ("intake", "rebuild", "publish"):
        with line.pipeline.home.lock(lock, wait_seconds=0):
            pass
