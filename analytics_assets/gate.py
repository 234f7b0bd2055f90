"""The gate between rebuild and publish: brings tables and their expectations together, and says what may not go out.

Only this module knows both sides; what is expected stands beside the tables, how it is judged in `quality/`.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import duckdb

from analytics_assets.events.days import BUILT_DAYS, ranges
from analytics_assets.events.expectations import BATCHES_SUITE, EVENTS_SUITE, REJECTED_SUITE
from analytics_assets.marts.expectations import mart_suites
from analytics_assets.privacy.alarm import PERSONAL_DATA
from analytics_assets.privacy.expectations import CONSENT_SUITE
from analytics_assets.privacy.horizons import Horizons
from analytics_assets.privacy.withheld import CONSENT_EXCEPTIONS, shown_of
from analytics_assets.quality.history import CLEAN_DAYS, DELIVERIES, History, Past
from analytics_assets.quality.judge import Failing, Occasion, judge
from analytics_assets.quality.measure import Cell, Judged, drop, stand
from analytics_assets.quality.results import keep, past, refusals, standing, unjudged
from analytics_assets.quality.seen import with_what_is_seen
from analytics_assets.quality.tables import QUALITY_RESULTS, QualityResult, refusal
from analytics_assets.sessions.build import resolved_identities, stitched
from analytics_assets.sessions.expectations import PAGE_VIEWS_SUITE, RUNAWAYS_SUITE, SESSIONS_SUITE, USERS_SUITE
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, SESSIONS
from analytics_assets.settings import Settings, UserError
from analytics_assets.warehouse.expectation import Suite, expectations_of
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import Check, shown_version
from analytics_assets.warehouse.table import Snapshot, Table, day_bounds, stored_columns

_RESOLVED = "select * from judged_people"
# Whose events a batch brought.
_TENANTS = "coalesce(json_keys(events_by_tenant), case when tenant is not null then [tenant] end)"
_LISTED = (REJECTED_SUITE, BATCHES_SUITE, EVENTS_SUITE, SESSIONS_SUITE, PAGE_VIEWS_SUITE, RUNAWAYS_SUITE, USERS_SUITE,
           CONSENT_SUITE)  # fmt: skip


def suites() -> tuple[Suite, ...]:
    """Every list of expectations, in the order of the data's way."""
    return (*_LISTED, *mart_suites())


