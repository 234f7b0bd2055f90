"""What a source is: a YAML file that says which columns arrive, and the SQL expression behind every canonical column.

A declaration is checked when it is loaded, down to the types of its expressions; here it also becomes the SELECT that maps
records. Reading files belongs to `readers`, the Segment spec to `segment`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import duckdb
from pydantic import Field, field_validator

from analytics_assets.events.schema import SOURCE_COLUMNS
from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml
from analytics_assets.warehouse.table import identifier, literal

MAX_JSON_DEPTH = 64
TYPES = {
    "text": "VARCHAR",
    "bigint": "BIGINT",
    "double": "DOUBLE",
    "decimal": "DECIMAL(18,4)",
    "timestamp": "TIMESTAMP",
    "boolean": "BOOLEAN",
    "json": "JSON",
}
# What an expression may use beside the declared columns: a digest of all of them, and a JSON object of all others.
VIRTUAL = {"line_digest": "VARCHAR", "extra_columns": "JSON"}
# An id of blanks and zero-width characters is no id; all others are kept to the letter, blanks around them too.
IDS = ("tenant_id", "message_id", "user_id", "anonymous_id", "session_id")
_CANONICAL = {column.name: column.type for column in SOURCE_COLUMNS}
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
_NESTED = ("STRUCT", "TUPLE", "MAP", "UNION")
_TIMES = {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE"}


def _nested(depth: int) -> str:
    """A pattern for text of balanced brackets, at most `depth` deep. DuckDB's patterns run in linear time."""
    pattern = r"[\[{][\]}]"
    for _ in range(depth - 1):
        pattern = rf"[\[{{](?:{pattern})*[\]}}]"
    return f"(?:{pattern})*"


# Beyond these years arithmetic on times can overflow.
_FIRST_TIME, _LAST_TIME = "timestamp '0001-01-01'", "timestamp '9999-12-31 23:59:59.999999'"
# DuckDB reads more than JSON (NaN, Infinity) and a cast to TIMESTAMP drops the offset in silence: hence these.
# Patterns are costly, so each stands behind a cheap test that nearly all text fails; only `case` keeps that order.
HELPERS = {
    "slug(v)": "trim(regexp_replace(lower(v), '[^a-z0-9]+', '-', 'g'), '-')",
    "object(v)": "json_merge_patch('{}', to_json(v))",
    "merged(a, b)": "json_merge_patch(a, b)",
    "first_of(v)": "case json_type(v) when 'ARRAY' then v -> '$[0]' else v end",
    "as_bigint(v)": r"case when regexp_full_match(v, '\s*[+-]?[0-9]+(\.0*)?\s*') then try_cast(v as bigint) end",
    "as_double(v)": "case when isfinite(try_cast(v as double)) then try_cast(v as double) end",
    # Money is rounded to four decimals, halves away from zero; the price of a piece only once it is multiplied.
    "as_decimal(v)": "try_cast(v as decimal(18,4))",
    "as_price(v)": "try_cast(v as decimal(18,8))",
    # Nearly all text begins with a visible letter of ASCII.
    "unless_blank(v)": "case when v between '!' and '~' then v "
    r"when regexp_full_match(v, '[\s\v\p{Z}\p{Cf}]*') then null else v end",
    # DuckDB takes any offset; none on earth is beyond 14 hours, or has more than 59 minutes.
    "as_time(v)": rf"case when regexp_matches(v, ':\d\d(\.\d+)?\s*[+-](1[5-9]|[2-9]\d|\d\d:?[6-9])') then null "
    f"when timezone('UTC', try_cast(v as timestamptz)) between {_FIRST_TIME} and {_LAST_TIME} "
    "then timezone('UTC', try_cast(v as timestamptz)) end",
    "without_strings(v)": r"""regexp_replace(v, '"(?:[^"\\]|\\.)*"', '', 'g')""",
    # The nine pairs and triples cover every spelling of nan and inf that can be read, at a third of the pattern's cost.
    "has_nan(v)": "case when "
    + " or ".join(f"contains(v, '{part}')" for part in ("nan", "Nan", "aN", "An", "AN", "nf", "nF", "Nf", "NF"))
    + " then case when regexp_matches(v, '[nN][aA][nN]|[iI][nN][fF]') "
    "then regexp_matches(without_strings(v), '(?i)nan|inf') else false end else false end",
    "too_deep(v)": f"case when strlen(v) <= {2 * MAX_JSON_DEPTH} then false "
    # Deeper than the limit takes more than half as many of one bracket; a few are asked for, since most have fewer.
    "when not (v like '%{%{%{%{%{%{%{%{%' or v like '%[%[%[%[%[%[%[%[%') then false "
    f"when strlen(v) - strlen(replace(replace(v, '{{', ''), '[', '')) <= {MAX_JSON_DEPTH} then false "
    r"else not regexp_full_match(regexp_replace(without_strings(v), '[^\[\]{}]', '', 'g'), "
    f"'{_nested(MAX_JSON_DEPTH)}') end",
    "is_json(v)": "case when json_valid(v) then not has_nan(v) and not too_deep(v) else false end",
    "is_object(v)": "case when not is_json(v) then false when v like '{%' then true "
    "else coalesce(json_type(v), '') = 'OBJECT' end",
    # JSON inside a text cell is meant as JSON; other text is a JSON string.
    "embedded(v)": r"case when not regexp_matches(v, '^\s*[\[{]') then to_json(v) "
    "when is_json(v) then try_cast(v as json) else to_json(v) end",
    # Put members in front of a JSON object; of two members with one name the first counts.
    "spliced(o, members)": "case when members = '' then o when o is null or o = '{}' then '{' || members || '}' "
    "else '{' || members || ',' || o[2:] end",
}


