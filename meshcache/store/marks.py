"""Up to which version all that bears a name is void: one number for many entries.

Clearing a cache marks its name with a version, at the same cost whatever it holds;
an entry is dead if it bears a marked name and is not newer than the mark. A name is
kept as its 64-bit hash, in a table that any process may read while one writes.

When the table is full it is forgotten at the price of a floor: all that is not newer
than the newest mark is dead then, whatever its name. So forgetting may cost entries,
but brings none back.

**Why a reader needs no lock.** He copies the entry first and asks here after, in
this order: the newest mark, the table, the floor. The writer goes the other way round:
a mark enters the table before it becomes the newest, and the floor rises before the
table is wiped. So who no longer finds a mark in the table finds it in the floor.
"""

from __future__ import annotations

from typing import Final, final

from xxhash import xxh3_64_intdigest

__all__ = ["NEWEST", "Marks"]

NEWEST: Final = 0
_FLOOR: Final = 1
_FULL: Final = 3 / 4
_PROBES: Final = 256
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF


@final
class Marks:
    """A table from names to versions. `mark` is for one writer at a time.

    What is stored is the lowest version that lives, one above the mark, so that 0 says
    "no mark".

    Args:
        words: two words of 8 bytes, the newest mark and the floor. All versions of
            at least `words[NEWEST]` live, which a hot path may ask by itself.
        table: two words for each place: a name's hash (0 = free) and its mark.
    """

    __slots__ = ("_count", "_places", "_table", "_words")

    def __init__(self, words: memoryview[int], table: memoryview[int]) -> None:
        self._words = words
        self._table = table
        self._places = len(table) // 2
        self._count = 0

    def covers(self, version: int, *names: bytes) -> bool:
        """Return whether one of *names* is marked at *version* or above."""
        words = self._words
        if version >= words[NEWEST]:
            return False
        table = self._table
        for name in names:
            at = self._place(_hash(name))
            if at >= 0 and version < table[at + 1]:
                return True
        return version < words[_FLOOR]

    def covers_key(self, version: int, key: bytes) -> bool:
        """Return whether the cache of the full *key* is marked at *version* or above.

        A cache `a|b` is a part of `a`, and cleared with it.
        """
        if version >= self._words[NEWEST]:
            return False
        cache = key.partition(b"\0")[0]
        whole = cache.partition(b"|")[0]
        return self.covers(version, cache, whole)

    def mark(self, name: bytes, version: int) -> None:
        """Let all that bears *name* be dead up to *version*, stored or yet to come."""
        words, table, hashed = self._words, self._table, _hash(name)
        bound = min(version + 1, _U64)
        at = self._place(hashed)
        if at < 0 or (not table[at] and self._count >= _FULL * self._places):
            self._forget()
            at = self._place(hashed)
        if table[at] != hashed:
            self._count += 1
            table[at + 1] = bound
            table[at] = hashed
        elif table[at + 1] < bound:
            table[at + 1] = bound
        words[NEWEST] = max(words[NEWEST], bound)

    def _place(self, hashed: int) -> int:
        """Return where *hashed* is or could be, or -1: all near places are taken."""
        table, places = self._table, self._places
        at = hashed % places
        for _ in range(min(_PROBES, places)):
            found = table[2 * at]
            if found == hashed or not found:
                return 2 * at
            at = (at + 1) % places
        return -1

    def _forget(self) -> None:
        self._words[_FLOOR] = self._words[NEWEST]
        table = self._table
        for at in range(len(table)):
            table[at] = 0
        self._count = 0


def _hash(name: bytes) -> int:
    return xxh3_64_intdigest(name) or 1
