"""Typed settings: where the data home lies, and what the files under `config/` declare.

Everything is validated when it is loaded; a wrong line is one sentence with file, line and cure. Reads declarations only,
never data.
"""

import os
import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

CONFIG = Path(__file__).parent / "config"
PROJECT = Path(__file__).parent.parent
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class UserError(Exception):
    """An error that a person can act on: one line, no traceback unless asked for."""


class Denied(UserError):
    """Somebody asked for what they may not get or do; the message says what they may."""


class ConfigError(UserError):
    """A declaration is wrong; the message names file, line and cure."""


# What to do about it, by the kind of error that pydantic names; `%s` is what it says.
_CURES = {
    "missing": "%s; add it",
    "extra_forbidden": "%s; correct its name, or remove it",
    "dict_type": "Input should be names with their values, as `name: value`",
    "model_type": "Input should be names with their values, as `name: value`",
    "tuple_type": "Input should be a list, as [one, another]",
    "string_type": "%s: put it in quotes if it looks like something else",
}
# How pydantic calls the ways of which one must fit: they stand in no file.
_WAYS = re.compile(r"(literal|tuple|dict|list|str|int|bool|function)\b.*\[.*\]|\[key\]")


class _Lines(yaml.CSafeLoader):
    """A YAML loader that refuses doubled keys, which YAML would silently merge, and says where a value is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (TypeError, ValueError) as error:
            # Such as the 30th of February.
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


def _mapping(loader: _Lines, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Any] = set()
    loader.flatten_mapping(node)
    for key, _ in node.value:
        name = loader.construct_object(key)
        if not isinstance(name, Hashable):
            raise yaml.MarkedYAMLError(problem="a name is a text; put it in quotes", problem_mark=key.start_mark)
        if name in seen:
            raise yaml.MarkedYAMLError(problem=f"'{name}' is declared twice; keep one", problem_mark=key.start_mark)
        seen.add(name)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Lines.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> tuple[Any, yaml.Node | None]:
    """The content of a YAML file and its node tree, from which `line_of` finds lines. Raises ConfigError."""
    try:
        loader = _Lines(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # Our own say what to do; YAML's say what it could not read.
        cure = "" if type(error) is yaml.MarkedYAMLError else "; this is no YAML, so mend the line's spaces, quotes or brackets"
        raise ConfigError(f"{path.name}:{line}: {error.problem}{cure}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path.name}:1: cannot be read ({error.__class__.__name__}); restore the file") from None


def line_of(node: yaml.Node | None, location: tuple[Any, ...]) -> int:
    """The line (from 1) of the deepest part of `location` that stands in the file."""
    line = node.start_mark.line + 1 if node else 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


class Declared(BaseModel):
    """Base of everything declared in YAML: no unknown keys, no change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path, **extra: Any) -> Any:
        """Read and validate one file. Raises ConfigError with file, line and cure."""
        content, node = read_yaml(path)
        if content is not None and not isinstance(content, dict):
            raise ConfigError(f"{path.name}:1: is no list of names with their values; begin with `name:`")
        try:
            return cls.model_validate({**(content or {}), **extra})
        except ValidationError as error:
            place, sentence = _first(error)
            where = ".".join(map(str, place)) or "file"
            raise ConfigError(f"{path.name}:{line_of(node, place)}: {where}: {sentence}") from None


def _first(error: ValidationError) -> tuple[tuple[Any, ...], str]:
    """The first place at fault, and what is wrong there and what to do. Of ways of which one must fit, all that do not."""
    found = [
        (tuple(step for step in one["loc"] if not _WAYS.fullmatch(str(step))), one) for one in error.errors(include_url=False)
    ]
    place = max((place for place, _ in found if place[: len(found[0][0])] == found[0][0]), key=len)
    # As it was judged in the way that came furthest.
    said = [one for where, one in found if where == place]
    told = (_CURES.get(one["type"], "%s").replace("%s", one["msg"].removeprefix("Value error, ")) for one in said)
    return place, ", or ".join(dict.fromkeys(told))


