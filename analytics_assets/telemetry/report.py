"""What the history of steps says: which cost most, which fail most, how reliable each job is, and whether that changes.

Everything is asked of `step_telemetry` and `unit_costs` up to a given moment; nothing is kept. A change is told as two numbers:
that of the earlier and of the later half of the time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby

import duckdb

from analytics_assets.warehouse.spec import identifier, literal

_LISTED = 10
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Dear:
    """A step by what all its attempts cost; `share` is of the cost of all steps in that currency, 0 to 1."""

    job: str
    step: str
    attempts: int
    cost: Decimal
    currency: str
    basis: str
    share: float
    earlier: Decimal
    later: Decimal


@dataclass(frozen=True)
class Failing:
    """A step by its failed attempts; `error_class` is the most frequent one."""

    job: str
    step: str
    attempts: int
    failed: int
    error_class: str | None
    last_failed_at: datetime
    earlier: int
    later: int


@dataclass(frozen=True)
class Run:
    """A run as its steps tell of it; one that a person cancelled is none."""

    job: str
    started_at: datetime
    ended_at: datetime
    failed: bool


@dataclass(frozen=True)
class Reliability:
    """A job: its runs, and how long it went well and stayed broken.

    Broken it is from the end of a failed run to the end of the next that succeeds, however many fail in between. `mtbf_hours`
    (mean time between failures) is how long it went well for each time that it broke, `mttr_hours` (mean time to recovery)
    how long it was broken, of the times that it was mended; None where that never happened.
    """

    job: str
    runs: int
    failed: int
    success_rate: float
    times_broken: int
    mtbf_hours: float | None
    mttr_hours: float | None
    broken_since: datetime | None
    success_rate_earlier: float | None
    success_rate_later: float | None


@dataclass(frozen=True)
class Report:
    """From `since` (the first step that is known, or the beginning of the days asked for) to `until`, all UTC."""

    since: datetime
    until: datetime
    last: datetime
    attempts: int
    dearest: tuple[Dear, ...]
    failing: tuple[Failing, ...]
    reliability: tuple[Reliability, ...]


def report(con: duckdb.DuckDBPyConnection, steps: str, costs: str, until: datetime, days: int) -> Report | None:
    """Of the `days` before `until` (UTC); `steps` and `costs` are SELECTs of the two tables. None if no step is known."""
    with _told(con, steps, until, days) as (attempts, since, last):
        if not attempts:
            return None
        half = since + (until - since) / 2
        return Report(
            since, until, last, attempts, tuple(_dearest(con, costs, half)), tuple(_failing(con, half)),
            tuple(reliability(runs_of(con, "told_steps"), since, until)),
        )  # fmt: skip


def reliability_of_groups(
    con: duckdb.DuckDBPyConnection, steps: str, groups: Mapping[str, str], until: datetime, days: int
) -> tuple[datetime, list[Reliability]]:
    """Since when it is told, and a line a group of assets, the least reliable first, with the group in the place of the job.

    `groups` names the group of each asset; of others, and of steps that make none, nothing is told. A run counts for each
    group of whose assets it began a step: it failed there if one of these failed.
    """
    named = "select unnest(?::varchar[]) as asset, unnest(?::varchar[]) as part"
    with _told(con, steps, until, days) as (_, since, _):
        con.execute(f"create or replace temp table groups_of_assets as {named}", [list(groups), list(groups.values())])
        made = "select run_id, step, unnest(json_extract_string(assets, '$[*]')) as asset from told_steps"
        parts = f"select distinct run_id, step, part from ({made}) join groups_of_assets using (asset)"
        found = reliability(runs_of(con, "told_steps", parts), since or until, until)
        con.execute("drop table groups_of_assets")
        return since or until, found


@contextmanager
def _told(con: duckdb.DuckDBPyConnection, steps: str, until: datetime, days: int) -> Iterator[tuple[int, datetime, datetime]]:
    """Temp table `told_steps`: attempts of the days before `until`. Gives how many, and when the first and the last began."""
    within = f"started_at >= {_at(until - timedelta(days=days))} and started_at < {_at(until)}"
    con.execute(f"create or replace temp table told_steps as select * from ({steps}) where {within}")
    yield con.execute("select count(*), min(started_at), max(started_at) from told_steps").fetchall()[0]
    con.execute("drop table told_steps")


def _at(moment: datetime) -> str:
    return f"timestamp {literal(str(moment))}"


def _dearest(con: duckdb.DuckDBPyConnection, costs: str, half: datetime) -> Iterable[Dear]:
    later = f"sum(cost) filter (started_at >= {_at(half)})"
    rows = con.execute(
        f"with priced as (select job, step, currency, any_value(basis) as basis, sum(cost) as cost, "
        f"count(distinct (run_id, attempt)) as attempts, coalesce({later}, 0) as later "
        f"from ({costs}) join (select run_id, step, attempt, started_at from told_steps) using (run_id, step, attempt) "
        "group by job, step, currency), "
        "ranked as (select *, sum(cost) over (partition by currency) as whole, "
        "row_number() over (partition by currency order by cost desc, job, step) as place from priced) "
        "select job, step, attempts, cost, currency, basis, case when whole > 0 then (cost / whole)::double else 0 end, "
        f"cost - later, later from ranked where place <= {_LISTED} order by currency, place"
    ).fetchall()
    return (Dear(*row) for row in rows)


def _failing(con: duckdb.DuckDBPyConnection, half: datetime) -> Iterable[Failing]:
    failed = "outcome not in ('success', 'cancelled')"
    later = f"count(*) filter ({failed} and started_at >= {_at(half)})"
    rows = con.execute(
        f"select job, step, count(*), count(*) filter ({failed}) as failed, mode(error_class) filter ({failed}), "
        f"max(started_at) filter ({failed}), failed - {later}, {later} from told_steps "
        f"group by job, step having failed > 0 order by failed desc, job, step limit {_LISTED}"
    ).fetchall()
    return (Failing(*row) for row in rows)


def runs_of(con: duckdb.DuckDBPyConnection, steps: str, parts: str | None = None) -> list[Run]:
    """What the last attempt of each step says of its run; `steps` is a table of attempts.

    `parts` is a SELECT of (run_id, step, part) that says what it is a run of, which then stands in the place of the job.
    """
    parts = parts or f"select distinct run_id, step, job as part from {identifier(steps)}"
    rows = con.execute(
        "with ends as (select run_id, step, arg_max(outcome, attempt) as outcome, min(started_at) as began, "
        "max(started_at + to_microseconds((coalesce(wall_seconds, 0) * 1e6)::bigint)) as ended "
        f"from {identifier(steps)} group by run_id, step), parts as ({parts}) "
        "select part, min(began), max(ended), bool_or(outcome not in ('success', 'cancelled')) as failed "
        "from ends join parts using (run_id, step) group by run_id, part having failed or not bool_or(outcome = 'cancelled')"
    ).fetchall()
    return [Run(*row) for row in rows]


def reliability(runs: Iterable[Run], since: datetime, until: datetime) -> list[Reliability]:
    """A line a job, the least reliable first."""
    by_job = sorted(runs, key=lambda run: (run.job, run.ended_at, run.failed))
    half = since + (until - since) / 2
    found = [_of_job(job, list(own), half, until) for job, own in groupby(by_job, key=lambda run: run.job)]
    return sorted(found, key=lambda one: (one.success_rate, one.job))


def _of_job(job: str, runs: Sequence[Run], half: datetime, until: datetime) -> Reliability:
    broken: datetime | None = None
    times, mended, lost = 0, list[timedelta](), timedelta()
    for run in runs:
        if run.failed and broken is None:
            broken, times = run.ended_at, times + 1
        elif not run.failed and broken is not None:
            mended.append(run.ended_at - broken)
            broken = None
    lost = sum(mended, timedelta()) + (max(until - broken, timedelta()) if broken else timedelta())
    well = max(until - min(run.started_at for run in runs) - lost, timedelta())
    return Reliability(
        job=job,
        runs=len(runs),
        failed=sum(run.failed for run in runs),
        success_rate=_rate(runs) or 0.0,
        times_broken=times,
        mtbf_hours=well / times / _HOUR if times else None,
        mttr_hours=sum(mended, timedelta()) / len(mended) / _HOUR if mended else None,
        broken_since=broken,
        success_rate_earlier=_rate([run for run in runs if run.started_at < half]),
        success_rate_later=_rate([run for run in runs if run.started_at >= half]),
    )


def _rate(runs: Sequence[Run]) -> float | None:
    return sum(not run.failed for run in runs) / len(runs) if runs else None
