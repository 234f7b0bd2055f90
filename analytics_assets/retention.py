"""Brings the tables to the declared limits: which class and time the rows of each have, what is past, and how a check tells.

What is computed by person ends with its events, whatever becomes of these: a session without its user and its times is none.
`expiry` takes the rows out; here nothing is changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.freshness.tables import QUEUE_OVERRIDES
from analytics_assets.labelling import load_labels
from analytics_assets.marts.tables import mart_tables
from analytics_assets.privacy.alarm import PERSONAL_DATA
from analytics_assets.privacy.horizons import Horizons
from analytics_assets.privacy.labels import Labels
from analytics_assets.privacy.lineage import ROWS
from analytics_assets.privacy.retention import (
    EXPIRED_MARK,
    FATES,
    FILE,
    Cutoffs,
    Fate,
    Limit,
    RetentionRules,
    load_retention,
    refuse,
    telling,
)
from analytics_assets.privacy.taxonomy import Fault, Taxonomy
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import Settings
from analytics_assets.shown import published
from analytics_assets.slo.release import BUDGET
from analytics_assets.slo.tables import RELEASE_GATE
from analytics_assets.warehouse.publish import Check
from analytics_assets.warehouse.spec import TableSpec, identifier, literal
from analytics_assets.warehouse.table import Snapshot, day_bounds

_BY_PERSON = (SESSIONS, PAGE_VIEWS, RUNAWAYS, IDENTITIES, USERS, PERSONAL_DATA)


@dataclass(frozen=True)
class Age:
    """By which time a row is old (SQL of a date or time), whose it is, what may become of it, and of which rows alone."""

    time: str
    tenant: str | None = "tenant_id"
    may: tuple[Fate, ...] = ("drop",)
    only: str = "true"


_NOTES: tuple[Fate, ...] = ("anonymise",)
_AGES: Mapping[str, Age] = {
    EVENTS.name: Age("timestamp", may=FATES),
    REJECTED.name: Age("received_at"),
    # Made anew from the sessions that are left.
    USERS.name: Age("first_seen_at"),
    IDENTITIES.name: Age("seen_at"),
    # A week is as old as its last day.
    "cohort_retention_weekly": Age("(cohort_week + 6)"),
    BATCHES.name: Age("received_at", "tenant", _NOTES),
    # Of the day they were made, which may be long after the day they are about.
    QUALITY_RESULTS.name: Age("judged_at", "tenant", _NOTES),
    QUEUE_OVERRIDES.name: Age("let_go_at", None, _NOTES),
    # Who froze it counts as long as it is frozen, and whether that was a person for ever.
    RELEASE_GATE.name: Age('"until"', None, _NOTES, f'"by" <> {literal(BUDGET)}'),
}


@dataclass(frozen=True)
class Rule:
    """What is past in a table: rows that go, and rows in which columns get the SQL of `emptied`."""

    spec: TableSpec
    retention: str
    age: Age
    dropped: Cutoffs
    anonymised: Cutoffs
    emptied: Mapping[str, str] = field(default_factory=dict)

    @property
    def goes(self) -> str:
        """SQL: whether a row goes. Never null."""
        return self.dropped.past(self.age.time, self.age.tenant)

    @property
    def changes(self) -> str:
        """SQL: whether a row that stays is to be anonymised, and is not yet. Never null."""
        past = self.anonymised.past(self.age.time, self.age.tenant)
        if past == "false":
            return past
        if self.spec is EVENTS:
            return f"({past} and not starts_with(batch_id, '{EXPIRED_MARK}'))"
        told = [f"{identifier(name)} is distinct from {value}" for name, value in self.emptied.items()]
        return f"({past} and ({' or '.join(told) or 'false'}) and coalesce({self.age.only}, false))"

    @property
    def limited(self) -> bool:
        """Whether a row of it can ever be past."""
        return self.dropped.newest is not None or self.anonymised.newest is not None

    @property
    def overdue(self) -> str:
        """SQL: whether something is to happen to a row. Never null."""
        return f"({self.goes} or {self.changes})"

    @property
    def reads(self) -> set[str]:
        """The columns that `overdue` asks for."""
        found = {self.age.tenant, *self.emptied, *({"batch_id"} if self.spec is EVENTS else ())}
        return {*filter(None, found), *(name for name in self.spec.column_names if name in self.age.time)}


def read_rules(settings: Settings) -> RetentionRules:
    """What is declared, held against the classes and tenants that are. Raises ConfigError."""
    taxonomy: Taxonomy = Taxonomy.load(settings.config / "taxonomy.yaml")
    return load_retention(settings.config / FILE, list(taxonomy.retention), list(settings.tenants))


def table_rules(settings: Settings, specs: Sequence[TableSpec], now: datetime, *, ahead: bool) -> list[Rule]:
    """What is past in each of these tables at `now`; with `ahead` also what will be in a few days. Raises ConfigError.

    Empty where nothing has a limit: nearly always, and then no label is read.
    """
    rules: RetentionRules = RetentionRules.load(settings.config / FILE)
    if not rules.any:
        return []
    rules, labels = read_rules(settings), load_labels(settings, specs)
    found = [_rule(spec, rules, labels, now, ahead) for spec in specs]
    kept = [rule for rule in found if rule is not None]
    refuse(settings.config / FILE, _faults(kept, rules))
    return kept


def age_of(spec: TableSpec) -> Age | None:
    """None for a table whose rows are as old as nothing: what the pipeline has to know, without a word about a person."""
    if spec.name in _AGES:
        return _AGES[spec.name]
    by_day = spec in _BY_PERSON or spec in mart_tables()
    return Age("date") if by_day and spec.time_column == "date" else None


def _rule(spec: TableSpec, rules: RetentionRules, labels: Labels, now: datetime, ahead: bool) -> Rule | None:
    age, rows = age_of(spec), labels.of(spec.name, ROWS)
    if age is None or rows is None:
        return None

    def cutoffs(*fates: Fate) -> Cutoffs:
        return rules.cutoffs(rows.retention, now, fates, ahead=ahead)

    if age.may == FATES:
        return Rule(spec, rows.retention, age, cutoffs("drop"), cutoffs("anonymise"))
    if age.may == _NOTES:
        return Rule(spec, rows.retention, age, Cutoffs(), cutoffs("anonymise"), _empties(labels, spec, age))
    return Rule(spec, rows.retention, age, cutoffs(*FATES), Cutoffs())


def _empties(labels: Labels, spec: TableSpec, age: Age) -> dict[str, str]:
    """Columns that may tell of somebody and what becomes of them: whoever is named is still somebody."""
    told = [name for name in telling(labels, spec) if name not in (age.time.strip('"'), age.tenant)]
    named = {name for name in told if (own := labels.of(spec.name, name)) and own.label == "identifier"}
    return {name: "'(anonymised)'" if name in named else "null" for name in told}


def _faults(kept: Sequence[Rule], rules: RetentionRules) -> Iterator[Fault]:
    """(place in the file, sentence) of what cannot happen to the tables of a class, or would leave sums without their sense."""
    of_events = next(rule.retention for rule in kept if rule.spec is EVENTS)
    rollups = sorted({rule.retention for rule in kept if rule.spec in mart_tables()} - {of_events})
    for of in (None, *rules.tenants):
        limits, place = (rules.classes, ("classes",)) if of is None else (rules.tenants[of], ("tenants", of))
        for retention, limit in limits.items():
            held = [rule for rule in kept if rule.retention == retention]
            stays = next((rule.spec.name for rule in held if rule.age.may == _NOTES), None)
            goes = next((rule.spec.name for rule in held if rule.age.may == ("drop",)), None)
            if limit.then == "drop" and limit.days is not None and stays:
                yield (*place, retention), f"'{stays}' cannot be dropped, since sums are held against it; say `then: anonymise`"
            elif limit.then == "anonymise" and limit.days is not None and goes and retention != of_events:
                yield (*place, retention), f"'{goes}' cannot be anonymised; say `then: drop`"
        for retention in rollups:
            events, days = rules.limit(of_events, of).days, rules.limit(retention, of).days
            if days is not None and (events is None or days < events):
                yield (*place, retention), f"'{retention}' would go before the '{of_events}' that it counts; keep it as long"


def limit_checks(settings: Settings, specs: Sequence[TableSpec], now: datetime) -> tuple[Check, ...]:
    """For a version that is to be published: no row of any table is past its limit."""
    shown = {spec.name for spec in (*published(), RELEASE_GATE)}
    rules = [rule for rule in table_rules(settings, specs, now, ahead=False) if rule.spec.name in shown]
    return tuple(
        (
            f"no row of {rule.spec.name} is past its limit (`analytics privacy retention` takes them out)",
            f"select {rule.age.tenant or 'null'}, {rule.age.time}::date::varchar from {rule.spec.name} where {rule.overdue}",
        )
        for rule in rules
        if rule.limited
    )


@dataclass(frozen=True)
class Standing:
    """How a class stands for a tenant (None: all others): its limit, its oldest row's day, rows that are past it."""

    retention: str
    tenant: str | None
    limit: Limit
    oldest: str | None
    past: int
    tables: Mapping[str, int]


