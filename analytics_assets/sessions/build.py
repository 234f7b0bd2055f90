"""Sessions, page views and users from events: SQL over relations, no storage.

Events with the same key whose gaps stay under a limit are a chain. The key is the session that the source gives (limit: the
longest a session may be) or else the visitor (limit: the declared inactivity). A session is a chain's events up to the
longest length after its start, as Snowplow has it; what lies beyond is a runaway and set aside, and so is a session with too
many events. Whether an event lies beyond is decided by two such lengths before it, and what is in its session by one after
it: a rebuild of a day never reads history.
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
    # An event moves what lies one length before it and two after it; whole days of that are rebuilt, and each needs two
    # lengths before it and one after it.
    reach = timedelta(hours=3 * rules.longest_hours + 24)
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
    con.execute("create or replace temp table chained as " + _chains(rules))
    days_of_chains = con.execute(_MOVED_DAYS.format(longest=rules.longest_hours)).fetchall()
    all_days = tuple(sorted({*days, *(row[0] for row in days_of_chains)}))
    con.execute("create or replace temp table whole_days as select unnest(?::date[]) as date", [list(all_days)])
    con.execute(
        "create or replace temp table active as select distinct tenant_id, session_key from keyed "
        "where timestamp::date in (select date from whole_days)"
    )
    con.execute("create or replace temp table chained as " + _chains(rules))
    con.execute(_SESSIONS.format(page=_PAGE, sight=_SIGHT, most=rules.most_events))
    con.execute(f"create or replace temp table new_sessions as select {SESSIONS.select_list} from all_sessions "
                "where not runaway and date in (select date from whole_days)")  # fmt: skip
    con.execute(_PAGE_VIEWS.format(columns=PAGE_VIEWS.select_list, page=_PAGE, ping=_PING))
    con.execute(_RUNAWAYS.format(columns=RUNAWAYS.select_list))
    con.execute("drop table keyed; drop table chained; drop table all_sessions; drop table active")
    return SessionDays(all_days)


# A page that stays open sends pings; one may come in a session whose page view was never received.
_PING = "(event = 'page_ping' and page_view_id is not null)"
_SIGHT = f"(type = 'page' or {_PING})"
_PAGE = "{'url': page_url, 'title': page_title}"


def _chains(rules: SessionRules) -> str:
    """The events of the active keys with the start of their `chain`, and whether they lie `beyond` its session."""
    longest = f"to_hours({rules.longest_hours})"
    return f"""
        select *, timestamp > chain + {longest} as beyond from (
            select *, max(case when joins then null else timestamp end) over (
                partition by tenant_id, session_key order by timestamp, message_id rows unbounded preceding
            ) as chain
            from (
                select *, coalesce(timestamp - lag(timestamp) over (
                    partition by tenant_id, session_key order by timestamp, message_id
                ) <= case when given_id is null then least(to_minutes({rules.inactivity_minutes}), {longest})
                          else {longest} end, false) as joins
                from keyed semi join active using (tenant_id, session_key)
            )
        )
    """


# Days of the events that an event of an asked day can move into another session or out of any.
_MOVED_DAYS = """
    select distinct timestamp::date from (
        select timestamp,
            max(asked) over (partition by tenant_id, session_key, chain order by timestamp rows unbounded preceding) as last,
            min(asked) over (partition by tenant_id, session_key, chain order by timestamp
                rows between current row and unbounded following) as next
        from (select *, case when timestamp::date in (select date from asked_days) then timestamp end as asked from chained)
    ) where timestamp - last <= to_hours(2 * {longest}) or next - timestamp <= to_hours({longest})
"""

_SESSIONS = """
    create or replace temp table all_sessions as
    select * exclude (first_page, last_page),
        first_page.url as first_page_url, first_page.title as first_page_title,
        coalesce(last_page, first_page).url as last_page_url, coalesce(last_page, first_page).title as last_page_title
    from (
        select
            tenant_id, session_key, chain,
            coalesce(any_value(given_id), 'auto-' || left(md5(
                concat_ws(chr(31), tenant_id, session_key, epoch_us(chain))), 20)) as session_id,
            arg_max(user_id, (timestamp, message_id)) filter (where user_id is not null) as user_id,
            arg_min(anonymous_id, (timestamp, message_id)) filter (where anonymous_id is not null) as anonymous_id,
            cast(null as varchar) as person_id,
            chain::date as date,
            chain as started_at,
            max(timestamp) as ended_at,
            epoch_us(max(timestamp) - chain) / 1e6 as duration_seconds,
            count(*) as events,
            count(distinct coalesce(page_view_id, message_id)) filter (where {sight}) as page_views,
            coalesce(sum(revenue), 0)::decimal(18, 4) as revenue,
            arg_min({page}, (timestamp, message_id)) filter (where {sight}) as first_page,
            arg_max({page}, (timestamp, message_id)) filter (where type = 'page') as last_page,
            arg_min(campaign, (timestamp, message_id)) filter (where campaign is not null) as campaign,
            arg_min(region, (timestamp, message_id)) filter (where region is not null) as region,
            any_value(source) as source,
            count(*) > {most} as runaway
        from chained
        where not beyond
        group by tenant_id, session_key, chain
    )
"""

_PAGE_VIEWS = """
    create or replace temp table new_page_views as
    with viewed as (
        select tenant_id, session_key, chain,
            coalesce(page_view_id, message_id) as page_view_id,
            min(timestamp) filter (where type = 'page') as started_at,
            greatest(min(timestamp) filter (where type = 'page'), max(timestamp) filter (where {ping})) as ended_at,
            arg_min({page}, (timestamp, message_id)) filter (where type = 'page') as page,
            arg_min(message_id, (timestamp, message_id)) filter (where type = 'page') as viewed_by
        from chained
        where not beyond and (page_view_id is not null or type = 'page')
        group by all
        having count(*) filter (where type = 'page') > 0
    ),
    placed as (
        select v.*, page.url as page_url, page.title as page_title, s.session_id, s.user_id, s.anonymous_id,
            v.started_at::date as date,
            row_number() over (partition by v.tenant_id, v.session_key, v.chain
                order by v.started_at, v.viewed_by) as page_view_in_session,
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
        select tenant_id, session_key, c.timestamp::date as date, count(*) as events,
            case when c.beyond then 'too_long' else 'too_many_events' end as reason
        from chained c
        left join all_sessions s using (tenant_id, session_key, chain)
        where c.beyond or s.runaway
        group by all
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
            select *, first_page.url as first_page_url, first_page.title as first_page_title,
                last_page.url as last_page_url, last_page.title as last_page_title
            from (
                select tenant_id, person_id, any_value(user_id) as user_id,
                    min(started_at) as first_seen_at, max(ended_at) as last_seen_at,
                    count(*) as sessions, sum(page_views)::bigint as page_views, sum(events)::bigint as events,
                    sum(revenue)::decimal(18, 4) as revenue,
                    -- Of several first or last sessions that with the greatest id, as Snowplow has it.
                    arg_max({{'url': first_page_url, 'title': first_page_title}}, (-epoch_us(started_at), session_id))
                        filter (where page_views > 0) as first_page,
                    arg_max({{'url': last_page_url, 'title': last_page_title}}, (ended_at, session_id))
                        filter (where page_views > 0) as last_page
                from ({sessions}) group by tenant_id, person_id
            )
        )
    """
