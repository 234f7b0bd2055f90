"""The demo's stages one after another in one process, each with its processor seconds: `stages.py HOME`."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPENT: dict[str, float] = {}


@contextmanager
def stage(name: str) -> Iterator[None]:
    before = os.times()
    try:
        yield
    finally:
        after = os.times()
        SPENT[name] = after.user + after.system - before.user - before.system


def main(home: Path) -> None:
    with stage("import dagster"):
        import dagster  # noqa: F401
    with stage("import our definitions, and load them"):
        from analytics_assets import definitions

        definitions.defs()
    with stage("import storage (duckdb, deltalake, pyarrow)"):
        from analytics_assets.cli import _SAMPLE_FILES
        from analytics_assets.events.intake import utc_now
        from analytics_assets.pipeline import Pipeline
        from analytics_assets.settings import Settings

        pipeline = Pipeline(Settings(home))
    with stage("declarations (parse, check expressions)"):
        pipeline.sources  # noqa: B018
    with pipeline.connect() as con:
        for path, source, tenant in _SAMPLE_FILES:
            with stage(f"load {path.name}"):
                pipeline.load(con, path, source, tenant, utc_now())
        days = pipeline.pending(con)
        with stage("sessions and page views"):
            pipeline.rebuild_sessions(con, days)
        with stage("users"):
            pipeline.rebuild_users(con)
        with stage("import dbt"):
            from dbt.adapters.duckdb import Plugin  # noqa: F401
            from dbt.cli.main import dbtRunner  # noqa: F401
        with stage("marts: dbt models and their tests"):
            pipeline.rebuild_marts(con, days)
        with stage("publish with its checks"):
            pipeline.publish(con, utc_now())
    print(json.dumps(SPENT), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
