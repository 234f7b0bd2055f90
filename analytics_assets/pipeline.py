"""The stages as plain functions over one data home: load, rebuild days, publish, look after storage.

Dagster's assets, the command line and the benchmarks all call these; nothing here knows Dagster. Each stage reads what is
committed, commits what it made, and can be killed and run again.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

import duckdb

from analytics_assets.alerts.journal import ALERTS
from analytics_assets.alerts.look import situation
from analytics_assets.alerts.problems import Situation
from analytics_assets.alerts.watch import AlertWatch
from analytics_assets.events.days import BUILT_DAYS, SESSION_DAYS, mark_built, mark_sessions, pending_days, ranges
from analytics_assets.events.intake import INTAKE_LOCK, Batch, BatchReport, Intake, file_batch, utc_now
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.events.withdraw import SET_ASIDE, withdrawn_after
from analytics_assets.freshness.insight import Insight
from analytics_assets.freshness.tables import FRESHNESS_ACTIONS, QUEUE_OVERRIDES, TIME_TO_INSIGHT
from analytics_assets.freshness.tiers import load_promises
from analytics_assets.freshness.watch import ACTIONS_LOCK, Watch
from analytics_assets.gate import CHECKS, Gate
from analytics_assets.labelling import labelled
from analytics_assets.landing import (
    Landed,
    StillWritten,
    file_digest,
    file_state,
    landed_files,
    move_into,
    waiting_since,
)
from analytics_assets.marts.build import BuildResult, build, manifest
from analytics_assets.marts.tables import mart_tables
from analytics_assets.quality.judge import warm_up
from analytics_assets.quality.tables import QualityResult, refusal
from analytics_assets.sessions.build import (
    build_sessions,
    merge_identities,
    resolved_identities,
    seen_by_marts,
    stitched,
    users,
    window,
)
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import Settings, UserError
from analytics_assets.shown import publishables, published
from analytics_assets.slo.tables import QUERY_PROBES, RELEASE_GATE, RUN_TURNS, WATCH_LOCK
from analytics_assets.slo.watch import Levels, ServiceLevels
from analytics_assets.sources.mapping import Source, load_sources
from analytics_assets.sources.readers import Slice, UnreadableFile, confirm_readable, slices, slices_from_raw
from analytics_assets.telemetry.steps import STEPS_LOCK
from analytics_assets.warehouse.connect import connection
from analytics_assets.warehouse.home import Busy, Home
from analytics_assets.warehouse.maintain import Compaction, LayoutAdvice, compact, layout_advice, sweep
from analytics_assets.warehouse.publish import PUBLISH_LOCK, Published, PublishRefused, publish
from analytics_assets.warehouse.spec import TableSpec, literal
from analytics_assets.warehouse.table import Snapshot, Table, day_bounds, replace_all, replace_days

# Held for a stage at a time. What a cold process has to import and parse first, it does before it takes its turn.
REBUILD_LOCK = "rebuild"


@dataclass(frozen=True)
class Rebuild:
    """What a stage rebuilt: the days it replaced, and per table the rows it wrote and has now."""

    days: tuple[date, ...]
    rows: dict[str, int]
    total_rows: dict[str, int]
    events_version: int


class Waiting(UserError):
    """A publish would show days half rebuilt; the run that rebuilds them publishes."""


class Pipeline:
    """All stages of one data home. `clock` tells when a stage began or ended (UTC); what is judged gets its own `now`."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings, self.clock = settings, clock
        self.home = Home(settings.home)

    @cached_property
    def sources(self) -> dict[str, Source]:
        return load_sources(self.settings.config / "sources")

    @cached_property
    def intake(self) -> Intake:
        limits = self.settings.limits
        return Intake(self.home, limits.events, limits.storage, list(self.settings.tenants), self.clock)

    def table(self, spec: TableSpec) -> Table:
        return Table(self.home.warehouse, spec)

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        storage = self.settings.limits.storage
        with connection(self.home, memory_mb=storage.memory_mb, threads=storage.threads, source=storage.config_source) as con:
            yield con

    # Loading

    def source(self, name: str) -> Source:
        if name not in self.sources:
            raise UserError(f"there is no source '{name}'; declared are {', '.join(sorted(self.sources))}")
        return self.sources[name]

    def load(
        self, con: duckdb.DuckDBPyConnection, path: Path, source_name: str, tenant: str | None, now: datetime,
        progress: Callable[[int, int], None] = lambda rows, size: None, landed: datetime | None = None,
    ) -> BatchReport:  # fmt: skip
        """Load one file as one batch. A file that cannot be read is recorded as set aside, with the reason.

        Raises StillWritten if the file changes meanwhile.
        """
        source = self.source(source_name)
        if tenant is not None and tenant not in self.settings.tenants:
            raise UserError(f"tenant '{tenant}' is not declared; add it to {self.settings.config / 'tenants.yaml'}")
        seen = file_state(path)
        digest = file_digest(path, source.name, tenant)
        batch = file_batch(path, digest, source.name, tenant, now, source.twin_lookback, landed)

        def confirm_whole() -> None:
            if file_state(path) != seen:
                raise StillWritten(f"{path.name} is still being written; nothing of it was stored, load it when it is whole")

        def parts() -> Iterator[Slice]:
            yield from slices(con, path, source, tenant=tenant, received_at=now)
            confirm_whole()

        try:
            return self.intake.store(con, batch, parts, progress=progress)
        except UnreadableFile as error:
            confirm_whole()
            return self.intake.set_aside(con, batch, str(error))
        except duckdb.Error:
            confirm_whole()
            # Damage inside a Parquet file shows only where its pages are read, which is in intake's own queries.
            try:
                confirm_readable(path)
            except UnreadableFile as error:
                return self.intake.set_aside(con, batch, str(error))
            raise

    def known(self, path: Path, source_name: str, tenant: str | None) -> BatchReport | None:
        """The answer for a file that was loaded before: its accepted records are duplicates now; None for a new file."""
        with self.connect() as con:
            return self.intake.known(con, file_digest(path, self.source(source_name).name, tenant))

    def report(self, path: Path, source_name: str, tenant: str | None) -> BatchReport | None:
        """What `batches` says of a file, as it was when it was loaded."""
        with self.connect() as con:
            return self.intake.report(con, file_digest(path, self.source(source_name).name, tenant))

    def events_a_day(self, con: duckdb.DuckDBPyConnection, reports: Sequence[BatchReport]) -> list[tuple[date, str, float]]:
        """(day, tenant, events) of the days that these batches brought new events to."""
        days = sorted({day for report in reports for day in report.days})
        if not days:
            return []
        events = _bounded(self.table(EVENTS).snapshot(), *day_bounds(days))
        counted = f"select timestamp::date as day, tenant_id, count(*)::double as events from ({events}) group by 1, 2"
        return con.execute(f"{counted} having day in (select unnest(?::date[])) order by 1, 2", [days]).fetchall()

    def landed(self, now: datetime, settle_seconds: float = 2.0) -> tuple[list[Landed], list[str]]:
        """Files that wait in `landing/<tenant>/`, oldest first, and one line for each that cannot be taken."""
        return landed_files(self.home.landing, self.settings.tenants, now, settle_seconds)

    def load_landed(
        self, con: duckdb.DuckDBPyConnection, landed: Landed, now: datetime,
        progress: Callable[[int, int], None] = lambda rows, size: None,
    ) -> BatchReport:  # fmt: skip
        """Load a landed file, then move it: to `received/`, or to `set_aside/` with the reason beside it.

        Raises StillWritten, and leaves the file where it lies, if somebody writes to it meanwhile.
        """
        seen = file_state(landed.path)
        report = self.load(con, landed.path, landed.source, landed.tenant, now, progress, landed.since)
        aside = report.status == "set_aside"
        folder = (self.home.set_aside if aside else self.home.received) / landed.tenant
        moved = move_into(folder, landed.path, f"{report.batch_id[:12]}-{landed.path.name}")
        if file_state(moved) != seen:
            # Whoever writes holds the file, not its name: back with it, the next look takes the rest.
            shutil.move(str(moved), str(landed.path))
            raise StillWritten(f"{landed.path.name} is still being written; it stays in its landing folder")
        if aside:
            moved.with_name(moved.name + ".reason.txt").write_text(f"{report.reason}\n", encoding="utf-8")
        return report

    def replay_rejected(
        self, con: duckdb.DuckDBPyConnection, now: datetime, *, reason: str | None, source: str | None,
        tenant: str | None, dry_run: bool,
    ) -> list[BatchReport]:  # fmt: skip
        """Try rejected records again, a batch a source and tenant; those that are accepted now leave `rejected_events`.

        Those that a person set aside are only taken when `reason` names theirs.
        """
        rejected = self.table(REJECTED).snapshot().select()
        filters = {"reason": reason, "source": source, "tenant_id": tenant}
        chosen = [f"{name} = {literal(value)}" for name, value in filters.items() if value is not None]
        chosen += [f"not starts_with(reason, '{SET_ASIDE}')"] if reason is None else []
        con.execute(f"create or replace temp table again as select * from ({rejected}) where {' and '.join(chosen)}")
        groups = con.execute("select distinct source, landed_for from again order by all").fetchall()
        reports = []
        for name, landed_for in groups:
            known = self.source(name)
            rows = con.execute(
                "select raw, record_digest, copy from again where source = ? and landed_for is not distinct from ? "
                "order by record_digest, copy",
                [name, landed_for],
            ).fetchall()
            content = hashlib.sha256(repr((name, landed_for, now.isoformat(), rows)).encode()).hexdigest()[:32]
            batch = Batch(content, name, landed_for, "rejected_events", 0, now, known.twin_lookback, "replayed")
            again = partial(slices_from_raw, con, [row[0] for row in rows], known, tenant=landed_for, received_at=now)
            report = self.intake.replay(con, batch, again, dry_run=dry_run)
            reports.append(report)
        return reports

    # Rebuilding the tables behind events

    def pending(self, con: duckdb.DuckDBPyConnection) -> list[date]:
        """Days that wait for a rebuild, also those of a load that was killed before it noted them."""
        # A load that is under way holds the lock, and has finished what an earlier one left.
        with suppress(Busy), self.home.lock(INTAKE_LOCK, wait_seconds=0):
            self.intake.finish_interrupted(con)
        return pending_days(con, self.home)

    def rebuild_sessions(self, con: duckdb.DuckDBPyConnection, days: Sequence[date]) -> Rebuild:
        """Rebuild sessions, page views and runaways of `days` (and of days their sessions reach into), and identities."""
        rules, dense = self.settings.limits.sessions, self.settings.limits.storage.dense_day_rows
        with self.home.turn(INTAKE_LOCK):
            self.intake.finish_interrupted(con)
        with self.home.turn(REBUILD_LOCK):
            began = self.clock()
            events = self.table(EVENTS).snapshot()
            low, high = window(days, rules)
            wide = _bounded(events, low, high)
            asked = _bounded(events, *day_bounds(days))
            built = build_sessions(con, wide, days, rules)
            rows = {}
            for spec, relation in (
                (SESSIONS, "new_sessions"), (PAGE_VIEWS, "new_page_views"), (RUNAWAYS, "new_runaways")
            ):  # fmt: skip
                select = f"select {spec.select_list} from {relation}"
                _, rows[spec.name] = replace_days(self.table(spec), con, select, built.days, dense_day_rows=dense)
            known = self.table(IDENTITIES).snapshot().select()
            if withdrawn_after(con, self.table(BATCHES).snapshot(), self.last_rebuild()):
                # What those events said about who is who is not to be told from the rest: it is learned anew.
                asked, known = events.select(), IDENTITIES.empty_select
            note = {"events_version": str(events.version)}
            merge_identities(con, asked, known)
            replace_all(self.table(IDENTITIES), con, "select * from new_identities", note)
            con.execute("drop table new_identities")
            mark_sessions(con, self.home, built.days, events.version, began)
            return Rebuild(built.days, rows, self._total_rows(rows), events.version)

    def _total_rows(self, names: Iterable[str]) -> dict[str, int]:
        return {spec.name: self.table(spec).snapshot().rows for spec in self.specs if spec.name in set(names)}

    def rebuild_users(self, con: duckdb.DuckDBPyConnection) -> int:
        """Rebuild the users table from all sessions; returns its rows."""
        with self.home.turn(REBUILD_LOCK):
            self._replace_users(con, self._behind_users())
            return self.table(USERS).snapshot().rows

    def _replace_users(self, con: duckdb.DuckDBPyConnection, behind: dict[str, str]) -> None:
        replace_all(self.table(USERS), con, users(self._stitched(con, SESSIONS)), behind)

    def _behind_users(self) -> dict[str, str]:
        """The versions of the tables that users are made from, as the commit of users notes them."""
        return {f"{spec.name}_version": str(self.table(spec).open().version()) for spec in (SESSIONS, IDENTITIES)}

    def rebuild_marts(
        self, con: duckdb.DuckDBPyConnection, days: Sequence[date],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Rebuild, BuildResult]:  # fmt: skip
        """Rebuild the marts of `days` with dbt from the events that the sessions were built from.

        Nothing is committed if a test failed. The days count as built when everything is committed.
        """
        dense = self.settings.limits.storage.dense_day_rows
        manifest(self.home.work / "dbt")
        with self.home.turn(REBUILD_LOCK):
            version = self.built_version()
            work_db = self.home.work / "marts.duckdb"
            self._make_work_db(work_db, days, version)
            memory = f"{self.settings.limits.storage.memory_mb}MB"
            result = build(work_db, self.home.work / "dbt", memory_limit=memory, progress=progress)
            if not result.ok:
                return Rebuild((), {}, {}, version), result
            rows = {}
            con.execute(f"attach {literal(str(work_db))} as marts (read_only)")
            try:
                for spec in mart_tables():
                    select = f"select {spec.select_list} from marts.main.{spec.name}"
                    if spec.time_column is None:
                        replace_all(self.table(spec), con, select)
                        rows[spec.name] = self.table(spec).snapshot().rows
                    else:
                        _, rows[spec.name] = replace_days(self.table(spec), con, select, days, dense_day_rows=dense)
            finally:
                con.execute("detach marts")
            mark_built(con, self.home, days, version)
            return Rebuild(tuple(days), rows, self._total_rows(rows), version), result

    def built_version(self) -> int:
        """The version of events that the sessions were last built from."""
        version = self.last_rebuild()
        if version is None:
            raise UserError("no sessions are built yet; run `analytics ingest` or `analytics demo` first")
        return version

    def last_rebuild(self) -> int | None:
        """The version of events that the sessions were last built from; None before the first build."""
        for entry in self.table(IDENTITIES).open().history(20):
            if "events_version" in entry:
                return int(entry["events_version"])
        return None

    def _make_work_db(self, path: Path, days: Sequence[date], version: int) -> None:
        """The private database that dbt works in: views over exactly the files of one version."""
        # A killed build may leave a log that DuckDB would play into the new file.
        for leftover in (path, path.with_name(path.name + ".wal")):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(path.with_name(path.name + ".tmp"), ignore_errors=True)
        events = self.table(EVENTS).snapshot(version)
        storage = self.settings.limits.storage
        with connection(self.home, memory_mb=storage.memory_mb, threads=storage.threads, database=path) as con:
            con.execute("create table days as select unnest(?::date[]) as date", [list(days)])
            identities = resolved_identities(self.table(IDENTITIES).snapshot().select())
            con.execute(f"create table resolved as {identities}")
            asked = f"{_bounded(events, *day_bounds(days))} and timestamp::date in (select date from days)"
            sessions = self.table(SESSIONS).snapshot().select()
            views = seen_by_marts(asked, EVENTS.column_names, sessions, SESSIONS.column_names, _RESOLVED)
            for name, select in views.items():
                con.execute(f"create view {name} as {select}")

    def _stitched(self, con: duckdb.DuckDBPyConnection, spec: TableSpec) -> str:
        identities = resolved_identities(self.table(IDENTITIES).snapshot().select())
        con.execute(f"create or replace temp table resolved as {identities}")
        return stitched(self.table(spec).snapshot().select(), _RESOLVED, spec.column_names)

    # Looking after storage

    def compact(self, con: duckdb.DuckDBPyConnection, now: datetime) -> Compaction:
        """Compact the closed days of `events`."""
        storage = self.settings.limits.storage
        closed_before = now - timedelta(days=storage.compact_after_days)
        with self.home.turn(INTAKE_LOCK):
            self.intake.finish_interrupted(con)
            return compact(self.table(EVENTS), con, closed_before, storage.dense_day_rows)

    def sweep(self, con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
        """Remove files that no kept version names; returns (files, bytes)."""
        lock = self.home.lock
        notes = (PUBLISH_LOCK, ACTIONS_LOCK, WATCH_LOCK, STEPS_LOCK)
        with self.home.turn(INTAKE_LOCK), lock(REBUILD_LOCK), ExitStack() as held:
            for name in notes:
                held.enter_context(lock(name))
            self.intake.finish_interrupted(con)
            # The next publish shows events as of the last rebuild, whatever was loaded since.
            built = self.last_rebuild()
            needed = {built, self._version_to_publish(con)} if built is not None else set()
            return sweep(self.home, self.specs, {EVENTS.name: needed})

    @property
    def specs(self) -> list[TableSpec]:
        """Every table of the warehouse."""
        waiting = [BUILT_DAYS, SESSION_DAYS, IDENTITIES]
        watched = [FRESHNESS_ACTIONS, TIME_TO_INSIGHT, QUEUE_OVERRIDES, QUERY_PROBES, RUN_TURNS, RELEASE_GATE, ALERTS]
        return [*published(), *waiting, *watched]

    def layout(self) -> list[LayoutAdvice]:
        dense = self.settings.limits.storage.dense_day_rows
        return [layout_advice(self.table(spec).snapshot(), dense) for spec in self.specs]

    # Freshness

    @cached_property
    def watch(self) -> Watch:
        """How fresh each tenant's tables are, and which work is due. Raises ConfigError for a wrong declaration."""
        declared, tenants = self.settings.config / "freshness.yaml", tuple(self.settings.tenants)
        promises = load_promises(declared, [spec.name for spec in published()], tenants)
        return Watch(self.home, promises, tenants, self._landed_since, self.gate.pending)

    @cached_property
    def levels(self) -> ServiceLevels:
        """How much of what is promised over weeks is kept. Raises ConfigError for a wrong declaration."""
        return ServiceLevels.declared(self.settings, self.watch.promises, self._landed_since)

    @cached_property
    def alerts(self) -> AlertWatch:
        """What is wrong, and who was told. Raises ConfigError for a wrong declaration."""
        return AlertWatch.declared(self.settings)

    def situation(self, con: duckdb.DuckDBPyConnection, now: datetime, levels: Levels | None = None) -> Situation:
        """How everything stands at `now`, as a value."""
        return situation(
            con, self.levels, now, freshness=self.watch.look(con, now), levels=levels or self.levels.look(con, now),
            refused=self.gate.refusals(con), files_refused=self.landed(now)[1], days_waiting=len(self.pending(con)),
        )  # fmt: skip

    def _landed_since(self, now: datetime) -> Iterator[tuple[str, datetime]]:
        return waiting_since(self.landed(now)[0])

    # Judging and publishing

    @cached_property
    def gate(self) -> Gate:
        return Gate(self.settings)

    def judge(
        self, con: duckdb.DuckDBPyConnection, now: datetime, *, days: Sequence[date] = (), run: str = "by hand"
    ) -> list[QualityResult]:
        """Judge every table of `days` and of all days that wait for it; returns the verdicts, which are kept."""
        warm_up()
        with self.home.turn(REBUILD_LOCK):
            return self._judge(con, now, days, run)

    def _judge(self, con: duckdb.DuckDBPyConnection, now: datetime, days: Sequence[date], run: str) -> list[QualityResult]:
        # A day that is to be rebuilt is half of two versions until then.
        version, found = self.built_version(), list[QualityResult]()
        half = set(pending_days(con, self.home, version))
        waiting = sorted({*days, *self.gate.pending(con, now)} - half)
        if not waiting and self.gate.deliveries_at_fault(con):
            # What set them right may have brought no new event; deliveries are judged with any day.
            waiting = sorted(set(self.gate.built(con)) - half)[-1:]
        for near in ranges(waiting):
            # Apart, since nothing is learned from a window: a late event of last year would leave today without a history.
            found += self.gate.judge(con, [d for d in waiting if near.first <= d <= near.last], now, version, run)
        return found

    def publish(
        self, con: duckdb.DuckDBPyConnection, now: datetime, *, release: bool = False,
        progress: Callable[[str], None] = lambda table: None,
    ) -> Published:  # fmt: skip
        """Publish all tables as of the last rebuild. Raises Waiting while days up to it are half rebuilt."""
        with self.home.turn(REBUILD_LOCK):
            version = self._version_to_publish(con)
            waiting = pending_days(con, self.home, version)
            if waiting:
                raise Waiting(
                    f"{len(waiting)} {'day waits' if len(waiting) == 1 else 'days wait'} for a rebuild "
                    f"(first {waiting[0]}); the run that rebuilds them publishes"
                )
            # A run that was killed after the marts has built all days and left the users as they were.
            behind, newest = self._behind_users(), self.table(USERS).open().history(1)[0]
            if not behind.items() <= newest.items():
                self._replace_users(con, behind)
            # Nothing goes out unjudged, also where the step that judges was left out or killed.
            self._judge(con, now, (), "publish")
            if refused := self.gate.refusals(con):
                raise PublishRefused(refusal(refused))
            insight = Insight(self.home, self.clock)
            facts = [insight.fact(con, version), self.watch.fact(con, version, now), *self.levels.facts(con, version, now)]
            tables, facts = labelled(con, self.settings, self.specs, publishables(self.table, version), facts)
            out = publish(
                self.home, tables, now=now, checks=CHECKS, release=release, progress=progress,
                facts=facts, keep=self.settings.limits.storage.keep_versions,
            )  # fmt: skip
            insight.keep(con, version)
            return out

    def _version_to_publish(self, con: duckdb.DuckDBPyConnection) -> int:
        """The version of events to show: that of the last rebuild, or a newer one that brought no new event."""
        built = self.built_version()
        listed = f"select coalesce(max(events_version), 0) from ({self.table(BATCHES).snapshot().select()})"
        newest = con.execute(listed).fetchall()[0][0]
        return newest if newest > built and not pending_days(con, self.home, newest) else built


_RESOLVED = "select * from resolved"


def _bounded(snapshot: Snapshot, low: datetime, high: datetime) -> str:
    """A SELECT of the rows between two times, from the files that can hold them."""
    between = f"{snapshot.spec.time_column} between timestamp {literal(str(low))} and timestamp {literal(str(high))}"
    return f"{snapshot.select(snapshot.between(low, high))} where {between}"
