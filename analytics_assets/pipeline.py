"""The stages as plain functions over one data home: load, rebuild days, publish, look after storage.

Dagster's assets, the command line and the benchmarks all call these; nothing here knows Dagster. Each stage reads what is
committed, commits what it made, and can be killed and run again.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import duckdb

from analytics_assets.alerts.journal import ALERTS
from analytics_assets.alerts.look import situation
from analytics_assets.alerts.problems import Situation
from analytics_assets.alerts.watch import AlertWatch
from analytics_assets.audit.log import Audit
from analytics_assets.audit.tables import AUDIT_HEAD, audit_head
from analytics_assets.consents import KEPT, Consents
from analytics_assets.erasure.erasures import Erasures
from analytics_assets.events.days import BUILT_DAYS, SESSION_DAYS, mark_built, mark_sessions, pending_days, unsettled
from analytics_assets.events.intake import INTAKE_LOCK, BatchReport, Intake, file_batch, utc_now
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES
from analytics_assets.events.withdraw import withdrawn_after
from analytics_assets.freshness.insight import Insight
from analytics_assets.freshness.tables import FRESHNESS_ACTIONS, QUEUE_OVERRIDES, TIME_TO_INSIGHT
from analytics_assets.freshness.tiers import load_promises
from analytics_assets.freshness.watch import ACTIONS_LOCK, Watch
from analytics_assets.gate import Gate
from analytics_assets.labelling import found_now, labelled, search_days
from analytics_assets.landing import Landed, StillWritten, file_digest, file_state, landed_files, move_into, waiting_since
from analytics_assets.marts.build import BuildResult, build, manifest
from analytics_assets.marts.tables import mart_tables
from analytics_assets.outgoing import answered_from, confirm_roles, keep_role_files
from analytics_assets.privacy.alarm import PERSONAL_DATA, Finding
from analytics_assets.privacy.horizons import Horizons
from analytics_assets.privacy.pseudonyms import IDENTIFIERS, Pseudonyms
from analytics_assets.quality.judge import warm_up
from analytics_assets.quality.tables import QualityResult, refusal
from analytics_assets.replay import replay
from analytics_assets.retention import limit_checks, stays
from analytics_assets.sessions.build import build_sessions, merge_identities, resolved_identities, stitched, users, window
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import Settings, UserError
from analytics_assets.shown import publishables, published
from analytics_assets.slo.tables import QUERY_PROBES, RELEASE_GATE, RUN_TURNS, WATCH_LOCK
from analytics_assets.slo.watch import Levels, ServiceLevels
from analytics_assets.sources.mapping import Source, load_sources
from analytics_assets.sources.readers import Slice, UnreadableFile, confirm_readable, slices
from analytics_assets.telemetry.steps import STEPS_LOCK
from analytics_assets.warehouse.connect import connection, limits_of
from analytics_assets.warehouse.home import Busy, Home
from analytics_assets.warehouse.maintain import Compaction, LayoutAdvice, compact, layout_advice, sweep
from analytics_assets.warehouse.publish import PUBLISH_LOCK, Fact, Published, PublishRefused, publish
from analytics_assets.warehouse.spec import TableSpec, literal
from analytics_assets.warehouse.table import Table, day_bounds, replace_all, replace_days
from analytics_assets.workplace import RESOLVED, bounded, work_db

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
        self.aged = Horizons(self.home)

    @cached_property
    def sources(self) -> dict[str, Source]:
        return load_sources(self.settings.config / "sources")

    @cached_property
    def intake(self) -> Intake:
        limits = self.settings.limits
        tenants, past = list(self.settings.tenants), lambda: self.aged.people.past("timestamp")
        return Intake(
            self.home, limits.events, limits.storage, tenants, self.clock, self.pseudonyms, self.erasures.forgotten, past
        )

    @cached_property
    def pseudonyms(self) -> Pseudonyms:
        return Pseudonyms.declared(self.settings, self.home, lambda: self.intake, self.clock)

    @cached_property
    def erasures(self) -> Erasures:
        return Erasures(
            self.settings, self.table, lambda: self.intake, lambda: self.pseudonyms, lambda: self.sources, self.sweep,
            self.clock, REBUILD_LOCK,
        )  # fmt: skip

    @cached_property
    def consents(self) -> Consents:
        return Consents(self.settings, self.home)

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
        self.settings.confirm_tenant(tenant)
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
        seen, asked = file_state(landed.path), len(self.erasures.ledger.requests())
        report = self.load(con, landed.path, landed.source, landed.tenant, now, progress, landed.since)
        aside = report.status == "set_aside"
        folder = (self.home.set_aside if aside else self.home.received) / landed.tenant
        # Whoever takes people out of files holds this lock: the file is among them, or those who go are known here.
        with self.home.turn(INTAKE_LOCK):
            if file_state(landed.path) == seen and self.erasures.take_out_of(con, landed.path, report, asked):
                seen = file_state(landed.path)
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
        """Try rejected records again; those that are accepted now leave `rejected_events`."""
        return replay(con, self.intake, self.source, now, {"reason": reason, "source": source, "tenant_id": tenant}, dry_run)

    # Rebuilding the tables behind events

    def pending(self, con: duckdb.DuckDBPyConnection) -> list[date]:
        """Days that wait for a rebuild, also those of a load that was killed before it noted them."""
        # A load that is under way holds the lock, and has finished what an earlier one left.
        with suppress(Busy), self.home.lock(INTAKE_LOCK, wait_seconds=0):
            self.intake.finish_interrupted(con)
        return self.consents.pending(con, pending_days(con, self.home))

    def rebuild_sessions(self, con: duckdb.DuckDBPyConnection, days: Sequence[date]) -> Rebuild:
        """Rebuild sessions, page views and runaways of `days` (and of days their sessions reach into), and identities."""
        rules, dense = self.settings.limits.sessions, self.settings.limits.storage.dense_day_rows
        with self.home.turn(INTAKE_LOCK):
            self.intake.finish_interrupted(con)
        with self.home.turn(REBUILD_LOCK):
            began = self.clock()
            events = self.table(EVENTS).snapshot()
            lives = self.aged.lives("timestamp")
            asked, known = f"{bounded(events, *day_bounds(days))} and {lives}", self.table(IDENTITIES).snapshot().select()
            if anew := withdrawn_after(con, self.table(BATCHES).snapshot(), self.last_rebuild()):
                # What those events said about who is who is not to be told from the rest: it is learned anew.
                asked, known = events.select(), IDENTITIES.empty_select
            merge_identities(con, asked, known)
            days = self.consents.learn(con, asked, events, days, anew)
            wide = self.consents.shown(con, f"{bounded(events, *window(days, rules))} and {lives}")
            built = build_sessions(con, wide, days, rules)
            rows = {}
            for spec, relation in (
                (SESSIONS, "new_sessions"), (PAGE_VIEWS, "new_page_views"), (RUNAWAYS, "new_runaways")
            ):  # fmt: skip
                select = f"select {spec.select_list} from {relation}"
                _, rows[spec.name] = replace_days(self.table(spec), con, select, built.days, dense_day_rows=dense)
            rows |= self.consents.keep(con)
            note = {"events_version": str(events.version)}
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
        return {f"{spec.name}_version": str(self.table(spec).snapshot().version) for spec in (SESSIONS, IDENTITIES)}

    def rebuild_marts(
        self, con: duckdb.DuckDBPyConnection, days: Sequence[date],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Rebuild, BuildResult]:  # fmt: skip
        """Rebuild the marts of `days` with dbt from the events that the sessions were built from.

        Nothing is committed if a test failed. The days count as built when everything is committed.
        """
        storage, target = self.settings.limits.storage, self.home.work / "dbt"
        manifest(target)
        with self.home.turn(REBUILD_LOCK):
            version, days, rows = self.built_version(), sorted({*days, *unsettled(con, self.home)}), {}
            shown, lives = self.consents.shown_events, self.aged.lives("timestamp")
            with work_db(self.home, self.table, days, version, storage, shown, lives) as path:
                memory, threads = limits_of(con)
                result = build(path, target, memory_limit=memory, threads=threads, progress=progress)
                if not result.ok:
                    return Rebuild((), {}, {}, version), result
                con.execute(f"attach {literal(str(path))} as marts (read_only)")
                try:
                    for spec in mart_tables():
                        rows[spec.name] = self._take_mart(con, spec, days)
                finally:
                    con.execute("detach marts")
            mark_built(con, self.home, days, version)
            return Rebuild(tuple(days), rows, self._total_rows(rows), version), result

    def _take_mart(self, con: duckdb.DuckDBPyConnection, spec: TableSpec, days: Sequence[date]) -> int:
        table, select = self.table(spec), f"select {spec.select_list} from marts.main.{spec.name}"
        if spec.time_column is None:
            replace_all(table, con, select)
            return table.snapshot().rows
        select += stays(table.snapshot(), self.aged, days)
        return replace_days(table, con, select, days, dense_day_rows=self.settings.limits.storage.dense_day_rows)[1]

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

    def _stitched(self, con: duckdb.DuckDBPyConnection, spec: TableSpec) -> str:
        identities = resolved_identities(self.table(IDENTITIES).snapshot().select())
        con.execute(f"create or replace temp table resolved as {identities}")
        return stitched(self.table(spec).snapshot().select(), RESOLVED, spec.column_names)

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
        turn, lock = self.home.turn, self.home.lock
        with turn(INTAKE_LOCK), lock(REBUILD_LOCK), lock(PUBLISH_LOCK), lock(ACTIONS_LOCK), lock(WATCH_LOCK), lock(STEPS_LOCK):
            self.intake.finish_interrupted(con)
            # The next publish shows events as of the last rebuild, whatever was loaded since.
            built = self.last_rebuild()
            needed = {name: {version} for name, version in answered_from(self.home).items()}
            if built is not None:
                needed.setdefault(EVENTS.name, set()).update({built, self._version_to_publish(con)})
            return sweep(self.home, self.specs, needed)

    @property
    def specs(self) -> list[TableSpec]:
        """Every table of the warehouse."""
        waiting = [BUILT_DAYS, SESSION_DAYS, IDENTITIES, PERSONAL_DATA, IDENTIFIERS, *KEPT]
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
            personal_data=self.personal_data(con),
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
        for chosen in self.gate.windows(con, waiting):
            search_days(con, self.settings, self.specs, self.table, chosen, version)
            found += self.gate.judge(con, chosen, now, version, run)
        return found

    def personal_data(self, con: duckdb.DuckDBPyConnection) -> list[Finding]:
        """Where personal data stand in fields whose labels say that they name nobody."""
        return found_now(con, self.settings, self.specs, self.table)

    def publish(
        self, con: duckdb.DuckDBPyConnection, now: datetime, *, release: bool = False,
        progress: Callable[[str], None] = lambda table: None, log: Audit | None = None,
    ) -> Published:  # fmt: skip
        """Publish all as of the last rebuild; `log` gets what leaves. Raises Waiting while days up to it are half rebuilt.

        Also ends the erasures whose people are in none of them any more.
        """
        out = self._publish(con, now, release, progress, log)
        self.erasures.finish(con, progress=progress)
        return out

    def _publish(
        self, con: duckdb.DuckDBPyConnection, now: datetime, release: bool, progress: Callable[[str], None], log: Audit | None
    ) -> Published:
        with self.home.turn(REBUILD_LOCK):
            self.erasures.confirm_removed()
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
            self.pseudonyms.confirm_keys()
            confirm_roles(self.settings, self.specs)
            if refused := self.gate.refusals(con):
                raise PublishRefused(refusal(refused))
            insight = Insight(self.home, self.clock)
            facts = [insight.fact(con, version), self.watch.fact(con, version, now), *self.levels.facts(con, version, now)]
            facts += [Fact(AUDIT_HEAD, audit_head(self.home, now)), self.consents.fact(con, version)]
            tables, facts = labelled(con, self.settings, self.specs, publishables(self.table, version), facts,
                                     self.personal_data(con))  # fmt: skip
            out = publish(
                self.home, tables, now=now, release=release, progress=progress, facts=facts,
                checks=(*self.consents.checks(), *self.gate.checks(), *limit_checks(self.settings, self.specs, now)),
                keep=self.settings.limits.storage.keep_versions,
            )  # fmt: skip
            insight.keep(con, version)
            keep_role_files(self.settings, self.specs, self.table, progress, log)
            return out

    def _version_to_publish(self, con: duckdb.DuckDBPyConnection) -> int:
        """The version of events to show: that of the last rebuild, or a newer one that brought no new event."""
        built = self.built_version()
        listed = f"select coalesce(max(events_version), 0) from ({self.table(BATCHES).snapshot().select()})"
        newest = con.execute(listed).fetchall()[0][0]
        return newest if newest > built and not pending_days(con, self.home, newest) else built
