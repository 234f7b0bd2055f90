"""Who consents, and whose events readers do not see: SQL over statements and stitched people, no storage.

A person is whoever stitching says: what a device or an earlier id said holds for its user, also if that is known later. The
events stay stored; `consent_exceptions` tells them apart by the ids that they bear, so that no event has to be stitched.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analytics_assets.privacy.consent import ID, KIND
from analytics_assets.warehouse.spec import Column, TableSpec, literal

if TYPE_CHECKING:
    from analytics_assets.warehouse.table import Snapshot

_TENANT = Column("tenant_id", "VARCHAR", "Tenant.")

CONSENT_STATUS = TableSpec(
    name="consent_status",
    comment="One row a person and purpose of which they said something: whether they consent now. Key: all but the last two.",
    columns=(
        _TENANT,
        Column("person_id", "VARCHAR", "Who: the stitched user, else 'device:' and its id, else 'session:' and its id."),
        Column("purpose", "VARCHAR", "What for: a data use by its name in Fides' taxonomy, as declared in consent.yaml."),
        Column("status", "VARCHAR", "granted or withdrawn."),
        Column("since", "TIMESTAMP", "Time of the statement that counts, the latest (UTC)."),
    ),
    time_column=None,
    order_by=("tenant_id", "person_id"),
)

CONSENT_EXCEPTIONS = TableSpec(
    name="consent_exceptions",
    comment="Ids whose events readers do not see; of a tenant with a row opt_in, the ids whose events alone they see.",
    columns=(
        _TENANT,
        Column("kind", "VARCHAR", "user, device or session: what the id names; opt_in for a row about the whole tenant."),
        Column("id", "VARCHAR", "User, else device, else session of the events."),
    ),
    time_column=None,
    order_by=("tenant_id", "id"),
)

WITHHELD_EVENTS = TableSpec(
    name="withheld_events",
    comment="One row a tenant: events that its batches brought and that no table shows, for want of consent.",
    columns=(_TENANT, Column("events", "BIGINT", "Events; as soon as consent is there, they are shown.")),
    time_column=None,
    order_by=("tenant_id",),
)


def status(statements: str, resolved: str) -> str:
    """A SELECT of `consent_status` from statements and identities, which are resolved (see `sessions/build`)."""
    person = "case kind when 'user' then coalesce(r.as_user, s.id) when 'device' then coalesce(r.as_device, 'device:' || s.id) "
    return f"""
        select tenant_id, person_id, purpose,
            case when arg_max(granted, (said_at, not granted)) then 'granted' else 'withdrawn' end as status,
            max(said_at) as since
        from (
            select s.*, {person} else 'session:' || s.id end as person_id
            from ({statements}) s left join ({resolved}) r on r.tenant_id = s.tenant_id and r.id = s.id
        ) group by tenant_id, person_id, purpose
    """


def exceptions(consent_status: str, resolved: str, ruling: Sequence[str], opt_in: Sequence[str]) -> str:
    """A SELECT of `consent_exceptions`: all ids of the people for whom another rule holds than for the rest of their tenant.

    `ruling`: the purposes of events; nobody is an exception while there is none. `opt_in`: tenants.
    """
    if not ruling:
        return CONSENT_EXCEPTIONS.empty_select
    names = ", ".join(map(literal, opt_in))
    return f"""
        with people as ({_exceptional(consent_status, ruling, f"select unnest([{names}]::varchar[])")}),
        who as ({resolved}),
        -- A person's own id, where it is not somebody's earlier one.
        own as (
            select tenant_id, 'user' as kind, person_id as id from people
            union all select tenant_id, 'device', substr(person_id, 8) from people where starts_with(person_id, 'device:')
            union all select tenant_id, 'session', substr(person_id, 9) from people where starts_with(person_id, 'session:')
        )
        select distinct tenant_id, kind, id from (
            select o.* from own o left join who w on w.tenant_id = o.tenant_id and w.id = o.id
            where case kind when 'user' then w.as_user is null when 'device' then w.as_device is null else true end
            union all
            select tenant_id, 'user', id from who join people using (tenant_id) where people.person_id = who.as_user
            union all
            select tenant_id, 'device', id from who join people using (tenant_id) where people.person_id = who.as_device
        )
        union all select unnest([{names}]::varchar[]), 'opt_in', ''
    """


def _exceptional(consent_status: str, ruling: Sequence[str], opt_in: str) -> str:
    """Who refused one of the ruling purposes; of tenants in `opt_in` (a SELECT of tenant_id) who granted all of them."""
    return f"""
        select tenant_id, person_id from (
            select tenant_id, person_id, count(*) filter (status = 'withdrawn') as refused,
                count(*) filter (status = 'granted') as granted
            from ({consent_status}) where purpose in ({", ".join(map(literal, ruling))}) group by all
        ) where case when tenant_id in ({opt_in}) then granted = {len(ruling)} else refused > 0 end
    """


def shown(events: str, consent_exceptions: str) -> str:
    """The events of a SELECT that readers may see; `consent_exceptions` is a SELECT of that table."""
    return f"select e.* from {_marked(events, consent_exceptions)} where (x.id is not null) = (o.tenant_id is not null)"


def shown_of(events: str, exceptions_now: "Snapshot") -> str:
    """The same for `consent_exceptions` as stored. Where nobody is one, the SELECT is left as it is and costs nothing."""
    return shown(events, exceptions_now.select()) if exceptions_now.rows else events


def withheld(events: str, consent_exceptions: str) -> str:
    """The other events of a SELECT."""
    return f"select e.* from {_marked(events, consent_exceptions)} where (x.id is not null) <> (o.tenant_id is not null)"


def touched(events: str, moved: str) -> str:
    """The events of a SELECT whose id, or whose tenant as a whole, is among the rows of `consent_exceptions` that `moved`."""
    return f"select e.* from {_marked(events, moved)} where x.id is not null or o.tenant_id is not null"


def _marked(events: str, consent_exceptions: str) -> str:
    """The events, each with the exception `x` that its id is and the row `o` that its tenant has, where there is one."""
    return f"""
        ({events}) e
        left join (select * from ({consent_exceptions}) where kind <> 'opt_in') x
            on x.tenant_id = e.tenant_id and x.kind = {KIND} and x.id = {ID}
        left join ({_opt_in(consent_exceptions)}) o on o.tenant_id = e.tenant_id
    """


def _opt_in(consent_exceptions: str) -> str:
    return f"select distinct tenant_id from ({consent_exceptions}) where kind = 'opt_in'"


def leaks(people: Mapping[str, str], consent_status: str, consent_exceptions: str, ruling: Sequence[str]) -> str:
    """A SELECT of (table, people): how many people without consent a table shows; no row for a table that shows none.

    `people`: by table, a SELECT of (tenant_id, person_id). Asked are people and what they said, not the ids by which events
    are withheld.
    """
    seen = " union all ".join(
        f'select {literal(table)} as "table", tenant_id, person_id from ({of})' for table, of in people.items()
    )
    opt_in = _opt_in(consent_exceptions)
    return f"""
        with exceptional as ({_exceptional(consent_status, ruling, opt_in)}), seen as (select distinct * from ({seen}))
        select "table", count(*) as people
        from seen left join exceptional e on e.tenant_id = seen.tenant_id and e.person_id = seen.person_id
        where (e.person_id is not null) <> (seen.tenant_id in ({opt_in}))
        group by 1 order by 1
    """


def sums_differ(sums: Mapping[str, tuple[str, str]], consent_exceptions: str) -> str:
    """A SELECT of (table, tenant, day, sum, recount) where they differ, of tenants in which somebody is an exception.

    `sums`: by table, a SELECT of (tenant_id, date, value), and one of the same counted from rows that readers see.
    """

    def all_of(part: int) -> str:
        selects = (
            f"select {literal(table)} as name, tenant_id, date::date as date, value::decimal(38, 4) as value from ({of[part]})"
            for table, of in sums.items()
        )
        return " union all ".join(selects)

    return f"""
        select name, tenant_id, coalesce(ours.date, anew.date) as date, ours.value as sum, anew.value as recount
        from (select *, coalesce(date, date '0001-01-01') as day from ({all_of(0)})) ours
        full join (select *, coalesce(date, date '0001-01-01') as day from ({all_of(1)})) anew using (name, tenant_id, day)
        where tenant_id in (select tenant_id from ({consent_exceptions})) and coalesce(ours.value, 0) <> coalesce(anew.value, 0)
        order by all
    """
