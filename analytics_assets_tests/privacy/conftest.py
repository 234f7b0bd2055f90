"""What dbt makes of the models, compiled once for all tests: it takes seconds."""

import json
from pathlib import Path

import pytest

from analytics_assets.labelling import compiled_marts
from analytics_assets_tests.conftest import made_once


@pytest.fixture(scope="session")
def marts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The SELECT of every model, in the order of their building."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "marts.json").write_text(json.dumps(compiled_marts(folder / "work")))

    found: dict[str, str] = json.loads((made_once(tmp_path_factory, "compiled", make) / "marts.json").read_text())
    return found
