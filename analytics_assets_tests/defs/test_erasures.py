"""The sensor of erasures: it goes on with what nobody waits for, one step at a time, and says what it waits for itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from analytics_assets.defs.erasure import erasures
from analytics_assets.defs.partitions import range_tags
from analytics_assets.events.days import ranges
from analytics_assets_tests.builders import Line
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.defs.test_sensors import ask, going
from analytics_assets_tests.test_erasure import SHE, copied, make_shop, remove


@pytest.fixture
def line(
    keys: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Line]:
    """The shop in which Anna stands everywhere, as the environment points to it."""
    shop = made_once(tmp_path_factory, "erasure-shop", lambda folder: make_shop(folder, pseudonyms=True))
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "shop" / "home"))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(tmp_path / "shop" / "config"))
    with copied(shop, keys, tmp_path / "shop") as line:
        yield line


def asked() -> list[str | None] | str:
    """The jobs that the sensor asks for where no run is going, or why it asks for none."""
    with dg.DagsterInstance.ephemeral() as instance:
        found = ask(erasures, instance)
    return found if isinstance(found, str) else [request.job_name for request in found]


def test_an_erasure_that_waits_goes_on_step_by_step_until_it_is_done(line: Line, tmp_path: Path) -> None:
    assert asked() == "no erasure waits"
    shutil.copytree(line.home, tmp_path / "backup")
    line.pipeline.erasures.ask([SHE], "tester")
    assert asked() == ["erase"]
    remove(line)
    with dg.DagsterInstance.ephemeral() as instance:
        request, *_ = ask(erasures, instance)
    first, *_ = ranges(line.pipeline.pending(line.con))
    assert isinstance(request, dg.RunRequest)
    assert (request.job_name, range_tags(first).items() <= request.tags.items()) == ("refresh", True)
    line.rebuild()
    assert asked() == ["publish"]
    line.publish()
    assert asked() == "no erasure waits"
    # What a backup brings back waits again.
    shutil.rmtree(line.home)
    shutil.copytree(tmp_path / "backup", line.home)
    assert asked() == ["erase"]


@pytest.mark.parametrize("job", ["erase", "refresh", "publish"])
def test_while_a_run_is_going_or_failed_just_now_nothing_is_asked(line: Line, job: str) -> None:
    line.pipeline.erasures.ask([SHE], "tester")
    with dg.DagsterInstance.ephemeral() as instance:
        going(instance, job, dg.DagsterRunStatus.STARTED)
        assert ask(erasures, instance) == f"1 erasure waits; a run of {job} is going"
    with dg.DagsterInstance.ephemeral() as instance:
        going(instance, job, dg.DagsterRunStatus.FAILURE)
        assert ask(erasures, instance) == "1 erasure waits; the last run failed, and is tried again every 10 minutes"
