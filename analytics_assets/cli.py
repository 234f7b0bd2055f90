"""The `analytics` command: what a person or a script does with a data home without opening the UI.

Answers stand on standard output, progress and errors on standard error. Commands import what they need when they run, so
that `--help` and `sql` answer at once.
"""

import errno
import json
import math
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.console import counted, running, say, show, show_batches, show_demo, show_state, state_of
from analytics_assets.settings import PROJECT, Settings, UserError

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.events.intake import BatchReport
    from analytics_assets.pipeline import Pipeline

DONE, FAILED, USAGE, REFUSED, SET_ASIDE = 0, 1, 2, 3, 4
SAMPLE = PROJECT / "data" / "sample"
_SAMPLE_FILES = (
    (SAMPLE / "online_retail" / "online_retail.parquet", "online_retail", None),
    (SAMPLE / "snowplow_web" / "events.csv", "snowplow", "snowplow-web"),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Customer analytics that can be trusted: events in, one published DuckDB version out.

    Everything lies under one data home: data/ of the project, or the folder that ANALYTICS_HOME names.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 publish refused (the published version stays),
    4 a file was set aside.
    """
    context.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: an error is one line and an exit code; `--debug` shows the rest."""
    warnings.filterwarnings("ignore")
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(args=arguments, prog_name="analytics", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("analytics: stopped; what was committed stays, run it again to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(DONE)
    except Exception as error:
        if debug:
            raise
        say(f"analytics: {explain(error)}", err=True)
        sys.exit(REFUSED if is_refusal(error) else FAILED)
    sys.exit(code if isinstance(code, int) else DONE)


def is_refusal(error: BaseException) -> bool:
    """Whether a check refused a publish, looked for along the chain of causes."""
    return any(type(cause).__name__ in ("PublishRefused", "Waiting", "CheckFailed", "Failure") for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it. A cause that is raised again while its consequence is handled closes a circle."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def explain(error: BaseException) -> str:
    """One line for a person: what went wrong, and what to do where that is known."""
    chain = list(causes(error))
    # An asset that cannot go on raises Dagster's Failure with words for a person.
    known = next((cause for cause in chain if isinstance(cause, UserError) or type(cause).__name__ == "Failure"), None)
    if known:
        return str(known)
    # Dagster wraps what a step raised in words of its own.
    told = next((cause for cause in chain if not type(cause).__module__.startswith("dagster")), error)
    text = " ".join(str(told).split()) or type(told).__name__
    if any(map(_is_disk_full, chain)):
        return "the disk is full; free some space and run the same command again, nothing was lost or doubled"
    return f"{text} (run with --debug for the traceback)"


def _is_disk_full(error: BaseException) -> bool:
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "disk is full" in text:
        return True
    # SQLite, in which Dagster keeps its runs, does not say why it could not write.
    return "disk I/O error" in text and shutil.disk_usage(settings().home).free < 16 * 1024 * 1024


def settings() -> Settings:
    return Settings.from_env()


def pipeline() -> "Pipeline":
    from analytics_assets.pipeline import Pipeline

    return Pipeline(settings())


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, default=str, indent=2))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)


# Commands that change something


@cli.command()
@json_option
def demo(as_json: bool) -> int:
    """Run the whole way on the bundled real data.

    Load, sessions, marts, publish; a second run changes nothing.
    """
    stages = pipeline()
    with running(settings()) as jobs:
        known = [jobs.ingest(path, source, tenant).known_before for path, source, tenant in _SAMPLE_FILES]
        changed = jobs.refresh()
    # As they were loaded, also when that was long ago.
    loaded = [stages.report(path, source, tenant) for path, source, tenant in _SAMPLE_FILES]
    reports = [replace(report, known_before=before) for report, before in zip(loaded, known, strict=True) if report]
    if as_json:
        echo_json({"batches": [report.as_row() for report in reports], "changed": changed, **state_of(stages)})
    else:
        show_demo(stages, reports, changed)
    return DONE


@cli.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--source", required=True, help="Declared source that reads the file: online_retail, snowplow, segment, ...")
@click.option("--tenant", help="Tenant of all rows, where the source's mapping does not give it.")
@click.option("--publish/--no-publish", default=True, show_default=True, help="Rebuild the days it touches and publish.")
@json_option
def ingest(path: Path, source: str, tenant: str | None, publish: bool, as_json: bool) -> int:
    """Load a file or a folder of files, then publish.

    Loading the same file again changes nothing. A file that cannot be read at all is recorded with the reason and left
    where it is.
    """
    files = _files(path)
    reports: list[BatchReport] = []
    try:
        with running(settings()) as jobs:
            for file in files:
                reports.append(jobs.ingest(file, source, tenant))
            # Also where nothing is new: a run that was killed may have left days to rebuild.
            if publish and any(report.status != "set_aside" for report in reports):
                jobs.refresh()
    finally:
        # Also when the publish was refused: what was loaded stays loaded.
        _answer_batches(reports, as_json)
    return SET_ASIDE if any(report.status == "set_aside" for report in reports) else DONE


def _files(path: Path) -> list[Path]:
    """The file, or the files of a folder; says what it leaves out."""
    if not path.is_dir():
        return [path]
    inside = sorted(path.iterdir())
    files = [file for file in inside if file.is_file() and file.name[0] != "."]
    left = [file.name + ("/" if file.is_dir() else "") for file in inside if file not in files]
    if not files:
        raise click.UsageError(f"there is no file in {path}" + (f", only {', '.join(left)}" if left else ""))
    if left:
        say(f"left out: {', '.join(left)} (only the visible files directly in the folder are loaded)", err=True)
    return files


def _answer_batches(reports: "Sequence[BatchReport]", as_json: bool) -> None:
    if not reports:
        return
    if as_json:
        echo_json({"batches": [{**report.as_row(), "known_before": report.known_before} for report in reports]})
    else:
        show_batches(reports)
    for report in reports:
        if report.status == "set_aside":
            say(f"analytics: {report.file} was set aside: {report.reason}", err=True)


@cli.command()
@json_option
def publish(as_json: bool) -> int:
    """Rebuild the days that wait, then publish.

    This also releases publishing after a rollback.
    """
    from analytics_assets.warehouse.publish import current_version

    with running(settings()) as jobs:
        changed = jobs.refresh(release=True)
    version = current_version(pipeline().home)
    if version is None:
        raise UserError("there is nothing to publish yet; run `analytics demo` or `analytics ingest` first")
    if as_json:
        echo_json({"version": version, "changed": changed})
    else:
        say(f"published version {version}" if changed else f"nothing changed: version {version} stays")
    return DONE


@cli.command()
@click.argument("version", type=int, required=False)
@click.option("--reason", default="by hand", show_default=True, help="Why, kept in the history.")
@json_option
def rollback(version: int | None, reason: str, as_json: bool) -> int:
    """Show readers an older version and hold publishing.

    VERSION is the one before if it is not given. `analytics publish` releases publishing.
    """
    from analytics_assets.events.intake import utc_now
    from analytics_assets.warehouse.publish import rollback as roll_back

    stages = pipeline()
    target = roll_back(stages.home, version, now=utc_now(), reason=reason)
    if as_json:
        echo_json({"version": target, "held": True})
    else:
        click.echo(f"readers see version {target} again; publishing is held until `analytics publish`")
    return DONE


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI on 127.0.0.1.")
def dev(port: int) -> int:
    """Start Dagster's UI on loopback, with its daemon.

    They work on this data home. Ctrl-C (or SIGTERM) ends all their processes.
    """
    from analytics_assets.defs.ui import serve
    from analytics_assets.warehouse.home import Home

    chosen = settings()
    landing = Home(chosen.home).landing
    for tenant in chosen.tenants:
        (landing / tenant).mkdir(exist_ok=True)
    say(f"starting Dagster; it loads what is dropped into {landing}/<tenant>/", err=True)
    return FAILED if serve(chosen, port, lambda text: say(text, err=True)) else DONE


# Commands that look


@cli.command()
@json_option
def versions(as_json: bool) -> int:
    """List what was published and rolled back when."""
    from analytics_assets.warehouse import publish as publishing

    home = pipeline().home
    current, kept = publishing.current_version(home), publishing.versions(home)
    entries = publishing.history(home)
    if as_json:
        echo_json({"current": current, "kept": kept, "history": entries})
        return DONE
    if current is None:
        raise UserError("nothing is published yet; run `analytics demo` or `analytics ingest` first")
    rows = []
    for entry in entries:
        number = entry["version"]
        mark = "->" if number == current and entry is _last(entries, number) else ""
        events = entry.get("rows", {}).get("events")
        action = (
            entry["action"] if entry["action"] == "publish" else f"rollback from {entry['from_version']}: {entry['reason']}"
        )
        shown = f"{events:,}" if events is not None else None
        rows.append((mark, number, entry["published_at"][:19], action, shown, "yes" if number in kept else "no"))
    show(("", "version", "published (UTC)", "action", "events", "kept"), rows)
    return DONE


def _last(entries: list[dict[str, Any]], number: int) -> dict[str, Any]:
    return [entry for entry in entries if entry["version"] == number][-1]


@cli.command()
@json_option
def status(as_json: bool) -> int:
    """What is published, how fresh each tenant is, what waits."""
    stages = pipeline()
    state = state_of(stages)
    if as_json:
        echo_json(state)
    else:
        show_state(state)
    return DONE


@cli.group()
def rejected() -> None:
    """List or replay records that could not become events."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (("tenant", "Only of this tenant."), ("source", "Only of this source."), ("reason", "Only this reason.")):
        command = click.option(f"--{name}", help=text)(command)
    return command


@rejected.command("list")
@_filters
@click.option("--rows", type=click.IntRange(0), default=0, show_default=True, help="Also show this many records as they came.")
@json_option
def rejected_list(reason: str | None, source: str | None, tenant: str | None, rows: int, as_json: bool) -> int:
    """Count rejected records by source, tenant and reason."""
    from analytics_assets.events.tables import REJECTED

    stages = pipeline()
    with stages.connect() as con:
        select = stages.table(REJECTED).snapshot().select()
        where = "where ($1 is null or reason = $1) and ($2 is null or source = $2) and ($3 is null or tenant_id = $3)"
        counted = con.execute(
            f"select source, coalesce(tenant_id, '') as tenant, reason, count(*) as records, min(received_at) as first "
            f"from ({select}) {where} group by 1, 2, 3 order by 4 desc, 1, 2, 3",
            [reason, source, tenant],
        )
        counts = [dict(zip([c[0] for c in counted.description], row, strict=True)) for row in counted.fetchall()]
        examples = con.execute(
            f"select reason, raw from ({select}) {where} limit {int(rows)}", [reason, source, tenant]
        ).fetchall()
    if as_json:
        echo_json({"counts": counts, "records": [{"reason": name, "raw": raw} for name, raw in examples]})
        return DONE
    if not counts:
        click.echo("no rejected records")
        return DONE
    lines = [(c["source"], c["tenant"], c["reason"], f"{c['records']:,}", c["first"]) for c in counts]
    show(("source", "tenant", "reason", "records", "first seen (UTC)"), lines)
    for name, raw in examples:
        say(f"{name}: {raw[:500]}" + (f" ... ({len(raw):,} characters)" if len(raw) > 500 else ""))
    return DONE


@rejected.command("replay")
@_filters
@click.option("--apply", is_flag=True, help="Do it; without this the command only shows what would change.")
@json_option
def rejected_replay(reason: str | None, source: str | None, tenant: str | None, apply: bool, as_json: bool) -> int:
    """Try rejected records again, after a fix.

    A fix is a change of the mapping, of the tenants or of a limit.
    """
    from analytics_assets.events.intake import utc_now

    stages = pipeline()
    with stages.connect() as con:
        reports = stages.replay_rejected(con, utc_now(), reason=reason, source=source, tenant=tenant, dry_run=not apply)
    try:
        if apply and any(report.events for report in reports):
            with running(settings()) as jobs:
                jobs.refresh()
    finally:
        if as_json:
            echo_json({"applied": apply, "batches": [report.as_row() for report in reports]})
        elif reports:
            show_batches(reports)
    if not as_json and not (reports and apply):
        say("nothing was changed; run again with --apply to do it" if reports else "no rejected records match")
    return DONE


@cli.command()
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

    try:
        with _published(version) as con:
            if not _only_reads(con, query):
                raise UserError(
                    "one SELECT at a time (or FROM, WITH, PIVOT, DESCRIBE, SUMMARIZE, SHOW): this command only reads"
                )
            result = con.execute(query)
            names = [column[0] for column in result.description or []]
            rows = result.fetchall() if as_json else result.fetchmany(most + 1)
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
def _published(version: int | None) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A published version that reads exactly the files its views name, and nothing else on this machine."""
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
        yield con


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


if __name__ == "__main__":
    main()
