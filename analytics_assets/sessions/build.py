"""Sessions, page views and users from events: SQL over relations, no storage.

A session is a chain of events with the same key whose gaps stay under a limit. The key is the session that the source
gives (limit: the longest a session may be) or else the visitor (limit: the declared inactivity). A chain that lasts too
long or holds too many events is a runaway and is set aside. Because a gap is never longer than the longest session, two
such lengths around a day decide every chain that touches the day: a rebuild of a day never reads history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import duckdb

from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import SessionRules
from analytics_assets.warehouse.table import day_bounds


@dataclass(frozen=True)
class SessionDays:
    """`days` to replace: those asked for and those of every session that has events on them."""

    days: tuple[date, ...]


def window(days: Sequence[date], rules: SessionRules) -> tuple[datetime, datetime]:
    """The time range that must be read to rebuild `days`."""
    low, high = day_bounds(days)
    # Sessions of the asked days reach one length further, and those days are rebuilt too.
    reach = timedelta(hours=3 * rules.longest_hours)
    return low - reach, high + reach


def build_sessions(con: duckdb.DuckDBPyConnection, events: str, days: Sequence[date], rules: SessionRules) -> SessionDays:
    """Make temp tables `new_sessions`, `new_page_views` and `new_runaways` that hold whole days.

    `events` is a SELECT over the window of `days` with the columns of the events table. User ids are as sent, not stitched.
    """
    con.execute("create or replace temp table asked_days as select unnest(?::date[]) as date", [list(days)])
    con.execute(f"""
        create or replace temp table keyed as
        select tenant_id, message_id, type, event, user_id, anonymous_id, session_id as given_id, timestamp, revenue,
            page_view_id, page_url, page_title, campaign, region, source,
            case
                when session_id is not null then 'session:' || session_id
                when anonymous_id is not null then 'device:' || anonymous_id
                when user_id is not null then 'user:' || user_id
                else 'event:' || message_id
            end as session_key
        from ({events})
    """)
    con.execute(
        "create or replace temp table active as select distinct tenant_id, session_key from keyed "
        "where timestamp::date in (select date from asked_days)"
    )
    days_of_chains = con.execute(f"""
        with chains as ({_chains("keyed semi join active using (tenant_id, session_key)", rules)})
        select distinct timestamp::date from chains
        where touches and abs(date_diff('hour', timestamp, nearest)) <= {rules.longest_hours} + 24
    """).fetchall()
    all_days = tuple(sorted({*days, *(row[0] for row in days_of_chains)}))
    con.execute("create or replace temp table whole_days as select unnest(?::date[]) as date", [list(all_days)])
    con.execute(
        "create or replace temp table active as select distinct tenant_id, session_key from keyed "
        "where timestamp::date in (select date from whole_days)"
    )
    con.execute(
        "create or replace temp table chained as " + _chains("keyed semi join active using (tenant_id, session_key)", rules)
    )
    con.execute(_SESSIONS.format(longest=rules.longest_hours, most=rules.most_events))
    con.execute(f"create or replace temp table new_sessions as select {SESSIONS.select_list} from all_sessions "
                "where not runaway and date in (select date from whole_days)")  # fmt: skip
    con.execute(_PAGE_VIEWS.format(columns=PAGE_VIEWS.select_list))
    con.execute(_RUNAWAYS.format(columns=RUNAWAYS.select_list, longest=rules.longest_hours))
    con.execute("drop table keyed; drop table chained; drop table all_sessions; drop table active")
    return SessionDays(all_days)


def _chains(relation: str, rules: SessionRules) -> str:
    """Each event with `chain`, its number within its key, and whether the chain `touches` an asked day."""
    return f"""
        select *,
            bool_or(timestamp::date in (select date from asked_days)) over same as touches,
            min(case when timestamp::date in (select date from asked_days) then timestamp end) over same as nearest
        from (
            select *, sum(starts) over (partition by tenant_id, session_key order by timestamp, message_id) as chain
            from (
                select *, case when timestamp - lag(timestamp) over (
                    partition by tenant_id, session_key order by timestamp, message_id
                ) <= case when given_id is null then to_minutes({rules.inactivity_minutes})
                          else to_hours({rules.longest_hours}) end then 0 else 1 end as starts
                from {relation}
            )
        )
        window same as (partition by tenant_id, session_key, chain)
    """


_SESSIONS = """
    create or replace temp table all_sessions as
    select
        tenant_id, session_key, chain,
        coalesce(any_value(given_id), 'auto-' || left(md5(
            concat_ws(chr(31), tenant_id, session_key, epoch_us(min(timestamp)))), 20)) as session_id,
        arg_max(user_id, (timestamp, message_id)) filter (where user_id is not null) as user_id,
        arg_min(anonymous_id, (timestamp, message_id)) filter (where anonymous_id is not null) as anonymous_id,
        cast(null as varchar) as person_id,
        min(timestamp)::date as date,
        min(timestamp) as started_at,
        max(timestamp) as ended_at,
        epoch_us(max(timestamp) - min(timestamp)) / 1e6 as duration_seconds,
        count(*) as events,
        count(distinct coalesce(page_view_id, message_id)) filter (where type = 'page') as page_views,
        coalesce(sum(revenue), 0)::decimal(18, 4) as revenue,
        arg_min(page_url, (timestamp, message_id)) filter (where type = 'page') as first_page_url,
        arg_min(page_title, (timestamp, message_id)) filter (where type = 'page') as first_page_title,
        arg_max(page_url, (timestamp, message_id)) filter (where type = 'page') as last_page_url,
        arg_max(page_title, (timestamp, message_id)) filter (where type = 'page') as last_page_title,
        arg_min(campaign, (timestamp, message_id)) filter (where campaign is not null) as campaign,
        arg_min(region, (timestamp, message_id)) filter (where region is not null) as region,
        any_value(source) as source,
        max(timestamp) - min(timestamp) > to_hours({longest}) or count(*) > {most} as runaway
    from chained
    group by tenant_id, session_key, chain
