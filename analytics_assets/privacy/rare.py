"""Texts that few people have, masked where rows of persons leave: whoever sees them could tell who somebody is.

A text is rare if fewer than k people of a tenant have it in their events. What a file shows of a column comes from columns of
`events` by its lineage, and so one list of texts that are not rare holds for all its tables: what is masked in one cannot be
read in another.
"""

from collections.abc import Iterable, Sequence

import duckdb

from analytics_assets.privacy.labels import Labels
from analytics_assets.privacy.taxonomy import Label
from analytics_assets.warehouse.spec import TableSpec, identifier, literal

MASKED = "(masked)"
# Texts with other labels are masked for nobody: they tell nothing, or a role is let see them as they are.
_MASKED_LABELS: tuple[Label, ...] = ("behavioural", "quasi_identifier")
# What the marts call all that is beyond their caps.
_OTHER = "(other)"
_EVENTS = "events"


def common_values(con: duckdb.DuckDBPyConnection, rows: str, columns: Iterable[str], k: int) -> dict[str, list[str]]:
    """Of each text column of `rows` (a SELECT with `person`; NULL is nobody) the values that at least k people have.

    Where those left out are of fewer than k people together, that of the fewest people beside them is left out too: with one
    rare value alone, that it is masked would tell which it is.
    """
    names = list(columns)
    if not names:
        return {}
    con.execute(f"create or replace temp table people_rows as select distinct person, {_listed(names)} from ({rows})")
    found = {name: _common(con, identifier(name), k) for name in names}
    con.execute("drop table people_rows")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(identifier, names))


def _common(con: duckdb.DuckDBPyConnection, column: str, k: int) -> list[str]:
    rows = con.execute(
        f"""
        with had as (select distinct person, {column} as value from people_rows where {column} <> ''),
        counted as (select value, count(person) as people from had group by value),
        few as (
            select count(distinct person) as people, count(distinct value) as values
            from had where value in (select value from counted where people < {k:d})
        ),
        placed as (
            select value, row_number() over (order by people, value) as place from counted where people >= {k:d}
        )
        select value from placed, few where not (few.values > 0 and few.people < {k:d} and place = 1) order by value
        """
    ).fetchall()
    return [value for (value,) in rows]


def origins_of(labels: Labels, spec: TableSpec, texts: Sequence[str]) -> dict[str, list[str]]:
    """The text columns of a table whose rare values are masked, each with the columns of events that they come from."""
    found = {}
    for column in spec.columns:
        label = labels.of(spec.name, column.name)
        if column.type == "VARCHAR" and label is not None and label.label in _MASKED_LABELS:
            ends = {end.removeprefix(f"{_EVENTS}.") for end in labels.ends(spec.name, column.name)}
            if known := sorted(ends & set(texts)):
                found[column.name] = known
    return found


def masking(con: duckdb.DuckDBPyConnection, common: dict[str, list[str]]) -> None:
    """Make temp table `common_texts` (field, value), which `shown` reads."""
    con.execute("create or replace temp table common_texts (field varchar, value varchar)")
    for name, values in common.items():
        con.execute("insert into common_texts select ?, unnest(?::varchar[])", [name, values])


def shown(column: str, origins: Sequence[str]) -> str:
    """The SQL of a column in which rare values are masked; one that is missing stays so."""
    name, fields = identifier(column), ", ".join(map(literal, origins))
    known = f"select value from common_texts where field in ({fields})"
    return (
        f"case when {name} is null or {name} in ('', {literal(_OTHER)}) or {name} in ({known}) then {name} else '{MASKED}' end"
    )
