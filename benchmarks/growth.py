"""Growth: what an hourly batch costs after 200 hours against 40, with late rows of up to 30 hours and a growing history."""

from benchmarks.measure import Bench, Finding, Measured, median
from benchmarks.stream import hourly


def measure(bench: Bench) -> Measured:
    loaded = hourly(bench)
    cpu = [line["cpu"] for line in loaded.child.lines[:-1]]
    # The late rows of a batch meet 30 hours: before batch 31 a batch has less to compare with, and proves nothing.
    early, late = (cpu[-20:-10], cpu[-10:]) if bench.small else (cpu[35:46], cpu[195:206])
    return Measured(
        (Finding("growth: batch 200 / batch 40", median(late) / median(early), target=1.10),),
        {"cpu": cpu, "rows_a_batch": loaded.stream.rows},
        ("Medians of batches 35 to 45 and 195 to 205." if not bench.small else "Small scale: the last 20 batches, halved.",),
    )
