"""The `analytics` command: what a person or a script does with a data home without opening the UI.

Answers stand on standard output, progress and errors on standard error. Commands import what they need when they run, so
that `--help` and `sql` answer at once.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.settings import PROJECT, Settings, UserError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

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
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


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
        echo_json({"batches": [report.as_row() for report in reports], **_state(pipeline())})
    else:
        _show_demo(pipeline(), reports, changed)
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
        if publish and any(report.events for report in reports):
            jobs.refresh()
        elif publish and any(report.status != "set_aside" for report in reports):
            jobs.publish_if_built()
    if as_json:
        echo_json({"batches": [{**report.as_row(), "known_before": report.known_before} for report in reports]})
    else:
        show(_batch_table(reports))
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
    state = _state(pipeline())
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
    state = _state(stages)
    if as_json:
        echo_json(state)
    else:
        _show_state(state)
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
    show(_batch_table(reports))
    if not apply:
        click.echo("nothing was changed; run again with --apply to do it")
    return DONE


@cli.command()
@click.argument("query")
@click.option("--version", type=int, help="A kept version instead of the current one.")
@json_option
def sql(query: str, version: int | None, as_json: bool) -> int:
    """Run QUERY read-only on the published DuckDB."""
    import duckdb
    from rich.text import Text

    from analytics_assets.warehouse.home import Home
    from analytics_assets.warehouse.publish import current_path, version_path

    home = Home(settings().home)
    path = version_path(home, version) if version is not None else current_path(home)
    if not path.exists():
        missing = f"version {version} is not kept" if version is not None else "nothing is published yet"
        raise UserError(f"{missing}; see `analytics versions`" if version is not None else f"{missing}; run `analytics demo`")
    try:
        with duckdb.connect(str(path), read_only=True) as con:
            # A query may read the published files and nothing else on this machine, and change nothing.
            con.execute(f"set allowed_directories = ['{str(home.root).replace(chr(39), chr(39) * 2)}']")
            con.execute("set enable_external_access = false")
            con.execute("set lock_configuration = true")
            result = con.execute(query)
            names = [column[0] for column in result.description or []]
            rows = result.fetchall() if names else []
    except duckdb.Error as error:
        raise UserError(str(error).split("\n\n")[0].replace("\n", " ")) from error
    if as_json:
        echo_json([dict(zip(names, row, strict=True)) for row in rows])
        return DONE
    table = rich_table(*names)
    for row in rows:
        # Text, since rich would take square brackets in values for its own markup.
        table.add_row(*(Text("" if value is None else _shown(value)) for value in row))
    show(table)
    click.echo(f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}", err=True)
    return DONE


def _shown(value: object) -> str:
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


# Running jobs with progress


class Runner:
    """Jobs with a line or a bar for each."""

    def __init__(self, jobs: Any, stages: "Pipeline", note: Callable[[str], None]) -> None:
        self._jobs, self._stages, self._note = jobs, stages, note

    def ingest(self, path: Path, source: str, tenant: str | None) -> Any:
        """Load one file as a Dagster run; returns its BatchReport."""
        from analytics_assets.events.intake import utc_now

        self._stages.source(source)
        self._note(f"loading {path.name}")
        known = self._stages.known(path, source, tenant)
        if known:
            return known
        self._jobs.run("ingest", ops={"intake": {"path": str(path.resolve()), "source": source, "tenant": tenant}})
        report = self._stages.report(path, source, tenant)
        if report is None:
            raise UserError(f"{path.name} was loaded at {utc_now()} but its batch is not listed; run it again")
        return report

    def refresh(self, release: bool = False) -> bool:
        """Rebuild the days that wait, then publish; returns whether readers see a new version."""
        from analytics_assets.defs.partitions import range_tags
        from analytics_assets.events.days import ranges
        from analytics_assets.warehouse.publish import current_version

        before = current_version(self._stages.home)
        with self._stages.connect() as con:
            found = ranges(self._stages.pending(con))
        config = {"analytics_duckdb": {"release": release}}
        for days in found:
            first, last = days.first, days.last
            self._note(f"rebuilding {first}" + (f" to {last}" if last != first else ""))
            self._jobs.run("refresh", ops=config, tags=range_tags(days))
        if not found:
            self.publish_if_built(release)
        return current_version(self._stages.home) != before

    def publish_if_built(self, release: bool = False) -> None:
        """Publish without rebuilding; a data home without any event has nothing to publish."""
        self._jobs.run("publish", ops={"analytics_duckdb": {"release": release}})


@contextmanager
def running(chosen: Settings) -> Iterator[Runner]:
    """Jobs that run in this process and show progress on standard error: a bar in a terminal, lines otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    # Dagster takes seconds to import: say that something happens first.
    if console.is_terminal:
        bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(), console=console, transient=True,
        )  # fmt: skip
        with bars:
            task = bars.add_task("starting", total=None, count="")

            def note(text: str) -> None:
                bars.update(task, description=text, count="")

            def count(label: str, rows: int) -> None:
                bars.update(task, description=label, count=f"{rows:,} records")

            yield _runner(chosen, note, count)
    else:
        click.echo("starting", err=True)

        def say(text: str) -> None:
            click.echo(f"{datetime.now():%H:%M:%S} {text}", err=True)  # noqa: DTZ005 - a person's clock

        yield _runner(chosen, say, lambda label, rows: say(f"{label}: {rows:,} records"))


