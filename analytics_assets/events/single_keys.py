"""Keys that stand twice in one JSON object: the first counts, and the others are not stored.

JSON allows them, and readers differ: DuckDB takes the first, Python the last. Whoever looks for personal data, labels or names
under a key would see one value, and somebody else would read the other.
"""

import json
from collections.abc import Sequence
from typing import Any

import duckdb


def with_single_keys(con: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[str]) -> str:
    """A FROM item (with `rn`) like `relation`, in whose JSON columns no object has a key twice, at any depth."""
    doubled = [name for name in columns if _stand_doubled(con, relation, name)]
    if not doubled:
        return relation
    changed = ", ".join(f"coalesce(single_{name}.text, r.{name}) as {name}" for name in doubled)
    joined = " ".join(f"left join single_{name} on single_{name}.rn = r.rn" for name in doubled)
    return f"(select r.* replace ({changed}) from {relation} r {joined})"


def _stand_doubled(con: duckdb.DuckDBPyConnection, relation: str, column: str) -> bool:
    """Make temp table `single_<column>` (rn, text) of the objects that have a key twice; False where none has.

    Few records differ in which keys they have: to look at each such set once costs a fifth of looking at each record.
    """
    inner = f"case when {column} like '%{{%{{%' then json_keys({column}, '$..*') end"
    keys = f"select json_keys({column}) as outer_keys, {inner} as inner_keys from {relation} where {column} <> '{{}}'"
    sets = (
        "select hash(outer_keys, inner_keys) as same, any_value(outer_keys) as outer_keys, any_value(inner_keys) as inner_keys "
        f"from ({keys}) group by 1"
    )
    every = "list_prepend(outer_keys, coalesce(inner_keys, []))"
    twice = f"len(list_filter({every}, lambda own: list_unique(own) < len(own))) > 0"
    found = con.execute(f"select same from ({sets}) where {twice}").fetchall()
    if not found:
        return False
    # As a merge writes it, it is JSON to everybody.
    rows = con.execute(
        f"select rn, json_merge_patch({column}, '{{}}')::varchar from {relation} where {column} <> '{{}}' "
        f"and hash(json_keys({column}), {inner}) in (select unnest(?::ubigint[]))", [[same for (same,) in found]]
    ).fetchall()  # fmt: skip
    made = f"create or replace temp table single_{column} as select unnest(?::bigint[]) as rn, unnest(?::varchar[]) as text"
    con.execute(made, [[rn for rn, _ in rows], [single(text) for _, text in rows]])
    return True


def single(text: str) -> str:
    """JSON with each key once in an object, its first value; numbers as they are written."""
    return _written(json.loads(text, object_pairs_hook=_first, parse_float=_Number, parse_int=_Number))


class _Number(str):
    """A number as it is written: read as a float, it might be another one."""


def _first(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in members:
        found.setdefault(key, value)
    return found


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_written(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)
