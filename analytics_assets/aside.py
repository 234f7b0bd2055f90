"""Setting stored events aside: which events, as what records they are kept, and which days are rebuilt without them.

`events/withdraw` moves them; here is decided what moves. What is kept must be enough to bring an event back: the record as it
came, where its file is at hand (so that a mended mapping helps it), or else the event itself as a record of `canonical`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.events.intake import Intake
from analytics_assets.events.schema import SOURCE_COLUMNS
from analytics_assets.events.withdraw import withdraw
from analytics_assets.gate import Gate
from analytics_assets.landing import file_digest
from analytics_assets.sessions.build import days_without, window
from analytics_assets.settings import SessionRules, UserError
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.readers import UnreadableFile, slices
from analytics_assets.warehouse.spec import literal
from analytics_assets.warehouse.table import Snapshot, day_bounds

# The source that reads an event back whose record is not at hand.
_CANONICAL = "canonical"


@dataclass(frozen=True)
class Wanted:
    """Which events: those that meet all that is given, of a batch (its id, or how it begins) or of a tenant's day."""

    tenant: str | None = None
    day: date | None = None
    batch: str | None = None
    expectation: str | None = None


@dataclass(frozen=True)
class Chosen:
    """The events that move, or would: (tenant, day, events, of so many), the `days` to rebuild, and what is kept of them.

    `as_they_came` are kept as the record that came. Of the others the file, one of `missing`, was not at hand.
    """

    groups: tuple[tuple[str, date, int, int], ...]
    days: tuple[date, ...]
    as_they_came: int
    missing: tuple[str, ...]

    @property
    def events(self) -> int:
        return sum(group[2] for group in self.groups)


def set_aside(
    con: duckdb.DuckDBPyConnection, intake: Intake, gate: Gate, sources: Mapping[str, Source], rules: SessionRules,
    wanted: Wanted, reason: str, now: datetime, *, files: Sequence[Path] = (), dry_run: bool,
) -> Chosen:  # fmt: skip
    """Move events to the rejected records, where a replay finds them again by `reason`; with `dry_run` only say which.

    `files` are deliveries that were not landed, for the records as they came. Raises UserError.
    """
    snapshot = intake.events.snapshot()
    _choose(con, intake, gate, snapshot, wanted, now)
    missing = _find_records(con, intake, sources, files)
    groups = con.execute("select tenant_id, timestamp::date, count(*) from at_fault group by all order by all").fetchall()
    if not groups:
        return Chosen((), (), 0, ())
    days = sorted({day for _, day, _ in groups})
    low, high = window(days, rules)
    near = snapshot.select(snapshot.between(low, high))
    rebuilt = days_without(con, near, f"({near}) semi join at_fault using (tenant_id, message_id)", days, rules)
    here = snapshot.select(snapshot.between(*day_bounds(days)))
    counted = f"select tenant_id, timestamp::date, count(*) from ({here}) group by all"
    total = {(tenant, day): count for tenant, day, count in con.execute(counted).fetchall()}
    ((came,),) = con.execute("select count(*) from at_fault where came").fetchall()
    chosen = Chosen(tuple((*group, total[group[0], group[1]]) for group in groups), tuple(rebuilt), came, missing)
    if not dry_run:
        withdraw(intake, con, reason, rebuilt, wanted.tenant, now)
    return chosen


def _choose(
    con: duckdb.DuckDBPyConnection, intake: Intake, gate: Gate, snapshot: Snapshot, wanted: Wanted, now: datetime
) -> None:
    """Make temp table `at_fault`, with the events themselves as the records to keep."""
    if not wanted.batch and not (wanted.tenant and wanted.day):
        raise UserError("say which events: give --tenant and --day, or --batch")
    conditions = []
    low = high = None
    if wanted.batch:
        batch = _batch(con, intake, wanted.batch)
        conditions.append(f"batch_id = {literal(batch['batch_id'])}")
        low, high = batch["event_from"], batch["event_to"]
    if wanted.tenant:
        conditions.append(f"tenant_id = {literal(wanted.tenant)}")
    if wanted.day:
        conditions.append(f"timestamp::date = date '{wanted.day}'")
        low, high = day_bounds([wanted.day])
    if wanted.expectation:
        if not (wanted.tenant and wanted.day):
            raise UserError("an expectation is about a tenant and a day: give --tenant and --day with it")
        gate.at_fault(con, wanted.expectation, wanted.tenant, wanted.day, now)
        conditions.append("(tenant_id, message_id) in (select (tenant_id, message_id) from wrong_events)")
    near = snapshot.between(low, high) if low and high else snapshot.files
    # JSON that is stored as text goes into the record as what it is.
    cells = {c.name: f"{c.name}::json" if c.name in ("properties", "context") else c.name for c in SOURCE_COLUMNS}
    record = ", ".join(f"'{name}': {sql}" for name, sql in cells.items())
    con.execute(
        "create or replace temp table at_fault as select tenant_id, message_id, message_key, timestamp, batch_id, "
        f"'{_CANONICAL}' as source, null::varchar as landed_for, to_json({{{record}}})::varchar as raw, '' as file, "
        f"false as came from ({snapshot.select(near)}) where {' and '.join(conditions)}"
    )


