"""Which columns a column's values come from, read from the SQL that computes it, with DuckDB's own parser.

A column carries the values of another if it changes when those are renamed, each to another one in the same order. So what
only chooses (conditions of rows and joins, groups, orders, filters of aggregates, conditions of a CASE between values) is not
carried, and a count carries no value: it tells that rows are there. What cannot be resolved is an error, never an empty answer.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from analytics_assets.warehouse.spec import TableSpec

Origins = frozenset[str]
"""Fields as `table.column`, and `table.column.key` of a JSON; `table.*` is what the rows of a table tell by being there."""

ROWS = "*"
_NOTHING: Origins = frozenset()
# They tell how many rows there are, or which place one has, and no value.
_COUNTS = {
    "count", "count_star", "approx_count_distinct", "row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile",
}  # fmt: skip
# The first argument is given, the others choose the row.
_CHOOSING = {"arg_min", "arg_max", "arg_min_null", "arg_max_null", "min_by", "max_by"}
_CREATE = re.compile(r"\s*create\s+(?:or\s+replace\s+)?(?:temp\w*\s+)?(?:table|view)\s+(\w+)\s+as\s+(.*)", re.I | re.S)
_UPDATE = re.compile(r"\s*update\s+(\w+)\s+set\s+(.*?)\s+from\s+(.*?)(?:\s+where\s.*)?", re.I | re.S)
_ASIDE = re.compile(r"\s*(select|with|from|drop|set|attach|use|describe)\b", re.I)


class Unresolved(Exception):
    """SQL of which this module cannot say where its columns come from."""


@dataclass(frozen=True)
class Relation:
    """The columns of a relation, in order, with the fields that their values come from; and what its rows tell."""

    columns: Mapping[str, Origins]
    rows: Origins = _NOTHING

    def carried(self, column: str) -> Origins:
        """What a column tells. One that is computed from no value tells what the rows do."""
        return self.columns[column] or self.rows

    def __or__(self, other: "Relation") -> "Relation":
        """One above the other, column by column in order, as UNION puts them."""
        if len(self.columns) != len(other.columns):
            raise Unresolved(f"{len(self.columns)} columns above {len(other.columns)}")
        pairs = zip(self.columns, other.columns, strict=True)
        return Relation({name: self.carried(name) | other.carried(below) for name, below in pairs}, self.rows | other.rows)


def itself(spec: TableSpec) -> Relation:
    """A table as the origin of what is made from it."""
    columns = {column.name: frozenset({f"{spec.name}.{column.name}"}) for column in spec.columns}
    return Relation(columns, frozenset({f"{spec.name}.{ROWS}"}))


def relation_of(con: duckdb.DuckDBPyConnection, select: str, known: Mapping[str, Relation]) -> Relation:
    """What `select` gives, where its tables are `known`. Raises Unresolved."""
    return _query(_parsed(con, select), _Scope(known))


class Traced:
    """A connection that notes in `known` where the columns of every table and view come from that is made through it."""

    def __init__(self, con: duckdb.DuckDBPyConnection, known: Mapping[str, Relation]) -> None:
        self._con = con
        self.known = dict(known)

    def execute(self, sql: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        for statement in self._con.extract_statements(sql):
            self._note(statement.query)
        return self._con.execute(sql, parameters) if parameters is not None else self._con.execute(sql)

    def _note(self, sql: str) -> None:
        if made := _CREATE.fullmatch(sql):
            self.known[made[1]] = relation_of(self._con, made[2].rstrip("; \n"), self.known)
        elif changed := _UPDATE.fullmatch(sql.rstrip("; \n")):
            self._change(changed[1], f"select {changed[2]} from {changed[1]}, {changed[3]}")
        elif not _ASIDE.match(sql):
            raise Unresolved(f"a statement that is neither CREATE ... AS nor UPDATE ... FROM: {sql.split()[0]}")

    def _change(self, table: str, settings_as_select: str) -> None:
        """The settings of an UPDATE, parsed as the comparisons that they look like."""
        node, scope = _parsed(self._con, settings_as_select), _Scope(self.known)
        scope = scope.within(_from(node["from_table"], scope))
        old = self.known[table]
        columns = dict(old.columns)
        for setting in node["select_list"]:
            target = setting["left"]["column_names"][-1]
            columns[target] = columns[target] | (_carried(setting["right"], scope) or scope.rows)
        self.known[table] = Relation(columns, old.rows)


def _parsed(con: duckdb.DuckDBPyConnection, select: str) -> dict[str, Any]:
    # A cursor: the caller's connection may hold a result that is not read yet.
    text = con.cursor().execute(
        "select json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)", [select]
    ).fetchall()[0][0]  # fmt: skip
    found = json.loads(text)
    if found.get("error") or len(found["statements"]) != 1:
        raise Unresolved(found.get("error_message", "more than one statement"))
    node: dict[str, Any] = found["statements"][0]["node"]
    return node


@dataclass(frozen=True)
class _Scope:
    """What names mean at a place: `tables` that may be read, `given` relations of FROM, `outer` of a correlated query."""

    tables: Mapping[str, Relation]
    given: Sequence[tuple[str, Relation]] = ()
    named: Mapping[str, Origins] = field(default_factory=dict)
    outer: "_Scope | None" = None

    def within(self, given: Sequence[tuple[str, Relation]]) -> "_Scope":
        return _Scope(self.tables, given, {}, self)

    @property
    def rows(self) -> Origins:
        return _NOTHING.union(*(relation.rows for _, relation in self.given))

    def resolve(self, names: Sequence[str]) -> Origins:
        """The origins of `column`, `relation.column` or either with fields of a struct behind it."""
        for alias, relation in self.given:
            if len(names) > 1 and alias == names[0] and names[1] in relation.columns:
                return relation.carried(names[1])
        # A column that several relations have: of all, since USING gives either.
        found = [relation.carried(names[0]) for _, relation in self.given if names[0] in relation.columns]
        if found:
            return _NOTHING.union(*found)
        if names[0] in self.named:
            return self.named[names[0]]
        if self.outer is not None:
            return self.outer.resolve(names)
        raise Unresolved(f"no column {'.'.join(names)}")


def _query(node: dict[str, Any], scope: _Scope) -> Relation:
    tables = dict(scope.tables)
    for entry in node.get("cte_map", {}).get("map", []):
        inner = _query(entry["value"]["query_node"], _Scope(tables, outer=scope))
        tables[entry["key"]] = _renamed(inner, entry["value"].get("aliases", []))
    scope = _Scope(tables, scope.given, scope.named, scope.outer)
    if node["type"] == "SET_OPERATION_NODE":
        first, *others = (_query(child, scope) for child in node["children"])
        for other in others:
            first = first | other
        return first
    if node["type"] != "SELECT_NODE":
        raise Unresolved(f"a query of kind {node['type']}")
    return _select(node, scope)


def _select(node: dict[str, Any], scope: _Scope) -> Relation:
    scope = scope.within(_from(node["from_table"], scope))
    columns: dict[str, Origins] = {}
    for place, item in enumerate(node["select_list"]):
        if item["class"] == "STAR":
            columns.update(_star(item, scope))
        else:
            name = item.get("alias") or (item["column_names"][-1] if item["class"] == "COLUMN_REF" else f"#{place}")
            columns[name] = _carried(item, scope) or scope.rows
        # What is named here may be used by the items behind it.
        scope = _Scope(scope.tables, scope.given, columns, scope.outer)
    return Relation(columns, scope.rows)


def _star(item: dict[str, Any], scope: _Scope) -> Iterator[tuple[str, Origins]]:
    replaced = {entry["key"]: entry["value"] for entry in item.get("replace_list", [])}
    wanted = item.get("relation_name")
    names = [name for alias, relation in scope.given if wanted in (None, alias) for name in relation.columns]
    for name in dict.fromkeys(names):
        if name in replaced:
            yield name, _carried(replaced[name], scope) or scope.rows
        elif name not in item.get("exclude_list", []):
            yield name, scope.resolve([wanted, name] if wanted else [name])


def _from(node: dict[str, Any], scope: _Scope) -> list[tuple[str, Relation]]:
    kind, aliases = node["type"], node.get("column_name_alias", [])
    if kind == "EMPTY":
        return []
    if kind == "JOIN":
        return [*_from(node["left"], scope), *_from(node["right"], scope)]
    if kind == "SUBQUERY":
        return [(node.get("alias", ""), _renamed(_query(node["subquery"]["node"], scope), aliases))]
    if kind == "EXPRESSION_LIST":
        rows = [[_carried(value, scope) for value in row] for row in node["values"]]
        columns = {f"col{n}": _NOTHING.union(*values) for n, values in enumerate(zip(*rows, strict=True))}
        return [(node.get("alias", ""), _renamed(Relation(columns), aliases))]
    if kind == "BASE_TABLE" and node["table_name"] in scope.tables:
        name = node["table_name"]
        return [(node.get("alias", name), _renamed(scope.tables[name], aliases))]
    raise Unresolved(f"it reads {node.get('table_name', kind)}, which is not known")


def _renamed(relation: Relation, names: Sequence[str]) -> Relation:
    known = list(relation.columns)
    columns = dict(zip([*names, *known[len(names) :]], relation.columns.values(), strict=True))
    return Relation(columns, relation.rows)


def _carried(node: Any, scope: _Scope) -> Origins:
    """The origins of an expression's values."""
    if isinstance(node, list):
        return _NOTHING.union(*(_carried(part, scope) for part in node))
    if not isinstance(node, dict):
        return _NOTHING
    kind = node.get("class")
    if kind == "COLUMN_REF":
        return scope.resolve(node["column_names"])
    if kind == "SUBQUERY":
        inner = _query(node["subquery"]["node"], scope)
        return _NOTHING.union(_carried(node.get("child"), scope), *(inner.carried(name) for name in inner.columns))
    if kind in ("FUNCTION", "WINDOW"):
        given, key = _carried(_giving(node), scope), _key(node)
        return frozenset(f"{origin}.{key}" for origin in given) if key else given
    if kind == "CASE":
        branches = [*(check["then_expr"] for check in node["case_checks"]), node.get("else_expr", {})]
        # Between constants, which one it is tells the condition.
        told = [check["when_expr"] for check in node["case_checks"]] if any(map(_is_constant, branches)) else []
        return _carried(branches, scope) | _carried(told, scope)
    if kind == "LAMBDA":
        raise Unresolved("a lambda; write it as a join or a list function")
    return _NOTHING.union(*(_carried(part, scope) for part in node.values()))


def _giving(node: dict[str, Any]) -> list[Any]:
    """The arguments of a function whose values it gives on; filters, partitions and orders only choose."""
    name, arguments = node["function_name"], node.get("arguments", [])
    if name in _COUNTS:
        return []
    return arguments[:1] if name in _CHOOSING else arguments


def _key(node: dict[str, Any]) -> str | None:
    """The key that an expression takes out of a JSON object, where it is a plain name."""
    if node["function_name"] not in ("->", "->>") or len(node.get("arguments", [])) != 2:
        return None
    key = node["arguments"][1]["expression"].get("literal", {}).get("text", "")
    return key if key.isidentifier() else None


def _is_constant(node: dict[str, Any]) -> bool:
    """Whether a branch gives a value of its own and not one of the rows; NULL is no value."""
    if node.get("class") == "CONSTANT":
        return node.get("literal", {}).get("kind") != "NULL_LITERAL"
    return node.get("class") == "CAST" and _is_constant(node["child"])
