"""Erasure: what is left of people, what it costs, what readers notice, and what becomes of one that is killed.

`python -m benchmarks.erasure erase HOME CONFIG FILE` is the process that is killed: it asks for the people of FILE (JSON) where
no request stands, goes on with what waits to its end, and prints one JSON line.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.erasure.probe import probe
from analytics_assets.events.intake import utc_now
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import REJECTED
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.ledger import Person
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS, USERS
from analytics_assets.settings import Settings
from benchmarks.generator import START, Stream, write_config
from benchmarks.measure import PROJECT, Bench, Finding, Measured, child_environment, median, run
from benchmarks.ours import cpu_seconds

_SAMPLE = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
# Customers of the sample are numbers; these are like no other number in it.
_CANARY = 7_700_000_000_000
_DECLARED = PROJECT / "analytics_assets" / "config"


def measure(bench: Bench) -> Measured:
    work = bench.folder("erasure")
    os.environ["ANALYTICS_KEYS"] = str(work / "keys")
    try:
        left, details = _canaries(bench, work)
        cost = _cost(bench, work)
        loading = _arrivals(bench, work)
        killed = _kills(bench, work)
    finally:
        shutil.rmtree(work)
    return Measured(
        (
            Finding("erasure: traces of the people of the real sample", left["erased"], "", 0),
            Finding("erasure: traces after a backup was restored", left["restored"], "", 0),
            Finding("erasure: taking out / rewriting every file once as it is", cost["ratio"], target=1.2),
            Finding("erasure: taking out / rewriting every file once, sorted", cost["ratio_sorted"]),
            Finding("erasure: loading with the people in the ledger / without", loading["ratio"]),
            Finding("erasure: publishes", cost["publishes"], "", 1),
            Finding("erasure: reader errors", cost["reader_errors"], "", 0),
            Finding("erasure: torn reads", cost["torn"], "", 0),
            Finding("erasure: killed ones that ended otherwise", killed["other"], "", 0),
        ),
        {"canaries": details, "cost": cost, "loading": loading, "kills": killed},
    )


def _refresh(pipeline: Pipeline, con: duckdb.DuckDBPyConnection) -> None:
    days = pipeline.pending(con)
    if days:
        pipeline.rebuild_sessions(con, days)
        _, result = pipeline.rebuild_marts(con, days)
        assert result.ok, result
        pipeline.rebuild_users(con)
    pipeline.publish(con, utc_now())


def _erase(pipeline: Pipeline, con: duckdb.DuckDBPyConnection, people: Sequence[Person]) -> None:
    if people:
        pipeline.erasures.ask(people, "benchmark")
    pipeline.erasures.remove(con, utc_now(), hints=people)
    _refresh(pipeline, con)


# What is left


def _canaries(bench: Bench, work: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The retail sample, with a thousand of its customers under names that nothing else looks like."""
    count = 20 if bench.small else 1_000
    home, backup, marked = work / "home", work / "backup", work / "marked.parquet"
    people = [str(_CANARY + n) for n in range(count)]
    with duckdb.connect() as con:
        con.execute(f"create table sample as from read_parquet('{_SAMPLE}')")
        column = next(name for name, *_ in con.execute("describe sample").fetchall() if name.lower().startswith("customer"))
        con.execute(
            f'create table names as select "{column}" as known, row_number() over (order by hash("{column}")) - 1 as n '
            f'from (select distinct "{column}" from sample where "{column}" is not null)'
        )
        con.execute(
            f"copy (select * exclude (known, n) replace (case when n < {count} then ({_CANARY} + n)::double "
            f'else "{column}" end as "{column}") from sample left join names on known = "{column}") '
            f"to '{marked}' (format parquet)"
        )
    bench.say(f"erasure: {count:,} people of the retail sample")
    pipeline = Pipeline(Settings(home, _DECLARED))
    with pipeline.connect() as con:
        pipeline.load(con, marked, "online_retail", None, utc_now())
        _refresh(pipeline, con)
        # The same person buys in several countries, each of which is a tenant.
        rows = con.execute(
            f"select distinct tenant_id, value from ({pipeline.pseudonyms.table.snapshot().select()})"
        ).fetchall()
        asked = [Person(tenant, "user", value) for tenant, value in rows if value in set(people)]
        texts = people + [pipeline.pseudonyms.pseudonym(one.tenant, one.id) for one in asked]
        seen = len({trace.text for trace in probe(home, texts)})
        shutil.copytree(home, backup)
        spent, started = cpu_seconds(), time.monotonic()
        _erase(pipeline, con, asked)
        spent, seconds = cpu_seconds() - spent, time.monotonic() - started
    erased = probe(home, texts)
    shutil.rmtree(home)
    shutil.move(backup, home)
    restored = Pipeline(Settings(home, _DECLARED))
    with restored.connect() as con:
        _erase(restored, con, ())
    again = probe(home, texts)
    details = {
        "people": count, "texts": len(texts), "texts_seen_before": seen, "cpu_seconds": spent, "seconds": seconds,
        "left": [vars(trace) for trace in [*erased, *again][:20]],
    }  # fmt: skip
    shutil.rmtree(home)
    return {"erased": len(erased), "restored": len(again)}, details


