"""Brings the tables, and the SQL that really builds them, to `privacy/`: what every field is, and what may not be published.

Only this module knows both sides. To find where columns come from, sessions are built on empty tables, dbt compiles its
models, and each statement is read; that takes seconds, so what was found is kept in `privacy/lineage.yaml`.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import cast

import duckdb

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES
from analytics_assets.freshness.tables import FRESHNESS_STATUS
from analytics_assets.marts.build import run_dbt
from analytics_assets.marts.project import models
from analytics_assets.marts.tables import mart_tables
from analytics_assets.privacy.document import document
from analytics_assets.privacy.keys import Waiting, shown, waiting
from analytics_assets.privacy.labels import (
    FIELD_TAXONOMY,
    LINEAGE,
    Labels,
    Lineage,
    hidden_row,
    lineage_text,
    read_lineage,
)
from analytics_assets.privacy.lineage import ROWS, Origins, Relation, Traced, itself, relation_of
from analytics_assets.privacy.taxonomy import JSON_COLUMNS, load_taxonomy
from analytics_assets.sessions.build import (
    build_sessions,
    merge_identities,
    resolved_identities,
    seen_by_marts,
    stitched,
    users,
)
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import PROJECT, ConfigError, SessionRules, Settings, line_of, read_yaml
from analytics_assets.slo.tables import SLO_DEFINITIONS, SLO_ERROR_BUDGET, SLO_MEASUREMENTS
from analytics_assets.warehouse.publish import PUBLISHED_TABLES, Fact, Publishable, PublishRefused
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import Table

_SOME_DAY = date(2026, 3, 10)
# Tables that stand in the published file alone.
FACTS = (PUBLISHED_TABLES, FRESHNESS_STATUS, SLO_DEFINITIONS, SLO_MEASUREMENTS, SLO_ERROR_BUDGET, FIELD_TAXONOMY)
# The mart that tells which keys the events of a day carry.
_KEYS = "properties_daily"


def load_labels(settings: Settings, specs: Sequence[TableSpec], found: Lineage | None = None) -> Labels:
    """What every field of these tables is, by the lineage that is kept or was `found`. Raises ConfigError.

    Read anew each time: a person labels a key while a process waits.
    """
    path, derived = settings.config / "taxonomy.yaml", [spec.name for spec in derived_tables()]
    taxonomy = load_taxonomy(path, [*specs, *FACTS], derived, source_names(settings))
    labels = Labels(taxonomy, found or read_lineage())
    for place, sentence in labels.faults():
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return labels


def source_names(settings: Settings) -> list[str]:
    return sorted(path.stem for path in (settings.config / "sources").glob("*.yaml"))


def labelled(
    con: duckdb.DuckDBPyConnection, settings: Settings, specs: Sequence[TableSpec], tables: Sequence[Publishable],
    facts: Sequence[Fact],
) -> tuple[list[Publishable], list[Fact]]:  # fmt: skip
    """The tables as readers may see them, and the facts with the table of labels. Raises PublishRefused, ConfigError.

    A column without a label refuses the publish. A key without one is hidden.
    """
    labels, sources = load_labels(settings, specs), source_names(settings)
    about = [PUBLISHED_TABLES, *(fact.spec for fact in facts), FIELD_TAXONOMY]
    columns = [(table.spec.name, [column.name for column in table.columns]) for table in tables]
    columns += [(spec.name, list(spec.column_names)) for spec in about]
    if missing := labels.missing(columns):
        raise PublishRefused(unlabelled(missing))
    selects = {table.spec.name: table.select or table.snapshot.select() for table in tables}
    waits = waiting(con, selects[_KEYS], selects[BATCHES.name], labels, sources)
    every = {spec.name: spec for spec in (*specs, *about)}.values()
    found = [labels.of(spec.name, column) for spec in every for column in spec.column_names]
    rows = [one.as_row() for one in [*found, *labels.every_key()] if one is not None]
    rows += [hidden_row(f"properties.{key}") for key in sorted({one.key for one in waits})]
    tenants = sorted({one.tenant for one in waits})
    shown_tables = [_without_hidden(one, labels, sources, tenants) if one.spec is EVENTS else one for one in tables]
    return shown_tables, [*facts, Fact(FIELD_TAXONOMY, rows, version=zlib.crc32(repr(rows).encode()))]


def unlabelled(missing: Sequence[str]) -> str:
    """Why nothing is published while these columns have no label, and what to do."""
    named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    computed = {spec.name for spec in derived_tables()}
    cure = "label it in taxonomy.yaml"
    if all(name.split(".")[0] in computed for name in missing):
        cure = "run `analytics privacy document`, which finds where it comes from"
    return f"{named}: no label, and only labelled columns are published; {cure}"


def waiting_now(
    con: duckdb.DuckDBPyConnection, settings: Settings, specs: Sequence[TableSpec], table: Callable[[TableSpec], Table]
) -> list[Waiting]:
    """Keys of the events as last built that wait for a label."""
    counts = next(spec for spec in mart_tables() if spec.name == _KEYS)
    counted, batches = (table(spec).snapshot().select() for spec in (counts, BATCHES))
    return waiting(con, counted, batches, load_labels(settings, specs), source_names(settings))


def written(settings: Settings, specs: Sequence[TableSpec], work: Path) -> dict[Path, str]:
    """What `analytics privacy document` writes: the lineage, and the page about all fields. Takes seconds."""
    found = lineage(compiled_marts(work))
    page = document(load_labels(settings, specs, found), [*specs, *FACTS])
    return {LINEAGE: lineage_text(found), PROJECT / "docs" / "taxonomy.md": page}


def _without_hidden(table: Publishable, labels: Labels, sources: Sequence[str], tenants: Sequence[str]) -> Publishable:
    """The events without keys that wait. No table counts the keys of a context: there it is looked at when it is read."""
    changed = []
    for column in JSON_COLUMNS:
        if column == "context" or tenants:
            only = tenants if column == "properties" else None
            changed.append(f"{shown(column, labels, sources, only)} as {column}")
    return replace(table, select=f"select * replace ({', '.join(changed)}) from ({table.snapshot.select()})")


def compiled_marts(work: Path) -> dict[str, str]:
    """The SELECT of every dbt model, as dbt runs it, in the order of their building. Takes seconds."""
    work.mkdir(parents=True, exist_ok=True)
    database = work / "compile.duckdb"
    with duckdb.connect(str(database)) as con:
        for name, spec in {"events": EVENTS, "sessions": SESSIONS}.items():
            con.execute(f"create table {name} as {spec.empty_select}")
    done = run_dbt(["compile"], work_db=database, target_dir=work / "dbt")
    found = {run.node.name: run.node.compiled_code for run in done if run.node.resource_type == "model"}
    return {name: found[name] for name in models()}


def lineage(marts: dict[str, str]) -> dict[str, dict[str, Origins]]:
    """For every table that is computed from others: each of its columns, and `*` for its rows, with where they come from.

    `marts` is what `compiled_marts` gives. Raises Unresolved if a statement cannot be read.
    """
    found = _sessions()
    known = {spec.name: itself(spec) for spec in (EVENTS, SESSIONS, IDENTITIES)}
    with duckdb.connect() as con:
        found[USERS.name] = relation_of(con, users("select * from sessions"), known)
        resolved = resolved_identities("select * from identities")
        seen = seen_by_marts(
            "select * from events", EVENTS.column_names, "select * from sessions", SESSIONS.column_names, resolved
        )
        built = {name: relation_of(con, select, known) for name, select in seen.items()}
        for name, select in marts.items():
            built[name] = relation_of(con, select, built)
    found |= {spec.name: built[spec.name] for spec in mart_tables()}
    return {name: _by_column(spec, found[name]) for spec in derived_tables() for name in [spec.name]}


def derived_tables() -> Sequence[TableSpec]:
    """The tables that are computed from others."""
    return (IDENTITIES, SESSIONS, PAGE_VIEWS, RUNAWAYS, USERS, *mart_tables())


def _sessions() -> dict[str, Relation]:
    """The tables of sessions as readers see them."""
    # Who is known of earlier days was made from events in the same way.
    earlier = Relation({name: frozenset() for name in IDENTITIES.column_names})
    with duckdb.connect() as con:
        for spec in (EVENTS, IDENTITIES):
            con.execute(f"create table {spec.name} as {spec.empty_select}")
        traced = Traced(con, {EVENTS.name: itself(EVENTS), IDENTITIES.name: earlier})
        watched = cast("duckdb.DuckDBPyConnection", traced)
        build_sessions(watched, "select * from events", [_SOME_DAY], SessionRules())
        merge_identities(watched, "select * from events", "select * from identities")
        made = traced.known
        known = {spec.name: made[f"new_{spec.name}"] for spec in (SESSIONS, PAGE_VIEWS)}
        known[IDENTITIES.name] = itself(IDENTITIES)
        resolved = resolved_identities("select * from identities")
        shown = {
            spec.name: relation_of(con, stitched(f"select * from {spec.name}", resolved, spec.column_names), known)
            for spec in (SESSIONS, PAGE_VIEWS)
        }
    return {IDENTITIES.name: made["new_identities"], RUNAWAYS.name: made["new_runaways"], **shown}


def _by_column(spec: TableSpec, relation: Relation) -> dict[str, Origins]:
    return {**{name: relation.carried(name) for name in spec.column_names}, ROWS: relation.rows}