def _runner(chosen: Settings, note: Callable[[str], None], count: Callable[[str, int], None]) -> Runner:
    from analytics_assets.defs.resources import Progress
    from analytics_assets.defs.run import Jobs
    from analytics_assets.pipeline import Pipeline

    class Shown(Progress):
        @contextmanager
        def bar(self, context: Any, label: str) -> Iterator[Callable[[int], None]]:
            done = 0

            def advance(rows: int) -> None:
                nonlocal done
                done += rows
                count(label, done)

            yield advance

        def stage(self, text: str) -> None:
            note(text)

    return Runner(Jobs(chosen, {"progress": Shown()}), Pipeline(chosen), note)


# Showing


def rich_table(*columns: str) -> "RichTable":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    numbers = ("received", "rejected", "duplicates", "events", "sessions", "records", "rows", "version", "seconds")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def show(renderable: object) -> None:
    from rich.console import Console

    console = Console(soft_wrap=False)
    # A pipe has no width: let tables have what they need.
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(renderable, markup=False)


def _batch_table(reports: Sequence[Any]) -> "RichTable":
    table = rich_table("file", "source", "tenant", "received", "rejected", "duplicates", "events", "seconds", "what happened")
    for report in reports:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected_by_reason.items())
        said = "loaded before, nothing changed" if report.known_before else report.reason or reasons or report.status
        table.add_row(
            report.file, report.source, report.tenant or "(by row)", f"{report.received:,}", f"{report.rejected:,}",
            f"{report.duplicates:,}", f"{report.events:,}", f"{report.seconds:.1f}", said,
        )  # fmt: skip
    return table


