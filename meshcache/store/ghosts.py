"""What a cache remembers of the keys that it let go: hashes, no keys.

`Ghosts` answers one question: was this key among the last so many evicted? It is a
table of pairs of slots, the two used in turn, in flat arrays: a key's 64-bit hash,
and the number of the eviction that wrote it. Both kinds of error are harmless: a
collision admits a key too well, a forgotten one admits it as a stranger.

Hashes are Python's, and have to be well mixed, as those of strings and tuples are.
The hash of a small integer is that integer: alone it would crowd into a few pairs.
"""

from __future__ import annotations

from array import array
from typing import Final, final

__all__ = ["Ghosts", "table_bytes"]

_SLOTS_PER_KEY: Final = 2
"""At least so much room: a pair then loses one key in fifteen before its time, at the
most. Larger sets would need less room, and each slot more to look at is time for
every stranger."""

_U32: Final = 0xFFFF_FFFF


def table_bytes(keys: int) -> int:
    """Return what a table for *keys* takes."""
    size = _table_size(keys)
    return 12 * size + size // 2


def _table_size(keys: int) -> int:
    return 1 << max(1, (_SLOTS_PER_KEY * keys - 1).bit_length())


@final
class Ghosts:
    """The last keys evicted from one queue. Confined to its cache's writers."""

    __slots__ = ("_clock", "_hands", "_hashes", "_mask", "_times", "population")

    def __init__(self, keys: int) -> None:
        size = _table_size(keys)
        self._mask = size - 1
        # No key is expected to hash to 0, which marks an empty slot.
        self._hashes = array("q", bytes(8 * size))
        self._times = array("I", bytes(4 * size))
        self._hands = bytearray(size // 2)
        self._clock = 0
        self.population = 0

    def add(self, hashed: int, reach: int) -> None:
        """Remember a key; *reach* as for `take`."""
        pair = (hashed & self._mask) >> 1
        turn = self._hands[pair]
        self._hands[pair] = turn ^ 1
        slot = pair + pair + turn
        self._clock = clock = self._clock + 1 & _U32
        self._hashes[slot] = hashed
        self._times[slot] = clock
        self.population = self.population + 1 if self.population < reach else reach

    def take(self, hashed: int, reach: int) -> bool:
        """Forget a key; return whether it was among the last *reach* added."""
        slot, hashes = hashed & self._mask, self._hashes
        if hashes[slot] != hashed:
            slot ^= 1
            if hashes[slot] != hashed:
                return False
        age = self._clock - self._times[slot] & _U32
        hashes[slot] = 0
        if age >= reach:
            return False
        self.population = max(self.population - 1, 0)
        return True
