"""`benchmarks.tuning` on a folder: nothing goes by names, units or order."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analytics_assets.settings import UserError
from analytics_assets.tuning.series import HOUR
from analytics_assets_tests.tuning.loads import a_load
from benchmarks.forecasting import smape
from benchmarks.traces import read
from benchmarks.tuning import main


def a_folder(folder: Path, name: str = "shop", columns: str = "date,messages", unit: float = 1.0) -> Path:
    """Three and a half weeks at an hour, and forecasts of the last day: one of the truth plus a tenth, one of half of it."""
    load = a_load(weeks=4, step=HOUR).before(590)
    rows = [f"{load.time(at):%Y-%m-%d %H:%M:%S},{value * unit}" for at, value in enumerate(load.values)]
    (folder / "published").mkdir(parents=True)
    (folder / f"{name}.csv").write_text("\n".join([columns, *rows]) + "\n")
    beside = [
        f"{load.time(at):%Y-%m-%d %H:%M:%S},{value * unit},{1.1 * value * unit},{0.5 * value * unit}"
        for at, value in enumerate(load.values)
        if at >= 566
    ]
    (folder / "published" / f"p_{name}.csv").write_text("\n".join(["when,t,tenth,half", *beside]) + "\n")
    return folder


def test_other_names_and_units_give_the_same_figures(tmp_path: Path) -> None:
    written = []
    for folder in (a_folder(tmp_path / "one"), a_folder(tmp_path / "two", "x1", "stamp,n", unit=1e-3)):
        result = CliRunner().invoke(main, ["forecast", "--data", str(folder), "--json", str(folder / "out.json")])
        assert result.exit_code == 0, result.output
        written.append(json.loads((folder / "out.json").read_text())["forecast"])
    one, two = ([finding["measured"] for finding in each["findings"]] for each in written)
    assert two == pytest.approx(one, rel=1e-6)
    assert written[0]["details"]["published"]["shop"]["tenth"] == pytest.approx(200 * 0.1 / 2.1)
    beaten = next(finding for finding in written[0]["findings"] if "ours, 8 h ahead" in finding["what"])
    assert (beaten["target"], beaten["verdict"]) == (pytest.approx(200 * 0.1 / 2.1), "met")


def test_a_text_column_tells_series_apart(tmp_path: Path) -> None:
    rows = [
        f"2026-03-{day:02} {hour:02}:00:00,{shop},{hour}"
        for shop, days in (("north", 16), ("south", 17), ("new", 5))
        for day in range(1, days + 1)
        for hour in range(24)
    ]
    (tmp_path / "shops.csv").write_text("\n".join(["at,shop,orders", *reversed(rows)]) + "\n")
    series, published, left_out = read(tmp_path, HOUR)
    assert [(one.name, len(one.values)) for one in series] == [("shops north", 384), ("shops south", 408)]
    assert published == []
    assert left_out == ["shops new is left out: it is shorter than 16 days, of which 14 are history"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no folder"),
        ("a,b\n1,2\n", "has no column of times"),
        (
            "a,b\n2026-03-02 00:00:00,1\n2026-03-02 00:05:00,1\n2026-03-02 00:10:00,1\n",
            r"no series with a step of 1:00:00 \(steps found: 0:05:00\)",
        ),
        ("a,b\n2026-03-02 00:00:00,1\n2026-03-02 01:00:00,-1\n2026-03-02 02:00:00,1\n", "a load is negative"),
    ],
)  # fmt: skip
def test_a_folder_of_something_else_is_refused_in_a_sentence(tmp_path: Path, content: str | None, said: str) -> None:
    if content:
        (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        read(tmp_path if content else tmp_path / "nowhere", HOUR)


def test_what_is_missed_of_nothing_is_nothing() -> None:
    assert smape(np.array([0.0, 10.0]), np.array([0.0, 10.0])) == 0.0
    assert smape(np.array([0.0]), np.array([5.0])) == 200.0