def _state(stages: "Pipeline") -> dict[str, Any]:
    """What `status` tells: the published version, its tables, tenants, rejections and what waits."""
    import duckdb

    from analytics_assets.events.intake import utc_now
    from analytics_assets.warehouse import publish as publishing

    now = utc_now()
    current = publishing.current_version(stages.home)
    landed, refused = stages.landed(now)
    with stages.connect() as con:
        pending = stages.pending(con)
    state: dict[str, Any] = {
        "home": str(stages.home.root),
        "version": current,
        "held": publishing.held(stages.home),
        "days_waiting": len(pending),
        "files_waiting": len(landed),
        "files_refused": refused,
        "set_aside": sum(1 for _ in stages.home.set_aside.glob("*/*.reason.txt")),
        "tables": [],
        "tenants": [],
        "rejected": {},
    }
    if current is None:
        return state
    path = publishing.current_path(stages.home)
    state["path"] = str(path)
    with duckdb.connect(str(path), read_only=True) as con:
        state["tables"] = _records(con, "select * from published_tables order by all")
        state["tenants"] = _records(
            con,
            "select tenant_id as tenant, count(*) as events, max(timestamp) as data_through, "
            "max(received_at) as received_through from events group by 1 order by 2 desc, 1",
        )
        state["rejected"] = dict(
            con.execute("select reason, count(*) from rejected_events group by 1 order by 2 desc").fetchall()
        )
        state["sessions"] = con.execute("select count(*) from sessions").fetchall()[0][0]
        state["published_at"] = con.execute("select max(published_at) from published_tables").fetchall()[0][0]
    state["age_minutes"] = round((now - state["published_at"]).total_seconds() / 60, 1)
    return state


def _records(con: Any, query: str) -> list[dict[str, Any]]:
    result = con.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _show_state(state: dict[str, Any]) -> None:
    if state["version"] is None:
        click.echo(f"nothing is published in {state['home']}; run `analytics demo` or drop files into its landing folders")
    else:
        click.echo(f"version {state['version']} published {state['published_at']:%Y-%m-%d %H:%M:%S} UTC: {state['path']}")
        table = rich_table("table", "rows", "data through (UTC)")
        for line in state["tables"]:
            table.add_row(line["table"], f"{line['rows']:,}", str(line["data_through"])[:19])
        show(table)
        _show_tenants(state["tenants"])
    if state["held"]:
        click.echo(f"publishing is held since a rollback ({state['held']}); `analytics publish` releases it")
    waiting = [(state["days_waiting"], "day to rebuild", "days to rebuild"), (state["files_waiting"], "file", "files")]
    said = [f"{count:,} {one if count == 1 else many}" for count, one, many in waiting if count]
    click.echo(f"waiting: {', '.join(said)}" if said else "nothing waits")
    for line in state["files_refused"]:
        click.echo(f"not taken: {line}")


def _show_tenants(tenants: list[dict[str, Any]], most: int = 12) -> None:
    table = rich_table("tenant", "events", "data through (UTC)", "received (UTC)")
    for line in tenants[:most]:
        table.add_row(line["tenant"], f"{line['events']:,}", str(line["data_through"])[:19], str(line["received_through"])[:19])
    if len(tenants) > most:
        rest = tenants[most:]
        newest = max(str(line["data_through"])[:19] for line in rest)
        received = max(str(line["received_through"])[:19] for line in rest)
        table.add_row(f"{len(rest)} more", f"{sum(line['events'] for line in rest):,}", newest, received)
    show(table)


def _show_demo(stages: "Pipeline", reports: Sequence[Any], changed: bool) -> None:
    state = _state(stages)
    show(_batch_table(reports))
    received, rejected_rows = sum(r.received for r in reports), sum(r.rejected for r in reports)
    known = sum(line["events"] for line in state["tenants"])
    duplicates = received - rejected_rows - known
    table = rich_table("", "records")
    table.add_row("received", f"{received:,}")
    for reason, count in state["rejected"].items():
        table.add_row(f"rejected: {reason}", f"{count:,}")
    table.add_row("duplicates", f"{duplicates:,}")
    table.add_row("events", f"{known:,}")
    table.add_row("sessions", f"{state['sessions']:,}")
    show(table)
    _show_state(state)
    if not changed:
        click.echo("nothing changed: the same files were loaded before, and the published version stays")
    click.echo("\nlook at it:")
    click.echo(
        '  .venv/bin/analytics sql "select tenant_id, sum(revenue) as revenue from revenue_daily group by 1 order by 2 desc"'
    )
    click.echo(f"  duckdb -readonly {state['path']}    (or any DuckDB client)")
    click.echo("  make dev                            (the assets in Dagster's UI)")


if __name__ == "__main__":
    main()
