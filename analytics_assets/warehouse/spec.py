"""What a table is, in words: names, types, meanings. Light, so that definitions load without a storage library."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Column:
    """A column: its name, DuckDB type and meaning (published as its comment)."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class TableSpec:
    """What a table is. `time_column` (TIMESTAMP or DATE) bounds its files; `order_by` is the order inside a file.

    The folder of one that is `closed` is made for its owner and group alone.
    """

    name: str
    comment: str
    columns: tuple[Column, ...]
    time_column: str | None
    order_by: tuple[str, ...]
    closed: bool = False

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def select_list(self) -> str:
        return ", ".join(identifier(name) for name in self.column_names)

    @property
    def empty_select(self) -> str:
        """A SELECT with this table's columns and no rows."""
        columns = ", ".join(f"cast(null as {column.type}) as {identifier(column.name)}" for column in self.columns)
        return f"select {columns} where false"


def identifier(name: str) -> str:
    """`name` quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """`value` quoted as an SQL string."""
    return "'" + value.replace("'", "''") + "'"