class SourceColumn(Declared):
    """A column that files of the source have, or may have."""

    type: Literal["text", "bigint", "double", "decimal", "timestamp", "boolean", "json"]
    optional: bool = False


class Rejection(Declared):
    """Records for which `when` is true are rejected with `reason`."""

    reason: str = Field(pattern=r"^[a-z][a-z0-9_:]*$")
    when: str


class Source(Declared):
    """How one kind of file becomes events."""

    name: str
    format: Literal["table", "segment"]
    description: str
    twin_lookback: timedelta = Field(description="How far apart the times of two deliveries of one message can lie.")
    columns: dict[str, SourceColumn] = Field(default_factory=dict)
    fields: dict[str, str] = Field(default_factory=dict)
    reject: tuple[Rejection, ...] = ()

    @field_validator("twin_lookback", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> timedelta:
        found = re.fullmatch(r"(\d{1,6}) (second|minute|hour|day)s?", str(value))
        if not found:
            raise ValueError(f"'{value}' is no duration; write for example '36 hours' or '1 day'")
        return timedelta(**{found[2] + "s": int(found[1])})

    @field_validator("columns", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: _column(name, spec) for name, spec in value.items()}

    @field_validator("fields")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in _CANONICAL:
                raise ValueError(f"'{name}' is no column of events; use one of {', '.join(_CANONICAL)}")
        return value

    def uses(self, word: str) -> bool:
        """Whether an expression speaks of `word`."""
        return any(word in text.lower() for text in (*self.fields.values(), *(rule.when for rule in self.reject)))

    @property
    def required(self) -> list[str]:
        return [name for name, column in self.columns.items() if not column.optional]


def _column(name: Any, spec: Any) -> Any:
    if not isinstance(name, str) or name.startswith("__") or name.lower() in VIRTUAL:
        raise ValueError(f"a column cannot be named '{name}'; that name is used by the mapping itself")
    if not isinstance(spec, str):
        return spec
    kind = spec.removeprefix("optional ")
    if kind not in TYPES:
        raise ValueError(f"'{spec}' is no type of '{name}'; write one of {', '.join(TYPES)}, with 'optional' before it")
    return {"type": kind, "optional": kind != spec}


def load_sources(folder: Path) -> dict[str, Source]:
    """All declared sources by name. Raises ConfigError."""
    return {path.stem: load_source(path) for path in sorted(folder.glob("*.yaml"))}


def load_source(path: Path) -> Source:
    """One declared source; its name is the file's. Raises ConfigError with file, line and cure."""
    content, node = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}:1: a source is a mapping; begin with 'format: table' or 'format: segment'")
    source: Source = Source.load(path, name=path.stem)

    def wrong(sentence: str, *location: Any) -> ConfigError:
        return ConfigError(f"{path.name}:{line_of(node, location)}: {sentence}")

    if source.format == "segment":
        if source.columns or source.fields or source.reject:
            raise wrong("a segment source follows the Segment spec; remove columns, fields and reject", "columns")
        return source
    for name in ("columns", "fields"):
        if not getattr(source, name):
            raise wrong(f"a table source needs '{name}'; declare them", name)
    folded = [name.casefold() for name in source.columns]
    for name in source.columns:
        if folded.count(name.casefold()) > 1:
            raise wrong(f"column '{name}' is declared twice (case does not count); keep one", "columns", name)
    for name in ("message_id", "event", "timestamp"):
        if name not in source.fields:
            raise wrong(f"field '{name}' is missing; say which expression gives it", "fields")
    columns = tuple((name, TYPES[column.type]) for name, column in source.columns.items())
    for name, expression in source.fields.items():
        if problem := _problem(expression, columns, _CANONICAL[name]):
            raise wrong(f"field '{name}' {problem}", "fields", name)
    for index, rejection in enumerate(source.reject):
        if problem := _problem(rejection.when, columns, "BOOLEAN"):
            raise wrong(f"rejection '{rejection.reason}' {problem}", "reject", index, "when")
    return source


