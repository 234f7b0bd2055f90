"""The `analytics` command: what a person or a script does with a data home without opening the UI.

Answers stand on standard output, progress and errors on standard error. Commands import what they need when they run, so
that `--help` and `sql` answer at once.
"""

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.commands.audit import audit
from analytics_assets.commands.backup import backup, drill
from analytics_assets.commands.common import (
    DONE,
    FAILED,
    REFUSED,
    SET_ASIDE,
    audit_log,
    echo_json,
    json_option,
    pipeline,
    settings,
)
from analytics_assets.commands.erase import erase
from analytics_assets.commands.explain import explain_number
from analytics_assets.commands.export import export
from analytics_assets.commands.gate import gate
from analytics_assets.commands.guard import guard
from analytics_assets.commands.privacy import privacy
from analytics_assets.commands.quality import quality
from analytics_assets.commands.queue import queue
from analytics_assets.commands.rejected import rejected
from analytics_assets.commands.sql import sql
from analytics_assets.commands.telemetry import telemetry
from analytics_assets.commands.tuning import tuning
from analytics_assets.console import running, say, show, show_batches
from analytics_assets.settings import PROJECT, UserError
from analytics_assets.status import sentence_of, show_demo, show_state, state_of
from analytics_assets.warehouse.home import Home

if TYPE_CHECKING:
    from analytics_assets.events.intake import BatchReport

SAMPLE = PROJECT / "data" / "sample"
_SAMPLE_FILES = (
    (SAMPLE / "online_retail" / "online_retail.parquet", "online_retail", None),
    (SAMPLE / "snowplow_web" / "events.csv", "snowplow", "snowplow-web"),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.option("--as", "as_zone", metavar="ZONE", help="Do no more than this zone of zones.yaml may; so does ANALYTICS_ROLE.")
@click.pass_context
def cli(context: click.Context, debug: bool, as_zone: str | None) -> None:
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
        done = jobs.refresh()
    changed = done.version or bool(done.files)
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
    # Before a run begins: one that fails counts as work that is held up.
    settings().confirm_tenant(tenant)
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
        done = jobs.refresh(release=True)
    version = current_version(pipeline().home)
    if version is None:
        raise UserError("there is nothing to publish yet; run `analytics demo` or `analytics ingest` first")
    if as_json:
        files = {"written": done.written, "removed": done.removed}
        echo_json({"version": version, "changed": done.version, "role_files": files})
    else:
        stays = f"version {version} stays"
        said = f"published version {version}" if done.version else stays if done.files else f"nothing changed: {stays}"
        say("; ".join([said, *done.files]))
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
    from analytics_assets.outgoing import keep_role_files
    from analytics_assets.warehouse.publish import rollback as roll_back

    stages = pipeline()
    with audit_log().act("rollback", reason=reason) as act:
        act.details["version"] = target = roll_back(stages.home, version, now=utc_now(), reason=reason)
    keep_role_files(stages.settings, stages.specs, stages.table)
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

    chosen = settings()
    landing = Home(chosen.home).landing
    for tenant in chosen.tenants:
        (landing / tenant).mkdir(exist_ok=True)
    say(f"starting Dagster; it loads what is dropped into {landing}/<tenant>/", err=True)
    return FAILED if serve(chosen, port, lambda text: say(text, err=True)) else DONE


@cli.command()
@click.option("--parent", type=int, hidden=True, help="End with this process.")
def worker(parent: int | None) -> int:
    """Load what lands and publish it, in one warm process.

    `analytics dev` starts one. Alone it serves a data home without Dagster's UI. Ctrl-C (or SIGTERM) ends it.
    """
    from analytics_assets.defs.worker import serve

    chosen = settings()
    for tenant in chosen.tenants:
        (Home(chosen.home).landing / tenant).mkdir(exist_ok=True)
    goes_on = serve(chosen, lambda text: say(text, err=True), explain, parent=parent)
    sys.stderr.flush()
    if goes_on and parent is None:
        os.execv(sys.executable, sys.orig_argv)
    # At the interpreter's end DuckDB's binding reports what Dagster still refers to: a page of leaks, which nobody asked for.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return DONE


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
@click.option("--all", "everything", is_flag=True, help="Also every published table, and every tenant.")
@click.option("--sentence", is_flag=True, help="Only the sentence that customers may be told.")
@click.option("--tenant", help="With --sentence: the tenant who is told; else all of them together.")
@json_option
def status(everything: bool, sentence: bool, tenant: str | None, as_json: bool) -> int:
    """How fresh everything is, what is broken, what is being done, how much error budget is left."""
    if tenant is not None and not sentence:
        raise click.UsageError("--tenant goes with --sentence")
    stages = pipeline()
    if sentence:
        told = sentence_of(stages, tenant)
        if as_json:
            echo_json({"tenant": tenant, "sentence": told})
        else:
            say(told)
        return DONE
    state = state_of(stages)
    if as_json:
        echo_json(state)
    else:
        show_state(state, everything)
    return DONE


_COMMANDS = (
    audit, backup, drill, erase, explain_number, export, gate, privacy, quality, queue, rejected, sql, telemetry, tuning,
)  # fmt: skip
for _command in _COMMANDS:
    cli.add_command(_command)
guard(cli)


if __name__ == "__main__":
    main()
