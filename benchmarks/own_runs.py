"""Our own pipeline under many limits and sizes of data: what was predicted of each step against what was measured.

A cell is a part of the retail sample, a memory limit and a number of threads. Each is run as a process of its own in a fresh
data home, through the real jobs: load, rebuild, publish. What a step took is what the project's own telemetry says. The order
is drawn, since a machine is not equally fast all the time. A cell that is there is not run again: with `--work` it can be done
in pieces.

`python -m benchmarks.own_runs FILE` is such a process; it prints one JSON line.
"""

import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import yaml

from analytics_assets.telemetry.tables import StepTelemetry
from benchmarks.measure import PROJECT, Bench, Measured, run

SAMPLE = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
DECLARED = PROJECT / "analytics_assets" / "config"
SOURCE = "online_retail"
SEED = 20261122


@dataclass(frozen=True)
class Grid:
    """Cells: every size with every limit and number of threads, and some of them (`repeated`) so many times more."""

    sizes: tuple[int, ...]
    limits_mb: tuple[int, ...]
    threads: tuple[int, ...]
    repeated: tuple[tuple[int, int, int], ...] = ()
    repeats: int = 0


# 128 MB is the least that limits.yaml takes, and less than the larger sizes need.
FULL = Grid(
    (4_000, 16_000, 64_000, 180_000, 541_909), (128, 256, 512, 1024), (1, 2),
    ((4_000, 512, 2), (64_000, 256, 1), (180_000, 1024, 2)), 1,
)  # fmt: skip
SMALL = Grid((1_000, 2_000, 4_000), (128, 512), (2,))


@dataclass(frozen=True)
class Cell:
    """Lines of the sample, MB and threads of DuckDB; `repeat` counts from 0 what is run more than once."""

    lines: int
    memory_mb: int
    threads: int
    repeat: int = 0

    @property
    def name(self) -> str:
        return f"{self.lines}-lines-{self.memory_mb}-mb-{self.threads}-threads-{self.repeat}"

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.lines:,} lines, {self.memory_mb:,} MB, {threads}{f', repeat {self.repeat}' if self.repeat else ''}"


@dataclass(frozen=True)
class Ran:
    """A cell that was run: its steps by telemetry, attempt by attempt, and the whole process by the kernel's account.

    `failed` is what the command would say, None if all was published.
    """

    cell: Cell
    rows: tuple[StepTelemetry, ...]
    failed: str | None
    cpu: float
    seconds: float
    peak_mib: float


def measure(bench: Bench) -> Measured:
    # Here: the process that runs a cell has no use for libraries for numbers.
    from benchmarks.own_judging import judged

    ran = []
    order = cells(SMALL if bench.small else FULL)
    began, done = time.monotonic(), 0
    for number, cell in enumerate(order, 1):
        path = kept(bench, cell)
        if not path.exists():
            left = f"; about {(time.monotonic() - began) / done * (len(order) - number + 1) / 60:.0f} min left" if done else ""
            bench.say(f"own runs: {number} of {len(order)}: {cell}{left}")
            _keep(bench, _run(bench, cell))
            done += 1
        ran.append(_read(path, cell))
    # What was kept was run before the others, in whatever order that was.
    return judged(sorted(ran, key=lambda one: one.rows[0].started_at))


def kept(bench: Bench, cell: Cell) -> Path:
    """Where a cell that was run is kept."""
    return bench.work / "own-runs" / f"{cell.name}.json"


def cells(grid: Grid) -> list[Cell]:
    """All cells of a grid in a random order, which is the same each time."""
    found = [Cell(lines, mb, threads) for lines in grid.sizes for mb in grid.limits_mb for threads in grid.threads]
    found += [Cell(*one, repeat) for one in grid.repeated for repeat in range(1, grid.repeats + 1)]
    random.Random(SEED).shuffle(found)
    return found


def _run(bench: Bench, cell: Cell) -> Ran:
    work = bench.folder("own-run")
    try:
        config, data = _config(work / "config", cell), _part(bench.work / "data", cell.lines)
        places = {"ANALYTICS_HOME": work / "home", "ANALYTICS_CONFIG": config, "ANALYTICS_KEYS": work / "keys"}
        command: list[str | Path] = [bench.python, "-m", "benchmarks.own_runs", data]
        child = run(command, **{name: str(path) for name, path in places.items()})
    finally:
        shutil.rmtree(work)
    rows = tuple(map(_row, child.last["rows"]))
    return Ran(cell, rows, child.last["failed"], child.cpu, child.seconds, child.peak_mib)


def _config(folder: Path, cell: Cell) -> Path:
    """The declarations as they are delivered, with the limits of the cell."""
    shutil.copytree(DECLARED, folder)
    path = folder / "limits.yaml"
    limits = yaml.safe_load(path.read_text(encoding="utf-8"))
    limits["storage"] |= {"memory_mb": cell.memory_mb, "threads": cell.threads}
    path.write_text(yaml.safe_dump(limits), encoding="utf-8")
    return folder


def _part(folder: Path, lines: int) -> Path:
    """The first lines of the sample by their time, as a younger shop would have them."""
    path = folder / f"retail-{lines}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with duckdb.connect(config={"threads": 1}) as con:
            first = f"select * from read_parquet('{SAMPLE}') order by InvoiceDate, InvoiceNo, StockCode limit {lines:d}"
            con.execute(f"copy ({first}) to '{part}' (format parquet)")
        part.rename(path)
    return path


def _keep(bench: Bench, ran: Ran) -> None:
    path = kept(bench, ran.cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    content = {**vars(ran), "cell": asdict(ran.cell), "rows": [astuple(row) for row in ran.rows]}
    part.write_text(json.dumps(content, default=str), encoding="utf-8")
    part.rename(path)


def _read(path: Path, cell: Cell) -> Ran:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Ran(cell, tuple(map(_row, found["rows"])), found["failed"], found["cpu"], found["seconds"], found["peak_mib"])


def _row(values: Sequence[Any]) -> StepTelemetry:
    row = dict(zip((field.name for field in fields(StepTelemetry)), values, strict=True))
    moment = {"date": date.fromisoformat(row["date"]), "started_at": datetime.fromisoformat(row["started_at"])}
    return StepTelemetry(**{**row, **moment})


# A process


def main(path: Path) -> None:
    """Load a file into the data home, rebuild and publish; then let telemetry read that, and print it."""
    from analytics_assets.cli import explain
    from analytics_assets.console import running
    from analytics_assets.defs.run import Jobs
    from analytics_assets.settings import Settings

    settings, failed = Settings.from_env(), None
    try:
        with running(settings) as runner:
            runner.ingest(path, SOURCE, None)
            runner.refresh()
    except Exception as error:
        # A step that had too little memory is what this is about.
        failed = explain(error)
    Jobs(settings).run("telemetry")
    print(json.dumps({"rows": [astuple(row) for row in _rows(settings.home)], "failed": failed}, default=str))


def _rows(home: Path) -> Iterator[StepTelemetry]:
    from analytics_assets.telemetry.tables import STEP_TELEMETRY
    from analytics_assets.warehouse.home import Home
    from analytics_assets.warehouse.table import Table

    names = ", ".join(field.name for field in fields(StepTelemetry))
    with duckdb.connect() as con:
        select = Table(Home(home).warehouse, STEP_TELEMETRY).snapshot().select()
        for values in con.execute(f"select {names} from ({select}) order by started_at, attempt").fetchall():
            yield StepTelemetry(*values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
