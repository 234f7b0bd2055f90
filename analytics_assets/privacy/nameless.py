"""What a published version tells of nobody: what the pipeline notes about its own work, without the columns that tell more.

Whoever may ask any question asks about one person. So of these tables a copy is made in memory and the version is let go:
however a query is written, the rest cannot be reached from it.
"""

from collections.abc import Collection, Mapping

import duckdb

from analytics_assets.privacy.taxonomy import FieldLabel, Taxonomy
from analytics_assets.warehouse.spec import identifier, literal

_FULL = "version_file"


def nameless(taxonomy: Taxonomy) -> dict[str, list[str]]:
    """Tables whose rows are labelled operational, each with its operational columns. What is computed from events is none."""

    def tells_nobody(own: FieldLabel) -> bool:
        return own.label == "operational"

    return {
        table: [name for name, own in declared.columns.items() if tells_nobody(own)]
        for table, declared in taxonomy.tables.items() if declared.rows == "operational"
    }  # fmt: skip


def attached(version: str) -> duckdb.DuckDBPyConnection:
    """A database in memory, and in it the published file `version` until `keep_only`."""
    con = duckdb.connect()
    con.execute(f"attach {literal(version)} as {_FULL} (read_only); use {_FULL}")
    return con


def keep_only(con: duckdb.DuckDBPyConnection, known: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Copy the `known` columns of the attached version into memory and let it go; returns the columns that are left out."""
    listed = (
        f"select table_name, list(column_name order by column_index) from duckdb_columns() "
        f"where database_name = {literal(_FULL)} and not internal group by all order by 1"
    )
    left_out = {}
    con.execute("use memory")
    for table, columns in con.execute(listed).fetchall():
        told = [name for name in columns if name in known.get(table, ())]
        if told:
            names = ", ".join(map(identifier, told))
            con.execute(f"create table {identifier(table)} as select {names} from {_FULL}.{identifier(table)}")
            left_out[table] = [name for name in columns if name not in told]
    con.execute(f"detach {_FULL}")
    return left_out
