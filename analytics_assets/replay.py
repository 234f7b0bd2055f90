"""Rejected records tried again as they came, through their source as it is declared now."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

import duckdb

from analytics_assets.events.intake import Batch, BatchReport, Intake
from analytics_assets.events.withdraw import SET_ASIDE
from analytics_assets.sources.mapping import Source
from analytics_assets.sources.readers import slices_from_raw
from analytics_assets.warehouse.spec import identifier, literal


def replay(
    con: duckdb.DuckDBPyConnection, intake: Intake, source_of: Callable[[str], Source], now: datetime,
    only: Mapping[str, str | None], dry_run: bool,
) -> list[BatchReport]:  # fmt: skip
    """Load rejected records again, a batch a source and tenant; those that are accepted now leave `rejected_events`.

    `only` chooses by columns of `rejected_events` (None: any value). What a person set aside is only taken when `reason` names
    it. With `dry_run` nothing changes: the reports say what would happen.
    """
    stored = intake.rejected.snapshot()
    rejected = stored.select()
    chosen = [f"{identifier(name)} = {literal(value)}" for name, value in only.items() if value is not None]
    chosen += [f"not starts_with(reason, '{SET_ASIDE}')"] if only.get("reason") is None else []
    con.execute(f"create or replace temp table again as select * from ({rejected}) where {' and '.join(chosen)}")
    groups = con.execute("select distinct source, landed_for from again order by all").fetchall()
    reports = []
    for name, landed_for in groups:
        known = source_of(name)
        rows = con.execute(
            "select raw, record_digest, copy from again where source = ? and landed_for is not distinct from ? "
            "order by record_digest, copy",
            [name, landed_for],
        ).fetchall()
        # The same records, set aside once more, are another batch, whatever the clock says.
        said = (name, landed_for, now.isoformat(), stored.version, rows)
        content = hashlib.sha256(repr(said).encode()).hexdigest()[:32]
        batch = Batch(content, name, landed_for, "rejected_events", 0, now, known.twin_lookback, "replayed")
        again = partial(slices_from_raw, con, [row[0] for row in rows], known, tenant=landed_for, received_at=now)
        reports.append(intake.replay(con, batch, again, dry_run=dry_run))
    return reports
