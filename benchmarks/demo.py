"""The demo after installation, against importing Dagster and a plain DuckDB script; every second of the difference named."""

import shutil

import duckdb

from benchmarks.measure import PROJECT, Bench, BenchmarkError, Finding, Measured, median, run

SAMPLE = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
_SHOWN = "select count(*), sum(revenue)::varchar from events where source = 'online_retail'"


def measure(bench: Bench) -> Measured:
    rounds = 1 if bench.small else 3
    command = bench.python.with_name("analytics")
    cost: dict[str, list[float]] = {"demo": [], "again": [], "dagster": [], "plain": []}
    wall: dict[str, list[float]] = {name: [] for name in cost}
    stages: dict[str, list[float]] = {}
    # A first run writes the bytecode of everything the demo imports; `make demo` is measured as it is from then on.
    warm = bench.folder("warm")
    run([command, "demo"], ANALYTICS_HOME=str(warm / "home"))
    shutil.rmtree(warm)
    for number in range(rounds):
        bench.say(f"demo: round {number + 1} of {rounds}")
        work = bench.folder("demo")
        home = work / "home"
        try:
            children = {
                "dagster": run([bench.python, "-c", "import dagster"]),
                "plain": run([bench.python, "-m", "benchmarks.plain", SAMPLE, work / "plain.duckdb"]),
                "demo": run([command, "demo"], ANALYTICS_HOME=str(home)),
                "again": run([command, "demo"], ANALYTICS_HOME=str(home)),
            }
            with duckdb.connect(str(home / "published" / "analytics.duckdb"), read_only=True) as con:
                shown = con.execute(_SHOWN).fetchall()[0]
            plain = children["plain"].last
            if shown != (plain["events"], plain["revenue"]):
                raise BenchmarkError(f"the demo shows {shown}, the plain script {plain}: they cannot be compared")
            for name, child in children.items():
                cost[name].append(child.cpu)
                wall[name].append(child.seconds)
            for name, spent in run([bench.python, "-m", "benchmarks.stages", work / "stages"]).last.items():
                stages.setdefault(name, []).append(spent)
        finally:
            shutil.rmtree(work)
    middle = {name: median(values) for name, values in cost.items()}
    parts = {name: median(values) for name, values in stages.items()}
    parts["Dagster's runs, events and progress; the summary"] = middle["demo"] - sum(parts.values())
    explained = "; ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    return Measured(
        (
            Finding("demo", middle["demo"], "CPU s"),
            Finding("demo, run again", middle["again"], "CPU s"),
            Finding("import dagster", middle["dagster"], "CPU s"),
            Finding("plain DuckDB script", middle["plain"], "CPU s"),
            Finding("demo / (import dagster + plain script)", middle["demo"] / (middle["dagster"] + middle["plain"])),
            Finding("demo, wall time", median(wall["demo"]), "s"),
        ),
        {"cpu": cost, "seconds": wall, "stages": parts},
        (
            f"Where the demo's CPU seconds go: {explained}.",
            "The plain script reads one file and keeps no promise: no rejected rows, no second load, no version, no check.",
        ),
    )