class Gate:
    """Judges days of one data home, and refuses a publish while a blocking expectation is broken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = Home(settings.home)
        self._aged = Horizons(self._home)

    def _table(self, suite: Suite) -> Table:
        return Table(self._home.warehouse, suite.table)

    @property
    def results(self) -> Table:
        return Table(self._home.warehouse, QUALITY_RESULTS)

    def checks(self) -> tuple[Check, ...]:
        """Accounting between the layers of a staged version, whole tables as no window can judge: each SELECT must be empty.

        Days whose events went for good have nothing to be held against; of all others every event counts.
        """
        event, day = self._aged.lives("timestamp"), self._aged.lives("date")
        return (
            (
                "every received record is accounted for",
                "select batch_id, received, rejected, duplicates, events from batches "
                "where received <> rejected + duplicates + events",
            ),
            _agree("events are those that the batches brought, with those withheld for want of consent", "events",
                   "sum(n) from (select count(*) as n from events union all select sum(events) from withheld_events)",
                   "brought", "coalesce(sum(events), 0) from batches"),
            _agree("events are those that the daily rollup counts", "events", f"count(*) from events where {event}",
                   "counted", f"coalesce(sum(events), 0) from events_daily where {day}"),
            _agree("events are in a session or in a runaway", "events", f"count(*) from events where {event}",
                   "placed", "coalesce(sum(events), 0) from (select events, tenant_id, date from sessions union all "
                   f"select events, tenant_id, date from runaway_sessions) where {day}"),
            _agree("revenue is that of the events", "earned", f"coalesce(sum(revenue), 0) from events where {event}",
                   "summed", f"coalesce(sum(revenue), 0) from revenue_daily where {day}"),
        )  # fmt: skip

    def built(self, con: duckdb.DuckDBPyConnection) -> list[date]:
        """Days that were built, whether judged or not."""
        select = Table(self._home.warehouse, BUILT_DAYS).snapshot().select()
        return [day for (day,) in con.execute(f"select date from ({select}) order by 1").fetchall()]

    def pending(self, con: duckdb.DuckDBPyConnection, now: datetime) -> list[date]:
        """Days that were built and not judged since, and days that were judged before they were over."""
        built = Table(self._home.warehouse, BUILT_DAYS).snapshot().select()
        return unjudged(con, self.results.snapshot(), built, now)

    def windows(self, con: duckdb.DuckDBPyConnection, days: Sequence[date]) -> list[list[date]]:
        """`days` in the parts that are judged apart: nothing is learned from what a day is judged with.

        A late event of last year would leave today without a history, and so would an erasure that reaches so far back. What a
        delivery brought, a failure holds or was not over is judged last, and not with days that only lost something.
        """
        verdicts = f"""
            select "partition" as date, max(version) as version, max(judged_at) as judged_at
            from ({self.results.snapshot().select()}) where "table" = 'events' group by 1
        """
        asked = (
            f"select date from ({self._newest_of_each_day()}) came left join ({verdicts}) judged using (date) "
            "where came.version > coalesce(judged.version, -1) or judged_at < date + interval 1 day"
        )
        brought = {day for (day,) in con.execute(asked).fetchall()} | {one.partition for one in self.refusals(con)}
        parts = ([day for day in days if day not in brought], [day for day in days if day in brought])
        return [[day for day in part if near.first <= day <= near.last] for part in parts for near in ranges(part)]

    def judge(
        self, con: duckdb.DuckDBPyConnection, days: Sequence[date], now: datetime, version: int, run: str,
        failing: Failing | None = None,
    ) -> list[QualityResult]:  # fmt: skip
        """Judge every table of `days`, as built from `version` of events, and keep the verdicts."""
        chosen = sorted(days)
        history = self._history(con, chosen[0], now)
        con.execute("create or replace temp table judged_days as select unnest(?::date[]) as date", [chosen])
        identities = resolved_identities(Table(self._home.warehouse, IDENTITIES).snapshot().select())
        con.execute(f"create or replace temp table judged_people as {identities}")
        again = self.deliveries_at_fault(con)
        # Today, days on which came what brought events to the judged ones, and those that may have been set right.
        con.execute("create or replace temp table received_days as select unnest(?::date[]) as date", [[now.date(), *again]])
        personal_data = Table(self._home.warehouse, PERSONAL_DATA).snapshot().select()
        con.execute(f"create or replace temp view found_personal_data as {personal_data}")
        tables = [self._judged(con, suite, chosen, version) for suite in suites()]
        occasion = Occasion(tuple(chosen), now, version, run, tuple(again), self._told_of(con, version))
        found = judge(con, tables, history, occasion, failing)
        # Before the new verdicts take the place of those that readers have.
        found = with_what_is_seen(
            con, self.results.snapshot(), found, self._newest_of_each_day(), shown_version(self._home, EVENTS_SUITE.table.name),
            {(suite.table.name, expected.name) for suite in suites() for expected in expectations_of(suite) if expected.always},
        )  # fmt: skip
        keep(con, self.results, found, self._settings.limits.storage.dense_day_rows)
        con.execute("drop table judged_days; drop table judged_people; drop table received_days; drop view found_personal_data")
        return found

    def at_fault(self, con: duckdb.DuckDBPyConnection, expectation: str, tenant: str, day: date, now: datetime) -> None:
        """Make temp table `wrong_events` (tenant_id, message_id): the events of a tenant and day that an expectation names.

        Raises UserError where the expectation names none by itself.
        """
        named = {expected.name: expected for expected in EVENTS_SUITE.expectations if expected.wrong}
        if expectation not in named:
            raise UserError(f"'{expectation}' does not tell which events are at fault; these do: {', '.join(named)}")
        history = self._history(con, day, now)
        con.execute("create or replace temp table judged_days as select ?::date as date", [day])
        table = self._judged(con, EVENTS_SUITE, [day], None)
        stand(con, [table], history.clean, day)
        con.execute(
            "create or replace temp table wrong_events as with judged as (select * from judged_events "
            f"where tenant_id = ? and date = ?) select tenant_id, message_id from judged where {named[expectation].wrong}",
            [tenant, day],
        )
        drop(con, [table])
        con.execute("drop table judged_days")

    def deliveries_at_fault(self, con: duckdb.DuckDBPyConnection) -> list[date]:
        """Days of receipt of which a delivery fails a blocking expectation; a later delivery or a replay may set them right."""
        return standing(con, self.results.snapshot(), [suite.table.name for suite in (BATCHES_SUITE, REJECTED_SUITE)])

    def refusals(self, con: duckdb.DuckDBPyConnection) -> list[QualityResult]:
        """What holds the publish now."""
        as_a_whole = [suite.table.name for suite in suites() if suite.day is None]
        return refusals(con, self.results.snapshot(), as_a_whole, self._settings.incidents)

    def holds(self, con: duckdb.DuckDBPyConnection, now: datetime) -> str | None:
        """Why a publish would be refused now, in a sentence; None if it would not, or if it would judge anew."""
        found = self.refusals(con)
        return refusal(found) if found and not self.pending(con, now) else None

    def _history(self, con: duckdb.DuckDBPyConnection, first: date, now: datetime) -> History:
        found = past(con, self.results.snapshot(), first, now.date())
        incidents = self._settings.incidents
        return History(found, incidents, self._brought(con) if incidents or any(map(_delivery_failed, found)) else {})

    def _told_of(self, con: duckdb.DuckDBPyConnection, version: int) -> dict[str, date]:
        """By tenant the newest day that the deliveries tell of which bring its events, be they of others too."""
        batches = f"select *, coalesce(tenant, source) as feed from ({self._table(BATCHES_SUITE).snapshot().select()})"
        rows = con.execute(
            f"with loaded as ({batches} where events > 0 and events_version <= {version}), "
            "newest as (select feed, max(list_max(days)) as day from loaded group by all), "
            f"fed as (select distinct feed, unnest({_TENANTS}) as tenant_id from loaded) "
            "select tenant_id, max(day) from fed join newest using (feed) group by all"
        ).fetchall()
        return dict(rows)

    def _brought(self, con: duckdb.DuckDBPyConnection) -> dict[Cell, list[Cell]]:
        """The tenants and days of the events that came on a day of receipt to a tenant, or to a source."""
        rows = con.execute(
            f"select name, received, list((tenant_id, day)) from (select coalesce(tenant, source) as name, "
            f"received_at::date as received, unnest({_TENANTS}) as tenant_id, days "
            f"from ({self._table(BATCHES_SUITE).snapshot().select()}) where events > 0), unnest(days) as each(day) group by all"
        ).fetchall()
        return {(name, received): cells for name, received, cells in rows}

    def _newest_of_each_day(self) -> str:
        """(tenant_id, date, version): the newest version of events to which a delivery of a tenant's day belongs."""
        batches = self._table(BATCHES_SUITE).snapshot().select()
        each = f"select unnest({_TENANTS}) as tenant_id, days, events_version from ({batches}) where events > 0"
        return f"select tenant_id, date, max(events_version) as version from ({each}), unnest(days) as each(date) group by all"

    def _judged(self, con: duckdb.DuckDBPyConnection, suite: Suite, days: Sequence[date], version: int | None) -> Judged:
        snapshot = self._table(suite).snapshot(version if suite.table is EVENTS_SUITE.table else None)
        stored = stored_columns(con, snapshot.files)
        whole = snapshot.select()
        if suite in (BATCHES_SUITE, REJECTED_SUITE) and version is not None:
            batches = _batches(self._table(BATCHES_SUITE).snapshot(), version)
            came = f"select * from ({whole}) where batch_id in (select batch_id from ({batches}))"
            return Judged(suite, came, "", whole, stored)
        if suite.day is None:
            return Judged(suite, whole, "", whole, stored)
        asked, before = _window(suite, snapshot, days)
        if suite is EVENTS_SUITE:
            # What nobody sees is not judged, or it would not agree with what is counted from the rest.
            exceptions = Table(self._home.warehouse, CONSENT_EXCEPTIONS).snapshot()
            asked, before, whole = (shown_of(part, exceptions) for part in (asked, before, whole))
        if (lives := self._aged.lives(suite.day)) != "not false":
            # Of a day whose events went, what stays cannot be held against them.
            asked, before, whole = (f"select * from ({part}) where {lives}" for part in (asked, before, whole))
        if suite.table in (SESSIONS, PAGE_VIEWS):
            # As readers see them: people are told when they are read.
            asked, before, whole = (stitched(part, _RESOLVED, suite.table.column_names) for part in (asked, before, whole))
        return Judged(suite, asked, before, whole, stored)


