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
from typing import Final, Generic, TypeVar, final
from weakref import WeakValueDictionary

from meshcache.store.fifo import Fifo, Queued
from meshcache.store.ghosts import Ghosts, table_bytes

__all__ = ["ALIVE", "VISITED_MAX", "AdaptiveFifo", "Shelf"]

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

_MAIN_GHOSTS_SHIFT: Final = 1
"""Ghosts kept of main: a half for each entry in the cache; of small it is one."""

EntryT = TypeVar("EntryT", bound=Queued)


@final
class Shelf(Generic[EntryT]):
    """Some of a cache's entries, with keys of their own; room is of the whole cache.

    So a reader that knows its shelf finds an entry by a plain key, where one dict for
    all would need a tuple made and hashed at each look. One without a policy is empty
    for ever.
    """

    __slots__ = ("__weakref__", "entries", "name", "policy")

    def __init__(self, name: str, policy: AdaptiveFifo[EntryT] | None = None) -> None:
        self.name: Final = name
        self.policy: Final = policy
        self.entries: Final[dict[Hashable, EntryT]] = {}


@final
class AdaptiveFifo(Generic[EntryT]):
    """The entries of one cache, by shelf and key, within a number and a weight.

    A shelf's `entries` may be read by any thread at any time; a reader raises
    `visited` up to `VISITED_MAX`. The methods are for one writer at a time. There is
    always one shelf without a name; `entries` is what lies there.

    `evicted` counts what left for room, and `ghost_hits` newcomers that had done so
    not long before. `dropped` counts by verdict: the living that left for room, and
    the dead that left for room or by being replaced.

    Args:
        max_entries: the number of entries to keep, at least 1.
        max_weight: the sum of their weights to keep.
        ghosts: about the number of entries expected, for the memory of evicted keys.
        judge: the verdict on an entry at a time: `ALIVE`, or a number below
            *verdicts* that says why it is dead. A dead entry is never spared.
        verdicts: how many verdicts there are.
    """

    __slots__ = (
        "_filling",
        "_ghosts_main",
        "_ghosts_small",
        "_judge",
        "_main",
        "_max_entries",
        "_max_weight",
        "_share",
        "_shelf",
        "_shelves",
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
        # Weak, so that a shelf is forgotten with its last entry and its last reader.
        self._shelves: WeakValueDictionary[str, Shelf[EntryT]] = WeakValueDictionary()
        self._shelf = self.shelf("")
        self.entries: Final = self._shelf.entries
        self.dropped: Final = [0] * verdicts
        self.evicted = 0
        self.ghost_hits = 0
        self._max_entries = max_entries
        self._max_weight = max_weight
        self._judge = judge
        self._small = Fifo()
        self._main = Fifo()
        self._ghosts_small = Ghosts(ghosts)
        self._ghosts_main = Ghosts(ghosts >> _MAIN_GHOSTS_SHIFT)
        self._filling = True
        self._set_share(_SMALL_START)

    def __len__(self) -> int:
        return self._small.count + self._main.count

    @property
    def weight(self) -> int:
        """The weight of all entries."""
        return self._small.weight + self._main.weight

    @staticmethod
    def overhead(ghosts: int) -> int:
        """Return what the memory of about *ghosts* evicted keys takes, in bytes."""
        return table_bytes(ghosts) + table_bytes(ghosts >> _MAIN_GHOSTS_SHIFT)

    def shelf(self, name: str) -> Shelf[EntryT]:
        """Return the shelf of that name. It exists as long as somebody holds it."""
        found = self._shelves.get(name)
        if found is None:
            found = self._shelves[name] = Shelf(name, self)
        return found

    def store(
        self, entry: EntryT, now: float, shelf: Shelf[EntryT] | None = None
    ) -> None:
        """Keep *entry*, in the place of the one with the same key if there is one.

        This is written out, down to the queue's links, because it is on the path of
        every read that is not answered near.
        """
        weight, small, main = entry.weight, self._small, self._main
        assert weight <= self._max_weight
        entry.shelf = shelf = self._shelf if shelf is None else shelf
        old = shelf.entries.get(entry.key)
        if old is not None and self._renew(old, entry, now):
            return
        known = not self._filling and self._recall(hash((shelf.name, entry.key)))
        self._make_room(weight, 1, now)
        if known or (self._filling and self._small_is_full(weight, 1)):
            queue = main
        else:
            queue = small
        entry.older = last = queue.older
        entry.newer = entry.queue = queue
        last.newer = queue.older = entry
        queue.count += 1
        queue.weight += weight
        shelf.entries[entry.key] = entry

    def remove(
        self, key: Hashable, shelf: Shelf[EntryT] | None = None
    ) -> EntryT | None:
        """Let the entry of *key* go, without a ghost; return it."""
        entry = (self._shelf if shelf is None else shelf).entries.pop(key, None)
        if entry is not None:
            self._unlink(entry)
        return entry

    def clear(self) -> None:
        """Let every entry go and fill as if for the first time."""
        for shelf in self.shelves():
            shelf.entries.clear()
        self._small.clear()
        self._main.clear()
        self._filling = True

    def shelves(self) -> list[Shelf[EntryT]]:
        """Return all shelves on which an entry may lie."""
        return list(self._shelves.values())

    def _renew(self, old: EntryT, new: EntryT, now: float) -> bool:
        """Put *new* where *old* is; return False if there is no room but by its going.

        What has then to be done is what is done with a newcomer.
        """
        self._make_room(new.weight - old.weight, 0, now)
        entries = old.shelf.entries
        if entries.get(old.key) is not old:
            return False
        if (verdict := self._judge(old, now)) != ALIVE:
            self.dropped[verdict] += 1
        new.visited = old.visited
        old.queue.replace(old, new)
        entries[new.key] = new
        return True

    def _recall(self, hashed: int) -> bool:
        """Return whether a key left a ghost, and learn from which queue it came."""
        count = self._small.count + self._main.count
        small, main = self._ghosts_small, self._ghosts_main
        if small.take(hashed, count):
            step = main.population / (small.population + 1)
            share = self._share + min(_STEP_MAX, max(1.0, step)) / count
        elif main.take(hashed, count >> _MAIN_GHOSTS_SHIFT):
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
        small, main, judge = self._small, self._main, self._judge
        over = small.count + main.count + count - self._max_entries
        over_weight = small.weight + main.weight + weight - self._max_weight
        chances = _CHANCES_MAX
        while over > 0 or over_weight > 0:
            self._filling = False
            if small.count and (
                small.count + count > self._small_entries
                or small.weight + weight > self._small_weight
                or not main.count
            ):
                entry, promoted_at = small.newer, _PROMOTED_AT
            else:
                entry, promoted_at = main.newer, 1
            verdict = judge(entry, now)
            if verdict == ALIVE and entry.visited >= promoted_at and chances:
                chances -= 1
                self._spare(entry)
                continue
            over -= 1
            over_weight -= entry.weight
            self._evict(entry, verdict)

    def _spare(self, entry: EntryT) -> None:
        """Give the oldest of a queue another round in main, as readers earned it."""
        entry.visited = 0 if entry.queue is self._small else entry.visited - 1
        self._unlink(entry)
        self._main.push(entry)

    def _evict(self, entry: EntryT, verdict: int) -> None:
        """Let the oldest of a queue go for room; remember its key if it was alive."""
        key, shelf, queue, newer = entry.key, entry.shelf, entry.queue, entry.newer
        if verdict == ALIVE:
            hashed = hash((shelf.name, key))
            if queue is self._small:
                self._ghosts_small.add(hashed, queue.count + self._main.count)
            else:
                reach = queue.count + self._small.count >> _MAIN_GHOSTS_SHIFT
                self._ghosts_main.add(hashed, reach)
        del shelf.entries[key]
        queue.newer = newer
        newer.older = queue
        queue.count -= 1
        queue.weight -= entry.weight
        self.evicted += 1
        self.dropped[verdict] += 1

    def _unlink(self, entry: EntryT) -> None:
        older, newer = entry.older, entry.newer
        older.newer = newer
        newer.older = older
        queue = entry.queue
        queue.count -= 1
        queue.weight -= entry.weight
