"""What to keep when there is no room: S3-FIFO with a small queue that adapts.

Two queues, first in, first out. A newcomer enters *small*; what is read twice while
it waits there moves on to *main*, the rest is evicted and leaves a fingerprint among
the ghosts. At the end of main an entry that was read goes round again, with its count
lowered by one; an unread one is evicted. A newcomer that the ghosts remember enters
main directly (Yang et al., "FIFO queues are all you need for cache eviction",
SOSP'23, section 4).

How much of the room is small's is learnt as ARC does (Megiddo and Modha, FAST'03,
section III): a ghost of small's says that small was too short and lets it grow, a
ghost of main's lets it shrink, by one entry's share times the ratio of the two ghost
populations. While the cache fills for the first time, what does not fit small goes
straight to main, so that of a loop much longer than the cache a part stays.

A hit does nothing but raise `visited`: no lock, no list surgery. That is what a
reader on any thread can afford. Everything else belongs to one writer at a time.

Room is counted in entries and in weight, whichever runs out first. A newcomer that is
heavier than small's share empties small before it takes from main, and is the next to
leave: until it has been read it cannot stay at the cost of many others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar, final

from meshcache.store.fifo import Fifo, Queued
from meshcache.store.ghosts import Ghosts, fingerprint, table_bytes

__all__ = ["ALIVE", "VISITED_MAX", "AdaptiveFifo"]

ALIVE: Final = 0
"""The verdict on an entry that may still be used."""

VISITED_MAX: Final = 3
"""Where `visited` stops. More would let an entry that was once popular stay long."""

_PROMOTED_AT: Final = 2
_SMALL_START: Final = 0.10
_SMALL_MIN: Final = 0.01
_SMALL_MAX: Final = 0.95
_STEP_MAX: Final = 8.0

_CHANCES_MAX: Final = 1000
"""Entries that one newcomer may spare before it evicts read ones too: without a
bound, one insertion after a busy time would walk all of main three times."""

_MAIN_GHOSTS: Final = 0.5
"""Ghosts kept of main, per entry in the cache; of small it is one."""

EntryT = TypeVar("EntryT", bound=Queued)


@final
class AdaptiveFifo(Generic[EntryT]):
    """The entries of one cache, by key, within a number and a weight.

    `entries` may be read by any thread at any time; a reader raises `visited` up to
    `VISITED_MAX`. The methods are for one writer at a time.

    `evicted` counts what left for room, and `ghost_hits` newcomers that had done so
    not long before. `dropped` counts by verdict: the living that left for room, and
    the dead that left for room, by `sweep` or by being replaced.

    Args:
        max_entries: the number of entries to keep, at least 1.
        max_weight: the sum of their weights to keep.
        ghosts: about the number of entries expected, for the memory of evicted keys.
        judge: the verdict on an entry at a time: `ALIVE`, or a number below
            *verdicts* that says why it is dead. A dead entry is never spared.
        verdicts: how many verdicts there are.
    """

    __slots__ = (
        "_cursor",
        "_filling",
        "_ghosts_main",
        "_ghosts_small",
        "_judge",
        "_main",
        "_max_entries",
        "_max_weight",
        "_share",
        "_small",
        "_small_entries",
        "_small_weight",
        "dropped",
        "entries",
        "evicted",
        "ghost_hits",
    )

    def __init__(
        self,
        max_entries: int,
        max_weight: int,
        *,
        ghosts: int,
        judge: Callable[[EntryT, float], int],
        verdicts: int,
    ) -> None:
        assert max_entries >= 1
        self.entries: Final[dict[Hashable, EntryT]] = {}
        self.dropped: Final = [0] * verdicts
        self.evicted = 0
        self.ghost_hits = 0
        self._max_entries = max_entries
        self._max_weight = max_weight
        self._judge = judge
        self._small = Fifo()
        self._main = Fifo()
        self._ghosts_small = Ghosts(ghosts)
        self._ghosts_main = Ghosts(int(ghosts * _MAIN_GHOSTS))
        self._filling = True
        self._cursor: Any = self._small  # An entry, or one of the queues.
        self._set_share(_SMALL_START)

    @property
    def weight(self) -> int:
        """The weight of all entries."""
        return self._small.weight + self._main.weight

    @staticmethod
    def overhead(ghosts: int) -> int:
        """Return what the memory of about *ghosts* evicted keys takes, in bytes."""
        return table_bytes(ghosts) + table_bytes(int(ghosts * _MAIN_GHOSTS))

    def store(self, entry: EntryT, now: float) -> None:
        """Keep *entry*, in the place of the one with the same key if there is one."""
        assert entry.weight <= self._max_weight
        old = self.entries.get(entry.key)
        if old is None:
            self._admit(entry, now)
            return
        self._make_room(entry.weight - old.weight, 0, now)
        if self.entries.get(entry.key) is not old:
            # The old one was evicted to make room for the new.
            self._admit(entry, now)
            return
        if (verdict := self._judge(old, now)) != ALIVE:
            self.dropped[verdict] += 1
        self._replace(old, entry)

    def remove(self, key: Hashable) -> EntryT | None:
        """Let the entry of *key* go, without a ghost; return it."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._unlink(entry)
        return entry

    def clear(self) -> None:
        """Let every entry go and fill as if for the first time."""
        self.entries.clear()
        self._small.clear()
        self._main.clear()
        self._cursor = self._small
        self._filling = True

    def sweep(self, now: float, limit: int) -> int:
        """Look at the next *limit* entries and drop the dead; return how many.

        A lap goes from the newest to the oldest of both queues, so what is added
        meanwhile cannot make it endless.
        """
        dropped = 0
        # Two steps of a lap are over the queues themselves.
        for _ in range(min(limit, len(self.entries) + 2)):
            node = self._cursor
            if node is self._small:
                self._cursor = self._main.older
            elif node is self._main:
                self._cursor = self._small.older
            else:
                self._cursor = node.older
                dropped += self._drop_if_dead(node, now)
        return dropped

    def _admit(self, entry: EntryT, now: float) -> None:
        known = not self._filling and self._recall(entry.key)
        self._make_room(entry.weight, 1, now)
        if known or (self._filling and self._small_is_full(entry.weight, 1)):
            self._main.push(entry)
        else:
            self._small.push(entry)
        self.entries[entry.key] = entry

    def _replace(self, old: EntryT, new: EntryT) -> None:
        new.visited = old.visited
        old.queue.replace(old, new)
        if self._cursor is old:
            self._cursor = new
        self.entries[new.key] = new

    def _recall(self, key: Hashable) -> bool:
        """Return whether *key* left a ghost, and learn from which queue it came."""
        mark, count = fingerprint(hash(key)), len(self.entries)
        small, main = self._ghosts_small, self._ghosts_main
        if small.take(mark, count):
            step = main.population / (small.population + 1)
            share = self._share + min(_STEP_MAX, max(1.0, step)) / count
        elif main.take(mark, int(count * _MAIN_GHOSTS)):
            step = small.population / (main.population + 1)
            share = self._share - min(_STEP_MAX, max(1.0, step)) / count
        else:
            return False
        self.ghost_hits += 1
        self._set_share(min(_SMALL_MAX, max(_SMALL_MIN, share)))
        return True

    def _set_share(self, share: float) -> None:
        self._share = share
        self._small_entries = max(1.0, share * self._max_entries)
        self._small_weight = max(1.0, share * self._max_weight)

    def _small_is_full(self, weight: int, count: int) -> bool:
        """Return whether small would be over its share with so much more."""
        small = self._small
        return (
            small.weight + weight > self._small_weight
            or small.count + count > self._small_entries
        )

    def _make_room(self, weight: int, count: int, now: float) -> None:
        """Evict until *weight* and *count* more will fit."""
        entries, small, main = self.entries, self._small, self._main
        chances = _CHANCES_MAX
        while (
            small.weight + main.weight + weight > self._max_weight
            or len(entries) + count > self._max_entries
        ):
            self._filling = False
            if small.count and (not main.count or self._small_is_full(weight, count)):
                entry = small.newer
            else:
                entry = main.newer
            verdict = self._judge(entry, now)
            if verdict == ALIVE and chances and self._spare(entry):
                chances -= 1
                continue
            if verdict == ALIVE:
                self._leave_ghost(entry)
            self.evicted += 1
            self._drop(entry, verdict)

    def _spare(self, entry: EntryT) -> bool:
        """Give the oldest of a queue another round in main, if readers earned it."""
        visited = entry.visited
        if entry.queue is self._small:
            if visited < _PROMOTED_AT:
                return False
            entry.visited = 0
        else:
            if not visited:
                return False
            entry.visited = visited - 1
        self._unlink(entry)
        self._main.push(entry)
        return True

    def _leave_ghost(self, entry: EntryT) -> None:
        mark, count = fingerprint(hash(entry.key)), len(self.entries)
        if entry.queue is self._small:
            self._ghosts_small.add(mark, count)
        else:
            self._ghosts_main.add(mark, int(count * _MAIN_GHOSTS))

    def _drop_if_dead(self, entry: EntryT, now: float) -> bool:
        verdict = self._judge(entry, now)
        if verdict == ALIVE:
            return False
        self._drop(entry, verdict)
        return True

    def _drop(self, entry: EntryT, verdict: int) -> None:
        del self.entries[entry.key]
        self._unlink(entry)
        self.dropped[verdict] += 1

    def _unlink(self, entry: EntryT) -> None:
        if self._cursor is entry:
            self._cursor = entry.older
        entry.queue.take(entry)
