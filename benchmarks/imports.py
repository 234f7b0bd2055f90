"""Start: what importing the definitions costs beyond importing Dagster itself."""

from benchmarks.measure import Bench, Finding, Measured, median, run


def measure(bench: Bench) -> Measured:
    rounds = 3 if bench.small else 9
    spent: dict[str, list[float]] = {"import dagster": [], "import analytics_assets.definitions": []}
    for statement in spent:
        # The first import writes bytecode; it does not count.
        run([bench.python, "-c", statement])
    for number in range(rounds):
        bench.say(f"import: round {number + 1} of {rounds}")
        for statement, costs in spent.items():
            costs.append(run([bench.python, "-c", statement]).cpu)
    theirs, own = (median(costs) for costs in spent.values())
    return Measured((Finding("import: our definitions / dagster", own / theirs, target=1.3),), spent)
