"""What steps took and how they ended, as text that Prometheus reads (its text exposition format, version 0.0.4).

Sums over all that `step_telemetry` and `unit_costs` hold, so that they only grow, as a counter must; retention of these tables
would make them begin anew, which Prometheus takes for a restart.
"""

from collections.abc import Iterator, Mapping, Sequence

import duckdb

_STEP = ("job", "step")
_ENDS = (*_STEP, "outcome")


def exposition(con: duckdb.DuckDBPyConnection, steps: str, costs: str) -> str:
    """The whole text; `steps` and `costs` are SELECTs of the two tables."""
    lines: list[str] = []

    def add(name: str, kind: str, told: str, labels: Sequence[str], query: str) -> None:
        rows = con.execute(query).fetchall()
        lines.extend(_metric(name, kind, told, [(dict(zip(labels, row[:-1], strict=True)), row[-1]) for row in rows]))

    def of_steps(value: str, by: Sequence[str] = _STEP) -> str:
        return f"select {', '.join(by)}, {value} as value from ({steps}) group by all having value is not null order by all"

    add(
        "analytics_step_attempts_total", "counter", "Attempts of a step, by how they ended.", _ENDS, of_steps("count(*)", _ENDS)
    )
    for name, column, told in (
        ("duration_seconds_total", "wall_seconds", "Seconds that the attempts of a step took."),
        ("cpu_seconds_total", "cpu_seconds", "Processor seconds that the attempts of a step took."),
        ("read_bytes_total", "bytes_read", "Bytes that the process read meanwhile, also from the page cache."),
        ("written_bytes_total", "bytes_written", "Bytes that the process wrote meanwhile."),
        ("rows_written_total", "rows_written", "Rows that the attempts of a step wrote to tables."),
    ):
        add(f"analytics_step_{name}", "counter", told, _STEP, of_steps(f"sum({column})"))
    for name, value, told in (
        (
            "peak_memory_bytes",
            "arg_max(peak_memory_bytes, started_at)",
            "Most memory of the process in the newest attempt that was measured.",
        ),
        (
            "last_success_timestamp_seconds",
            "epoch(max(started_at) filter (outcome = 'success'))",
            "When the newest attempt that succeeded began.",
        ),
    ):
        add(f"analytics_step_{name}", "gauge", told, _STEP, of_steps(value))
    of_steps_alone = "coalesce(unit, 'step') = 'step'"
    priced = f"select job, step, currency, basis, sum(cost) from ({costs}) where {of_steps_alone} group by all order by all"
    told = "What the attempts of a step cost, at the declared prices."
    add("analytics_step_cost_total", "counter", told, (*_STEP, "currency", "basis"), priced)
    return "".join(f"{line}\n" for line in lines)


def _metric(name: str, kind: str, told: str, samples: Sequence[tuple[Mapping[str, object], object]]) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(str(text))}"' for label, text in labels.items())
        yield f"{name}{{{shown}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
