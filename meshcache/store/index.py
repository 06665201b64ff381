"""Where each key's entry lies: sets of 16 slots, and the ghosts among them.

A slot is a fingerprint, an offset into the logs and a byte of *use*. Three kinds:

    free     fingerprint 0, offset 0, use 0
    living   an offset; use 1 to 4: one more than the reads that count
    ghost    offset 0: small evicted it; use 5 to 255: when, on a coarse clock

A ghost is a slot that nobody has needed since, so that what S3-FIFO remembers of the
evicted takes no memory of its own. It is found by the fingerprint alone: one in some
10,000 newcomers is taken for somebody who was here before, and that does no harm.

A key keeps its slot for as long as it lives. Readers raise the use without a lock: a
count may be lost, or a ghost's time, and neither matters.
"""

from __future__ import annotations

import mmap
import sys
from typing import Final, final

from meshcache.store.layout import UNIT, WAYS, Layout
from meshcache.store.record import FIXED_BYTES

__all__ = ["UNREAD", "USE_MAX", "Index"]

UNREAD: Final = 1
"""The use of an entry that nobody has read."""

USE_MAX: Final = 4
"""Where use stops. More would let an entry that was once popular stay long."""

_TICKS: Final = 256 - (USE_MAX + 1)
"""Times that a ghost can have. After that many the clock goes round, and a ghost of
the last round would look fresh; few slots wait that long."""

_TICKS_FRESH: Final = 64
"""For how many of them a ghost counts."""

_REACH: Final = 1.5
"""How much small evicts, as a share of main, while a ghost counts."""

_STALEST: Final = 255
_ORDER: Final = sys.byteorder


