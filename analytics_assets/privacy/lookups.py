"""What is recorded of a query by a person: its tables, its words without the values in it, and whom it showed.

Only words that the published file itself has (tables, columns, functions, types) and SQL's own are kept; what else stands
there is a question mark, since a value, a name of somebody's own or a comment may say who a person is. Values are kept as
digests of subjects. Whom a query chose without naming them, or under a name that it put together, its result tells.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import duckdb

from analytics_assets.audit.log import Detail, Subject
from analytics_assets.privacy.lineage import ROWS, Relation, Unresolved, relation_of
from analytics_assets.privacy.queries import Query

_MOST_CHARACTERS = 4000
_IDENTIFIER = "identifier"
# A key without a label may hold anything.
_TELLING: set[str | None] = {_IDENTIFIER, "restricted", None}


def shape(con: duckdb.DuckDBPyConnection, query: str) -> tuple[str, list[Subject]]:
    """The query's words without its values, and the values as subjects. `con` is open on the published file."""
    names = {
        name.lower()
        for (name,) in con.cursor().execute(
            "select table_name from duckdb_columns() union select column_name from duckdb_columns() where not internal "
            "union select function_name from duckdb_functions() union select type_name from duckdb_types()"
        ).fetchall()
    }  # fmt: skip
    tokens = duckdb.tokenize(query)
    kept, values = list[str](), list[Subject]()
    for place, (begin, kind) in enumerate(tokens):
        end = tokens[place + 1][0] if place + 1 < len(tokens) else len(query)
        text = query[begin:end].strip()
        if kind == duckdb.token_type.comment or not text:
            continue
        is_known = kind == duckdb.token_type.identifier and text.strip('"').lower() in names
        if is_known or kind in (duckdb.token_type.keyword, duckdb.token_type.operator) or text == ".":
            kept.append(text)
        else:
            kept.append("?")
            if value := _value(text):
                values.append((None, value))
    words = " ".join(kept)
    return words if len(words) <= _MOST_CHARACTERS else words[:_MOST_CHARACTERS] + " ...", values


def _value(text: str) -> str:
    """What a constant or a quoted name says."""
    if text[:1] in "eExX" and text[1:2] == "'":
        text = text[1:]
    for quote in ("'", '"'):
        if len(text) >= 2 and text[0] == text[-1] == quote:
            return text[1:-1].replace(quote * 2, quote)
    if text.startswith("$") and text.endswith("$") and text.count("$") >= 4:
        tag = text[: text.index("$", 1) + 1]
        return text.removeprefix(tag).removesuffix(tag)
    return text


def tables(con: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """The published tables that a query reads."""
    return Query(con, query).tables(_columns(con))


def shown(
    con: duckdb.DuckDBPyConnection, query: str, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[dict[str, Detail], list[Subject]]:
    """What a result showed: rows, which of its columns (by place, from 1) may tell who a person is, and whom they name.

    Where columns cannot be traced to what is labelled, all of them count, and every value may name somebody.
    """
    details: dict[str, Detail] = {"rows": len(rows)}
    try:
        labels = _labels_of(con, query, len(names))
    except (Unresolved, duckdb.Error, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        details["traced"] = False
        labels = [{_IDENTIFIER}] * len(names)
    telling = [place for place, found in enumerate(labels) if found & _TELLING]
    details["identifiers_in"] = [f"column {place + 1}" for place in telling]
    naming = [place for place in telling if _IDENTIFIER in labels[place]]
    people = dict.fromkeys(text for row in rows for place in naming for text in _texts(row[place]))
    return details, [(None, text) for text in people]


def _texts(value: Any) -> Iterator[str]:
    """The identifiers in a value, also inside lists and structs."""
    if isinstance(value, (str, int, UUID)):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, (list, tuple)):
        yield from (text for inner in value for text in _texts(inner))


def _labels_of(con: duckdb.DuckDBPyConnection, query: str, count: int) -> list[set[str | None]]:
    """The labels of what each column of a query's result carries; None for what has none. Raises Unresolved."""
    known = {
        table: Relation({name: frozenset({f"{table}.{name}"}) for name in names}, frozenset({f"{table}.{ROWS}"}))
        for table, names in _columns(con).items()
    }
    traced = list(relation_of(con, query, known).columns.values())
    if len(traced) != count:
        raise Unresolved("several columns of one name")
    labels = _labels(con)
    return [set().union(*(_label(origin, labels) for origin in origins)) for origins in traced]


def _label(field: str, labels: Mapping[str, set[str | None]]) -> set[str | None]:
    """Of a key of a JSON that has no label of its own it is that of what holds it; rows that are only there tell nobody."""
    if field.endswith(f".{ROWS}"):
        return set()
    while field not in labels and field.count(".") > 1:
        field = field.rpartition(".")[0]
    return labels.get(field, {None})


def _labels(con: duckdb.DuckDBPyConnection) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for table, name, label in con.cursor().execute('select "table", field, label from field_taxonomy').fetchall():
        found.setdefault(f"{table}.{name}", set()).add(label)
    return found


def _columns(con: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    listed = "select table_name, column_name from duckdb_columns() where not internal order by table_oid, column_index"
    for table, column in con.cursor().execute(listed).fetchall():
        found.setdefault(table, []).append(column)
    return found
