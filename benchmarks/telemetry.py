"""What it costs that every step measures itself: the same runs with and without, in turns, in one process.

`python -m benchmarks.telemetry CONFIG HOMES FOLDER...` is that process; it prints one JSON line a pair of runs. Two data
homes take in the same files, one of them on an instance of Dagster that has no handler for telemetry.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.generator import Stream
from benchmarks.measure import Bench, Finding, Measured, median, run

# Rows of a file, and how many files: a delivery of minutes, an hour, and a day.
SIZES = {"small": ((2_000, 5), (20_000, 5)), "full": ((2_000, 60), (20_000, 60), (200_000, 20))}
HANDLER = "python_logs:"


@dataclass(frozen=True)
class Pair:
    """Processor seconds of a run with and without telemetry, and of the measured step itself."""

    rows: int
    measured: float
    plain: float
    step: float


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
        more = median([pair.measured - pair.plain for pair in of_size])
        step = median([pair.step for pair in of_size])
        # The run around a step costs the same both times, and is left out of what the cost is held against.
        findings.append(
            Finding(f"telemetry: CPU of a step, {rows:,} events, with / without", step / (step - more), target=1.02)
        )
        details[f"{rows} rows"] = {"more_ms": more * 1000, "step_ms": step * 1000, "pairs": [asdict(pair) for pair in of_size]}
    return Measured(tuple(findings), details, ("each pair loads one file into two data homes, first one, then the other",))


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
                pair = Pair(rows, spent[measured][0], spent[plain][0], spent[measured][1])
                print(json.dumps(asdict(pair)), flush=True)


def _a_side(home: Path, config: Path, *, telemetry: bool) -> Callable[[Path], tuple[float, float]]:
    """Loads a file into `home` as a run; returns the processor seconds of the run, and of its step if that is measured."""
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
        declared.write_text(text[: text.index(HANDLER)], encoding="utf-8")
    os.environ["ANALYTICS_HOME"] = str(home)
    jobs = Jobs(settings)

    def load(path: Path) -> tuple[float, float]:
        os.environ["ANALYTICS_HOME"] = str(home)
        before = usage().cpu_seconds
        ops: dict[str, Any] = {"intake": {"path": str(path), "source": "canonical"}}
        jobs.run("ingest", ops=ops)
        spent = usage().cpu_seconds - before
        steps = [line["cpu_seconds"] for name in left(data) for line in measured(data, name).values()]
        assert len(steps) == telemetry, steps
        for name in left(data):
            forget(data, name)
        return spent, sum(steps)

    return load


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
