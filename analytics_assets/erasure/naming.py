"""How records name others than whose they are: under labelled keys of their JSON, and anywhere in a text that nobody can read.

What stands under a labelled key goes, and the event stays. Of a text nothing is known but its words, so these are asked about.
"""

import json
from collections.abc import Collection, Mapping, Sequence

import duckdb

from analytics_assets.privacy.keys import pointer
from analytics_assets.privacy.pseudonyms import Path as Keys
from analytics_assets.privacy.pseudonyms import identifying, may_hold
from analytics_assets.privacy.taxonomy import JSON_COLUMNS, Taxonomy
from analytics_assets.sources.text import BASE64, kept_bytes
from analytics_assets.warehouse.spec import literal

Paths = Mapping[str, Sequence[Keys]]
"""The keys on the way to each value that may name somebody, by JSON column."""


def paths_of(taxonomy: Taxonomy, sources: Collection[str]) -> Paths:
    """Where some source names people."""
    found: dict[str, set[Keys]] = {name: set() for name in JSON_COLUMNS}
    for source in sources:
        for column, paths in identifying(taxonomy, source).paths.items():
            found[column].update(paths)
    return {column: sorted(paths) for column, paths in found.items()}


def named_in_json(relation: str, columns: str, paths: Paths) -> str:
    """A SELECT of `columns`, `field` and `id` for each value in the JSON of a FROM item: what it says under a labelled key.

    `field` is the key's number, as `without_fields` takes it.
    """
    parts, first = [f"select {columns}, null::int as field, null::varchar as id from {relation} where false"], 0
    for column, its in paths.items():
        if its:
            pointers = ", ".join(literal("".join(map(pointer, path))) for path in its)
            parts.append(
                f"select {columns}, unnest(range({first}, {first + len(its)}))::int as field, "
                f"unnest(json_extract_string({column}, [{pointers}])) as id "
                f"from {relation} where {may_hold(column, sorted({path[0] for path in its}))}"
            )
        first += len(its)
    return f"select * from ({' union all '.join(parts)}) where id <> ''"


def without_fields(column: str, fields: str, paths: Paths) -> str:
    """SQL: a JSON column without those of its keys whose numbers are in the list `fields`; each as often as it stands there."""
    changed = column
    every = [(name, path) for name, its in paths.items() for path in its]
    for number, (name, path) in enumerate(every):
        if name == column.rpartition(".")[2]:
            # A null in a merge patch removes the key.
            removal = f"case when list_contains({fields}, {number}) then {literal(_removal(path))} else '{{}}' end"
            changed = f"json_merge_patch({changed}, {removal})"
    return f"case when {column} is not null then {changed}::varchar end"


def _removal(path: Keys) -> str:
    said: object = None
    for key in reversed(path):
        said = {key: said}
    return json.dumps(said)


# What parts words in a text, from the least to the most; what is quoted is one word too, blanks and all.
_PARTED = (r"""[^\s"',;{}\[\]]+""", r"""[^\s"',;:{}\[\]()<>=&?|]+""", r"""[^\s"',;:{}\[\]()<>=&?|/\\#%+!*~]+""")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'


def stand_words(con: duckdb.DuckDBPyConnection, texts: str) -> None:
    """Make temp table `words` (`rn`, `tenant_id`, `id`): words of texts that may be names, as spelled and as meant.

    `texts` is a SELECT of `rn`, `tenant_id` and `text`, as kept of rejected records.
    """
    con.execute(f"create or replace temp table texts as {texts}")
    disguised = con.execute(f"select distinct text from texts where starts_with(text, '{BASE64}')").fetchall()
    for (text,) in disguised:
        con.execute("update texts set text = ? where text = ?", [kept_bytes(text).decode("utf-8", "replace"), text])
    words = " || ".join(f"regexp_extract_all(text, {literal(pattern)})" for pattern in _PARTED)
    con.execute(
        "create or replace temp table words as select distinct rn, tenant_id, unnest([word, rtrim(word, '.!'), "
        "case when contains(word, '%') then try(url_decode(word)) end, "
        # As JSON and as CSV escape it.
        "case when contains(word, '\\') then try(json_extract_string('[\"' || word || '\"]', '/0')) end]) as id from ("
        f"select rn, tenant_id, unnest(regexp_extract_all(text, {literal(_QUOTED)}, 1) || {words}) as word from texts)"
    )
    con.execute("drop table texts; delete from words where id is null or id = ''")
