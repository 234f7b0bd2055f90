"""A pool's plan as Kubernetes scales by it: a ScaledObject of KEDA, from which KEDA makes the horizontal autoscaler.

KEDA takes the largest of its triggers, as the plan does: the plan's own capacity, which Prometheus is asked for, and the
opening hours of the calendar, which hold also while nothing answers. How fast it may lower is the pool's own rule.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import yaml

from analytics_assets.tuning.calendar import Calendar, OpeningHours, Weekday
from analytics_assets.tuning.declared import Pool
from analytics_assets.tuning.tables import Decided

METRIC = "analytics_pool_capacity"


def scaled_object(name: str, pool: Pool, calendar: Calendar, *, target: str, prometheus: str) -> str:
    """The document as YAML. `target` is the Deployment that the pool's workers run in, `prometheus` the server's address."""
    hours = [one for one in calendar.opening_hours if one.of == pool.serves and pool.tenant in (None, one.tenant)]
    capacity = {
        "type": "prometheus",
        "metadata": {
            "serverAddress": prometheus,
            "query": f'max({METRIC}{{pool="{name}",mode="act"}})',
            "threshold": "1",
            # Without an answer, also while the plan only advises, the floor and the opening hours hold.
            "ignoreNullValues": "false",
        },
        "metricType": "AverageValue",
    }
    lowering = {"type": "Pods", "value": pool.quota, "periodSeconds": min(max(pool.cooldown_minutes, 1) * 60, 1800)}
    raising = {"type": "Pods", "value": pool.quota, "periodSeconds": 15}
    spec: dict[str, Any] = {
        "scaleTargetRef": {"name": target},
        "minReplicaCount": pool.floor,
        "maxReplicaCount": pool.quota,
        "pollingInterval": 60,
        "cooldownPeriod": pool.cooldown_minutes * 60,
        "fallback": {"failureThreshold": 3, "replicas": max(pool.floor, 1)},
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {
                    # Kubernetes takes an hour at most.
                    "scaleDown": {
                        "stabilizationWindowSeconds": min(pool.stabilisation_minutes * 60, 3600),
                        "policies": [lowering],
                    },
                    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [raising]},
                }
            }
        },
        "triggers": [capacity, *(_cron(one, pool, calendar) for one in hours)],
    }
    document = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": f"analytics-{name}", "labels": {"app.kubernetes.io/part-of": "analytics-assets"}},
        "spec": spec,
    }
    return yaml.safe_dump(document, sort_keys=False)


def _cron(hours: OpeningHours, pool: Pool, calendar: Calendar) -> dict[str, Any]:
    """Opening hours as a trigger, from their warm-up on. Cron knows no public holidays: on these it opens too."""
    # A warm-up may begin the day before: the day of the week then moves with it.
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    begin = datetime.combine(monday, hours.opens) - timedelta(minutes=hours.warm_up_minutes)
    before = (monday.date() - begin.date()).days
    after = 0 if hours.closes > hours.opens else 1
    return {
        "type": "cron",
        "metadata": {
            "timezone": calendar.places[hours.place].timezone,
            "start": f"{begin.minute} {begin.hour} * * {_days(hours, -before)}",
            "end": f"{hours.closes.minute} {hours.closes.hour} * * {_days(hours, after)}",
            "desiredReplicas": str(pool.units(hours.expected)),
        },
    }


def _days(hours: OpeningHours, moved: int) -> str:
    names = get_args(Weekday)
    # Cron begins the week with Sunday as 0.
    return ",".join(str(day) for day in sorted((names.index(day) + 1 + moved) % 7 for day in hours.weekdays))


def exposition(newest: Sequence[Decided]) -> str:
    """The newest capacity of each pool as Prometheus reads it; what a pool has in mode observe is no number."""
    lines = [
        f"# HELP {METRIC} Runs at once that a pool is to have by the newest decision.",
        f"# TYPE {METRIC} gauge",
        *(f'{METRIC}{{pool="{row.pool}",mode="{row.mode}"}} {row.capacity}' for row in newest),
    ]
    return "\n".join(lines) + "\n" if newest else ""
