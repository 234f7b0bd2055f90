"""Resources that assets ask for: the data home with its stages, DuckDB, and where progress is shown."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.settings import Settings

if TYPE_CHECKING:
    from analytics_assets.pipeline import Pipeline

OWNER = "team:data-platform"


class PipelineResource(dg.ConfigurableResource):
    """The stages over one data home. An empty `home` means `ANALYTICS_HOME`, or `data/` of the project."""

    home: str = ""

    def get(self) -> "Pipeline":
        from analytics_assets.pipeline import Pipeline

        settings = Settings.from_env()
        return Pipeline(Settings(Path(self.home).resolve(), settings.config) if self.home else settings)


class Progress:
    """Where long work says how far it is. This one writes a log line whenever the count has doubled."""

    @contextmanager
    def bar(self, context: dg.AssetExecutionContext, label: str) -> Iterator[Callable[[int], None]]:
        done, shown = 0, 250_000

        def advance(rows: int) -> None:
            nonlocal done, shown
            done += rows
            if done >= shown:
                context.log.info(f"{label}: {done:,} records")
                shown = done * 2

        yield advance

    def stage(self, text: str) -> None:
        """Say which stage begins; Dagster's own log does."""


def production_resources() -> dict[str, Any]:
    """What the assets get outside of tests. The memory of a connection spills to the data home."""
    settings = Settings.from_env()
    storage = settings.limits.storage
    return {
        "pipeline": PipelineResource(),
        "progress": Progress(),
        "duckdb": DuckDBResource(
            database=":memory:",
            connection_config={
                "memory_limit": f"{storage.memory_mb}MB",
                "threads": storage.threads,
                "temp_directory": os.fspath(settings.home / "work" / "spill"),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        ),
    }
