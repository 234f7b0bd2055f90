"""The tables of this room: sessions, page views, runaway sessions, identities and users."""

from analytics_assets.warehouse.spec import Column, TableSpec

_TENANT = Column("tenant_id", "VARCHAR", "Tenant.")
_USER = Column("user_id", "VARCHAR", "Known user, stitched: the latest user seen on the device, aliases followed.")
_ANONYMOUS = Column("anonymous_id", "VARCHAR", "Device or browser.")
_SESSION = Column("session_id", "VARCHAR", "Session as the source gives it, else 'auto-' and a digest.")

SESSIONS = TableSpec(
    name="sessions",
    comment="One row a session, on the day (UTC) it began. Key: tenant_id, session_id, started_at.",
    columns=(
        _TENANT,
        _SESSION,
        _USER,
        _ANONYMOUS,
        Column("person_id", "VARCHAR", "Who it was: the stitched user, else 'device:' and its id, else 'session:' and its id."),
        Column("date", "DATE", "Day (UTC) the session began."),
        Column("started_at", "TIMESTAMP", "Time of the first event (UTC)."),
        Column("ended_at", "TIMESTAMP", "Time of the last event (UTC)."),
        Column("duration_seconds", "DOUBLE", "From first to last event, in seconds."),
        Column("events", "BIGINT", "Events in the session."),
        Column("page_views", "BIGINT", "Distinct pages viewed in the session, also where only a ping of the page came."),
        Column("revenue", "DECIMAL(18,4)", "Net revenue of the session, in the currency of its events."),
        Column("first_page_url", "VARCHAR", "Address of the first page."),
        Column("first_page_title", "VARCHAR", "Title of the first page."),
        Column("last_page_url", "VARCHAR", "Address of the last page."),
        Column("last_page_title", "VARCHAR", "Title of the last page."),
        Column("campaign", "VARCHAR", "First marketing campaign seen in the session."),
        Column("region", "VARCHAR", "First country or region seen in the session."),
        Column("source", "VARCHAR", "Declared source of the session's events."),
    ),
    time_column="date",
    order_by=("tenant_id", "started_at"),
)

PAGE_VIEWS = TableSpec(
    name="page_views",
    comment="One row a page view, on the day (UTC) it began. Key: tenant_id, page_view_id, session_id.",
    columns=(
        _TENANT,
        Column("page_view_id", "VARCHAR", "Page view as the source gives it, else the message id of its event."),
        _SESSION,
        _USER,
        _ANONYMOUS,
        Column("date", "DATE", "Day (UTC) the page view began."),
        Column("started_at", "TIMESTAMP", "Time of the page view (UTC)."),
        Column("ended_at", "TIMESTAMP", "Time of the last ping of the page (UTC); the start where there is none."),
        Column("page_view_in_session", "BIGINT", "Position among the session's page views, from 1."),
        Column("page_views_in_session", "BIGINT", "Page views of the session."),
        Column("page_url", "VARCHAR", "Address of the page."),
        Column("page_title", "VARCHAR", "Title of the page."),
    ),
    time_column="date",
    order_by=("tenant_id", "started_at"),
)

RUNAWAYS = TableSpec(
    name="runaway_sessions",
    comment="Events set aside: those beyond the longest length of a session, and sessions with too many. One row a day.",
    columns=(
        _TENANT,
        Column("session_key", "VARCHAR", "Session or visitor that ran away, with its kind before a colon."),
        Column("date", "DATE", "Day (UTC) of the events."),
        Column("events", "BIGINT", "Events of that day that belong to no session."),
        Column("reason", "VARCHAR", "too_long or too_many_events."),
    ),
    time_column="date",
    order_by=("tenant_id", "date"),
)

IDENTITIES = TableSpec(
    name="identities",
    comment="Which user a device, or an earlier id of a user, belongs to; the latest sight wins.",
    columns=(
        _TENANT,
        Column("kind", "VARCHAR", "device (seen together) or alias (declared by an alias call)."),
        Column("from_id", "VARCHAR", "The device, or the earlier id."),
        Column("user_id", "VARCHAR", "The user it was last seen with, aliases not followed."),
        Column("seen_at", "TIMESTAMP", "When that was last seen (UTC)."),
        Column("stitched_user_id", "VARCHAR", "That user with all aliases followed; of a circle of aliases its smallest id."),
    ),
    time_column=None,
    order_by=("tenant_id", "from_id"),
)

USERS = TableSpec(
    name="users",
    comment="One row a person: stitched user, else device, else a lone anonymous session.",
    columns=(
        _TENANT,
        Column("person_id", "VARCHAR", "Who: the stitched user, else 'device:' and its id, else 'session:' and its id."),
        _USER,
        Column("first_seen_at", "TIMESTAMP", "Start of the first session (UTC)."),
        Column("last_seen_at", "TIMESTAMP", "End of the last session (UTC)."),
        Column("sessions", "BIGINT", "Sessions."),
        Column("page_views", "BIGINT", "Page views."),
        Column("events", "BIGINT", "Events in sessions."),
        Column("revenue", "DECIMAL(18,4)", "Net revenue, in the currency of the events."),
        Column("first_page_url", "VARCHAR", "Address of the first page ever seen."),
        Column("first_page_title", "VARCHAR", "Title of the first page ever seen."),
        Column("last_page_url", "VARCHAR", "Address of the last page seen."),
        Column("last_page_title", "VARCHAR", "Title of the last page seen."),
    ),
    time_column=None,
    order_by=("tenant_id", "first_seen_at"),
)