# --- expressions


@cache
def _checker() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"enable_external_access": False, "threads": 1})
    prepare(con)
    return con


@cache
def _pure_functions() -> frozenset[str]:
    """Functions that give the same answer for the same row, whenever it is read."""
    rows = _checker().execute(
        "select function_name from duckdb_functions() "
        "where function_type = 'macro' or (function_type = 'scalar' and stability = 'CONSISTENT') "
        "except select function_name from duckdb_functions() where stability in ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
    )
    return frozenset(row[0] for row in rows.fetchall()) - {"unnest"}


@cache
def _problem(expression: str, columns: tuple[tuple[str, str], ...], target: str) -> str | None:
    """What is wrong with an expression, with the cure; None if it is a scalar expression over the declared columns.

    Remembered: a process that runs several jobs reads the same declarations for each.
    """
    con = _checker()
    tree = json.loads(con.execute("select json_serialize_sql(?)", [f"select ({expression}\n)"]).fetchall()[0][0])
    if tree["error"]:
        return f"is no SQL expression ({one_line(tree['error_message'])}); correct it, quote names that are keywords"
    query = tree["statements"][0]["node"] if len(tree["statements"]) == 1 else {}
    if (
        len(query.get("select_list", ())) != 1
        or query["from_table"]["type"] != "EMPTY"
        or any(query[clause] for clause in ("where_clause", "group_expressions", "having", "qualify", "modifiers"))
    ):
        return "must be one scalar expression; remove commas, semicolons and clauses around it"
    scope = {name.casefold() for name in (*dict(columns), *VIRTUAL)}
    for part in _parts(query["select_list"]):
        kind = part["class"]
        if kind in ("SUBQUERY", "WINDOW", "STAR", "PARAMETER", "LAMBDA"):
            return f"uses a {kind.lower()}; only functions of the row's own columns are allowed"
        if kind == "COLUMN_REF" and part["column_names"][0].casefold() not in scope:
            return f"uses '{part['column_names'][0]}', which is no declared column; declare it under columns"
        if kind == "FUNCTION" and part["function_name"].lower() not in _pure_functions() | {
            "struct_pack",
            "list_value",
        }:
            return f"uses {part['function_name']}(), which is unknown or depends on more than the row; remove it"
    nulls = ", ".join(f"null::{type_} as {identifier(name)}" for name, type_ in {**dict(columns), **VIRTUAL}.items())
    try:
        given = con.execute(f"select typeof(({expression}\n)) from (select {nulls})").fetchall()[0][0]
    except duckdb.Error as error:
        return f"does not fit its columns ({one_line(error)}); correct it"
    # DuckDB finds out that two types do not convert only when the first value comes.
    fitting = {"TIMESTAMP": (*_TIMES, "VARCHAR"), "BOOLEAN": ("BOOLEAN",)}.get(target, (given,))
    if _nested_type(given) or given not in fitting:
        return f"is of type {given}, which does not fit {target}; convert it"
    return None


