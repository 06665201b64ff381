"""A process's own small cache of decoded objects: what a read asks first.

A hit is a dict lookup, an expiry check, a generation check and a mark. It takes no
lock and allocates nothing, so any thread may do it, and the memoizer spells it out
in its own body instead of calling `Near.get`; `shelf` is its region's own:

    entry = shelf.entries.get(key)
    if (
        entry is not None
        and entry.expires > now
        and entry.tenure.table[entry.bucket] == entry.generation
    ):
        if entry.visited < VISITED_MAX:
            entry.visited += 1
        return entry.value

What makes that safe against a writer on another thread: an entry is made whole before
it enters the dict and never changes what it answers, so the reader has the entry of
its key or none; and it judges what it found by the counters of this very moment, so
an entry that was replaced or evicted meanwhile is used only while it is still right.

Writers take a lock. It is the one lock below `transport`: near belongs to the
application's threads, and the driver thread never touches it. It can be re-entered,
because a collected object's finalizer or a signal handler may run in the middle of a
writer and call the cache; such a call finds the cache busy and leaves its queues
alone.
"""

from __future__ import annotations

from _thread import RLock
from array import array
from collections.abc import Hashable
from typing import Any, Final, Protocol, TypeAlias, final

from meshcache.model import MISSING, Missing
from meshcache.store.fifo import Queued
from meshcache.store.generations import Stamp, Tenure
from meshcache.store.policy import ALIVE, VISITED_MAX, AdaptiveFifo, Shelf

__all__ = ["VISITED_MAX", "Near", "NearEntry", "NearShelf"]


_STALE: Final = 1
_DOOR: Final = 2
"""Keys that were asked for lately and are remembered, for each entry that is kept."""

_ENDED: Final = float("-inf")


@final
class NearEntry(Queued):
    """A decoded value, until when it may be used, and the stamp it was read under.

    `expires` may be lowered, to end the entry early; nothing else of what a reader
    looks at ever changes.
    """

    __slots__ = ("bucket", "expires", "generation", "tenure", "value")

    # Set by `Near.put` alone; a constructor would double what making one takes.
    value: Any
    expires: float
    tenure: Tenure
    bucket: int
    generation: int


NearShelf: TypeAlias = Shelf[NearEntry]


