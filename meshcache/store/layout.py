"""Where everything lies in an arena's memory, and the header that says so.

    header       one page: what this is, whose, for which boot, how large the parts are
    generations  a counter for each bucket of keys
    tenures      a byte for each partition: its tenure's number, high bit = sealed
    marks        which caches were cleared, up to which version
    index        sets of 16 slots, as three arrays: offsets, fingerprints, uses
    tags         which tags were invalidated, up to which version
    logs         two rings of entries, small and main

All numbers are in the machine's byte order: the memory never leaves the host, and the
header has a word that reads wrong in the other order. Offsets count units of 8 bytes;
unit 1 is the first of the logs, so that offset 0 says "no entry".
"""

from __future__ import annotations

import mmap
from typing import Final, NamedTuple

from meshcache.errors import ConfigError
from meshcache.hashing import BUCKETS, PARTITIONS

__all__ = [
    "LAST_BIT",
    "MARKS",
    "OPEN",
    "SEALED",
    "SEALED_BIT",
    "SEALING",
    "SLOT_BYTES",
    "TENURE_MAX",
    "UNIT",
    "WAYS",
    "Layout",
    "Words",
    "format_memory",
    "header_of",
]

UNIT: Final = 8
"""What entries are aligned to, in bytes."""

WAYS: Final = 16
"""Slots of a set of the index: all the places where a key's entry can be noted."""

SLOT_BYTES: Final = 64
"""Bytes of log for each slot of the index (docs/decisions/0007-the-arena.md)."""

MARKS: Final = 4096
"""Places for the marks of caches that were cleared."""

TAG_SLOTS_MIN: Final = 1024
TAG_SLOTS_MAX: Final = 65_536
_TAG_SHARE: Final = 1 / 128
"""Of all bytes, what slots for the marks of tags take at most, within these bounds."""

SMALL_SHARE: Final = 0.10
"""How much of the logs is the small ring's (Yang et al., SOSP'23, section 4.1)."""

OPEN: Final = 1
SEALED: Final = 2
SEALING: Final = 3
"""The states; 0 is a memory that is being formatted. While it is sealing, partitions
are marked whose near entries have not been ended yet."""

SEALED_BIT: Final = 0x80
LAST_BIT: Final = 0x40
"""Set beside the seal on what the owner held until its end (`seal_all`)."""

TENURE_MAX: Final = 63
"""The greatest number of a tenure, and the mask for it; 0 is before the first."""

_PAGE: Final = 4096
_MAGIC: Final = int.from_bytes(b"mcarena\2", "big")
_ORDER: Final = 0x0102_0304_0506_0708
_GENERATIONS_AT: Final = _PAGE
_TENURES_AT: Final = _GENERATIONS_AT + 8 * BUCKETS
_MARKS_AT: Final = _TENURES_AT + PARTITIONS
_SEALS_AT: Final = _MARKS_AT + 16 * MARKS
_OFFSETS_AT: Final = _SEALS_AT + 4 * PARTITIONS
_SET_BYTES: Final = WAYS * (4 + 2 + 1)
_LOGS_MAX: Final = 8 << 32
_LOGS_MIN: Final = 1024


class Words:
    """The numbers of the header's words of 8 bytes."""

    MAGIC: Final = 0
    ORDER: Final = 1
    HOST: Final = 2
    NODE_ID: Final = 3  # Two words.
    EPOCH: Final = 5
    SETS: Final = 6
    SMALL_BYTES: Final = 7
    MAIN_BYTES: Final = 8
    STATE: Final = 9
    CLEARED: Final = 10  # Two words, see marks.py.
    BELL: Final = 12
    USED: Final = 13
    TAGGED: Final = 14  # Two words, see tags.py.
    TAG_SLOTS: Final = 16
    VOID: Final = 17  # The newest of all marks, of caches and of tags.