def _batch(con: duckdb.DuckDBPyConnection, intake: Intake, begins: str) -> dict[str, Any]:
    found = [row for row in _batches(con, intake) if row["batch_id"].startswith(begins)]
    if len(found) != 1:
        what = "no batch with events begins" if not found else f"{len(found)} batches begin"
        raise UserError(
            f"{what} with '{begins}'; `analytics sql \"select batch_id, file, received_at from batches\"` lists them"
        )
    return found[0]


def _batches(con: duckdb.DuckDBPyConnection, intake: Intake) -> list[dict[str, Any]]:
    names = ("batch_id", "source", "tenant", "file", "received_at", "event_from", "event_to")
    listed = intake.batches.snapshot().select()
    rows = con.execute(f"select {', '.join(names)} from ({listed}) where events > 0 order by received_at").fetchall()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _find_records(
    con: duckdb.DuckDBPyConnection, intake: Intake, sources: Mapping[str, Source], files: Sequence[Path]
) -> tuple[str, ...]:
    """Give `at_fault` the records as they came, where their files are at hand; returns the names of the other files."""
    wanted = {batch_id for (batch_id,) in con.execute("select distinct batch_id from at_fault").fetchall()}
    missing = []
    for batch in _batches(con, intake):
        if batch["batch_id"] not in wanted:
            continue
        con.execute("update at_fault set file = ? where batch_id = ?", [batch["file"], batch["batch_id"]])
        source = sources.get(batch["source"])
        path = _file_of(batch, intake, files)
        if source is None or path is None or not _take_records(con, path, source, batch):
            missing.append(batch["file"])
    return tuple(missing)


def _file_of(batch: Mapping[str, Any], intake: Intake, files: Sequence[Path]) -> Path | None:
    landed = intake.home.received / (batch["tenant"] or "")
    for path in (*files, *landed.glob(f"{batch['batch_id'][:12]}-*")):
        if path.is_file() and file_digest(path, batch["source"], batch["tenant"]) == batch["batch_id"]:
            return path
    return None


def _take_records(con: duckdb.DuckDBPyConnection, path: Path, source: Source, batch: Mapping[str, Any]) -> bool:
    """Whether the file still gives every event of the batch in `at_fault`: a mapping may have changed since."""
    here = f"from at_fault where batch_id = '{batch['batch_id']}'"
    con.execute("create or replace temp table came (tenant_id varchar, message_id varchar, raw varchar, place varchar)")
    try:
        for _ in slices(con, path, source, tenant=batch["tenant"], received_at=batch["received_at"]):
            # Of twins in a file the one that came first was stored.
            con.execute(
                "insert into came select tenant_id, message_id, raw, concat_ws(' ', received_at, timestamp, "
                f"lpad(rn::varchar, 20, '0')) from mapped semi join ({here}) "
                "using (tenant_id, message_id) where reason is null"
            )
    except UnreadableFile:
        return False
    first = "select tenant_id, message_id, arg_min(raw, place) as raw from came group by all"
    ((lost,),) = con.execute(f"select count(*) from ({here}) anti join came using (tenant_id, message_id)").fetchall()
    if lost:
        return False
    con.execute(
        f"update at_fault set raw = first.raw, source = ?, landed_for = ?, came = true from ({first}) first "
        f"where batch_id = '{batch['batch_id']}' "
        "and first.tenant_id = at_fault.tenant_id and first.message_id = at_fault.message_id",
        [batch["source"], batch["tenant"]],
    )
    return True
