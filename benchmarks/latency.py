"""From a dropped file to readers: 50 files, one after another, into a running `analytics dev` beside a backfill; then 20 alone.

The data home holds the whole retail sample. A file of some lines of today is dropped, and the published DuckDB is opened as
an analyst opens it until it shows them; after a random pause the next one follows. The backfill is a year of every daily
table, asked for as the UI does, and asked for again as soon as it is done. `time_to_insight` tells where the time went.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb

from analytics_assets.defs.instance import worker_is_here
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import current_path
from benchmarks.measure import PROJECT, Bench, BenchmarkError, Finding, Measured, child_environment, median, p95, run

TARGET_SECONDS = 30.0
LINES = 20
SEED = 20261122
_YEAR = [(date(2010, 12, 1) + timedelta(days=n)).isoformat() for n in range(374)]
_ASSETS = (
    "sessions", "page_views", "runaway_sessions", "stg_events", "stg_sessions", "events_hourly", "events_daily",
    "properties_daily", "revenue_daily", "funnel_daily", "cohort_retention_weekly", "quality_results", "consent_status",
)  # fmt: skip
_STAGES = ("received", "queued", "processed", "published")
# Nothing here takes so long unless it is broken.
_PATIENCE = 300.0


def measure(bench: Bench) -> Measured:
    drops, fewer = (5, 3) if bench.small else (50, 20)
    work = bench.folder("latency")
    home = Home(work / "home")
    try:
        bench.say("latency: loading the retail sample")
        run([bench.python, "-m", "analytics_assets.cli", "demo"], ANALYTICS_HOME=str(home.root))
        with _development(bench, home) as port:
            random_pauses = random.Random(SEED)
            bench.say("latency: a first file, which is not counted")
            _dropped(home, 0)
            bench.say(f"latency: {drops} files beside a backfill of {len(_YEAR)} days")
            with _backfilled(port) as backfill:
                beside = _drops(home, range(1, drops + 1), random_pauses)
            bench.say(f"latency: {fewer} files alone")
            alone = _drops(home, range(drops + 1, drops + fewer + 1), random_pauses)
        split = {"alone": _split(home, alone), "beside": _split(home, beside)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = {"alone": list(alone.values()), "beside": list(beside.values())}
    return Measured(
        (
            Finding("latency: file to readers, p95, a year's backfill beside", p95(seconds["beside"]), "s", TARGET_SECONDS),
            Finding("latency: the same, p50", median(seconds["beside"]), "s"),
            Finding("latency: the same, longest", max(seconds["beside"]), "s"),
            Finding("latency: file to readers, p95, alone", p95(seconds["alone"]), "s", TARGET_SECONDS),
            Finding("latency: the same, p50", median(seconds["alone"]), "s"),
            Finding("latency: backfills of a year done meanwhile", backfill.done, ""),
        ),
        {"seconds": seconds, "split": split, "backfill_seconds": backfill.seconds, "load": os.getloadavg()},
        (
            *(f"{name}, p50 and p95 of each stage: {_told(rows)}." for name, rows in split.items()),
            f"Seconds of each backfill: {', '.join(f'{took:.0f}' for took in backfill.seconds) or 'none was done'}; "
            f"load of the machine at the end {os.getloadavg()[0]:.1f}.",
        ),
    )


@contextmanager
def _development(bench: Bench, home: Home) -> Iterator[int]:
    """A real `analytics dev` on the data home, whose worker is at work; gives the port of the UI."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [str(bench.python), "-m", "analytics_assets.cli", "dev", "--port", str(port)]
    with (home.root / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env={**child_environment(), "ANALYTICS_HOME": str(home.root)}, stdout=log, stderr=log
        )
        try:
            until = time.monotonic() + _PATIENCE
            while not (worker_is_here(home) and _answers(port)):
                if process.poll() is not None or time.monotonic() > until:
                    words = (home.root / "dev.log").read_text(errors="replace").strip().splitlines()[-3:]
                    raise BenchmarkError(f"`analytics dev` did not start: {' | '.join(words)}")
                time.sleep(0.5)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _drops(home: Home, numbers: Sequence[int], pauses: random.Random) -> dict[str, float]:
    """Drop a file for each number when the one before is seen, after a pause; returns seconds by file."""
    found = {}
    for number in numbers:
        time.sleep(pauses.uniform(0, 5))
        name, seconds = _dropped(home, number)
        found[name] = seconds
    return found


