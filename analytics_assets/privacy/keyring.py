"""The keys of pseudonyms: in a file outside of the data home, so that a copy of the data is no copy of the keys.

A key never stands in a repr, an error, a log or SQL. The data home notes by which key each tenant's pseudonyms are made, with a
fingerprint that tells another key of the same name apart and says nothing about the key itself.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import Home, replace_file

_KEY_ID = re.compile(r"k[1-9][0-9]{0,5}")


class KeyLost(UserError):
    """A key that stored pseudonyms were made with is not there, or another has its name."""


@dataclass(frozen=True)
class Key:
    """A tenant's key: its id, which stands in every pseudonym, and 32 secret bytes."""

    id: str
    secret: bytes = field(repr=False)
    created_at: str = ""

    @property
    def fingerprint(self) -> str:
        """Tells whether two keys are the same, and nothing else about them."""
        return hmac.digest(self.secret, b"fingerprint of a key of pseudonyms", hashlib.sha256).hex()[:32]


class Keyring:
    """The file of keys in a folder outside of the data home (see `Settings.keys`)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pseudonyms.json"

    def keys(self, tenant: str) -> list[Key]:
        """The tenant's keys, oldest first. Raises UserError if the file cannot be trusted or read."""
        return [Key(one["id"], bytes.fromhex(one["key"]), one["created_at"]) for one in self._read().get(tenant, ())]

    def after(self, tenant: str, key_id: str | None, now: datetime) -> Key:
        """The newest key that came after this one, or else a new one, which is on disk when this returns."""
        last = int(key_id[1:]) if key_id else 0
        with self._writing():
            content = self._read()
            known = content.setdefault(tenant, [])
            numbers = [int(one["id"][1:]) for one in known]
            if max(numbers, default=0) <= last:
                made = {"id": f"k{last + 1}", "key": secrets.token_hex(32), "created_at": now.isoformat(timespec="seconds")}
                known.append(made)
                self._write(content)
        return max(self.keys(tenant), key=lambda key: int(key.id[1:]))

    def _read(self) -> dict[str, list[dict[str, str]]]:
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}); let this user read it") from None
        with os.fdopen(handle, encoding="ascii", errors="replace") as file:
            # A group may share the folder of keys.
            if os.fstat(handle).st_mode & 0o007:
                raise UserError(f"{self.path} holds keys and is open to all users; run `chmod o= {self.path}`")
            text = file.read()
        try:
            return _checked(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            # The text of the error would quote the file.
            raise UserError(f"{self.path} is damaged; put its backup back") from None

    def _write(self, content: dict[str, list[dict[str, str]]]) -> None:
        new = self.path.with_suffix(".new")
        new.unlink(missing_ok=True)
        mode = stat.S_IMODE(self.path.stat().st_mode) if self.path.exists() else 0o600
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(content, file, indent=1)
        replace_file(new, self.path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone among the processes of this machine: several data homes may share the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self.path.with_suffix(".lock").open("a")
        except OSError as error:
            raise UserError(f"keys cannot be kept in {self.path.parent} ({error.strerror}); name another folder in "
                            "ANALYTICS_KEYS") from None  # fmt: skip
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _checked(content: Any) -> dict[str, list[dict[str, str]]]:
    for keys in content.values():
        for one in keys:
            if not _KEY_ID.fullmatch(one["id"]) or len(bytes.fromhex(one["key"])) != 32 or not one["created_at"]:
                raise ValueError
    return content


class KeysInUse:
    """What a data home notes of keys: per tenant the id and fingerprint of the one its pseudonyms are made with."""

    def __init__(self, home: Home, keyring: Keyring) -> None:
        self.path, self.keyring = home.privacy / "keys_in_use.json", keyring

    def tenants(self) -> dict[str, dict[str, str]]:
        """{tenant: {id, fingerprint}}; with `next_id` and `next_fingerprint` while its pseudonyms are made anew."""
        try:
            found: dict[str, dict[str, str]] = json.loads(self.path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise UserError(f"{self.path} is damaged; put its backup back") from None
        return found

    def key(self, tenant: str) -> Key | None:
        """The key that the tenant's stored pseudonyms are made with; None before the first. Raises KeyLost."""
        noted = self.tenants().get(tenant)
        return self.find(tenant, noted["id"], noted["fingerprint"]) if noted else None

    def find(self, tenant: str, key_id: str, fingerprint: str) -> Key:
        """The key of this id and fingerprint. Raises KeyLost."""
        found = next((key for key in self.keyring.keys(tenant) if key.id == key_id), None)
        if found is not None and hmac.compare_digest(found.fingerprint, fingerprint):
            return found
        what = "is not" if found is None else "is another one than that of the stored data,"
        raise KeyLost(
            f"the key {key_id} of '{tenant}' {what} in {self.keyring.path}; put the backup of that file back, or, if there is "
            f"none, run `analytics privacy rotate --tenant {tenant}`, which makes its pseudonyms anew"
        )

    def note(self, tenant: str, **noted: str) -> None:
        """Note what is in use; callers hold the lock of intake."""
        content = {**self.tenants(), tenant: noted}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="ascii")
        replace_file(new, self.path)

    def confirm(self) -> None:
        """Raise KeyLost if a key is lost that stored pseudonyms were made with."""
        for tenant, noted in self.tenants().items():
            self.find(tenant, noted["id"], noted["fingerprint"])
