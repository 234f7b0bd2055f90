"""A small healthy declaration of promises that a test changes in one line."""

from typing import Any

from analytics_assets.freshness.tiers import Promises

TABLES = {"events": "near_real_time", "users": "hourly", "cohorts": "daily"}
TIERS: dict[str, dict[str, Any]] = {
    "immediate": {"promise_minutes": 1, "served_by": "collector", "priority": 40},
    "near_real_time": {"promise_minutes": 5, "start_after_minutes": 0, "queue": "near-real-time", "priority": 30},
    "hourly": {"promise_minutes": 60, "start_after_minutes": 40, "queue": "hourly", "priority": 20},
    "daily": {"promise_minutes": 1560, "start_at": "02:30", "queue": "daily", "priority": 10},
}


def promises(tables: dict[str, str] | None = None, /, **tenants: dict[str, Any]) -> Promises:
    """Promises for three tables, or for `tables`; by name what a tenant has of its own."""
    return Promises.model_validate({"tiers": TIERS, "tables": tables or TABLES, "tenants": tenants})
