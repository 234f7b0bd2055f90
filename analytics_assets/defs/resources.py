"""Resources that assets ask for: the data home with its stages, DuckDB, and where progress is shown."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.privacy.consent import Consent
from analytics_assets.privacy.retention import RetentionRules
from analytics_assets.privacy.roles import Roles
from analytics_assets.privacy.taxonomy import Taxonomy
from analytics_assets.privacy.zones import Zones
from analytics_assets.settings import Declared, Settings
from analytics_assets.telemetry.prices import Prices
from analytics_assets.tuning.rules import FILE, TuningRules

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.pipeline import Pipeline

OWNER = "team:data-platform"
# What no other module of `defs` reads as it is loaded.
BY_ITSELF: Mapping[str, type[Declared]] = {
    "consent.yaml": Consent, "prices.yaml": Prices, "retention.yaml": RetentionRules, "roles.yaml": Roles,
    "taxonomy.yaml": Taxonomy, FILE: TuningRules, "zones.yaml": Zones,
}  # fmt: skip


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
    # A wrong declaration fails the load, and not the first file that comes. How it fits to others, and sources, which are
    # checked with a database, would double the time of loading: the sensor of alerts looks at that.
    settings.tenants  # noqa: B018
    for name, declared in BY_ITSELF.items():
        declared.load(settings.config / name)
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