def _dropped(home: Home, number: int) -> tuple[str, float]:
    """Drop a file of today's lines and wait until readers see all of them."""
    invoice = f"9{number:05d}"
    moment = datetime.now(UTC).replace(tzinfo=None)
    lines = [
        f"{invoice},8512{line:02d},LIGHT HOLDER,{line + 1},{moment:%Y-%m-%d %H:%M:%S},2.55,17850,United Kingdom"
        for line in range(LINES)
    ]
    folder = home.landing / "united-kingdom"
    folder.mkdir(exist_ok=True)
    whole = "\n".join(["InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country", *lines])
    (folder / f"{invoice}.csv.part").write_text(whole + "\n", encoding="utf-8")
    (folder / f"{invoice}.csv.part").rename(folder / f"{invoice}.csv")
    began, looked_at = time.monotonic(), 0
    while True:
        version = current_path(home).stat().st_ino
        if version != looked_at and _seen(home, invoice, moment):
            return f"{invoice}.csv", time.monotonic() - began
        looked_at = version
        if time.monotonic() - began > _PATIENCE:
            raise BenchmarkError(f"{invoice}.csv was not seen within {_PATIENCE:.0f} s")
        time.sleep(0.1)


def _seen(home: Home, invoice: str, moment: datetime) -> bool:
    with duckdb.connect(str(current_path(home)), read_only=True) as con:
        asked = "select count(*) from events where timestamp > ?::timestamp - interval 1 day and order_id = ?"
        rows: int = con.execute(asked, [moment, invoice]).fetchall()[0][0]
    return rows == LINES


def _split(home: Home, files: dict[str, float]) -> list[dict[str, float]]:
    """What `time_to_insight` says of these files, and what an analyst saw."""
    columns = ", ".join(f"{stage}_seconds::double" for stage in (*_STAGES, "total"))
    with duckdb.connect(str(current_path(home)), read_only=True) as con:
        rows = con.execute(f"select file, {columns} from time_to_insight where file in (select unnest(?))", [list(files)])
        told = {name: dict(zip((*_STAGES, "total"), parts, strict=True)) for name, *parts in rows.fetchall()}
    if told.keys() != files.keys():
        raise BenchmarkError(f"time_to_insight knows {len(told)} of {len(files)} files")
    return [{**told[name], "seen": seconds} for name, seconds in files.items()]


def _told(rows: Sequence[dict[str, float]]) -> str:
    parts = ((stage, [row[stage] for row in rows]) for stage in (*_STAGES, "total", "seen"))
    return "; ".join(f"{stage} {median(values):.1f}, {p95(values):.1f}" for stage, values in parts)


@dataclass
class _Backfill:
    """Backfills of the year, one after another."""

    port: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)
    error: str | None = None

    def keep_busy(self, enough: threading.Event) -> None:
        try:
            while not enough.is_set():
                began, name = time.monotonic(), self._launch()
                while (state := self._state(name)) in ("REQUESTED", "COMPLETED_SUCCESS_PENDING", "CANCELING"):
                    if enough.wait(1):
                        return
                if state not in ("COMPLETED", "COMPLETED_SUCCESS"):
                    raise BenchmarkError(f"the backfill {name} ended as {state}")
                self.done += 1
                self.seconds.append(time.monotonic() - began)
        except Exception as error:  # the measurement tells it when it looks
            self.error = str(error)

    def _launch(self) -> str:
        parameters = {
            "assetSelection": [{"path": [name]} for name in _ASSETS], "partitionNames": _YEAR, "title": "latency",
            "tags": [{"key": "analytics/override", "value": "measured beside small deliveries"}],
        }  # fmt: skip
        mutation = (
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename "
            "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"
        )
        answer = self._ask(mutation, {"p": parameters})["launchPartitionBackfill"]
        if "backfillId" not in answer:
            raise BenchmarkError(f"the backfill was not taken: {answer}")
        return str(answer["backfillId"])

    def _state(self, name: str) -> str:
        query = "query($b: String!) { partitionBackfillOrError(backfillId: $b) { ... on PartitionBackfill { status } } }"
        return str(self._ask(query, {"b": name})["partitionBackfillOrError"]["status"])

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        if "errors" in answer:
            raise BenchmarkError(f"the UI answers: {answer['errors'][0]['message']}")
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def _backfilled(port: int) -> Iterator[_Backfill]:
    backfill, enough = _Backfill(port), threading.Event()
    busy = threading.Thread(target=backfill.keep_busy, args=(enough,))
    busy.start()
    try:
        yield backfill
        if backfill.error:
            raise BenchmarkError(backfill.error)
    finally:
        enough.set()
        busy.join()
