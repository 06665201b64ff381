"""A node's range store in the memory of this process: encoded values by key.

It holds what this node owns (and keeps for others), within `max_bytes` with all
overhead counted. An entry dies in one of four ways, and only the first is looked for:

- expired: its time is over;
- cleared: its cache was cleared at a version not below its own;
- revoked: it was stored under a tenure of its partition that is over;
- evicted: there was no room.

The first three are judged at each read, so granting, revoking and clearing cost the
same whatever the number of entries. The dead fall out when they come up for eviction
or when `sweep` passes them.

**Why a reader needs no lock.** One thread writes; any thread may call `get`. An
entry is an immutable tuple; storing a key anew makes a new one and puts it into the
dict with one assignment, so that a reader has the old one or the new one, whole. What
may go wrong is an entry judged by marks that are newer or older than itself:

1. Reader finds the entry; writer revokes, clears or replaces it; reader judges. It
   sees the mark and misses, or does not and returns what was right when it began.
2. Writer revokes a partition and grants it again, then reader judges an entry found
   before. The tenure's number has risen, so the entry is dead.
3. Reader finds an entry that was cleared; writer walks the store, drops it and
   forgets the mark that made it dead; reader judges and would return it. So a reader
   takes hold of the marks *before* it looks for the entry, and forgetting replaces
   them by a new object: who holds the new marks cannot find the old entry any more.

The arena stands behind the same methods.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from typing import Final, NamedTuple, final

from meshcache.errors import ConfigError, ValueTooLarge
from meshcache.hashing import BUCKETS, PARTITIONS, key_hash, partition_of
from meshcache.store.fifo import Queued
from meshcache.store.generations import Generations
from meshcache.store.policy import ALIVE, VISITED_MAX, AdaptiveFifo

__all__ = ["ENTRY_BYTES", "MAX_CLEARED", "Entry", "MemoryStore"]

ENTRY_BYTES: Final = 448
"""What an entry takes beside its key and value: 326 for its objects, and 52 to 120 for
the dict, which is largest just after it has grown among evictions (CPython 3.11)."""

MAX_CLEARED: Final = 1024
"""Caches whose clearing is remembered. Beyond, the store is walked once and the marks
are forgotten."""

_TABLE_BYTES: Final = (8 + 32) * (PARTITIONS + BUCKETS)
"""The tenures and the generations: lists, with an integer in each place."""

_BYTES_PER_GHOST: Final = 1024
"""Room for one evicted key's fingerprint for so much of the store."""

_EXPIRED: Final = 1
_CLEARED: Final = 2
_REVOKED: Final = 3
_VERDICTS: Final = 4


class Entry(NamedTuple):
    """An encoded value, the version of its write, and when it expires (monotonic)."""

    value: bytes
    version: int
    expires: float


@final
class _Stored(Queued):
    __slots__ = ("entry", "tenure")

    key: bytes

    def __init__(self, key: bytes, entry: Entry, tenure: int) -> None:
        self.key = key
        self.entry = entry
        self.tenure = tenure
        self.weight = ENTRY_BYTES + len(key) + len(entry.value)
        self.visited = 0


@final
class _Clears:
    """Up to which version each cache was cleared, and the greatest of these."""

    __slots__ = ("newest", "versions")

    def __init__(self) -> None:
        self.newest = -1
        self.versions: dict[bytes, int] = {}

    def covers(self, key: bytes, version: int) -> bool:
        """Return whether *key*'s cache was cleared at *version* or later.

        A cache `a|b` is a part of `a`, and cleared with it.
        """
        cache = key.partition(b"\0")[0]
        whole = cache.partition(b"|")[0]
        versions = self.versions
        return version <= max(versions.get(cache, -1), versions.get(whole, -1))


