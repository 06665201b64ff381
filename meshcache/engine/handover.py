"""Taking over partitions from another node of this host, straight from its arena.

The old owner *seals* a partition when it learns that it is another's; the mark lies in
its arena, where the new owner sees it. Until then the new owner does not open the
partition, so that no write is taken here while the old value can still be read there.
Then its entries are copied over, a few at a time, with their versions. What is asked
for meanwhile is looked up in the old arena; what was written here meanwhile is not
copied.

The old owner may be dead: its arena outlives it, sealed by whoever found its lock
free, and is read all the same.

A partition that is to be given up while its entries are still arriving is sealed only
when they have all come, so nobody has to look into an arena behind an arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from meshcache.clock import NEVER
from meshcache.codec.envelope import tags_of
from meshcache.engine.owner import Owner
from meshcache.errors import ValueTooLarge
from meshcache.hashing import PARTITIONS, partition_of
from meshcache.model import NodeId
from meshcache.store.arena import Arena
from meshcache.store.record import Entry
from meshcache.store.view import View

__all__ = ["PAUSE", "POLL", "Handover", "Sealed"]

POLL: Final = 0.005
"""Seconds between two looks whether the old owners have sealed what we wait for."""

PAUSE: Final = 0.001
"""Seconds between two helpings of entries, in which the node does its other work."""

HELPING: Final = 128
"""Entries looked at in one go, so that it takes a few milliseconds at most."""

SLOW_POLL: Final = 0.01
"""Seconds, at least, between two looks at each partition that is waited for."""

STRANGERS: Final = 5.0
"""Seconds for which a living node of this host is waited for that membership has not
met. They meet in a second at most, unless one of them stands still, or they look for
their peers in different places."""

MAX_WRITTEN: Final = 1_000_000
"""Keys written here while entries arrive. Beyond, what has not come by then is lost:
a reload each."""


class _Waiting(NamedTuple):
    """A partition that is not open yet, and whose seal opens it."""

    view: View
    node_id: NodeId
    since: float


class Sealed(NamedTuple):
    """A partition that was waited for, since when, and the arena that it is sealed in.

    Without a view nobody has sealed it.
    """

    partition: int
    view: View | None
    since: float


@final
@dataclass(slots=True, eq=False)
class _Source:
    """An arena that entries are taken from, since which version, and how far."""

    view: View
    partitions: set[int]
    since: int
    cursor: int = 0


@final
@dataclass(slots=True)
class _Counts:
    """What has been taken over, from the node's start."""

    sources: int = 0
    entries: int = 0
    found: int = 0
    unsealed: int = 0


