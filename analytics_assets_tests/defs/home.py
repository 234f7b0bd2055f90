"""A small data home for Dagster: tenants that send Segment calls, and files of such calls."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from analytics_assets.settings import Settings
from analytics_assets_tests.builders import a_config, write_events

TENANTS = ("acme", "globex")
# Where Dagster finds our code, which a run in the queue must name.
REPOSITORY = RemoteRepositoryOrigin(
    InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="analytics_assets.definitions"), "here"), "__repository__"
)


def declare(config: Path, tenants: Sequence[str] = TENANTS) -> None:
    """Write the tenants, each with the source `segment`."""
    declared = {"tenants": [{"id": tenant, "source": "segment"} for tenant in tenants]}
    (config / "tenants.yaml").write_text(yaml.safe_dump(declared))


def a_call(message_id: str = "m1", /, *, day: str = "2025-03-10", **changes: Any) -> dict[str, Any]:
    """A healthy Segment call at noon of a day."""
    return {
        "type": "track",
        "messageId": message_id,
        "userId": "u1",
        "event": "Order Completed",
        "timestamp": f"{day}T12:00:00Z",
        "properties": {"revenue": 10, "order_id": message_id},
        **changes,
    }


@dataclass(frozen=True)
class DataHome:
    """The settings of a data home that the environment points to."""

    settings: Settings

    @property
    def root(self) -> Path:
        return self.settings.home

    def file(self, name: str, calls: Sequence[dict[str, Any] | str]) -> Path:
        return write_events(self.root.parent / "deliveries" / name, calls)

    def land(self, name: str, calls: Sequence[dict[str, Any] | str], tenant: str = "acme") -> Path:
        return write_events(self.root / "landing" / tenant / name, calls)


@contextmanager
def a_data_home(folder: Path) -> Iterator[DataHome]:
    """A data home and declarations in `folder`, for code that reads the environment."""
    config = a_config(folder / "config")
    declare(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANALYTICS_HOME", str(folder / "home"))
        patch.setenv("ANALYTICS_CONFIG", str(config))
        # Opening Dagster's instance sets it.
        patch.setenv("DAGSTER_HOME", str(folder / "home" / "dagster"))
        yield DataHome(Settings.from_env())


def keys(first: date, days: int) -> set[str]:
    """Partition keys of so many days."""
    return {date.fromordinal(first.toordinal() + n).isoformat() for n in range(days)}
