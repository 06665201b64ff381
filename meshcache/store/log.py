"""A ring of entries: appended at its head, reclaimed at its tail, back to back.

Positions count bytes from when the ring began and only grow; the place in memory is
the position modulo the ring's size. An entry does not run around the ring's end: what
is left there becomes a pad. Who is to be reclaimed is decided elsewhere (arena.py).
"""

from __future__ import annotations

import mmap
from typing import Final, final

from meshcache.store.layout import UNIT
from meshcache.store.record import extent, pad

__all__ = ["Ring"]

_SLACK_SHARE: Final = 64
_SLACK_MAX: Final = 4096


@final
class Ring:
    """One of the two logs, for its one writer at a time.

    `live` are the bytes of entries that a slot points to; the arena keeps it.
    """

    __slots__ = (
        "_memory",
        "_metas",
        "_slack",
        "_start",
        "first",
        "full",
        "head",
        "last",
        "live",
        "size",
        "tail",
    )

    def __init__(
        self,
        memory: mmap.mmap,
        metas: memoryview[int],
        units_at: int,
        first: int,
        size: int,
    ) -> None:
        self._memory = memory
        self._metas = metas
        self._start = units_at + UNIT * first
        # A little is kept free, so that what goes from the tail to the head is copied
        # before its old bytes are written over, and is never missed by a reader.
        self._slack = min(size // _SLACK_SHARE, _SLACK_MAX)
        self.first = first
        self.last = first + size // UNIT
        self.size = size
        self.head = self.tail = 0
        self.live = 0
        self.full = False

    @property
    def used(self) -> int:
        """The bytes between the ends, dead or alive, pads included."""
        return self.head - self.tail

    def fits(self, size: int) -> bool:
        """Whether *size* bytes could be placed and some are left over."""
        if self.tail == self.head:
            self.head += -self.head % self.size
            self.tail = self.head
            return True
        # As in `_after`, which is written out here: every write asks this.
        head, whole = self.head, self.size
        rest = whole - head % whole
        end = head + size if size <= rest else head + rest + size
        return end - self.tail + self._slack <= whole

    def fits_barely(self, size: int) -> bool:
        """Whether *size* bytes could be placed, touching nothing between the ends."""
        return self._after(size) - self.tail <= self.size

    def append(self, record: bytes, size: int) -> int:
        """Write *record*, which takes *size* bytes and fits; return its offset."""
        at = self.head % self.size
        rest = self.size - at
        memory, start = self._memory, self._start
        if size > rest:
            memory[start + at : start + at + UNIT] = pad(rest)
            self.head += rest
            at = 0
        at += start
        memory[at : at + len(record)] = record
        self.head += size
        return self.first + (at - start) // UNIT

    def oldest(self) -> tuple[int, int, int]:
        """Return offset, meta and size of what lies at the tail; size 0 if not sane."""
        tail, whole = self.tail, self.size
        at = tail % whole
        offset = self.first + at // UNIT
        meta = self._metas[offset]
        size = extent(meta)
        if size > whole - at or size > self.head - tail or size < UNIT or size % UNIT:
            return offset, meta, 0
        return offset, meta, size

    def restart(self) -> None:
        """Forget all that is here."""
        self.head += -self.head % self.size
        self.tail = self.head
        self.live = 0

    def _after(self, size: int) -> int:
        rest = self.size - self.head % self.size
        return self.head + (size if size <= rest else rest + size)