@final
class Handover:
    """What this node is taking over. Confined to the driver thread.

    Attributes:
        gave_up_at: when something of ours was last given up, or taken away.

    Args:
        store: of this node.
        owner: likewise.
        patience: seconds after which an old owner that membership has given up counts
            as sealed, and requests are no longer held back.
    """

    def __init__(self, store: Arena, owner: Owner, patience: float) -> None:
        self._store = store
        self._owner = owner
        self._patience = patience
        self._waiting: dict[int, _Waiting] = {}
        # What those who are waited for looked like, and until when nothing else can
        # end the wait.
        self._standing: dict[View, bytes] = {}
        self._idle_until = 0.0
        self._expected: set[int] = set()
        self._expected_since = 0.0
        self._sources: list[_Source] = []
        self._arriving: set[int] = set()
        self._leaving: set[int] = set()
        self.gave_up_at = float("-inf")
        self.counts = _Counts()

    @property
    def waiting(self) -> bool:
        """Whether some partition is not open yet."""
        return bool(self._waiting or self._expected)

    @property
    def arriving(self) -> bool:
        """Whether entries are on their way here."""
        return bool(self._sources)

    @property
    def settled(self) -> bool:
        """Whether nothing is waited for and nothing arrives."""
        return not self.waiting and not self._sources

    @property
    def pause(self) -> float:
        """Seconds until there is something to do again."""
        return PAUSE if self._sources else POLL

    # --- waiting for the seal ----------------------------------------------------

    def wait(self, partition: int, view: View, node_id: NodeId, now: float) -> None:
        """Open *partition* only when the arena of its old owner shows it sealed."""
        self._expected.discard(partition)
        self._waiting[partition] = _Waiting(view, node_id, now)
        self._standing[view] = b""

    def parted(self) -> None:
        """Hear that membership has given somebody up."""
        self._idle_until = 0.0

    def met(self, node_id: NodeId, now: float) -> None:
        """Hear that the owner waited for is met only now: patience begins anew."""
        for partition, waiting in self._waiting.items():
            if waiting.node_id == node_id:
                self._waiting[partition] = waiting._replace(since=now)

    def expect(self, partition: int, now: float) -> None:
        """Open *partition* only when discovery has said who else there is."""
        self._expected.add(partition)
        self._expected_since = now

    def expect_all(self, now: float) -> None:
        """Open every partition only when discovery has said who else there is."""
        self._expected = set(range(PARTITIONS))
        self._expected_since = now

    def opened(self, partition: int) -> None:
        """Take note that *partition* is open."""
        self._expected.discard(partition)
        self._waiting.pop(partition, None)

    def opened_all(self) -> None:
        """Take note that every partition is open."""
        self._expected.clear()
        self._waiting.clear()

    def holds_back(self, partition: int, now: float) -> bool:
        """Whether a request for *partition* had better come again in a moment."""
        if partition in self._expected:
            return now - self._expected_since < self._patience
        waiting = self._waiting.get(partition)
        return waiting is not None and now - waiting.since < self._patience

    def sealed(
        self, now: float, *, alone: bool, gone: Callable[[NodeId, float], bool]
    ) -> list[Sealed]:
        """Return, once, the partitions that nobody is waited for any more.

        An old owner that is *gone*, after it was waited for since then, is deposed.
        *alone* tells that discovery found nobody.
        """
        found = []
        if self._expected and (alone or now - self._expected_since >= self._patience):
            since = self._expected_since
            found = [Sealed(p, None, since) for p in sorted(self._expected)]
            self._expected.clear()
        if self._is_idle(now):
            return found
        deposed: dict[View, list[int]] = {}
        for partition, (view, node_id, since) in list(self._waiting.items()):
            if not view.sealed(partition):
                if not gone(node_id, since):
                    self._idle_until = min(self._idle_until, self._due(since, now))
                    continue
                deposed.setdefault(view, []).append(partition)
                self.counts.unsealed += 1
            found.append(Sealed(partition, view, since))
            del self._waiting[partition]
        for view, partitions in deposed.items():
            view.depose(partitions, now)
        return found

    def _is_idle(self, now: float) -> bool:
        """Whether nobody has sealed anything, and nobody's time is over.

        To look at every partition takes milliseconds.
        """
        standing = {view: view.standing for view in self._standing}
        if standing == self._standing and now < self._idle_until:
            return True
        views = {waiting.view for waiting in self._waiting.values()}
        self._standing = {v: s for v, s in standing.items() if v in views}
        self._idle_until = NEVER
        return False

    def _due(self, since: float, now: float) -> float:
        """Return when an owner that has been waited for may be waited for no more."""
        patience = since + self._patience
        due = patience if patience > now else since + STRANGERS
        # One that lives and is known is waited for without an end.
        return max(due + POLL, now + SLOW_POLL)

    def awaits(self, partition: int) -> bool:
        """Whether *partition* is ours and not open yet, for a reason."""
        return partition in self._waiting or partition in self._expected

    def waits(self, since: float, now: float, *, stranger: bool) -> bool:
        """Whether patience lasts with an owner that has been waited for since then."""
        return now - since < (STRANGERS if stranger else self._patience)

    # --- entries arriving --------------------------------------------------------

    def adopt(self, view: View, partitions: Iterable[int], now: float) -> None:
        """Begin to copy what *view* has of *partitions*, all of them sealed there."""
        if not view.used:
            return
        source = _Source(view, set(partitions), self._owner.stamp(now))
        self._sources.append(source)
        self._arriving |= source.partitions
        self.counts.sources += 1
        with self._store.lock:
            if self._owner.wrote is None:
                self._owner.wrote = set()

    def arrives(self, partition: int) -> bool:
        """Whether entries of *partition* are on their way here."""
        return partition in self._arriving

    def find(self, key: bytes, hashed: int, now: float) -> Entry | None:
        """Return an entry that has not arrived yet, and let it arrive."""
        partition = partition_of(hashed)
        if partition not in self._arriving:
            return None
        for source in self._sources:
            if partition in source.partitions:
                entry = source.view.peek(key, hashed, now)
                if entry is not None and self._take(source, key, hashed, entry, now):
                    self.counts.found += 1
                    return entry
        return None

    def step(self, now: float) -> None:
        """Copy one helping of entries."""
        if not self._sources:
            return
        source = self._sources[0]
        following, entries = source.view.walk(
            source.partitions, source.cursor, HELPING, now
        )
        for key, hashed, entry in entries:
            self._take(source, key, hashed, entry, now)
        if following is None or self._too_much():
            self._end(source, now)
        else:
            source.cursor = following

    def _take(
        self, source: _Source, key: bytes, hashed: int, entry: Entry, now: float
    ) -> bool:
        with self._store.lock:
            written = self._owner.wrote
            if written is not None and hashed in written:
                return False
            if self._store.get(key, hashed, now) is not None:
                return False
            if self._store.tagged_over(source.since, tags_of(entry.value)):
                # We were told since it set out, and where it lies maybe nobody was.
                return False
            self._owner.observe(entry.version, now)
            try:
                stored = self._store.put(
                    key,
                    hashed,
                    entry.value,
                    # What a broken clock has stamped must not outlive our own writes.
                    version=min(entry.version, self._owner.stamp(now)),
                    expires=entry.expires,
                    now=now,
                )
            except ValueTooLarge:
                return False
        self.counts.entries += stored
        return stored

    def _too_much(self) -> bool:
        written = self._owner.wrote
        return written is not None and len(written) > MAX_WRITTEN

    def _end(self, source: _Source, now: float) -> None:
        self._sources.remove(source)
        self._arriving = set().union(*(s.partitions for s in self._sources))
        gone = {p for p in self._leaving if p not in self._arriving}
        self._leaving -= gone
        with self._store.lock:
            if not self._sources:
                self._owner.wrote = None
            if gone:
                self.seal(gone, now)

    # --- giving up ---------------------------------------------------------------

    def give_up(self, partition: int) -> bool:
        """Whether *partition* is sealed by us later, when its entries have arrived."""
        self._waiting.pop(partition, None)
        self._expected.discard(partition)
        if partition not in self._arriving:
            return False
        self._leaving.add(partition)
        return True

    def seal(self, partitions: Iterable[int], now: float) -> None:
        """Give up *partitions* for good, under the store's lock."""
        self._store.give_up(partitions, now)
        self.gave_up_at = now

    def keep(self, partition: int) -> bool:
        """Whether *partition* was to be given up, has not been, and is ours again."""
        if partition not in self._leaving:
            return False
        self._leaving.discard(partition)
        return True
