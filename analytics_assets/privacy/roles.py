"""Who may get what: `roles.yaml`, typed and bounded. A role names tenants, and of these aggregates, or tables too.

Aggregates leave through `egress`, which tells of groups of at least k people. Tables are the rows themselves, with the columns
whose labels the role may see; rows that tell of persons need its `people`. Declarations only.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from analytics_assets.privacy.labels import Labels
from analytics_assets.privacy.lineage import ROWS
from analytics_assets.privacy.suppress import Measure
from analytics_assets.privacy.taxonomy import Fault, Label
from analytics_assets.settings import SLUG, ConfigError, Declared, Denied, line_of, read_yaml
from analytics_assets.warehouse.spec import Column, TableSpec

Dimension = Literal["month", "day", "event", "region", "campaign", "currency", "product_id"]
# The column of `events` that each dimension is made from.
DIMENSIONS: Mapping[Dimension, str] = {
    "month": "timestamp",
    "day": "timestamp",
    "event": "event",
    "region": "region",
    "campaign": "campaign",
    "currency": "currency",
    "product_id": "product_id",
}
MeasureName = Literal["people_per_group", "events", "quantity", "revenue"]
# Those that are summed over rows; people are counted a block.
SUMMED = (Measure("events", "BIGINT"), Measure("quantity", "BIGINT"), Measure("revenue", "DECIMAL(38,4)"))
# The column that tells whose a row is, by the name that a table gives it.
_TENANT_COLUMNS = ("tenant_id", "tenant")


class NotPermitted(Denied):
    """A role asks for what it may not get; the message names both."""


class EgressRules(Declared):
    """What holds for every answer, whoever asks: were it different for two roles, their answers could be subtracted."""

    k: int = Field(5, ge=5, le=100_000, description="A group of fewer people is told to nobody.")
    settled_days: int = Field(
        2, ge=0, le=366, description="Days after which a day may be told: late events would change what was told before."
    )
    levels: tuple[Dimension, ...] = Field(
        min_length=1, description="Dimensions of all answers; where groups are small, the last ones are masked first."
    )

    @field_validator("levels")
    @classmethod
    def _once(cls, value: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"'{name}' stands there twice; keep one")
        return value


class Role(Declared):
    """What those who have the role may get."""

    purpose: str = Field(min_length=10, description="What it is for, in a sentence.")
    tenants: Literal["all"] | tuple[str, ...] = Field(description="Tenants whose data it may get, or all.")
    measures: tuple[MeasureName, ...] = Field((), description="What it may ask the egress for.")
    dimensions: tuple[Dimension, ...] = Field((), description="By what, and between which values.")
    rows: dict[Dimension, tuple[str, ...]] = Field({}, description="It gets only rows with these values.")
    tables: tuple[str, ...] = Field((), description="Published tables whose rows its files hold.")
    labels: tuple[Label, ...] = Field((), description="Of these tables, the columns with these labels.")
    people: bool = Field(False, description="Whether its files may hold rows that tell of persons.")
    rare: Literal["masked", "shown"] = Field("masked", description="What becomes of texts in its tables that few people have.")
    file: bool = Field(False, description="Whether each publish makes it a file a tenant.")

    @field_validator("rows")
    @classmethod
    def _of_values(cls, value: dict[Dimension, tuple[str, ...]]) -> dict[Dimension, tuple[str, ...]]:
        for name in value:
            if DIMENSIONS[name] != name:
                raise ValueError(f"rows are chosen by their values, and '{name}' is a time; take it out")
        return value

    @model_validator(mode="after")
    def _whole(self) -> "Role":
        if self.tables and not self.labels:
            raise ValueError("say which labels it may see, since it names tables")
        if self.file and not (self.tables or self.measures):
            raise ValueError("say which tables or measures its files hold")
        return self

    def has(self, tenant: str) -> bool:
        return self.tenants == "all" or tenant in self.tenants


class Roles(Declared):
    """The file."""

    egress: EgressRules
    roles: dict[str, Role] = Field({})

    @field_validator("roles")
    @classmethod
    def _slugs(cls, value: dict[str, Role]) -> dict[str, Role]:
        for name in value:
            if not SLUG.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a role; use at most 63 lower case letters, digits and hyphens")
        return value

    def role(self, name: str, tenant: str) -> Role:
        """The role, if it may get the tenant's data. Raises NotPermitted."""
        if name not in self.roles:
            known = ", ".join(sorted(self.roles)) or "none"
            raise NotPermitted(f"there is no role '{name}' in roles.yaml; declared are: {known}")
        if not self.roles[name].has(tenant):
            raise NotPermitted(f"role '{name}' may not get data of tenant '{tenant}'")
        return self.roles[name]

    def faults(self, specs: Iterable[TableSpec], labels: Labels, tenants: Iterable[str]) -> Iterator[Fault]:
        """(place, sentence) of what does not fit the published tables, their labels, and the declared tenants."""
        known, declared = {spec.name: spec for spec in specs}, set(tenants)
        for level in self.egress.levels:
            labelled = labels.of("events", DIMENSIONS[level])
            if labelled is None or labelled.label in ("identifier", "restricted"):
                said = labelled.label if labelled else "without a label"
                yield ("egress", "levels"), f"'{level}' is {said}, and no answer may tell it; take it out"
        for name, role in self.roles.items():
            for place, sentence in self._faults_of(role, known, labels, declared):
                yield ("roles", name, *place), sentence

    def _faults_of(
        self, role: Role, known: Mapping[str, TableSpec], labels: Labels, tenants: set[str]
    ) -> Iterator[Fault]:  # fmt: skip
        for tenant in role.tenants if role.tenants != "all" else ():
            if tenant not in tenants:
                yield ("tenants",), f"there is no tenant '{tenant}'; add it to tenants.yaml or take it out"
        for place, names in (("dimensions", role.dimensions), ("rows", tuple(role.rows))):
            for name in names:
                if role.measures and name not in self.egress.levels:
                    yield (place,), f"'{name}' is no level of egress; add it there, or take it out here"
        if "revenue" in role.measures and "currency" not in self.egress.levels:
            yield ("measures",), "revenue of several currencies must not be added up; put currency into the levels of egress"
        for table in role.tables:
            spec = known.get(table)
            if spec is None or tenant_column(spec) is None:
                said = (
                    f"there is no published table '{table}'" if spec is None else f"'{table}' does not tell whose its rows are"
                )
                yield ("tables",), f"{said}; take it out"
                continue
            rows = labels.of(table, ROWS)
            if not role.people and (rows is None or rows.label != "operational"):
                yield ("tables",), f"rows of '{table}' tell of persons; set people: true, or take measures instead"
            for column in role.rows:
                if column not in spec.column_names:
                    yield ("tables",), f"'{table}' has no column '{column}', by which rows are chosen; take it out"
        if role.tables and not role.people and (more := [label for label in role.labels if label != "operational"]):
            yield (
                ("labels",),
                f"what is {more[0]} may be of one person; set people: true, or let it see operational columns alone",
            )


def tenant_column(spec: TableSpec) -> str | None:
    """The column that tells whose a row is; None where rows are nobody's or everybody's."""
    return next((name for name in _TENANT_COLUMNS if name in spec.column_names), None)


def shown_columns(role: Role, spec: TableSpec, labels: Labels) -> tuple[Column, ...]:
    """The columns of a table that a role may see. One without a label is seen by nobody."""
    found = ((column, labels.of(spec.name, column.name)) for column in spec.columns)
    return tuple(column for column, one in found if one is not None and one.label in role.labels)


def read_roles(path: Path) -> Roles:
    """The declarations by themselves. Raises ConfigError."""
    roles: Roles = Roles.load(path)
    return roles


def load_roles(path: Path, specs: Iterable[TableSpec], labels: Labels, tenants: Iterable[str]) -> Roles:
    """Read the declarations and hold them against tables, labels and tenants. Raises ConfigError."""
    roles = read_roles(path)
    for place, sentence in roles.faults(specs, labels, tenants):
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return roles