"""

_PAGE_VIEWS = """
    create or replace temp table new_page_views as
    with viewed as (
        select tenant_id, session_key, chain,
            coalesce(page_view_id, message_id) as page_view_id,
            min(timestamp) filter (where type = 'page') as started_at,
            max(timestamp) as ended_at,
            arg_min(page_url, (timestamp, message_id)) filter (where type = 'page') as page_url,
            arg_min(page_title, (timestamp, message_id)) filter (where type = 'page') as page_title
        from chained
        where page_view_id is not null or type = 'page'
        group by all
        having count(*) filter (where type = 'page') > 0
    ),
    placed as (
        select v.*, s.session_id, s.user_id, s.anonymous_id, v.started_at::date as date,
            row_number() over (partition by v.tenant_id, v.session_key, v.chain
                order by v.started_at, v.page_view_id) as page_view_in_session,
            count(*) over (partition by v.tenant_id, v.session_key, v.chain) as page_views_in_session
        from viewed v
        join all_sessions s using (tenant_id, session_key, chain)
        where not s.runaway
    )
    select {columns} from placed where date in (select date from whole_days)
"""

_RUNAWAYS = """
    create or replace temp table new_runaways as
    select {columns} from (
        select c.tenant_id, c.session_key, c.timestamp::date as date, count(*) as events,
            case when any_value(s.duration_seconds) > {longest} * 3600 then 'too_long' else 'too_many_events' end as reason
        from chained c
        join all_sessions s using (tenant_id, session_key, chain)
        where s.runaway
        group by c.tenant_id, c.session_key, c.timestamp::date
    ) where date in (select date from whole_days)
"""


def merge_identities(events: str, known: str) -> str:
    """A SELECT of identities: what was known and what `events` show, the latest sight of each id winning."""
    return f"""
        with seen as (
            select tenant_id, 'device' as kind, anonymous_id as from_id, user_id, timestamp as seen_at
            from ({events}) where anonymous_id is not null and user_id is not null and type <> 'alias'
            union all
            select tenant_id, 'alias', properties ->> 'previousId', user_id, timestamp
            from ({events}) where type = 'alias' and user_id is not null and properties ->> 'previousId' is not null
            union all
            select tenant_id, kind, from_id, user_id, seen_at from ({known})
        )
        select tenant_id, kind, from_id, arg_max(user_id, (seen_at, user_id)) as user_id, max(seen_at) as seen_at
        from seen where from_id <> user_id group by tenant_id, kind, from_id
    """


def resolved_identities(identities: str) -> str:
    """A SELECT of (tenant_id, from_id, user_id) with aliases followed, ten steps at most, so that a circle ends."""
    return f"""
        with recursive known as (select * from ({identities})),
        followed as (
            select tenant_id, from_id, user_id, 1 as steps from known
            union all
            select f.tenant_id, f.from_id, a.user_id, f.steps + 1
            from followed f join known a on a.tenant_id = f.tenant_id and a.from_id = f.user_id and a.kind = 'alias'
            where f.steps < 10 and a.user_id <> f.from_id
        )
        select tenant_id, from_id, arg_max(user_id, steps) as user_id from followed group by tenant_id, from_id
    """


def stitched(relation: str, identities: str, columns: Sequence[str]) -> str:
    """`relation` with `user_id` stitched by `identities` (resolved); `person_id` is filled where it is a column."""
    user = "coalesce(alias.user_id, r.user_id, device.user_id)"
    changed = {"user_id": f"{user} as user_id"}
    if "person_id" in columns:
        changed["person_id"] = f"coalesce({user}, r.anonymous_id, 'session:' || r.session_id) as person_id"
    chosen = ", ".join(changed.get(column, f'r."{column}"') for column in columns)
    return f"""
        select {chosen} from ({relation}) r
        left join ({identities}) alias on alias.tenant_id = r.tenant_id and alias.from_id = r.user_id
        left join ({identities}) device on device.tenant_id = r.tenant_id and device.from_id = r.anonymous_id
            and r.user_id is null
    """


def users(sessions: str) -> str:
    """A SELECT of `users` over stitched sessions."""
    return f"""
        select {USERS.select_list} from (
            select tenant_id, person_id, any_value(user_id) as user_id,
                min(started_at) as first_seen_at, max(ended_at) as last_seen_at,
                count(*) as sessions, sum(page_views)::bigint as page_views, sum(events)::bigint as events,
                sum(revenue)::decimal(18, 4) as revenue,
                arg_min(first_page_url, (started_at, session_id)) filter (where page_views > 0) as first_page_url,
                arg_min(first_page_title, (started_at, session_id)) filter (where page_views > 0) as first_page_title,
                arg_max(last_page_url, (started_at, session_id)) filter (where page_views > 0) as last_page_url,
                arg_max(last_page_title, (started_at, session_id)) filter (where page_views > 0) as last_page_title
            from ({sessions}) group by tenant_id, person_id
        )
    """