def one_line(message: object) -> str:
    """The first line of a DuckDB message; the others quote the statement."""
    return str(message).strip().splitlines()[0].strip()


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """All expression nodes of a parsed expression."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from _parts(child)


# --- records to events


@dataclass(frozen=True)
class Cell:
    """Where a file keeps a column: SQL for its value, and its DuckDB type ("text" for CSV, "json" for NDJSON).

    For "json", `kind` is SQL for the value's JSON type and `sql` the value as text.
    """

    sql: str
    type: str
    kind: str = ""


@dataclass(frozen=True)
class Records:
    """A relation of records: `sql` is a FROM item with the columns `__rn`, `__damage`, `__raw` and those of the cells."""

    sql: str
    cells: Mapping[str, Cell]
    extra: str = "'{}'::json"


def prepare(con: duckdb.DuckDBPyConnection) -> None:
    """Make the helpers on a connection; text without a zone is read as UTC."""
    con.execute("set timezone = 'UTC'")
    try:
        con.execute("select is_object('{}')").fetchall()
    except duckdb.CatalogException:
        # Once a connection: making them takes 11 ms, which a stream of small files would pay for each.
        con.execute(";".join(f"create temp macro {head} as ({body})" for head, body in HELPERS.items()))


def mapped_select(source: Source, records: Records, tenant: str | None, received_at: datetime) -> str:
    """The SELECT that gives `mapped` for a table source. Where types agree it is nothing but column references."""
    values, wrongs = [], []
    for name, column in source.columns.items():
        cell = records.cells.get(name)
        values.append(f"{_converted(column.type, cell) if cell else f'null::{TYPES[column.type]}'} as {identifier(name)}")
        if cell and (wrong := _mismatch(name, column.type, cell)):
            wrongs.append(f"when {wrong} then {literal('wrong_type:' + name)}")
    wrong_type = f"case when __damage is not null then __damage {' '.join(wrongs)} end" if wrongs else "__damage"
    # Binding what nobody uses would cost more than reading a small file.
    whole = struct({name: identifier(name) for name in source.columns})
    digest = f"md5(to_json({whole})::varchar)" if source.uses("line_digest") else "null::varchar"
    extra = records.extra if source.uses("extra_columns") else "null::json"
    fields, faults = _fields(source, records, tenant, received_at)
    rejects = [
        # A condition that cannot be evaluated is no pass.
        f"when coalesce(try(coalesce(({rejection.when}\n), false)), true) then {literal(rejection.reason)}"
        for rejection in source.reject
    ]
    whens = [*faults, *rejects]
    # `coalesce`, since a CASE would judge twice: once to ask and once to answer.
    reason = f"coalesce(__reason, case {' '.join(whens)} end)" if whens else "__reason"
    computed = ", ".join(f"{value} as {identifier('__field:' + name)}" for name, value in fields.items())
    columns = ", ".join(f"{unless_blank(name, identifier('__field:' + name))} as {identifier(name)}" for name in fields)
    # A level for each step: written in one, a value would be computed again wherever it is judged or used.
    typed = f"select *, {', '.join(values)} from {records.sql}"
    judged = f"select *, {wrong_type} as __reason, {digest} as line_digest, {extra} as extra_columns from ({typed})"
    return f"select __rn::bigint as rn, {columns}, {reason} as reason, __raw as raw from (select *, {computed} from ({judged}))"


def unless_blank(name: str, sql: str) -> str:
    """SQL for a canonical column: an id without anything to see is missing."""
    return f"unless_blank({sql})" if name in IDS else sql


def found_columns(source: Source, cells: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Declared columns that a file has, with the file's own names, which may differ in case."""
    by_name = {name.casefold(): name for name in cells}
    return {name: by_name[name.casefold()] for name in source.columns if name.casefold() in by_name}


