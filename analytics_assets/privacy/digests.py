"""Keyed digests of many values: HMAC-SHA256."""

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.privacy.keyring import Key

FORM = "k[1-9][0-9]{0,5}:[0-9a-f]{32}"
_BLOCK = 64


def digester(key: Key) -> Callable[[str], bytes]:
    """HMAC-SHA256 of a value, its first 128 bits.

    The two blocks that depend on the key alone are hashed once: `hmac.digest` costs three times as much.
    """
    padded = key.secret.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)).copy
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded)).copy

    def digest(value: str) -> bytes:
        first, second = inner(), outer()
        first.update(value.encode())
        second.update(first.digest())
        return second.digest()[:16]

    return digest


def pseudonym(key: Key, value: str) -> str:
    """`<key id>:<128 bits of HMAC-SHA256 as 32 hexadecimal digits>`."""
    return f"{key.id}:{digester(key)(value).hex()}"


def place_of(pseudonym: str) -> str:
    """SQL for the first 63 bits of a pseudonym's digest, by which it is found in the raw store."""
    return f"(('0x' || substr(split_part({pseudonym}, ':', 2), 1, 16))::ubigint >> 1)::bigint"


class Digests:
    """The pseudonyms that a process makes.

    `meant` gets a tenant and those of its values that look like pseudonyms, and answers what each that is one stands for.
    """

    def __init__(self, meant: Callable[[str, list[str]], dict[str, str]]) -> None:
        self._meant = meant
        self._keys: dict[str, tuple[Key, Callable[[str], bytes]]] = {}
        self._made: list[pa.Table] = []

    def use(self, tenant: str, key: Key) -> None:
        """Make the tenant's pseudonyms with this key."""
        if tenant not in self._keys or self._keys[tenant][0] != key:
            self._keys[tenant] = key, digester(key)

    def of(self, tenants: pa.Array, values: pa.Array) -> pa.Array:
        """The pseudonyms of values, which are noted (see `taken`). DuckDB calls from several threads."""
        values, whose = self._meanings(tenants, values), tenants.to_pylist()
        digests = b"".join([self._keys[tenant][1](value) for tenant, value in zip(whose, values.to_pylist(), strict=True)])
        keys = np.frombuffer(digests, ">u8")[::2] >> np.uint64(1)
        self._made.append(pa.table({"tenant_id": tenants, "value": values, "pseudonym_key": keys.astype(np.int64)}))
        starts, letters = {tenant: f"{key.id}:" for tenant, (key, _) in self._keys.items()}, digests.hex()
        return pa.array([starts[tenant] + letters[32 * n : 32 * n + 32] for n, tenant in enumerate(whose)], pa.string())

    def _meanings(self, tenants: pa.Array, values: pa.Array) -> pa.Array:
        """The values, and for each pseudonym among them what it stands for."""
        # The pattern costs several times as much as a look at the first letter.
        if not pc.any(pc.starts_with(values, "k")).as_py():
            return values
        alike = pc.match_substring_regex(values, f"^{FORM}$")
        asked: dict[str, list[str]] = {}
        for tenant, value in zip(tenants.filter(alike).to_pylist(), values.filter(alike).to_pylist(), strict=True):
            asked.setdefault(tenant, []).append(value)
        meant = {tenant: self._meant(tenant, pseudonyms) for tenant, pseudonyms in asked.items()}
        pairs = zip(tenants.to_pylist(), values.to_pylist(), strict=True)
        return pa.array([meant.get(tenant, {}).get(value, value) for tenant, value in pairs], pa.string())

    def taken(self) -> pa.Table | None:
        """What was made since it was taken last: `tenant_id`, `value`, and `pseudonym_key` (see `place_of`)."""
        made, self._made = self._made, []
        return pa.concat_tables(made) if made else None
