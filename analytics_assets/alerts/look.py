"""One look at a data home for all that is wrong: what the rooms know is brought together, and judged by `problems`."""

from collections import Counter
from datetime import datetime

import duckdb

from analytics_assets.alerts.problems import Situation
from analytics_assets.freshness.watch import Look
from analytics_assets.privacy.alarm import Finding
from analytics_assets.quality.tables import QualityResult
from analytics_assets.slo.watch import Levels, ServiceLevels
from analytics_assets.tuning.keep import spikes
from analytics_assets.warehouse.publish import history


def situation(
    con: duckdb.DuckDBPyConnection,
    service: ServiceLevels,
    now: datetime,
    *,
    freshness: Look,
    levels: Levels,
    refused: list[QualityResult],
    files_refused: list[str],
    days_waiting: int,
    personal_data: list[Finding],
) -> Situation:
    """What was found at `now`, as a value."""
    newest = history(service.home)[-1:]
    held = newest[0] if newest and newest[0]["action"] == "rollback" else None
    return Situation(
        now,
        freshness.statuses,
        levels.budgets,
        service.standing(con, levels, now),
        service.failures(con, now),
        Counter(tenant for tenant, _ in service.landed(now)),
        files_refused,
        days_waiting,
        (str(held["reason"]), datetime.fromisoformat(held["published_at"])) if held else None,
        refused,
        service.slow_now(con),
        freshness.unusable,
        personal_data,
        spikes(con, service.home, now),
    )
