"""Runs the dbt project on a private work database, in this process, and says what came of every model and test.

The caller prepares the database and takes the marts out of it; dbt never meets the warehouse. Nothing here judges a
failed test: it is returned, and whoever publishes decides.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb

from analytics_assets.marts import project

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

# dbt keeps adapter, flags and connection in globals: one build at a time in a process.
_LOCK = threading.RLock()
_PARSED: dict[Path, "Manifest"] = {}

# As DuckDB begins to say that its memory was not enough; dbt hands on its words alone.
_OUT_OF_MEMORY = "Out of Memory Error"

# Nothing on the console, nothing over the network, and no artifact or log that nobody reads: results tell all, and a tenth of a
# build went into its log.
_QUIET = (
    *("--log-level", "none", "--log-level-file", "none", "--no-print", "--no-use-colors", "--no-use-colors-file"),
    *("--no-send-anonymous-usage-stats", "--no-version-check", "--no-write-json"),
)


class MartsBuildError(Exception):
    """The marts could not be built; one line names the model and the cause."""


class MartsOutOfMemoryError(MartsBuildError, MemoryError):
    """DuckDB had too little memory for a model or a test."""


@dataclass(frozen=True)
class ModelResult:
    """What became of a model. `skipped`: a test of something it reads failed. A view has no `rows`."""

    name: str
    status: Literal["success", "skipped"]
    seconds: float
    rows: int | None


@dataclass(frozen=True)
class TestResult:
    """What became of a data test of `model`. `failures`: rows that break it, None where it could not run (`error`)."""

    __test__ = False  # pytest takes the name for a test class

    name: str
    model: str
    status: Literal["pass", "fail", "warn", "error", "skipped"]
    failures: int | None
    seconds: float
    message: str


@dataclass(frozen=True)
class BuildResult:
    models: Mapping[str, ModelResult]
    tests: tuple[TestResult, ...]
    seconds: float

    @property
    def tables(self) -> tuple[str, ...]:
        """The marts that were built, whose rows are to be taken out of the work database."""
        return tuple(model.name for model in self.models.values() if model.rows is not None)

    @property
    def ok(self) -> bool:
        """Every model was built and every test ran and held; a warning holds."""
        return all(model.status == "success" for model in self.models.values()) and all(
            test.status in ("pass", "warn") for test in self.tests
        )


def build(
    work_db: Path,
    target_dir: Path,
    select: Sequence[str] | None = None,
    *,
    memory_limit: str = "80%",
    threads: int = 2,
    project_dir: Path = project.PROJECT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildResult:
    """Compute and test the marts (all, or `select` and what they stand on) as tables of `work_db`, schema `main`.

    `work_db` must be closed before, and is closed after. dbt's parse cache and log go to `target_dir`, which may serve
    many builds. `progress` hears how many models and tests of how many are done. Raises MartsBuildError if a model cannot
    be built; tests that fail are in the result. `memory_limit` and `threads` are DuckDB's; dbt runs one model at a time.
    """
    began = time.monotonic()
    known = project.models(project_dir)
    unknown = sorted(set(select or ()) - known.keys())
    if unknown:
        raise MartsBuildError(f"{unknown[0]}: no such model; there are {', '.join(known)}")
    # Chosen here and not by dbt, which would drop every test that also reads a table the marts do not (`days`).
    names = project.upstream(known if select is None else select, project_dir)
    chosen = [model for model in known.values() if model.name in names]
    tests = {test.name: test for model in chosen for test in model.tests if names >= set(test.refs)}
    done = run_dbt(
        ["build", "--exclude-resource-type", "unit_test", "--select", *(model.name for model in chosen), *tests],
        work_db=work_db,
        target_dir=target_dir,
        memory_limit=memory_limit,
        threads=threads,
        project_dir=project_dir,
        progress=lambda done: progress(done, len(chosen) + len(tests)),
    )
    by_name = {run.node.name: run for run in done}
    for run in done:
        # A test that had too little memory says nothing about the data.
        if run.status == "error" and _OUT_OF_MEMORY in (run.message or ""):
            raise MartsOutOfMemoryError(f"{run.node.name}: {_cause(run.message)}")
    for model in chosen:
        if by_name[model.name].status == "error":
            raise MartsBuildError(f"{model.name}: {_cause(by_name[model.name].message)}")
    rows = _rows(work_db, [m.name for m in chosen if m.layer == "marts" and by_name[m.name].status == "success"])
    return BuildResult(
        models={
            name: ModelResult(name, by_name[name].status.value, by_name[name].execution_time, rows.get(name))
            for name in (model.name for model in chosen)
        },
        tests=tuple(_test_result(test, by_name[test.name]) for test in tests.values()),
        seconds=time.monotonic() - began,
    )


def run_dbt(
    arguments: Sequence[str],
    *,
    work_db: Path,
    target_dir: Path,
    memory_limit: str = "80%",
    threads: int = 2,
    project_dir: Path = project.PROJECT,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Any]:
    """One dbt command on a work database: dbt's own result of every node. Raises MartsBuildError if dbt cannot run."""
    if not work_db.is_file():
        # DuckDB would make an empty one, and every model would fail for another reason.
        raise MartsBuildError(f"{work_db.name}: the work database is not there")
    # dbt looks at relative paths from its project.
    work_db, target_dir = work_db.resolve(), target_dir.resolve()
    with _LOCK:
        parsed = manifest(target_dir, project_dir)
        try:
            with _environment(**_variables(str(work_db), memory_limit, threads)):
                result = _invoke(arguments, target_dir, project_dir, parsed, progress)
        finally:
            _close()
    return list(result.results)


