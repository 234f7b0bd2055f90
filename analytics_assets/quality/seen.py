"""What readers see already holds nothing up: a failure that no delivery brought is a warning.

A day is judged again when it is rebuilt, be it that a person was erased on it. By then there is more history to compare with
than when it came, or fewer rows. To refuse the publish for that would keep the erased person in front of readers, and no
fault from them.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import duckdb

from analytics_assets.quality.history import DELIVERIES
from analytics_assets.quality.tables import QualityResult
from analytics_assets.warehouse.spec import literal
from analytics_assets.warehouse.table import Snapshot, day_bounds

# The count of a tenant's events of a day.
_EVENTS, _VOLUME = "events", "events_volume"
_SAID = "(A warning only: no delivery came since readers got that day.)"


def with_what_is_seen(
    con: duckdb.DuckDBPyConnection, snapshot: Snapshot, found: Sequence[QualityResult], brought: str, shown: int | None,
    always: Collection[tuple[str, str]],
) -> list[QualityResult]:  # fmt: skip
    """The verdicts, before they are kept; of those that fail, what readers see already only warns.

    `snapshot` holds the verdicts before, `brought` lists (tenant_id, date, version): the newest version of events that a
    delivery made for a tenant's day. `shown` is the version of events that readers have. `always` are (table,
    expectation) that hold of any rows, so that no lack of some explains a failure.

    A failure only warns where the tenant's day was over and judged without that failure, where readers have all that deliveries
    brought to it, and where the number is the one of then, nothing could be said of it then, or events left (or came back with
    a consent) since. That verdict need not be one that readers have: a publish may be held for something else meanwhile.
    """
    places = [
        place
        for place, one in enumerate(found)
        if one.success == "fail" and one.severity == "block" and one.tenant is not None and one.table not in DELIVERIES
        and (one.table, one.expectation) not in always
    ]  # fmt: skip
    if not places or shown is None:
        return list(found)
    events = {(one.tenant, one.partition): one.observed for one in found if (one.table, one.expectation) == (_EVENTS, _VOLUME)}
    failed = [found[place] for place in places]
    con.execute(
        'create or replace temp table failing as select unnest(?::integer[]) as place, unnest(?::varchar[]) as "table", '
        'unnest(?::varchar[]) as tenant, unnest(?::date[]) as "partition", unnest(?::varchar[]) as expectation, '
        "unnest(?::double[]) as observed, unnest(?::double[]) as events",
        [places, [one.table for one in failed], [one.tenant for one in failed], [one.partition for one in failed],
         [one.expectation for one in failed], [one.observed for one in failed],
         [events.get((one.tenant, one.partition)) for one in failed]],
    )  # fmt: skip
    stored = snapshot.select(snapshot.between(*day_bounds([one.partition for one in failed])))
    same = " and ".join(f'before."{name}" = failing."{name}"' for name in ("table", "partition", "expectation"))
    seen = con.execute(
        f"""
        with before as (select * from ({stored})),
        own as (select failing.place, before.success, before.severity, before.observed
                from failing join before on {same} and before.tenant = failing.tenant),
        shared as (select distinct failing.place
                   from failing join before on {same} and before.tenant is null and before.success = 'unknown')
        select failing.place from failing
        join before as volume on volume."table" = {literal(_EVENTS)} and volume.expectation = {literal(_VOLUME)}
            and volume.tenant = failing.tenant and volume."partition" = failing."partition"
        left join ({brought}) came on came.tenant_id = failing.tenant and came.date = failing."partition"
        left join own on own.place = failing.place left join shared on shared.place = failing.place
        where volume.judged_at >= failing."partition" + interval 1 day
            and coalesce(came.version, 0) <= least(volume.version, ?)
            and not coalesce(own.success = 'fail' and own.severity = 'block', false)
            and (failing.events is distinct from volume.observed
                 or own.observed is not distinct from failing.observed and own.place is not null
                 or own.success = 'unknown' or (own.place is null and shared.place is not null))
        """,
        [shown],
    ).fetchall()
    con.execute("drop table failing")
    warned = {place for (place,) in seen}
    return [
        replace(one, severity="warn", reason=f"{one.reason} {_SAID}") if place in warned else one
        for place, one in enumerate(found)
    ]
