"""Small healthy objectives that a test changes in one line."""

from typing import Any

from analytics_assets.slo.declared import Objectives

TIERS: dict[str, Any] = {"standard": {"objective": 0.99}}
SLOS: dict[str, Any] = {
    "ingestion_lag": {"window_days": 28, "tiers": {"standard": {"objective": 0.99, "within_minutes": 15}}},
    "freshness": {"window_days": 28, "tiers": TIERS},
    "query_latency": {"window_days": 28, "tiers": {"standard": {"objective": 0.99, "within_seconds": 2}}},
    "pipeline_success": {"window_days": 28, "tiers": TIERS},
}
THRESHOLDS: list[dict[str, Any]] = [
    {"state": "warn", "burn": 1, "over_hours": 72, "and_hours": 6},
    {"state": "page", "burn": 6, "over_hours": 6, "and_hours": 0.5},
    {"state": "freeze", "burn": 1},
]
HEALTHY: dict[str, Any] = {
    "tenant_tiers": {"default": "standard"},
    "slos": SLOS,
    "thresholds": THRESHOLDS,
    "probes": {"every_minutes": 15, "queries": {"events": "select count(*) from events"}},
}


def objectives(**changes: Any) -> Objectives:
    return Objectives.model_validate({**HEALTHY, **changes})