def kept_row(source: Source, cells: Mapping[str, tuple[str, str]]) -> str:
    """SQL for a row of typed cells (SQL and DuckDB type by name) as JSON that is judged, read as NDJSON, like the row."""
    found = found_columns(source, cells)
    declared = {name: _kept_cell(source.columns[name].type, *cells[own]) for name, own in found.items()}
    extra = {
        name: f"embedded({sql})" if type_ == "VARCHAR" else sql
        for name, (sql, type_) in cells.items()
        if name not in found.values()
    }
    return f"to_json({struct(declared | extra)})::varchar"


def _kept_cell(declared: str, sql: str, type_: str) -> str:
    """SQL for a member of `kept_row`: text where a JSON value would be read as something else."""
    if declared == "text" and type_ == "BLOB":
        # Bytes that are no text are no text as an object either.
        return (
            f"case when {sql} is null then null when try(decode({sql})) is null "
            f"then to_json({{'base64': to_base64({sql})}}) else to_json(decode({sql})) end"
        )
    if type_ == "JSON":
        return f"{sql}::varchar" if declared == "json" else sql
    if declared in ("text", "json"):
        return sql if type_ == "VARCHAR" else f"{_converted(declared, Cell(sql, type_))}::varchar"
    if declared == "bigint" and type_ in ("DOUBLE", "FLOAT"):
        whole = f"case when {sql} = trunc({sql}) then try_cast({sql} as bigint) end"
        return f"case when ({whole}) is null then to_json({sql}) else to_json({whole}) end"
    # A number of JSON is a double to most who read it.
    return f"{sql}::varchar" if type_.startswith("DECIMAL") or type_ in ("HUGEINT", "UHUGEINT", "UBIGINT") else sql


def absent_fields(source: Source, records: Records) -> frozenset[str]:
    """Canonical columns that nothing in these records can fill: not mapped, or made from an optional column not there."""
    lacking = {name.casefold() for name in source.columns if name not in records.cells}
    mapped = {name: source.fields.get(name) for name in _CANONICAL if name not in ("tenant_id", "received_at")}
    return frozenset(name for name, sql in mapped.items() if sql is None or sql.strip().casefold() in lacking)


def _fields(source: Source, records: Records, tenant: str | None, received_at: datetime) -> tuple[dict[str, str], list[str]]:
    """SQL for each canonical column, and the conditions (over `__field:<name>`) under which one could not be computed."""
    fields, faults = {}, []
    declared = {name.casefold(): TYPES[column.type] for name, column in source.columns.items()}
    texts = {name.casefold(): cell.sql for name, cell in records.cells.items() if cell.type in ("VARCHAR", "JSON")}
    for name, type_ in _CANONICAL.items():
        expression = source.fields.get(name)
        if expression is None:
            fields[name] = f"null::{type_}"
            continue
        reference, field = expression.strip().casefold(), identifier("__field:" + name)
        given = declared.get(reference)
        if given == type_:
            fields[name] = expression
        elif given == "JSON" and type_ == "VARCHAR":
            # The text as it stands in the file: making JSON of it first would parse what is only passed on.
            fields[name] = f"{texts.get(reference, expression)}::varchar"
        else:
            # `try` keeps one hostile value from failing the whole slice; the fault says that the value is missing.
            fields[name] = f"try(cast(({expression}\n) as {type_}))"
            fault = f"case when {field} is null then coalesce(try(({expression}\n) is not null), true) else false end"
            faults.append(f"when {fault} then {literal('wrong_type:' + name)}")
        if name in ("properties", "context"):
            # A declared JSON column has been checked to be JSON; of anything else nothing is known.
            passes = f"{field} like '{{%'" if given == "JSON" else f"{field} = '{{}}'"
            judged = f"case when {field} is null or {passes} then true else is_object({field}) end"
            faults.append(f"when not {judged} then {literal('wrong_type:' + name)}")
    if tenant is not None:
        if "tenant_id" in source.fields:
            named = unless_blank("tenant_id", fields["tenant_id"])
            faults.append(f"when {named} <> {literal(tenant)} then 'tenant_mismatch'")
        fields["tenant_id"] = literal(tenant)
    fields["received_at"] = f"coalesce({fields['received_at']}, {moment(received_at)})"
    return fields, faults


