"""Months ahead: what `capacity_forecast` would have said of the retail sample, week by week, against what came.

The sample's invoice lines a day are a flow, all of them so far a stock. From the end of each week on, model, error and interval
are made of what was known then alone, so that what is chosen is judged by days that had no part in the choice.
"""

from datetime import date
from typing import Any

import duckdb
import numpy as np

from analytics_assets.tuning.outlook import HORIZONS, MODELS, REFEREE, by_day, outlook
from analytics_assets.tuning.series import Numbers
from benchmarks.measure import PROJECT, Bench, Finding, Measured

_RETAIL = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
# From so many days on both horizons are back-tested.
_FIRST = 139


def measure(bench: Bench) -> Measured:
    days, values = _days()
    found = {"lines a day": (values, False), "lines in all": (np.cumsum(values), True)}
    findings, details = [], dict[str, Any]()
    for name, (series, stock) in found.items():
        for horizon, told in _judged(series, days[-1], stock).items():
            what = f"outlook: {name}, up to {horizon} days"
            findings += [
                Finding(f"{what}, error / the last value's", told["error"] / told["last value"], target=1.0),
                Finding(f"{what}, mean error", 100 * told["error"], "%"),
                Finding(f"{what}, in the 80 % interval", 100 * told["held"], "%"),
            ]
            details[f"{name}, {horizon}"] = told
    return Measured(tuple(findings), details, (f"{len(values)} days; one year is too short to learn a season of years.",))


def _days() -> tuple[list[date], Numbers]:
    with duckdb.connect() as con:
        rows = con.execute(
            f"select InvoiceDate::date as day, count(*)::double from read_parquet('{_RETAIL}') group by 1 order by 1"
        ).fetchall()
    return [day for day, _ in rows], by_day(rows, rows[0][0], rows[-1][0], stock=False)


def _judged(series: Numbers, last: date, stock: bool) -> dict[int, dict[str, Any]]:
    """By horizon: errors over what came, of what was served and of the last value, and how often the interval held it."""
    said: dict[int, list[tuple[float, float, float, bool]]] = {horizon: [] for horizon in HORIZONS}
    served: dict[int, list[str]] = {horizon: [] for horizon in HORIZONS}
    for known in range(_FIRST, len(series) - HORIZONS[0], 7):
        for row in outlook(series[:known], last, stock=stock).rows:
            if known - 1 + row.lead >= len(series) or row.lower is None or row.upper is None:
                continue
            came = float(series[known - 1 + row.lead])
            referee = float(MODELS[REFEREE](series[:known], np.array([row.lead]), stock)[0])
            said[row.horizon].append((came, abs(row.value - came), abs(referee - came), row.lower <= came <= row.upper))
            served[row.horizon].append(row.model)
    found = {}
    for horizon, rows in said.items():
        all_came, errors, referees, held = (np.array(column, float) for column in zip(*rows, strict=True))
        whole = all_came.sum()
        found[horizon] = {
            "error": errors.sum() / whole, "last value": referees.sum() / whole, "held": held.mean(),
            "served": {name: served[horizon].count(name) / len(rows) for name in sorted(set(served[horizon]))},
        }  # fmt: skip
    return found