@final
class MemoryStore:
    """Entries by key, in at most *max_bytes* with all overhead.

    `hashed` is always `key_hash(key)`, which the caller has at hand. `generations`
    belong to the entries, but it is the engine that moves them: a write does, a fill
    of a missing key does not.

    `get` is thread-safe; everything else is confined to the driver thread.
    """

    __slots__ = (
        "_clears",
        "_fixed_bytes",
        "_forgotten",
        "_max_bytes",
        "_max_value_bytes",
        "_policy",
        "_stored",
        "_tenures",
        "_too_large",
        "generations",
    )

    def __init__(self, max_bytes: int, max_value_bytes: int) -> None:
        ghosts = max_bytes // _BYTES_PER_GHOST
        self._fixed_bytes = _TABLE_BYTES + AdaptiveFifo.overhead(ghosts)
        if max_bytes <= self._fixed_bytes + ENTRY_BYTES:
            raise ConfigError(
                f"max_bytes is {max_bytes}; the store's own tables take "
                f"{self._fixed_bytes}, so nothing would fit: give it 2 MB or more"
            )
        self.generations: Final = Generations()
        # A list: its integers are shared by the entries; an array makes new ones.
        self._tenures = [0] * PARTITIONS
        self._clears = _Clears()
        self._forgotten = -1
        self._max_bytes = max_bytes
        self._max_value_bytes = max_value_bytes
        self._too_large = 0
        self._policy: AdaptiveFifo[_Stored] = AdaptiveFifo(
            sys.maxsize,
            max_bytes - self._fixed_bytes,
            ghosts=ghosts,
            judge=self._judge,
            verdicts=_VERDICTS,
        )
        self._stored: Final = self._policy.entries

    def get(self, key: bytes, hashed: int, now: float) -> Entry | None:
        """Return the entry of *key* if it is alive."""
        clears = self._clears  # Before the lookup: see 3 above.
        stored = self._stored.get(key)
        if stored is None:
            return None
        entry = stored.entry
        if (
            entry.expires <= now
            or self._tenures[partition_of(hashed)] != stored.tenure
            or (entry.version <= clears.newest and clears.covers(key, entry.version))
        ):
            return None
        if stored.visited < VISITED_MAX:
            stored.visited += 1
        return entry

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
        was cleared at this version or later, or if a greater version is stored. A
        value that has expired already leaves nothing stored.

        Raises:
            ValueTooLarge: the value is over `max_value_bytes`, or over the store.
        """
        self._check_size(key, value)
        tenure = self._tenures[partition_of(hashed)]
        if tenure <= 0 or version <= self._forgotten or self._is_cleared(key, version):
            return False
        old = self._stored.get(key)
        if (
            old is not None
            and old.entry.version > version
            and self._judge(old, now) == ALIVE
        ):
            return False
        if expires <= now:
            self._drop(key, now)
        else:
            entry = Entry(value, version, expires)
            self._policy.store(_Stored(key, entry, tenure), now)
        return True

    def touch(
        self, key: bytes, hashed: int, expires: float, now: float
    ) -> Entry | None:
        """Let the entry of *key* live until *expires*; return it as it is now."""
        old = self.get(key, hashed, now)
        if old is None:
            return None
        entry = old._replace(expires=expires)
        tenure = self._tenures[partition_of(hashed)]
        if expires <= now:
            self._drop(key, now)
        else:
            self._policy.store(_Stored(key, entry, tenure), now)
        return entry

    def remove(self, key: bytes, hashed: int, now: float) -> Entry | None:
        """Forget *key*; return its entry if it was alive."""
        entry = self.get(key, hashed, now)
        self._drop(key, now)
        return entry

    def grant(self, partition: int, tenure: int) -> None:
        """Own *partition* from now on, empty. *tenure* is above all earlier ones.

        Granting the present tenure again changes nothing.
        """
        present = self._tenures[partition]
        assert tenure == present or tenure > abs(present)
        self._tenures[partition] = tenure

    def revoke(self, partition: int) -> None:
        """Own *partition* no longer: its entries are dead."""
        # The last tenure stays, negated, so that a later one can be seen to be above.
        self._tenures[partition] = -abs(self._tenures[partition])

    def clear(self, cache: bytes, version: int) -> None:
        """Let every entry of *cache* up to *version* be dead, stored or yet to come."""
        clears = self._clears
        if cache not in clears.versions and len(clears.versions) >= MAX_CLEARED:
            clears = self._forget_clears()
        clears.versions[cache] = max(version, clears.versions.get(cache, -1))
        # Last: a reader that sees it finds the cache's own version in place.
        clears.newest = max(version, clears.newest)

    def sweep(self, now: float, limit: int) -> int:
        """Look at the next *limit* entries and drop the dead; return how many."""
        return self._policy.sweep(now, limit)

    def entries(
        self, partitions: Container[int], now: float
    ) -> Iterator[tuple[bytes, Entry]]:
        """Yield the living entries of *partitions*, for a handover.

        One walk over the whole store, so ask for all partitions at once. The store
        may change between two items: what is gone by then is left out, and what has
        come is not seen.
        """
        for key in [stored.key for stored in self._stored.values()]:
            hashed = key_hash(key)
            stored = self._stored.get(key)
            if (
                partition_of(hashed) in partitions
                and stored is not None
                and self._judge(stored, now) == ALIVE
            ):
                yield key, stored.entry

    def stats(self) -> dict[str, int]:
        """Return the counters; `evicted_unexpired` is the one to size the store by.

        `expired`, `cleared` and `revoked_dropped` count the dead that were removed or
        replaced; `evicted` counts all that left for room, dead or alive.
        """
        dropped = self._policy.dropped
        return {
            "entries": len(self._stored),
            "bytes": self._fixed_bytes + self._policy.weight,
            "max_bytes": self._max_bytes,
            "evicted": self._policy.evicted,
            "evicted_unexpired": dropped[ALIVE],
            "expired": dropped[_EXPIRED],
            "cleared": dropped[_CLEARED],
            "revoked_dropped": dropped[_REVOKED],
            "refused_too_large": self._too_large,
            "ghost_hits": self._policy.ghost_hits,
        }

    def _judge(self, stored: _Stored, now: float) -> int:
        if stored.entry.expires <= now:
            return _EXPIRED
        if self._tenures[partition_of(key_hash(stored.key))] != stored.tenure:
            return _REVOKED
        if self._is_cleared(stored.key, stored.entry.version):
            return _CLEARED
        return ALIVE

    def _is_cleared(self, key: bytes, version: int) -> bool:
        clears = self._clears
        return version <= clears.newest and clears.covers(key, version)

    def _check_size(self, key: bytes, value: bytes) -> None:
        room = self._max_bytes - self._fixed_bytes - ENTRY_BYTES - len(key)
        limit = min(self._max_value_bytes, room)
        if len(value) <= limit:
            return
        self._too_large += 1
        setting = "max_value_bytes" if limit == self._max_value_bytes else "max_bytes"
        raise ValueTooLarge(
            f"a value of {len(value)} bytes is over the limit of {limit} that "
            f"{setting} sets; raise it, or store less under one key"
        )

    def _drop(self, key: bytes, now: float) -> None:
        stored = self._policy.remove(key)
        if stored is not None and (verdict := self._judge(stored, now)) != ALIVE:
            self._policy.dropped[verdict] += 1

    def _forget_clears(self) -> _Clears:
        """Drop all that was cleared, then the marks; return the new, empty ones.

        What was cleared must not come back by a late `put`, such as a handover's. The
        one number that stays refuses it, and with it any other that is as old: the
        store may forget, but not return what is wrong.
        """
        for stored in list(self._stored.values()):
            if self._is_cleared(stored.key, stored.entry.version):
                self._policy.remove(stored.key)
                self._policy.dropped[_CLEARED] += 1
        self._forgotten = max(self._forgotten, self._clears.newest)
        self._clears = _Clears()
        return self._clears
