"""What must hold of a table, in words and SQL: the lists `expectations.py` beside the tables, judged by `quality/`.

Every expectation is a number for each tenant and day, and what that number may be. Light: nothing here reads or judges.
"""

from dataclasses import dataclass
from typing import Literal

from analytics_assets.warehouse.spec import TableSpec

Severity = Literal["block", "warn"]


@dataclass(frozen=True)
class Expectation:
    """A number a tenant and day that must lie from `low` to `high` (None: no bound).

    `measure` is an SQL aggregate over the judged rows of the table. `query` instead is a SELECT of (tenant_id, date, value)
    over `judged_<table>`, the days that are judged, and `clean_<table>`, the days before them that passed; a tenant and day
    that it does not name is unknown. A failed `block` refuses the publish. `wrong` is the condition of a row at fault, for
    samples; `judged` in it are the rows of the tenant and day. Sums have no row that is at fault. `names` instead is a
    SELECT of (tenant_id, date, ...) that says in our own words what is. `always`: it holds of any rows, however few they are.
    """

    name: str
    says: str
    measure: str | None = None
    query: str | None = None
    low: float | None = None
    high: float | None = 0
    severity: Severity = "block"
    wrong: str | None = None
    names: str | None = None
    whole_day: bool = False
    always: bool = False


@dataclass(frozen=True)
class Usual(Expectation):
    """A number that must be about what it was on clean days before: the same weekday, or (`weekday=False`) any day.

    Usual is the median of those days, give or take `spreads` times their median deviation, and never less than
    `tolerance`: a factor where `ratio`, else a difference. `sides`: which way a deviation counts. Where the median is under
    `least`, or too few days are known, the answer is unknown. `absent_is_zero`: a tenant without rows is judged as zero.
    """

    weekday: bool = False
    ratio: bool = False
    tolerance: float = 0.1
    spreads: float = 5.0
    sides: Literal["both", "up"] = "both"
    least: float | None = None
    absent_is_zero: bool = False


@dataclass(frozen=True)
class Suite:
    """All that is expected of one table. `day` is the SQL of a row's day; None judges the table as a whole."""

    table: TableSpec
    expectations: tuple[Expectation, ...]
    day: str | None = "date"
    tenant: str = "tenant_id"


def no_row(name: str, says: str, wrong: str, severity: Severity = "block") -> Expectation:
    """No row may meet the condition `wrong`."""
    return Expectation(name, says, f"count(*) filter ({wrong})", severity=severity, wrong=wrong, always=True)


def one_row_per(name: str, says: str, *columns: str) -> Expectation:
    """No two rows share these columns; a missing value equals a missing value."""
    key = columns[0] if len(columns) == 1 else f"({', '.join(columns)})"
    wrong = f"{key} in (select {key} from judged group by all having count(*) > 1)"
    return Expectation(name, says, f"count(*) - count(distinct {key})", wrong=wrong, always=True)


def agrees(name: str, says: str, table: str, ours: str, other: str, theirs: str) -> Expectation:
    """By tenant and day, `ours` over the rows of `table` equals `theirs` over those of `other`."""
    return Expectation(
        name,
        says,
        query=f"""
            select tenant_id, date, abs(coalesce(a.value, 0) - coalesce(b.value, 0))::double as value
            from (select tenant_id, date, {ours} as value from judged_{table} group by all) a
            full join (select tenant_id, date, {theirs} as value from judged_{other} group by all) b using (tenant_id, date)
        """,
        always=True,
    )


def found_in(name: str, says: str, table: str, columns: str, other: str, where: str = "true") -> Expectation:
    """Every row of `table` has its partner in the whole table `other` by `columns` (names that both have)."""
    return Expectation(
        name,
        says,
        query=f"""
            select tenant_id, date, (count(*) filter (not exists_there))::double as value
            from (select tenant_id, date, ({columns}) in (select ({columns}) from whole_{other}) as exists_there
                  from judged_{table} where {where})
            group by all
        """,
        wrong=f"{where} and ({columns}) not in (select ({columns}) from whole_{other})",
        always=True,
    )


def expectations_of(suite: Suite) -> tuple[Expectation, ...]:
    """All that is expected of a table, its schema first."""
    return (schema_of(suite), *suite.expectations)


def schema_of(suite: Suite) -> Expectation:
    """Every table's own expectation: what is stored is what is declared."""
    return Expectation(f"{suite.table.name}_schema", "Every stored column is declared, with its type.", always=True)
