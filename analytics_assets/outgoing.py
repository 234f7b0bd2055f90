"""Brings the published events, with who was behind each, to `privacy/`: what leaves the house by role, as answers and as files.

Always of the version that readers get, also after a rollback, so that answers, files and the full file fit together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path

from analytics_assets.audit.log import Audit
from analytics_assets.events.schema import EVENTS, SOURCE_COLUMNS
from analytics_assets.freshness.tables import TIME_TO_INSIGHT
from analytics_assets.labelling import FACTS, load_labels
from analytics_assets.privacy.egress import Egress
from analytics_assets.privacy.role_files import Kept, Leaving, RoleFiles, folder
from analytics_assets.privacy.roles import DIMENSIONS, Roles, load_roles, read_roles
from analytics_assets.privacy.withheld import CONSENT_EXCEPTIONS, shown_of
from analytics_assets.sessions.build import resolved_identities, stitched
from analytics_assets.sessions.tables import IDENTITIES
from analytics_assets.settings import Settings, UserError
from analytics_assets.shown import published
from analytics_assets.warehouse.connect import connection
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import PUBLISH_LOCK, Publication, current_version, history, version_path
from analytics_assets.warehouse.spec import TableSpec, literal
from analytics_assets.warehouse.table import Snapshot, Table

_TIMES = {"month": "strftime(timestamp, '%Y-%m')", "day": "strftime(timestamp, '%Y-%m-%d')"}
_ANSWERED_FROM = (EVENTS, IDENTITIES, CONSENT_EXCEPTIONS)
_PERSON = "coalesce(user_id, 'device:' || anonymous_id)"
_WHOLE = ("tenant_id", "user_id", "anonymous_id", "session_id", "properties", "context")
# Texts in events that are masked in rows of persons where few people have them, if their labels ask for it.
TEXTS = tuple(one.name for one in SOURCE_COLUMNS if one.type == "VARCHAR" and one.name not in _WHOLE)
_READ = ("tenant_id", "user_id", "anonymous_id", *dict.fromkeys(DIMENSIONS.values()), "quantity", "revenue")


class RoleFilesFailed(UserError):
    """The version is published, but files of roles are not of it; the message names them and what to do."""


def declared_roles(settings: Settings, specs: Sequence[TableSpec]) -> Roles:
    """What roles may get, held against tables, labels and tenants. Raises ConfigError."""
    labels = load_labels(settings, specs)
    return load_roles(settings.config / "roles.yaml", _tables(), labels, settings.tenants)


def confirm_roles(settings: Settings, specs: Sequence[TableSpec]) -> None:
    """Raise ConfigError before a version is published whose files for roles could not be made as declared."""
    if any(role.file for role in read_roles(settings.config / "roles.yaml").roles.values()):
        declared_roles(settings, specs)


@contextmanager
def egress(settings: Settings, roles: Roles, table: Callable[[TableSpec], Table]) -> Iterator[Egress]:
    """Answers from the version that readers get. Raises UserError if there is none, or its events are gone."""
    home, storage = Home(settings.home), settings.limits.storage
    shown = shown_publication(home)
    # The last day that may be told.
    last = shown.published_at.date() - timedelta(days=roles.egress.settled_days)
    with connection(home, memory_mb=storage.memory_mb, threads=storage.threads) as con:

        def rows(tenant: str) -> str:
            events, identities, exceptions = (_whole(table(spec), shown) for spec in _ANSWERED_FROM)
            return people_rows(shown_of(events.select(), exceptions), identities.select(), tenant, last)

        def texts(tenant: str) -> str:
            events, identities, exceptions = (_whole(table(spec), shown) for spec in _ANSWERED_FROM)
            return people_texts(shown_of(events.select(), exceptions), identities.select(), tenant)

        yield Egress(con, roles, rows, shown.version, texts)


def people_rows(events: str, identities: str, tenant: str, last: date) -> str:
    """A SELECT of a tenant's events up to a day, as `suppress.partition` wants them.

    A person is the stitched user, else the device; an event of neither is nobody's, since how many they are is not known.
    """
    stitched_rows = _of_tenant(events, identities, tenant, _READ, f"timestamp < date '{last}' + 1")
    dimensions = ", ".join(f"coalesce({_TIMES.get(name, name)}, '') as {name}" for name in DIMENSIONS)
    return f"""
        select {_PERSON} as person, {dimensions}, 1 as events,
            coalesce(quantity, 0) as quantity, coalesce(revenue, 0) as revenue
        from ({stitched_rows})
    """


def people_texts(events: str, identities: str, tenant: str) -> str:
    """A SELECT of the texts in a tenant's events, with `person` as in `people_rows`."""
    rows = _of_tenant(events, identities, tenant, ("tenant_id", "user_id", "anonymous_id", *TEXTS), "true")
    return f"select {_PERSON} as person, {', '.join(TEXTS)} from ({rows})"


