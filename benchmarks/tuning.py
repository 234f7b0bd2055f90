"""`python -m benchmarks.tuning --data FOLDER`: what the tuning reaches on real traces of any folder of that form.

Prints a table with targets and verdicts, and what is behind it; keeps all of it as JSON.
"""

import importlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from analytics_assets.settings import Settings, UserError

# Name and module, whose `measure(folder)` reads nothing but the folder.
PARTS = {"forecast": "forecasting", "scaling": "replaying", "memory": "sizing", "config": "choosing"}


@click.command(help="Measure PARTS (all, if none is given): " + ", ".join(PARTS) + ".")
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--data", "folder", required=True, type=click.Path(path_type=Path), help="Folder with the traces.")
@click.option(
    "--json", "kept", type=click.Path(path_type=Path), help="Where to keep the numbers (bench/tuning.json of the data home)."
)
def main(parts: tuple[str, ...], folder: Path, kept: Path | None) -> None:
    console = Console(highlight=False)
    kept = kept or Settings.from_env().home / "bench" / "tuning.json"
    written: dict[str, object] = {"data": folder.name}
    for name in [name for name in PARTS if not parts or name in parts]:
        console.print(f"[bold]{name}[/bold] on {folder}")
        try:
            measured = importlib.import_module(f"benchmarks.{PARTS[name]}").measure(folder)
        except UserError as error:
            if parts:
                raise SystemExit(f"{name}: {error}") from None
            console.print(f"{name} is left out: {error}", markup=False, soft_wrap=True)
            continue
        table = Table("what", "to reach", "measured", "verdict")
        for finding in measured.findings:
            target = "" if finding.target is None else f"{finding.wanted} {finding.target:,.2f}"
            table.add_row(finding.what, target, f"{finding.measured:,.2f}", finding.verdict)
        console.print(table)
        for note in measured.notes:
            console.print(note, markup=False, soft_wrap=True)
        written[name] = {
            "findings": [{**asdict(finding), "verdict": finding.verdict} for finding in measured.findings],
            "details": measured.details,
            "notes": measured.notes,
        }
    if len(written) == 1:
        raise SystemExit(f"{folder} holds nothing to measure on")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(_plain(written), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"The numbers behind this are in {kept}")


def _plain(value: object) -> object:
    """As JSON may hold it: what is no number is null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
