"""Faults on the whole way from a file to what readers see: killed at every durable step, killed at random moments of a
command, and a disk that is full. Whatever happened, running it again gives the tables of a run that nothing disturbed.
"""

import ctypes
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analytics_assets import cli
from analytics_assets.events.schema import EVENTS
from analytics_assets.landing import Landed
from analytics_assets.marts.tables import mart_tables
from analytics_assets.warehouse import publish as publishing
from analytics_assets.warehouse.publish import current_path
from analytics_assets.warehouse.table import Table
from analytics_assets_tests.builders import Line, Opener, a_config, an_event, at, write_events
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.faults import FORK, ROUNDS, die, process, run, shown

SEED = 20260311

# Killed at every durable step


@contextmanager
def observed(at_step: Callable[[str], None]) -> Iterator[None]:
    """Say the name of each step that changes what is on disk for good, right before it is done."""

    def before(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def observing(*arguments: Any, **options: Any) -> Any:
            at_step(name(*arguments))
            return function(*arguments, **options)

        return observing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "commit", before(Table.commit, lambda table, *_: f"commit {table.spec.name}"))
        replace = before(publishing.replace_file, lambda _, target: f"rename {target.name.strip('v0123456789')}")
        patch.setattr(publishing, "replace_file", replace)
        patch.setattr(publishing, "_record", before(publishing._record, lambda *_: "record"))
        patch.setattr(shutil, "move", before(shutil.move, lambda *_: "move"))
        yield


def land(line: Line) -> None:
    for path in sorted((line.pipeline.home.landing / "acme").glob("*")):
        line.pipeline.load_landed(line.con, Landed(path, "acme", "canonical"), line.now)


def sessions(line: Line) -> None:
    line.sessions()


def marts(line: Line) -> None:
    line.pipeline.rebuild_marts(line.con, line.pipeline.pending(line.con))


def users(line: Line) -> None:
    line.pipeline.rebuild_users(line.con)


def publish(line: Line) -> None:
    line.publish()


def compact(line: Line) -> None:
    line.pipeline.compact(line.con, line.now)
    line.pipeline.sweep(line.con)


STAGES = (land, sessions, marts, users, publish, compact)


def killed_at(step: str, home: Path, config: Path, stage: Callable[[Line], None]) -> None:
    with Line.at(home, config) as line, observed(lambda name: die() if name == step else None):
        stage(line)


def a_batch(name: str, low: int, high: int) -> list[dict[str, object] | str]:
    events: list[dict[str, object] | str] = [
        an_event(
            f"m{n}",
            type="page" if n % 3 else "track",
            timestamp=at(n % 200, day=-(n % 3) * 20),
            anonymous_id=f"device-{n % 5}",
            user_id=f"user-{n % 3}" if n % 7 == 0 else None,
            revenue="2.50" if n % 3 == 0 else None,
        )
        for n in range(low, high)
    ]
    return [*events, f"no json in {name}"]


def begun(line: Line) -> Line:
    """A version is published, and a second batch waits: half of it known, on the same days."""
    line.load(a_batch("the first", 0, 60))
    line.rebuild()
    line.publish()
    write_events(line.pipeline.home.landing / "acme" / "second.ndjson", a_batch("the second", 30, 120))
    return line


def steps_of(line: Line, stage: Callable[[Line], None]) -> list[str]:
    """The steps of a stage that nothing disturbs, each once."""
    steps: list[str] = []
    with observed(steps.append):
        stage(line)
    return list(dict.fromkeys(steps))


Shown = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Undisturbed:
    """A home that has begun, and of a run that nothing disturbed: the steps of each stage, and what readers see at its end."""

    folder: Path
    steps: dict[str, list[str]]
    after: Shown

    def copy(self, folder: Path) -> Path:
        """Its declarations and its home, as `config` and `home`."""
        shutil.copytree(self.folder / "begun", folder, symlinks=True)
        return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    def make(folder: Path) -> None:
        config = a_config(folder / "begun" / "config")
        with Line.at(folder / "begun" / "home", config) as line:
            begun(line)
        shutil.copytree(folder / "begun" / "home", folder / "whole", symlinks=True)
        with Line.at(folder / "whole", config) as line:
            taken = {stage.__name__: steps_of(line, stage) for stage in STAGES}
            after = shown(current_path(line.pipeline.home))
        (folder / "told.json").write_text(json.dumps([taken, after]))

    folder = made_once(tmp_path_factory, "undisturbed", make)
    steps, after = json.loads((folder / "told.json").read_text())
    return Undisturbed(folder, steps, {table: (rows, of_rows) for table, (rows, of_rows) in after.items()})


@pytest.fixture
def line(undisturbed: Undisturbed, tmp_path: Path) -> Iterator[Line]:
    """A line that has begun, of its own."""
    folder = undisturbed.copy(tmp_path / "killed")
    with Line.at(folder / "home", folder / "config") as line:
        yield line


