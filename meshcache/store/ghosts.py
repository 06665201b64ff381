"""What a cache remembers of the keys that it let go: fingerprints, no keys.

`Ghosts` answers one question: was this key among the last so many evicted? It is a
set-associative table (8 slots to a set, used in turn) of 32-bit fingerprints, each
with the number of the eviction that wrote it, in two flat arrays. Both kinds of error
are harmless: a collision of fingerprints admits a key too well, a forgotten one
admits it as a stranger.
"""

from __future__ import annotations

from array import array
from typing import Final, final

__all__ = ["Ghosts", "fingerprint", "table_bytes"]

_WAYS: Final = 8
_U32: Final = 0xFFFF_FFFF
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15  # Knuth, TAOCP 3, section 6.4


def fingerprint(hashed: int) -> int:
    """Return 32 well-mixed bits of a Python hash, never 0, which marks an empty slot.

    The hash of a small integer is that integer; unmixed, keys that are multiples of
    a power of two would crowd into a few sets.
    """
    return (hashed * _GOLDEN >> 24) & _U32 | 1


def table_bytes(slots: int) -> int:
    """Return what a table for *slots* keys takes."""
    size = _table_size(slots)
    return 8 * size + size // _WAYS


def _table_size(slots: int) -> int:
    return max(_WAYS, 1 << max(0, slots - 1).bit_length())


@final
class Ghosts:
    """The last keys evicted from one queue. Confined to its cache's writers."""

    __slots__ = ("_clock", "_hands", "_mask", "_prints", "_times", "population")

    def __init__(self, slots: int) -> None:
        size = _table_size(slots)
        self._mask = size // _WAYS - 1
        self._prints = array("I", bytes(4 * size))
        self._times = array("I", bytes(4 * size))
        self._hands = bytearray(size // _WAYS)
        self._clock = 0
        self.population = 0

    def add(self, mark: int, reach: int) -> None:
        """Remember the fingerprint *mark*; *reach* as for `take`."""
        clock = self._clock = self._clock + 1 & _U32
        line = mark >> 1 & self._mask
        turn = self._hands[line]
        self._hands[line] = turn + 1 & _WAYS - 1
        slot = line * _WAYS + turn
        self._prints[slot] = mark
        self._times[slot] = clock
        self.population = min(self.population + 1, reach)

    def take(self, mark: int, reach: int) -> bool:
        """Forget *mark*; return whether it was among the last *reach* added."""
        base = (mark >> 1 & self._mask) * _WAYS
        prints = self._prints[base : base + _WAYS]
        if mark not in prints:
            return False
        slot = base + prints.index(mark)
        age = self._clock - self._times[slot] & _U32
        self._prints[slot] = 0
        if age >= reach:
            return False
        self.population = max(self.population - 1, 0)
        return True
