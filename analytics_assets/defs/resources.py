"""Resources that assets ask for: the data home with its stages, DuckDB, and where progress is shown."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.settings import Settings
from analytics_assets.tuning.rules import FILE, TuningRules

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.pipeline import Pipeline

OWNER = "team:data-platform"


class PipelineResource(dg.ConfigurableResource):
    """The stages over one data home. An empty `home` means `ANALYTICS_HOME`, or `data/` of the project."""

    home: str = ""

    def get(self) -> "Pipeline":
        from analytics_assets.pipeline import Pipeline

        settings = Settings.from_env()
        return Pipeline(Settings(Path(self.home).resolve(), settings.config) if self.home else settings)


class MeasuredDuckDB(DuckDBResource):
    """DuckDB whose connections have the limits of their step, and tell its telemetry what they do.

    `connection_config` has the limits where nothing else is in force.
    """

    config_source: str = "default"

    @contextmanager
    def get_connection(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        from analytics_assets.defs.limits import granted
        from analytics_assets.defs.timeouts import ended_in_time
        from analytics_assets.tuning.in_force import ResourceConfig
        from analytics_assets.warehouse.meter import watched

        limits = self.connection_config
        memory_mb = int(str(limits["memory_limit"]).removesuffix("MB"))
        preset = ResourceConfig(memory_mb, int(limits["threads"]), source=self.config_source)
        with granted(preset) as config, super().get_connection() as con, closing(con):
            con.execute(f"set memory_limit = '{config.memory_mb:d}MB'; set threads = {config.threads:d}")
            with (
                ended_in_time(con, config.timeout_seconds),
                watched(con, memory_mb=config.memory_mb, threads=config.threads, source=config.source),
            ):
                yield con


class Progress:
    """Where long work says how far it is. This one writes a log line whenever the count of records has doubled."""

    @contextmanager
    def loading(self, context: dg.AssetExecutionContext, label: str, path: Path) -> Iterator[Callable[[int, int], None]]:
        """Around the load of a file: call what it gives with the records and about the bytes that were read since."""
        done, shown = 0, 250_000

        def advance(rows: int, size: int) -> None:
            nonlocal done, shown
            done += rows
            if done >= shown:
                context.log.info(f"{label}: {done:,} {'record' if done == 1 else 'records'}")
                shown = done * 2

        yield advance

    def stage(self, text: str) -> None:
        """Say which stage begins; Dagster's own log does."""

    def part(self, done: int, total: int) -> None:
        """Say how many parts of the stage are done."""


def production_resources() -> dict[str, Any]:
    """What the assets get outside of tests. The memory of a connection spills to the data home."""
    settings = Settings.from_env()
    storage = settings.limits.storage
    # A wrong declaration fails the load, and not the first file that comes. Sources are checked with a database, which would
    # double the time of loading: when a file needs them.
    settings.tenants  # noqa: B018
    TuningRules.load(settings.config / FILE)
    return {
        "pipeline": PipelineResource(),
        "progress": Progress(),
        "duckdb": MeasuredDuckDB(
            database=":memory:",
            config_source=storage.config_source,
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
