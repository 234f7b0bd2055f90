"""Who may use which commands: `zones.yaml`, typed and bounded, and the decision about one command.

A user of the machine is in one zone. What a person or a script says beside that narrows: a command may be used if all zones
that are named allow it. Declarations and a pure function; the command line asks it.
"""

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from analytics_assets.privacy.taxonomy import Fault
from analytics_assets.settings import SLUG, ConfigError, Declared, Denied, UserError, line_of, read_yaml

Declarations = Callable[[], Collection[str]]
"""Names that another file declares, which is read only if one is named here: a fault in it holds up no other command."""


class Zone(Declared):
    """A kind of user, and the commands that it may use: words behind `analytics`, such as `quality aside`."""

    purpose: str = Field(min_length=10, description="Who they are, in a sentence.")
    commands: Literal["all"] | tuple[str, ...] = Field(description="Commands that it may use, or all.")
    one_tenant: bool = Field(False, description="Whether each command must name the tenant that it is about.")
    roles: Literal["all"] | tuple[str, ...] = Field("all", description="Roles of roles.yaml for which it may export, or all.")

    def allows(self, command: str) -> bool:
        return self.commands == "all" or command in self.commands


class User(Declared):
    """A user of the machine."""

    zone: str = Field(description="Zone of the user.")
    tenants: Literal["all"] | tuple[str, ...] = Field("all", description="Tenants whose data it may ask about, or all.")


class Zones(Declared):
    """The file."""

    zones: dict[str, Zone] = Field(min_length=1)
    users: dict[str, User] = Field({}, description="By the name of the machine's user.")
    everybody_else: str = Field(description="Zone of a user who is not declared.")

    @field_validator("zones")
    @classmethod
    def _slugs(cls, value: dict[str, Zone]) -> dict[str, Zone]:
        for name in value:
            if not SLUG.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a zone; use at most 63 lower case letters, digits and hyphens")
        return value

    def user(self, name: str) -> User:
        return self.users.get(name) or User(zone=self.everybody_else)

    def faults(self, commands: Collection[str], tenants: Declarations, roles: Declarations) -> Iterator[Fault]:
        """(place, sentence) of what does not fit the commands that there are, the zones, the declared tenants and roles."""
        for name, zone in self.zones.items():
            for command in () if zone.commands == "all" else zone.commands:
                if command not in commands:
                    yield ("zones", name, "commands"), f"there is no command '{command}'{_nearest(command, commands)}"
            for role in () if zone.roles == "all" else zone.roles:
                if role not in roles():
                    yield ("zones", name, "roles"), f"there is no role '{role}' in roles.yaml{_nearest(role, roles())}"
        placed: list[tuple[tuple[str, ...], str]] = [(("users", who), user.zone) for who, user in self.users.items()]
        for place, named in [(("everybody_else",), self.everybody_else), *placed]:
            if named not in self.zones:
                yield place, f"there is no zone '{named}'{_nearest(named, self.zones)}"
        for who, user in self.users.items():
            for tenant in () if user.tenants == "all" else user.tenants:
                if tenant not in tenants():
                    yield ("users", who, "tenants"), f"there is no tenant '{tenant}'; add it to tenants.yaml or take it out"


@dataclass(frozen=True)
class Acting:
    """Who asks: a user of the machine, and the zones to which that is `narrowed` beside the user's own."""

    user: str
    narrowed: tuple[str, ...] = ()

    def within(self, zones: Zones) -> tuple[str, ...]:
        """All zones that must allow a command, the user's own first. Raises UserError for one that is not declared."""
        for name in self.narrowed:
            if name not in zones.zones:
                raise UserError(f"there is no zone '{name}' in zones.yaml{_nearest(name, zones.zones)}")
        return tuple(dict.fromkeys((zones.user(self.user).zone, *self.narrowed)))


def confirm(zones: Zones, acting: Acting, command: str, tenant: str | None, role: str | None = None) -> None:
    """Raise Denied if somebody may not use a command about a tenant, for a role (None: the command names none)."""
    for name in acting.within(zones):
        zone = zones.zones[name]
        if not zone.allows(command):
            raise Denied(f"zone '{name}' may not use `analytics {command}`; it may use {', '.join(zone.commands) or 'nothing'}")
        if zone.one_tenant and tenant is None:
            raise Denied(f"zone '{name}' may use `analytics {command}` for one tenant only; name it by --tenant")
        if role is not None and zone.roles != "all" and role not in zone.roles:
            raise Denied(f"zone '{name}' may not ask for role '{role}'; it may ask for {', '.join(zone.roles) or 'none'}")
    tenants = zones.user(acting.user).tenants
    if tenants != "all" and tenant not in tenants:
        said = f"not ask about tenant '{tenant}'" if tenant else f"use `analytics {command}` for one tenant only"
        raise Denied(f"user '{acting.user}' may {said}; name one of {', '.join(tenants) or 'none'} by --tenant")


def load_zones(path: Path, commands: Collection[str], tenants: Declarations, roles: Declarations) -> Zones:
    """Read the declarations and hold them against commands, tenants and roles. Raises ConfigError."""
    zones: Zones = Zones.load(path)
    for place, sentence in zones.faults(commands, tenants, roles):
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return zones


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
