"""`analytics sql`: a query on a published version, which can read its files and nothing else."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.commands.common import DONE, asking, audit_log, echo_json, json_option, settings
from analytics_assets.console import counted, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.audit.log import Act
    from analytics_assets.telemetry.queries import Asked


@click.command()
@click.argument("query")
@click.option("--version", type=int, help="A kept version instead of the current one.")
@click.option("--rows", "most", type=click.IntRange(1), default=50, show_default=True, help="Rows to show; JSON has all.")
@json_option
def sql(query: str, version: int | None, most: int, as_json: bool) -> int:
    """Run QUERY read-only on the published DuckDB.

    With --json a row is an object: decimals are strings, so that money stays exact; NaN and infinity are null; the second
    column of the same name is numbered.
    """
    import duckdb

    from analytics_assets.privacy.lookups import shown
    from analytics_assets.privacy.queries import Query

    try:
        with _published(version) as (con, files), _recorded(con, query, version) as (act, asked):
            if not _only_reads(con, query):
                raise UserError(
                    "one SELECT at a time (or FROM, WITH, PIVOT, DESCRIBE, SUMMARIZE, SHOW): this command only reads"
                )
            if past := Query(con, query).past(files):
                raise UserError(f"this command reads published tables alone, and the query names {past}; leave that out")
            result = con.execute(query)
            names = [column[0] for column in result.description or []]
            rows = result.fetchall() if as_json else result.fetchmany(most + 1)
            asked.answered(len(rows if as_json else rows[:most]))
            details, act.subjects = shown(con, query, names, rows if as_json else rows[:most])
            act.details |= details
    except duckdb.Error as error:
        raise UserError(str(error).split("\n\n")[0].replace("\n", " ")) from error
    if as_json:
        keys = _numbered(names)
        echo_json([dict(zip(keys, map(_json_value, row), strict=True)) for row in rows])
        return DONE
    show(names, rows[:most], tall=True)
    more = f"the first {most:,} rows; --rows shows more, --json all" if len(rows) > most else ""
    say(more or counted(len(rows), "row"), err=True)
    return DONE


@contextmanager
def _recorded(con: "duckdb.DuckDBPyConnection", query: str, version: int | None) -> "Iterator[tuple[Act, Asked]]":
    """Around a query: recorded before it runs, and whom it showed before anybody sees that; and what it took."""
    from analytics_assets.privacy.lookups import shape, tables

    words, values = shape(con, query)
    number = version or con.execute("select max(version) from published_tables").fetchall()[0][0]
    named = tables(con, query)
    recorded = audit_log().act("query", tables=named, subjects=values, query=words, details={"version": number})
    with recorded as act, asking(words, act, version=number, tables=named) as asked:
        yield act, asked


@contextmanager
def _published(version: int | None) -> "Iterator[tuple[duckdb.DuckDBPyConnection, set[str]]]":
    """A published version that reads exactly the files its views name, and nothing else on this machine; and these files."""
    import duckdb

    from analytics_assets.warehouse.home import Home
    from analytics_assets.warehouse.publish import current_path, version_path
    from analytics_assets.warehouse.spec import literal

    home = Home(settings().home)
    path = version_path(home, version) if version is not None else current_path(home)
    if not path.exists():
        missing = f"version {version} is not kept" if version is not None else "nothing is published yet"
        raise UserError(f"{missing}; see `analytics versions`" if version is not None else f"{missing}; run `analytics demo`")
    with duckdb.connect(str(path), read_only=True) as con:
        views = con.execute("select sql from duckdb_views() where not internal").fetchall()
        named = {text.replace("''", "'") for (sql,) in views for text in re.findall(r"'((?:[^']|'')*[.]parquet)'", sql)}
        if not all(Path(file).exists() for file in named):
            raise UserError("the published file names files that are gone; after moving a data home run `analytics publish`")
        con.execute(f"set allowed_paths = [{', '.join(map(literal, sorted(named)))}]")
        con.execute("set enable_external_access = false")
        con.execute("set lock_configuration = true")
        yield con, named


def _only_reads(con: "duckdb.DuckDBPyConnection", query: str) -> bool:
    """Whether the query is one that cannot write: the settings of the connection would let COPY write where it may read."""
    import duckdb

    statements = con.extract_statements(query)
    if len(statements) != 1:
        return False
    # DuckDB makes several statements of a PIVOT, also of one inside a COPY: there the first word tells.
    pivot = statements[0].type == duckdb.StatementType.MULTI and re.match(
        r"\s*(pivot|select|from|with)\b", query, re.IGNORECASE
    )
    return bool(pivot) or statements[0].type == duckdb.StatementType.SELECT


def _numbered(names: Sequence[str]) -> list[str]:
    """Names as keys of one object: `n`, `n_2`."""
    keys: list[str] = []
    for name in names:
        number, key = 1, name
        while key in keys:
            number += 1
            key = f"{name}_{number}"
        keys.append(key)
    return keys


def _json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity, also inside lists and structs."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(inner) for inner in value]
    return value
