"""Brings the tables, and the SQL that really builds them, to `privacy/`: what every field is, and what may not be published.

Only this module knows both sides. To find where columns come from, sessions are built on empty tables, dbt compiles its
models, and each statement is read; that takes seconds, so what was found is kept in `privacy/lineage.yaml`.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
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
from analytics_assets.privacy.labels import FIELD_TAXONOMY, LINEAGE, Labels, Lineage, lineage_text, read_lineage
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
from analytics_assets.warehouse.publish import PUBLISHED_TABLES, Fact, Publishable, PublishRefused
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import Table

_SOME_DAY = date(2026, 3, 10)
# Tables about the published version itself.
FACTS = (PUBLISHED_TABLES, FRESHNESS_STATUS, FIELD_TAXONOMY)
# Which keys the events of a day carry.
_KEYS = next(spec for spec in mart_tables() if spec.name == "properties_daily")


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
    con: duckdb.DuckDBPyConnection, labels: Labels, sources: Sequence[str], tables: Sequence[Publishable]
) -> tuple[list[Publishable], Fact]:
    """The tables as readers may see them, and the table of labels. Raises PublishRefused if a column has no label."""
    refuse_unlabelled(labels, [*((table.spec, [c.name for c in table.columns]) for table in tables), *_whole(FACTS)])
    waits = waiting_keys(con, labels, sources, tables)
    rows = [
        *(found.as_row() for spec in (*(table.spec for table in tables), *FACTS) for name in spec.column_names
          if (found := labels.of(spec.name, name)) is not None),
        *(key.as_row() for key in labels.every_key()),
        *((EVENTS.name, f"properties.{key}", None, None, "hidden", *[None] * 6) for key in sorted({one.key for one in waits})),
    ]  # fmt: skip
    hidden = sorted({one.tenant for one in waits})
    return [_without_hidden(table, labels, sources, hidden) if table.spec is EVENTS else table for table in tables], Fact(
        FIELD_TAXONOMY, rows, zlib.crc32(repr(rows).encode())
    )


def _whole(specs: Iterable[TableSpec]) -> list[tuple[TableSpec, Sequence[str]]]:
    return [(spec, spec.column_names) for spec in specs]


def refuse_unlabelled(labels: Labels, tables: Sequence[tuple[TableSpec, Sequence[str]]]) -> None:
    missing = labels.missing([(spec.name, columns) for spec, columns in tables])
    if missing:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        computed = any(name.split(".")[0] in {spec.name for spec in derived_tables()} for name in missing)
        cure = "run `analytics privacy document`, which finds where it comes from" if computed else "label it in taxonomy.yaml"
        raise PublishRefused(f"{named}: no label, and only labelled columns are published; {cure}")


def waiting_keys(
    con: duckdb.DuckDBPyConnection, labels: Labels, sources: Sequence[str], tables: Sequence[Publishable]
) -> list[Waiting]:
    """Keys of the events to be published that wait for a label."""
    selects = {table.spec.name: table.select or table.snapshot.select() for table in tables}
    return waiting(con, selects[_KEYS.name], selects[BATCHES.name], labels, sources)


def waiting_now(
    con: duckdb.DuckDBPyConnection, settings: Settings, specs: Sequence[TableSpec], table: Callable[[TableSpec], Table]
) -> list[Waiting]:
    """Keys of the events as last built that wait for a label."""
    counted, batches = (table(spec).snapshot().select() for spec in (_KEYS, BATCHES))
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
