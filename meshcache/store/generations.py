"""How a near entry knows that it is stale: counters, and who they belong to.

An owner keeps one counter per bucket of keys and moves it with every write. A near
entry remembers the number it was read under; a hit compares. Keys that share a
bucket cost each other a reload at most, never a stale value.

The comparison goes through a `Tenure`, one ownership of one partition. When the
partition changes hands its tenure ends, and every near entry made under it is dead
at once, without a scan: nobody has to know which entries those are.

A read or load takes a `Stamp` before it starts and stores only while the stamp still
stands, so a write or a change of owner in between always wins.

What bears tags is kept under a tenure of its own, made of the partition's and of the
owner's marks for those tags (tags.py): `Stamp.tagged`. All other entries and every hit
of theirs know nothing of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast, final

from meshcache.hashing import BUCKETS
from meshcache.store.record import Entry
from meshcache.store.tags import Summed, Tags

__all__ = ["Generations", "Get", "Stamp", "Tenure"]

_U64: Final = 0xFFFF_FFFF_FFFF_FFFF

Get: TypeAlias = Callable[[bytes, int, float], Entry | None]
"""Reads a key, given with its hash and the time, out of an arena."""

# NaN is unequal to every number and to itself. An ordinary "impossible" number would
# not do: a stamp taken after the end would hold that number, and match.
_ENDED: Final = cast("Sequence[int]", (float("nan"),) * BUCKETS)


UNSEEN: Final = -1
"""What `Tags.moves` never is."""


@final
class Generations:
    """One owner's counters, a number per bucket, counting up from 0.

    `table` is read in place by any thread, without a lock, and is the same object for
    ever: a memoryview "Q" over memory that other processes read too, or, by default,
    a list.

    `bump` and `bump_all` are confined to one writer at a time.
    """

    __slots__ = ("table",)

    def __init__(self, table: memoryview[int] | list[int] | None = None) -> None:
        self.table: Final[Any] = [0] * BUCKETS if table is None else table
        assert len(self.table) == BUCKETS

    def bump(self, bucket: int) -> None:
        """Make every near entry of *bucket* stale."""
        self.table[bucket] = self.table[bucket] + 1 & _U64

    def bump_all(self) -> None:
        """Make every near entry of this owner stale."""
        # One slice assignment: a reader sees a bucket's old number or its new one.
        self.table[:] = array("Q", [number + 1 & _U64 for number in self.table])


@final
class Tenure:
    """One ownership of one partition: the owner's counters, until it ends.

    Several tenures may share one table. The table may be a list or, for an owner
    whose counters lie in shared memory, a memoryview. `get` reads the owner's arena
    where this process can see it, and is None where it cannot.

    `tags` says which tags were invalidated: the owner's arena where it can be seen,
    and else this process's own account of it.

    `end` is confined to the driver thread; everything else is thread-safe.
    """

    __slots__ = ("get", "table", "tags")

    def __init__(
        self,
        table: Sequence[int],
        get: Get | None = None,
        tags: Tags | None = None,
    ) -> None:
        self.table = table
        self.get = get
        self.tags = tags

    def __repr__(self) -> str:
        return f"<Tenure {'ended' if self.ended else 'standing'}>"

    @property
    def ended(self) -> bool:
        """Whether the partition has changed hands since."""
        return self.table is _ENDED

    def stamp(self, bucket: int) -> Stamp:
        """Return the present state of *bucket*, to be taken before a read starts."""
        tags = self.tags
        seen = UNSEEN if tags is None else tags.moves
        return Stamp(self, bucket, self.table[bucket], seen)

    def end(self) -> None:
        """Make every stamp and near entry of this tenure stale, for ever."""
        self.table = _ENDED
        self.get = None
        self.tags = None


class Stamp(NamedTuple):
    """Where a bucket stood when a read or a load began. Thread-safe.

    `seen` is `Tags.moves` at that moment. Whoever reads the owner's arena and makes
    the stamp by hand may leave it out.
    """

    tenure: Tenure
    bucket: int
    generation: int
    seen: int = UNSEEN

    @property
    def stands(self) -> bool:
        """Whether no write and no change of owner has come since."""
        return self.tenure.table[self.bucket] == self.generation

    @property
    def quiet(self) -> bool:
        """Whether no tag of any kind was invalidated since, as far as is known here."""
        tags = self.tenure.tags
        return tags is not None and tags.quiet_since(self.seen)

    def tagged(self, tags: tuple[int, ...], version: int = 0) -> Stamp | None:
        """Return the stamp under which a value with *tags* may be kept near.

        It falls with this one and with each of the tags. None if one of them may have
        been invalidated since this stamp was taken.

        Args:
            tags: the hashes of the value's tags, at least one.
            version: with which it was read from the owner's arena; 0 if it came by
                another way, such as a load.
        """
        tenure, bucket, generation, seen = self
        marks = tenure.tags
        if marks is None:
            return None
        table = Summed(tenure, marks, tags)
        # The sum first: what is invalidated from here on makes it move.
        total = table.over(generation)
        if not marks.quiet_since(seen) and (
            tenure.get is None or marks.written_over(version, tags)
        ):
            return None
        return Stamp(Tenure(cast("Sequence[int]", table)), bucket, total)
