"""Backups of a data home, of which the newest stay, and a drill that restores one and serves it, to know early that it works.

A restored data home must not show people who were erased since: the erasures that it lacks are done again before anything is
published. The drill does all this to a copy, with a copy of the ledger; the data home and its keys stay as they are.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from analytics_assets.audit.chain import AUDIT_LOCK
from analytics_assets.events.intake import INTAKE_LOCK
from analytics_assets.expiry import retain
from analytics_assets.freshness.watch import ACTIONS_LOCK
from analytics_assets.pipeline import REBUILD_LOCK, Pipeline
from analytics_assets.settings import Settings, UserError
from analytics_assets.slo.tables import WATCH_LOCK
from analytics_assets.warehouse.backup import PARTIAL, Backup, newest, remove_old, take
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import PUBLISH_LOCK

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Drill:
    """What came of a restore: of which backup, its tables, and those of them (or other folders) that are not as they were.

    `erased` requests for erasure were done again. `rto_seconds` went from the begin until readers would have had a version,
    `rpo_seconds` before it the backup was taken: what came since would be lost. `fault` says why it failed.
    """

    backup: str
    tables: int
    differ: tuple[str, ...]
    erased: int
    rto_seconds: float
    rpo_seconds: float
    fault: str | None

    @property
    def numbers(self) -> dict[str, int]:
        """What is recorded of it."""
        return {
            "tables": self.tables, "differ": len(self.differ), "erased": self.erased,
            "rto_seconds": round(self.rto_seconds), "rpo_seconds": round(self.rpo_seconds),
        }  # fmt: skip

    @property
    def told(self) -> str:
        """One sentence for a person."""
        times = f"RTO {self.rto_seconds:,.0f} s, RPO {self.rpo_seconds:,.0f} s"
        if self.fault:
            return f"{self.backup} could not be restored: {self.fault} ({times})"
        again = (
            f"{self.erased:,} {'erasure' if self.erased == 1 else 'erasures'} done again" if self.erased else "no erasure to do"
        )
        return f"{self.backup} can be restored: {self.tables} tables as they were, {again}, published ({times})"


class _Scratch(Settings):
    """A restored data home with keys of its own beside it."""

    @property
    def keys(self) -> Path:
        return self.home.parent / "keys"


def back_up(stages: Pipeline, now: datetime) -> Backup:
    """Take a backup into `Settings.backups`. Meanwhile nothing is loaded, rebuilt or published."""
    home = stages.home
    with (
        _alone(stages.settings) as folder, home.turn(INTAKE_LOCK), home.lock(REBUILD_LOCK), home.lock(PUBLISH_LOCK),
        home.lock(ACTIONS_LOCK), home.lock(WATCH_LOCK), home.lock(AUDIT_LOCK),
    ):  # fmt: skip
        return take(home, folder, now, _rows(stages))


def forget_old(stages: Pipeline, taken: Backup) -> list[str]:
    """Remove backups beyond the number that `limits.yaml` keeps; returns their names."""
    with _alone(stages.settings) as folder:
        return remove_old(stages.home, folder, stages.settings.limits.storage.keep_backups, taken)


def drill(settings: Settings, now: datetime, say: Progress = lambda text: None) -> Drill:
    """Restore the newest backup beside it, and serve it there. Raises UserError if there is none, or no place for any."""
    with _alone(settings) as folder, _scratch(settings, folder) as scratch:
        backup = newest(folder)
        if backup is None:
            raise UserError(f"there is no backup in {folder}; take one with `analytics backup`")
        began = time.monotonic()
        say(f"restoring {backup.path.name}")
        differ = _places(backup.restore(scratch.home))
        stages, erased = Pipeline(scratch), 0
        if differ:
            fault: str | None = f"not as they were when the backup was taken: {', '.join(differ)}"
        elif short := [name for name, rows in _rows(stages).items() if backup.tables.get(name) != rows]:
            differ, fault = tuple(short), f"other rows than when the backup was taken: {', '.join(short)}"
        else:
            erased = len(stages.erasures.waiting())
            fault = _serve(stages, now, say)
        rto, rpo = time.monotonic() - began, (now - backup.taken_at).total_seconds()
        say("removing the copy")
        return Drill(backup.path.name, len(backup.tables), differ, erased, rto, rpo, fault)


def _rows(stages: Pipeline) -> dict[str, int]:
    """Rows of every table, read and not believed."""
    found = {}
    with stages.connect() as con:
        for spec in stages.specs:
            ((found[spec.name],),) = con.execute(f"select count(*) from ({stages.table(spec).snapshot().select()})").fetchall()
    return found


def _places(files: list[str]) -> tuple[str, ...]:
    """The tables that files belong to, or the folders."""
    parts = [Path(file).parts for file in files]
    return tuple(sorted({part[1] if part[0] == "warehouse" else f"{part[0]}/" for part in parts}))


def _serve(stages: Pipeline, now: datetime, say: Progress) -> str | None:
    """What a restored data home needs before readers get it; returns why they do not."""
    try:
        with stages.connect() as con:
            stages.erasures.remove(con, now, progress=say)
            taken = retain(stages, con, now, say)
            if taken is None:
                _publish(stages, con, now, say)
            elif taken.not_published:
                return taken.not_published
        return "erasures that the backup lacks were not done" if stages.erasures.ledger.pending() else None
    except UserError as fault:
        return str(fault)


def _publish(stages: Pipeline, con: duckdb.DuckDBPyConnection, now: datetime, say: Progress) -> None:
    if days := stages.pending(con):
        say(f"rebuilding {len(days)} {'day' if len(days) == 1 else 'days'}")
        stages.rebuild_sessions(con, days)
        _, result = stages.rebuild_marts(con, days)
        if not result.ok:
            raise UserError("a test of the marts failed")
        stages.rebuild_users(con)
    say("publishing")
    stages.publish(con, now)


@contextmanager
def _alone(settings: Settings) -> Iterator[Path]:
    """The folder of backups, while no other process works in it; what a killed one left there is gone."""
    folder = settings.backups
    with Home(settings.home).lock("backups"):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left)
        yield folder


@contextmanager
def _scratch(settings: Settings, folder: Path) -> Iterator[_Scratch]:
    """A place for a data home, for this user alone, that is removed in the end.

    Secrets are lent and not copied; what a restored data home writes beside them, it writes to a copy.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as name:
        keys = Path(name) / "keys"
        keys.mkdir(mode=0o700)
        for path in settings.keys.glob("*"):
            if path.name.startswith(("audit-head-", "erasures-")):
                shutil.copy2(path, keys)
            else:
                (keys / path.name).symlink_to(path)
        yield _Scratch(Path(name) / "home", settings.config)
