"""What stands behind a published number: where it comes from, what brought it, who judged and published it, how fresh it is.

Brings together what the rooms noted. Asked of the version that readers get, so that the answer fits what they see; only how
fresh it is is told as of now. It shows no value of any row.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.audit.report import newest_first
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.freshness.judge import WORST_FIRST, Status
from analytics_assets.gate import Gate, suites
from analytics_assets.labelling import load_labels, source_names
from analytics_assets.privacy.labels import FIELD_TAXONOMY, Labelled, Labels, Lineage, read_lineage
from analytics_assets.privacy.lineage import ROWS
from analytics_assets.privacy.taxonomy import JSON_COLUMNS, strictest
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.settings import Settings, UserError, read_yaml
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import current_path, history
from analytics_assets.warehouse.spec import TableSpec, identifier, literal

_NEWEST = 3
# What intake fills.
_DELIVERED = (EVENTS.name, REJECTED.name, BATCHES.name)
# A run notes when it begins; it is looked for so long before its result.
_LONGEST_RUN = timedelta(days=7)


@dataclass(frozen=True)
class Asked:
    """A published table, or one of its columns (also a key, as `properties.colour`), of one tenant and day (UTC) or of all."""

    table: str
    column: str | None = None
    tenant: str | None = None
    day: date | None = None


@dataclass(frozen=True)
class Behind:
    """The fields that a column's values come from: `directly`, at the `ends` of the way, and all `tables` on it.

    `choosing` are tables that only decide which rows there are.
    """

    directly: tuple[str, ...]
    ends: tuple[str, ...]
    tables: tuple[str, ...]
    choosing: tuple[str, ...]


def explain(
    settings: Settings, specs: Sequence[TableSpec], asked: Asked, look: Callable[[], Iterable[Status]]
) -> dict[str, Any]:
    """All that is known of what is `asked`, as plain values by topic. Raises UserError for a name that there is not.

    `look` gives how fresh the tenants' tables are now.
    """
    home, labels = Home(settings.home), load_labels(settings, specs)
    with _published(home) as con:
        place = _place(con, settings, labels, asked)
        behind = behind_of(read_lineage(), asked.table, asked.column)
        version = _version(con, home, asked.table)
        checks = _checks(con, asked, behind, Gate(settings))
        deliveries = _deliveries(con, asked, behind)
        sources = [one["source"] for one in deliveries["sources"]] if deliveries else []
        told = {
            **asdict(asked),
            "what": place.comment,
            "row": place.table_comment,
            "rows": place.rows(con, asked),
            "version": version,
            "comes_from": {**asdict(behind), "sources": _declared(settings, behind, sources)},
            "deliveries": deliveries,
            "checks": checks,
            "freshness": _freshness(asked, look()),
            "model": models_behind(labels, asked.table, behind),
            "label": _label(labels, asked) if asked.column else None,
            "columns": None if asked.column else _columns(labels, asked.table, place),
        }
    return {**told, "runs": _runs(home, version, checks)}


def overview(path: Path, settings: Settings, specs: Sequence[TableSpec]) -> list[dict[str, Any]]:
    """Of each table of a published version that is made from deliveries: where it comes from, checks, label, models."""
    labels, lineage = load_labels(settings, specs), read_lineage()
    with duckdb.connect(str(path), read_only=True) as con:
        tables = {name: rows for name, rows in con.execute('select "table", rows from published_tables').fetchall()}
        columns = con.execute(
            f"select \"table\", list(label) from {FIELD_TAXONOMY.name} where label <> '' group by 1"
        ).fetchall()
        judged = con.execute(
            "select \"table\", bool_or(success = 'fail')::int as failed, bool_or(success = 'pass')::int as passed "
            f'from {QUALITY_RESULTS.name} group by "table", expectation'
        ).fetchall()
    labelled = dict(columns)
    found = []
    for table, rows in tables.items():
        behind = behind_of(lineage, table, None)
        made_from = ", ".join((*behind.tables, *behind.choosing)) or ("deliveries" if table in _DELIVERED else "its own notes")
        counts = _counted([{"failed": failed, "passed": passed} for name, failed, passed in judged if name == table])
        found.append({
            "table": table, "rows": rows, "made from": made_from,
            "checks": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none",
            "strictest label": strictest(labelled[table]) if table in labelled else "none",
            "a model's part": ", ".join(one["model"] for one in models_behind(labels, table, behind)["models"]) or "none",
            "more": f"analytics explain {table}",
        })  # fmt: skip
    return found


# Where it comes from


def behind_of(lineage: Lineage, table: str, column: str | None) -> Behind:
    """What the lineage says of a column, or of all columns of a table and its rows."""
    own = lineage.get(table, {})
    asked = [column] if column else [*own]
    directly = {origin for name in asked for origin in own.get(name, ())}
    values = {origin for name in asked for origin in _way(lineage, table, name)}
    rows = _way(lineage, table, ROWS)
    tables = {_table(one) for one in values}
    ends = (one for one in values if _table(one) not in lineage)
    return Behind(*map(_sorted, (directly, ends, tables, {_table(one) for one in rows} - tables)))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _table(field: str) -> str:
    return field.partition(".")[0]


def _way(lineage: Lineage, table: str, column: str) -> set[str]:
    """All fields that the values of a column come from, however far back. A table that is made from itself ends there."""
    found: set[str] = set()
    waiting = [*lineage.get(table, {}).get(column, ())]
    while waiting:
        field = waiting.pop()
        if field not in found:
            found.add(field)
            above, _, name = field.partition(".")
            waiting += lineage.get(above, {}).get(name, ())
    return found


def models_behind(labels: Labels, table: str, behind: Behind) -> dict[str, Any]:
    """Whether a model had a part in it: the tables behind it, and itself, held against those declared as a model's output."""
    made = labels.taxonomy.models
    parts = [(one, "its values") for one in (table, *behind.tables)] + [(one, "its choice of rows") for one in behind.choosing]
    models = [{"model": made[one], "table": one, "part": part} for one, part in dict(parts).items() if one in made]
    return {"had_a_part": bool(models), "models": models}


