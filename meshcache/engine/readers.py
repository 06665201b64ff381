"""Telling readers what has changed: numbered notes along the way they came.

A reader is a connection that has asked this node for values and may keep them near.
Each write moves a generation bucket; the buckets moved during one input of the engine
go out as one note to every reader, ahead of the write's own answer. Notes are numbered
for each reader, and an empty one is sent at every beat, so that a reader who lost one
finds out within `BEAT` seconds (Hazelcast's near-cache repair, by sequence and UUID).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from meshcache.codec.mail import Reply, Route
from meshcache.codec.messages import Invalidate
from meshcache.model import Member

__all__ = ["BEAT", "READER_IDLE", "SILENCE", "Readers"]

BEAT: Final = 1.0
"""Seconds between two signs of life to a reader."""

SILENCE: Final = 3 * BEAT
"""Seconds without a note after which a reader trusts nothing it holds of an owner's:
the longest that a near entry can outlive an invalidation that was lost."""

READER_IDLE: Final = 120.0
"""Seconds after which a reader that asked for nothing is told nothing any more."""

MAX_READERS: Final = 65_536


@final
class Readers:
    """Who reads from this node, and what they must be told."""

    __slots__ = ("_dirty", "_everything", "_me", "_readers")

    def __init__(self, me: Member) -> None:
        self._me = me
        self._readers: dict[Route, list[float]] = {}
        self._dirty: set[int] = set()
        self._everything = False

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, route: Route, now: float) -> bool:
        """Note that *route* reads; False if there are too many to tell all of them.

        Whoever is not told must not keep what it reads for longer than `SILENCE`,
        and does not: it hears no beat.
        """
        reader = self._readers.get(route)
        if reader is not None:
            reader[1] = now
            return True
        if len(self._readers) >= MAX_READERS:
            return False
        self._readers[route] = [0, now]
        return True

    def drop(self, route: Route) -> None:
        """Forget a reader whose connection is gone."""
        self._readers.pop(route, None)

    def moved(self, bucket: int) -> None:
        """Note that a generation bucket has moved."""
        self._dirty.add(bucket)

    def moved_all(self) -> None:
        """Note that every bucket has moved."""
        self._everything = True

    def flush(self) -> Iterator[Reply]:
        """Yield the notes that are due, if anything has moved."""
        if not self._dirty and not self._everything:
            return
        everything = self._everything
        buckets = () if everything else tuple(sorted(self._dirty))
        self._dirty.clear()
        self._everything = False
        for route, reader in self._readers.items():
            reader[0] += 1
            yield Reply(route, self._note(int(reader[0]), buckets, everything))

    def beat(self, now: float) -> Iterator[Reply]:
        """Yield a sign of life for every reader, and drop the idle ones.

        Those are told to trust nothing. One that came back before it had missed the
        beats, and had heard of no write before, would find its number right otherwise.
        """
        idle = [r for r, (_, used) in self._readers.items() if now - used > READER_IDLE]
        for route in idle:
            number, _ = self._readers.pop(route)
            yield Reply(route, self._note(int(number) + 1, (), everything=True))
        for route, (number, _) in self._readers.items():
            yield Reply(route, self._note(int(number), (), everything=False))

    def _note(
        self,
        number: int,
        buckets: tuple[int, ...],
        everything: bool,  # noqa: FBT001
    ) -> Invalidate:
        return Invalidate(self._me.node_id, self._me.epoch, number, everything, buckets)
