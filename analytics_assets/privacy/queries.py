"""What a person's query reads, by DuckDB's own parser: published tables, and nothing past them.

The files behind a published table must be readable for the query on it, and hold what the table does not show: keys without a
label, events of people without consent. So a query may name tables, and functions that make rows of what they are given.
"""

import json
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

import duckdb

# They make rows of their arguments, or list what the published file has. All others read files, or run what is put together.
_MAKES_ROWS = {"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"}
_LISTS = ("duckdb_", "pragma_")


class Query:
    """One query, read on a connection that is open on the published file; a query that cannot be parsed reads nothing."""

    def __init__(self, con: duckdb.DuckDBPyConnection, text: str) -> None:
        self._con, self._text = con, text

    def tables(self, known: Collection[str]) -> list[str]:
        """Those of the `known` tables that it reads. Of a name that WITH gives anew it counts the table too."""
        if self._parsed is None:
            return sorted({word for word, _ in self._words if word in known})
        names = (str(node["table_name"]).strip('"') for node in self._parsed if "table_name" in node)
        return sorted({name.lower() for name in names} & set(known))

    @property
    def takes_all(self) -> bool:
        """Whether it asks for all columns of something, and not for each by its name."""
        return self._parsed is None or any(node.get("class") == "STAR" for node in self._parsed)

    def past(self, files: Collection[str]) -> str | None:
        """What it reads past the published tables, in words for a person: a function, or one of `files`; None: nothing."""
        # Whatever way to it is written, its own name stands in it.
        names = {file.rpartition("/")[2] for file in files}
        said = [text for text in self._texts if "." in text]
        if named := next((name for name in names if any(name in text for text in said)), None):
            return f"the file {named}"
        return next((f"{name}()" for name in self._functions if not _is_harmless(name)), None)

    @cached_property
    def _parsed(self) -> list[dict[str, Any]] | None:
        """Every node of its tree; None of a PIVOT, of which DuckDB makes several statements and tells no tree."""
        text = self._con.cursor().execute("select json_serialize_sql(?)", [self._text]).fetchall()[0][0]
        found = json.loads(text)
        return None if found.get("error") else list(_nodes(found["statements"]))

    @cached_property
    def _words(self) -> list[tuple[str, str]]:
        """Its words without quotes, in lower case, each with the one behind it; no comments."""
        tokens = duckdb.tokenize(self._text)
        ends = [begin for begin, _ in tokens[1:]] + [len(self._text)]
        words = [
            self._text[begin:end].strip().strip("\"'").lower()
            for (begin, kind), end in zip(tokens, ends, strict=True) if kind != duckdb.token_type.comment
        ]  # fmt: skip
        return list(zip(words, [*words[1:], ""], strict=True))

    @property
    def _texts(self) -> list[str]:
        if self._parsed is None:
            return [self._text]
        return [value for node in self._parsed for value in node.values() if isinstance(value, str)]

    @property
    def _functions(self) -> Iterator[str]:
        """The functions that stand where a table may; of a PIVOT all that could."""
        if self._parsed is not None:
            yield from (
                node["function"]["function_name"].lower() for node in self._parsed if node.get("type") == "TABLE_FUNCTION"
            )
            return
        listed = "select function_name from duckdb_functions() where function_type in ('table', 'table_macro')"
        known = {name for (name,) in self._con.cursor().execute(listed).fetchall()}
        yield from (word for word, behind in self._words if word in known and behind.startswith("("))


def _is_harmless(function: str) -> bool:
    return function in _MAKES_ROWS or function.startswith(_LISTS)


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from _nodes(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _nodes(inner)