@final
class Index:
    """The slots of one arena, for its one writer at a time."""

    __slots__ = (
        "_ages",
        "_end",
        "_evicted",
        "_keys_at",
        "_memory",
        "_metas",
        "_offsets_at",
        "_prints_at",
        "_sets",
        "_tick",
        "_tick_bytes",
        "_uses_at",
        "offsets",
        "prints",
        "uses",
    )

    def __init__(self, memory: mmap.mmap, layout: Layout) -> None:
        whole = memoryview(memory)
        slots = layout.slots
        offsets_at, prints_at, uses_at = (
            layout.offsets_at,
            layout.prints_at,
            layout.uses_at,
        )
        self._memory = memory
        self._sets = layout.sets
        self._offsets_at = offsets_at
        # Of the logs, what it takes to know a key again.
        self._metas = whole[layout.units_at : layout.total].cast("Q")
        self._keys_at = layout.units_at + FIXED_BYTES
        self._end = len(self._metas) - (FIXED_BYTES // UNIT)
        self._prints_at = prints_at
        self._uses_at = uses_at
        self.offsets: memoryview[int] = whole[offsets_at : offsets_at + 4 * slots].cast(
            "I"
        )
        self.prints: memoryview[int] = whole[prints_at : prints_at + 2 * slots].cast(
            "H"
        )
        self.uses: memoryview[int] = whole[uses_at : uses_at + slots]
        self._tick_bytes = max(1, int(layout.main_bytes * _REACH) // _TICKS_FRESH)
        self._evicted = 0
        self._turn(0)

    def matches(self, hashed: int) -> list[int]:
        """Return the slots of the hash's set with its fingerprint, living or not."""
        find, prints_at = self._memory.find, self._prints_at
        mark = (hashed & 0xFFFF or 1).to_bytes(2, _ORDER)
        row = hashed % self._sets * (2 * WAYS) + prints_at
        end = row + 2 * WAYS
        found = []
        at = find(mark, row, end)
        while at >= 0:
            if not at & 1:
                found.append(at - prints_at >> 1)
            at = find(mark, at + 1, end)
        return found

    def find(self, key: bytes, hashed: int) -> tuple[int, int]:
        """Return the key's slot and offset: 0 is for a ghost, and -1 for no slot.

        This is `matches` written out: every write begins with it.
        """
        memory, metas, offsets = self._memory, self._metas, self.offsets
        find, prints_at, length = memory.find, self._prints_at, len(key)
        mark = (hashed & 0xFFFF or 1).to_bytes(2, _ORDER)
        row = hashed % self._sets * (2 * WAYS) + prints_at
        end = row + 2 * WAYS
        ghost = -1
        at = find(mark, row, end)
        while at >= 0:
            if not at & 1:
                slot = at - prints_at >> 1
                offset = offsets[slot]
                if not offset:
                    ghost = slot
                elif offset < self._end and metas[offset] >> 16 & 0xFFFF == length:
                    start = self._keys_at + UNIT * offset
                    if memory[start : start + length] == key:
                        return slot, offset
            at = find(mark, at + 1, end)
        return ghost, 0

    def key_at(self, offset: int) -> bytes:
        """Return the key of what lies at *offset*; empty if it cannot be an entry."""
        if offset >= self._end:
            return b""
        start = self._keys_at + UNIT * offset
        return self._memory[start : start + (self._metas[offset] >> 16 & 0xFFFF)]

    def pointing(self, hashed: int, offset: int) -> int:
        """Return the slot of the hash that points to *offset*, or -1."""
        find, offsets_at = self._memory.find, self._offsets_at
        mark = offset.to_bytes(4, _ORDER)
        row = hashed % self._sets * (4 * WAYS) + offsets_at
        end = row + 4 * WAYS
        at = find(mark, row, end)
        while at >= 0:
            slot = at - offsets_at >> 2
            if not at & 3 and self.prints[slot] == (hashed & 0xFFFF or 1):
                return slot
            at = find(mark, at + 1, end)
        return -1

    def belongs(self, slot: int, hashed: int) -> bool:
        """Whether the key of this hash would be looked for in *slot*."""
        return (
            self.prints[slot] == (hashed & 0xFFFF or 1)
            and slot // WAYS == hashed % self._sets
        )

    def is_fresh(self, slot: int) -> bool:
        """Whether the ghost in *slot* was evicted not long ago."""
        return 0 < self._ages[self.uses[slot]] <= _TICKS_FRESH

    def seat(self, hashed: int) -> int:
        """Return a slot for a newcomer: free, else a ghost's, else a living one's.

        Of ghosts it is the stalest, of the living the least read.
        """
        first = hashed % self._sets * WAYS
        at = self._uses_at + first
        row = self._memory[at : at + WAYS]
        ages = row.translate(self._ages)
        if (oldest := max(ages)) > 0:
            return first + ages.index(oldest)
        return first + row.index(min(row))

    def publish(self, slot: int, hashed: int, offset: int, use: int) -> None:
        """Let *slot* be the key's, whose entry is in place already."""
        self.uses[slot] = use
        self.offsets[slot] = offset
        self.prints[slot] = hashed & 0xFFFF or 1

    def bury(self, slot: int, size: int) -> None:
        """Let the entry in *slot*, of *size* bytes, leave its ghost there."""
        self.offsets[slot] = 0
        self.uses[slot] = self._tick + USE_MAX + 1
        self._evicted += size
        if self._evicted >= self._tick_bytes:
            self._turn(self._tick + self._evicted // self._tick_bytes)
            self._evicted %= self._tick_bytes

    def free(self, slot: int) -> None:
        """Let *slot* be nobody's."""
        self.prints[slot] = 0
        self.offsets[slot] = 0
        self.uses[slot] = 0

    def _turn(self, tick: int) -> None:
        """Let it be *tick*. Ages by use: a ghost's at least 1, a living entry's 0."""
        self._tick = tick = tick % _TICKS
        ages = bytes(1 + (tick - time) % _TICKS for time in range(_TICKS))
        self._ages = bytes([_STALEST]) + bytes(USE_MAX) + ages
