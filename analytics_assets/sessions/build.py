"""Sessions, page views and users from events: SQL over relations, no storage.

Events with the same key whose gaps stay under a limit are a chain. The key is the session that the source gives (limit: the
longest a session may be) or else the visitor (limit: the declared inactivity). A session is a chain's events up to the
longest length after its start, as Snowplow has it; what lies beyond is a runaway and set aside, and so is a session with too
many events. Whether an event lies beyond is decided by two such lengths before it, and what is in its session by one after
it: a rebuild of a day never reads history.

Chains are found on numbers and times alone. Only the events of sessions that meet the days are read with all columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import duckdb

from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import SessionRules
from analytics_assets.warehouse.spec import literal
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
    keyed = f"(select *, {_KEY} as session_key from ({events}))"
    _find_chains(con, keyed, days, rules)
    moved = con.execute(_MOVED_DAYS.format(longest=rules.longest_hours)).fetchall()
    all_days = tuple(sorted({*days, *(row[0] for row in moved)}))
    if set(all_days) != set(days):
        _find_chains(con, keyed, all_days, rules)
    con.execute(_MEETING.format(most=rules.most_events))
    first, last = con.execute("select min(timestamp), max(timestamp) from kept").fetchall()[0]
    inside = _between(first, last) if first else "false"
    con.execute(_PLACED.format(keyed=keyed, inside=inside))
    # Only events of the same moment need their ids to tell the first: to compare them always costs half as much again.
    halves = [("not tied", "timestamp"), ("tied", "(timestamp, message_id)")]
    con.execute("create or replace temp table shown as " + _SHOWN.format(page=_PAGE, sight=_SIGHT))
    con.execute("create or replace temp table all_sessions as " + _SESSIONS.format(
        parts=" union all ".join(_PART.format(which=which, order=order) for which, order in halves)))  # fmt: skip
    con.execute(f"create or replace temp table new_sessions as select {SESSIONS.select_list} from all_sessions "
                "where date in (select date from whole_days)")  # fmt: skip
    con.execute(_PAGE_VIEWS.format(columns=PAGE_VIEWS.select_list, page=_PAGE, ping=_PING))
    con.execute(_RUNAWAYS.format(columns=RUNAWAYS.select_list, most=rules.most_events))
    for table in ("keys", "chained", "meeting", "kept", "placed", "shown", "all_sessions"):
        con.execute(f"drop table {table}")
    return SessionDays(all_days)


def days_without(
    con: duckdb.DuckDBPyConnection, events: str, leaving: str, days: Sequence[date], rules: SessionRules
) -> list[date]:
    """The `days` on which events leave, and those of events that may come into another session without them.

    `events` is a SELECT over the window of `days`, `leaving` one of those that leave.
    """
    found = con.execute(f"""
        with gone as (select tenant_id, {_KEY} as session_key, min(timestamp) as low, max(timestamp) as high
                      from ({leaving}) group by all)
        select distinct timestamp::date
        from (select tenant_id, timestamp, {_KEY} as session_key from ({events})) join gone using (tenant_id, session_key)
        where timestamp::date not in (select unnest(?::date[]))
        and timestamp between low - to_hours({rules.longest_hours}) and high + to_hours(2 * {rules.longest_hours})
    """, [list(days)]).fetchall()  # fmt: skip
    return sorted({*days, *(day for (day,) in found)})


_KEY = """case
    when session_id is not null then 'session:' || session_id
    when anonymous_id is not null then 'device:' || anonymous_id
    when user_id is not null then 'user:' || user_id
    else 'event:' || message_id
end"""
# A page that stays open sends pings; one may come in a session whose page view was never received.
_PING = "(event = 'page_ping' and page_view_id is not null)"
_SIGHT = f"(type = 'page' or {_PING})"
_PAGE = "{'url': page_url, 'title': page_title}"


def _between(low: datetime, high: datetime) -> str:
    return f"timestamp between timestamp {literal(str(low))} and timestamp {literal(str(high))}"


def _find_chains(con: duckdb.DuckDBPyConnection, keyed: str, days: Sequence[date], rules: SessionRules) -> None:
    """Make temp tables `whole_days`, `keys` (those with events on the days, numbered) and `chained`.

    `chained` has a row a key and moment: how many `events`, the start of their `chain`, whether they lie `beyond` its
    session, and whether the moment is `inside` the days.
    """
    low, high = day_bounds(days)
    reach = timedelta(hours=2 * rules.longest_hours)
    longest = f"to_hours({rules.longest_hours})"
    con.execute("create or replace temp table whole_days as select unnest(?::date[]) as date", [list(days)])
    con.execute(f"""
        create or replace temp table keys as
        select tenant_id, session_key, row_number() over () as key_no, starts_with(session_key, 'session:') as given
        from (
            select distinct tenant_id, session_key from {keyed}
            where {_between(low, high)} and timestamp::date in (select date from whole_days)
        )
    """)
    con.execute(f"""
        create or replace temp table chained as
        with moments as (
            select key_no, given, timestamp, count(*) as events
            from (select tenant_id, session_key, timestamp from {keyed} where {_between(low - reach, high + reach)})
            join keys using (tenant_id, session_key)
            group by all
        ),
        joined as (
            select *, coalesce(timestamp - lag(timestamp) over (partition by key_no order by timestamp)
                <= case when given then {longest} else least(to_minutes({rules.inactivity_minutes}), {longest}) end,
                false) as joins
            from moments
        ),
        started as (
            select *, max(case when joins then null else timestamp end) over (
                partition by key_no order by timestamp rows unbounded preceding) as chain
            from joined
        )
        select key_no, timestamp, events, chain, timestamp > chain + {longest} as beyond,
            timestamp::date in (select date from whole_days) as inside
        from started
    """)


# Days of the events that an event of these days can move into another session or out of any.
_MOVED_DAYS = """
    select distinct timestamp::date from (
        select timestamp,
            max(asked) over (partition by key_no, chain order by timestamp rows unbounded preceding) as last,
            min(asked) over (partition by key_no, chain order by timestamp
                rows between current row and unbounded following) as next
        from (select *, case when inside then timestamp end as asked from chained)
    ) where timestamp - last <= to_hours(2 * {longest}) or next - timestamp <= to_hours({longest})
