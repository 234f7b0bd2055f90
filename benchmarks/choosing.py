"""Configs chosen for jobs nobody has run: on tables of runs, all jobs of the same algorithm left out, with three probe runs.

A choice whose run fails is charged with that run and the best completed probe after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analytics_assets.settings import UserError
from analytics_assets.tuning.choice import HOUR, Advisor, Config, Outcome
from benchmarks.measure import Finding, Measured

PROBES = 3
# Draws decide between probes that promise as much: what is told is the mean over so many of them.
SEEDS = 5
PUBLISHED = 1.34
# Dollars an hour, cores and GiB of a node of size large; an xlarge is two of them, a 2xlarge four.
FAMILIES = {"m4": (0.1, 2, 8.0), "c4": (0.1, 2, 3.75), "r4": (0.133, 2, 15.25)}
SIZES = {"large": 1, "xlarge": 2, "2xlarge": 4}
COLUMNS = {
    "seconds": ("elapsed_s", "elapsed", "seconds", "runtime", "runtime_s", "duration"),
    "completed": ("completed", "success", "succeeded"),
    "nodes": ("nodes", "node_count", "scale_out", "instances"),
    "family": ("family", "instance_family"),
    "size": ("size", "instance_size"),
    "type": ("machine_type", "instance_type", "type"),
    "cores": ("cores", "vcpus", "cpus"),
    "memory": ("memory", "memory_gb", "memory_gib", "ram"),
    "price": ("price", "price_hour", "hourly_price"),
}


@dataclass(frozen=True)
class Runs:
    """Jobs by configs, with the algorithm of each job."""

    name: str
    jobs: tuple[str, ...]
    algorithms: tuple[str, ...]
    configs: tuple[Config, ...]
    outcomes: tuple[tuple[Outcome | None, ...], ...]


def measure(folder: Path) -> Measured:
    tables = read(folder)
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    notes: list[str] = []
    for runs in tables:
        rows = {
            f"{job}, seed {seed}": _judged(runs, place, seed)
            for place, job in enumerate(runs.jobs)
            if _best(runs, place) is not None
            for seed in range(SEEDS)
        }
        details[runs.name] = rows
        for what, target in (("uncharged", PUBLISHED), ("charged", None)):
            mean = float(np.mean([row[what] for row in rows.values()]))
            findings.append(Finding(f"{runs.name}: cost over the cheapest, {PROBES} probes, {what}", mean, "", target))
        for what in ("no probe", "best for the others", "any"):
            findings.append(
                Finding(
                    f"{runs.name}: cost over the cheapest, {what}", float(np.mean([row[what] for row in rows.values()])), ""
                )
            )
        failing = float(np.mean([row["fails"] for row in rows.values()]))
        findings.append(Finding(f"{runs.name}: part of the choices whose run fails", failing, ""))
        for job in runs.jobs:
            told = [row for name, row in rows.items() if name.startswith(f"{job}, seed ")]
            notes += [_said(job, told)] if told else [f"{job} is left out: no run of it completed"]
    return Measured(tuple(findings), details, tuple(notes))


def _said(job: str, rows: Sequence[Mapping[str, Any]]) -> str:
    chosen = ", ".join(sorted({row["chosen"] for row in rows}))
    over, probes = (float(np.mean([row[what] for row in rows])) for what in ("uncharged", "probes cost"))
    return (
        f"{job}: {over:.2f} of the cheapest, {rows[0]['cheapest']}, chosen: {chosen}; probes cost {probes:.2f} of a run on it"
    )


def read(folder: Path) -> list[Runs]:
    """The tables of runs in `folder`, in its folders, or in its `scout`. Raises UserError if there is none."""
    inside = [folder / "scout"] if (folder / "scout").is_dir() else [folder, *sorted(folder.glob("*/"))]
    tables = [runs for one in inside for path in sorted(one.glob("*.csv")) if (runs := _runs(path)) is not None]
    if not tables:
        raise UserError(
            f"{folder} holds no table of runs: a row a job and config, with elapsed_s, nodes, and family and size or price"
        )
    return tables


def _judged(runs: Runs, job: int, seed: int) -> dict[str, Any]:
    others = [place for place, name in enumerate(runs.algorithms) if name != runs.algorithms[job]]
    outcomes, best = runs.outcomes[job], _best(runs, job)
    assert best is not None
    least = _cost(runs.configs[best], outcomes[best])
    advisor = Advisor(runs.configs, [runs.outcomes[place] for place in others])
    probed: dict[int, Outcome] = {}
    blind = _first(advisor, probed, runs, job, seed)
    for _ in range(PROBES):
        place = advisor.probe(probed, seed)
        probed[place] = outcomes[place] or Outcome(0.0, False)
    chosen = _first(advisor, probed, runs, job, seed)
    spent = sum(_cost(runs.configs[place], outcome) for place, outcome in probed.items())
    ratio = _charged(runs, job, chosen, probed) / least
    return {
        "chosen": runs.configs[chosen].name,
        "cheapest": runs.configs[best].name,
        "uncharged": ratio,
        "charged": ratio + spent / least,
        "probes": [runs.configs[place].name for place in probed],
        "probes cost": spent / least,
        "no probe": _charged(runs, job, blind, {}) / least,
        "best for the others": _charged(runs, job, _popular(runs, others), {}) / least,
        "any": float(np.mean([_charged(runs, job, place, {}) for place, one in enumerate(outcomes) if one])) / least,
        "fails": not (outcomes[chosen] or Outcome(0.0, False)).completed,
    }


def _first(advisor: Advisor, probed: Mapping[int, Outcome], runs: Runs, job: int, seed: int) -> int:
    """The best config of the table on which this job was ever run: what it costs elsewhere is not known."""
    places = {one.name: place for place, one in enumerate(runs.configs)}
    return next(
        places[row.config.name] for row in advisor.table(probed, seed=seed) if runs.outcomes[job][places[row.config.name]]
    )


def _popular(runs: Runs, others: Sequence[int]) -> int:
    """The config with the least mean cost over the cheapest for these jobs."""
    ratios = []
    for job in others:
        best = _best(runs, job)
        if best is None:
            continue
        least = _cost(runs.configs[best], runs.outcomes[job][best])
        ratios.append([_charged(runs, job, place, {}) / least for place in range(len(runs.configs))])
    return int(np.mean(ratios, axis=0).argmin())


def _charged(runs: Runs, job: int, place: int, probed: Mapping[int, Outcome]) -> float:
    """What a run there costs; if it fails, also a run on the best probe, or on the dearest that completes."""
    outcomes = runs.outcomes[job]
    cost = _cost(runs.configs[place], outcomes[place])
    if (outcomes[place] or Outcome(0.0, False)).completed:
        return cost
    good = [_cost(runs.configs[at], one) for at, one in probed.items() if one.completed]
    return cost + (
        min(good) if good else max(_cost(runs.configs[at], one) for at, one in enumerate(outcomes) if one and one.completed)
    )


def _best(runs: Runs, job: int) -> int | None:
    good = [place for place, one in enumerate(runs.outcomes[job]) if one and one.completed]
    return min(good, key=lambda place: _cost(runs.configs[place], runs.outcomes[job][place]), default=None)


def _cost(config: Config, outcome: Outcome | None) -> float:
    return 0.0 if outcome is None else outcome.seconds / HOUR * config.price


def _runs(path: Path) -> Runs | None:
    try:
        frame = pl.read_csv(path, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None
    lower = {column.lower(): column for column in frame.columns}
    columns = {what: lower[name] for what, names in COLUMNS.items() if (name := next((n for n in names if n in lower), None))}
    shaped = "price" in columns and "cores" in columns and "memory" in columns
    if (
        "seconds" not in columns
        or "nodes" not in columns
        or not (shaped or {"family", "size"} <= set(columns) or "type" in columns)
    ):
        return None
    ids = _ids(frame, set(columns.values()))
    if ids is None:
        return None
    job, algorithm = ids
    configs: dict[str, Config] = {}
    cells: dict[tuple[str, str], Outcome] = {}
    algorithms: dict[str, str] = {}
    for row in frame.iter_rows(named=True):
        config = _config({what: row[column] for what, column in columns.items()}, path)
        configs[config.name] = config
        done = str(row[columns["completed"]]).lower() in ("true", "1", "yes") if "completed" in columns else True
        cells[str(row[job]), config.name] = Outcome(float(row[columns["seconds"]]), done)
        algorithms[str(row[job])] = str(row[algorithm])
    if len(set(algorithms.values())) < 3:
        return None
    table = tuple(tuple(cells.get((name, config)) for config in configs) for name in algorithms)
    return Runs(path.parent.name, tuple(algorithms), tuple(algorithms.values()), tuple(configs.values()), table)


def _config(row: Mapping[str, Any], path: Path) -> Config:
    nodes = float(row["nodes"])
    family, size = (str(row["family"]), str(row["size"])) if "family" in row and "size" in row else ("", "")
    if not family and "type" in row:
        family, _, size = str(row["type"]).partition(".")
    if {"price", "cores", "memory"} <= set(row):
        price, cores, memory = (float(row[what]) for what in ("price", "cores", "memory"))
        label = f"{family}.{size}" if family else f"{cores:g} cores {memory:g}"
    elif family in FAMILIES and size in SIZES:
        price, cores, memory = (SIZES[size] * value for value in FAMILIES[family])
        label = f"{family}.{size}"
    else:
        raise UserError(
            f"{path.name}: nothing is known of {family}.{size}; add the columns cores, memory and price (of one node)"
        )
    return Config(f"{nodes:g} x {label}", nodes * cores, nodes * memory, nodes, nodes * price)


def _ids(frame: pl.DataFrame, taken: set[str]) -> tuple[str, str] | None:
    """The columns of jobs and of their algorithms: text columns, the finest with many rows a value and the next coarser one.

    An algorithm holds whole jobs, and there are three at least.
    """
    texts = {
        column: frame[column].n_unique()
        for column, kind in frame.schema.items()
        if kind == pl.String and column not in taken and frame[column].null_count() == 0
    }
    jobs = [column for column, count in texts.items() if 3 <= count <= len(frame) // 8]
    if not jobs:
        return None
    job = max(jobs, key=lambda column: texts[column])
    whole = [
        column
        for column in jobs
        if texts[column] < texts[job] and frame.group_by(job).agg(pl.col(column).n_unique().alias("n"))["n"].max() == 1
    ]
    # Frameworks hold whole jobs as well: an algorithm is the finest of what is coarser than the job.
    return job, max(whole, key=lambda column: texts[column], default=job)
