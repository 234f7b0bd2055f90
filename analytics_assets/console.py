"""What a person sees of a run: progress while it works, and tables when it is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.settings import Settings, UserError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from analytics_assets.pipeline import Pipeline


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
        if not found and self._stages.last_rebuild() is not None:
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


def batch_table(reports: Sequence[Any]) -> "RichTable":
    table = rich_table("file", "source", "tenant", "received", "rejected", "duplicates", "events", "seconds", "what happened")
    for report in reports:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected_by_reason.items())
        said = "loaded before, nothing changed" if report.known_before else report.reason or reasons or report.status
        table.add_row(
            report.file, report.source, report.tenant or "(by row)", f"{report.received:,}", f"{report.rejected:,}",
            f"{report.duplicates:,}", f"{report.events:,}", f"{report.seconds:.1f}", said,
        )  # fmt: skip
    return table


def state_of(stages: "Pipeline") -> dict[str, Any]:
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


def show_state(state: dict[str, Any]) -> None:
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


def show_demo(stages: "Pipeline", reports: Sequence[Any], changed: bool) -> None:
    state = state_of(stages)
    show(batch_table(reports))
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
    show_state(state)
    if not changed:
        click.echo("nothing changed: the same files were loaded before, and the published version stays")
    click.echo("\nlook at it:")
    click.echo(
        '  .venv/bin/analytics sql "select tenant_id, sum(revenue) as revenue from revenue_daily group by 1 order by 2 desc"'
    )
    click.echo(f"  duckdb -readonly {state['path']}    (or any DuckDB client)")
    click.echo("  make dev                            (the assets in Dagster's UI)")