def _agree(name: str, one: str, counted: str, other: str, held: str) -> Check:
    """Two sums over a version that must be the same."""
    return name, f"select * from (select (select {counted}) as {one}, (select {held}) as {other}) where {one} <> {other}"


def _delivery_failed(row: Past) -> bool:
    table, _, _, _, severity, success, _ = row
    return table in DELIVERIES and severity == "block" and success == "fail"


def _window(suite: Suite, snapshot: Snapshot, days: Sequence[date]) -> tuple[str, str]:
    """SELECTs of the rows of the judged days, and of those shortly before the first of them."""
    low, high = day_bounds(days)
    asked = f"{_between(suite, snapshot, low, high)} and {suite.day} in (select date from judged_days)"
    return asked, _between(suite, snapshot, low - CLEAN_DAYS, low - timedelta(microseconds=1))


def _between(suite: Suite, snapshot: Snapshot, low: datetime, high: datetime) -> str:
    return (
        f"select * from ({snapshot.select(snapshot.between(low, high))}) "
        f"where {suite.table.time_column} between timestamp '{low}' and timestamp '{high}'"
    )


def _batches(snapshot: Snapshot, version: int) -> str:
    """The batches of `received_days` and of every day on which one came that brought events to the judged days."""
    listed = f"select * from ({snapshot.select()}) where events_version <= {version}"
    met = "list_has_any(days, (select list(date) from judged_days))"
    return (
        f"select * from ({listed}) where received_at::date in (select received_at::date from ({listed}) where {met} "
        "union all select date from received_days)"
    )
