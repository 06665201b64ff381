"""An entry as its bytes: what is kept of it in memory, and how it proves itself.

    meta      8 bytes: tenure (8 bits), flags (8), length of key (16) and value (32)
    checksum  4 bytes
    version   8 bytes
    expires   8 bytes, monotonic seconds, inf = never
    key, value, and zeros up to a multiple of 8

The checksum is of all that follows it, plus meta: a reader who copied an entry while
it was being overwritten has another sum, whichever part he has of either.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from xxhash import xxh3_64_intdigest

from meshcache import native

__all__ = [
    "FIXED_BYTES",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "PAD",
    "STAMP",
    "STAMP_AT",
    "Entry",
    "Fields",
    "encode",
    "extent",
    "key_length",
    "pad",
    "tenure_of",
    "value_length",
]

FIXED_BYTES: Final = 28
"""What an entry takes beside its key and value, before alignment."""

MAX_KEY_BYTES: Final = 0xFFFF
MAX_VALUE_BYTES: Final = 0xFFFF_FFFF

STAMP: Final = Struct("=Qd")
"""Version and expiry."""

STAMP_AT: Final = 12
"""Where they begin, and with them what the checksum is of."""

PAD: Final = 1 << 8
"""The flag of what only fills a ring up to its end; its length stands as a value's."""

_HEAD: Final = Struct("=QI")
_META: Final = Struct("=Q")


class Entry(NamedTuple):
    """An encoded value, the version of its write, and when it expires (monotonic)."""

    value: bytes
    version: int
    expires: float


Fields: TypeAlias = tuple[bytes, int, float]
"""What an `Entry` holds. A plain tuple is made in a fifth of the time."""


def _encode(tenure: int, key: bytes, entry: Fields) -> bytes:
    value, version, expires = entry
    body = STAMP.pack(version, expires) + key + value
    meta = tenure | len(key) << 16 | len(value) << 32
    return _HEAD.pack(meta, xxh3_64_intdigest(body) + meta & 0xFFFF_FFFF) + body


encode: Final = native.records(_encode)
"""Returns the bytes of an entry, given its tenure, its key and what it holds: as long
as `extent` says but for the padding."""


def pad(size: int) -> bytes:
    """Return the first bytes of a gap of *size* bytes."""
    return _META.pack(PAD | size << 32)


def extent(meta: int) -> int:
    """Return how many bytes of a ring the entry or the gap with this *meta* takes."""
    if meta & PAD:
        return meta >> 32
    return (meta >> 32) + (meta >> 16 & 0xFFFF) + FIXED_BYTES + 7 & ~7


def tenure_of(meta: int) -> int:
    """Return the number of the tenure that the entry was stored under."""
    return meta & 0xFF


def key_length(meta: int) -> int:
    """Return the length of the key."""
    return meta >> 16 & 0xFFFF


def value_length(meta: int) -> int:
    """Return the length of the value."""
    return meta >> 32
