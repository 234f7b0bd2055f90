"""What a step cost, and whose cost it was: shares in whole billionths of the currency, which sum to the cost exactly."""

import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from analytics_assets.telemetry.prices import Prices
from analytics_assets.telemetry.tables import StepTelemetry, UnitCost

# Of a step that made no table.
NO_TABLE = ""
_BILLIONTH = Decimal("1e-9")
_HOUR, _GIB = Decimal(3600), Decimal(2**30)


def cost(step: StepTelemetry, prices: Prices) -> Decimal:
    """What a step cost, to the billionth; what was not measured costs nothing, and what was killed what it had taken."""
    processor = Decimal(step.cpu_seconds or 0) / _HOUR * prices.processor_hour
    held = Decimal(step.peak_memory_bytes or 0) / _GIB * Decimal(step.wall_seconds or 0) / _HOUR
    moved = Decimal((step.bytes_read or 0) + (step.bytes_written or 0)) / _GIB
    whole = processor + held * prices.memory_gib_hour + moved * prices.moved_gib
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


def unit_costs(step: StepTelemetry, prices: Prices) -> list[UnitCost]:
    """A row a table of the step, by the rows that were written to it; where none were, equal shares of what it was to make."""
    by_table: dict[str, int] = json.loads(step.rows_by_table or "{}")
    weights = by_table if any(by_table.values()) else dict.fromkeys(json.loads(step.assets) or [NO_TABLE], 1)
    return [
        UnitCost(
            step.date, step.run_id, step.job, step.step, step.attempt, step.tenant, table, share, prices.currency, prices.basis
        )
        for table, share in sorted(split(cost(step, prices), weights).items())
    ]