def moment(value: datetime) -> str:
    """A time as an SQL literal, in UTC."""
    naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    return f"timestamp {literal(naive.isoformat(sep=' '))}"


def struct(members: Mapping[str, str]) -> str:
    """SQL for a struct with these members."""
    return "{" + ", ".join(f"{literal(name)}: {sql}" for name, sql in members.items()) + "}" if members else "map()"


def _converted(declared: str, cell: Cell) -> str:
    """SQL for a cell in its declared type; null where it holds something else."""
    value, type_, target = cell.sql, cell.type, TYPES[declared]
    if type_ == "text" or (declared == "json" and type_ in ("VARCHAR", "JSON")):
        return _from_text(declared, value)
    if type_ == "json":
        if declared == "json":
            # Text in it must be JSON, as in the other formats.
            text = _from_text(declared, value)
            return f"case when {cell.kind} = 'VARCHAR' then {text} when not has_nan({value}) then {value}::json end"
        scalar = f"case when {cell.kind} not in ('OBJECT', 'ARRAY') then {value} end"
        return scalar if declared == "text" else _from_text(declared, f"({scalar})")
    if type_ == target:
        return value
    if declared == "text":
        value = f"try(decode({value}))" if type_ == "BLOB" else f"to_json({value})" if _nested_type(type_) else value
        return f"{value}::varchar"
    if declared == "json":
        return f"to_json({value})"
    if declared == "timestamp" and type_ == "TIMESTAMP WITH TIME ZONE":
        return f"timezone('UTC', {value})"
    if (declared == "timestamp" and type_ in _TIMES) or (declared != "timestamp" and type_ in _INTEGERS):
        return f"try_cast({value} as {target})"
    if declared in ("double", "decimal") and type_ in ("DOUBLE", "FLOAT"):
        return f"case when isfinite({value}) then try_cast({value} as {target}) end"
    if declared == "bigint" and type_ in ("DOUBLE", "FLOAT"):
        return f"case when {value} = trunc({value}) then try_cast({value} as bigint) end"
    return _from_text(declared, f"{value}::varchar")


def _mismatch(name: str, declared: str, cell: Cell) -> str | None:
    """The condition, over the cell and its converted value, under which the cell holds something else."""
    if declared == "timestamp" and cell.type in (*_TIMES, "TIMESTAMP WITH TIME ZONE"):
        return f"{cell.sql} is not null and coalesce({identifier(name)} not between {_FIRST_TIME} and {_LAST_TIME}, true)"
    if declared == "double" and cell.type == "DOUBLE":
        return f"not isfinite({cell.sql})"
    if declared == "json" and cell.type not in ("text", "json"):
        text = cell.sql if cell.type in ("VARCHAR", "JSON") else f"{identifier(name)}::varchar"
        return f"{cell.sql} is not null and not is_json({text})"
    if cell.type == TYPES[declared] or (declared == "text" and cell.type not in ("json", "BLOB")):
        return None
    present = f"nullif({cell.sql}, '')" if cell.type == "text" else cell.sql
    return f"{present} is not null and {identifier(name)} is null"


def _nested_type(type_: str) -> bool:
    return type_.endswith("]") or type_.startswith(_NESTED)


def _from_text(declared: str, text: str) -> str:
    if declared == "text":
        return f"nullif({text}, '')"
    if declared == "json":
        return f"case when is_json({text}) then try_cast({text} as json) end"
    if declared == "boolean":
        return f"try_cast({text} as boolean)"
    return f"as_{ {'timestamp': 'time'}.get(declared, declared) }({text})"
