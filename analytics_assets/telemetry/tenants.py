"""Whose work a step was that served several tenants: by the rows that each of them has in what it made.

What a step took in it has told itself, by tenant. For all others the rows count that stand in its tables on the days of its
run, when its cost is kept; for what has no rows of tenants (a publish, a sweep) their events.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import date
from pathlib import Path

import duckdb

from analytics_assets.telemetry.costs import TenantRows
from analytics_assets.telemetry.partitions import days_in
from analytics_assets.telemetry.tables import StepTelemetry
from analytics_assets.warehouse.spec import TableSpec, identifier
from analytics_assets.warehouse.table import Table

_OF_ALL = "events"
_TENANT = ("tenant_id", "tenant")


class Tenants:
    """The rows of tenants, each table counted once. `specs` are the tables of the warehouse, `declared` the tenants.

    What else stands in the place of a tenant (in a rejected record it may be anything) is nobody's.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, warehouse: Path, specs: Sequence[TableSpec], declared: Collection[str]
    ) -> None:
        self._con, self._warehouse, self._declared = con, warehouse, sorted(declared)
        self._specs = {spec.name: spec for spec in specs}
        self._counted: dict[str, dict[date | None, Counter[str]]] = {}

    def of(self, step: StepTelemetry, tables: Iterable[str]) -> TenantRows:
        """By table the rows of each tenant; nothing for a step of one tenant, of whom it is known."""
        if step.tenant:
            return {}
        if step.rows_by_tenant:
            return dict.fromkeys(tables, json.loads(step.rows_by_tenant))
        days = days_in(step.partition)
        return {table: self._rows(table, days) or self._rows(_OF_ALL, days) for table in tables}

    def _rows(self, table: str, days: tuple[date, date] | None) -> Counter[str]:
        if table not in self._counted:
            self._counted[table] = self._count(table)
        by_day = self._counted[table]
        near = [rows for day, rows in by_day.items() if days and day and days[0] <= day <= days[1]]
        return sum(near or by_day.values(), Counter[str]())

    def _count(self, table: str) -> dict[date | None, Counter[str]]:
        spec = self._specs.get(table)
        whose = next((name for name in _TENANT if spec and name in spec.column_names), None)
        # Opening a table that was never written would make it.
        if spec is None or whose is None or not (self._warehouse / table / "_delta_log").exists():
            return {}
        day = f"{identifier(spec.time_column)}::date" if spec.time_column else "null::date"
        found: dict[date | None, Counter[str]] = {}
        for when, tenant, rows in self._con.execute(
            f"select {day}, {whose}, count(*) from ({Table(self._warehouse, spec).snapshot().select()}) "
            f"where {whose} in (select unnest(?::varchar[])) group by all",
            [self._declared],
        ).fetchall():
            found.setdefault(when, Counter())[tenant] += rows
        return found
