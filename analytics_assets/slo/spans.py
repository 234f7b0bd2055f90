"""Arithmetic of time: spans from a beginning to an end, and how long many of them last together. Knows nothing else."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import accumulate

Span = tuple[datetime, datetime]
ZERO = timedelta(0)


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time as disjoint spans in order; what has no length is left out."""
    found: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def clip(spans: Iterable[Span], begin: datetime, end: datetime) -> list[Span]:
    """The parts that lie between two moments."""
    return union((max(one, begin), min(other, end)) for one, other in spans)


def without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """The time of `spans` that lies in none of `holes`."""
    left, cuts = union(spans), union(holes)
    for cut_begin, cut_end in cuts:
        left = [
            part
            for begin, end in left
            for part in ((begin, min(end, cut_begin)), (max(begin, cut_end), end))
            if part[0] < part[1]
        ]
    return left


def length(spans: Iterable[Span]) -> timedelta:
    return sum((end - begin for begin, end in union(spans)), ZERO)


def days(begin: datetime, end: datetime) -> list[tuple[date, Span]]:
    """Each day (UTC) from `begin` to `end` with its part of that time."""
    found = []
    while begin < end:
        until = min(datetime.combine(begin.date(), datetime.min.time()) + timedelta(days=1), end)
        found.append((begin.date(), (begin, until)))
        begin = until
    return found


class Timeline:
    """Disjoint spans in order, of which the length between any two moments is asked often."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.spans: Sequence[Span] = union(spans)
        self._begins = [begin for begin, _ in self.spans]
        self._before = list(accumulate((end - begin for begin, end in self.spans), initial=ZERO))

    def _until(self, moment: datetime) -> timedelta:
        """The length of all before `moment`."""
        n = bisect_right(self._begins, moment)
        if n == 0:
            return ZERO
        begin, end = self.spans[n - 1]
        return self._before[n - 1] + (min(end, moment) - begin)

    def between(self, begin: datetime, end: datetime) -> timedelta:
        return self._until(end) - self._until(begin) if begin < end else ZERO
