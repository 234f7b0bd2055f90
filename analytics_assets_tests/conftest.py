"""Fixtures: lines of the pipeline in fresh data homes, and the whole retail sample, loaded and published once."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from analytics_assets_tests.builders import CHECKED_SOURCES, RETAIL, Line, Opener, a_config
from analytics_assets_tests.faults import ROUNDS
from analytics_assets_tests.parsed import PARSED, parse, take_over

# How long an example takes says something about the machine, and nothing about the code. FAULT_ROUNDS asks for more of them.
hypothesis.settings.register_profile("any machine", deadline=None, max_examples=30 * ROUNDS)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of keys, which all data homes of a test run share, and none of the person who runs it."""
    # One for all test processes: they share homes whose identifiers were replaced.
    folder = made_once(tmp_path_factory, "keys", Path.mkdir)
    with pytest.MonkeyPatch.context() as patch:
        # A single test may do without dbt; of the processes of a whole run each needs it.
        if "PYTEST_XDIST_WORKER" in os.environ:
            parsed = made_once(tmp_path_factory, "parsed", parse)
            take_over(parsed)
            patch.setenv(PARSED, str(parsed))
        patch.setenv(CHECKED_SOURCES, str(made_once(tmp_path_factory, "checked-sources", Path.mkdir)))
        patch.setenv("ANALYTICS_KEYS", str(folder))
        yield folder


@pytest.fixture
def open_line(tmp_path: Path) -> Iterator[Opener]:
    """Opens lines: `open_line()`; `name` tells several apart, the rest is for `a_config`."""
    with ExitStack() as stack:

        def open_one(name: str = "home", **declared: Any) -> Line:
            config = tmp_path / f"{name}-config"
            if not config.exists():
                a_config(config, **declared)
            return stack.enter_context(Line.at(tmp_path / name, config))

        yield open_one


@pytest.fixture
def line(open_line: Opener) -> Line:
    """A line with the tenants acme and globex, and nothing loaded."""
    return open_line()


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of the test processes makes and all of them read."""
    shared = tmp_path_factory.getbasetemp()
    # Under xdist each process has a folder of its own below the one that they share.
    root = shared.parent if shared.name.startswith("popen-") else shared
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@dataclass(frozen=True)
class Retail:
    """The data home with the whole sample published. Tests only read it."""

    home: Path

    @property
    def published(self) -> Path:
        return self.home / "published" / "analytics.duckdb"


@pytest.fixture(scope="session")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Retail:
    def make(home: Path) -> None:
        with Line.at(home) as line:
            line.load(RETAIL, "online_retail")
            line.rebuild()
            line.publish()

    return Retail(made_once(tmp_path_factory, "retail", make))
