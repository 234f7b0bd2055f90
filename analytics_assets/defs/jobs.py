"""Jobs: what runs together in one process."""

import dagster as dg

from analytics_assets.defs.intake import intake as loaded

# What a run does stands in the UI; on the console of the daemon only what a person should know. Dagster gives a job's own
# config to people who launch it, but not to sensors.
CALM = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}

# Files into events; the sensors ask for it, and people with a path in the launchpad.
ingest = dg.define_asset_job(
    "ingest",
    selection=dg.AssetSelection.assets("events", "rejected_events", "batches").without_checks(),
    config=CALM,
    description="Load waiting files, or the file named in the config, into events.",
)

# Days of events into everything behind them, and out to the readers.
REFRESHED = ("sessions", "staging", "marts", "quality", "published")
refreshed = dg.AssetSelection.groups(*REFRESHED) | dg.AssetSelection.checks_for_assets(loaded)
refresh = dg.define_asset_job(
    "refresh",
    selection=refreshed,
    config=CALM,
    description="Rebuild a range of days behind events, judge them, then publish.",
)

publish = dg.define_asset_job(
    "publish",
    selection=dg.AssetSelection.groups("published"),
    config=CALM,
    description="Publish what is built; releases nothing by itself.",
)

maintain = dg.define_asset_job(
    "maintain",
    selection=dg.AssetSelection.groups("maintenance"),
    config=CALM,
    description="Take out what is past its limit, compact closed days, remove files nobody needs.",
)

JOBS = [ingest, refresh, publish, maintain]
