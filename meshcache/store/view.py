"""Reading an arena: any thread of any process, without a lock.

An entry is copied out and then judged by the copy: its checksum says that it is whole
and its key that it is the right one. Only then is it asked whether it still counts:
its tenure, its expiry, and the marks of its cache and its tags. What was overwritten,
moved or changed under the reader's hands is a miss, and so is anything that makes no
sense. A miss because of the checksum is tried once more, since the entry has most
likely just moved.

The one thing a reader writes is the slot's byte of use.

**What makes it safe.** The bytes of an entry stand before the slot that points to it,
and the slot is taken away or moved before they are overwritten. So a slot leads to its
key's entry or, if the reader is slow, to other bytes, and these have another checksum.
The tenure is read before the copy: what is returned was stored and its partition not
sealed at that moment, which lies within the read. Marks come last, in their own order
(marks.py, tags.py). One word of the header says how new the newest of them all is; it
is raised when they are in place, so who finds nothing newer there need not look.

This relies on stores being seen in the order in which they were made, which x86 does;
where they are not (Arm), the checksum is what a half-seen entry meets.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Container, Iterable
from typing import Final, final

from xxhash import xxh3_64_intdigest

from meshcache import native
from meshcache.codec.envelope import MARK, tags_of
from meshcache.hashing import (
    BUCKETS,
    PARTITION_BITS,
    PARTITION_SHIFT,
    PARTITIONS,
    key_hash,
    partition_of,
)
from meshcache.store.generations import Generations
from meshcache.store.index import USE_MAX, Index
from meshcache.store.layout import (
    LAST_BIT,
    MARKS,
    SEALED,
    SEALED_BIT,
    SEALING,
    TENURE_MAX,
    UNIT,
    Layout,
    Words,
    header_of,
)
from meshcache.store.marks import NEWEST, Marks
from meshcache.store.record import (
    FIXED_BYTES,
    STAMP,
    STAMP_AT,
    Entry,
    key_length,
    tenure_of,
    value_length,
)
from meshcache.store.tags import Tags

__all__ = ["BadArena", "Get", "Parts", "Reader", "View", "seal_all", "seal_time"]

Get = Callable[[bytes, int, float], Entry | None]
Walked = tuple[int | None, list[tuple[bytes, int, Entry]]]

_STRIDE: Final = 256
"""Slots that a walk looks at together; most may be free."""

_TENURE: Final = TENURE_MAX  # All bits of the number.
_SHUT: Final = bytes((0, *range(SEALED_BIT, 256)))
"""What stands in the place of a tenure's number where the partition is not held."""


class BadArena(ValueError):
    """The memory is not an arena of this layout, or not whole, or of another boot."""


@final
class Parts:
    """The parts of an arena's memory, as those who read and write it see them."""

    __slots__ = (
        "checksums",
        "generations",
        "header",
        "index",
        "layout",
        "marks",
        "memory",
        "metas",
        "seals",
        "tags",
        "tenures",
    )

    def __init__(
        self, memory: mmap.mmap, header: memoryview[int], layout: Layout
    ) -> None:
        whole = memoryview(memory)
        units = whole[layout.units_at : layout.total]
        self.memory = memory
        self.header = header
        self.layout = layout
        self.generations: memoryview[int] = layout.words_of(
            memory, layout.generations_at, 8 * BUCKETS
        )
        self.seals: memoryview[int] = whole[
            layout.seals_at : layout.seals_at + 4 * PARTITIONS
        ].cast("I")
        self.tenures: memoryview[int] = whole[
            layout.tenures_at : layout.tenures_at + PARTITIONS
        ]
        self.marks = Marks(
            header[Words.CLEARED : Words.CLEARED + 2],
            layout.words_of(memory, layout.marks_at, 16 * MARKS),
        )
        self.tags = Tags(
            header[Words.TAGGED : Words.TAGGED + 2],
            layout.words_of(memory, layout.tags_at, 8 * layout.tag_slots),
        )
        self.index = Index(memory, layout)
        # By offset: an entry's meta is metas[offset], its checksum
        # checksums[2 * offset + 2].
        self.metas: memoryview[int] = units.cast("Q")
        self.checksums: memoryview[int] = units.cast("I")


