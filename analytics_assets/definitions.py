"""The one assembler: production, tests and the command line get the same graph, with other resources."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from analytics_assets.defs.alerts import SERVICE_LEVELS, SLO_CHECKS, alerts
from analytics_assets.defs.automation import SCHEDULES, SENSORS
from analytics_assets.defs.capacity import CAPACITY, capacity, daily_capacity, outlook, weekly_outlook
from analytics_assets.defs.conditions import AUTOMATION, with_condition
from analytics_assets.defs.drill import restore_drill, weekly_drill
from analytics_assets.defs.erasure import erase, erasures
from analytics_assets.defs.executors import declared_executor
from analytics_assets.defs.freshness import PROMISE_CHECKS, PROMISES_KEPT, TIER_SENSORS, with_tier
from analytics_assets.defs.intake import intake
from analytics_assets.defs.jobs import JOBS
from analytics_assets.defs.maintenance import (
    audit_log_is_whole,
    compacted_events,
    layout_is_lean,
    nothing_is_past_its_limit,
    retained,
    swept_storage,
)
from analytics_assets.defs.marts import marts
from analytics_assets.defs.publication import analytics_duckdb, rollback_publish
from analytics_assets.defs.quality import quality
from analytics_assets.defs.resource_configs import RESOURCES, daily_tune, relearn, tune, weekly_retrain
from analytics_assets.defs.resources import production_resources
from analytics_assets.defs.run_logs import run_logs
from analytics_assets.defs.scaling import TUNING, hourly_plan, plan, scaling
from analytics_assets.defs.sessions import sessions, users
from analytics_assets.defs.telemetry import TELEMETRY, hourly_telemetry, telemetry
from analytics_assets.defs.warming import opening, warm_caches


def build_definitions(resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All assets, checks, jobs, sensors and schedules. Loading touches no data, network or credentials."""
    return dg.Definitions(
        assets=[
            *dg.map_asset_specs(
                lambda spec: with_condition(with_tier(spec)),
                [
                    intake,
                    sessions,
                    users,
                    marts,
                    quality,
                    analytics_duckdb,
                    retained,
                    compacted_events,
                    swept_storage,
                    run_logs,
                    *PROMISES_KEPT,
                ],
            ),
            *SERVICE_LEVELS,
            *dg.map_asset_specs(with_tier, [*TELEMETRY, *TUNING, *CAPACITY, *RESOURCES]),
        ],
        asset_checks=[layout_is_lean, audit_log_is_whole, nothing_is_past_its_limit, *PROMISE_CHECKS, *SLO_CHECKS],
        jobs=[*JOBS, telemetry, plan, capacity, outlook, tune, relearn, rollback_publish, erase, restore_drill, warm_caches],
        sensors=[*SENSORS, AUTOMATION, *TIER_SENSORS, alerts, erasures, scaling, opening],
        schedules=[
            *SCHEDULES,
            hourly_telemetry,
            hourly_plan,
            daily_capacity,
            weekly_outlook,
            daily_tune,
            weekly_retrain,
            weekly_drill,
        ],
        resources={**production_resources(), **(resources or {})},
        executor=declared_executor(),
    )


@dg.definitions
def defs() -> dg.Definitions:
    return build_definitions()