def test_killed_at_each_durable_step_and_run_again_the_tables_are_exact(line: Line, undisturbed: Undisturbed) -> None:
    path, after = current_path(line.pipeline.home), undisturbed.after
    before = shown(path)
    for stage in STAGES:
        steps = undisturbed.steps[stage.__name__]
        # dbt runs before each of the marts is replaced, which takes seconds.
        for step in steps if ROUNDS > 1 else steps[1::3] if stage is marts else steps[::2]:
            assert run(killed_at, step, line.home, line.pipeline.settings.config, stage) == -signal.SIGKILL, step
            assert shown(path) in (before, after), step
        stage(line)
    assert shown(path) == after != before
    assert [file.name.split("-", 1)[1] for file in (line.pipeline.home.received / "acme").iterdir()] == ["second.ndjson"]
    # Each table is replaced by a commit of its own; a publish judges what was not judged before.
    taken = {stage.__name__: len(undisturbed.steps[stage.__name__]) for stage in STAGES}
    assert [*taken.values()] == [4, 4, len(mart_tables()) + 1, 1, 5, 1], taken


def test_a_load_that_was_killed_is_finished_by_the_next_rebuild(line: Line, undisturbed: Undisturbed) -> None:
    """Its events are stored and its row is not: the rebuild must neither overlook its days nor publish without its row."""
    assert run(killed_at, "commit batches", line.home, line.pipeline.settings.config, land) == -signal.SIGKILL
    line.rebuild()
    line.publish()
    assert shown(current_path(line.pipeline.home)) == undisturbed.after


def test_users_are_made_before_they_are_shown_when_a_run_was_killed_after_the_marts(
    line: Line, undisturbed: Undisturbed
) -> None:
    """All days are built then, and nothing but the publish is left to do."""
    for stage in (land, sessions, marts):
        stage(line)
    line.publish()
    assert shown(current_path(line.pipeline.home)) == undisturbed.after
    assert line.publish().changed is False


# Killed at random moments of a command


def command(home: Path, config: Path, arguments: list[str], said: Any) -> None:
    """The `analytics` command, or `job NAME` for a job without one; what it prints goes to a file."""
    os.environ.update(ANALYTICS_HOME=str(home), ANALYTICS_CONFIG=str(config))
    from analytics_assets.cli import main
    from analytics_assets.defs.run import Jobs
    from analytics_assets.settings import Settings

    log = os.open(config.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    said.send("begin")
    if arguments[0] == "job":
        Jobs(Settings.from_env()).run(arguments[1])
    else:
        main(arguments)


class Command:
    """A command on a data home, run to its end or killed on the way."""

    def __init__(self, home: Path, config: Path, *arguments: object) -> None:
        self.home, self.config, self.arguments = home, config, [str(argument) for argument in arguments]

    def _start(self) -> Any:
        hear, say = FORK.Pipe(duplex=False)
        child = process(command, self.home, self.config, self.arguments, say)
        child.start()
        say.close()
        assert hear.recv() == "begin"
        return child

    def run(self) -> float:
        """To the end; returns its seconds."""
        child, began = self._start(), time.monotonic()
        child.join()
        assert child.exitcode == 0, (self.config.parent / "output.txt").read_text()
        return time.monotonic() - began

    def kill(self, delay: float, after: str | None = None) -> bool:
        """Kill it `delay` seconds after its start, or after its first commit to a table; returns whether it still ran."""
        log = self.home / "warehouse" / str(after) / "_delta_log"
        before = commits(log)
        child = self._start()
        while after and child.is_alive() and commits(log) == before:
            child.join(0.005)
        child.join(delay)
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), (self.config.parent / "output.txt").read_text()
        return child.exitcode != 0


def commits(log: Path) -> int:
    return len(list(log.glob("*.json"))) if log.exists() else 0


EVENTS_IN_FILE = 100_000


def a_large_file(path: Path) -> Path:
    """Events of two tenants and four days, with twins and with records of an unknown tenant."""
    moment = "timestamp '2026-03-01' + to_milliseconds((hash(id * 31) % (4 * 86400000))::bigint)"
    with duckdb.connect() as con:
        con.execute(
            "copy (select case id % 50 when 0 then 'nobody' when 1 then 'globex' else 'acme' end as tenant_id, "
            "'m' || id as message_id, case when id % 3 = 0 then 'track' else 'page' end as type, "
            "case when id % 3 = 0 then 'Product Ordered' else 'page_view' end as event, "
            "'device-' || hash(id) % 300 as anonymous_id, "
            "case when id % 9 = 0 then 'user-' || hash(id) % 300 % 200 end as user_id, "
            f"{moment} as timestamp, timestamp '2026-03-06' as received_at, "
            "case when id % 3 = 0 then (id % 1000 / 100)::decimal(18, 4) end as revenue "
            f"from (select n % ({EVENTS_IN_FILE} * 9 // 10) as id from range({EVENTS_IN_FILE}) t(n))) "
            f"to '{path}' (format parquet)"
        )
    return path


