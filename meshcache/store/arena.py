"""A node's range store, in one block of memory that other processes can read.

It holds what this node owns (and keeps for others). The block is a file that every
process of the host may map, or private memory of the same layout (layout.py). No
Python object exists per entry, and the bound is exact, all overhead included.

**What stays when there is no room** is S3-FIFO's choice (Yang et al., "FIFO queues are
all you need for cache eviction", SOSP'23, section 4), its queues being two rings of
bytes. A newcomer is appended to *small*. What was read twice when it reaches small's
tail is copied to *main*; the rest is evicted and its slot in the index stays as its
ghost. A newcomer whose ghost is fresh goes to main at once. At main's tail an entry
that was read is appended again, its count lowered by one; an unread one is evicted,
without a ghost.

An entry dies by expiry, by a clear, with its tenure, or by being replaced. None of
that is looked for: readers judge what they copied, and the dead fall out at the tails.

**Killed at any byte** of a write, the writer leaves the old entry, the new one or none.
An entry's bytes are in place before the slot points to them, a replaced entry's slot
is switched by one store, and a slot is taken away or moved before the bytes that it
points to are written over. What else a reader may meet: view.py.

**Memory that was damaged** from outside costs entries. Every length at a tail is held
against the ring; where it makes no sense the ring begins anew, empty.
"""

from __future__ import annotations

import mmap
import sys
from _thread import RLock
from collections.abc import Collection, Iterable
from typing import Final, final

from meshcache.codec.envelope import MAX_HEAD, tags_of
from meshcache.errors import ValueTooLarge
from meshcache.hashing import PARTITION_SHIFT, PARTITIONS, key_hash, partition_of
from meshcache.store.generations import Generations
from meshcache.store.index import UNREAD, USE_MAX
from meshcache.store.layout import (
    SEALED_BIT,
    SEALING,
    TENURE_MAX,
    UNIT,
    Layout,
    Words,
    format_memory,
)
from meshcache.store.log import Ring
from meshcache.store.marks import NEWEST as CLEARED_NEWEST
from meshcache.store.record import (
    FIXED_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    PAD,
    STAMP,
    STAMP_AT,
    Entry,
    Fields,
    encode,
    extent,
    tenure_of,
)
from meshcache.store.tags import NEWEST
from meshcache.store.view import Parts, Reader, seal_all, seal_time

__all__ = ["Arena", "Entry", "private"]

_PROMOTED_AT: Final = UNREAD + 2

_CHANCES_MAX: Final = 128
"""Entries that one write may spare before it evicts read ones too."""

_LARGE: Final = 1 / 4
"""The share of small from which on an entry goes to main: it would push out too many
newcomers before they can prove themselves."""

_SHORT_KEY: Final = 400
_USED: Final = Words.USED
_VOID: Final = Words.VOID
_CHUNK: Final = 4096
_COUNTS: Final = (
    "evicted_dead",
    "evicted_unexpired",
    "expired",
    "cleared",
    "revoked_dropped",
    "superseded",
    "index_conflicts",
    "ghost_hits",
    "promoted",
    "reinserted",
    "refused_too_large",
    "resets",
)


