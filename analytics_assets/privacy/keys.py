"""Keys that senders fill with anything: those without a label wait, hidden from readers, and are found by name.

The raw events keep every key. Readers get a JSON object without the keys that its source has no label for: as it came where
all have one, else put together again from those that do. DuckDB 1.0 must read that, so it does without lambdas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from json import dumps

import duckdb

from analytics_assets.privacy.labels import Labels
from analytics_assets.privacy.taxonomy import EVERY_SOURCE
from analytics_assets.warehouse.spec import identifier, literal


@dataclass(frozen=True)
class Waiting:
    """A key of a tenant's events that waits for a label. `(other)` stands for those past the limit of `properties_daily`."""

    tenant: str
    event: str | None
    key: str
    events: int
    first: date


def waiting(
    con: duckdb.DuckDBPyConnection, properties_daily: str, batches: str, labels: Labels, sources: Sequence[str]
) -> list[Waiting]:
    """Keys of `properties` without a label, the most frequent first. Both tables are SELECTs."""
    of_tenant: dict[str, set[str]] = {}
    told = "select distinct source, unnest(json_keys(events_by_tenant)) as tenant from ({}) where events > 0"
    for source, tenant in con.execute(told.format(batches)).fetchall():
        of_tenant.setdefault(tenant, set()).add(source)
    # An old batch does not tell whose its events were.
    untold = f"select distinct source from ({batches}) where events > 0 and events_by_tenant is null"
    anyone = {source for (source,) in con.execute(untold).fetchall()}
    known = {source: set(labels.shown_keys("properties", source)) for source in (*sources, EVERY_SOURCE)}
    counted = con.execute(
        "select tenant_id, event, property, quarantined, sum(events)::bigint, min(date) "
        f"from ({properties_daily}) group by all order by 5 desc, 1, 2, 3"
    ).fetchall()

    def waits(tenant: str, key: str) -> bool:
        # A tenant of which no batch tells anything has only the keys that every source may send.
        of_it = (of_tenant.get(tenant, set()) | anyone) or {EVERY_SOURCE}
        return any(key not in known.get(source, known[EVERY_SOURCE]) for source in of_it)

    return [
        Waiting(tenant, event, key, events, first)
        for tenant, event, key, quarantined, events, first in counted
        if quarantined or waits(tenant, key)
    ]


def shown(column: str, labels: Labels, sources: Sequence[str], tenants: Sequence[str] | None = None) -> str:
    """SQL of a JSON column of `events` without the keys that have no label; of all `tenants`, or of those named."""
    keys = {source: labels.shown_keys(column, source) for source in (*sources, EVERY_SOURCE)}
    name = identifier(column)
    known = _by_source({source: _names(known) for source, known in keys.items()})
    again = _by_source({source: _only(name, known) for source, known in keys.items()})
    others = "" if tenants is None else f"tenant_id not in ({', '.join(map(literal, tenants))}) or "
    return f"case when {name} is null or {others}list_has_all({known}, json_keys({name})) then {name} else {again} end"


def _by_source(values: Mapping[str, str]) -> str:
    cases = " ".join(f"when {literal(name)} then {sql}" for name, sql in values.items() if name != EVERY_SOURCE)
    return f"case source {cases} else {values[EVERY_SOURCE]} end"


def _names(keys: Sequence[str]) -> str:
    return f"[{', '.join(map(literal, keys))}]::varchar[]"


def _only(column: str, keys: Sequence[str]) -> str:
    """The object with these keys alone, their values as they came."""
    members = [f"{literal(dumps(key) + ':')} || json_extract({column}, {literal(_pointer(key))})::varchar" for key in keys]
    return f"'{{' || concat_ws(',', {', '.join(members)}) || '}}'" if members else "'{}'"


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")
