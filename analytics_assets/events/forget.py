"""Taking rows out of `events` for good, or values out of its rows: in one commit, with a batch that says how many went.

The batch received and brought as many events less than none, so that every sum over batches holds; no record is kept. Which
rows go is the caller's to say: an erasure names people, retention names an age.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import duckdb

from analytics_assets.events.intake import BatchReport, Intake
from analytics_assets.events.schema import EVENTS
from analytics_assets.warehouse.spec import literal
from analytics_assets.warehouse.table import DataFile, Snapshot, Table


@dataclass(frozen=True)
class Going:
    """What is to happen to one version of `events`: rows that go, rows that change, the days of either, files to rewrite."""

    version: int
    gone: int
    changed: int
    days: tuple[date, ...]
    files: tuple[DataFile, ...]

    @property
    def any(self) -> bool:
        return bool(self.files)


def going(
    con: duckdb.DuckDBPyConnection, snapshot: Snapshot, condition: str, changing: str = "false", joined: str = ""
) -> Going:
    """Look which rows meet the SQL `condition` (they go) or, of the others, `changing`. Both must never be null.

    The row is `event` in them; `joined` may join what they need, to at most one row each.
    """
    if not snapshot.files:
        return Going(snapshot.version, 0, 0, (), ())
    paths = ", ".join(literal(file.path) for file in snapshot.files)
    # A file may be of before a column was declared.
    rows = (
        f"(from read_parquet([{paths}], filename = true, union_by_name = true, hive_partitioning = false) "
        f"union all by name select *, null::varchar as filename from ({EVENTS.empty_select}))"
    )
    found = con.execute(
        f"select filename, timestamp::date as day, count(*) filter (goes), count(*) filter (changes) "
        f"from (select filename, event.timestamp, {condition} as goes, not goes and {changing} as changes "
        f"from {rows} event {joined}) group by all having bool_or(goes or changes)"
    ).fetchall()
    touched = {name for name, *_ in found}
    return Going(
        snapshot.version, sum(row[2] for row in found), sum(row[3] for row in found),
        tuple(sorted({day for _, day, *_ in found})), tuple(file for file in snapshot.files if file.path in touched),
    )  # fmt: skip


def forget(
    intake: Intake, con: duckdb.DuckDBPyConnection, status: str, mark: str, now: datetime, condition: str, *,
    changing: str = "false", replaced: Mapping[str, str] | None = None, joined: str = "", rebuild: bool = True,
    days: Callable[[Going], Sequence[date]] = lambda going: going.days, plan: Callable[[Going], None] = lambda going: None,
) -> BatchReport | None:  # fmt: skip
    """Take out the rows that meet `condition`, and give those that meet `changing` the values of `replaced` (column to SQL).

    None if no row meets either (see `going`). The days wait for a rebuild then, but not where `rebuild` is False. `mark` is the
    id of the batch and of the commit; `plan` gets what is going to happen before anything did. Callers hold the lock of intake.
    Killed before the commit of `events` it leaves them as they were; killed after it, the next load or rebuild notes the batch.
    """
    started = time.monotonic()
    delta = intake.finish_interrupted(con)
    found = going(con, intake.events.snapshot_of(delta), condition, changing, joined)
    plan(found)
    if not found.any:
        return None
    assert not Table.has(delta, mark)
    new = replaced or {}
    columns = ", ".join(
        f"case when {changing} then {new[name]} else event.{name} end as {name}" if name in new else f"event.{name}"
        for name in EVENTS.column_names
    )
    stored, adds = intake.events.snapshot_of(delta), []
    # File by file, each in the order that it has: to sort all of them together costs three times as much.
    con.execute("set preserve_insertion_order = true")
    try:
        for file in found.files:
            kept = f"select {columns} from ({stored.select([file])}) event {joined} where not ({condition})"
            adds += intake.events.write(con, kept, "kept", ordered=False)
    finally:
        con.execute("set preserve_insertion_order = false")
    report = BatchReport(
        mark, "", None, "", status, -found.gone, 0, 0, -found.gone, round(time.monotonic() - started, 3),
        days=tuple(days(found)) if rebuild else (), received_at=now, events_version=delta.version() + 1, events_by_tenant={},
    )  # fmt: skip
    intake.events.commit(delta, adds, found.files, transaction=mark, note={"batch": report.as_note()})
    intake.note_batch(con, report)
    return report
