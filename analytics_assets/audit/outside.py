"""What the audit log keeps outside of the data home: the key of its seals, and the newest head of each log.

Whoever can write to the data home alone has neither: so it can forge no entry, and cut off no end without being found out.
"""

import errno
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analytics_assets.settings import UserError


@dataclass(frozen=True)
class Head:
    """How far a chain goes: so many entries, and the hash of the last one (64 hexadecimal digits)."""

    entries: int
    hash: str


# What whoever owns the folder can mend.
_CURABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOTHING = Head(0, "0" * 64)


@dataclass(frozen=True)
class Key:
    """A secret of 32 bytes. `id` tells keys apart and nothing about the secret."""

    id: str
    secret: bytes

    def seal(self, hash_: str) -> str:
        """What only who has the key can write beside a hash: 128 bits."""
        return self.digest("seal", hash_)

    def digest(self, kind: str, text: str) -> str:
        """A text as 32 hexadecimal digits, from which nobody without the key learns it, nor tries guesses."""
        return hmac.digest(self.secret, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:32]

    def subject(self, tenant: str | None, person: str) -> str:
        """A person of a tenant, by any identifier, as an entry names it; `tenant` None where nobody said whose."""
        return self.digest("subject", json.dumps([tenant, person]))


@dataclass(frozen=True)
class Outside:
    """The folder with keys and heads, `Settings.keys`."""

    folder: Path

    def key(self, name: str) -> Key | None:
        """The key of this id. Raises UserError if its file is damaged."""
        path = self.folder / f"audit-{name}.key"
        # Whoever writes to the data home chooses what an entry names.
        if not re.fullmatch("[0-9a-f]{8}", name):
            return None
        try:
            text = path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({_short(error)}); let this user read it, or put a copy back") from None
        if not re.fullmatch("[0-9a-f]{64}", text) or _id(bytes.fromhex(text)) != name:
            raise UserError(f"{path} is damaged; put a copy back, or move it away and a new key is made")
        return Key(name, bytes.fromhex(text))

    def key_to_seal(self, last: str | None) -> Key:
        """The key of the last entry, or another one that is here, or a new one. Raises UserError if none can be kept."""
        if last is not None and (found := self.key(last)):
            return found
        here = sorted(path.stem.removeprefix("audit-") for path in self.folder.glob("audit-*.key"))
        if here and (found := self.key(here[0])):
            return found
        secret = secrets.token_bytes(32)
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self.folder / f"audit-{_id(secret)}.key"
            try:
                _write(path, secret.hex().encode(), os.O_EXCL)
            except OSError:
                # Half a key would be taken for a damaged one.
                path.unlink(missing_ok=True)
                raise
            _sync(self.folder)
        return Key(_id(secret), secret)

    def known(self, home: Path) -> Head | None:
        """The newest head that was kept of the log of this data home. Raises UserError if it is damaged."""
        path = self._head_file(home)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Head(int(found["entries"]), str(found["hash"]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({_short(error)}); let this user read and write it") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path} is damaged: how far the audit log goes is not known; compare it with a checkpoint "
                "(`analytics audit verify --checkpoint FILE`), then move this file away"
            ) from None

    def keep(self, home: Path, head: Head) -> None:
        """Keep the newest head. Raises UserError if it cannot be kept."""
        text = json.dumps({"home": str(home), "entries": head.entries, "hash": head.hash}) + "\n"
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # In its place, so that owner and mode stay where several users share the folder.
            _write(self._head_file(home), text.encode(), 0)

    def _head_file(self, home: Path) -> Path:
        return self.folder / f"audit-head-{hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]}.json"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _CURABLE:
                raise
            raise UserError(
                f"{self.folder} cannot be written ({_short(error)}), and what cannot be recorded is not done; "
                "make room and let this user write there, or name another folder in ANALYTICS_KEYS"
            ) from error


def _id(secret: bytes) -> str:
    return hashlib.sha256(b"id\0" + secret).hexdigest()[:8]


def _short(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__


def _write(path: Path, text: bytes, flags: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    try:
        # Less than a sector, at the same place: whole or not at all.
        if os.pwrite(handle, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if os.fstat(handle).st_size > len(text):
            os.ftruncate(handle, len(text))
        # The content and its size; to flush the times of the file too would cost several times as much.
        os.fdatasync(handle)
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
