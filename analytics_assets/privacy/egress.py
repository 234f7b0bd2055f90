"""The one way out for what is computed from people's rows: exports today, calls of models later.

It takes no SQL. A request names measures, dimensions, values of dimensions and a range of days, all of them declared. The role
and the tenant are looked up before a row is read, and then only rows of that tenant are. An answer is a sum over whole blocks
of one fixed partition of these rows; `suppress` says why no group of fewer than k people gets out, and what is not protected.
A request chooses blocks by what they tell: a block whose day is masked is in no range of days, and one whose region is masked
in no region. The lines of an answer are in the order of their own values.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

import duckdb

from analytics_assets.privacy.rare import MASKED, common_values
from analytics_assets.privacy.roles import SUMMED, Dimension, MeasureName, NotPermitted, Role, Roles
from analytics_assets.privacy.suppress import BLOCKS, partition
from analytics_assets.warehouse.home import replace_file
from analytics_assets.warehouse.spec import identifier, literal

Format = Literal["csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
# How a line of an answer says that the rows have no value; of a group that is too small it says MASKED.
NONE = "(none)"
MASKED_GROUPS = "masked_groups"
_TYPES: Mapping[str, str] = {"people_per_group": "BIGINT", **{one.name: one.type for one in SUMMED}}


@dataclass(frozen=True)
class Request:
    """What is asked: `measures` by dimensions, where dimensions have one of these values, from `first` to `last` (days, UTC).

    Revenue is always by currency too.
    """

    measures: tuple[MeasureName, ...]
    by: tuple[Dimension, ...] = ()
    where: Mapping[Dimension, Sequence[str]] = field(default_factory=dict)
    first: date | None = None
    last: date | None = None

    @property
    def groups(self) -> tuple[Dimension, ...]:
        of_money: tuple[Dimension, ...] = ("currency",) if "revenue" in self.measures else ()
        return tuple(dict.fromkeys((*self.by, *of_money)))


@dataclass(frozen=True)
class Answer:
    """Lines of dimensions (texts), measures (None: masked), and how many groups of the line have a masked measure."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Egress:
    """Answers from one version of the events. Holds a partition for each tenant that was asked about, on its own connection.

    `rows` gives a SELECT of one tenant's rows, as `suppress.partition` wants them; `version` is the published one they are of.
    `texts` gives one of the texts in the tenant's events, with `person`.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, roles: Roles, rows: Callable[[str], str], version: int | None = None,
        texts: Callable[[str], str] | None = None,
    ) -> None:  # fmt: skip
        self._con, self._roles, self._rows, self.version, self._texts = con.cursor(), roles, rows, version, texts
        self._partitions: dict[str, str] = {}

    def answer(self, role: str, tenant: str, request: Request) -> Answer:
        """Raises NotPermitted before anything is read."""
        permitted = self._roles.role(role, tenant)
        _confirm(role, permitted, request)
        blocks = self._blocks(tenant)
        groups = [f"{_shown(name)} as {identifier(name)}" for name in request.groups]
        sums = [f"sum({name})::{_TYPES[name]} as {name}" for name in request.measures]
        masked = " or ".join(f"{name} is null" for name in request.measures)
        chosen, values = _chosen(permitted, request)
        places = ", ".join(str(n + 1) for n in range(len(groups)))
        found = self._con.execute(
            f"select {', '.join([*groups, *sums])}, count(*) filter (where {masked}) from {blocks} as block where {chosen} "
            # Without groups a sum of nothing is a line too; there is none where no block is.
            + (f"group by {places} order by {places}" if groups else "having count(*) > 0"),
            values,
        ).fetchall()
        return Answer((*request.groups, *request.measures, MASKED_GROUPS), found)

    def everything(self, role: str, tenant: str) -> Answer:
        """All that a role may ask about a tenant, at its finest. Raises NotPermitted."""
        permitted = self._roles.role(role, tenant)
        return self.answer(role, tenant, Request(permitted.measures, permitted.dimensions))

    def common(self, role: str, tenant: str, columns: Sequence[str]) -> dict[str, list[str]]:
        """The texts of these columns of events that at least k of a tenant's people have, in the rows that the role gets."""
        permitted = self._roles.role(role, tenant)
        if not columns:
            return {}
        if self._texts is None:
            raise ValueError("nobody said where texts are read")
        rows = f"select * from ({self._texts(tenant)}) where {rows_of(permitted)}"
        return common_values(self._con, rows, columns, self._roles.egress.k)

    def _blocks(self, tenant: str) -> str:
        """The name of the table of a tenant's blocks."""
        if tenant not in self._partitions:
            rules, name = self._roles.egress, f"{BLOCKS}_{len(self._partitions)}"
            partition(self._con, self._rows(tenant), rules.levels, SUMMED, rules.k)
            if "currency" in rules.levels:
                # Nobody can tell what it is a sum of.
                self._con.execute(f"update {BLOCKS} set revenue = null where currency is null")
            self._con.execute(f"alter table {BLOCKS} rename to {name}")
            self._partitions[tenant] = name
        return self._partitions[tenant]