def manifest(target_dir: Path, project_dir: Path = project.PROJECT) -> "Manifest":
    """The project as dbt parses it; once in a process."""
    with _LOCK:
        if project_dir not in _PARSED:
            # A path that changes would make dbt throw its parse cache away (2 s): parse for one that never does.
            with _environment(**_variables("parsing-opens-nothing", "80%", 1)):
                _PARSED[project_dir] = _invoke(["parse"], target_dir, project_dir, None)
        return _PARSED[project_dir]


def _invoke(
    arguments: Sequence[str],
    target_dir: Path,
    project_dir: Path,
    parsed: "Manifest | None",
    progress: Callable[[int], None] = lambda done: None,
) -> Any:
    from dbt.cli.main import dbtRunner  # 4 s

    counter = itertools.count(1)

    def hear(event: Any) -> None:
        if event.info.name == "NodeFinished":
            progress(next(counter))

    places = [f"--project-dir={project_dir}", f"--profiles-dir={project_dir}", f"--target-path={target_dir}"]
    log = f"--log-path={target_dir / 'logs'}"
    result = dbtRunner(manifest=parsed, callbacks=[hear]).invoke([*_QUIET, log, arguments[0], *places, *arguments[1:]])
    if result.exception is not None and not isinstance(result.exception, Exception):
        raise result.exception  # an interrupt, which dbt catches too
    if result.result is None:
        raise MartsBuildError(f"dbt {arguments[0]}: {_one_line(str(result.exception))}") from result.exception
    return result.result


def _close() -> None:
    """Let go of the work database; dbt-duckdb keeps it open for the next command of the process."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.adapters.factory import cleanup_connections

    cleanup_connections()
    if DuckDBConnectionManager._ENV is not None:
        DuckDBConnectionManager.env().close()
        DuckDBConnectionManager.close_all_connections()


def _variables(work_db: str, memory_limit: str, threads: int) -> dict[str, str]:
    return {"ANALYTICS_WORK_DB": work_db, "ANALYTICS_WORK_MEMORY": memory_limit, "ANALYTICS_WORK_THREADS": str(threads)}


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while: the only way into `profiles.yml` that does not undo dbt's parse cache."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _rows(work_db: Path, tables: Sequence[str]) -> dict[str, int]:
    with duckdb.connect(str(work_db), read_only=True) as connection:
        return {name: connection.execute(f"select count(*) from {name}").fetchall()[0][0] for name in tables}


def _test_result(test: project.Test, run: Any) -> TestResult:
    status = run.status.value
    message = {
        "pass": test.description,
        "skipped": "not run: a model it reads was not built",
        "error": _cause(run.message),
    }.get(status, f"{run.failures} {'row breaks' if run.failures == 1 else 'rows break'} it: {test.description}")
    return TestResult(test.name, test.model, status, run.failures, run.execution_time, message)


def _cause(message: str | None) -> str:
    """dbt's words on one node, without the heading that names it."""
    heading, _, cause = (message or "no reason given").partition("\n")
    return _one_line(cause or heading)


def _one_line(message: str) -> str:
    """dbt's several lines as one: without the excerpt of the SQL and its pointer."""
    lines = (line.strip() for line in message.splitlines())
    return " ".join(itertools.takewhile(lambda line: not line.startswith("LINE "), filter(None, lines)))[:500]
