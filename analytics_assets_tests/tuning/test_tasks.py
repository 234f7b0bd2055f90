"""Task traces and tables of runs from any folder: nothing goes by the names of ids, or by units and order."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analytics_assets.settings import UserError
from benchmarks import choosing, sizing, tasks
from benchmarks.tuning import main

COLUMNS = "process,exit,memory,submit,start,complete,realtime,peak_rss,rchar,attempt"


@pytest.fixture(autouse=True)
def _few_assets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "ASSETS", 3)


def a_trace(folder: Path, columns: str = COLUMNS, memory: float = 2**30, time: float = 1000.0, label: str = "step") -> Path:
    """Four names of 15 tasks, a minute apart; the last one failed and has no peak."""
    random = np.random.default_rng(1)
    rows = []
    for place in range(60):
        size, start = random.uniform(1, 9), 1_700_000_000 + 60 * place
        seconds, peak = random.integers(20, 90), 1 + place % 4 + 0.1 * size
        cells = [
            8 * memory,
            start * time,
            (start + 1) * time,
            (start + 1 + seconds) * time,
            seconds * time,
            peak * memory,
            size,
        ]
        rows.append(
            ",".join([f"{label}{place % 4}", "0", *(f"{cell:.0f}" if cell > 1e3 else f"{cell:.9f}" for cell in cells), "1"])
        )
    rows[-1] = ",".join([f"{label}3", "1", *rows[-1].split(",")[2:7], "-", *rows[-1].split(",")[8:]])
    folder.mkdir(parents=True)
    (folder / "trace.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder


def test_ids_by_other_names_and_other_units_give_the_same_figures(tmp_path: Path) -> None:
    other = COLUMNS.replace("process", "what").replace("memory", "memory_gib").replace("peak_rss", "peak_rss_gib")
    one, two = (sizing.measure(folder) for folder in (a_trace(tmp_path / "a"), a_trace(tmp_path / "b", other, 1.0, 1.0, "x")))
    # The last tells how long decisions take.
    ours, theirs = ([finding.measured for finding in each.findings[:-1]] for each in (one, two))
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert one.notes[0] == "trace: 1 of 60 rows are left out: the run failed, or something is not known"


def test_the_name_of_a_task_is_what_tells_of_its_peak_and_not_the_sample_it_is_about(tmp_path: Path) -> None:
    folder = a_trace(tmp_path / "a")
    header, *rows = (folder / "trace.csv").read_text().splitlines()
    named = [f"sample {at % 7},{'FAILED' if at == 5 else 'COMPLETED'},{row}" for at, row in enumerate(rows)]
    (folder / "trace.csv").write_text("\n".join([f"tag,status,{header.replace('exit', 'note')}", *named]) + "\n")
    cases = tasks.read(folder)[0].cases
    assert {case.task.name for case in cases} == {f"step{place}" for place in range(4)}
    assert len(cases) == 60 - 2


def test_a_later_attempt_does_not_tell_the_first_one_that_more_is_needed(tmp_path: Path) -> None:
    folder = a_trace(tmp_path / "a")
    rows = (folder / "trace.csv").read_text().splitlines()
    cells = rows[9].split(",")
    cells[2], cells[-1] = str(16 * 2**30), "2"
    (folder / "trace.csv").write_text("\n".join([*rows[:9], ",".join(cells), *rows[10:]]) + "\n")
    assert {case.task.preset for case in tasks.read(folder)[0].cases} == {8.0}


def test_a_folder_without_a_task_trace_says_what_one_needs(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no task trace: a table with the columns peak_rss, memory, realtime, submit, complete"):
        tasks.read(tmp_path)


def a_table(folder: Path, header: str, families: bool) -> Path:
    """Six jobs of three algorithms on eight clusters."""
    rows = []
    for job in range(6):
        for nodes in (4, 8, 16, 32):
            for size, many in (("large", 1), ("xlarge", 2)):
                seconds = 1000 * (1 + job) / (nodes * many) ** (0.4 + 0.1 * (job // 2))
                shape = f"m4,{size}" if families else f"{2 * many},{8 * many},{0.1 * many}"
                rows.append(f"job {job},algorithm {job // 2},{nodes},{shape},{seconds},true")
    folder.mkdir(parents=True)
    (folder / "runs.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_configs_by_name_and_by_size_are_the_same(tmp_path: Path) -> None:
    named = a_table(tmp_path / "one", "job,workload,nodes,family,size,elapsed_s,completed", True)
    sized = a_table(tmp_path / "two", "x,y,nodes,cores,memory_gib,price,elapsed_s,completed", False)
    one, two = ([finding.measured for finding in choosing.measure(folder).findings] for folder in (named, sized))
    assert two == pytest.approx(one)
    (runs,) = choosing.read(named)
    assert (len(runs.jobs), len(runs.configs), len(set(runs.algorithms))) == (6, 8, 3)


def test_an_unknown_machine_needs_its_size_and_price(tmp_path: Path) -> None:
    folder = a_table(tmp_path / "one", "job,workload,nodes,family,size,elapsed_s,completed", True)
    (folder / "runs.csv").write_text((folder / "runs.csv").read_text().replace("m4,", "z9,"))
    with pytest.raises(UserError, match=r"nothing is known of z9\.large; add the columns cores, memory and price"):
        choosing.read(folder)


def test_what_a_folder_does_not_hold_is_left_out_and_said(tmp_path: Path) -> None:
    folder = a_trace(tmp_path / "a")
    result = CliRunner().invoke(main, ["--data", str(folder), "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert set(json.loads((tmp_path / "out.json").read_text())) == {"data", "memory"}
    assert "config is left out" in result.output
