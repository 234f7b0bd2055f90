"""The `analytics` command: what a person or a script does with a data home without opening the UI.

Answers stand on standard output, progress and errors on standard error. Commands import what they need when they run, so
that `--help` and `sql` answer at once.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.console import batch_table, rich_table, running, show, show_demo, show_state, state_of
from analytics_assets.settings import PROJECT, Settings, UserError

if TYPE_CHECKING:
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
        click.echo(f"analytics: {explain(error)}", err=True)
        sys.exit(REFUSED if is_refusal(error) else FAILED)
    sys.exit(code if isinstance(code, int) else DONE)


def is_refusal(error: BaseException) -> bool:
    """Whether a check refused a publish, looked for along the chain of causes."""
    return any(type(cause).__name__ in ("PublishRefused", "Waiting") for cause in causes(error))


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
    known = next((cause for cause in chain if isinstance(cause, UserError)), None)
    if known:
        return str(known)
    text = " ".join(str(chain[-1] if len(chain) > 1 else error).split()) or type(error).__name__
    if any(getattr(cause, "errno", None) == 28 for cause in chain) or "No space left" in text:
        return "the disk is full; free some space and run the same command again, nothing was lost or doubled"
    return f"{text} (run with --debug for the traceback)"


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
    """Run the whole way on the bundled real data: load, sessions, marts, publish."""
    with running(settings()) as jobs:
        reports = [jobs.ingest(path, source, tenant) for path, source, tenant in _SAMPLE_FILES]
        changed = jobs.refresh()
    if as_json:
        echo_json({"batches": [report.as_row() for report in reports], **state_of(pipeline())})
    else:
        show_demo(pipeline(), reports, changed)
    return DONE


@cli.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--source", required=True, help="Declared source that reads the file: online_retail, snowplow, segment, ...")
@click.option("--tenant", help="Tenant of all rows, where the source's mapping does not give it.")
@click.option("--publish/--no-publish", default=True, show_default=True, help="Rebuild the days it touches and publish.")
@json_option
def ingest(path: Path, source: str, tenant: str | None, publish: bool, as_json: bool) -> int:
    """Load PATH (a file, or a folder of files), then publish what it changed.

    Loading the same file again changes nothing. A file that cannot be read at all is recorded with the reason and left
    where it is.
    """
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".") if path.is_dir() else [path]
    with running(settings()) as jobs:
        reports = [jobs.ingest(file, source, tenant) for file in files]
        # Also where nothing is new: a run that was killed may have left days to rebuild.
        if publish and any(report.status != "set_aside" for report in reports):
            jobs.refresh()
    if as_json:
        echo_json({"batches": [{**report.as_row(), "known_before": report.known_before} for report in reports]})
    else:
        show(batch_table(reports))
    for report in reports:
        if report.status == "set_aside":
            click.echo(f"analytics: {report.file} was set aside: {report.reason}", err=True)
    return SET_ASIDE if any(report.status == "set_aside" for report in reports) else DONE


@cli.command()
@json_option
def publish(as_json: bool) -> int:
    """Rebuild the days that wait and publish; also releases publishing after a rollback."""
    with running(settings()) as jobs:
        changed = jobs.refresh(release=True)
    state = state_of(pipeline())
    if as_json:
        echo_json({"version": state["version"], "changed": changed})
    else:
        click.echo(f"published version {state['version']}" if changed else f"nothing changed: version {state['version']} stays")
    return DONE


@cli.command()
@click.argument("version", type=int, required=False)
@click.option("--reason", default="by hand", show_default=True, help="Why, kept in the history.")
@json_option
def rollback(version: int | None, reason: str, as_json: bool) -> int:
    """Show readers VERSION (default: the one before) and hold publishing until `analytics publish`."""
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
@click.option("--port", default=3000, show_default=True, help="Port of the UI on 127.0.0.1.")
def dev(port: int) -> None:
    """Start Dagster's UI on loopback with its daemon, on this data home. Stop it with Ctrl-C."""
    import os

    from analytics_assets.defs.instance import configure
    from analytics_assets.warehouse.home import Home

    chosen = settings()
    for tenant in chosen.tenants:
        (Home(chosen.home).landing / tenant).mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(configure(Home(chosen.home).dagster)),
        "ANALYTICS_HOME": str(chosen.home),
        "ANALYTICS_CONFIG": str(chosen.config),
    }
    click.echo(f"http://127.0.0.1:{port}  drop files into {Home(chosen.home).landing}/<tenant>/", err=True)
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    sys.stderr.flush()
    # In the place of this process, so that signals reach Dagster.
    os.chdir(PROJECT)
    os.execve(sys.executable, command, environment)


# Commands that look


