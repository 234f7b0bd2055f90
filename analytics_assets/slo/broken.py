"""When each promise was broken: pure functions of what is committed and of now.

Nothing here counts looks or runs of a daemon. A delivery bears the time at which it came and the version that holds it, a
publication the time from which readers had it: what lies between is there to be read also when nobody was there.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_assets.slo.spans import Span, union

# By whose success a job that failed is mended; a publish mends what came before it, too.
_MENDED_BY: Mapping[str, frozenset[str]] = {"publish": frozenset({"publish", "refresh"})}
_MENDED_BY_A_PUBLISH = frozenset({"publish", "refresh"})


@dataclass(frozen=True)
class Delivery:
    """New events of a tenant: here since `since`, held by version `version` of events (None: not loaded yet).

    `late`: all of them are about days far behind what the tenant had sent before, which only the loosest tier requires.
    """

    tenant: str
    since: datetime
    version: int | None = None
    late: bool = False


@dataclass(frozen=True)
class Arrival:
    """A file in a tenant's landing folder: since when, and until when it waited to be loaded (None: it waits)."""

    tenant: str
    since: datetime
    loaded_at: datetime | None = None


@dataclass(frozen=True)
class Probe:
    """The answer of the published file to a query: seconds, or None if it failed."""

    name: str
    at: datetime
    seconds: float | None


@dataclass(frozen=True)
class RunEnd:
    """How a run of a job ended."""

    run_id: str
    job: str
    ended_at: datetime
    failed: bool
    reason: str = ""

    @property
    def kind(self) -> str:
        """The reason without what differs from run to run: ids, times, counts."""
        return " ".join("#" if re.search(r"\d", word) else word for word in self.reason.split())[:120]


class Shown:
    """Which version of events readers had when. `publications`: (from when on, version), oldest first.

    A rollback goes back to an older version. Between two rollbacks versions only grow, so that one search finds when
    readers first had a delivery.
    """

    def __init__(self, publications: Sequence[tuple[datetime, int]]) -> None:
        self._runs: list[tuple[list[datetime], list[int]]] = [([], [])]
        for moment, version in publications:
            times, versions = self._runs[-1]
            if versions and version < versions[-1]:
                self._runs.append(([moment], [version]))
            else:
                times.append(moment)
                versions.append(version)

    def unseen(self, since: datetime, version: int | None, now: datetime) -> list[Span]:
        """When readers did not have a delivery that came at `since`."""
        if version is None:
            return [(since, now)]
        found = []
        for n, (times, versions) in enumerate(self._runs):
            begin = times[0] if n else since
            end = self._runs[n + 1][0][0] if n + 1 < len(self._runs) else now
            first = bisect_left(versions, version)
            found.append((max(begin, since), min(times[first], end) if first < len(times) else end))
        return union(found)


def lagging(arrivals: Iterable[Arrival], within: timedelta, now: datetime) -> list[Span]:
    """When a file had waited for its loading longer than it should."""
    return union((arrival.since + within, arrival.loaded_at or now) for arrival in arrivals)


def late(
    deliveries: Iterable[Delivery], shown: Shown, promise: timedelta, now: datetime, of_late_data: timedelta = timedelta(0)
) -> list[Span]:
    """When readers lacked a delivery longer than was promised; `of_late_data` is the promise of late ones, if it is longer."""
    return union(
        (max(begin, delivery.since + (max(promise, of_late_data) if delivery.late else promise)), end)
        for delivery in deliveries
        for begin, end in shown.unseen(delivery.since, delivery.version, now)
    )


def slow(probes: Iterable[Probe], within_seconds: float, now: datetime) -> list[Span]:
    """When the last answer to a query was too slow, or none: from each such answer to the next one to the same query."""
    by_name: dict[str, list[Probe]] = {}
    for probe in sorted(probes, key=lambda probe: probe.at):
        by_name.setdefault(probe.name, []).append(probe)
    found: list[Span] = []
    for answers in by_name.values():
        ends = [answer.at for answer in answers[1:]] + [now]
        found += [(a.at, end) for a, end in zip(answers, ends, strict=True) if a.seconds is None or a.seconds > within_seconds]
    return union(found)


def turns(runs: Iterable[RunEnd]) -> list[RunEnd]:
    """The ends that change anything, oldest first: a job begins to fail, or for another reason, or is mended."""
    failed: dict[str, set[str]] = {}
    found = []
    for run in sorted(runs, key=lambda run: run.ended_at):
        mended = {job for job in failed if run.job in _MENDED_BY.get(job, {job})}
        if run.failed and (run.job not in failed or (run.kind and run.kind not in failed[run.job])):
            failed.setdefault(run.job, set()).add(run.kind)
            found.append(run)
        elif not run.failed and mended:
            failed = {job: kinds for job, kinds in failed.items() if job not in mended}
            found.append(run)
    return found


def failing(runs: Iterable[RunEnd], published: Sequence[datetime], now: datetime) -> dict[str, list[Span]]:
    """By job, when its work was held up by a run that failed: until one succeeds, or until all that waited is published."""
    ordered = sorted(runs, key=lambda run: run.ended_at)
    found: dict[str, list[Span]] = {}
    for n, run in enumerate(ordered):
        if not run.failed:
            continue
        menders = _MENDED_BY.get(run.job, {run.job})
        mends = [other.ended_at for other in ordered[n + 1 :] if not other.failed and other.job in menders]
        if run.job in _MENDED_BY_A_PUBLISH:
            mends += published[bisect_left(published, run.ended_at) :][:1]
        found.setdefault(run.job, []).append((run.ended_at, min(mends, default=now)))
    return {job: union(spans) for job, spans in found.items()}


def publishes(publications: Sequence[tuple[datetime, int]]) -> list[datetime]:
    """Of (from when on, published version) the moments of what was new, without the rollbacks to older versions."""
    found, newest = [], -1
    for moment, version in publications:
        if version > newest:
            found.append(moment)
            newest = version
    return found
