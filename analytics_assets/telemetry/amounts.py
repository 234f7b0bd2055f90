"""What can be an amount of seconds, bytes, rows or statements. What cannot was damaged, and would stop whoever keeps it."""

from collections.abc import Iterable, Mapping

# What a BIGINT holds, and no step takes.
_MOST = 2**62


def sound(values: Iterable[object]) -> bool:
    """Whether each is a finite number that is not negative and not absurdly large, or is not known (None)."""
    return all(value is None or (isinstance(value, (int, float)) and 0 <= value < _MOST) for value in values)


def sound_counts(counts: object) -> bool:
    """Whether it is amounts by name, or None."""
    return counts is None or (isinstance(counts, Mapping) and sound(counts.values()))