@cli.command()
@json_option
def versions(as_json: bool) -> int:
    """List the published versions that are kept, and the history of publishes and rollbacks."""
    from analytics_assets.warehouse import publish as publishing

    home = pipeline().home
    current, kept = publishing.current_version(home), publishing.versions(home)
    entries = publishing.history(home)
    if as_json:
        echo_json({"current": current, "kept": kept, "history": entries})
        return DONE
    if current is None:
        raise UserError("nothing is published yet; run `analytics demo` or `analytics ingest` first")
    table = rich_table("", "version", "published (UTC)", "action", "events", "kept")
    for entry in entries:
        number = entry["version"]
        mark = "->" if number == current and entry is _last(entries, number) else ""
        rows = entry.get("rows", {}).get("events")
        action = (
            entry["action"] if entry["action"] == "publish" else f"rollback from {entry['from_version']}: {entry['reason']}"
        )
        events = f"{rows:,}" if rows is not None else ""
        table.add_row(mark, str(number), entry["published_at"][:19], action, events, "yes" if number in kept else "no")
    show(table)
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
    """Records that could not become events: list them, or replay them after a fix."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (("tenant", "Only of this tenant."), ("source", "Only of this source."), ("reason", "Only this reason.")):
        command = click.option(f"--{name}", help=text)(command)
    return command


@rejected.command("list")
@_filters
@click.option("--rows", default=0, show_default=True, help="Also show this many records as they came.")
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
    table = rich_table("source", "tenant", "reason", "records", "first seen (UTC)")
    for line in counts:
        table.add_row(line["source"], line["tenant"], line["reason"], f"{line['records']:,}", str(line["first"])[:19])
    show(table)
    for name, raw in examples:
        click.echo(f"{name}: {raw[:500]}")
    return DONE


@rejected.command("replay")
@_filters
@click.option("--apply", is_flag=True, help="Do it; without this the command only shows what would change.")
@json_option
def rejected_replay(reason: str | None, source: str | None, tenant: str | None, apply: bool, as_json: bool) -> int:
    """Try rejected records again, after the mapping, a tenant or a limit was fixed."""
    from analytics_assets.events.intake import utc_now

    stages = pipeline()
    with stages.connect() as con:
        reports = stages.replay_rejected(con, utc_now(), reason=reason, source=source, tenant=tenant, dry_run=not apply)
    if apply and any(report.events for report in reports):
        with running(settings()) as jobs:
            jobs.refresh()
    if as_json:
        echo_json({"applied": apply, "batches": [report.as_row() for report in reports]})
        return DONE
    if not reports:
        click.echo("no rejected records match")
        return DONE
    show(batch_table(reports))
    if not apply:
        click.echo("nothing was changed; run again with --apply to do it")
    return DONE


@cli.command()
@click.argument("query")
@click.option("--version", type=int, help="A kept version instead of the current one.")
@click.option("--rows", "most", type=click.IntRange(1), default=50, show_default=True, help="Rows to show; JSON has all.")
@json_option
def sql(query: str, version: int | None, most: int, as_json: bool) -> int:
    """Run QUERY read-only on the published DuckDB."""
    import duckdb
    from rich.text import Text

    from analytics_assets.warehouse.home import Home
    from analytics_assets.warehouse.publish import current_path, version_path
    from analytics_assets.warehouse.spec import literal

    home = Home(settings().home)
    path = version_path(home, version) if version is not None else current_path(home)
    if not path.exists():
        missing = f"version {version} is not kept" if version is not None else "nothing is published yet"
        raise UserError(f"{missing}; see `analytics versions`" if version is not None else f"{missing}; run `analytics demo`")
    try:
        with duckdb.connect(str(path), read_only=True) as con:
            # A query may read the files of the published tables and nothing else on this machine. A setting alone would
            # also let COPY write there, so only SELECT (and what DuckDB turns into one: FROM, DESCRIBE, SUMMARIZE) runs.
            con.execute(f"set allowed_directories = [{literal(str(home.warehouse))}]")
            con.execute("set enable_external_access = false")
            con.execute("set lock_configuration = true")
            statements = con.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise UserError("one SELECT at a time: this command only reads")
            result = con.execute(query)
            names = [column[0] for column in result.description or []]
            rows = result.fetchall() if as_json else result.fetchmany(most + 1)
    except duckdb.Error as error:
        raise UserError(str(error).split("\n\n")[0].replace("\n", " ")) from error
    if as_json:
        echo_json([dict(zip(names, row, strict=True)) for row in rows])
        return DONE
    table = rich_table(*names)
    for row in rows[:most]:
        # Text, since rich would take square brackets in values for its own markup.
        table.add_row(*(Text("" if value is None else _shown(value)) for value in row))
    show(table)
    more = f"the first {most:,} rows; --rows shows more, --json all" if len(rows) > most else ""
    click.echo(more or f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}", err=True)
    return DONE


def _shown(value: object) -> str:
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
