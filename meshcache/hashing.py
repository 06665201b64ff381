"""Where a key lives: one 64-bit hash, and the two things cut from it.

The hash is xxh3-64 over the cache's name, a NUL byte and the encoded key. It is the
same in every process, on every machine and in every version of meshcache; changing
it would orphan every entry of a running cluster (tests/test_hashing.py holds the
golden vectors). Python's own `hash` is different in each process and is never used.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_intdigest

__all__ = [
    "BUCKETS",
    "BUCKET_MASK",
    "PARTITIONS",
    "PARTITION_BITS",
    "PARTITION_SHIFT",
    "bucket_of",
    "key_hash",
    "partition_of",
    "set_hash",
]

PARTITION_BITS: Final = 14
PARTITIONS: Final = 1 << PARTITION_BITS
"""Equal slices of the hash space. 16,384 keeps the fullest of 64 nodes within 10 % of
the mean with hardly any partition away from its first choice
(docs/decisions/0002-placement.md)."""

BUCKET_BITS: Final = 12
BUCKETS: Final = 1 << BUCKET_BITS
"""Generation counters per owner: 32 KB, and 1 chance in 4,096 that a write to another
key costs a near entry its life."""

PARTITION_SHIFT: Final = 64 - PARTITION_BITS
BUCKET_MASK: Final = BUCKETS - 1
"""For the few places that cannot afford to call `partition_of` and `bucket_of`."""


def key_hash(key: bytes) -> int:
    """Return the 64-bit hash of a full key (cache name, NUL, encoded key)."""
    return xxh3_64_intdigest(key)


def partition_of(hashed: int) -> int:
    """Return the partition of a hash: its highest bits, so a slice of the space."""
    return hashed >> PARTITION_SHIFT


def bucket_of(hashed: int) -> int:
    """Return the generation bucket of a hash: its lowest bits, apart from the slice."""
    return hashed & BUCKET_MASK


def set_hash(items: list[bytes]) -> int:
    """Return one 64-bit number for a set of byte strings, whatever their order."""
    joined = b"".join(len(item).to_bytes(4, "big") + item for item in sorted(items))
    return xxh3_64_intdigest(joined)
