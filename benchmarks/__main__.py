"""`python -m benchmarks [NAME ...]`: measure, show a table with targets and verdicts, keep the numbers as JSON."""

import importlib
import json
import platform
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
import duckdb
from rich.console import Console
from rich.table import Table

from analytics_assets.settings import Settings
from benchmarks.measure import Bench, BenchmarkError, Finding, Measured

# Name and module, in the order in which they run: the early ones need least time for what they tell.
BENCHMARKS = {
    "import": "imports", "ingest": "ingest", "growth": "growth", "memory": "memory", "concurrency": "concurrency",
    "demo": "demo", "query": "query", "faults": "faults", "detector": "detector", "audit": "audit", "egress": "egress",
    "pseudonyms": "pseudonyms", "erasure": "erasure", "contention": "contention", "latency": "latency",
    "telemetry": "telemetry", "warming": "warming", "outlook": "outlook", "waits": "waits", "own-runs": "own_runs",
}  # fmt: skip
# Too long for every time: measured where it is named.
ONLY_NAMED = {"own-runs"}


@click.command(help="Measure NAMES (all but own-runs, if none is given): " + ", ".join(BENCHMARKS) + ".")
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--scale", type=click.Choice(["full", "small"]), default="full", help="small: a smoke check of minutes.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep generated data here and take it again next time.")
def main(names: tuple[str, ...], scale: Literal["full", "small"], work: Path | None) -> None:
    console = Console()
    kept = Settings.from_env().home / "bench"
    kept.mkdir(parents=True, exist_ok=True)
    chosen = tuple(name for name in BENCHMARKS if name in (names or BENCHMARKS.keys() - ONLY_NAMED))
    scratch = work or Path(tempfile.mkdtemp(prefix="work-", dir=kept))
    scratch.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, Measured]] = []
    failed = False
    try:
        bench = Bench(scale == "small", scratch.resolve(), console)
        for name in chosen:
            console.print(f"[bold]{name}[/bold]")
            try:
                measured = importlib.import_module(f"benchmarks.{BENCHMARKS[name]}").measure(bench)
            except BenchmarkError as error:
                failed = True
                console.print(f"  [red]{name}: {error}[/red]")
                continue
            found.append((name, measured))
            _keep(kept, name, scale, measured)
    finally:
        if work is None:
            shutil.rmtree(scratch)
    _show(console, scale, found)
    console.print(f"\nThe numbers behind this are in {kept}")
    # A missed target is a finding, not an error of the run; a contestant that failed is one.
    raise SystemExit(1 if failed else 0)


def _keep(folder: Path, name: str, scale: str, measured: Measured) -> None:
    content = {
        "name": name,
        "scale": scale,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version(),
                    "duckdb": duckdb.__version__},
        "findings": [{**asdict(finding), "verdict": finding.verdict} for finding in measured.findings],
        "notes": measured.notes,
        "details": measured.details,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _show(console: Console, scale: str, found: list[tuple[str, Measured]]) -> None:
    table = Table(title="Benchmarks" if scale == "full" else "Benchmarks, small: a smoke check; targets hold at full scale")
    for column, justify in (("what", "left"), ("target", "right"), ("measured", "right"), ("verdict", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    colours = {"met": "green", "missed": "red", "reported": "dim"}
    for _, measured in found:
        for finding in measured.findings:
            colour = colours[finding.verdict]
            table.add_row(finding.what, _target(finding), _number(finding.measured, finding.unit),
                          f"[{colour}]{finding.verdict}[/{colour}]")  # fmt: skip
        table.add_section()
    console.print(table)
    for name, measured in found:
        for note in measured.notes:
            console.print(f"[dim]{name}: {note}[/dim]")


def _target(finding: Finding) -> str:
    return "" if finding.target is None else f"{finding.wanted} {_number(finding.target, finding.unit)}"


def _number(value: float, unit: str) -> str:
    digits = 0 if unit in ("MiB", "rows") or (unit == "" and value == int(value)) else 2
    return f"{value:,.{digits}f} {unit}".strip()


if __name__ == "__main__":
    main()