def _declared(settings: Settings, behind: Behind, sources: Sequence[str]) -> list[dict[str, str]]:
    """What the mapping of each source says of the columns of events that it comes from."""
    found = []
    columns = [one.split(".")[1] for one in behind.ends if _table(one) == EVENTS.name]
    # A source whose declaration was taken away keeps its events.
    for source in (one for one in sources if one in source_names(settings)):
        fields = (read_yaml(settings.config / "sources" / f"{source}.yaml")[0] or {}).get("fields", {})
        found += [{"source": source, "column": name, "as": str(fields[name])} for name in columns if name in fields]
    return found


# What is asked, held against what there is


@dataclass(frozen=True)
class _Place:
    """Where the rows stand: the columns of the table with their meaning, the condition of a tenant's rows, and the column
    (DATE or TIMESTAMP) that tells a row's day; None where rows are nobody's, or of no day.
    """

    table: str
    table_comment: str
    comment: str | None
    columns: Mapping[str, str]
    tenant: str | None
    day: str | None

    def where(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """The condition of the rows that are asked for, and its parameters."""
        conditions, values = ["true"], dict[str, Any]()
        if asked.tenant is not None:
            conditions.append(f"({self.tenant})")
            values["tenant"] = asked.tenant
        if asked.day is not None:
            # As a range of a column, by which files are pruned.
            conditions.append(f"{self.day} >= $day and {self.day} < $day + interval 1 day")
            values["day"] = asked.day
        return " and ".join(conditions), values

    def rows(self, con: duckdb.DuckDBPyConnection, asked: Asked) -> int:
        where, values = self.where(asked)
        return int(con.execute(f"select count(*) from {identifier(self.table)} where {where}", values).fetchall()[0][0])


def _place(con: duckdb.DuckDBPyConnection, settings: Settings, labels: Labels, asked: Asked) -> _Place:
    """Raises UserError, with the nearest name that there is."""
    tables: dict[str, str] = dict(
        con.execute(
            "select table_name, comment from duckdb_tables() union all "
            "select view_name, comment from duckdb_views() where not internal"
        ).fetchall()
    )
    if asked.table not in tables:
        raise UserError(f"there is no published table '{asked.table}'{_nearest(asked.table, tables)}")
    place = _place_of(con, asked.table, tables[asked.table])
    if asked.column is not None:
        name, _, key = asked.column.partition(".")
        if name not in place.columns or (key and (asked.table != EVENTS.name or name not in JSON_COLUMNS)):
            raise UserError(f"'{asked.table}' has no column '{asked.column}'{_nearest(asked.column, place.columns)}")
        if key:
            _confirm_key(con, labels, name, key)
        place = replace(place, comment=place.columns[name])
    if asked.tenant is not None:
        if asked.tenant not in settings.tenants:
            raise UserError(
                f"tenant '{asked.tenant}' is not declared in tenants.yaml{_nearest(asked.tenant, settings.tenants)}"
            )
        if place.tenant is None:
            raise UserError(f"'{asked.table}' does not tell whose its rows are; leave out --tenant")
    if asked.day is not None:
        _confirm_day(con, place, asked)
    return place


def _place_of(con: duckdb.DuckDBPyConnection, table: str, comment: str) -> _Place:
    columns = dict(con.execute("select column_name, comment from duckdb_columns() where table_name = ?", [table]).fetchall())
    judged = next((suite for suite in suites() if suite.table.name == table), None)
    names = [name for name in ("tenant_id", "tenant") if name in columns]
    tenant = f"{identifier(names[0])} = $tenant" if names else None
    if table == BATCHES.name:
        # A file may hold rows of several.
        tenant = "tenant = $tenant or list_contains(coalesce(json_keys(events_by_tenant), []), $tenant)"
    days = [identifier(name) for name in ("date", "partition") if name in columns]
    day = judged.day.removesuffix("::date") if judged and judged.day else None
    return _Place(table, comment, None, columns, tenant, day if judged else next(iter(days), None))


def _confirm_key(con: duckdb.DuckDBPyConnection, labels: Labels, column: str, key: str) -> None:
    hidden = con.execute("select field from field_taxonomy where \"table\" = 'events' and handling = 'hidden'").fetchall()
    known = {one.field for one in labels.every_key()} | {field for (field,) in hidden}
    name = f"{column}.{key}"
    if name not in known and labels.field(f"{EVENTS.name}.{name}") is None:
        raise UserError(f"no event is known to carry '{name}'{_nearest(name, known)}")


def _confirm_day(con: duckdb.DuckDBPyConnection, place: _Place, asked: Asked) -> None:
    if place.day is None:
        raise UserError(f"'{asked.table}' has no days of its own: each row may be made of events of any day; leave out --day")
    if place.rows(con, asked):
        return
    where, values = place.where(Asked(asked.table, None, asked.tenant))
    near = con.execute(
        f"select {place.day}::date as day from {identifier(asked.table)} where {where} and day is not null "
        "order by abs(date_diff('day', day, $asked)), day limit 1",
        {**values, "asked": asked.day},
    ).fetchall()
    whose = f" of '{asked.tenant}'" if asked.tenant else ""
    nearest = f"; the nearest day with one is {near[0][0]}" if near else ", and on no other day"
    raise UserError(f"'{asked.table}' has no row{whose} on {asked.day}{nearest}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(sorted(known)[:20])}"


# What it is, and what was declared


def _label(labels: Labels, asked: Asked) -> dict[str, Any] | None:
    return _as_told(labels.field(f"{asked.table}.{asked.column}"))


def _columns(labels: Labels, table: str, place: _Place) -> list[dict[str, Any]]:
    return [
        {"column": name, "comment": said, "label": _as_told(labels.of(table, name))} for name, said in place.columns.items()
    ]


def _as_told(one: Labelled | None) -> dict[str, Any] | None:
    return {**asdict(one), "handling": one.handling} if one else None


# What brought it, who published it


@contextmanager
def _published(home: Home) -> Iterator[duckdb.DuckDBPyConnection]:
    """The version that readers get."""
    path = current_path(home)
    if not path.exists():
        raise UserError("nothing is published yet; run `analytics demo` or `analytics ingest` first")
    try:
        with duckdb.connect(str(path.resolve()), read_only=True) as con:
            yield con
    except duckdb.IOException:
        raise UserError("the published file names files that are gone; run `analytics publish`, then again") from None
    except duckdb.CatalogException:
        raise UserError("the published file was made by an earlier release; run `analytics publish`, then again") from None


def _version(con: duckdb.DuckDBPyConnection, home: Home, table: str) -> dict[str, Any]:
    number, published_at = con.execute("select max(version), max(published_at) from published_tables").fetchall()[0]
    through = con.execute('select data_through from published_tables where "table" = ?', [table]).fetchall()
    entries = history(home)
    same: dict[str, Any] | None = None
    for entry in reversed([one for one in entries if one["action"] == "publish" and one["version"] <= number]):
        if same is not None and entry["table_versions"].get(table) != same["table_versions"].get(table):
            break
        same = entry
    # A table about the version itself is made anew with each.
    changed = same if same is not None and table in same["table_versions"] else None
    last = entries[-1] if entries else None
    return {
        "version": number, "published_at": published_at, "path": str(current_path(home)),
        "data_through": through[0][0] if through else None,
        "unchanged_since": changed["version"] if changed else number,
        "rolled_back": last["reason"] if last and last["action"] == "rollback" and last["version"] == number else None,
    }  # fmt: skip


def _deliveries(con: duckdb.DuckDBPyConnection, asked: Asked, behind: Behind) -> dict[str, Any] | None:
    """Which batches brought the events (of a table that names its batches: the rows) that are asked for; None: no batch did."""
    columns = {name for (name,) in con.execute(
        "select column_name from duckdb_columns() where table_name = ?", [asked.table]
    ).fetchall()}  # fmt: skip
    own = {"batch_id", "source"} <= columns
    if not own and EVENTS.name not in (*behind.tables, *behind.choosing):
        return None
    table = asked.table if own else EVENTS.name
    until = None if own or asked.day is None else _until(con, asked, columns)
    if until is None:
        where, values = _place_of(con, table, "").where(asked)
    else:
        where, values = _place_of(con, table, "").where(Asked(table, None, asked.tenant))
        where, values = f"{where} and timestamp between $day and $until", {**values, "day": asked.day, "until": until}
    con.execute(
        f"create or replace temp table brought as select batch_id, source, count(*) as rows from {identifier(table)} "
        f"where {where} group by all", values,
    )  # fmt: skip
    sources = con.execute(
        "select source, count(distinct batch_id), sum(rows)::bigint from brought group by 1 order by 3 desc, 1"
    ).fetchall()
    newest = con.execute(f"""
        with files as (select batch_id, arg_min(file, received_at) as file, min(received_at) as received_at,
            sum(received)::bigint as records, sum(rejected)::bigint as rejected, any_value(tenant) as tenant
            from batches group by 1),
        shown as (select batch_id, min(shown_at) as shown_at, arg_min(total_seconds, shown_at)::double as seconds
            from time_to_insight group by 1)
        select brought.batch_id, file, source, tenant, files.received_at, records, rejected, rows, shown_at, seconds
        from brought left join files using (batch_id) left join shown using (batch_id)
        order by files.received_at desc nulls last, file limit {_NEWEST}
    """)
    names = [column[0] for column in newest.description]
    files = [dict(zip(names, row, strict=True)) for row in newest.fetchall()]
    for file in files:
        # What a file holds of others is not told to somebody who asks about one tenant.
        if asked.tenant not in (None, file["tenant"]):
            file |= {"records": None, "rejected": None}
    batches, rows = con.execute("select count(distinct batch_id), coalesce(sum(rows), 0)::bigint from brought").fetchall()[0]
    con.execute("drop table brought")
    return {
        "counted": table, "rows": rows, "batches": batches, "until": until,
        "sources": [dict(zip(("source", "batches", "rows"), row, strict=True)) for row in sources], "newest": files,
    }  # fmt: skip


def _until(con: duckdb.DuckDBPyConnection, asked: Asked, columns: Iterable[str]) -> datetime | None:
    """When the last session ended that began on the day: events of the next day may be in it."""
    if "ended_at" not in columns:
        return None
    where, values = _place_of(con, asked.table, "").where(asked)
    found: datetime = con.execute(f"select max(ended_at) from {identifier(asked.table)} where {where}", values).fetchall()[0][0]
    return found


def _runs(home: Home, version: Mapping[str, Any], checks: Mapping[str, Any]) -> dict[str, Any]:
    """Who published the version and judged the table, as the audit log has it."""
    published: dict[str, Any] | None = None
    begun: dict[str, dict[str, Any]] = {}
    first = min(moment for moment in (version["published_at"], checks["judged_at"]) if moment) - _LONGEST_RUN
    for said in newest_first(home, ("publish", "run")):
        if said["at"] < first.isoformat():
            break
        who = {name: said.get(name) for name in ("at", "user", "via", "run")}
        details = said.get("details", {})
        if said["action"] == "run" and "of" not in said:
            begun[said.get("run", "")] = {**who, "job": details.get("job"), "days": details.get("days")}
        elif published is None and said["outcome"] == "done" and details.get("version") == version["version"]:
            published = who
    judged = begun.get(checks["run"] or "")
    of_publish = begun.get((published or {}).get("run") or "", {})
    return {
        "published": {**published, "job": of_publish.get("job"), "days": of_publish.get("days")} if published else None,
        "judged": judged or ({"run": checks["run"]} if checks["run"] else None),
    }


# What was checked, and how fresh it is


def _checks(con: duckdb.DuckDBPyConnection, asked: Asked, behind: Behind, gate: Gate) -> dict[str, Any]:
    """Expectations of the table by their verdicts on what is asked, the tables behind it likewise, and those not passed."""
    values: dict[str, Any] = {}
    listed = ", ".join(map(literal, {asked.table, *behind.tables, *behind.choosing}))
    conditions = [f'"table" in ({listed})']
    if asked.day is not None:
        # People are judged as a whole, and so is who comes back.
        conditions.append('("partition" = $day or "table" in (select "table" from whole))')
        values["day"] = asked.day
    if asked.tenant is not None:
        # A row of no tenant is that of all who have none of their own.
        conditions.append(
            '(tenant = $tenant or (tenant is null and ("table", "partition", expectation) not in '
            '(select ("table", "partition", expectation) from quality_results where tenant = $tenant)))'
        )
        values["tenant"] = asked.tenant
    found = _verdicts(con, " and ".join(conditions), values)
    own = [one for one in found if one["table"] == asked.table]
    newest = max(own, key=lambda one: one["judged_at"], default=None)
    return {
        **_counted(own),
        "judged_at": newest["judged_at"] if newest else None,
        "run": newest["run"] if newest else None,
        "not_passed": [one for one in own if one["failed"] or one["unknown"]],
        "behind": {name: _counted([one for one in found if one["table"] == name]) for name in sorted({
            one["table"] for one in found} - {asked.table})},
        "of_the_version": [name for name, _ in gate.checks()],
    }  # fmt: skip


def _verdicts(con: duckdb.DuckDBPyConnection, where: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line an expectation: days failed, unknown and passed, the newest failure, why it is unknown, who judged last."""
    whole = ", ".join(literal(suite.table.name) for suite in suites() if suite.day is None)
    found = con.execute(
        f"""
        with whole as (select unnest([{whole}]) as "table")
        select "table", expectation, any_value(severity) as severity,
            count(*) filter (success = 'fail') as failed, count(*) filter (success = 'unknown') as unknown,
            count(*) filter (success = 'pass') as passed,
            max("partition") filter (success = 'fail') as failed_on,
            arg_max(tenant, "partition") filter (success = 'fail') as failed_for,
            arg_max(reason, "partition") filter (success = 'unknown') as why_unknown,
            max(judged_at) as judged_at, arg_max(run, judged_at) as run
        from {QUALITY_RESULTS.name} where {where} group by 1, 2 order by 1, failed = 0, unknown = 0, 2
        """,
        dict(values),
    )
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _counted(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Expectations that passed wherever they could be judged, that failed somewhere, and of which nothing is known."""
    failed = sum(one["failed"] > 0 for one in verdicts)
    unknown = sum(not one["failed"] and not one["passed"] for one in verdicts)
    return {"passed": len(verdicts) - failed - unknown, "failed": failed, "unknown": unknown}


def _freshness(asked: Asked, statuses: Iterable[Status]) -> list[dict[str, Any]]:
    """How fresh the table is now, a line a tenant, the worst first; none for a table without a promise."""
    mine = [one for one in statuses if one.table == asked.table and asked.tenant in (None, one.tenant_id)]
    return [asdict(one) for one in sorted(mine, key=lambda one: (WORST_FIRST.index(one.state), one.tenant_id))]
