"""Consent as it is declared, in `consent.yaml`: which purposes need it, and which events say that it is given or withdrawn.

An event says it for whoever it is about: its user, else its device, else its session. Declarations, and the SQL that reads
statements from events; who that is once people are stitched, and what follows, stands in `withheld`.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from analytics_assets.privacy.keys import pointer
from analytics_assets.privacy.taxonomy import EVERY_SOURCE, Fault, fides_names
from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml
from analytics_assets.warehouse.spec import Column, TableSpec, identifier, literal

FILE = "consent.yaml"
Mode = Literal["opt_out", "opt_in"]
# Whom an event is about, as it was sent.
KIND = "case when user_id is not null then 'user' when anonymous_id is not null then 'device' else 'session' end"
ID = "coalesce(user_id, anonymous_id, session_id)"
_PATH = re.compile(r"(properties|context)(\.[^.]+)+")

CONSENT_STATEMENTS = TableSpec(
    name="consent_statements",
    comment="One row an id and purpose: the latest that an event of it said about consent.",
    columns=(
        Column("tenant_id", "VARCHAR", "Tenant."),
        Column("kind", "VARCHAR", "user, device or session: what the id names."),
        Column("id", "VARCHAR", "User, else device, else session of the event."),
        Column("purpose", "VARCHAR", "Declared purpose."),
        Column("granted", "BOOLEAN", "Whether consent was granted, else withdrawn."),
        Column("said_at", "TIMESTAMP", "Time of the event (UTC)."),
    ),
    time_column=None,
    order_by=("tenant_id", "id"),
)


class Statement(Declared):
    """Events that say something about consent."""

    event: str | None = Field(None, min_length=1, description="Name of the event; any, if left out.")
    where: dict[str, tuple[str, ...]] = Field({}, description="Path to the values of which the event has one there.")
    says: Literal["granted", "withdrawn", "choices"] = Field(description="What it says of the purposes at `names`.")
    names: str | None = Field(
        None, description="Path of a list of purposes; of choices, an object of purpose to true or false."
    )
    others: Literal["withdrawn"] | None = Field(None, description="What it says of purposes that are not listed.")

    @field_validator("names")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        return _confirm_path(value) if value is not None else None

    @field_validator("where")
    @classmethod
    def _paths(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {_confirm_path(path): values for path, values in value.items()}

    @model_validator(mode="after")
    def _says_enough(self) -> "Statement":
        if self.names is None and self.says != "withdrawn":
            raise ValueError("say under `names` where the purposes stand")
        if self.says != "choices" and self.event is None and not self.where:
            raise ValueError("every event would say this; name the `event`, or what it has under `where`")
        if self.others and self.says != "granted":
            raise ValueError("`others` goes with `says: granted` alone; remove it")
        return self


def _confirm_path(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError(f"'{path}' is no path; write properties or context, and keys with dots between")
    return path


class Consent(Declared):
    """The file."""

    default: Mode = Field("opt_out", description="Whether a person is in before anything was said.")
    tenants: dict[str, Mode] = Field({}, description="Tenants that differ.")
    # Without these two nobody would be withheld: a file that was emptied by mistake must not bring people back.
    purposes: dict[str, tuple[str, ...]] = Field(description="Purpose, as Fides names the use, and what senders call it.")
    statements: dict[str, tuple[Statement, ...]] = Field(description="By source, which events say what.")

    @field_validator("purposes")
    @classmethod
    def _known(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for purpose in value:
            if purpose not in fides_names()["uses"]:
                raise ValueError(f"Fides has no use '{purpose}'; take a name of privacy/fides.yaml")
        return value

    def called(self, purpose: str) -> list[str]:
        """All names of a purpose, in lower case."""
        return sorted({name.lower() for name in (purpose, *self.purposes[purpose])})

    def ruling(self, purpose: str) -> tuple[str, ...]:
        """The declared purposes that must not be refused for a table of `purpose`: itself, and those above it."""
        return tuple(sorted(one for one in self.purposes if f"{purpose}.".startswith(f"{one}.")))

    def opt_in(self, tenants: Iterable[str]) -> tuple[str, ...]:
        """Those of the tenants in which nobody is in before they said so."""
        return tuple(sorted(tenant for tenant in tenants if self.tenants.get(tenant, self.default) == "opt_in"))

    def faults(self, tenants: Iterable[str], sources: Iterable[str]) -> Iterator[Fault]:
        """(place, sentence) of what does not fit the declared tenants and sources."""
        for tenant in self.tenants.keys() - set(tenants):
            yield ("tenants", tenant), f"'{tenant}' is no declared tenant; correct it"
        for source in self.statements.keys() - {*sources, EVERY_SOURCE}:
            yield ("statements", source), f"there is no source '{source}'; declared are {', '.join(sorted(sources))}"


def load_consent(path: Path, tenants: Iterable[str], sources: Iterable[str]) -> Consent:
    """Read the declarations and hold them against tenants and sources. Raises ConfigError."""
    consent: Consent = Consent.load(path)
    for place, sentence in consent.faults(tenants, list(sources)):
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return consent


def statements(consent: Consent, events: str) -> str:
    """A SELECT of rows of `consent_statements`, the latest of each id and purpose, of the events of a SELECT."""
    said = [_said(consent, one, source, events) for source, all_of_it in consent.statements.items() for one in all_of_it]
    return latest(" union all ".join(said) if said and consent.purposes else CONSENT_STATEMENTS.empty_select)


def first_that_speaks(consent: Consent, events: str) -> str:
    """A SELECT of one row if any event of a SELECT may say something about consent: most deliveries have none."""
    each = [_fits(one, source) for source, all_of_it in consent.statements.items() for one in all_of_it]
    return f"select 1 from ({events}) where {' or '.join(each) or 'false'} limit 1"


def latest(said: str) -> str:
    """A SELECT of the statements of a SELECT that count: of each id and purpose the latest, at one time the withdrawal."""
    return (
        "select tenant_id, kind, id, purpose, arg_max(granted, (said_at, not granted)) as granted, max(said_at) as said_at "
        f"from ({said}) group by tenant_id, kind, id, purpose"
    )


def outlived(known: str, events: str) -> str:
    """Of known statements (a SELECT) those whose event has aged out: older than all of their tenant, by an id that has events.

    A person who withdrew does not come back because the withdrawal is old; of an id without events nothing is kept.
    """
    return f"""
        select s.* from ({known}) s
        join (select tenant_id, min(timestamp) as first from ({events}) group by 1) oldest using (tenant_id)
        semi join (select distinct tenant_id, {KIND} as kind, {ID} as id from ({events})) ids
            on ids.tenant_id = s.tenant_id and ids.kind = s.kind and ids.id = s.id
        where s.said_at < oldest.first
    """


def _said(consent: Consent, one: Statement, source: str, events: str) -> str:
    """What the events that fit say, purpose by purpose.

    Each way in which an id says something is taken apart once, since senders repeat it on every event.
    """
    names = _json(one.names) if one.names else "null"
    known = ", ".join(
        f"({literal(purpose)}, [{', '.join(map(literal, consent.called(purpose)))}])" for purpose in consent.purposes
    )
    yes, no, rest = _answers(consent, one)
    return f"""
        select tenant_id, kind, id, purpose, said_at, case
            when list_has_any({no}, names) then false when list_has_any({yes}, names) then true when {rest} then false
            end as granted
        from (
            select tenant_id, {KIND} as kind, {ID} as id, lower({names}::varchar) as said, max(timestamp) as said_at
            from ({events}) where {_fits(one, source)} group by all
        ), (values {known}) as known(purpose, names)
        where granted is not null
    """


def _fits(one: Statement, source: str) -> str:
    """The condition of events that say this."""
    conditions = [f"{ID} is not null"]
    if source != EVERY_SOURCE:
        conditions.append(f"source = {literal(source)}")
    if one.event is not None:
        conditions.append(f"event = {literal(one.event)}")
    if one.says == "choices" and one.names:
        # To look for a word costs a tenth of reading the object.
        column, _, path = one.names.partition(".")
        conditions.append(f"contains({identifier(column)}, {literal(path.split('.')[-1])})")
    for path, values in one.where.items():
        conditions.append(f"{_json(path)} ->> '$' in ({', '.join(map(literal, values)) or 'null'})")
    return f"({' and '.join(conditions)})"


def _answers(consent: Consent, one: Statement) -> tuple[str, str, str]:
    """SQL over `said`: lists of the names that are granted and that are withdrawn, and whether all others are withdrawn."""
    if one.says == "choices":
        called = sorted({name for purpose in consent.purposes for name in consent.called(purpose)})
        chosen = {name: f"json_extract_string(said, {literal(pointer(name))})" for name in called}
        # What is not clearly true is no consent.
        yes = ", ".join(f"case when {value} = 'true' then {literal(name)} end" for name, value in chosen.items())
        no = ", ".join(f"case when {value} <> 'true' then {literal(name)} end" for name, value in chosen.items())
        return f"[{yes}]", f"[{no}]", "false"
    alone = "case when json_type(said) = 'VARCHAR' then [said ->> '$'] end"
    listed, none = f"""coalesce(json_transform(said, '["VARCHAR"]'), {alone})""", "[]::varchar[]"
    if one.says == "withdrawn":
        return none, f"coalesce({listed}, {none})", f"{listed} is null"
    return f"coalesce({listed}, {none})", none, "true" if one.others else "false"


def _json(path: str) -> str:
    column, _, keys = path.partition(".")
    return f"json_extract({identifier(column)}, {literal(''.join(map(pointer, keys.split('.'))))})"
