"""Replacing the identifiers of a tenant's stored events: those in clear, and pseudonyms of an older key.

It is one commit of `events`, and a batch that received and brought nothing: every day of the tenant waits for a rebuild then.
"""

import time
from datetime import datetime

import duckdb

from analytics_assets.events.intake import INTAKE_LOCK, BatchReport, Intake
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.withdraw import REPLACED
from analytics_assets.warehouse.spec import literal
from analytics_assets.warehouse.table import DataFile, Snapshot


def replace_identifiers(intake: Intake, con: duckdb.DuckDBPyConnection, tenant: str, now: datetime) -> BatchReport | None:
    """Give all events of a tenant identifiers of a new key; None if it has no events. Raises UserError.

    Killed before the commit of events, it leaves them as they were; killed after it, the next load finds the new key in use.
    """
    assert intake.identifiers is not None
    started = time.monotonic()
    with intake.home.lock(INTAKE_LOCK):
        delta = intake.finish_interrupted(con)
        snapshot = intake.events.snapshot_of(delta)
        files = _holding(con, snapshot, tenant)
        mark = intake.identifiers.begin_anew(con, tenant)
        done = False
        try:
            if not files:
                return None
            held = f"({snapshot.select(files)})"
            mine = f"tenant_id = {literal(tenant)}"
            listed = f"select distinct source from {held} where {mine} order by 1"
            sources = [source for (source,) in con.execute(listed).fetchall()]
            parts = [f"select {EVENTS.select_list} from {held} where not {mine}"]
            for source in sources:
                its = f"(from {held} where {mine} and source = {literal(source)})"
                parts.append(f"select {EVENTS.select_list} from {intake.identifiers.replaced(con, its, source, {tenant})}")
            rows = dict(con.execute(f"select timestamp::date, count(*) from {held} group by 1").fetchall())
            days = con.execute(f"select distinct timestamp::date from {held} where {mine} order by 1").fetchall()
            adds = intake.events.write_days(con, " union all ".join(parts), "kept", rows, intake.storage.dense_day_rows)
            intake.identifiers.keep(con, mark)
            report = BatchReport(
                mark, ", ".join(sources), tenant, "", REPLACED, 0, 0, 0, 0, round(time.monotonic() - started, 3),
                days=tuple(day for (day,) in days), received_at=now, events_version=delta.version() + 1, events_by_tenant={},
            )  # fmt: skip
            intake.events.commit(delta, adds, files, transaction=mark, note={"batch": report.as_note()})
            done = True
        except BaseException:
            intake.identifiers.forget(con)
            raise
        finally:
            # Where there is no event, nothing bears the old key either.
            intake.identifiers.end_anew(tenant, done=done or not files)
        intake.note_batch(con, report)
        return report


def _holding(con: duckdb.DuckDBPyConnection, snapshot: Snapshot, tenant: str) -> list[DataFile]:
    """The files that hold an event of the tenant."""
    if not snapshot.files:
        return []
    paths = ", ".join(literal(file.path) for file in snapshot.files)
    found = (
        f"select distinct filename from read_parquet([{paths}], filename = true, hive_partitioning = false) where tenant_id = ?"
    )
    held = {path for (path,) in con.execute(found, [tenant]).fetchall()}
    return [file for file in snapshot.files if file.path in held]
