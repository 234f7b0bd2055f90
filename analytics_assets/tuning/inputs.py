"""What a tenant's day is like, for sizing: from the rollups and sessions of a day, never from its events.

SQL over relations and no files: which days are counted anew, and what of each. Kept by `capacity`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from analytics_assets.tuning.capacity_tables import CAPACITY_INPUTS
from analytics_assets.warehouse.spec import literal


@dataclass(frozen=True)
class Declared:
    """What is declared of a tenant: its segment, and for how many days its events are kept (None: for ever)."""

    segment: str
    kept_days: int | None


@dataclass(frozen=True)
class Relations:
    """SELECTs to count a day from: `events_hourly`, `properties_daily`, `sessions` (stitched), `users` and `built_days`."""

    hours: str
    properties: str
    sessions: str
    users: str
    built: str


def behind(counted: str, hours: str, built: str) -> str:
    """A SELECT of the days (date) to count anew: built since they were counted, or with other events than were counted.

    A day is built again from the same version of events where its readers see others of them, for want of consent.
    """
    return (
        f"with known as (select date, tenant_id, sum(events) as events, max(events_version) as version from ({counted}) "
        f"group by all), now as (select date, tenant_id, sum(events) as events from ({hours}) group by all) "
        "select distinct date from now full join known using (date, tenant_id) left join "
        f"({built}) as built using (date) where now.events is distinct from known.events "
        "or built.events_version is distinct from known.version"
    )


def inputs(of: Relations, declared: Mapping[str, Declared]) -> str:
    """A SELECT of `capacity_inputs` of the days that these relations hold."""
    tenants = ", ".join(
        f"({literal(name)}, {literal(one.segment)}, {'null' if one.kept_days is None else int(one.kept_days)})"
        for name, one in declared.items()
    )
    return f"""
        with declared as (from (values {tenants or "(null, null, null)"}) as named (tenant_id, segment, kept_days)),
        happened as (select tenant_id, date, sum(events)::bigint as events from ({of.hours}) group by all),
        carried as (
            -- Which keys the quarantined rows of two events share is not known: the most of one counts.
            select tenant_id, date, sum(events) as carried, count(distinct property) filter (not quarantined)
                + coalesce(max(keys) filter (quarantined), 0) as properties
            from ({of.properties}) group by all
        ),
        came as (
            select tenant_id, s.date, count(*) as sessions, sum(s.events) as events, count(distinct person_id) as people,
                count(distinct person_id) filter (u.first_seen_at < s.date) as returning_people
            from ({of.sessions}) s left join ({of.users}) u using (tenant_id, person_id) group by all
        ),
        whole as (
            select h.tenant_id, h.date, segment, kept_days, h.events, coalesce(came.sessions, 0) as sessions,
                came.events / came.sessions as events_per_session, coalesce(properties, 0) as properties,
                coalesce(carried, 0) / h.events as properties_per_event, coalesce(people, 0) as people,
                coalesce(returning_people, 0) as returning_people, built.events_version
            from happened h
            left join declared using (tenant_id)
            left join carried using (tenant_id, date)
            left join came using (tenant_id, date)
            left join ({of.built}) built using (date)
        )
        select {CAPACITY_INPUTS.select_list} from whole
    """


def faults(counted: str, hours: str, waiting: str) -> dict[str, str]:
    """What must hold of the whole table, in words, each with a SELECT of what breaks it. Days of `waiting` are half built."""
    settled = f"date not in (select date from ({waiting}))"
    return {
        "a tenant and day have one row": f"select tenant_id, date from ({counted}) group by all having count(*) > 1",
        "numbers are counts and means of them": (
            f"select tenant_id, date from ({counted}) where not coalesce(events > 0 and sessions >= 0 and properties >= 0 "
            "and properties_per_event >= 0 and returning_people between 0 and people and people <= sessions "
            "and (sessions = 0) = (events_per_session is null) and coalesce(events_per_session, 1) >= 1, false)"
        ),
        "every event is counted": (
            f"select tenant_id, date from (select tenant_id, date, sum(events) as events from ({counted}) where {settled} "
            f"group by all) c full join (select tenant_id, date, sum(events) as events from ({hours}) where {settled} "
            "group by all) h using (tenant_id, date) where c.events is distinct from h.events"
        ),
    }
