"""Keyed digests of many values at once: HMAC-SHA256, computed once a value as long as it is remembered.

The memory has a fixed size, whatever comes: a place holds the value that was seen last of those that share it. There a value is
known by 64 bits: DuckDB's hash of it, and one of its tenant with a secret of this process. Two values of one place do not agree
in all of them by chance, and nobody can contrive it for two tenants; who may send for a tenant might contrive it for two ids of
that tenant, and may send either as well.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.privacy.keyring import Key
from analytics_assets.warehouse.spec import literal

FORM = "k[1-9][0-9]{0,5}:[0-9a-f]{32}"
_BLOCK = 64
# Both letters of a byte as one number: gathering those is several times faster than gathering pairs.
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


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

    def __init__(self, meant: Callable[[str, list[str]], dict[str, str]], places: int = 1 << 20) -> None:
        self._meant, self._places = meant, places
        self._lock = threading.Lock()
        self._salt = secrets.token_hex(8)
        self._keys: dict[str, tuple[Key, Callable[[str], bytes], bytes]] = {}
        self.forget()

    def forget(self) -> None:
        """Remember nothing: all values count as new again."""
        # Of each place: what the value is known by, its digest, and the number of its key; together, for one look at memory.
        self._known = np.zeros((self._places, 4), np.uint64)
        self._new: list[tuple[pa.Array, pa.Array, np.ndarray]] = []

    def use(self, tenant: str, key: Key) -> None:
        """Make the tenant's pseudonyms with this key."""
        known = self._keys.get(tenant)
        if known is None or known[0] != key:
            if known is not None:
                self.forget()
            self._keys[tenant] = key, digester(key), _number(key.id).to_bytes(8, "little")

    def arguments(self, value: str) -> str:
        """SQL for what `of` takes, from SQL for a value of `tenant_id`."""
        return f"xor(hash({value}), hash({literal(self._salt)} || tenant_id)), tenant_id, {value}"

    def of(self, marks: pa.Array, tenants: pa.Array, values: pa.Array) -> pa.Array:
        """The pseudonyms of values; those that are not remembered count as new (see `taken`)."""
        marks, tenants, values = map(_whole, (marks, tenants, values))
        seen = np.asarray(marks, np.uint64)
        places = (seen & np.uint64(self._places - 1)).astype(np.int64)
        # DuckDB calls from several threads, and numpy may let another one in between reading and writing.
        with self._lock:
            found = self._known[places]
            missing = np.flatnonzero(found[:, 0] != seen)
            if len(missing):
                unknown, first, again = np.unique(seen[missing], return_index=True, return_inverse=True)
                rows = pa.array(missing[first])
                fresh = self._compute(unknown, tenants.take(rows), values.take(rows))[again]
                found[missing] = self._known[places[missing]] = fresh
        return _texts(found)

    def _compute(self, marks: np.ndarray, tenants: pa.Array, values: pa.Array) -> np.ndarray:
        """The rows of `_known` for values that are not there, which are noted as new."""
        cells, again, texts = list[bytes](), self._again(tenants, values), values.to_pylist()
        for tenant, value in zip(tenants.to_pylist(), texts, strict=True):
            _, digest, number = self._keys[tenant]
            cells += (digest(again.get((tenant, value), value) if again else value), number)
        rows = np.empty((len(marks), 4), np.uint64)
        rows[:, 0], rows[:, 1:] = marks, np.frombuffer(b"".join(cells), np.uint64).reshape(-1, 3)
        if again:
            values = pa.array([again.get(one, one[1]) for one in zip(tenants.to_pylist(), texts, strict=True)], pa.string())
        self._new.append((tenants, values, (rows[:, 1].byteswap() >> np.uint64(1)).astype(np.int64)))
        return rows

    def _again(self, tenants: pa.Array, values: pa.Array) -> dict[tuple[str, str], str]:
        """What the pseudonyms among the values stand for."""
        found: dict[tuple[str, str], str] = {}
        # The pattern costs several times as much as a look at the first letter.
        if pc.any(pc.starts_with(values, "k")).as_py():
            alike = pc.match_substring_regex(values, f"^{FORM}$")
            asked: dict[str, list[str]] = {}
            for tenant, value in zip(tenants.filter(alike).to_pylist(), values.filter(alike).to_pylist(), strict=True):
                asked.setdefault(tenant, []).append(value)
            for tenant, pseudonyms in asked.items():
                found |= {(tenant, one): value for one, value in self._meant(tenant, pseudonyms).items()}
        return found

    def taken(self) -> pa.Table | None:
        """What is new since it was taken last: `tenant_id`, `value`, and `pseudonym_key` (see `place_of`)."""
        with self._lock:
            new, self._new = self._new, []
        if not new:
            return None
        tenants, values = (pa.concat_arrays([one[place] for one in new]) for place in (0, 1))
        keys = pa.array(np.concatenate([one[2] for one in new]), pa.int64())
        return pa.table({"tenant_id": tenants, "value": values, "pseudonym_key": keys})


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _number(key_id: str) -> int:
    return int(key_id.removeprefix("k"))


def _texts(rows: np.ndarray) -> pa.Array:
    """The pseudonyms of rows of `_known`, without a Python object for each."""
    count, numbers = len(rows), set(rows[:, 3].tolist())
    letters = _HEX[np.ascontiguousarray(rows[:, 1:3]).view(np.uint8)].view(np.uint8)
    if len(numbers) > 1:
        return pa.array(
            [f"k{number}:{digits.tobytes().decode('ascii')}" for number, digits in zip(rows[:, 3], letters, strict=True)],
            pa.string(),
        )
    start = np.frombuffer(f"k{min(numbers, default=0)}:".encode("ascii"), np.uint8)
    width = len(start) + 32
    texts = np.empty((count, width), np.uint8)
    texts[:, : len(start)], texts[:, len(start) :] = start, letters
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(texts))