def _of_tenant(events: str, identities: str, tenant: str, columns: Sequence[str], where: str) -> str:
    of_tenant = f"tenant_id = {literal(tenant)}"
    # What is of other tenants is not even joined.
    chosen = f"select {', '.join(columns)} from ({events}) where {of_tenant} and {where}"
    known = f"select * from ({resolved_identities(identities)}) where {of_tenant}"
    return stitched(chosen, known, columns)


def keep_role_files(
    settings: Settings, specs: Sequence[TableSpec], table: Callable[[TableSpec], Table],
    progress: Callable[[str], None] = lambda name: None, log: Audit | None = None,
) -> Kept:  # fmt: skip
    """Bring the files of roles to the version that readers get; each is recorded in `log`. Raises RoleFilesFailed, ConfigError.

    Costs nothing where no role has a file, and no file is left of one that had.
    """
    home = Home(settings.home)
    if not any(role.file for role in read_roles(settings.config / "roles.yaml").roles.values()) and not folder(home).exists():
        return Kept((), (), ())
    roles, labels = declared_roles(settings, specs), load_labels(settings, specs)

    def record(file: Leaving) -> None:
        said = {name: value for name, value in vars(file).items() if name not in ("tenant", "tables")}
        (log or Audit(settings)).record("role_file", tenant=file.tenant, tables=file.tables, details=said)

    files = RoleFiles(home, roles, _tables(), labels, list(settings.tenants), TEXTS, record, settings.limits.storage.memory_mb)
    with home.lock(PUBLISH_LOCK), egress(settings, roles, table) as answers:
        version = shown_publication(home).version
        kept = files.keep(version_path(home, version), version, answers, progress)
    if kept.failed:
        more = f" and {len(kept.failed) - 1} more" if len(kept.failed) > 1 else ""
        raise RoleFilesFailed(
            f"version {version} is published, but the file of role {kept.failed[0]}{more} could not be made and is as it was "
            "before; mend that and run `analytics publish`"
        )
    return kept


def shown_publication(home: Home) -> Publication:
    """The version that readers get, when it was first published, and what it was made of. Raises UserError."""
    version = current_version(home)
    if version is None:
        raise UserError("nothing is published yet; run `analytics demo` or `analytics ingest` first")
    found = _recorded(home, version)
    if found is None:
        raise UserError(f"version {version} was published by a run that was killed; run `analytics publish`, then again")
    return found


def answered_from(home: Home) -> dict[str, int]:
    """The tables that answers are made from, each with the version that readers get: a sweep leaves these."""
    version = current_version(home)
    shown = _recorded(home, version) if version is not None else None
    versions = shown.table_versions if shown else {}
    return {spec.name: versions[spec.name] for spec in _ANSWERED_FROM if spec.name in versions}


def _recorded(home: Home, version: int) -> Publication | None:
    """What the history says of a version; nothing if the process was killed that published it."""
    entries = [entry for entry in history(home) if entry["action"] == "publish" and entry["version"] == version]
    if not entries:
        return None
    return Publication(version, datetime.fromisoformat(entries[-1]["published_at"]), entries[-1]["table_versions"])


def _whole(table: Table, shown: Publication) -> Snapshot:
    """A table as the version shows it. Raises UserError if files of it are gone."""
    from deltalake.exceptions import DeltaError

    try:
        snapshot = table.snapshot(shown.table_versions[table.spec.name])
    except (DeltaError, KeyError):
        snapshot = None
    if snapshot is None or not all(Path(file.path).exists() for file in snapshot.files):
        raise UserError(f"what version {shown.version} was made of is not kept any more; run `analytics publish`, then again")
    return snapshot


def _tables() -> list[TableSpec]:
    """What a published version may hold."""
    return [*published(), TIME_TO_INSIGHT, *FACTS]
