"""The numbers that expectations are about: DuckDB computes them, a row a tenant and day, in one pass over each table.

Judging millions of rows one by one costs Great Expectations and memory much; judging their few sums costs neither, and
loses nothing, since every expectation is a number for each tenant and day.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb

from analytics_assets.quality.masks import CATEGORIES, masked_json
from analytics_assets.warehouse.expectation import Expectation, Suite, schema_of
from analytics_assets.warehouse.spec import identifier, literal

_SAMPLES = 3

Cell = tuple[str, date]
"""A tenant and a day."""


@dataclass(frozen=True)
class Judged:
    """A table as it is judged: SELECTs of the rows of the judged days, of the days before, and of the whole table.

    `stored` are the columns that its files have, with their types.
    """

    suite: Suite
    rows: str
    past: str
    whole: str
    stored: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.suite.table.name

    @property
    def misfits(self) -> list[str]:
        """Columns that are stored with another type than declared, or without being declared."""
        declared = {column.name: column.type for column in self.suite.table.columns}
        return [name for name, type_ in self.stored.items() if declared.get(name) != type_]


def stand(con: duckdb.DuckDBPyConnection, tables: Iterable[Judged], clean: Sequence[Cell], newest: date) -> None:
    """Make the views that expectations speak of: `judged_<table>`, `clean_<table>`, `whole_<table>`."""
    con.execute("create or replace temp table clean_days as select unnest(?::varchar[]) as tenant_id, "
                "unnest(?::date[]) as date", [[cell[0] for cell in clean], [cell[1] for cell in clean]])  # fmt: skip
    for table in tables:
        day = table.suite.day or f"date '{newest}'"
        dated = "" if day == "date" else f", {day} as date"
        con.execute(f"create or replace temp view judged_{table.name} as select *{dated} from ({table.rows})")
        con.execute(f"create or replace temp view whole_{table.name} as from ({table.whole})")
        if table.suite.day and table.suite.tenant == "tenant_id":
            con.execute(
                f"create or replace temp view clean_{table.name} as select * from (select *{dated} from ({table.past})) "
                "semi join clean_days using (tenant_id, date)"
            )


def measured(con: duckdb.DuckDBPyConnection, table: Judged) -> dict[Cell, dict[str, float | None]]:
    """Every number of a table's expectations, by tenant and day; what could not be measured is None."""
    suite = table.suite
    inside = [expected for expected in suite.expectations if expected.measure is not None]
    numbers = "".join(f", ({expected.measure})::double" for expected in inside)
    found = con.execute(f"select {suite.tenant}, date{numbers} from judged_{table.name} group by 1, 2").fetchall()
    names = [expected.name for expected in inside]
    cells: dict[Cell, dict[str, float | None]] = {
        (tenant or "", day): dict(zip(names, values, strict=True)) for tenant, day, *values in found
    }
    for expected in suite.expectations:
        if expected.query is not None:
            for tenant, day, value in con.execute(f"select tenant_id, date, value from ({expected.query})").fetchall():
                # Accounting may find a tenant that this table has lost.
                cells.setdefault((tenant or "", day), {})[expected.name] = value
    for values in cells.values():
        values[schema_of(suite).name] = float(len(table.misfits))
    return cells


def samples(con: duckdb.DuckDBPyConnection, table: Judged, expected: Expectation, cell: Cell) -> str | None:
    """Up to three rows at fault, masked, as JSON; None where no condition names them."""
    if expected.wrong is None:
        return None
    tenant, day = cell
    rows = con.execute(
        f"with judged as (select * from judged_{table.name} where {table.suite.tenant} = {literal(tenant)} "
        f"and date = date '{day}') select * from judged where {expected.wrong} limit {_SAMPLES}"
    )
    names = [column[0] for column in rows.description]
    found = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
    asked = " ".join(filter(None, (expected.wrong, expected.measure, expected.query)))
    about = {name for name in names if re.search(rf"\b{name}\b", asked)}
    return masked_json(found, {name: _known(con, table, name, found, tenant) for name in CATEGORIES}, about)


def _known(
    con: duckdb.DuckDBPyConnection, table: Judged, column: str, rows: Sequence[Mapping[str, Any]], tenant: str
) -> set[str]:
    """Which of the values that rows have in a column the tenant's clean days have too."""
    values = sorted({row[column] for row in rows if row.get(column) is not None})
    if not values or not (table.suite.day and table.suite.tenant == "tenant_id"):
        return set()
    query = f"select distinct {column} from clean_{table.name} where tenant_id = ? and {column} in (select unnest(?))"
    return {value for (value,) in con.execute(query, [tenant, values]).fetchall()}


def drop(con: duckdb.DuckDBPyConnection, tables: Iterable[Judged]) -> None:
    """Remove what `stand` made: a view would keep naming files that a later version does not have."""
    for table in tables:
        for kind in ("judged", "clean", "whole"):
            con.execute(f"drop view if exists {identifier(f'{kind}_{table.name}')}")
    con.execute("drop table if exists clean_days")
