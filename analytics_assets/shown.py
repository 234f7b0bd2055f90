"""What readers get: the published tables, and how each is shown, all of one version of events."""

from collections.abc import Callable

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.marts.tables import mart_tables
from analytics_assets.privacy.withheld import CONSENT_EXCEPTIONS, CONSENT_STATUS, shown_of
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.sessions.build import resolved_identities, stitched
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.telemetry.tables import PERFORMANCE_METRICS, QUERY_LOG, RELIABILITY_METRICS, STEP_TELEMETRY, UNIT_COSTS
from analytics_assets.tuning.capacity_tables import CAPACITY_FORECAST, CAPACITY_INPUTS, CAPACITY_USE
from analytics_assets.tuning.config_tables import RESOURCE_CONFIGS, TUNING_DECISIONS
from analytics_assets.tuning.features import STEP_FEATURES
from analytics_assets.tuning.tables import LOAD_FORECAST, SCALING_PLAN
from analytics_assets.warehouse.publish import Publishable
from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import Table

# What the system notes about itself: none is a reason to publish.
NOTED = (STEP_TELEMETRY, UNIT_COSTS, QUERY_LOG, RELIABILITY_METRICS, PERFORMANCE_METRICS, LOAD_FORECAST, SCALING_PLAN,
         CAPACITY_INPUTS, CAPACITY_USE, CAPACITY_FORECAST, STEP_FEATURES, RESOURCE_CONFIGS, TUNING_DECISIONS)  # fmt: skip


def published() -> list[TableSpec]:
    """The tables that readers get, but for those about the version itself."""
    made = [EVENTS, REJECTED, BATCHES, SESSIONS, PAGE_VIEWS, RUNAWAYS, USERS, CONSENT_STATUS, QUALITY_RESULTS, *mart_tables()]
    return [*made, *NOTED]


def publishables(table: Callable[[TableSpec], Table], events_version: int) -> list[Publishable]:
    """Every published table as readers get it, with the events of one version."""
    snapshots = {
        spec.name: table(spec).snapshot() for spec in (*published(), IDENTITIES, CONSENT_EXCEPTIONS) if spec is not EVENTS
    }
    events = table(EVENTS).snapshot(events_version)
    batches = f"{snapshots['batches'].select()} where events_version <= {events_version}"
    # Rejected records are committed before their batch: readers see both or neither.
    rejected = f"{snapshots['rejected_events'].select()} where batch_id in (select batch_id from ({batches}))"
    identities = resolved_identities(snapshots["identities"].select())
    exceptions = snapshots[CONSENT_EXCEPTIONS.name]
    tables = [
        Publishable(EVENTS, events, shown_of(events.select(), exceptions), hidden=("message_key",), parts=(exceptions,)),
        # A record as it came is the raw store's: `analytics rejected list --rows` shows it, and that is recorded.
        Publishable(REJECTED, snapshots["rejected_events"], rejected, hidden=("raw",), parts=(snapshots["batches"],)),
        Publishable(BATCHES, snapshots["batches"], batches, hidden=("events_version",)),
    ]
    for spec in (SESSIONS, PAGE_VIEWS):
        select = stitched(snapshots[spec.name].select(), identities, spec.column_names)
        tables.append(Publishable(spec, snapshots[spec.name], select, parts=(snapshots["identities"],)))
    for spec in (RUNAWAYS, USERS, CONSENT_STATUS, QUALITY_RESULTS, *mart_tables()):
        tables.append(Publishable(spec, snapshots[spec.name]))
    for spec in NOTED:
        tables.append(Publishable(spec, table(spec).snapshot(), is_reason=False))
    return tables