# What it costs


def _cost(bench: Bench, work: Path) -> dict[str, Any]:
    rows, batches, count = (20_000, 6, 50) if bench.small else (166_667, 32, 1_000)
    files = bench.files(Stream(rows, batches, in_a_row=10))
    config = write_config(_DECLARED, work / "config", pseudonyms=True)
    pipeline = Pipeline(Settings(work / "large", config))
    with pipeline.connect() as con:
        bench.say(f"erasure: loading {len(files)} batches")
        for number, path in enumerate(files):
            pipeline.load(con, path, "canonical", None, START + timedelta(hours=number + 1, minutes=1))
        _refresh(pipeline, con)
        events = pipeline.table(EVENTS).snapshot()
        chosen = con.execute(
            "select tenant_id, user_id from "
            f"(select distinct tenant_id, user_id from ({events.select()}) where user_id is not null) "
            f"order by hash(user_id) limit {count}"
        ).fetchall()
        bench.say("erasure: rewriting every file once, then erasing")
        as_it_is, sorted_anew = (_rewriting(pipeline, con, ordered=ordered) for ordered in (False, True))
        readers = [
            subprocess.Popen(
                [str(bench.python), "-m", "benchmarks.workers", "read", str(work / "large"), "60" if bench.small else "240"],
                stdout=subprocess.PIPE, cwd=PROJECT, env=child_environment(), text=True,
            )
            for _ in range(3)
        ]  # fmt: skip
        pipeline.erasures.ask([Person(tenant, "user", user) for tenant, user in chosen], "benchmark")
        people = [Person(tenant, "user", value) for tenant, value in _sent(pipeline, chosen)]
        before = cpu_seconds()
        pipeline.erasures.remove(con, utc_now(), hints=people)
        removing = cpu_seconds() - before
        shown = _version(work / "large")
        before = cpu_seconds()
        _refresh(pipeline, con)
        after = cpu_seconds() - before
        publishes = _version(work / "large") - shown
        outcomes = [json.loads(reader.communicate()[0].splitlines()[-1]) for reader in readers]
    return {
        "events": events.rows, "people": len(chosen), "rewriting_cpu_seconds": as_it_is,
        "rewriting_sorted_cpu_seconds": sorted_anew, "taking_out_cpu_seconds": removing,
        "rebuild_and_publish_cpu_seconds": after, "ratio": removing / as_it_is, "ratio_sorted": removing / sorted_anew,
        "publishes": publishes,
        "reader_errors": sum(len(one["errors"]) for one in outcomes), "torn": sum(one["torn"] for one in outcomes),
        "reads": sum(len(one["seconds"]) for one in outcomes), "errors": [one["errors"][:3] for one in outcomes],
    }  # fmt: skip


def _rewriting(pipeline: Pipeline, con: duckdb.DuckDBPyConnection, *, ordered: bool) -> float:
    """Processor seconds of reading and writing every file of events once, each for itself."""
    table, before = pipeline.table(EVENTS), cpu_seconds()
    events = table.snapshot()
    for file in events.files:
        for add in table.write(con, events.select([file]), "rewritten", ordered=ordered):
            (table.path / add.path).unlink()
    return cpu_seconds() - before


def _arrivals(bench: Bench, work: Path) -> dict[str, Any]:
    """What it costs a load to look whether a record is of somebody who was erased: two homes load each file in turns."""
    rows, count = (20_000, 50) if bench.small else (166_667, 1_000)
    config = write_config(_DECLARED, work / "config", pseudonyms=True)
    homes = {name: Pipeline(Settings(work / name, config)) for name in ("asked", "nobody")}
    homes["asked"].erasures.ask([Person("tenant-1", "user", f"gone-{n}") for n in range(count)], "benchmark")
    spent = {name: list[float]() for name in homes}
    for number, path in enumerate(bench.files(Stream(rows, 6, in_a_row=10))):
        for name, pipeline in homes.items():
            with pipeline.connect() as con:
                before = cpu_seconds()
                pipeline.load(con, path, "canonical", None, START + timedelta(hours=number + 1, minutes=1))
                spent[name].append(cpu_seconds() - before)
    ratios = [ours / theirs for ours, theirs in zip(spent["asked"], spent["nobody"], strict=True)]
    return {"people": count, "ratio": median(ratios[1:]), "ratios": ratios}


