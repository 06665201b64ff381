"""Was a read stale? A checker of histories that several processes recorded.

Each operation is recorded where it was made: its key, the number of the write that it
made or whose value it returned, and the monotonic time when it began and ended. That
clock is the same for all processes of one host, so their records can be put together.
Numbers are unique within a key. A read that found nothing is no record: a cache may
forget.

`stale_reads` asks what a cache has to promise: never a value that another write had
replaced before the read began. `not_linearizable` asks for more, that all operations
of a key fit one order. With unique numbers that is decided by comparing zones (Gibbons
and Korach, "Testing Shared Memories", SIAM J. Comput. 26 (1997), section 4): a value's
zone spans from the first end to the last start of the operations that touched it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Read", "Stale", "Why", "Write", "not_linearizable", "stale_reads"]

Why: TypeAlias = Literal["overwritten", "not yet written", "never written"]


class Write(NamedTuple):
    """Value *number* was stored. One whose end is not known has `end=inf`."""

    key: Hashable
    number: int
    start: float
    end: float


class Read(NamedTuple):
    """Value *number* was returned."""

    key: Hashable
    number: int
    start: float
    end: float


class Stale(NamedTuple):
    """A read that cannot be right, and the reason."""

    read: Read
    why: Why


def stale_reads(writes: Iterable[Write], reads: Iterable[Read]) -> list[Stale]:
    """Return the reads whose value had been replaced, or not been written, by then.

    A write replaces those that ended before it began. Of two that overlap either may
    be the later one, and neither makes a read of the other stale.
    """
    written = _by_key(writes)
    limits = {key: _limits(of_key) for key, of_key in written.items()}
    found = []
    for read in reads:
        why = _why(read, limits.get(read.key, {}).get(read.number))
        if why is not None:
            found.append(Stale(read, why))
    return found


def not_linearizable(
    writes: Iterable[Write], reads: Iterable[Read]
) -> dict[Hashable, tuple[int, int]]:
    """Return the keys whose operations fit no order, each with two values at odds.

    It takes the reads that `stale_reads` has nothing against.
    """
    zones: dict[Hashable, dict[int, tuple[float, float]]] = defaultdict(dict)
    for key, number, start, end in (*writes, *reads):
        first_end, last_start = zones[key].get(number, (inf, -inf))
        zones[key][number] = min(first_end, end), max(last_start, start)
    odds = ((key, _at_odds(of_key)) for key, of_key in zones.items())
    return {key: pair for key, pair in odds if pair is not None}


def _by_key(writes: Iterable[Write]) -> dict[Hashable, list[Write]]:
    by_key: dict[Hashable, list[Write]] = defaultdict(list)
    for write in writes:
        by_key[write.key].append(write)
    return by_key


def _limits(writes: list[Write]) -> dict[int, tuple[float, float]]:
    """Return for each value when it was first there, and when surely no longer."""
    writes = sorted(writes, key=lambda write: write.start)
    starts = [write.start for write in writes]
    # The earliest end of the writes from each one on.
    ends = [inf] * (len(writes) + 1)
    for at in reversed(range(len(writes))):
        ends[at] = min(writes[at].end, ends[at + 1])
    return {
        write.number: (write.start, ends[bisect_right(starts, write.end)])
        for write in writes
    }


def _why(read: Read, limits: tuple[float, float] | None) -> Why | None:
    if limits is None:
        return "never written"
    began, replaced = limits
    if read.end < began:
        return "not yet written"
    return "overwritten" if read.start > replaced else None


def _at_odds(zones: dict[int, tuple[float, float]]) -> tuple[int, int] | None:
    """Return two values of one key of which neither can be the earlier."""
    forward = sorted(
        (first_end, last_start, number)
        for number, (first_end, last_start) in zones.items()
        if first_end < last_start
    )
    for (_, until, number), (since, _, other) in pairwise(forward):
        if since < until:
            return number, other
    begins = [zone[0] for zone in forward]
    for number, (first_end, last_start) in zones.items():
        if first_end < last_start:
            continue
        at = bisect_right(begins, last_start) - 1
        if at >= 0 and forward[at][0] < last_start and first_end < forward[at][1]:
            return forward[at][2], number
    return None