class Lock(Protocol):
    """What `Near` asks of a lock; a thread that holds it may take it again."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(self, *_: object) -> None: ...


@final
class Near:
    """Decoded objects by key, at most *max_entries* and *max_bytes* of weight.

    An entry's weight is the length of its encoded value, which is what is known of
    its size. `puts` counts what was stored, `refused` what was not: its stamp no longer
    stood, it had expired, or it was heavier than the whole cache.

    Thread-safe.
    """

    __slots__ = (
        "_busy",
        "_door",
        "_door_size",
        "_lock",
        "_max_bytes",
        "_policy",
        "entries",
        "puts",
        "refused",
    )

    def __init__(
        self,
        max_entries: int,
        max_bytes: int,
        *,
        lock: Lock | None = None,
    ) -> None:
        if max_entries == 0:
            # Turned off: whatever comes is heavier than nothing, and refused.
            max_entries, max_bytes = 1, -1
        self._policy: AdaptiveFifo[NearEntry] = AdaptiveFifo(
            max_entries,
            max_bytes,
            ghosts=max_entries,
            judge=_judge,
            verdicts=2,
        )
        self.entries: Final = self._policy.entries
        self._max_bytes = max_bytes
        self._door: array[int] | None = None
        self._door_size = _DOOR * max_entries
        self._lock: Any = RLock() if lock is None else lock
        self._busy = False
        self.puts = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._policy)

    @property
    def evicted_unexpired(self) -> int:
        """Good entries that were removed for room: many say that it is too small."""
        return self._policy.dropped[ALIVE]

    @property
    def evictions(self) -> int:
        """Entries that were removed for room, good or not."""
        return self._policy.evicted

    @property
    def stale_dropped(self) -> int:
        """Entries already expired or invalidated when removed for room or replaced."""
        return self._policy.dropped[_STALE]

    @property
    def weight(self) -> int:
        """The weight of all entries."""
        return self._policy.weight

    def admits(self, hashed: int) -> bool:
        """Return whether what is cheap to read again is worth keeping.

        While there is room, always; after that when it was asked for not long ago. Most
        keys that are read once are not read again soon, and to keep one costs as much
        as to read it from another process's memory (TinyLFU's doorkeeper, TOS'17,
        section 3.4.2). Threads that ask at once may both be told either.

        Args:
            hashed: the hash of the key as the cluster knows it.
        """
        door = self._door
        if door is None:
            return True
        slot = hashed % len(door)
        if door[slot] == hashed:
            return True
        door[slot] = hashed
        return False

    def shelf(self, name: str) -> NearShelf:
        """Return the shelf of that name: keys of their own, in the same room."""
        with self._lock:
            return self._policy.shelf(name)

    def get(
        self, key: Hashable, now: float, shelf: NearShelf | None = None
    ) -> Any | Missing:
        """Return the value of *key* on *shelf*, or `MISSING`."""
        entry = (self.entries if shelf is None else shelf.entries).get(key)
        if (
            entry is None
            or entry.expires <= now
            or entry.tenure.table[entry.bucket] != entry.generation
        ):
            return MISSING
        if entry.visited < VISITED_MAX:
            entry.visited += 1
        return entry.value

    def put(
        self,
        key: Hashable,
        value: object,
        *,
        expires: float,
        stamp: Stamp,
        weight: int,
        now: float,
        shelf: NearShelf | None = None,
    ) -> None:
        """Keep *value*, which was read under *stamp*; not if that no longer stands."""
        entry = NearEntry()
        entry.key = key
        entry.weight = weight
        entry.visited = 0
        entry.value = value
        entry.expires = expires
        entry.tenure, entry.bucket, entry.generation, _ = stamp
        # Bare calls: `with` takes twice as long, and this is on the path of every read
        # that is not answered near.
        self._lock.acquire()
        try:
            if self._busy:
                return
            self._busy = True
            try:
                self._put(entry, now, shelf)
            except BaseException:
                self._policy.clear()
                raise
            finally:
                self._busy = False
        finally:
            self._lock.release()

    def discard(self, key: Hashable, shelf: NearShelf | None = None) -> None:
        """Forget *key*, if it is here."""
        with self._lock:
            if self._busy:
                entries = self.entries if shelf is None else shelf.entries
                self._end(entries.get(key))
                return
            self._busy = True
            try:
                self._policy.remove(key, shelf)
            except BaseException:
                self._policy.clear()
                raise
            finally:
                self._busy = False

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            if self._busy:
                for shelf in self._policy.shelves():
                    for entry in list(shelf.entries.values()):
                        self._end(entry)
                return
            self._busy = True
            try:
                self._policy.clear()
            finally:
                self._busy = False

    def _put(self, entry: NearEntry, now: float, shelf: NearShelf | None) -> None:
        policy = self._policy
        if shelf is not None and shelf.policy is not policy:
            # The caller's region has moved to another node meanwhile.
            shelf = policy.shelf(shelf.name)
        stands = entry.tenure.table[entry.bucket] == entry.generation
        if not stands or entry.expires <= now or entry.weight > self._max_bytes:
            self.refused += 1
            if stands:
                # It is newer than what is here, though it cannot be kept itself.
                policy.remove(entry.key, shelf)
            return
        policy.store(entry, now, shelf)
        self.puts += 1
        if self._door is None and policy.evicted:
            self._door = array("Q", bytes(8 * self._door_size))

    @staticmethod
    def _end(entry: NearEntry | None) -> None:
        if entry is not None:
            entry.expires = _ENDED


def _judge(entry: NearEntry, now: float) -> int:
    if entry.expires <= now or entry.tenure.table[entry.bucket] != entry.generation:
        return _STALE
    return ALIVE
