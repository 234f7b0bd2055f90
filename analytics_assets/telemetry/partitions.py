"""What the partition of a row of `step_telemetry` says: the days of its run."""

from contextlib import suppress
from datetime import date


def days_in(partition: str | None) -> tuple[date, date] | None:
    """The first and the last day; None for a run without days."""
    if not partition:
        return None
    first, _, last = partition.partition("..")
    # Somebody may have typed a day that there is not.
    with suppress(ValueError):
        return date.fromisoformat(first), date.fromisoformat(last or first)
    return None