"""

# The sessions that have a part inside the days, and the moments of those that are not too many events.
_MEETING = """
    create or replace temp table meeting as
    select key_no, chain, sum(events) as events, max(events) > 1 as tied
    from chained where not beyond group by key_no, chain having bool_or(inside);
    create or replace temp table kept as
    select key_no, timestamp, chain, tied
    from (select key_no, timestamp, chain from chained where not beyond)
    join (select key_no, chain, tied from meeting where events <= {most}) using (key_no, chain)
"""

_PLACED = """
    create or replace temp table placed as
    select key_no, chain, tied, message_id, type, event, user_id, anonymous_id, timestamp, revenue, page_view_id, page_url,
        page_title, campaign, region, source
    from (select * from {keyed} where {inside})
    join keys using (tenant_id, session_key)
    join kept using (key_no, timestamp)
"""

_SHOWN = """
    select key_no, chain,
        count(distinct coalesce(page_view_id, message_id)) as page_views,
        arg_min({page}, (timestamp, message_id)) as first_page,
        arg_max({page}, (timestamp, message_id)) filter (where type = 'page') as last_page
    from placed where {sight} group by key_no, chain
"""

_PART = """
    select
        key_no, chain,
        arg_max(user_id, {order}) filter (where user_id is not null) as user_id,
        arg_min(anonymous_id, {order}) filter (where anonymous_id is not null) as anonymous_id,
        max(timestamp) as ended_at,
        count(*) as events,
        coalesce(sum(revenue), 0)::decimal(18, 4) as revenue,
        arg_min(campaign, {order}) filter (where campaign is not null) as campaign,
        arg_min(region, {order}) filter (where region is not null) as region,
        min(source) as source
    from placed where {which} group by key_no, chain
"""

_SESSIONS = """
    select
        key_no, chain, tenant_id,
        case when given then substr(session_key, 1 + length('session:')) else 'auto-' || left(md5(
            concat_ws(chr(31), tenant_id, session_key, epoch_us(chain))), 20) end as session_id,
        user_id, anonymous_id, cast(null as varchar) as person_id,
        chain::date as date, chain as started_at, ended_at, epoch_us(ended_at - chain) / 1e6 as duration_seconds,
        events, coalesce(page_views, 0) as page_views, revenue,
        first_page.url as first_page_url, first_page.title as first_page_title,
        coalesce(last_page, first_page).url as last_page_url, coalesce(last_page, first_page).title as last_page_title,
        campaign, region, source
    from ({parts})
    join keys using (key_no)
    left join shown using (key_no, chain)
"""

_PAGE_VIEWS = """
    create or replace temp table new_page_views as
    with viewed as (
        select key_no, chain,
            coalesce(page_view_id, message_id) as page_view_id,
            min(timestamp) filter (where type = 'page') as started_at,
            greatest(min(timestamp) filter (where type = 'page'), max(timestamp) filter (where {ping})) as ended_at,
            arg_min({page}, (timestamp, message_id)) filter (where type = 'page') as page,
            arg_min(message_id, (timestamp, message_id)) filter (where type = 'page') as viewed_by
        from placed
        where page_view_id is not null or type = 'page'
        group by all
        having count(*) filter (where type = 'page') > 0
    ),
    numbered as (
        select v.*, page.url as page_url, page.title as page_title, s.tenant_id, s.session_id, s.user_id, s.anonymous_id,
            v.started_at::date as date,
            row_number() over (partition by v.key_no, v.chain order by v.started_at, v.viewed_by) as page_view_in_session,
            count(*) over (partition by v.key_no, v.chain) as page_views_in_session
        from viewed v
        join all_sessions s using (key_no, chain)
    )
    select {columns} from numbered where date in (select date from whole_days)
