"""What a step or a query cost, and whose cost it was: shares in whole billionths of the currency, which sum to it exactly."""

import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType

from analytics_assets.telemetry.prices import Prices
from analytics_assets.telemetry.tables import Query, StepTelemetry, UnitCost

# Of a step that made no table, and of what nobody can tell whose it is.
NO_TABLE = NO_TENANT = ""
# So many tenants have rows of their own in the costs of a table; the others stand together.
MOST_TENANTS = 100
_BILLIONTH = Decimal("1e-9")
_HOUR, _GIB = Decimal(3600), Decimal(2**30)

TenantRows = Mapping[str, Mapping[str, int]]
"""By table the rows of each tenant."""
_NOBODY: TenantRows = MappingProxyType({})


def cost(step: StepTelemetry, prices: Prices) -> Decimal:
    """What a step cost, to the billionth; what was not measured costs nothing, and what was killed what it had taken."""
    moved = (step.bytes_read or 0) + (step.bytes_written or 0)
    return _money(prices, step.cpu_seconds or 0, step.peak_memory_bytes or 0, step.wall_seconds or 0, moved)


def query_cost(query: Query, prices: Prices) -> Decimal:
    """What a query cost, to the billionth."""
    return _money(prices, query.cpu_seconds, query.memory_bytes, query.seconds, query.bytes_read or 0)


def _money(prices: Prices, cpu_seconds: float, memory: int, seconds: float, moved: int) -> Decimal:
    processor = Decimal(cpu_seconds) / _HOUR * prices.processor_hour
    held = Decimal(memory) / _GIB * Decimal(seconds) / _HOUR
    whole = processor + held * prices.memory_gib_hour + Decimal(moved) / _GIB * prices.moved_gib
    return whole.quantize(_BILLIONTH, ROUND_HALF_UP)


def split(whole: Decimal, weights: Mapping[str, int]) -> dict[str, Decimal]:
    """`whole` in shares by weight (equal ones where all are zero), each to the billionth; together exactly `whole`.

    What is left after rounding down goes to the largest remainders, of equal ones to the first names.
    """
    units = int(whole / _BILLIONTH)
    chosen = dict(weights) if sum(weights.values()) else dict.fromkeys(weights, 1)
    total = sum(chosen.values())
    shares = {name: divmod(units * weight, total) for name, weight in chosen.items()}
    left = units - sum(share for share, _ in shares.values())
    first = sorted(shares, key=lambda name: (-shares[name][1], name))[:left]
    return {name: (share + (name in first)) * _BILLIONTH for name, (share, _) in shares.items()}


def table_weights(step: StepTelemetry) -> dict[str, int]:
    """The tables of a step by the rows that were written to them; where none were, what it was to make, all alike."""
    by_table: dict[str, int] = json.loads(step.rows_by_table or "{}")
    return by_table if any(by_table.values()) else dict.fromkeys(json.loads(step.assets) or [NO_TABLE], 1)


def unit_costs(step: StepTelemetry, prices: Prices, rows: TenantRows = _NOBODY) -> list[UnitCost]:
    """A row a table and tenant of the step; `rows` tell whose a table is where the step was not for one tenant alone."""
    return [
        UnitCost(
            step.date, step.run_id, step.job, step.step, step.attempt, tenant or None, table, own, prices.currency, prices.basis
        )
        for table, share in sorted(split(cost(step, prices), table_weights(step)).items())
        for tenant, own in sorted(split(share, {step.tenant: 1} if step.tenant else _largest(rows.get(table, {}))).items())
    ]


def _largest(rows: Mapping[str, int]) -> Mapping[str, int]:
    """The tenants that have most rows, and all others as one that has no name."""
    named = sorted((name for name in rows if rows[name] > 0), key=lambda name: (-rows[name], name))[:MOST_TENANTS]
    rest = sum(rows.values()) - sum(rows[name] for name in named)
    kept = {name: rows[name] for name in named}
    return {**kept, NO_TENANT: rest} if rest > 0 or not kept else kept


def query_costs(query: Query, prices: Prices) -> list[UnitCost]:
    """A row a table that the query reads, in equal shares."""
    weights = dict.fromkeys(json.loads(query.tables) or [NO_TABLE], 1)
    return [
        UnitCost(
            query.date,
            query.query_id,
            query.command,
            query.shape,
            1,
            None,
            table,
            share,
            prices.currency,
            prices.basis,
            "query",
        )
        for table, share in sorted(split(query_cost(query, prices), weights).items())
    ]
