"""Files on their way in: which wait in the landing folders and whose they are, what tells two apart, where they go."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from analytics_assets.settings import Tenant, UserError
from analytics_assets.sources.readers import file_kind


@dataclass(frozen=True)
class Landed:
    """A file in the landing folder: whose it is, and which source reads it."""

    path: Path
    tenant: str
    source: str

    @property
    def since(self) -> datetime | None:
        return landed_at(self.path)


class StillWritten(UserError):
    """A file changed while it was read: nothing of it was stored."""


def landed_files(
    folder: Path, tenants: Mapping[str, Tenant], now: datetime, settle_seconds: float
) -> tuple[list[Landed], list[str]]:
    """Files that wait in `<folder>/<tenant>/`, oldest first, and one line for each that cannot be taken.

    Hidden files, `.part` and `.tmp` files and files changed within `settle_seconds` are still being written.
    """
    waiting, refused = [], []
    root = folder.resolve()
    limit = now.replace(tzinfo=UTC).timestamp() - settle_seconds
    for path in sorted(root.glob("*/**/*")):
        parts = path.relative_to(root).parts
        if not path.is_file() or any(part.startswith(".") for part in parts) or path.suffix in (".part", ".tmp"):
            continue
        tenant = tenants.get(parts[0])
        if tenant is None:
            refused.append(f"landing/{'/'.join(parts)}: tenant '{parts[0]}' is not declared in tenants.yaml")
        elif not path.resolve().is_relative_to(root / parts[0]):
            refused.append(f"landing/{'/'.join(parts)}: is a link that leaves the tenant's folder")
        elif _changed(path) <= limit:
            waiting.append(Landed(path, tenant.id, tenant.source))
    return sorted(waiting, key=lambda file: _changed(file.path)), refused


def _changed(path: Path) -> float:
    """When a file was last changed, in seconds since 1970.

    A copy may keep the time of a clock that is ahead; when it came here, this machine's own clock noted.
    """
    found = path.stat()
    return min(found.st_mtime, found.st_ctime)


def landed_at(path: Path) -> datetime | None:
    """When a file was last changed (UTC): since then it is here. None if it is gone."""
    try:
        return datetime.fromtimestamp(_changed(path), UTC).replace(tzinfo=None)
    except FileNotFoundError:
        return None


def waiting_since(files: Iterable[Landed]) -> Iterator[tuple[str, datetime]]:
    """(tenant, since when) of each file that is still there: one may be taken while we look."""
    for file in files:
        if (since := file.since) is not None:
            yield file.tenant, since


def file_digest(path: Path, source: str, tenant: str | None) -> str:
    """Identity of a delivery: the source, the tenant argument, the content of the file and its kind, not its name."""
    with path.open("rb") as handle:
        content = hashlib.file_digest(handle, "sha256").digest()
    named = "\x1f".join([source, tenant or "", file_kind(path) or ""])
    return hashlib.sha256(named.encode() + b"\x1f" + content).hexdigest()[:32]


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of the last change: what a write changes and a move does not."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def move_into(folder: Path, path: Path, name: str) -> Path:
    """Move `path` into `folder` as `name`, over an equal file that a killed run left."""
    folder.mkdir(parents=True, exist_ok=True)
    # Names are bounded in bytes. The end is cut: the batch id in front keeps two long names apart.
    target = folder / os.fsdecode(os.fsencode(name)[:200])
    shutil.move(str(path), str(target))
    return target
