"""The detector of personal data: recall and precision on the labelled values, and megabytes a second of one core.

The texts are properties as senders write them, with and without anything to find; what judging a day costs more with the search
is measured on the generated stream.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import duckdb

from analytics_assets.labelling import search_days
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.detector import KINDS, install
from analytics_assets.quality.judge import warm_up
from analytics_assets.settings import Settings
from benchmarks.generator import START, Stream
from benchmarks.measure import PROJECT, Bench, Finding, Measured, median

LABELLED = PROJECT / "analytics_assets_tests" / "privacy" / "labelled_values.tsv"


@dataclass(frozen=True)
class Value:
    """A labelled value. `part` is tuned or held_out, `origin` made, hand or sample, `kind` one of KINDS or none."""

    part: str
    origin: str
    kind: str
    family: str
    value: str


@dataclass(frozen=True)
class Score:
    """`right`: found as what it is. `wrong`: found as what it is not. `missed`: not found."""

    right: int
    wrong: int
    missed: int

    @property
    def recall(self) -> float:
        return self.right / (self.right + self.missed)

    @property
    def precision(self) -> float:
        return self.right / (self.right + self.wrong)


def labelled_values(path: Path = LABELLED) -> list[Value]:
    """The values of the file, without its opening remarks."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Value(*line.split("\t")) for line in lines if line and not line.startswith("# ")]


def scores(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], Score]:
    """(part, kind or `all`) -> how the detector does on its values."""
    values = labelled_values()
    found = found_in(con, [one.value for one in values])
    counts: dict[tuple[str, str], list[int]] = {}
    for one, kinds in zip(values, found, strict=True):
        for kind in KINDS:
            place = 0 if kind == one.kind and kind in kinds else 1 if kind in kinds else 2 if kind == one.kind else None
            if place is not None:
                for key in ((one.part, kind), (one.part, "all")):
                    counts.setdefault(key, [0, 0, 0])[place] += 1
    return {key: Score(*numbers) for key, numbers in counts.items()}


# Texts of an event as senders write them: properties of a shop, a context of a browser, and one that names somebody. #n is a
# number that grows by one, #m one of up to three digits, #id a digest.
_TEXTS = {
    "properties": '{"path":"/products/1#m","referrer":"https://www.example.com/#m","position":#m,"price":#m.95,"variant":"red",'
    '"list":"recommended","sku":"85#mA","order_id":"45#n","experiment":"checkout-3"}',
    "context": '{"userAgent":"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) '
    'Chrome/122.0.6#m.94 Safari/537.36","page":{"url":"https://shop.example.com/c/#m?gclid=#id"},"screen":{"width":1920,"height":1080},'
    '"at":"2026-03-10T12:00:59.#mZ","ts":1710#n,"locale":"de-DE","library":{"name":"analytics.js","version":"2.11.1"},'
    '"ip":"192.168.178.1","request":"#id"}',
    "named": '{"q":"write to anna#m@example.com or call 030 23125 #m"}',
}


def measure(bench: Bench) -> Measured:
    rows = 100_000 if bench.small else 1_000_000
    with duckdb.connect(config={"threads": 1}) as con:
        install(con)
        found = scores(con)
        speeds = {name: _speed(con, text, rows) for name, text in _TEXTS.items()}
    search, judged = _day(bench, 20_000 if bench.small else 50_000)
    targets: dict[str, tuple[float, Literal["at least"]]] = {"recall": (0.95, "at least"), "precision": (0.9, "at least")}
    findings = [
        Finding(f"detector: {name} of {'all kinds' if kind == 'all' else kind}, {part.replace('_', ' ')}",
                getattr(found[part, kind], name), "", *(targets[name] if kind == "all" else ()))
        for part in ("tuned", "held_out") for kind in ("all", *KINDS) for name in targets
    ]  # fmt: skip
    findings += [
        Finding("detector: properties read, nothing to find", speeds["properties"][0], "MB/s", 100, "at least"),
        Finding("detector: contexts read, nothing to find", speeds["context"][0], "MB/s", 100, "at least"),
        Finding("detector: texts that all hold something, both steps", speeds["named"][1], "MB/s"),
        Finding("detector: search of a day / judging it, CPU", search / judged),
    ]
    values = labelled_values()
    missed = Counter(
        f"{one.part}: {one.kind}, {one.family}"
        for one, kinds in zip(values, _found(values), strict=True) if one.kind != "none" and one.kind not in kinds
    )  # fmt: skip
    return Measured(
        tuple(findings),
        {"speeds": speeds, "search_seconds": search, "judging_seconds": judged, "missed": missed, "values": len(values)},
        (f"{len(values):,} labelled values; missed most: "
         + "; ".join(f"{family} ({count})" for family, count in missed.most_common(5)),),
    )  # fmt: skip


def _found(values: Sequence[Value]) -> list[set[str]]:
    with duckdb.connect(config={"threads": 1}) as con:
        install(con)
        return found_in(con, [one.value for one in values])


def _speed(con: duckdb.DuckDBPyConnection, text: str, rows: int) -> tuple[float, float]:
    """Megabytes a CPU second of the first step, and of both."""
    con.execute(
        "create or replace temp table texts as select replace(replace(replace(?, '#id', md5(n::varchar)), '#m', "
        "(100 + n % 900)::varchar), '#n', (n + 100000000)::varchar) as t from range(?) as r(n)",
        [text, rows],
    )
    size = con.execute("select sum(strlen(t)) from texts").fetchall()[0][0] / 1e6
    one = "select count(*) from texts where may_identify(t)"
    two = "create or replace temp table suspects as select t from texts where may_identify(t); "
    first, both = (
        median([_cpu(con, query) for _ in range(3)])
        for query in (one, two + "select count(*) from suspects where len(personal_kinds(t)) > 0")
    )
    return size / first, size / both


def _cpu(con: duckdb.DuckDBPyConnection, query: str) -> float:
    began = time.process_time()
    con.execute(query).fetchall()
    return time.process_time() - began


def _day(bench: Bench, rows: int) -> tuple[float, float]:
    """CPU seconds of the search of a generated day, and of judging it without the search."""
    home = bench.folder("detector")
    try:
        bench.ours(home, bench.files(Stream(rows, 24)), hours=6)
        pipeline = Pipeline(Settings(home, bench.config))
        now, day = START + timedelta(days=3), START.date()
        with pipeline.connect() as con:
            pipeline.rebuild_sessions(con, [day])
            pipeline.rebuild_marts(con, [day])
            pipeline.rebuild_users(con)
            warm_up()
            version = pipeline.built_version()
            began = time.process_time()
            search_days(con, pipeline.settings, pipeline.specs, pipeline.table, [day], version)
            searched = time.process_time()
            pipeline.gate.judge(con, [day], now, version, "benchmark")
            return searched - began, time.process_time() - searched
    finally:
        shutil.rmtree(home)


def found_in(con: duckdb.DuckDBPyConnection, texts: Sequence[str]) -> list[set[str]]:
    """What both steps find in each text."""
    found = con.execute(
        "select case when may_identify(t) then personal_kinds(t) else [] end "
        "from (select unnest(?::varchar[]) as t, unnest(range(?)) as n) order by n",
        [list(texts), len(texts)],
    ).fetchall()
    return [set(kinds) for (kinds,) in found]
