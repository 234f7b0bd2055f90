"""What must hold of a day of sessions, page views and runaways, and of the people, one list a table."""

from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.warehouse.expectation import Expectation, Suite, Usual, found_in, no_row, one_row_per

SESSIONS_SUITE = Suite(
    SESSIONS,
    (
        one_row_per("sessions_one_row_each", "A session has one row.", "tenant_id", "session_id", "started_at"),
        no_row("sessions_are_complete", "Session, day, start, end and events are known.",
               "session_id is null or started_at is null or ended_at is null or events is null"),
        no_row("sessions_end_after_they_begin", "No session ends before it begins, and its length is that of its times.",
               "ended_at < started_at or abs(duration_seconds - date_diff('millisecond', started_at, ended_at) / 1000.0) > 1"),
        no_row("sessions_hold_events", "A session has an event, and no more pages than events.",
               "events < 1 or page_views > events or page_views < 0"),
        no_row("sessions_begin_on_their_day", "A session lies on the day it began.", "started_at::date <> date"),
        found_in("sessions_have_a_person", "Everyone who had a session is among the users.",
                 "sessions", "tenant_id, person_id", "users", "person_id is not null"),
        Usual("sessions_volume", "About as many sessions as on the same weekday before.", "count(*)",
              weekday=True, ratio=True, tolerance=3, spreads=5, least=20, whole_day=True),
        Usual("sessions_time_of_day",
              "The middle session of the day (of 10 and more) begins when it did on this weekday, in hours: a shifted clock.",
              "case when count(*) >= 10 then median(date_diff('minute', date, started_at) / 60.0) end",
              weekday=True, tolerance=2.75, whole_day=True),
        Usual("sessions_length", "The median session (of 20 and more) has about as many events as before.",
              "case when count(*) >= 20 then median(events) end", ratio=True, tolerance=3, whole_day=True),
    ),
)  # fmt: skip

PAGE_VIEWS_SUITE = Suite(
    PAGE_VIEWS,
    (
        one_row_per("page_views_one_row_each", "A page view of a session has one row.",
                    "tenant_id", "page_view_id", "session_id"),
        no_row("page_views_are_numbered", "A page view has its place among those of its session.",
               "page_view_in_session is null or page_view_in_session not between 1 and page_views_in_session"),
        no_row("page_views_end_after_they_begin", "No page view ends before it begins.", "ended_at < started_at"),
        found_in("page_views_have_a_session", "Every page view belongs to a session.",
                 "page_views", "tenant_id, session_id", "sessions"),
    ),
)  # fmt: skip

RUNAWAYS_SUITE = Suite(
    RUNAWAYS,
    (
        no_row("runaways_say_why", "What is set aside has a reason and events.",
               "reason is null or events is null or events < 1"),
        Expectation("runaways_are_few", "At most 100,000 events of a day are set aside. A warning: none of them is lost.",
                    "sum(events)", high=100_000, severity="warn", wrong="true"),
    ),
)  # fmt: skip

USERS_SUITE = Suite(
    USERS,
    (
        one_row_per("users_one_row_each", "A person has one row.", "tenant_id", "person_id"),
        no_row("users_are_seen_in_order", "Nobody was last seen before they were first seen, or without a session.",
               "last_seen_at < first_seen_at or sessions < 1"),
        Expectation(
            "users_hold_every_session",
            "By tenant, the sessions of the users are those of the sessions.",
            query="""
                select tenant_id, date, abs(coalesce(a.value, 0) - coalesce(b.value, 0))::double as value
                from (select tenant_id, any_value(date) as date, sum(sessions) as value from judged_users group by tenant_id) a
                left join (select tenant_id, count(*) as value from whole_sessions where person_id is not null
                           group by tenant_id) b using (tenant_id)
            """,
            always=True,
        ),
    ),
    day=None,
)  # fmt: skip
