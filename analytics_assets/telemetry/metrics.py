"""How well the system does, week by week, each measure held against the weeks before it and, where there is one, its band.

Queries, jobs and processors are told by what is kept of steps and queries; how full the disk is and what people did by hand the
caller knows. A baseline is a median, and a trend the median of all slopes (Theil and Sen), so that one bad week moves neither.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import combinations, groupby
from statistics import median

import duckdb

from analytics_assets.telemetry.report import Run, runs_of
from analytics_assets.telemetry.review import COMPUTE, STORAGE, compute, seen, storage, weeks_of
from analytics_assets.telemetry.tables import Measure, Performance

WEEKS = 26
ALL = "all"
_WEEK = timedelta(weeks=1)
_BASELINE_WEEKS, _TREND_WEEKS, _LEAST = 4, 8, 3
_BANDS: Mapping[Measure, tuple[float, float]] = {"processors_used": COMPUTE, "disk_used": STORAGE}


@dataclass(frozen=True)
class Point:
    """What a measure was in a week."""

    week: date
    measure: Measure
    name: str
    value: float
    samples: int | None = None
    slow: float | None = None
    advice: str | None = None


def monday(moment: datetime) -> date:
    return moment.date() - timedelta(days=moment.weekday())


def first_week(now: datetime) -> date:
    """The first of the weeks that are told."""
    return monday(now) - (WEEKS - 1) * _WEEK


def performance(
    con: duckdb.DuckDBPyConnection, selects: Mapping[str, str], by_hand: Sequence[tuple[datetime, str]],
    disk: tuple[int, int], now: datetime, before: Iterable[Performance] = (),
) -> list[Performance]:  # fmt: skip
    """The rows of the last 26 weeks. `selects` are SELECTs of `step_telemetry`, `query_log` and `unit_costs`, times are UTC.

    `by_hand` are what people did and when; `disk` are bytes of the volume that are used, and all of it; `before` the rows
    that are kept, which alone know how full the disk was.
    """
    first, this = first_week(now), monday(now)
    points = [Point(row.week, "disk_used", row.name, row.value, advice=row.advice) for row in before
              if row.measure == "disk_used" and first <= row.week < this]  # fmt: skip
    if disk[1]:
        full = storage(*disk)
        points.append(Point(this, "disk_used", ALL, full.used, advice=full.advice))
    with seen(con, selects, datetime.combine(first, datetime.min.time()), now):
        points += [*_queries(con), *_jobs(runs_of(con, "seen_steps")), *_throughput(con), *_processors(con)]
    known = min((point.week for point in points), default=this)
    points += _by_hand(by_hand, max(first, min([known, *(monday(at) for at, _ in by_hand)])), this)
    return held_against_before(points, this)


def _queries(con: duckdb.DuckDBPyConnection) -> Iterator[Point]:
    rows = con.execute(
        "select date_trunc('week', asked_at)::date as week, command, median(seconds), count(*), quantile_cont(seconds, 0.95) "
        "from seen_queries where outcome = 'success' group by all"
    ).fetchall()
    return (Point(week, "query_seconds", command, *took) for week, command, *took in rows)


def _jobs(runs: Iterable[Run]) -> Iterator[Point]:
    def whose(run: Run) -> tuple[str, date]:
        return run.job, monday(run.started_at)

    for (job, week), mine in groupby(sorted((run for run in runs if not run.failed), key=whose), whose):
        seconds = sorted(max((run.ended_at - run.started_at).total_seconds(), 0.0) for run in mine)
        yield Point(week, "job_seconds", job, median(seconds), len(seconds), seconds[-(-len(seconds) * 95 // 100) - 1])


def _throughput(con: duckdb.DuckDBPyConnection) -> Iterator[Point]:
    rows = con.execute(
        "select date_trunc('week', started_at)::date as week, job, sum(rows_written) / sum(wall_seconds), count(*) "
        "from seen_steps where outcome = 'success' and rows_written > 0 and wall_seconds > 0 group by all"
    ).fetchall()
    return (Point(week, "rows_per_second", job, speed, steps) for week, job, speed, steps in rows)


def _processors(con: duckdb.DuckDBPyConnection) -> Iterator[Point]:
    for week in weeks_of(con):
        if week.compute is not None:
            used = compute(week)
            yield Point(week.begins, "processors_used", ALL, used.used, week.attempts, advice=used.advice)


def _by_hand(acts: Sequence[tuple[datetime, str]], first: date, this: date) -> Iterator[Point]:
    """A week in which nobody had to do anything counts too."""
    done = [(monday(at), kind) for at, kind in acts]
    for kind in (ALL, *sorted({kind for _, kind in done})):
        for number in range((this - first) // _WEEK + 1):
            week = first + number * _WEEK
            yield Point(week, "manual_actions", kind, sum(one[0] == week and kind in (ALL, one[1]) for one in done))


def held_against_before(points: Iterable[Point], this: date) -> list[Performance]:
    """Each point with what it is held against; `this` is the week that goes on."""

    def what(point: Point) -> tuple[str, str]:
        return point.measure, point.name

    found = []
    for _, mine in groupby(sorted(points, key=lambda point: (*what(point), point.week)), what):
        series = list(mine)
        for point in series:
            before = [one.value for one in series if point.week - _BASELINE_WEEKS * _WEEK <= one.week < point.week]
            recent = [one for one in series if point.week - _TREND_WEEKS * _WEEK < one.week <= point.week]
            baseline = median(before) if before else None
            low, high = _BANDS.get(point.measure, (None, None))
            ratio = point.value / baseline if baseline else None
            found.append(
                Performance(
                    **vars(point),
                    whole=point.week < this,
                    baseline=baseline,
                    ratio=ratio,
                    trend=_trend(recent),
                    low=low,
                    high=high,
                )
            )
    return found


def _trend(points: Sequence[Point]) -> float | None:
    usual = median(point.value for point in points)
    if len(points) < _LEAST or not usual:
        return None
    slopes = [(b.value - a.value) / ((b.week - a.week) / _WEEK) for a, b in combinations(points, 2)]
    return median(slopes) / usual
