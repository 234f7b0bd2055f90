"""A backup of the data home: a plain copy of it, with a list of what was copied, by which a restore is judged.

Keys are no part of it: they lie outside of the data home, and a copy of them belongs elsewhere. Neither are scratch space and
Dagster's records of runs, which are made anew.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import CLOSED, Home

_COPIED = ("warehouse", "published", "landing", "received", "set_aside", "audit", "privacy")
_HOME, _LIST, _NAME = "home", "backup.json", "%Y%m%dT%H%M%SZ"
_NAMED = re.compile(r"\d{8}T\d{6}Z")
# Begins the names of folders that are no backup yet, or none any more.
PARTIAL = ".partial-"
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Backup:
    """A folder with `home/`, which can be copied to where a data home is wanted.

    Taken at `taken_at` (UTC); `tables` are rows by table, `files` the SHA-256 of each file by its path in the data home.
    """

    path: Path
    taken_at: datetime
    tables: Mapping[str, int]
    files: Mapping[str, str]

    def restore(self, target: Path) -> list[str]:
        """Copy it to a folder that is not there yet; returns the files that are not as they were, or not at all."""
        found = dict(_copied(self.path / _HOME, target))
        return sorted(name for name in {*self.files, *found} if self.files.get(name) != found.get(name))


def take(home: Home, folder: Path, now: datetime, tables: Mapping[str, int]) -> Backup:
    """Copy the data home into a new folder below `folder`. Callers hold the locks of all writers.

    A process that is killed leaves no backup. Raises UserError if there is one of this second.
    """
    done, partial = folder / now.strftime(_NAME), folder / f"{PARTIAL}{now.strftime(_NAME)}-{os.getpid()}"
    if done.exists():
        raise UserError(f"{done} is there already; try again in a second")
    partial.mkdir(parents=True, mode=CLOSED)
    try:
        files = {name: sha for part in _COPIED for name, sha in _copied(home.root, partial / _HOME, part)}
        said = {"taken_at": now.isoformat(), "of": str(home.root), "tables": dict(tables), "files": files}
        (partial / _LIST).write_text(json.dumps(said, indent=1), encoding="utf-8")
        os.sync()
        partial.rename(done)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Backup(done, now, tables, files)


def newest(folder: Path) -> Backup | None:
    """The newest backup below a folder; None if there is none. Raises UserError if its list is damaged."""

    def order(path: Path) -> tuple[bool, str]:
        # One that somebody gave another name is none of those that follow each other.
        return bool(_NAMED.fullmatch(path.name)), path.name

    path = max((path.parent for path in folder.glob(f"[!.]*/{_LIST}")), default=None, key=order)
    if path is None:
        return None
    try:
        said: dict[str, Any] = json.loads((path / _LIST).read_text(encoding="utf-8"))
        return Backup(path, datetime.fromisoformat(said["taken_at"]), said["tables"], said["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path / _LIST} is damaged, and what the backup held is not known; take another one") from None


def remove_old(home: Home, folder: Path, keep: int, taken: Backup) -> list[str]:
    """Remove the backups of this data home but the newest `keep` and the one just `taken`; returns their names, oldest first.

    What is of another data home, does not say of which, or was given another name, stays. Callers hold the lock of backups.
    """
    mine = [path for path in sorted(folder.glob("[!.]*")) if _is_of(path, home)]
    old = [path for path in mine[:-keep] if path != taken.path]
    for path in old:
        # No backup any more, before anything of it is gone.
        gone = path.rename(folder / f"{PARTIAL}{path.name}-{os.getpid()}")
        shutil.rmtree(gone)
    return [path.name for path in old]


def _is_of(path: Path, home: Home) -> bool:
    try:
        said: dict[str, Any] = json.loads((path / _LIST).read_text(encoding="utf-8"))
        return bool(_NAMED.fullmatch(path.name)) and said["of"] == str(home.root)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _copied(source: Path, target: Path, part: str = "") -> Iterator[tuple[str, str]]:
    """Copy the files below `part` of a folder; gives the path of each in the folder, and the SHA-256 of what was read."""
    for path in sorted((source / part).rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = path.relative_to(source)
            to = target / name
            _make_alike(path.parent, to.parent)
            # Whoever sends a file may take it back.
            with suppress(FileNotFoundError):
                yield name.as_posix(), _copy(path, to)


def _make_alike(folder: Path, to: Path) -> None:
    """Make a folder, and those that it lies in, with the same rights."""
    if not to.exists():
        _make_alike(folder.parent, to.parent)
        to.mkdir()
        shutil.copymode(folder, to)


def _copy(path: Path, to: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, to.open("wb") as copy:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    shutil.copystat(path, to)
    return digest.hexdigest()