class Tenant(Declared):
    """A customer of the platform whose events are kept apart from everybody else's."""

    id: str = Field(description="Slug: lower case letters, digits and hyphens.")
    source: str = Field("segment", description="Source of the files in the tenant's landing folder.")
    pseudonyms: bool = Field(True, description="Whether its identifiers are replaced by keyed digests before they are stored.")

    @field_validator("id")
    @classmethod
    def _slug(cls, value: str) -> str:
        if not SLUG.fullmatch(value):
            raise ValueError(f"'{value}' is no tenant slug; use at most 63 lower case letters, digits and hyphens")
        return value


class Tenants(Declared):
    tenants: tuple[Tenant, ...]

    @field_validator("tenants")
    @classmethod
    def _once(cls, value: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
        names = [tenant.id for tenant in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tenant '{name}' is declared twice; keep one")
        return value


class EventLimits(Declared):
    """What an event may not exceed; beyond it the event is rejected with the reason."""

    earliest: str = Field("2010-01-01", description="First day (UTC) an event may carry; the first daily partition.")
    future_hours: int = Field(24, ge=0, le=24 * 30, description="Hours an event may lie ahead of its receipt.")
    id_characters: int = Field(255, ge=16, le=4096, description="Longest message, user, device or session id.")
    text_characters: int = Field(4096, ge=16, le=65_536, description="Longest address, title, campaign, region or product.")
    properties_bytes: int = Field(32_768, ge=256, le=1_048_576, description="Largest properties or context, in bytes.")
    property_keys: int = Field(200, ge=1, le=10_000, description="Most property keys on one event.")
    largest_amount: int = Field(
        100_000_000, ge=1, le=10_000_000_000, description="Largest revenue or quantity of one event, either sign."
    )


class SessionRules(Declared):
    """What makes a session."""

    inactivity_minutes: int = Field(30, ge=1, le=24 * 60, description="Silence that ends a session.")
    longest_hours: int = Field(72, ge=1, le=24 * 14, description="What a session holds beyond this is set aside as runaway.")
    most_events: int = Field(10_000, ge=10, le=10_000_000, description="A session with more is set aside as runaway.")


class StorageRules(Declared):
    """How tables lie on disk and how long versions stay."""

    dense_day_rows: int = Field(
        50_000, ge=1, description="A day with as many rows gets files of its own; thinner days share a file a month."
    )
    sorted_from_rows: int = Field(
        1_000_000, ge=1, description="Files from this size are ordered when written; smaller ones when compacted."
    )
    compact_after_days: int = Field(2, ge=1, le=365, description="Days after which a day counts as closed.")
    keep_versions: int = Field(5, ge=2, le=1000, description="Published versions kept for rollback and open readers.")
    keep_backups: int = Field(7, ge=2, le=1000, description="Backups of this data home that are kept; each is a whole copy.")
    run_log_days: int = Field(
        90, ge=14, le=3650, description="Days after which Dagster's log of a run goes; telemetry has read it by then."
    )
    memory_mb: int = Field(512, ge=128, le=1_048_576, description="DuckDB memory of one step, in MB; more spills to disk.")
    threads: int = Field(2, ge=1, le=256, description="DuckDB threads of one step.")

    @property
    def config_source(self) -> str:
        """Where the memory and threads of a step come from."""
        return "limits.yaml" if {"memory_mb", "threads"} & self.model_fields_set else "default"


class Incident(Declared):
    """Days of a tenant on which a check's failure holds up no publish, since a person has looked at it.

    `kind` incident: the data are at fault, and nothing is learned from them. normal: they are right, and are learned from.
    """

    tenant: str | None = Field(None, description="Tenant, or source of a batch; all, if left out.")
    first: date = Field(description="First day (UTC).")
    last: date = Field(description="Last day (UTC), included.")
    kind: Literal["incident", "normal"] = Field(description="Whether the data are at fault, or only looked so.")
    reason: str = Field(min_length=3, description="What happened, for those who come later.")

    @model_validator(mode="after")
    def _in_order(self) -> "Incident":
        if self.last < self.first:
            raise ValueError(f"it ends on {self.last}, before it begins; swap first and last")
        return self

    def covers(self, tenant: str | None, day: date) -> bool:
        return self.first <= day <= self.last and (self.tenant is None or self.tenant == tenant)


class Incidents(Declared):
    incidents: tuple[Incident, ...] = ()


class Limits(Declared):
    events: EventLimits = EventLimits()
    sessions: SessionRules = SessionRules()
    storage: StorageRules = StorageRules()


@dataclass(frozen=True)
class Settings:
    """The data home and the declarations, loaded once and passed down.

    `config` is the folder of declarations; `home` the data home (see `Home`).
    """

    home: Path
    config: Path = CONFIG

    @classmethod
    def from_env(cls) -> "Settings":
        """`ANALYTICS_HOME` moves the data home, `ANALYTICS_CONFIG` the declarations."""
        home = os.environ.get("ANALYTICS_HOME") or PROJECT / "data"
        config = os.environ.get("ANALYTICS_CONFIG") or CONFIG
        return cls(Path(home).expanduser().resolve(), Path(config).expanduser().resolve())

    @cached_property
    def tenants(self) -> dict[str, Tenant]:
        declared: Tenants = Tenants.load(self.config / "tenants.yaml")
        return {tenant.id: tenant for tenant in declared.tenants}

    @cached_property
    def limits(self) -> Limits:
        return Limits.load(self.config / "limits.yaml")

    def confirm_tenant(self, tenant: str | None) -> None:
        """Raise UserError for a tenant that is not declared."""
        if tenant is not None and tenant not in self.tenants:
            raise UserError(f"tenant '{tenant}' is not declared; add it to {self.config / 'tenants.yaml'}")

    @property
    def keys(self) -> Path:
        """Folder of keys and of what must not be changed along with the data home, outside of it. Raises ConfigError.

        `ANALYTICS_KEYS` names it; else it lies among the user's own settings.
        """
        named = os.environ.get("ANALYTICS_KEYS")
        try:
            own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "analytics_assets" / "keys"
            folder = (Path(named).expanduser() if named else own).resolve()
        except RuntimeError:
            raise ConfigError("this user has no home folder to keep keys in; name a folder in ANALYTICS_KEYS") from None
        if folder.is_relative_to(self.home.resolve()):
            raise ConfigError(f"keys must not lie in the data home, where {folder} is; name another folder in ANALYTICS_KEYS")
        return folder

    @property
    def backups(self) -> Path:
        """Folder of backups, which `ANALYTICS_BACKUPS` names: apart from what they are of. Raises ConfigError."""
        named = os.environ.get("ANALYTICS_BACKUPS")
        if not named:
            raise ConfigError("no place for backups is named; name a folder in ANALYTICS_BACKUPS, best on another disk")
        folder, home = Path(named).expanduser().resolve(), self.home.resolve()
        for what, other in (("the data home", home), ("the folder of keys", self.keys)):
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise ConfigError(f"backups must lie apart from {what}, {other}; name another folder in ANALYTICS_BACKUPS")
        return folder

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Read anew each time: a person declares one while a process waits. Raises ConfigError, also without the file."""
        path = self.config / "incidents.yaml"
        declared: Incidents = Incidents.load(path)
        known = {*self.tenants, *(source.stem for source in (self.config / "sources").glob("*.yaml"))}
        for n, incident in enumerate(declared.incidents):
            if incident.tenant is not None and incident.tenant not in known:
                line = line_of(read_yaml(path)[1], ("incidents", n, "tenant"))
                raise ConfigError(f"{path.name}:{line}: '{incident.tenant}' is no declared tenant or source; correct it")
        return declared.incidents

    @property
    def inactivity(self) -> timedelta:
        return timedelta(minutes=self.limits.sessions.inactivity_minutes)
