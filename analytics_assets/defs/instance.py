"""Dagster's instance of a data home: where its runs, events and schedules are kept."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_assets.settings import PROJECT, Settings
from analytics_assets.warehouse.home import Home

if TYPE_CHECKING:
    import dagster as dg


def configure(folder: Path) -> Path:
    """Put the project's `dagster.yaml` into `folder`, unless one stands there; returns `folder`."""
    target = folder / "dagster.yaml"
    if not target.exists():
        shutil.copyfile(PROJECT / "dagster.yaml", target)
    return folder


def open_instance(settings: Settings) -> "dg.DagsterInstance":
    """The instance that the UI of this data home shows."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(configure(Home(settings.home).dagster))
    return dg.DagsterInstance.get()
