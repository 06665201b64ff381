"""A queue of entries that can also leave from the middle.

The links lie in the entries themselves, so pushing, taking and replacing are a few
assignments and no allocation.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

__all__ = ["Fifo", "Queued"]


class Queued:
    """An entry with its place in a queue; the base of what a cache keeps.

    `visited` is raised by readers, without a lock: two at once may lose a count or
    pass the maximum by one, and neither matters. All else is the writer's. An object
    is never used for a second key, so that a reader who found it just before it was
    evicted still holds the key's own value.

    Subclasses set `key`, `weight` and `visited = 0`; the policy sets `shelf`, where
    the entry is found; the queue sets its three links.
    """

    __slots__ = ("key", "newer", "older", "queue", "shelf", "visited", "weight")

    key: Hashable
    shelf: Any
    weight: int
    visited: int
    queue: Fifo
    # A neighbour is an entry or the queue itself; only the queue's owner can tell.
    newer: Any
    older: Any


@final
class Fifo(Queued):
    """A ring of entries that starts and ends at the queue itself.

    Its own `newer` is the oldest entry and its `older` the newest, or the queue itself
    when it is empty; `weight` is that of all its entries, `count` their number.
    Confined to its cache's writers.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.weight = self.count = 0
        self.newer = self.older = self

    def push(self, entry: Queued) -> None:
        """Add *entry*, which is in no queue, as the newest."""
        last = self.older
        entry.older = last
        entry.newer = self
        entry.queue = self
        last.newer = entry
        self.older = entry
        self.count += 1
        self.weight += entry.weight

    def take(self, entry: Queued) -> None:
        """Let *entry*, which is in this queue, go from wherever it stands."""
        entry.older.newer = entry.newer
        entry.newer.older = entry.older
        self.count -= 1
        self.weight -= entry.weight

    def replace(self, old: Queued, new: Queued) -> None:
        """Put *new*, which is in no queue, where *old* stands."""
        new.older = old.older
        new.newer = old.newer
        new.queue = self
        new.older.newer = new
        new.newer.older = new
        self.weight += new.weight - old.weight

    def clear(self) -> None:
        """Let every entry go.

        Each link is cut: neighbours hold each other, and a value should not have to
        wait for the garbage collector.
        """
        entry = self.newer
        while entry is not self:
            following = entry.newer
            entry.newer = entry.older = entry
            entry = following
        self.newer = self.older = self
        self.count = self.weight = 0