def rows_of(role: Role) -> str:
    """The condition of the rows that a role gets of a table with the columns that choose them."""
    conditions = ["true"]
    for column, values in role.rows.items():
        named = ("" if value == NONE else value for value in values)
        conditions.append(f"coalesce({identifier(column)}, '') in ({', '.join(map(literal, named))})")
    return " and ".join(conditions)


def type_of(column: str) -> str:
    """DuckDB's type of a column of an answer."""
    return "BIGINT" if column == MASKED_GROUPS else _TYPES.get(column, "VARCHAR")


def _confirm(name: str, role: Role, request: Request) -> None:
    if not request.measures:
        raise NotPermitted("name at least one measure")
    for measure in request.measures:
        if measure not in role.measures:
            may = ", ".join(role.measures) or "no measure"
            raise NotPermitted(f"role '{name}' may not ask for '{measure}'; it may ask for {may}")
    for dimension in (*request.by, *request.where):
        if dimension not in role.dimensions:
            may = ", ".join(role.dimensions) or "no dimension"
            raise NotPermitted(f"role '{name}' may not ask by '{dimension}'; it may ask by {may}")
    if (request.first or request.last) and "day" not in role.dimensions:
        raise NotPermitted(f"role '{name}' may not ask by day, and so not between days")


def _shown(dimension: str) -> str:
    name = f"block.{identifier(dimension)}"
    return f"case when {name} is null then {literal(MASKED)} when {name} = '' then {literal(NONE)} else {name} end"


def _chosen(role: Role, request: Request) -> tuple[str, list[Any]]:
    """The condition that chooses blocks, by what they tell, and its parameters."""
    conditions, values = ["true"], list[Any]()
    for wanted in (role.rows, request.where):
        for dimension, named in wanted.items():
            conditions.append(f"list_contains(?::varchar[], block.{identifier(dimension)})")
            values.append(["" if value == NONE else value for value in named])
    for bound, sign in ((request.first, ">="), (request.last, "<=")):
        if bound is not None:
            conditions.append(f"block.day {sign} ?")
            values.append(bound.isoformat())
    return " and ".join(conditions), values


def write(answer: Answer, path: Path, form: Format) -> str:
    """Write an answer to a file that only its owner reads, whole or not at all; returns its SHA-256.

    Money is exact: a text in CSV and JSON.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    staged.unlink(missing_ok=True)
    try:
        # With its rights from the beginning: an answer is never readable by others, also not while it is written.
        os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _WRITERS[form](answer, staged)
        digest = sha256_of(staged)
        replace_file(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    return digest


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_csv(answer: Answer, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(answer.columns)
        lines.writerows(answer.rows)


def _write_json(answer: Answer, path: Path) -> None:
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    path.write_text(json.dumps(rows, default=str, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_parquet(answer: Answer, path: Path) -> None:
    with duckdb.connect() as con:
        con.execute(f"create table answer ({', '.join(f'{identifier(name)} {type_of(name)}' for name in answer.columns)})")
        insert(con, "answer", answer)
        con.execute(f"copy answer to {literal(str(path))} (format parquet, use_tmp_file false)")


def insert(con: duckdb.DuckDBPyConnection, table: str, answer: Answer) -> None:
    """The lines of an answer into a table with its columns."""
    parts = ", ".join(f"unnest(?::{type_of(name)}[])" for name in answer.columns)
    columns = [[row[n] for row in answer.rows] for n in range(len(answer.columns))]
    con.execute(f"insert into {identifier(table)} select {parts}", columns)


_WRITERS: Mapping[Format, Callable[[Answer, Path], None]] = {
    "csv": _write_csv, "json": _write_json, "parquet": _write_parquet,
}  # fmt: skip