def _sent(pipeline: Pipeline, stored: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    by_tenant: dict[str, list[str]] = {}
    for tenant, user in stored:
        by_tenant.setdefault(tenant, []).append(user)
    return [(tenant, value) for tenant, ids in by_tenant.items() for value in pipeline.pseudonyms.values(tenant, ids).values()]


def _version(home: Path) -> int:
    with duckdb.connect(str(home / "published" / "analytics.duckdb"), read_only=True) as con:
        return int(con.execute("select max(version) from published_tables").fetchall()[0][0])


# Killed


def _kills(bench: Bench, work: Path) -> dict[str, Any]:
    rounds = 3 if bench.small else 50
    files = bench.files(Stream(20_000, 2, in_a_row=10))
    config = write_config(_DECLARED, work / "config-killed", pseudonyms=True)
    start, people = work / "start", work / "people.json"
    pipeline = Pipeline(Settings(start, config))
    with pipeline.connect() as con:
        for number, path in enumerate(files):
            pipeline.load(con, path, "canonical", None, START + timedelta(hours=number + 1, minutes=1))
        _refresh(pipeline, con)
        stored = con.execute(
            f"select distinct tenant_id, user_id from ({pipeline.table(EVENTS).snapshot().select()}) where user_id is not null "
            "order by hash(user_id) limit 20"
        ).fetchall()
        people.write_text(json.dumps(_sent(pipeline, stored)))
    command = [str(bench.python), "-m", "benchmarks.erasure", "erase"]
    bench.say(f"erasure: {rounds} times killed at a random moment, and begun again")

    def once(name: str, kill_after: float | None) -> dict[str, Any]:
        home, keys = work / name, work / f"{name}-keys"
        shutil.copytree(start, home)
        shutil.copytree(work / "keys", keys)
        for ledger in keys.glob("erasures-*"):
            ledger.unlink()
        environment = {**child_environment(), "ANALYTICS_KEYS": str(keys)}
        if kill_after is not None:
            child = subprocess.Popen(
                [*command, str(home), str(config), str(people)], cwd=PROJECT, env=environment, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(kill_after)
            child.kill()
            child.wait()
        last = run([*command, home, config, people], ANALYTICS_KEYS=str(keys)).last
        shutil.rmtree(home)
        shutil.rmtree(keys)
        return last

    whole = once("whole", None)
    rng = random.Random(20261122)
    ended = [once(f"killed-{n}", rng.uniform(0, whole["seconds"])) for n in range(rounds)]
    same = [{name: one[name] for name in ("tables", "receipt", "left")} for one in (whole, *ended)]
    other = [one for one in same[1:] if one != same[0]]
    return {
        "rounds": rounds,
        "other": len(other),
        "seconds_unkilled": whole["seconds"],
        "of_others": other[:3],
        "whole": same[0],
    }


def erase(home: Path, config: Path, people: Path) -> None:
    pipeline = Pipeline(Settings(home, config))
    asked = [Person(tenant, "user", value) for tenant, value in json.loads(people.read_text())]
    texts = [one.id for one in asked] + [pipeline.pseudonyms.pseudonym(one.tenant, one.id) for one in asked]
    with pipeline.connect() as con:
        # All that is imported late is imported before it can be killed, so that kills meet work.
        print(json.dumps({"ready": True}), flush=True)
        started = time.monotonic()
        new = not pipeline.erasures.ledger.requests()
        _erase(pipeline, con, asked if new else ())
        seconds = time.monotonic() - started
        tables = {}
        for spec in (EVENTS, REJECTED, SESSIONS, USERS, IDENTITIES):
            columns = ", ".join(f'"{name}"' for name in spec.column_names if name not in ("batch_id", "received_at"))
            select = (
                f"select count(*), sum(hash({columns})::hugeint)::varchar from ({pipeline.table(spec).snapshot().select()})"
            )
            tables[spec.name] = list(con.execute(select).fetchall()[0])
    (request,) = pipeline.erasures.ledger.requests()
    receipt = json.loads(pipeline.erasures.ledger.receipt_path(request.id).read_text())
    said = {name: receipt[name] for name in ("people", "found", "identifiers", "stores", "days_rebuilt")}
    print(json.dumps({"seconds": seconds, "tables": tables, "receipt": said, "left": len(probe(home, texts))}), flush=True)


if __name__ == "__main__":
    erase(*(Path(name) for name in sys.argv[2:5]))