def private(max_bytes: int) -> mmap.mmap:
    """Return zeroed memory of this process alone, as large as the layout needs."""
    size = Layout.for_bytes(max_bytes).total
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@final
class Arena:
    """One node's entries by key, in a memory that it formats for itself.

    `hashed` is always `key_hash(key)`, which the caller has at hand. `generations`
    belong to the entries, but it is the engine that moves them.

    `bell` is one number, set to 1 by a sibling that waits for this process. `tenures`
    has a number for each partition, which tells whether it is ours; it is to be read.

    `get`, `peek`, `walk` and `granted` are thread-safe. All else is for one at a time:
    callers hold `lock` around it.
    """

    __slots__ = (
        "_chances",
        "_counts",
        "_covers_key",
        "_end",
        "_entries",
        "_find",
        "_grants",
        "_header",
        "_index",
        "_large",
        "_main",
        "_max_value_bytes",
        "_memory",
        "_metas",
        "_parts",
        "_reader",
        "_short_value",
        "_small",
        "_units_at",
        "bell",
        "generations",
        "get",
        "lock",
        "peek",
        "tags",
        "tenures",
        "walk",
    )

    def __init__(
        self,
        memory: mmap.mmap,
        layout: Layout,
        *,
        node_id: bytes,
        epoch: int,
        host: int,
        max_value_bytes: int,
    ) -> None:
        header = format_memory(memory, layout, node_id=node_id, epoch=epoch, host=host)
        self._parts = parts = Parts(memory, header, layout)
        self._reader = reader = Reader(parts)
        self._index = parts.index
        at, cut = layout.units_at, 1 + layout.small_bytes // UNIT
        self._small = Ring(memory, parts.metas, at, 1, layout.small_bytes)
        self._main = Ring(memory, parts.metas, at, cut, layout.main_bytes)
        self._large = int(layout.small_bytes * _LARGE)
        self._max_value_bytes = max_value_bytes
        # Values below this, with keys below _SHORT_KEY, need no closer look.
        self._short_value = min(max_value_bytes, layout.main_bytes // 2)
        # Of the parts, what each write looks at.
        self._memory = memory
        self._metas = parts.metas
        self._covers_key = parts.marks.covers_key
        self._units_at = layout.units_at
        self._end = len(parts.metas) - (FIXED_BYTES // UNIT)
        self._entries = 0
        self._chances = 0
        # Of each partition, the times it was granted since `_drop_dead` went round.
        self._grants = bytearray(PARTITIONS)
        self._counts = dict.fromkeys(_COUNTS, 0)
        self.generations: Final = Generations(parts.generations)
        self._header = parts.header
        self.bell: Final = parts.header[Words.BELL : Words.BELL + 1]
        self.lock: Final = RLock()
        self.tags: Final = parts.tags
        self.tenures: Final = parts.tenures
        self.get: Final = reader.get
        self._find = reader.find
        self.peek: Final = reader.peek
        self.walk: Final = reader.walk

    def put(
        self,
        key: bytes,
        hashed: int,
        value: bytes,
        *,
        version: int,
        expires: float,
        now: float,
    ) -> bool:
        """Store *value*; return whether it is now the truth about *key*.

        It is not, and nothing has changed, if the partition is not ours, if the cache
        or one of the value's tags was cleared at this version or later, or if a greater
        version is stored. A value that has expired already leaves nothing stored.

        Raises:
            ValueTooLarge: the value is over `max_value_bytes`, or over the store.
        """
        if len(value) > self._short_value or len(key) > _SHORT_KEY:
            self._check_size(key, value)
        if not 0 < self.tenures[hashed >> PARTITION_SHIFT] < SEALED_BIT:
            return False
        # Nothing is marked above that word.
        if version < self._header[_VOID] and self._is_void(version, key, value):
            return False
        slot, offset = found = self._find(key, hashed)
        if offset:
            at = self._units_at + UNIT * offset + STAMP_AT
            stored = STAMP.unpack_from(self._memory, at)[0]
            if stored > version and self._stands(offset, version, now):
                return False
        if expires > now:
            self._store(key, hashed, (value, version, expires), found, now)
        elif offset:
            self._drop(slot, self._verdict(offset, key, hashed, now))
        return True

    def touch(
        self, key: bytes, hashed: int, expires: float, now: float
    ) -> Entry | None:
        """Let the entry of *key* live until *expires*; return it as it is now."""
        old = self.get(key, hashed, now)
        slot, offset = self._find(key, hashed)
        if old is None or not offset:
            return None
        entry = old._replace(expires=expires)
        if expires > now:
            self._store(key, hashed, entry, (slot, offset), now)
        else:
            self._drop(slot, "")
        return entry

    def remove(self, key: bytes, hashed: int, now: float) -> Entry | None:
        """Forget *key*; return its entry if it was alive."""
        entry = self.get(key, hashed, now)
        slot, offset = self._find(key, hashed)
        if offset:
            self._drop(slot, self._verdict(offset, key, hashed, now))
        return entry

    def granted(self, partition: int) -> bool:
        """Whether *partition* is ours."""
        return 0 < self.tenures[partition] < SEALED_BIT

    def grant(self, partition: int) -> int:
        """Own *partition* from now on, empty. If it is ours, nothing changes.

        Returns:
            what `forgo` wants to undo this.
        """
        tenures = self._parts.tenures
        before = tenures[partition]
        if self.granted(partition):
            return before
        if self._grants[partition] >= TENURE_MAX - 1:
            # The next number may be that of entries which are still in the logs. One
            # round serves all partitions: they often change hands together.
            self._drop_dead()
        self._grants[partition] += 1
        tenures[partition] = (before & TENURE_MAX) % TENURE_MAX + 1
        return before

    def grant_all(self) -> None:
        """Own every partition from now on: the first grant of a new arena."""
        assert not any(self._grants)
        self._parts.tenures[:] = self._grants = bytearray(b"\1") * PARTITIONS

    @property
    def untouched(self) -> bool:
        """Whether no partition has ever been granted."""
        return not any(self._grants) and not any(self._parts.tenures)

    def forgo(self, partition: int, before: int) -> None:
        """Undo a grant under which nothing was stored."""
        self._parts.tenures[partition] = before

    def reopen(self, partition: int, before: int) -> None:
        """Undo such a grant and the seal before it: what we held then counts again."""
        self._parts.tenures[partition] = before & TENURE_MAX

    def revoke(self, partition: int, at: float = 0.0) -> None:
        """Own *partition* no longer: its entries are dead, but for importers.

        *at* is the time now, for those who ask who held it last.
        """
        self._parts.seals[partition] = seal_time(at)
        self._parts.tenures[partition] |= SEALED_BIT

    def sealed_at(self, partition: int) -> int:
        """Return when *partition* was revoked last, as `seal_time` has it, or 0."""
        return self._parts.seals[partition]

    def give_up(self, partitions: Iterable[int], at: float) -> None:
        """Revoke *partitions* and end all near entries, before others see the seals."""
        header = self._parts.header
        state = header[Words.STATE]
        header[Words.STATE] = SEALING
        for partition in partitions:
            self.revoke(partition, at)
        self.generations.bump_all()
        header[Words.STATE] = state

    def clear(self, cache: bytes, version: int) -> None:
        """Let every entry of *cache* up to *version* be dead, stored or yet to come."""
        self._parts.marks.mark(cache, version)
        self._have_looked()

    def mark_tags(self, tags: Collection[int], version: int) -> None:
        """Let all with one of *tags* up to *version* be dead, stored or yet to come."""
        self.tags.mark(tags, version)
        self._have_looked()

    def _have_looked(self) -> None:
        """Have readers look at the marks, which are in place."""
        header = self._header
        newest = header[Words.CLEARED + CLEARED_NEWEST], header[Words.TAGGED + NEWEST]
        header[Words.VOID] = max(newest)

    def tagged_over(self, version: int, tags: Iterable[int]) -> bool:
        """Whether one of *tags* was marked at *version* or above, as far as is known.

        Never wrong when it was; now and then True when it was not (tags.py).
        """
        return self.tags.covers(version, tags)

    def seal_all(self, at: float = 0.0) -> None:
        """Own nothing any more, and let every near entry be stale: on leaving."""
        seal_all(self._parts, at)

    def stats(self) -> dict[str, int]:
        """Return the counters; `evicted_unexpired` is the one to size the store by.

        `expired`, `cleared` and `revoked_dropped` count the dead that were removed,
        replaced or reclaimed; `evicted` counts all that left for room, dead or alive.
        """
        used = self._small.used + self._main.used
        live = max(0, min(used, self._small.live + self._main.live))
        total = self._parts.layout.total
        counts = dict(self._counts)
        dead = counts.pop("evicted_dead")
        return counts | {
            "evicted": dead + counts["evicted_unexpired"],
            "entries": self._entries,
            "bytes_live": live,
            "bytes_dead": used - live,
            "bytes": total,
            "max_bytes": total,
            "checksum_misses": self._reader.torn[0],
        }

    # --- one key --------------------------------------------------------------

    def _check_size(self, key: bytes, value: bytes) -> None:
        room = min(self._main.size - FIXED_BYTES - len(key), MAX_VALUE_BYTES)
        limit = min(self._max_value_bytes, room)
        if len(value) <= limit and len(key) <= MAX_KEY_BYTES:
            return
        self._counts["refused_too_large"] += 1
        if len(key) > MAX_KEY_BYTES:
            raise ValueTooLarge(
                f"a key of {len(key)} bytes, its cache's name included, is over the "
                f"limit of {MAX_KEY_BYTES}; pass less, or a digest of it"
            )
        setting = "max_value_bytes" if limit == self._max_value_bytes else "max_bytes"
        raise ValueTooLarge(
            f"a value of {len(value)} bytes is over the limit of {limit} that "
            f"{setting} sets; raise it, or store less under one key"
        )

    def _is_void(self, version: int, key: bytes, value: bytes) -> bool:
        """Whether a value's cache, or one of its tags, was cleared at its version."""
        return self._covers_key(version, key) or self.tagged_over(
            version, tags_of(value)
        )

    def _stands(self, offset: int, version: int, now: float) -> bool:
        """Whether the entry at *offset* is alive and of a version above *version*.

        Only what proves itself may stand in the way.
        """
        found = self._reader.at(offset, now)
        return found is not None and found[2].version > version

    def _verdict(self, offset: int, key: bytes, hashed: int, now: float) -> str:
        """Return why the entry at *offset* is dead, as its counter, or nothing."""
        at = self._units_at + UNIT * offset + STAMP_AT
        version, expires = STAMP.unpack_from(self._memory, at)
        if not expires > now:
            return "expired"
        if self._metas[offset] & 0xFF != self.tenures[hashed >> PARTITION_SHIFT]:
            return "revoked_dropped"
        if version < self._header[_VOID] and (
            self._covers_key(version, key) or self._is_untagged(offset, version)
        ):
            return "cleared"
        return ""

    def _is_untagged(self, offset: int, version: int) -> bool:
        """Whether the entry at *offset* bears a tag that is void at its version."""
        start = self._units_at + UNIT * offset + FIXED_BYTES
        start += self._metas[offset] >> 16 & 0xFFFF
        return self.tagged_over(
            version, tags_of(self._memory[start : start + MAX_HEAD])
        )

    def _store(
        self, key: bytes, hashed: int, entry: Fields, found: tuple[int, int], now: float
    ) -> None:
        """Store *entry* in the place of what the index found."""
        index = self._index
        record = encode(self.tenures[hashed >> PARTITION_SHIFT], key, entry)
        size = len(record) + UNIT - 1 & -UNIT
        slot, offset = found
        ring, use = self._small, UNREAD
        if offset:
            use = self._use_again(slot, offset)
        elif slot >= 0 and index.is_fresh(slot):
            self._counts["ghost_hits"] += 1
            ring = self._main
        if size > self._large:
            ring = self._main
        self._chances = _CHANCES_MAX
        while not ring.fits(size):
            self._reclaim(ring, now)
        # The old one may have moved meanwhile, or gone and left us its slot.
        if offset and (old := index.offsets[slot]):
            self._counts[self._verdict(old, key, hashed, now) or "superseded"] += 1
            self._gone(old)
        elif slot < 0:
            slot = self._seat(hashed)
        self._header[_USED] = 1
        placed = ring.append(record, size)
        ring.live += size
        self._entries += 1
        index.publish(slot, hashed, placed, use)

    def _use_again(self, slot: int, offset: int) -> int:
        """Return the use of a key that is stored anew.

        It goes through small whatever ring it is in, or keys that are often written
        would drive all others out of main with their dead. Who comes from main has a
        right to return there.
        """
        use = self._index.uses[slot]
        if offset < self._main.first or use > _PROMOTED_AT:
            return use
        return _PROMOTED_AT

    def _seat(self, hashed: int) -> int:
        """Return a slot for a new key; evict what is there if nothing better is."""
        slot = self._index.seat(hashed)
        offset = self._index.offsets[slot]
        if offset:
            self._count("index_conflicts")
            self._count("evicted_unexpired")
            self._index.free(slot)
            self._gone(offset)
        return slot

    def _drop(self, slot: int, verdict: str) -> None:
        """Let the entry in *slot* go, which is dead for a reason or not."""
        offset = self._index.offsets[slot]
        if verdict:
            self._count(verdict)
        self._index.free(slot)
        self._gone(offset)

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    def _gone(self, offset: int) -> None:
        """Count one entry less. In damaged memory it may be that none was there."""
        self._entries -= 1
        if offset < self._end:
            ring = self._small if offset < self._main.first else self._main
            ring.live -= extent(self._metas[offset])

    # --- room -----------------------------------------------------------------

    def _reclaim(self, ring: Ring, now: float) -> None:
        """Let the ring's oldest go, or on to main's head."""
        offset, meta, size = ring.oldest()
        if not size:
            self._reset(ring)
            return
        key = b"" if meta & PAD else self._index.key_at(offset)
        hashed = key_hash(key)
        # Most are not pointed to: their keys were stored again since.
        slot = self._index.pointing(hashed, offset) if key else -1
        if slot < 0:
            ring.tail += size
        elif verdict := self._verdict(offset, key, hashed, now):
            self._count("evicted_dead")
            self._drop(slot, verdict)
            ring.tail += size
        elif ring is self._small:
            self._leave_small(slot, offset, size, now)
        else:
            self._leave_main(slot, offset, size)

    def _leave_small(self, slot: int, offset: int, size: int, now: float) -> None:
        """Copy the oldest of small to main if it was read enough, else evict it."""
        small, main, index = self._small, self._main, self._index
        if index.uses[slot] < _PROMOTED_AT and (main.full or not main.fits(size)):
            main.full = True
            index.bury(slot, size)
            self._evicted(small, size)
            return
        while not main.fits(size):
            self._reclaim(main, now)
        placed = main.append(self._record(offset, size), size)
        index.uses[slot] = UNREAD
        index.offsets[slot] = placed
        self._counts["promoted"] += 1
        small.live -= size
        main.live += size
        small.tail += size

    def _leave_main(self, slot: int, offset: int, size: int) -> None:
        """Append the oldest of main again if it was read, else evict it."""
        main, index = self._main, self._index
        main.full = True
        use = min(index.uses[slot], USE_MAX)
        if use <= UNREAD or not self._chances:
            index.free(slot)
            self._evicted(main, size)
            return
        self._chances -= 1
        record = self._record(offset, size)
        if main.fits_barely(size):
            index.offsets[slot] = main.append(record, size)
            main.tail += size
        else:
            # Its own bytes will be written over.
            index.offsets[slot] = 0
            main.tail += size
            if not main.fits_barely(size):
                main.tail -= size
                index.free(slot)
                self._evicted(main, size)
                return
            index.offsets[slot] = main.append(record, size)
        index.uses[slot] = use - 1
        self._counts["reinserted"] += 1

    def _record(self, offset: int, size: int) -> bytes:
        at = self._units_at + UNIT * offset
        return self._memory[at : at + size]

    def _evicted(self, ring: Ring, size: int) -> None:
        """Take note that the oldest of *ring* has left for room, alive."""
        self._counts["evicted_unexpired"] += 1
        self._entries -= 1
        ring.live -= size
        ring.tail += size

    # --- what takes a walk ----------------------------------------------------

    def _reset(self, ring: Ring) -> None:
        """Empty *ring*, in which something was damaged."""
        self._counts["resets"] += 1
        index, entries = self._index, 0
        for first in range(0, len(index.offsets), _CHUNK):
            offsets = index.offsets[first : first + _CHUNK].tolist()
            for slot, offset in enumerate(offsets, first):
                if ring.first <= offset < ring.last:
                    index.free(slot)
                elif offset and index.prints[slot]:
                    entries += 1
        self._entries = entries
        ring.restart()

    def _drop_dead(self) -> None:
        """Drop every entry whose tenure is not its partition's last."""
        index, tenures = self._index, self._parts.tenures
        for slot in range(len(index.offsets)):
            offset = index.offsets[slot]
            key = index.key_at(offset) if offset else b""
            if not key:
                continue
            number = tenures[partition_of(key_hash(key))] & TENURE_MAX
            if tenure_of(self._parts.metas[offset]) != number:
                self._counts["revoked_dropped"] += 1
                index.free(slot)
                self._gone(offset)
        self._grants = bytearray(PARTITIONS)
