"""Setting stored events aside: from `events` into `rejected_events`, with a person's reason, until a replay brings them back.

A withdrawal is a batch of its own: it received nothing, rejected so many records, and brought as many events less than
none. So the rows of the batches that brought the events stay what they were, and every sum over batches holds.
"""

import hashlib
import time
from collections.abc import Sequence
from datetime import date, datetime

import duckdb

from analytics_assets.events.intake import INTAKE_LOCK, BatchReport, Intake
from analytics_assets.events.tables import REJECTED
from analytics_assets.settings import UserError
from analytics_assets.warehouse.spec import literal
from analytics_assets.warehouse.table import DataFile, Snapshot

WITHDRAWN = "withdrawn"
# What the reason of such a record begins with; a replay takes these only when they are asked for.
SET_ASIDE = "set_aside: "


def withdraw(
    intake: Intake, con: duckdb.DuckDBPyConnection, reason: str, days: Sequence[date], tenant: str | None, now: datetime
) -> BatchReport:
    """Move the events of the relation `at_fault`, and note `days` as waiting for a rebuild. Raises UserError if some are gone.

    `at_fault`: tenant_id, message_id, message_key, timestamp, and of the record that is kept source, landed_for, raw and file.
    Killed before the commit of `events`, it leaves records that no batch names, which readers are not shown: the next try
    takes their place. Killed after it, the next load or rebuild notes the batch from what that commit carries.
    """
    started = time.monotonic()
    with intake.home.lock(INTAKE_LOCK):
        delta = intake.finish_interrupted(con)
        snapshot = intake.events.snapshot_of(delta)
        count, content = _at_fault(con)
        files = _holding(con, snapshot)
        rows = f"({snapshot.select(files)})"
        if (
            con.execute(f"select count(*) from {rows} semi join at_fault using (tenant_id, message_id)").fetchall()[0][0]
            != count
        ):
            raise UserError("the events changed meanwhile, and nothing was set aside; run the same command again")
        # The same again, after a replay, is another withdrawal; after a kill it is the same.
        named = f"{WITHDRAWN}\x1f{reason}\x1f{delta.version()}\x1f{content}"
        batch_id = hashlib.sha256(named.encode()).hexdigest()[:32]
        _reject(intake, con, batch_id, reason, now)
        kept = f"select * from {rows} anti join at_fault using (tenant_id, message_id)"
        left = dict(con.execute(f"select timestamp::date, count(*) from ({kept}) group by 1").fetchall())
        adds = intake.events.write_days(con, kept, "kept", left, intake.storage.dense_day_rows) if left else []
        sources, names = con.execute(
            "select string_agg(distinct source, ', ' order by source), string_agg(distinct file, ', ' order by file) "
            "from at_fault"
        ).fetchall()[0]
        report = BatchReport(
            batch_id, sources, tenant, names[:1000], WITHDRAWN, 0, count, 0, -count, round(time.monotonic() - started, 3),
            rejected_by_reason={SET_ASIDE + reason: count}, days=tuple(sorted(days)), received_at=now,
            events_version=delta.version() + 1, events_by_tenant={},
        )  # fmt: skip
        intake.events.commit(delta, adds, files, transaction=batch_id, note={"batch": report.as_note()})
        intake.note_batch(con, report)
        return report


def withdrawn_after(con: duckdb.DuckDBPyConnection, batches: Snapshot, version: int | None) -> bool:
    """Whether events were set aside since `version` of events."""
    where = f"status = '{WITHDRAWN}' and events_version > {-1 if version is None else version}"
    return bool(con.execute(f"select count(*) from ({batches.select()}) where {where}").fetchall()[0][0])


def _at_fault(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """How many events are to leave, and a digest of which."""
    return con.execute("select count(*), coalesce(sum(message_key::hugeint), 0) from at_fault").fetchall()[0]


def _holding(con: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> list[DataFile]:
    """The files that hold an event that is to leave."""
    low, high = con.execute("select min(timestamp), max(timestamp) from at_fault").fetchall()[0]
    near = snapshot.between(low, high)
    paths = ", ".join(literal(file.path) for file in near)
    held = {
        path
        for (path,) in con.execute(
            f"select distinct filename from (select filename, message_key from read_parquet([{paths}], filename = true, "
            "hive_partitioning = false)) semi join at_fault using (message_key)"
        ).fetchall()
    }
    return [file for file in near if file.path in held]


def _reject(intake: Intake, con: duckdb.DuckDBPyConnection, batch_id: str, reason: str, now: datetime) -> None:
    """Commit the records to `rejected_events`, each once, also where a try that was killed left them.

    A record that is there already, rejected before for another reason, is taken over with all its copies: a replay by the new
    reason brings every event back, and a replay of everything else none.
    """
    con.execute(
        "create or replace temp table withdrawn_rows as select tenant_id, source, landed_for, "
        f"{literal(SET_ASIDE + reason)} as reason, raw, "
        "md5(concat_ws(chr(31), source, coalesce(landed_for, ''), raw)) as record_digest, "
        'row_number() over (partition by source, landed_for, raw) as "copy", '
        f"{literal(batch_id)} as batch_id, timestamp {literal(str(now))} as received_at from at_fault"
    )
    delta = intake.rejected.open()
    old = intake.rejected.snapshot_of(delta)
    con.execute(
        f"insert into withdrawn_rows by name select {REJECTED.select_list} from (select old.* replace "
        f"({literal(SET_ASIDE + reason)} as reason, {literal(batch_id)} as batch_id, "
        f"timestamp {literal(str(now))} as received_at) from ({old.select()}) old "
        'semi join withdrawn_rows using (record_digest) anti join withdrawn_rows using (record_digest, "copy"))'
    )
    stays = f"select * from ({old.select()}) anti join withdrawn_rows using (record_digest)"
    known = con.execute(f"select count(*) from ({old.select()}) semi join withdrawn_rows using (record_digest)").fetchall()[0][
        0
    ]
    kept = f"{stays} union all by name from withdrawn_rows" if known else "from withdrawn_rows"
    adds = intake.rejected.write(con, f"select {REJECTED.select_list} from ({kept})", "withdrawn")
    intake.rejected.commit(delta, adds, old.files if known else (), note={"batch_id": batch_id})
    con.execute("drop table withdrawn_rows")
