"""How many runs of a kind Dagster's queue lets go at once: those for one tenant alone, and those that leave room for others.

`dagster.yaml` declares it, and the limits of Dagster's pools of the same names take its place: the scaling plan sets them while
runs go on, and a person can set them in the UI. The daemon asks every second.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from analytics_assets.freshness.queues import tenant_queue
from analytics_assets.tuning.declared import BACKGROUND, Scaling

TENANT_TAG = "analytics/tenant"
YIELDS_TAG, QUEUE_TAG = "analytics/yields", "analytics/queue"


def own_tenant(run: dg.DagsterRun, tenants: Collection[str]) -> str | None:
    """The tenant for whom alone a run goes, by its tag or the config of its steps; None for one that is not declared."""
    steps: Any = run.run_config.get("ops")
    named = {run.tags.get(TENANT_TAG)} if TENANT_TAG in run.tags else set[str | None]()
    for step in steps.values() if isinstance(steps, Mapping) else ():
        config = step.get("config") if isinstance(step, Mapping) else None
        if isinstance(config, Mapping) and isinstance(config.get("tenant"), str):
            named.add(config["tenant"])
    found = named.pop() if len(named) == 1 else None
    return found if found in tenants else None


def limits_in_force(instance: dg.DagsterInstance) -> dict[str, int]:
    """The limits of Dagster's pools, by name."""
    return {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits() if pool.limit is not None}


def limited(
    declared: Sequence[Mapping[str, Any]], scaling: Scaling, in_force: Mapping[str, int], tenants: Collection[str],
    queues: Collection[str],
) -> list[Mapping[str, Any]]:  # fmt: skip
    """The limits by tag that hold now; `queues` are those that hold no tenant's own runs."""
    own = {tenant_queue(tenant): scaling.runs_of(tenant, in_force) for tenant in tenants}
    limits: list[Mapping[str, Any]] = []
    for one in declared:
        each = one["key"] == QUEUE_TAG and isinstance(one.get("value"), Mapping)
        if each and any(limit > one["limit"] for limit in own.values()):
            # Dagster asks every limit that fits, so one that holds for each queue cannot be widened for some.
            limits += [{"key": QUEUE_TAG, "value": queue, "limit": one["limit"]} for queue in sorted(queues)]
        elif one["key"] == YIELDS_TAG and BACKGROUND in in_force:
            limits.append({**one, "limit": in_force[BACKGROUND]})
        else:
            limits.append(one)
    return limits + [{"key": QUEUE_TAG, "value": queue, "limit": limit} for queue, limit in own.items()]
