"""What it costs that every step measures itself: the same runs with and without, in turns, in one process.

`python -m benchmarks.telemetry CONFIG HOMES FOLDER...` is that process; it prints one JSON line a pair of runs. Two data
homes take in the same files, one of them on an instance of Dagster that has no handler for telemetry.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.generator import Stream
from benchmarks.measure import Bench, Finding, Measured, median, run

# Rows of a file, and how many files: a delivery of minutes, an hour, and a day.
SIZES = {"small": ((2_000, 5), (20_000, 5)), "full": ((2_000, 60), (20_000, 60), (200_000, 20))}
HANDLER = "python_logs:"


@dataclass(frozen=True)
class Pair:
    """Processor seconds of a run with and without telemetry, and of the measured step itself; wall seconds of the same.

    `own`: processor seconds of the code that measures; without DuckDB's, which profiles the step's statements in some runs
    (`profiled`, by `telemetry/sampling.py`).
    """

    rows: int
    measured: float
    plain: float
    step: float
    measured_wall: float
    plain_wall: float
    step_wall: float
    own: float
    profiled: bool

    def of_wall(self) -> "Pair":
        return replace(self, measured=self.measured_wall, plain=self.plain_wall, step=self.step_wall)


def measure(bench: Bench) -> Measured:
    homes = bench.folder("telemetry")
    sizes = SIZES["small" if bench.small else "full"]
    streams = [Stream(rows, files, seed=rows) for rows, files in sizes]
    folders = [bench.files(stream)[0].parent for stream in streams]
    try:
        bench.say("telemetry: runs with and without, in turns")
        child = run([bench.python, "-m", "benchmarks.telemetry", bench.config, homes, *folders])
    finally:
        shutil.rmtree(homes)
    pairs = [Pair(**line) for line in child.lines]
    findings, details = [], {}
    for rows, _ in sizes:
        of_size = [pair for pair in pairs if pair.rows == rows]
        for what, average in (("median", median), ("mean", mean)):
            ratio = _ratio(of_size, average)
            findings.append(Finding(f"telemetry: CPU of a step, {rows:,} events, with / without, {what}", ratio, target=1.02))
        own = sum(pair.own for pair in of_size) / sum(pair.step for pair in of_size)
        findings.append(Finding(f"telemetry: CPU of its own code, of a step of {rows:,} events", own * 100, "%"))
        wall = _ratio([pair.of_wall() for pair in of_size], median)
        findings.append(Finding(f"telemetry: wall of a step, {rows:,} events, with / without, median", wall, target=1.02))
        details[f"{rows} rows"] = {
            "pairs": [asdict(pair) for pair in of_size],
            "profiled": sum(pair.profiled for pair in of_size),
            # How far the mean of the pairs may be from the truth: twice its standard error.
            "more_ms": mean(_more(of_size)) * 1000,
            "more_ms_give_or_take": 2000 * stdev(_more(of_size)) / len(of_size) ** 0.5,
            "more_ms_a_profile": _more_ms(of_size, profiled=True),
            "more_ms_without": _more_ms(of_size, profiled=False),
        }
    return Measured(tuple(findings), details, ("each pair loads one file into two data homes, first one, then the other",))


def _ratio(pairs: Sequence[Pair], average: Callable[[Sequence[float]], float]) -> float:
    # The run around a step costs the same both times, and is left out of what the cost is held against.
    more, step = average(_more(pairs)), average([pair.step for pair in pairs])
    return step / (step - more)


def _more(pairs: Sequence[Pair]) -> list[float]:
    return [pair.measured - pair.plain for pair in pairs]


def _more_ms(pairs: Sequence[Pair], *, profiled: bool) -> float | None:
    more = _more([pair for pair in pairs if pair.profiled == profiled])
    return median(more) * 1000 if more else None


def main(config: Path, homes: Path, folders: list[Path]) -> None:
    os.environ["ANALYTICS_CONFIG"] = str(config)
    measured, plain = _a_side(homes / "measured", config, telemetry=True), _a_side(homes / "plain", config, telemetry=False)
    for folder in folders:
        files = sorted(folder.glob("*.parquet"))
        rows = int(folder.name.split("-")[0])
        # The first run of each side pays for imports.
        for number, path in enumerate([files[0], *files]):
            sides = (measured, plain) if number % 2 else (plain, measured)
            spent = {side: side(path) for side in sides}
            if number > 0:
                (cpu, wall, line), (plain_cpu, plain_wall, _) = spent[measured], spent[plain]
                step = (line["cpu_seconds"], wall, plain_wall, line["seconds"], line["own_cpu_seconds"], line["profiled"])
                pair = Pair(rows, cpu, plain_cpu, *step)
                print(json.dumps(asdict(pair)), flush=True)


def _a_side(home: Path, config: Path, *, telemetry: bool) -> Callable[[Path], tuple[float, float, dict[str, Any]]]:
    """Loads a file into `home` as a run; returns its processor and wall seconds, and what was measured of its step."""
    from analytics_assets.defs.instance import configure
    from analytics_assets.defs.run import Jobs
    from analytics_assets.settings import Settings
    from analytics_assets.telemetry.journal import forget, left, measured
    from analytics_assets.telemetry.probe import usage
    from analytics_assets.warehouse.home import Home

    settings, data = Settings(home, config), Home(home)
    declared = configure(data.dagster) / "dagster.yaml"
    if not telemetry:
        text = declared.read_text(encoding="utf-8")
        # An empty section stays as it is; one that is missing would be added.
        declared.write_text(text[: text.index(HANDLER)] + f"{HANDLER} {{}}\n", encoding="utf-8")
    os.environ["ANALYTICS_HOME"] = str(home)
    jobs = Jobs(settings)

    def load(path: Path) -> tuple[float, float, dict[str, Any]]:
        os.environ["ANALYTICS_HOME"] = str(home)
        before, began = usage().cpu_seconds, time.monotonic()
        ops: dict[str, Any] = {"intake": {"path": str(path), "source": "canonical"}}
        jobs.run("ingest", ops=ops)
        spent, took = usage().cpu_seconds - before, time.monotonic() - began
        lines = [line for name in left(data) for line in measured(data, name).values()]
        assert len(lines) == telemetry, lines
        for name in left(data):
            forget(data, name)
        return spent, took, lines[0] if lines else {}

    return load


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
