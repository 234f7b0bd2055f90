"""Fixtures: a data home with tuning declared for a cluster. These tests need the packages of both clusters: `make test-ray`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_assets_tests.conftest import keys  # noqa: F401
from analytics_assets_tests.defs.home import DataHome, a_data_home


@pytest.fixture(scope="session", autouse=True)
def command() -> Iterator[None]:
    """The processes of a cluster are started as `dagster`, which an image has on its path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DataHome]:
    """Parametrized with the name of the executor."""
    with a_data_home(tmp_path) as home:
        (home.settings.config / "limits.yaml").write_text("storage: {memory_mb: 128, threads: 1}\n")
        (home.settings.config / "tuning.yaml").write_text(
            f"executor: {request.param}\nmemory: {{budget_mb: 3000, pod_mb: 300}}\n"
        )
        yield home