@pytest.mark.long
def test_an_ingest_that_is_killed_at_random_moments_and_run_again_is_exact(tmp_path: Path) -> None:
    """Load, sessions, marts, publish: the command is the load and the job `refresh` in one process."""
    file = a_large_file(tmp_path / "large.parquet")
    config = a_config(tmp_path / "config", limits={"storage": {"dense_day_rows": 20_000}})
    whole = Command(tmp_path / "whole", config, "ingest", file, "--source", "canonical")
    seconds = whole.run()
    expected = shown(tmp_path / "whole" / "published" / "analytics.duckdb")
    rng, hits = random.Random(SEED), 0
    for number in range(ROUNDS):
        home = tmp_path / f"home{number}"
        ingest = Command(home, config, *whole.arguments)
        # Where in its course: after its start, the load, the sessions, the marts.
        for after in (None, "batches", "identities", "built_days"):
            hits += ingest.kill(rng.uniform(0, seconds / 4), after)
        ingest.run()
        assert shown(home / "published" / "analytics.duckdb") == expected
        shutil.rmtree(home)
    assert hits


@pytest.mark.long
def test_maintenance_that_is_killed_at_random_moments_changes_nothing_that_readers_see(
    open_line: Opener, tmp_path: Path
) -> None:
    line = open_line("home")
    for number in range(12):
        line.load(a_batch(str(number), number * 40, number * 40 + 60))
    line.rebuild()
    path = line.publish().path
    before = shown(path)
    maintain = Command(line.home, tmp_path / "home-config", "job", "maintain")
    files = len(line.pipeline.table(EVENTS).snapshot().files)
    rng = random.Random(SEED)
    for _ in range(2 * ROUNDS):
        maintain.kill(rng.uniform(0, 2))
        assert shown(path) == before
    maintain.run()
    assert len(line.pipeline.table(EVENTS).snapshot().files) < files
    line.sessions([at(0).date()])
    line.rebuild()
    again = line.publish()
    assert again.changed
    assert shown(path) == shown(again.path) == before


# A full disk

FULL = "analytics: the disk is full; free some space and run the same command again, nothing was lost or doubled"


def _mounted(folder: Path, size: int) -> bool:
    """Whether a file system of `size` bytes in memory is mounted for this process alone; needs no special rights."""
    user, group = os.getuid(), os.getgid()
    libc, new_user, new_mounts = ctypes.CDLL(None, use_errno=True), 0x10000000, 0x00020000
    if libc.unshare(new_user | new_mounts) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(text)
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) == 0


class SmallDisk:
    """A file system of its own with little room, that nobody but this process sees.

    Where the machine forbids that, a limit of a file's size stands in for it: a write fails in the middle of a file too.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.ballast = folder, folder / "ballast"
        folder.mkdir()
        self.real = sys.platform == "linux" and _mounted(folder, size)

    @contextmanager
    def full(self, room: int) -> Iterator[None]:
        """Only `room` bytes are left for a while."""
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.real:
            with self.ballast.open("wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(self.folder).free - room)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            self.ballast.unlink(missing_ok=True)


def analytics(*arguments: object) -> tuple[object, list[str]]:
    """The command within this process: exit code, and what stands on standard error of errors."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return left.value.code, err.getvalue().splitlines()


def ingest_on_a_full_disk(folder: Path, config: Path, files: list[Path], rooms: list[int], said: Any) -> None:
    """Ingest one file, the other with ever more room but not enough, and again with all of it."""
    disk = SmallDisk(folder, 256 * 1024 * 1024)
    home = folder / "home"
    os.environ.update(ANALYTICS_HOME=str(home), ANALYTICS_CONFIG=str(config))
    first, second = (("ingest", file, "--source", "canonical") for file in files)
    path = home / "published" / "analytics.duckdb"
    told = [analytics(*first)]
    assert told[0][0] == 0, told
    seen = [shown(path)]
    for room in rooms:
        with disk.full(room):
            told.append(analytics(*second))
            seen.append(shown(path))
    told.append(analytics(*second))
    said.send((disk.real, told, seen, shown(path)))


@pytest.mark.long
def test_an_ingest_on_a_full_disk_says_so_and_a_rerun_is_exact(tmp_path: Path) -> None:
    config = a_config(tmp_path / "config")
    files = [write_events(tmp_path / f"{n}.ndjson", a_batch(str(n), n * 2000, n * 2000 + 3000)) for n in range(2)]
    with Line.at(tmp_path / "whole", config) as whole:
        for file in files:
            whole.load(file)
        whole.rebuild()
        expected = shown(whole.publish().path)
    rooms = [300_000, *(random.Random(SEED).randrange(3_000_000) for _ in range(5 * (ROUNDS - 1))), *[0] * (ROUNDS > 1)]
    hear, say = FORK.Pipe(duplex=False)
    child = process(ingest_on_a_full_disk, tmp_path / "disk", config, files, rooms, say)
    child.start()
    say.close()
    real, told, seen, after = hear.recv()
    child.join()
    assert child.exitcode == 0
    codes, errors = zip(*told, strict=True)
    assert codes == (0, *[1] * len(rooms), 0)
    for lines in errors[1:-1]:
        (line,) = [line for line in lines if line.startswith("analytics: ")]
        assert line == lines[-1]
        assert line == FULL or (not real and ("File too large" in line or "disk I/O error" in line))
    # Readers had the first version all the while.
    assert seen == [seen[0]] * len(seen)
    assert after == expected