@final
class Reader:
    """How the entries in an arena's parts are read. Thread-safe.

    `get` is a function, not a method: it is the hot path, and what it looks at is at
    hand in its own variables. `torn` counts checksums that failed twice.
    """

    __slots__ = ("_parts", "find", "get", "torn")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.torn: Final = [0]
        compiled = _compiled(parts, self._tear)
        self.get: Final = compiled or _make_get(parts, _make_get(parts, self._miss))
        # As `Index.find`, for the one writer.
        self.find: Final = (compiled or parts.index).find

    def _tear(self) -> None:
        self.torn[0] += 1

    def _miss(self, key: bytes, hashed: int, now: float) -> None:
        self._tear()

    def peek(self, key: bytes, hashed: int, now: float) -> Entry | None:
        """Return the living entry of *key*, in a sealed partition too; mark nothing."""
        for _ in range(2):
            for slot in self._parts.index.matches(hashed):
                offset = self._parts.index.offsets[slot]
                found = self.at(offset, now) if offset else None
                if found is not None and found[0] == key:
                    return found[2]
        return None

    def walk(
        self, partitions: Container[int], cursor: int, limit: int, now: float
    ) -> Walked:
        """Return living entries of *partitions*: look at about *limit* from *cursor*.

        Sealed or not. With them comes where to go on, or None at the end. What is
        stored anew during the steps of a walk may be seen by it or not.
        """
        index, slots = self._parts.index, self._parts.layout.slots
        end = min(cursor + _STRIDE * max(1, limit), slots)
        found = []
        looked = 0
        while cursor < end and looked < limit:
            stop = min(cursor + _STRIDE, end)
            offsets = index.offsets[cursor:stop].tolist()
            for slot, offset in enumerate(offsets, cursor):
                if not offset:
                    continue
                looked += 1
                item = self.at(offset, now)
                # A slot where the key would not be looked for is no longer the key's.
                if (
                    item is not None
                    and partition_of(item[1]) in partitions
                    and index.belongs(slot, item[1])
                ):
                    found.append(item)
            cursor = stop
        return (cursor if cursor < slots else None), found

    def at(self, offset: int, now: float) -> tuple[bytes, int, Entry] | None:
        """Return key, hash and entry at *offset* if it is whole and alive.

        Alive in the tenure that the partition has or had last, sealed or not.
        """
        parts = self._parts
        try:
            meta = parts.metas[offset]
            checksum = parts.checksums[2 * offset + 2]
        except IndexError:
            return None
        length = key_length(meta)
        start = parts.layout.units_at + UNIT * offset
        end = start + FIXED_BYTES + length + value_length(meta)
        if end > parts.layout.total:
            return None
        body = parts.memory[start + STAMP_AT : end]
        if xxh3_64_intdigest(body) + meta & 0xFFFF_FFFF != checksum:
            return None
        version, expires = STAMP.unpack_from(body)
        key = body[STAMP.size : STAMP.size + length]
        hashed = key_hash(key)
        if (
            not expires > now
            or parts.tenures[partition_of(hashed)] & _TENURE != tenure_of(meta)
            or not tenure_of(meta)
            or (
                version < parts.header[Words.VOID]
                and (
                    parts.marks.covers_key(version, key)
                    or parts.tags.covers(version, tags_of(body, STAMP.size + length))
                )
            )
        ):
            return None
        return key, hashed, Entry(body[STAMP.size + length :], version, expires)


