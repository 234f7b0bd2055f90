"""Takes out what is past its limit, from every table, file and old version, and shows readers a version without it.

Killed anywhere and run again it ends in the same state: what goes is decided by time alone, and each step looks what is still
there. Days that wait are rebuilt before their events go, so that the sums that stay have counted them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb

from analytics_assets.audit.log import Act, Audit
from analytics_assets.erasure.erasures import NotRemoved
from analytics_assets.events.days import pending_days
from analytics_assets.events.forget import forget
from analytics_assets.events.intake import INTAKE_LOCK
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.events.withdraw import EXPIRED, withdrawn_after
from analytics_assets.freshness.tables import QUEUE_OVERRIDES
from analytics_assets.freshness.watch import ACTIONS_LOCK
from analytics_assets.labelling import load_labels, source_names
from analytics_assets.landing import received_at
from analytics_assets.outgoing import RoleFilesFailed
from analytics_assets.pipeline import REBUILD_LOCK, Pipeline, Waiting
from analytics_assets.privacy.digests import FORM, place_of
from analytics_assets.privacy.retention import Cutoffs, RetentionRules, anonymised
from analytics_assets.privacy.role_files import versions_of
from analytics_assets.retention import (
    Rule,
    Standing,
    among,
    horizons,
    people_cutoffs,
    read_rules,
    standings,
    table_rules,
)
from analytics_assets.sessions.build import merge_identities
from analytics_assets.sessions.tables import IDENTITIES, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import UserError
from analytics_assets.slo.tables import RELEASE_GATE, WATCH_LOCK
from analytics_assets.warehouse.publish import (
    PUBLISH_LOCK,
    PublishRefused,
    current_version,
    has_readers,
    publications,
    version_path,
    versions,
)
from analytics_assets.warehouse.spec import identifier
from analytics_assets.warehouse.table import replace_all, rewrite_rows

RAW = "raw"
_TRIES = 3


@dataclass
class Taken:
    """What went: rows by table, rows anonymised by table, files, identifiers, versions; why readers still see some of it."""

    dropped: dict[str, int] = field(default_factory=dict)
    anonymised: dict[str, int] = field(default_factory=dict)
    identifiers: int = 0
    files: int = 0
    versions: tuple[int, ...] = ()
    read_by_others: tuple[int, ...] = ()
    role_files: tuple[str, ...] = ()
    rebuilt: tuple[date, ...] = ()
    published: int | None = None
    not_published: str | None = None
    not_made: str | None = None

    def note(self, rule: Rule, dropped: int, changed: int) -> None:
        if dropped:
            self.dropped[rule.spec.name] = self.dropped.get(rule.spec.name, 0) + dropped
        if changed:
            self.anonymised[rule.spec.name] = self.anonymised.get(rule.spec.name, 0) + changed

    @property
    def numbers(self) -> dict[str, int]:
        """Of what went, what is recorded."""
        return {
            "dropped": sum(self.dropped.values()), "anonymised": sum(self.anonymised.values()),
            "identifiers": self.identifiers, "files": self.files, "versions": len(self.versions),
        }  # fmt: skip

    @property
    def told(self) -> list[str]:
        """What is to be said of a pass beside the rows of tables, a line each."""
        kinds = (("identifier", self.identifiers), ("received file", self.files), ("old version", len(self.versions)))
        lines = [f"{count:,} {what if count == 1 else what + 's'} went" for what, count in kinds if count]
        if not (self.dropped or self.anonymised or lines):
            lines.append("nothing is past its limit")
        for one in self.read_by_others:
            lines.append(f"version {one} is still read by somebody, and goes when its readers had their time")
        for file in self.role_files:
            lines.append(f"the file of role {file} showed what went, and went, since it could not be made anew")
        if self.not_made:
            lines.append(self.not_made)
        if self.not_published:
            lines.append(f"what went is gone, but readers still get the version of before: {self.not_published}")
        elif self.published is not None:
            lines.append(f"readers get version {self.published}")
        return lines


def retain(
    stages: Pipeline, con: duckdb.DuckDBPyConnection, now: datetime, say: Callable[[str], None] = lambda text: None,
    log: Audit | None = None,
) -> Taken | None:  # fmt: skip
    """Take out what is past its limit, or will be within the days that `retention.yaml` says. None if nothing has a limit.

    That readers get a version is recorded in `log`.

    Raises ConfigError, and UserError where new events come faster than their days are rebuilt.
    """
    rules, taken = table_rules(stages.settings, stages.specs, now, ahead=True), Taken()
    if not rules:
        return None
    declared = read_rules(stages.settings)
    for _ in range(_TRIES):
        _rebuild(stages, con, taken, say)
        if _take_out(stages, con, rules, declared, now, taken, say):
            break
    else:
        raise UserError("events of days that are to go came again and again meanwhile; run `analytics privacy retention` again")
    _rebuild(stages, con, taken, say)
    if taken.rebuilt or {SESSIONS.name, IDENTITIES.name} & taken.dropped.keys():
        stages.rebuild_users(con)
    taken.files = _remove_files(stages, con, declared.cutoffs(RAW, now, ahead=True) if RAW in declared.classes else Cutoffs())
    if current_version(stages.home) is not None:
        say("publishing")
        try:
            taken.published = _published(stages, con, now, log)
        except (Waiting, PublishRefused, NotRemoved) as reason:
            taken.not_published = str(reason)
        except RoleFilesFailed as reason:
            taken.published, taken.not_made = current_version(stages.home), str(reason)
    _remove_versions(stages, rules, declared, now, taken)
    return taken


def _published(stages: Pipeline, con: duckdb.DuckDBPyConnection, now: datetime, log: Audit | None) -> int:
    with log.act("publish", details={"declarations": log.declarations()}) if log else nullcontext(Act()) as act:
        out = stages.publish(con, now, log=log)
        act.outcome, act.tables = "done" if out.changed else "unchanged", list(out.rows)
        act.details["version"] = out.version
    return out.version


def look(stages: Pipeline, con: duckdb.DuckDBPyConnection, now: datetime, *, ahead: bool = False) -> list[Standing]:
    """How every class stands, by the tables as they are stored; past their limit now, or with `ahead` what would go now."""
    rules, declared = table_rules(stages.settings, stages.specs, now, ahead=ahead), read_rules(stages.settings)
    selects = {rule.spec.name: stages.table(rule.spec).snapshot().select() for rule in rules}
    return standings(con, declared, rules, selects)


def late_versions(stages: Pipeline, now: datetime) -> list[int]:
    """Published versions that are kept and show a row past its limit."""
    rules = table_rules(stages.settings, stages.specs, now, ahead=False)
    return [number for number in versions(stages.home) if _shows(version_path(stages.home, number), rules)] if rules else []


def late_role_files(stages: Pipeline, now: datetime) -> list[str]:
    """Files for roles, as `role/tenant`, that show a row past its limit, or may: they are of a version that is gone."""
    rules = table_rules(stages.settings, stages.specs, now, ahead=False)
    return [_whose(path) for path in _late_role_files(stages, rules)] if rules else []


def _late_role_files(stages: Pipeline, rules: Sequence[Rule]) -> list[Path]:
    if not (found := versions_of(stages.home)):
        return []
    # A file without the column that tells how old its rows are is as old as the version that it is of.
    fine = {number for number in versions(stages.home) if not _shows(version_path(stages.home, number), rules)}
    return [path for path, number in found.items() if number not in fine or _shows(path, rules)]


def _whose(role_file: Path) -> str:
    return f"{role_file.parent.name}/{role_file.stem}"


def _rebuild(stages: Pipeline, con: duckdb.DuckDBPyConnection, taken: Taken, say: Callable[[str], None]) -> None:
    days = stages.pending(con)
    if days:
        say(f"rebuilding {len(days)} {'day' if len(days) == 1 else 'days'}")
        stages.rebuild_sessions(con, days)
        _, result = stages.rebuild_marts(con, days)
        if not result.ok:
            raise UserError("a test of the marts failed, and nothing went; see `analytics quality`")
        taken.rebuilt = tuple(sorted({*taken.rebuilt, *days}))


def _take_out(
    stages: Pipeline, con: duckdb.DuckDBPyConnection, rules: Sequence[Rule], declared: RetentionRules, now: datetime,
    taken: Taken, say: Callable[[str], None],
) -> bool:  # fmt: skip
    """All tables, while nothing is loaded or rebuilt. False if events came that have to be counted before they go."""
    with stages.home.turn(INTAKE_LOCK), stages.home.lock(REBUILD_LOCK):
        stages.intake.finish_interrupted(con)
        people, waiting = people_cutoffs(rules), pending_days(con, stages.home)
        if people.newest and any(day < people.newest for day in waiting):
            return False
        say("events")
        _events(stages, con, rules, now, taken)
        say("what is computed from them")
        for rule in rules:
            if rule.spec not in (EVENTS, IDENTITIES, USERS, QUEUE_OVERRIDES, RELEASE_GATE):
                _rows(stages, con, rule, taken)
        _people(stages, con, rules, taken, whole=not waiting)
        taken.identifiers += _identifiers(stages, con)
    with stages.home.lock(ACTIONS_LOCK), stages.home.lock(WATCH_LOCK):
        for rule in among(rules, QUEUE_OVERRIDES, RELEASE_GATE):
            _rows(stages, con, rule, taken)
    return True


def _events(stages: Pipeline, con: duckdb.DuckDBPyConnection, rules: Sequence[Rule], now: datetime, taken: Taken) -> None:
    (rule,) = among(rules, EVENTS)
    events = stages.table(EVENTS).snapshot()
    known = {tenant for (tenant,) in con.execute(f"select distinct tenant_id from ({events.select()})").fetchall()}
    stages.aged.note(horizons(rules, [*stages.settings.tenants, *known]))
    # The same after a kill is the same batch; after it was done it is another, of a newer version.
    mark = "expired-" + hashlib.sha256(f"{events.version}\x1f{rule.overdue}".encode()).hexdigest()[:24]
    labels = load_labels(stages.settings, stages.specs)
    replaced = anonymised(labels, EVENTS, source_names(stages.settings), mark)
    wait = _days_cut(stages, con, people_cutoffs(rules))
    found: list[tuple[int, int]] = []
    forget(
        stages.intake, con, EXPIRED, mark, now, rule.goes, changing=rule.changes, replaced=replaced,
        days=lambda going: wait, plan=lambda going: found.append((going.gone, going.changed)),
    )  # fmt: skip
    taken.note(rule, *found[0])


def _days_cut(stages: Pipeline, con: duckdb.DuckDBPyConnection, people: Cutoffs) -> list[date]:
    """Days that stay, of sessions that began before: these begin there now."""
    if people.newest is None:
        return []
    longest = timedelta(hours=2 * stages.settings.limits.sessions.longest_hours)
    sessions, runaways = (stages.table(spec).snapshot().select() for spec in (SESSIONS, RUNAWAYS))
    found = set()
    for cutoff in {day for day in (people.default, *people.own.values()) if day is not None}:
        first = f"timestamp '{cutoff}'"
        mine = f"not {people.past(first)} and {people.past(f'{first} - interval 1 day')}"
        rows = con.execute(
            f"select distinct unnest(generate_series({first}, ended_at, interval 1 day))::date from ({sessions}) "
            f"where date < {first} and ended_at >= {first} and {mine} "
            f"union select distinct date from ({runaways}) where date between {first}::date and ? and {mine}",
            [(cutoff + longest)],
        ).fetchall()
        found |= {day for (day,) in rows}
    return sorted(found)


def _rows(stages: Pipeline, con: duckdb.DuckDBPyConnection, rule: Rule, taken: Taken) -> None:
    if rule.limited:
        dense = stages.settings.limits.storage.dense_day_rows
        done = rewrite_rows(stages.table(rule.spec), con, rule.goes, dense, changes=rule.changes, replaced=rule.emptied)
        taken.note(rule, *done)


def _people(stages: Pipeline, con: duckdb.DuckDBPyConnection, rules: Sequence[Rule], taken: Taken, *, whole: bool) -> None:
    """Who is who, as the events that are left tell it.

    If no day waited (`whole`), the sessions are now those of the present version of events: no older one is needed any more.
    Else the next rebuild learns anew who is who.
    """
    built = stages.last_rebuild()
    if built is None:
        return
    (rule,) = among(rules, IDENTITIES)
    known = stages.table(IDENTITIES).snapshot().select()
    ((past,),) = con.execute(f"select count(*) from ({known}) where {rule.goes}").fetchall()
    if past or withdrawn_after(con, stages.table(BATCHES).snapshot(), built):
        merge_identities(con, EVENTS.empty_select, f"select * from ({known}) where not {rule.goes}")
        note = {"events_version": str(stages.table(EVENTS).snapshot().version)} if whole else None
        replace_all(stages.table(IDENTITIES), con, "select * from new_identities", note)
        con.execute("drop table new_identities")
    taken.note(rule, past, 0)


def _identifiers(stages: Pipeline, con: duckdb.DuckDBPyConnection) -> int:
    """Take those out of the raw store that no event and no rejected record bears any more; returns how many."""
    if not stages.pseudonyms.table.snapshot().rows:
        return 0
    texts = ", ".join(identifier(column.name) for column in EVENTS.columns if column.type == "VARCHAR")
    events, rejected = (stages.table(spec).snapshot().select() for spec in (EVENTS, REJECTED))
    borne = f"select unnest(regexp_extract_all(concat_ws(' ', {texts}), '{FORM}')) as id from ({events})"
    waiting = f"select unnest(regexp_extract_all(raw, '{FORM}')) as id from ({rejected})"
    con.execute(f"create or replace temp table borne as select distinct {place_of('id')} as pseudonym_key "
                f"from ({borne} union all {waiting})")  # fmt: skip
    borne_by_none = "pseudonym_key not in (select pseudonym_key from borne)"
    dense = stages.settings.limits.storage.dense_day_rows
    went, _ = rewrite_rows(stages.pseudonyms.table, con, borne_by_none, dense)
    con.execute("drop table borne")
    return went


def _old_files(stages: Pipeline, con: duckdb.DuckDBPyConnection, cutoffs: Cutoffs) -> Iterator[Path]:
    """Files as they came, that were loaded or set aside before these days."""
    if cutoffs.newest is None:
        return
    batches = f"select left(batch_id, 12), max(received_at) from ({stages.table(BATCHES).snapshot().select()}) group by 1"
    came = dict(con.execute(batches).fetchall())
    for folder in (stages.home.received, stages.home.set_aside):
        for path in sorted(folder.glob("*/*")):
            first = cutoffs.of(path.parent.name)
            when = came.get(path.name[:12]) or received_at(path)
            if path.is_file() and first is not None and when is not None and when.date() < first:
                yield path


def old_files(stages: Pipeline, con: duckdb.DuckDBPyConnection, now: datetime, *, ahead: bool = False) -> list[Path]:
    """Received files that are past the limit of `raw`."""
    declared = read_rules(stages.settings)
    return list(_old_files(stages, con, declared.cutoffs(RAW, now, ahead=ahead) if RAW in declared.classes else Cutoffs()))


def _remove_files(stages: Pipeline, con: duckdb.DuckDBPyConnection, cutoffs: Cutoffs) -> int:
    files = list(_old_files(stages, con, cutoffs))
    for path in files:
        path.unlink(missing_ok=True)
    return len(files)


def _remove_versions(stages: Pipeline, rules: Sequence[Rule], declared: RetentionRules, now: datetime, taken: Taken) -> None:
    """Remove old versions that show what went: at once if nobody has them open, else when their readers had their time.

    So do files for roles that could not be made anew since.
    """
    home, wait = stages.home, timedelta(hours=declared.readers_hours)
    with home.lock(PUBLISH_LOCK):
        present = current_version(home)
        of = versions_of(home)
        old_files = [path for path in _late_role_files(stages, rules) if of.get(path) != present]
        for path in old_files:
            path.unlink(missing_ok=True)
        taken.role_files = tuple(map(_whose, old_files))
        replaced = {entry.version: entry.published_at for entry in publications(home)}
        gone, left = [], []
        for number in versions(home):
            path = version_path(home, number)
            if number == present or not _shows(path, rules):
                continue
            since = min((moment for later, moment in replaced.items() if later > number), default=None)
            if has_readers(path) and since is not None and now - since < wait:
                left.append(number)
            else:
                path.unlink()
                gone.append(number)
    taken.versions, taken.read_by_others = tuple(gone), tuple(left)


def _shows(path: Path, rules: Sequence[Rule]) -> bool:
    """Whether a version shows a row that is past."""
    with duckdb.connect(str(path), read_only=True) as con:
        con.execute("set timezone = 'UTC'")
        listed = "select table_name, list(column_name) from duckdb_columns() where not internal group by 1"
        columns = {table: set(names) for table, names in con.execute(listed).fetchall()}
        for rule in rules:
            if rule.limited and rule.reads <= columns.get(rule.spec.name, set()):
                try:
                    if con.execute(f"select 1 from {identifier(rule.spec.name)} where {rule.overdue} limit 1").fetchall():
                        return True
                except duckdb.IOException:
                    # Files that are gone show nobody anything.
                    continue
    return False
