"""`analytics sql`: a query on a published version, which reads nothing else, and nothing of persons unless that is said."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.commands.common import DONE, asking, audit_log, echo_json, json_option, settings
from analytics_assets.commands.guard import acting_in
from analytics_assets.console import counted, say, show
from analytics_assets.settings import Denied, UserError

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.audit.log import Act
    from analytics_assets.telemetry.queries import Asked

_CURE = "ask `analytics export` about groups of people, or add --unmasked and a --reason, which are recorded"


@click.command()
@click.argument("query")
@click.option("--version", type=int, help="A kept version instead of the current one.")
@click.option("--rows", "most", type=click.IntRange(1), default=50, show_default=True, help="Rows to show; JSON has all.")
@click.option("--unmasked", is_flag=True, help="Also what tells of persons; needs --reason, and both are recorded.")
@click.option("--reason", help="Why persons must be seen.")
@json_option
def sql(query: str, version: int | None, most: int, unmasked: bool, reason: str | None, as_json: bool) -> int:
    """Run QUERY read-only on the published DuckDB.

    It reads what tells of nobody: the tables in which the pipeline notes its own work, without columns that are more than
    operational. `analytics export` answers about groups of people, and --unmasked reads all tables.

    With --json a row is an object: decimals are strings, so that money stays exact; NaN and infinity are null; the second
    column of the same name is numbered.
    """
    import duckdb

    from analytics_assets.privacy.lookups import shown
    from analytics_assets.privacy.queries import Query

    if unmasked != bool(reason and len(reason.strip()) >= 3):
        raise click.UsageError("--unmasked and --reason go together, and the reason takes at least 3 characters")
    left_out = list[str]()
    try:
        with _published(version, unmasked) as (con, files), _recorded(con, query, version, reason) as (act, asked):
            if not _only_reads(con, query):
                raise UserError(
                    "one SELECT at a time (or FROM, WITH, PIVOT, DESCRIBE, SUMMARIZE, SHOW): this command only reads"
                )
            if past := Query(con, query).past(files):
                raise UserError(f"this command reads published tables alone, and the query names {past}; leave that out")
            if unmasked:
                _confirm_zone()
                _close(con, files)
            else:
                left_out = _without_persons(con, query)
                _close(con, ())
            result = _asked(con, query, left_out)
            names = [column[0] for column in result.description or []]
            rows = result.fetchall() if as_json else result.fetchmany(most + 1)
            takes_all = Query(con, query).takes_all
            asked.answered(len(rows if as_json else rows[:most]))
            details, act.subjects = shown(con, query, names, rows if as_json else rows[:most])
            act.details |= details
    except duckdb.Error as error:
        raise UserError(str(error).split("\n\n")[0].replace("\n", " ")) from error
    if left_out and takes_all:
        say(f"left out, since it may tell of persons: {', '.join(left_out)}", err=True)
    if as_json:
        keys = _numbered(names)
        echo_json([dict(zip(keys, map(_json_value, row), strict=True)) for row in rows])
        return DONE
    show(names, rows[:most], tall=True)
    more = f"the first {most:,} rows; --rows shows more, --json all" if len(rows) > most else ""
    say(more or counted(len(rows), "row"), err=True)
    return DONE


def _confirm_zone() -> None:
    for zone in acting_in():
        raise Denied(f"zone '{zone}' may not see rows of persons; leave --unmasked out, or ask `analytics export`")


def _without_persons(con: "duckdb.DuckDBPyConnection", query: str) -> list[str]:
    """Leave on the connection what tells of nobody; returns the columns, as `table.column`, that the query's tables lack then.

    Raises Denied if it reads a table that tells of persons.
    """
    from analytics_assets.privacy.lookups import tables
    from analytics_assets.privacy.nameless import keep_only, nameless
    from analytics_assets.privacy.taxonomy import Taxonomy

    taxonomy: Taxonomy = Taxonomy.load(settings().config / "taxonomy.yaml")
    known, named = nameless(taxonomy), tables(con, query)
    if telling := [table for table in named if not known.get(table)]:
        raise Denied(f"{telling[0]} tells of persons; {_CURE}")
    left_out = keep_only(con, known)
    return [f"{table}.{column}" for table in named for column in left_out.get(table, ())]


def _asked(con: "duckdb.DuckDBPyConnection", query: str, left_out: Sequence[str]) -> "duckdb.DuckDBPyConnection":
    """The result of a query. Raises Denied if it names a column that was left out."""
    import duckdb

    try:
        return con.execute(query)
    except duckdb.BinderException as error:
        if named := next((name for name in left_out if f'"{name.partition(".")[2]}"' in str(error)), None):
            raise Denied(f"{named} may tell of persons; {_CURE}") from error
        raise


@contextmanager
def _recorded(
    con: "duckdb.DuckDBPyConnection", query: str, version: int | None, reason: str | None
) -> "Iterator[tuple[Act, Asked]]":
    """Around a query: recorded before it runs, and whom it showed before anybody sees that; and what it took."""
    from analytics_assets.privacy.lookups import shape, tables

    words, values = shape(con, query)
    number = version or con.execute("select max(version) from published_tables").fetchall()[0][0]
    named = tables(con, query)
    details = {"version": number, "unmasked": bool(reason)}
    recorded = audit_log().act("query", tables=named, subjects=values, query=words, reason=reason, details=details)
    with recorded as act, asking(words, act, version=number, tables=named) as asked:
        yield act, asked


@contextmanager
def _published(version: int | None, unmasked: bool) -> "Iterator[tuple[duckdb.DuckDBPyConnection, set[str]]]":
    """A published version, which `_without_persons` can let go of unless it is read `unmasked`, and the files of its views."""
    import duckdb

    from analytics_assets.privacy.nameless import attached
    from analytics_assets.warehouse.home import Home
    from analytics_assets.warehouse.publish import current_path, version_path

    home = Home(settings().home)
    path = version_path(home, version) if version is not None else current_path(home)
    if not path.exists():
        missing = f"version {version} is not kept" if version is not None else "nothing is published yet"
        raise UserError(f"{missing}; see `analytics versions`" if version is not None else f"{missing}; run `analytics demo`")
    with duckdb.connect(str(path), read_only=True) if unmasked else attached(str(path)) as con:
        views = con.execute("select sql from duckdb_views() where not internal").fetchall()
        named = {text.replace("''", "'") for (sql,) in views for text in re.findall(r"'((?:[^']|'')*[.]parquet)'", sql)}
        if not all(Path(file).exists() for file in named):
            raise UserError("the published file names files that are gone; after moving a data home run `analytics publish`")
        yield con, named


def _close(con: "duckdb.DuckDBPyConnection", files: Collection[str]) -> None:
    """From here on the connection reads these files and nothing else on this machine."""
    from analytics_assets.warehouse.spec import literal

    con.execute(f"set allowed_paths = [{', '.join(map(literal, sorted(files)))}]")
    con.execute("set enable_external_access = false")
    con.execute("set lock_configuration = true")


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