def standings(
    con: duckdb.DuckDBPyConnection, rules: RetentionRules, kept: Sequence[Rule], selects: Mapping[str, str]
) -> list[Standing]:
    """A line a class and tenant that has a limit of its own; `selects` gives each table. Rows that `kept` finds are counted."""
    found = []
    for retention in rules.classes:
        own = [tenant for tenant, limits in rules.tenants.items() if retention in limits]
        for tenant in (None, *own):
            oldest, past, tables = [], 0, dict[str, int]()
            for rule in (rule for rule in kept if rule.retention == retention):
                if tenant is not None and rule.age.tenant is None:
                    continue
                day, rows = _look(con, rule, selects[rule.spec.name], tenant, own)
                oldest += [day] if day else []
                past += rows
                tables |= {rule.spec.name: rows} if rows else {}
            found.append(Standing(retention, tenant, rules.limit(retention, tenant), min(oldest, default=None), past, tables))
    return found


def _look(
    con: duckdb.DuckDBPyConnection, rule: Rule, select: str, tenant: str | None, own: Sequence[str]
) -> tuple[str | None, int]:
    column = rule.age.tenant
    whose, values = "true", list[str]()
    if column and (tenant is not None or own):
        names = [tenant] if tenant is not None else list(own)
        listed = ", ".join("?" for _ in names)
        whose = f"{column} in ({listed})" if tenant is not None else f"coalesce({column} not in ({listed}), true)"
        values = names
    # What was anonymised has no time limit any more.
    alive = f"not ({rule.anonymised.past(rule.age.time, column)} and not {rule.changes})"
    ((day, rows),) = con.execute(
        f"select (min({rule.age.time}) filter ({alive}))::date::varchar, count(*) filter ({rule.overdue}) "
        f"from ({select}) where {whose}", values,
    ).fetchall()  # fmt: skip
    return day, rows


def stays(old: Snapshot, aged: Horizons, days: Sequence[date]) -> str:
    """SQL to add to the new rows of `days` of a mart: those of tenants whose events of a day are gone stay as they are."""
    past = aged.people.past("date")
    if past == "false":
        return ""
    listed, near = ", ".join(f"date '{day}'" for day in days), old.between(*day_bounds(days))
    return f" union all select {old.spec.select_list} from ({old.select(near)}) where date in ({listed}) and {past}"


def people_cutoffs(kept: Sequence[Rule]) -> Cutoffs:
    """Before which days events are nobody's any more."""
    return next((rule.dropped for rule in kept if rule.spec is SESSIONS), Cutoffs())


def horizons(kept: Sequence[Rule], tenants: Sequence[str]) -> dict[str, Cutoffs]:
    """By table the days before which rows of these tenants go."""
    found = {rule.spec.name: rule.dropped.of_each(tenants) for rule in kept}
    return {name: cutoffs for name, cutoffs in found.items() if cutoffs.newest is not None}


def among(kept: Sequence[Rule], *specs: TableSpec) -> list[Rule]:
    return [rule for rule in kept if rule.spec in specs]
