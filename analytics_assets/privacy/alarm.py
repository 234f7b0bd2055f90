"""Personal data where none belongs: a field's label says that it names nobody, and an address or a number of a person is in it.

Looked at are the texts of events: columns, and keys of what senders fill. Kept is how many events of a tenant and day have
which kind in which field, never a value. A finding stands while the label says that nobody is named: label the field as what
it is, or say under `no_alarm` why its values only look so.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from analytics_assets.privacy.detector import install
from analytics_assets.privacy.labels import Labels
from analytics_assets.privacy.taxonomy import EVERY_SOURCE, JSON_COLUMNS
from analytics_assets.warehouse.spec import Column, TableSpec, identifier, literal

PERSONAL_DATA = TableSpec(
    name="personal_data",
    comment="One row a kind of personal data in a field of a tenant's day whose label says that it names nobody.",
    columns=(
        Column("tenant_id", "VARCHAR", "Tenant."),
        Column("date", "DATE", "Day of the events (UTC)."),
        Column("source", "VARCHAR", "Declared source of the events."),
        Column("field", "VARCHAR", "Column of events, or column and path of a labelled key with dots."),
        Column("kind", "VARCHAR", "email, card, phone or iban."),
        Column("events", "BIGINT", "Events that have it there."),
    ),
    time_column="date",
    order_by=("date", "tenant_id"),
)
# How a person is told what was found.
ARTICLES = {"email": "an e-mail address", "card": "a card number", "phone": "a phone number", "iban": "a bank account"}
# One pass over an event reads all its texts; a line feed ends every shape.
_BETWEEN = "chr(10)"


@dataclass(frozen=True)
class Finding:
    """Events of a tenant that have a kind of personal data in a field, over all days on which they do."""

    tenant: str
    source: str
    field: str
    kind: str
    events: int
    first: date
    last: date


def search(con: duckdb.DuckDBPyConnection, events: str, labels: Labels, sources: Sequence[str], texts: Sequence[str]) -> None:
    """Make temp table `found_personal_data` with the rows of `personal_data` for the events of a SELECT.

    `texts` are the columns that senders write texts into.
    """
    install(con)
    columns = [name for name in texts if name not in JSON_COLUMNS and labels.names_nobody(EVERY_SOURCE, name)]
    read = ", ".join(map(identifier, [*columns, *JSON_COLUMNS]))
    con.execute(
        f"create or replace temp table suspects as select tenant_id, timestamp::date as date, source, {read} from ({events}) "
        f"where may_identify(concat_ws({_BETWEEN}, {read}))"
    )
    fields = " union all ".join([_columns(columns), *_keys(labels, sources)])
    con.execute(
        "create or replace temp table found_personal_data as select tenant_id, date, source, field, kind, count(*) as events "
        f"from (select tenant_id, date, source, field, unnest(personal_kinds(text)) as kind from ({fields}) "
        "where may_identify(text)) group by all"
    )
    con.execute("drop table suspects")


def _columns(names: Sequence[str]) -> str:
    listed = ", ".join(map(literal, names)), ", ".join(map(identifier, names))
    return f"select tenant_id, date, source, unnest([{listed[0]}]) as field, unnest([{listed[1]}]) as text from suspects"


def _keys(labels: Labels, sources: Sequence[str]) -> Iterator[str]:
    """A SELECT of the values of every key to look at, with its name before it, which may tell what a number is."""
    for column in JSON_COLUMNS:
        for source in (*sources, EVERY_SOURCE):
            paths = labels.nameless_keys(column, source)
            chosen = f"source = {literal(source)}"
            if source == EVERY_SOURCE:
                chosen = f"source not in ({', '.join(map(literal, sources))})"
            names = ", ".join(literal(path) for path in paths)
            pointers = ", ".join(literal("/" + path.replace("~", "~0").replace("/", "~1").replace(".", "/")) for path in paths)
            if paths:
                yield (
                    f"select tenant_id, date, source, {literal(column + '.')} || name as field, name || ': ' || value as text "
                    f"from (select tenant_id, date, source, unnest([{names}]) as name, "
                    f"unnest(json_extract_string({identifier(column)}, [{pointers}])) as value from suspects where {chosen})"
                )


def standing(con: duckdb.DuckDBPyConnection, found: str, labels: Labels) -> list[Finding]:
    """What was found (a SELECT of rows of `personal_data`) and is not in accord with the labels of now."""
    rows = con.execute(
        "select tenant_id, source, field, kind, sum(events)::bigint, min(date), max(date) "
        f"from ({found}) group by all order by tenant_id, field, kind, source"
    ).fetchall()
    return [Finding(*row) for row in rows if labels.names_nobody(row[1], row[2], row[3])]


def hidden_keys(findings: Iterable[Finding], column: str) -> dict[str, Collection[str]]:
    """By tenant, the keys at the top of a JSON column in which something was found."""
    hidden: dict[str, set[str]] = {}
    for found in findings:
        within, _, path = found.field.partition(".")
        if path and within == column:
            hidden.setdefault(found.tenant, set()).add(path.split(".")[0])
    return {tenant: sorted(keys) for tenant, keys in hidden.items()}
