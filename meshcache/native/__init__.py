"""The hot paths of reads and writes, compiled where there was a compiler.

What is compiled does what a function in Python does, faster, and nothing else. It reads
a key out of an arena (`store.view`), finds and makes entries for its writer
(`store.index`, `store.record`), decodes plain msgpack (`codec.values`) and encodes
plain keys (`codec.keys`). Where nothing was compiled, the functions in Python serve by
themselves, and only the time it takes is different. Both may be in one cluster: the
bytes in memory and on the wire are the same.

`MESHCACHE_NATIVE=no` leaves what is compiled aside, to compare or to find a fault.

How it is built is in `hatch_build.py`, what it brings in
docs/decisions/0012-compiled-reads.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar, cast

Encoder = TypeVar("Encoder", bound=Callable[..., bytes])

__all__ = [
    "REFUSALS",
    "Reader",
    "built",
    "decoder",
    "encoder",
    "keys",
    "reader",
    "records",
]

REFUSALS: Final = frozenset({"0", "no", "false", "off"})
"""What `MESHCACHE_NATIVE` is to be for no."""

_INTERFACE: Final = 1

_compiled: Any = None
if os.environ.get("MESHCACHE_NATIVE", "").strip().lower() not in REFUSALS:
    try:
        from meshcache.native import _native as _compiled
    except ImportError:
        # Nothing was compiled, or for another Python.
        _compiled = None
    if getattr(_compiled, "INTERFACE", None) != _INTERFACE:
        # Left in a checkout from before a change.
        _compiled = None

built: Final[bool] = _compiled is not None
"""Whether the compiled functions are in use."""


class Reader(Protocol):
    """Reads an arena's entries, and finds them for its one writer."""

    def __call__(self, key: bytes, hashed: int, now: float, /) -> Any:
        """Return the living entry of *key*, or None. Thread-safe."""

    def find(self, key: bytes, hashed: int, /) -> tuple[int, int]:
        """Return the slot and the offset of *key*, as `Index.find` does."""


def decoder(otherwise: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Return *otherwise*, or what does the same and leaves only the rest to it.

    That decodes msgpack without extensions, at most 32 levels deep.
    """
    return otherwise if _compiled is None else _compiled.decoder(otherwise)


def encoder(otherwise: Encoder) -> Encoder:
    """Return *otherwise*, or what does the same and leaves only the rest to it.

    That encodes keys of None, bool, int of 64 bits, float, str, bytes, tuple and list.
    """
    return (
        otherwise
        if _compiled is None
        else cast("Encoder", _compiled.encoder(otherwise))
    )


def keys(
    otherwise: Callable[[bytes, object], tuple[bytes, int]],
) -> Callable[[bytes, object], tuple[bytes, int]]:
    """Return *otherwise*, or what does the same and leaves only the rest to it.

    That makes the full keys of what `encoder` encodes.
    """
    return otherwise if _compiled is None else _compiled.keys(otherwise)


def records(
    otherwise: Callable[[int, bytes, tuple[bytes, int, float]], bytes],
) -> Callable[[int, bytes, tuple[bytes, int, float]], bytes]:
    """Return *otherwise*, or what does the same: the bytes of an entry in an arena."""
    return otherwise if _compiled is None else _compiled.records(otherwise)


def reader() -> Callable[..., Reader] | None:
    """Return what reads arenas, if it was compiled.

    Made for the parts of an arena, which lie in *memory* where the numbers say, it
    takes a key, its hash and the time, and returns an *entry* or None. Thread-safe.
    `covers_key(version, key)` and `covers_tags(version, value)` are asked for what is
    older than the newest mark; `torn()` is called where a checksum is wrong twice.
    """
    return None if _compiled is None else _compiled.Reader
