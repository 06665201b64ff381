"""Up to which version all that bears a tag is void: a small table for many tags.

Invalidating a tag writes a version into the tag's two slots, at the same cost whatever
bears it; an entry is dead if it bears a tag both of whose slots are above its version.
Tags share slots (a count-min sketch of maxima; Cormode and Muthukrishnan, J. Algorithms
55, 2005, section 3). Since slots only grow, what was invalidated never looks alive.
What was not may look dead, if for one of its tags both slots were written on behalf of
others since it was stored: after k other tags in n slots that is a chance of about
(2k/n) squared, and costs a reload.

**Why a reader needs no lock.** He copies the entry first and asks here after: the
newest mark, then the slots. The writer goes the other way round, so who sees the newest
mark sees the slots, and who does not has read before the invalidation was done.

**What is kept near** must fall too, and nobody knows which entries those are. So a near
entry with tags remembers the sum of its bucket's counter and its tags' slots. All of
them only grow: the sum stays the same only while each of them does. To be kept, a value
must not have been void already when that sum was taken, and there are two ways to know.
Who has read it with its version, out of the memory that this table is of, asks the
slots once more; just the slots, for the newest mark may not be there yet. Who has not
took note of `moves` before he asked for the value, and that must be even, and the same
still: an invalidation moves it before its first slot and after its last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, final

__all__ = ["NEWEST", "Summed", "Tags", "private_tags"]

NEWEST: Final = 0
_MOVES: Final = 1
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF

_PRIVATE_SLOTS: Final = 4096
"""Slots of a table that only near entries ask: 1 invalidation in 1,000 or so costs one
of them a reload."""


@final
class Tags:
    """A table from tags, given by their hashes, to versions.

    `mark` is for one writer at a time, the rest for anybody. What is stored is the
    lowest version that lives, one above the mark, so that 0 says "no mark".

    Args:
        words: two words of 8 bytes, the newest mark and the moves. All versions of at
            least `words[NEWEST]` live, which a hot path may ask by itself.
        slots: one word each; their number is a power of two.
    """

    __slots__ = ("_mask", "_words", "slots")

    def __init__(
        self, words: memoryview[int] | list[int], slots: memoryview[int] | list[int]
    ) -> None:
        self._words = words
        self.slots: Final = slots
        self._mask = len(slots) - 1
        assert len(slots) & self._mask == 0

    @property
    def moves(self) -> int:
        """A number that moves with each invalidation, and is odd during one."""
        return self._words[_MOVES]

    def covers(self, version: int, tags: Iterable[int]) -> bool:
        """Return whether one of *tags* is marked at *version* or above."""
        return version < self._words[NEWEST] and self.written_over(version, tags)

    def written_over(self, version: int, tags: Iterable[int]) -> bool:
        """Return the same by the slots alone, which may be ahead of the newest mark."""
        slots, mask = self.slots, self._mask
        for tag in tags:
            if version < slots[tag & mask] and version < slots[tag >> 32 & mask]:
                return True
        return False

    def mark(self, tags: Iterable[int], version: int) -> None:
        """Let all with one of *tags* up to *version* be dead, stored or yet to come."""
        words, slots, mask = self._words, self.slots, self._mask
        bound = min(version + 1, _U64)
        # Odd from here on, also if the last one was interrupted.
        words[_MOVES] = (words[_MOVES] + 1 | 1) & _U64
        for tag in tags:
            for place in (tag & mask, tag >> 32 & mask):
                slots[place] = max(slots[place], bound)
        words[NEWEST] = max(words[NEWEST], bound)
        words[_MOVES] = words[_MOVES] + 1 & _U64

    def quiet_since(self, seen: int) -> bool:
        """Whether no invalidation has been under way since `moves` was *seen*."""
        return self.moves == seen and not seen & 1

    def places(self, tags: Iterable[int]) -> tuple[int, ...]:
        """Return the slots of *tags*, each once."""
        mask = self._mask
        return tuple({place for t in tags for place in (t & mask, t >> 32 & mask)})


class Counters(Protocol):
    """What has counters, of which others may take the place."""

    table: Sequence[int]


@final
class Summed:
    """A table of counters: each is one of *counters* plus the slots of *tags*."""

    __slots__ = ("_counters", "_places", "_slots")

    def __init__(self, counters: Counters, marks: Tags, tags: Iterable[int]) -> None:
        self._counters = counters
        self._slots = marks.slots
        self._places = marks.places(tags)

    def __getitem__(self, bucket: int) -> int:
        return self.over(self._counters.table[bucket])

    def over(self, number: int) -> int:
        """Return the sum for a counter that stands at *number*."""
        slots = self._slots
        for place in self._places:
            number += slots[place]
        return number


def private_tags() -> Tags:
    """Return a table in this process alone."""
    return Tags([0, 0], [0] * _PRIVATE_SLOTS)
