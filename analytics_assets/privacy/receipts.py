"""What an erasure leaves: a receipt that says what was taken out where, and that nobody else can write.

It names people as digests under the key of the audit log, and is sealed with it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from analytics_assets.audit.outside import Key, Outside
from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import replace_file


@dataclass(frozen=True)
class Store:
    """What went from one place: rows or records, of which so many were only changed; `recomputed` is not counted in rows."""

    store: str
    gone: int = 0
    changed: int = 0
    files: int = 0
    recomputed: bool = False


@dataclass(frozen=True)
class Receipt:
    """One request: who asked when and for how many, how many were known, and what was done until when.

    Where several requests were done in one pass, `stores` are those of all of them, and `together_with` names the others.
    `subjects` are those asked for, as digests of the ledger's key; `unknown` those of them that no store knew.
    """

    erasure: str
    requested_at: datetime
    requested_by: str
    done_at: datetime
    people: int
    found: int
    identifiers: int
    subjects: tuple[str, ...]
    unknown: tuple[str, ...]
    stores: tuple[Store, ...]
    days_rebuilt: int
    published_version: int | None
    versions_removed: tuple[int, ...]
    readers_left_waiting: bool
    together_with: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether nothing was found of anybody."""
        return not self.found and not any(store.gone or store.changed for store in self.stores)


def keep(path: Path, receipt: Receipt, key: Key) -> None:
    """Write a receipt, at once and durably. Readable, since no person stands in it."""
    said = json.loads(json.dumps(asdict(receipt), default=str))
    sealed = {**said, "key": key.id, "seal": key.digest("receipt", _canonical({**said, "key": key.id}))}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")
    replace_file(new, path)


def read(path: Path, outside: Outside) -> dict[str, Any]:
    """A receipt whose seal is right. Raises UserError."""
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seal, name = said.pop("seal"), said["key"]
    except (OSError, ValueError, KeyError, AttributeError):
        raise UserError(f"{path.name} is no receipt that can be read") from None
    key = outside.key(str(name))
    if key is None:
        raise UserError(f"the key audit-{name}.key is not in {outside.folder}: whether the receipt is genuine cannot be told")
    if key.digest("receipt", _canonical(said)) != seal:
        raise UserError(f"{path.name} was changed, or was not written by this installation")
    return said


def _canonical(said: Mapping[str, Any]) -> str:
    return json.dumps(said, sort_keys=True, separators=(",", ":"))