"""

_RUNAWAYS = """
    create or replace temp table new_runaways as
    select {columns} from (
        select tenant_id, session_key, timestamp::date as date, sum(c.events)::bigint as events,
            case when beyond then 'too_long' else 'too_many_events' end as reason
        from chained c
        left join (select key_no, chain from meeting where events > {most}) crowded
            on not c.beyond and crowded.key_no = c.key_no and crowded.chain = c.chain
        join keys on keys.key_no = c.key_no
        where inside and (beyond or crowded.key_no is not null)
        group by all
    )
"""


def merge_identities(con: duckdb.DuckDBPyConnection, events: str, known: str) -> None:
    """Make temp table `new_identities`: what was known and what `events` show, the latest sight of each id winning."""
    con.execute(f"""
        create or replace temp table new_identities as
        with seen as (
            select tenant_id, 'device' as kind, anonymous_id as from_id, user_id, timestamp as seen_at
            from ({events}) where anonymous_id is not null and user_id is not null and type <> 'alias'
            union all
            select tenant_id, 'alias', previous_id, user_id, timestamp
            from (select *, nullif(properties ->> 'previousId', '') as previous_id from ({events}) where type = 'alias')
            where user_id is not null and previous_id <> user_id
            union all
            select tenant_id, kind, from_id, user_id, seen_at from ({known})
        )
        select tenant_id, kind, from_id, arg_max(user_id, (seen_at, user_id)) as user_id, max(seen_at) as seen_at
        from seen group by tenant_id, kind, from_id
    """)
    _follow_aliases(con)


def _follow_aliases(con: duckdb.DuckDBPyConnection) -> None:
    """Give `new_identities` its `stitched_user_id`: the end of the chain of aliases, or the smallest id of a circle.

    After each round `next` is twice as many aliases ahead, and `least` is the smallest id on the way there.
    """
    con.execute("""
        create or replace temp table steps as
        select tenant_id, from_id as id, user_id as next, from_id as least from new_identities where kind = 'alias'
    """)
    length, before, moved = 1, 0, -1
    # If as many move as before, nobody has come to an end, and nobody will: they are in circles no longer than they are many.
    while moved and (moved != before or length < moved):
        length, before = 2 * length, moved
        moved = con.execute("""
            update steps set next = ahead.next, least = least(steps.least, ahead.least)
            from steps ahead where ahead.tenant_id = steps.tenant_id and ahead.id = steps.next
        """).fetchall()[0][0]
    con.execute("""
        create or replace temp table new_identities as
        with ends as (
            -- Who is still on the way is in a circle.
            select s.tenant_id, s.id, coalesce(circle.least, s.next) as user_id
            from steps s left join steps circle on circle.tenant_id = s.tenant_id and circle.id = s.next
        )
        select i.*, coalesce(ends.user_id, i.user_id) as stitched_user_id
        from new_identities i left join ends on ends.tenant_id = i.tenant_id and ends.id = i.user_id
    """)
    con.execute("drop table steps")


def resolved_identities(identities: str) -> str:
    """A SELECT of (tenant_id, id, as_user, as_device): who an id is where a user bears it, and where a device does.

    An alias may name either. A device belongs to the user it was seen with, before any alias of an id like its own.
    """
    return f"""
        select tenant_id, from_id as id, any_value(stitched_user_id) filter (where kind = 'alias') as as_user,
            coalesce(any_value(stitched_user_id) filter (where kind = 'device'), as_user) as as_device
        from ({identities}) group by tenant_id, from_id
    """


def stitched(relation: str, identities: str, columns: Sequence[str]) -> str:
    """`relation` with `user_id` stitched by `identities` (resolved); `person_id` is filled where it is a column."""
    user = "coalesce(alias.as_user, r.user_id, device.as_device)"
    changed = {"user_id": f"{user} as user_id"}
    if "person_id" in columns:
        # A device's id may be some user's id too, and they are not the same person.
        changed["person_id"] = f"coalesce({user}, 'device:' || r.anonymous_id, 'session:' || r.session_id) as person_id"
    chosen = ", ".join(changed.get(column, f'r."{column}"') for column in columns)
    return f"""
        select {chosen} from ({relation}) r
        left join ({identities}) alias on alias.tenant_id = r.tenant_id and alias.id = r.user_id
        left join ({identities}) device on device.tenant_id = r.tenant_id and device.id = r.anonymous_id
            and r.user_id is null
    """


def seen_by_marts(
    events: str, event_columns: Sequence[str], sessions: str, session_columns: Sequence[str], identities: str
) -> dict[str, str]:
    """The relations that the marts read, by name: events and sessions with their people told, and who a device is.

    All are SELECTs; `identities` resolved.
    """
    return {
        "identities": f"select tenant_id, id as anonymous_id, as_device as user_id from ({identities})",
        "events": stitched(events, identities, event_columns),
        "sessions": stitched(sessions, identities, session_columns),
    }


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
