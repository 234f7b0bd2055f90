"""What is declared of every field: `taxonomy.yaml`, typed and bounded.

A field is a column of a table, or a key of the JSON that a sender fills. Declared is what holds data of its own; what is
computed from that inherits, and may be loosened here with a reason. Declarations only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml
from analytics_assets.warehouse.spec import TableSpec

Label = Literal["operational", "behavioural", "quasi_identifier", "identifier", "restricted"]
# From the loosest to the strictest.
LABELS: tuple[Label, ...] = get_args(Label)
Fault = tuple[tuple[str, ...], str]
"""(place in the file, sentence)"""
# The columns of `events` that hold what senders fill with keys of their own.
JsonColumn = Literal["properties", "context"]
JSON_COLUMNS: tuple[JsonColumn, ...] = get_args(JsonColumn)
EVERY_SOURCE = "every_source"
_NAMES = Path(__file__).with_name("fides.yaml")


def strictest(labels: Iterable[Label]) -> Label:
    return max(labels, key=LABELS.index)


@cache
def fides_names() -> Mapping[str, Sequence[str]]:
    """`categories` of data and `uses` of data that Fides' taxonomy has names for."""
    names: Mapping[str, Sequence[str]] = read_yaml(_NAMES)[0]
    return names


class FieldLabel(Declared):
    """What a field is. What is left out is that of its table, or of the file's defaults."""

    label: Label = Field(description="How much it says about a person.")
    category: str | None = Field(None, description="Data category, as Fides names it; empty where it has no name.")
    purpose: str | None = Field(None, description="What it is kept for: a data use, as Fides names it.")
    retention: str | None = Field(None, description="Retention class.")
    owner: str | None = Field(None, min_length=2, max_length=100, description="Who answers for it.")

    @model_validator(mode="before")
    @classmethod
    def _a_label_alone(cls, value: Any) -> Any:
        return {"label": value} if isinstance(value, str) else value

    @field_validator("category")
    @classmethod
    def _known_category(cls, value: str | None) -> str | None:
        return _named(value, "categories", "category")

    @field_validator("purpose")
    @classmethod
    def _known_purpose(cls, value: str | None) -> str | None:
        return _named(value, "uses", "purpose")


def _named(value: str | None, kind: str, said: str) -> str | None:
    if value is not None and value not in fides_names()[kind]:
        near = sorted(name for name in fides_names()[kind] if name.split(".")[0] == value.split(".")[0])
        cure = f"take one of {', '.join(near[:12])}" if near else "take a name of privacy/fides.yaml"
        raise ValueError(f"Fides has no {said} '{value}'; {cure}")
    return value


class Defaults(Declared):
    """What a field has that says nothing else."""

    purpose: str
    retention: str
    owner: str = Field(min_length=2, max_length=100)

    @field_validator("purpose")
    @classmethod
    def _known_purpose(cls, value: str) -> str:
        return _named(value, "uses", "purpose") or value


class TableLabels(Declared):
    """A table with data of its own."""

    rows: Label = Field(description="What a row tells by being there, and so every count of rows.")
    purpose: str | None = Field(None, description="Purpose of its columns.")
    retention: str | None = Field(None, description="Retention class of its columns.")
    owner: str | None = Field(None, min_length=2, max_length=100, description="Who answers for its columns.")
    columns: dict[str, FieldLabel]

    @field_validator("purpose")
    @classmethod
    def _known_purpose(cls, value: str | None) -> str | None:
        return _named(value, "uses", "purpose")


class Loosened(Declared):
    """A column that says less than what it is computed from, and why."""

    label: Label = Field(description="What is left.")
    by: Literal["hashed", "bucketed", "aggregated"] = Field(description="What was done to the values.")
    to: str | None = Field(None, min_length=2, description="Of bucketed values, what the buckets are.")
    k: int | None = Field(None, ge=5, le=1_000_000, description="Of aggregated values, how many people each is of at least.")
    retention: str | None = Field(None, description="Retention class, where it may stay longer.")
    reason: str = Field(min_length=10, description="Why that is enough.")

    @model_validator(mode="after")
    def _says_how(self) -> "Loosened":
        if (self.by == "bucketed") != (self.to is not None):
            raise ValueError("say `to` what buckets where values are bucketed, and nowhere else")
        if (self.by == "aggregated") != (self.k is not None):
            raise ValueError("say over at least how many people (`k`) where values are aggregated, and nowhere else")
        return self

    def __str__(self) -> str:
        how = {"bucketed": f" to {self.to}", "aggregated": f" over at least {self.k}"}.get(self.by, "")
        return f"{self.by}{how}: {self.reason}"


class Taxonomy(Declared):
    """The file. `keys`: column, then source, then the key's path with dots; a path covers all that lies below it."""

    retention: dict[str, str] = Field(
        min_length=1, description="Retention classes, the shortest kept first, and what they hold."
    )
    defaults: Defaults
    tables: dict[str, TableLabels]
    keys: dict[JsonColumn, dict[str, dict[str, FieldLabel]]]
    loosened: dict[str, dict[str, Loosened]] = Field({})

    def faults(self, specs: Iterable[TableSpec], derived: Sequence[str], sources: Iterable[str]) -> Iterator[Fault]:
        """(place, sentence) of what does not fit the tables, those of them that are computed, and the declared sources."""
        columns, known = {spec.name: set(spec.column_names) for spec in specs}, {*sources, EVERY_SOURCE}
        for table, labels in self.tables.items():
            if table in derived:
                yield ("tables", table), f"'{table}' is computed and inherits; remove it, or name it in loosened"
            elif table not in columns:
                yield ("tables", table), f"there is no table '{table}'; remove it"
            for column in labels.columns.keys() - columns.get(table, labels.columns.keys()):
                yield ("tables", table, "columns", column), f"'{table}' has no column '{column}'; remove it"
        for table, loosened in self.loosened.items():
            for column in loosened:
                if table not in derived:
                    yield ("loosened", table), f"'{table}' is not computed from other tables; change its label in tables"
                elif column not in columns[table]:
                    yield ("loosened", table, column), f"'{table}' has no column '{column}'; remove it"
        for name, by_source in self.keys.items():
            for source in by_source.keys() - known:
                yield ("keys", name, source), f"there is no source '{source}'; declared are {', '.join(sorted(known))}"
        for place, kept in _retentions(self.model_dump(include={"defaults", "tables", "keys", "loosened"})):
            if kept not in self.retention:
                yield place, f"there is no retention class '{kept}'; declared are {', '.join(self.retention)}"


def _retentions(declared: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(place, retention class) wherever one is named."""
    for key, value in declared.items():
        if isinstance(value, Mapping):
            yield from (((key, *place), kept) for place, kept in _retentions(value))
        elif key == "retention" and value is not None:
            yield (key,), value


def load_taxonomy(path: Path, specs: Iterable[TableSpec], derived: Sequence[str], sources: Iterable[str]) -> Taxonomy:
    """Read the declarations and hold them against tables and sources. Raises ConfigError."""
    taxonomy: Taxonomy = Taxonomy.load(path)
    for place, sentence in taxonomy.faults(specs, derived, sources):
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return taxonomy
