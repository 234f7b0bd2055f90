"""Measuring a step: real memory, real children, a real database, and processes that are killed on the way."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analytics_assets.settings import PROJECT
from analytics_assets.telemetry import probe
from analytics_assets.telemetry.journal import Key, Measuring, attempts, code_version, folder, forget, left, measured
from analytics_assets.warehouse import meter
from analytics_assets.warehouse.connect import connection
from analytics_assets.warehouse.home import Home
from analytics_assets_tests.builders import NOW

MIB = 1024 * 1024
KEY = Key("run-1", "make[one]/two", 1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def taken(home: Home) -> dict[str, Any]:
    return measured(home, KEY.run_id)[KEY]


MOMENT = """
import sys
from datetime import datetime
from pathlib import Path
from analytics_assets.telemetry import probe
from analytics_assets.telemetry.journal import Key, Measuring
from analytics_assets.warehouse.home import Home
before = bytearray(250 * 1024 * 1024)
del before
step = Measuring(Home(Path(sys.argv[1])), Key("run-1", "make[one]/two", 1), datetime(2026, 3, 20), shared=True)
held = bytearray(150 * 1024 * 1024)
del held
step.end()
"""


def test_memory_that_a_step_held_for_a_moment_is_its_peak(home: Home) -> None:
    """However short, and whatever the process held before: the kernel has noted it."""
    subprocess.run([sys.executable, "-c", MOMENT, str(home.root)], cwd=PROJECT, check=True)
    line = taken(home)
    assert 140 * MIB < line["peak"] - line["memory_before"] < 200 * MIB
    assert (line["ended"], line["shared"], line["began_at"]) == (True, True, "2026-03-20T00:00:00")
    assert line["seconds"] > 0 and line["cpu_seconds"] > 0
    assert line["code_version"] == code_version()


def test_where_the_kernels_mark_does_not_begin_anew_only_what_is_above_it_is_known(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its file may not be written: what the process held at most before is not taken for the step's."""
    monkeypatch.setattr("analytics_assets.telemetry.probe.MARK", str(home.root / "no" / "file"))
    before = bytearray(200 * MIB)
    del before
    Measuring(home, KEY, NOW, shared=True).end()
    line = taken(home)
    assert line["peak"] - line["memory_before"] < 100 * MIB


CHILD = "import sys; held = bytearray(300 * 1024 * 1024); print('held', flush=True); sys.stdin.read()"


def test_memory_of_a_child_counts_while_it_runs(home: Home) -> None:
    measuring = Measuring(home, KEY, NOW, shared=False)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin and child.stdout
    child.stdout.readline()
    # Until the thread has looked.
    while (peak := measuring.peak) < 300 * MIB:
        assert child.poll() is None
    child.communicate()
    measuring.end()
    assert taken(home)["peak"] >= peak


def test_what_duckdb_read_wrote_spilled_and_needed_is_known(home: Home) -> None:
    measuring = Measuring(home, KEY, NOW, shared=True)
    with connection(home, memory_mb=32, threads=1, source="limits.yaml") as con:
        con.execute("create temp table wide as select n, hash(n) as a, hash(n + 1) as b from range(2000000) t(n)")
        con.execute(f"copy (select a from wide order by a) to '{home.root}/out.parquet'")
        meter.wrote("events", 3)
        meter.wrote("events", 4)
    measuring.end()
    line = taken(home)
    assert (line["memory_limit"], line["threads"], line["config_source"]) == (32_000_000, 1, "limits.yaml")
    assert line["rows_read"] == 2_000_000
    assert line["rows_written"] == {"events": 7}
    assert line["written"] >= (home.root / "out.parquet").stat().st_size
    assert 16_000_000 < line["duckdb_peak"] < 64_000_000
    assert line["spilled"] > 10_000_000
    assert line["queries"] == 2
    assert line["duckdb_thread_seconds"] > 0