def _compiled(parts: Parts, torn: Callable[[], None]) -> native.Reader | None:
    """Return what reads as `_make_get` does, and finds, if it was compiled."""
    compiled = native.reader()
    if compiled is None:
        return None
    layout, covers_tags = parts.layout, parts.tags.covers
    return compiled(
        parts.memory,
        sets=layout.sets,
        offsets_at=layout.offsets_at,
        prints_at=layout.prints_at,
        uses_at=layout.uses_at,
        units_at=layout.units_at,
        tenures_at=layout.tenures_at,
        void_at=8 * Words.VOID,
        cleared_at=8 * (Words.CLEARED + NEWEST),
        partition_bits=PARTITION_BITS,
        use_max=USE_MAX,
        envelope=MARK[0],
        covers_key=parts.marks.covers_key,
        covers_tags=lambda version, value: covers_tags(version, tags_of(value)),
        entry=Entry,
        torn=torn,
    )


def _make_get(parts: Parts, again: Get) -> Get:
    """Return a function that reads; *again* is asked when a checksum is wrong."""
    memory, layout = parts.memory, parts.layout
    metas, checksums, tenures = parts.metas, parts.checksums, parts.tenures
    offsets, uses = parts.index.offsets, parts.index.uses
    words, void, cleared = parts.header, Words.VOID, Words.CLEARED + NEWEST
    covers_key, covers_tags = parts.marks.covers_key, parts.tags.covers
    enveloped = MARK[0]
    sets, prints_at = layout.sets, layout.prints_at
    body_at, end_at = layout.units_at + STAMP_AT, layout.units_at + FIXED_BYTES
    find, digest, unpack = memory.find, xxh3_64_intdigest, STAMP.unpack_from
    order, shift, make = sys.byteorder, PARTITION_SHIFT, tuple.__new__
    entry_type = Entry

    def get(key: bytes, hashed: int, now: float) -> Entry | None:
        mark = (hashed & 0xFFFF or 1).to_bytes(2, order)
        row = hashed % sets * 32 + prints_at
        at = find(mark, row, row + 32)
        while at >= 0:
            slot = at - prints_at >> 1
            if not at & 1 and (offset := offsets[slot]):
                tenure = tenures[hashed >> shift]
                try:
                    meta = metas[offset]
                    checksum = checksums[2 * offset + 2]
                except IndexError:
                    return None
                length = len(key)
                # A sealed partition's is no entry's number.
                if meta & 0xFFFF_FFFF == tenure | length << 16:
                    start = offset << 3
                    body = memory[
                        body_at + start : end_at + start + length + (meta >> 32)
                    ]
                    if body.startswith(key, 16):
                        if digest(body) + meta & 0xFFFF_FFFF != checksum:
                            return again(key, hashed, now)
                        version, expires = unpack(body)
                        value = body[16 + length :]
                        if not expires > now or (
                            version < words[void]
                            and (
                                (version < words[cleared] and covers_key(version, key))
                                or (
                                    value
                                    and value[0] == enveloped
                                    and covers_tags(version, tags_of(value))
                                )
                            )
                        ):
                            return None
                        if (use := uses[slot]) < USE_MAX:
                            uses[slot] = use + 1
                        return make(entry_type, (value, version, expires))
            at = find(mark, at + 1, row + 32)
        return None

    return get


def seal_time(at: float) -> int:
    """Return a monotonic time as seals have it: hundredths, from 1, for 497 days."""
    return max(1, int(at * 100) & 0xFFFF_FFFF) if at else 0


def seal_all(parts: Parts, at: float = 0.0) -> None:
    """Let no partition be the owner's any more, and every near entry be stale.

    In this order, under `SEALING`: whoever sees a partition sealed, and not that state,
    may let it be written elsewhere, since no near entry of the old value is left.
    """
    tenures = parts.tenures
    time = seal_time(at)
    parts.header[Words.STATE] = SEALING
    for partition, number in enumerate(tenures):
        if 0 < number < SEALED_BIT:
            parts.seals[partition] = time
    tenures[:] = bytes(
        number | SEALED_BIT | LAST_BIT if 0 < number < SEALED_BIT else number
        for number in tenures
    )
    Generations(parts.generations).bump_all()
    parts.header[Words.STATE] = SEALED


