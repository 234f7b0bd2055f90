"""The label of every field: as declared, or as inherited along its lineage, where the strictest label wins."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from analytics_assets.privacy.lineage import ROWS, Origins
from analytics_assets.privacy.taxonomy import EVERY_SOURCE, JSON_COLUMNS, LABELS, FieldLabel, Label, Taxonomy, strictest
from analytics_assets.settings import UserError, read_yaml
from analytics_assets.warehouse.spec import Column, TableSpec

LINEAGE = Path(__file__).with_name("lineage.yaml")
Lineage = Mapping[str, Mapping[str, Origins]]
"""Table that is computed from others -> column (`*`: its rows) -> the fields that its values come from."""

Handling = Literal["sent", "masked", "excluded", "hidden"]
# What may become of a field on its way to a model or out of the house; without a label it goes nowhere.
_HANDLING: Mapping[Label, Handling] = {
    "operational": "sent",
    "behavioural": "sent",
    "quasi_identifier": "masked",
    "identifier": "masked",
    "restricted": "excluded",
}

FIELD_TAXONOMY = TableSpec(
    name="field_taxonomy",
    comment="One row a column of every table, and a key of what senders fill: what it is, what for, how long, whose.",
    columns=(
        Column("table", "VARCHAR", "Table."),
        Column("field", "VARCHAR", "Column, or column and path of a key with dots."),
        Column("source", "VARCHAR", "Declared source whose events have the key; every_source for any; empty for a column."),
        Column("label", "VARCHAR", "operational, behavioural, quasi_identifier, identifier, restricted; empty: waits for one."),
        Column("handling", "VARCHAR", "sent, masked or excluded where data leave the house; hidden while it waits."),
        Column("category", "VARCHAR", "Data category by its name in Fides' taxonomy; empty where that has none."),
        Column("purpose", "VARCHAR", "What it is kept for: a data use by its name in Fides' taxonomy."),
        Column("retention", "VARCHAR", "Retention class."),
        Column("owner", "VARCHAR", "Who answers for it."),
        Column("inherited_from", "VARCHAR", "Fields that its values come from, by comma; empty where it is declared."),
        Column("loosened_by", "VARCHAR", "What was done to the values so that they say less, and why; empty for nothing."),
    ),
    time_column=None,
    order_by=("table", "field"),
)


def hidden_row(field: str) -> tuple[Any, ...]:
    """The row of a key that waits for its label."""
    given = {"table": "events", "field": field, "handling": "hidden"}
    return tuple(given.get(name) for name in FIELD_TAXONOMY.column_names)


class Unlabelled(UserError):
    """A field has no label, or one that forbids what is asked; the message names field and rule."""


@dataclass(frozen=True)
class Labelled:
    """A field and what it is. `source` is set for a key of what senders fill."""

    table: str
    field: str
    label: Label
    category: str | None
    purpose: str
    retention: str
    owner: str
    source: str | None = None
    inherited_from: tuple[str, ...] = ()
    loosened_by: str | None = None

    @property
    def handling(self) -> Handling:
        return _HANDLING[self.label]

    def as_row(self) -> tuple[Any, ...]:
        """In the order of `field_taxonomy`."""
        return (
            self.table, self.field, self.source, self.label, self.handling, self.category, self.purpose, self.retention,
            self.owner, ", ".join(self.inherited_from) or None, self.loosened_by,
        )  # fmt: skip


class Labels:
    """What every field is, by the taxonomy and the lineage."""

    def __init__(self, taxonomy: Taxonomy, lineage: Lineage) -> None:
        self.taxonomy = taxonomy
        self._lineage = lineage
        self._kept = list(taxonomy.retention)

    def of(self, table: str, column: str) -> Labelled | None:
        """The label of a column, or of the rows (`*`) of a table; None if it has none."""
        declared = self.taxonomy.tables.get(table)
        if declared is not None:
            own = FieldLabel(label=declared.rows) if column == ROWS else declared.columns.get(column)
            return self._declared(table, column, own) if own else None
        return self._inherited(table, column)

    def field(self, name: str) -> Labelled | None:
        """The label of `table.column`, or of `events.properties.path`: of several sources' keys the strictest."""
        table, _, rest = name.partition(".")
        column, _, path = rest.partition(".")
        return self._of_key(table, column, path) if path else self.of(table, column)

    def _declared(self, table: str, name: str, own: FieldLabel, source: str | None = None) -> Labelled:
        of_table, of_file = self.taxonomy.tables[table], self.taxonomy.defaults
        return Labelled(
            table,
            name,
            own.label,
            own.category,
            own.purpose or of_table.purpose or of_file.purpose,
            own.retention or of_table.retention or of_file.retention,
            own.owner or of_table.owner or of_file.owner,
            source,
        )

    def _inherited(self, table: str, column: str) -> Labelled | None:
        """The strictest label of what a column comes from, with its category, purpose and owner; the shortest retention."""
        origins = sorted(self._lineage.get(table, {}).get(column, ()))
        found = [self.field(origin) for origin in origins]
        known = [one for one in found if one is not None]
        if not known or len(known) < len(found):
            return None
        label = strictest(one.label for one in known)
        ruling = next(one for one in known if one.label == label)
        retention = min((one.retention for one in known), key=self._kept.index)
        loosened = self.taxonomy.loosened.get(table, {}).get(column)
        return Labelled(
            table,
            column,
            loosened.label if loosened else label,
            ruling.category,
            ruling.purpose,
            (loosened and loosened.retention) or retention,
            ruling.owner,
            inherited_from=tuple(origins),
            loosened_by=str(loosened) if loosened else None,
        )

    def every_key(self) -> Iterator[Labelled]:
        """Every labelled key of what senders fill."""
        for column, by_source in self.taxonomy.keys.items():
            for source, keys in by_source.items():
                for path, own in keys.items():
                    yield self._declared("events", f"{column}.{path}", own, source)

    def shown_keys(self, column: str, source: str) -> list[str]:
        """Keys at the top of `column` that have a label where an event came through `source`."""
        by_source = self.taxonomy.keys.get(column, {})  # type: ignore[call-overload]
        return sorted({path.split(".")[0] for name in (source, EVERY_SOURCE) for path in by_source.get(name, {})})

    def missing(self, tables: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
        """The columns without a label, as `table.column`."""
        return [f"{table}.{column}" for table, columns in tables for column in columns if self.of(table, column) is None]

    def require(self, fields: Iterable[str], *, for_model: bool) -> list[Labelled]:
        """The labels of `fields`: `table.column`, or `events.properties.path` for a key. Raises Unlabelled.

        A model may use no restricted field. Of a key that several sources send the strictest label counts.
        """
        found = []
        for field in fields:
            if "." not in field:
                raise Unlabelled(f"'{field}' is no field; name it as table.column")
            labelled = self.field(field)
            if labelled is None:
                raise Unlabelled(f"{field} has no label, and only labelled fields may be used; label it in taxonomy.yaml")
            if for_model and labelled.label == "restricted":
                raise Unlabelled(f"{field} is restricted, and a model may use no restricted field; leave it out")
            found.append(labelled)
        return found

    def _of_key(self, table: str, column: str, path: str) -> Labelled | None:
        """A path without a label of its own has that of the nearest one above it."""
        if table != "events" or column not in JSON_COLUMNS:
            return None
        found = []
        for source, keys in self.taxonomy.keys.get(column, {}).items():  # type: ignore[call-overload]
            steps = path.split(".")
            above = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
            own = next((keys[name] for name in above if name in keys), None)
            if own is not None:
                found.append(self._declared("events", f"{column}.{path}", own, source))
        return max(found, key=lambda one: LABELS.index(one.label)) if found else None

    def faults(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(place, sentence) of a loosening that loosens nothing, and of a key inside one that says less than it holds."""
        for table, columns in self.taxonomy.loosened.items():
            for column, loosened in columns.items():
                origins = [self.field(origin) for origin in self._lineage.get(table, {}).get(column, ())]
                # A column of which nothing is known yet is told of when it is to be published.
                inherited = strictest(one.label for one in origins if one) if any(origins) else "restricted"
                if LABELS.index(loosened.label) >= LABELS.index(inherited):
                    sentence = f"'{column}' inherits {inherited}, which {loosened.label} does not loosen; remove it"
                    yield ("loosened", table, column), sentence
        for name, by_source in self.taxonomy.keys.items():
            for source, keys in by_source.items():
                for path, own in keys.items():
                    above, dot, _ = path.rpartition(".")
                    if dot and above not in keys:
                        yield ("keys", name, source, path), f"'{path}' lies in '{above}', which has no label; label that too"
                    elif dot and LABELS.index(keys[above].label) < LABELS.index(own.label):
                        sentence = f"'{path}' is {own.label}, but '{above}', which holds it, {keys[above].label}; raise that"
                        yield ("keys", name, source, path), sentence


def read_lineage(path: Path = LINEAGE) -> Lineage:
    """The lineage as `analytics privacy document` wrote it."""
    tables = read_yaml(path)[0]
    return {name: {column: frozenset(origins) for column, origins in columns.items()} for name, columns in tables.items()}


def lineage_text(lineage: Lineage) -> str:
    """The lineage as a file, which `read_lineage` reads."""
    tables = {name: {column: sorted(origins) for column, origins in columns.items()} for name, columns in lineage.items()}
    head = "# Where the values of computed columns come from; `*` are the rows. Written by `analytics privacy document`.\n\n"
    return head + yaml.safe_dump(tables, sort_keys=False, default_flow_style=None, width=125)