def test_a_step_of_small_statements_is_known_in_every_run_and_profiled_in_some(home: Home) -> None:
    """Its statements take next to nothing, so that a profile of each would be most of it."""
    profiled = []
    for number in range(15):
        measuring = Measuring(home, Key(f"run-{number}", "small", 1), NOW, shared=True)
        with connection(home) as con:
            for _ in range(20):
                con.execute("select 1").fetchall()
        measuring.end()
        ((_, line),) = measured(home, f"run-{number}").items()
        assert line["cpu_seconds"] > 0 and line["peak"] > 0 and line["memory_limit"] == 512_000_000
        assert line["queries"] == (20 if line["profiled"] else None)
        profiled.append(line["profiled"])
    assert profiled[0]
    assert sum(profiled) < 8


def test_what_is_spilled_is_seen_without_a_profile(home: Home) -> None:
    (home.work / "spill").mkdir()
    with (home.work / "spill" / "blocks").open("wb") as spilled:
        spilled.write(bytes(MIB))
        spilled.flush()
        assert probe.open_in(str(home.work)) == MIB
        (home.work / "spill" / "blocks").unlink()
        assert probe.open_in(str(home.work)) == MIB
    assert probe.open_in(str(home.work)) == 0


def test_without_a_measurement_nothing_is_counted(home: Home) -> None:
    with connection(home) as con:
        meter.wrote("events", 3)
        assert con.execute("select current_setting('enable_profiling')").fetchall() == [(None,)]
    Measuring(home, KEY, NOW, shared=True).end()
    line = taken(home)
    assert (line["rows_written"], line["queries"], line["duckdb_peak"]) == ({}, 0, None)


KILLED = """
import sys, time
from datetime import datetime
from pathlib import Path
from analytics_assets.telemetry import probe
from analytics_assets.telemetry.journal import Key, Measuring, folder
from analytics_assets.warehouse.home import Home
home = Home(Path(sys.argv[1]))
Measuring(home, Key("run-1", "make[one]/two", 1), datetime(2026, 3, 20), shared=False)
held = bytearray(200 * 1024 * 1024)
(path,) = (folder(home) / "run-1").iterdir()
while len(path.read_text().splitlines()) < 2:
    time.sleep(0.05)
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_step_leaves_what_it_had_taken_by_then(home: Home) -> None:
    step = subprocess.Popen([sys.executable, "-c", KILLED, str(home.root)], stdout=subprocess.PIPE, cwd=PROJECT)
    assert step.stdout
    step.stdout.readline()
    step.send_signal(signal.SIGKILL)
    step.communicate()
    line = taken(home)
    assert (line["ended"], line["shared"]) == (False, False)
    assert line["peak"] > 200 * MIB and line["seconds"] > 0


def test_half_a_line_and_a_strange_one_are_left_out(home: Home) -> None:
    Measuring(home, KEY, NOW, shared=True).end()
    before = taken(home)
    (path,) = (folder(home) / KEY.run_id).iterdir()
    with path.open("a") as journal:
        journal.write('{"some": "thing"}\n[1]\n{"run_id": "run-1", "step": "ma')
    assert taken(home) == before


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": -1.0}, {"cpu_seconds": float("nan")}, {"peak": float("inf")}, {"peak": 2**70}, {"read": "much"},
        {"rows_written": {"events": -5}}, {"rows_written": [1]}, {"rows_by_tenant": {"acme": "all"}}, {"attempt": "first"},
    ],
)  # fmt: skip
def test_an_absurd_line_is_left_out_and_the_one_before_it_counts(home: Home, change: dict[str, Any]) -> None:
    """A row of it could not be kept, and with it no other of that hour."""
    Measuring(home, KEY, NOW, shared=True).end()
    before = taken(home)
    (path,) = (folder(home) / KEY.run_id).iterdir()
    with path.open("a") as journal:
        journal.write(json.dumps({**before, "seconds": 7.0}) + "\n" + json.dumps({**before, **change}) + "\n")
    assert taken(home) == {**before, "seconds": 7.0}


def test_attempts_are_kept_apart_until_the_run_is_forgotten(home: Home) -> None:
    for number in (1, 2):
        assert attempts(home, KEY.run_id, KEY.step) == number - 1
        Measuring(home, Key(KEY.run_id, KEY.step, number), NOW, shared=True).end()
    assert [key.attempt for key in measured(home, KEY.run_id)] == [1, 2]
    assert left(home) == [KEY.run_id]
    forget(home, KEY.run_id)
    assert (left(home), measured(home, KEY.run_id)) == ([], {})