@final
class View:
    """Somebody else's arena, as this process sees it. Thread-safe, without a lock.

    `generations` and `tags` are to be read only. *host* is the boot that the caller
    lives in: the expiries in an arena of another boot mean nothing.

    Raises:
        BadArena: the memory is not a whole arena of this layout and this boot.
    """

    __slots__ = (
        "_parts",
        "_reader",
        "epoch",
        "generations",
        "get",
        "host",
        "node_id",
        "peek",
        "tags",
        "walk",
    )

    def __init__(self, memory: mmap.mmap, host: int | None = None) -> None:
        found = header_of(memory)
        if found is None:
            raise BadArena("the memory holds no arena of this layout, or not all of it")
        header, layout = found
        if host is not None and header[Words.HOST] != host:
            raise BadArena("the arena is of another boot of this machine")
        self._parts = parts = Parts(memory, header, layout)
        self._reader = reader = Reader(parts)
        self.host = header[Words.HOST]
        self.node_id = memory[8 * Words.NODE_ID : 8 * Words.NODE_ID + 16]
        self.epoch = header[Words.EPOCH]
        self.generations: Final = parts.generations
        self.tags: Final = parts.tags
        self.get: Final = reader.get
        self.peek: Final = reader.peek
        self.walk: Final = reader.walk

    @property
    def state(self) -> int:
        """OPEN, SEALING or SEALED."""
        return self._parts.header[Words.STATE]

    @property
    def torn(self) -> int:
        """Reads that missed because a checksum was wrong, twice."""
        return self._reader.torn[0]

    def sealed(self, partition: int) -> bool:
        """Whether *partition* is not the owner's: taken away, or never granted.

        And no near entry of it stands any more, in any process.
        """
        number = self._parts.tenures[partition]
        if not number:
            return True
        return number >= SEALED_BIT and self.state != SEALING

    @property
    def standing(self) -> bytes:
        """All that `sealed` goes by: as long as it is the same, so are the answers."""
        return bytes((self.state,)) + self._parts.tenures

    @property
    def holds_any(self) -> bool:
        """Whether any partition is the owner's."""
        numbers = bytes(self._parts.tenures)
        if self.state == SEALING:
            return bool(numbers.strip(b"\0"))
        return bool(numbers.translate(None, _SHUT))

    def ever_held(self, partition: int) -> bool:
        """Whether *partition* has been the owner's at some time."""
        return self._parts.tenures[partition] & _TENURE != 0

    def held_last(self, partition: int) -> bool:
        """Whether *partition* was the owner's until the owner's end."""
        number = self._parts.tenures[partition]
        return bool(number & LAST_BIT) or 0 < number < SEALED_BIT

    def sealed_at(self, partition: int) -> int:
        """Return when *partition* was sealed, as `seal_time` has it; 0 if not told."""
        return self._parts.seals[partition]

    @property
    def used(self) -> bool:
        """Whether anything has ever been stored here."""
        return self._parts.header[Words.USED] != 0

    def ring(self, rung: int = 1) -> None:
        """Tell the owner's threads that somebody waits for them, and what for."""
        self._parts.header[Words.BELL] = rung

    def depose(self, partitions: Iterable[int], at: float) -> None:
        """Seal *partitions* in the place of an owner that is stopped and given up.

        Should it go on, it finds that they are no longer its own.
        """
        for partition in partitions:
            self._parts.seals[partition] = seal_time(at)
            self._parts.tenures[partition] |= SEALED_BIT
        Generations(self.generations).bump_all()

    def seal_all(self, at: float = 0.0) -> None:
        """Seal every partition of an orphan, whose lock the caller holds."""
        seal_all(self._parts, at)