class Layout(NamedTuple):
    """The sizes of the parts that differ; all positions follow from them, in bytes."""

    sets: int
    small_bytes: int
    main_bytes: int
    tag_slots: int = TAG_SLOTS_MIN

    @classmethod
    def for_bytes(cls, max_bytes: int) -> Layout:
        """Return the largest layout that lies within *max_bytes*, all included.

        Raises:
            ConfigError: too little for anything, or more than offsets can address.
        """
        tag_slots = _tag_slots(max_bytes)
        tables = _OFFSETS_AT + 8 * tag_slots
        room = max_bytes // _PAGE * _PAGE - tables
        sets = room // (_SET_BYTES + WAYS * SLOT_BYTES)
        # Odd: a set is the hash modulo their number, a fingerprint its lowest bits,
        # and the two shall have nothing in common.
        sets -= not sets & 1
        logs = room - sets * _SET_BYTES
        if sets < 1 or logs < _LOGS_MIN:
            raise ConfigError(
                f"max_bytes is {max_bytes}; the store's own tables take "
                f"{tables}, so nothing would fit: give it 2 MB or more"
            )
        if logs >= _LOGS_MAX:
            raise ConfigError(
                f"max_bytes is {max_bytes}; one arena holds {_LOGS_MAX} at most: "
                "start more nodes, each with less"
            )
        small = int(logs * SMALL_SHARE) // UNIT * UNIT
        return cls(sets, small, logs - small, tag_slots)

    @property
    def slots(self) -> int:
        """The number of slots in the index."""
        return self.sets * WAYS

    @property
    def generations_at(self) -> int:
        """A counter of 8 bytes for each bucket."""
        return _GENERATIONS_AT

    @property
    def tenures_at(self) -> int:
        """A byte for each partition."""
        return _TENURES_AT

    @property
    def seals_at(self) -> int:
        """Where it says when each partition was sealed."""
        return _SEALS_AT

    @property
    def marks_at(self) -> int:
        """Two words for each mark."""
        return _MARKS_AT

    @property
    def offsets_at(self) -> int:
        """4 bytes for each slot."""
        return _OFFSETS_AT

    @property
    def prints_at(self) -> int:
        """The fingerprints, 2 bytes for each slot."""
        return _OFFSETS_AT + 4 * self.slots

    @property
    def uses_at(self) -> int:
        """A byte for each slot."""
        return self.prints_at + 2 * self.slots

    @property
    def tags_at(self) -> int:
        """8 bytes for each slot of the tags."""
        return _OFFSETS_AT + _SET_BYTES * self.sets

    @property
    def logs_at(self) -> int:
        """Both rings, small first."""
        return self.tags_at + 8 * self.tag_slots

    @property
    def total(self) -> int:
        """The size of it all."""
        return self.logs_at + self.small_bytes + self.main_bytes

    @property
    def units_at(self) -> int:
        """Where unit 0 would lie: `units_at + UNIT * offset` is an entry's place."""
        return self.logs_at - UNIT

    def words_of(self, memory: mmap.mmap, start: int, size: int) -> memoryview[int]:
        """Return *size* bytes of *memory* as words of 8 bytes."""
        return memoryview(memory)[start : start + size].cast("Q")


def _tag_slots(max_bytes: int) -> int:
    """Return how many slots an arena of that size has for tags, a power of two."""
    wanted = max(TAG_SLOTS_MIN, min(int(max_bytes * _TAG_SHARE) // 8, TAG_SLOTS_MAX))
    return 1 << wanted.bit_length() - 1


def format_memory(
    memory: mmap.mmap, layout: Layout, *, node_id: bytes, epoch: int, host: int
) -> memoryview[int]:
    """Make *memory* an empty arena and return its header.

    The magic number comes last: a reader sees all of the arena or none.
    """
    header = memoryview(memory)[:_PAGE].cast("Q")
    header[Words.MAGIC] = 0
    zeros = bytes(_PAGE)
    # Pages that are zero already are left alone: they may have no memory behind them.
    for start in range(0, layout.logs_at, _PAGE):
        size = min(_PAGE, layout.logs_at - start)
        if memory[start : start + size] != zeros[:size]:
            memory[start : start + size] = zeros[:size]
    header[Words.ORDER] = _ORDER
    header[Words.HOST] = host
    memory[8 * Words.NODE_ID : 8 * Words.NODE_ID + 16] = node_id
    header[Words.EPOCH] = epoch
    header[Words.SETS] = layout.sets
    header[Words.SMALL_BYTES] = layout.small_bytes
    header[Words.MAIN_BYTES] = layout.main_bytes
    header[Words.TAG_SLOTS] = layout.tag_slots
    header[Words.STATE] = OPEN
    header[Words.MAGIC] = _MAGIC
    return header


def header_of(memory: mmap.mmap) -> tuple[memoryview[int], Layout] | None:
    """Return the header and layout of *memory* if it is an arena, whole."""
    size = len(memory)
    if size < _OFFSETS_AT:
        return None
    header = memoryview(memory)[:_PAGE].cast("Q")
    layout = Layout(
        header[Words.SETS],
        header[Words.SMALL_BYTES],
        header[Words.MAIN_BYTES],
        header[Words.TAG_SLOTS],
    )
    if (
        header[Words.MAGIC] != _MAGIC
        or header[Words.ORDER] != _ORDER
        or layout.sets < 1
        or not TAG_SLOTS_MIN <= layout.tag_slots <= TAG_SLOTS_MAX
        or layout.tag_slots & layout.tag_slots - 1
        or layout.small_bytes % UNIT
        or layout.main_bytes % UNIT
        or layout.small_bytes + layout.main_bytes >= _LOGS_MAX
        or layout.total != size
    ):
        return None
    return header, layout
