"""The verdicts as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from analytics_assets.warehouse.spec import Column, TableSpec

Success = Literal["pass", "fail", "unknown"]

QUALITY_RESULTS = TableSpec(
    name="quality_results",
    comment="Verdicts on what is published, by table, tenant, day and expectation; each is the newest one.",
    columns=(
        Column("table", "VARCHAR", "Table that was judged."),
        Column("tenant", "VARCHAR", "Tenant, or source of a batch; empty: all that have no row of their own that day."),
        Column("partition", "DATE", "Day (UTC) judged; of batches the day of receipt, of tables without days the newest day."),
        Column("expectation", "VARCHAR", "Name of the expectation, as its list beside the table says."),
        Column("severity", "VARCHAR", "block (a failure refuses the publish) or warn."),
        Column("success", "VARCHAR", "pass, fail or unknown; unknown is neither, and says why."),
        Column("observed", "DOUBLE", "What was measured; empty where tenants share the row or nothing could be measured."),
        Column("expected", "VARCHAR", "What would have passed, in the unit of `observed`."),
        Column("reason", "VARCHAR", "The expectation in words; of an unknown, why."),
        Column("samples", "VARCHAR", "JSON list of up to three rows at fault, with all that may identify a person masked."),
        Column("version", "BIGINT", "Version of the events table that was judged."),
        Column("run", "VARCHAR", "Run that judged."),
        Column("judged_at", "TIMESTAMP", "When (UTC)."),
    ),
    time_column="partition",
    order_by=("partition", "table"),
)  # fmt: skip


@dataclass(frozen=True)
class QualityResult:
    """One verdict: a row of `quality_results`."""

    table: str
    tenant: str | None
    partition: date
    expectation: str
    severity: str
    success: Success
    observed: float | None
    expected: str
    reason: str
    samples: str | None
    version: int
    run: str
    judged_at: datetime

    def __str__(self) -> str:
        whose = f"{self.tenant or 'all tenants'}, {self.partition}"
        seen = "nothing" if self.observed is None else f"{self.observed:,.4g}"
        return f"{self.expectation} of {self.table} ({whose}): {seen} instead of {self.expected}"


def refusal(failed: Sequence[QualityResult], shown: int = 3) -> str:
    """One line that says what holds the publish, and how to go on."""
    first = "; ".join(str(result) for result in sorted(failed, key=lambda result: (result.partition, result.table))[:shown])
    more = f"; and {len(failed) - shown} more" if len(failed) > shown else ""
    return (
        f"{len(failed)} blocking {'expectation' if len(failed) == 1 else 'expectations'} failed: {first}{more}; the published "
        "version stays as it is (see quality_results; days that are right can be declared in incidents.yaml)"
    )
