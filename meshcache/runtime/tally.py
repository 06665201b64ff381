"""Counting reads by the tier that answered, from many threads, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final, final

__all__ = ["OTHERS", "TIERS", "Tally"]

TIERS: Final = ("near", "host", "peer", "fill", "local", "miss")
OTHERS: Final = ("load", "raised", "stale")


@final
class Tally:
    """One counter per tier, and for loads, reads that raised and old values, to call.

    Thread-safe: no count is lost.

    `next` on an `itertools.count` is one step for the interpreter, so it loses
    nothing where `+= 1` from two threads would; and it costs no more.
    """

    __slots__ = (
        "__weakref__",
        "_counts",
        "_start",
        "fill",
        "host",
        "load",
        "local",
        "miss",
        "near",
        "peer",
        "raised",
        "stale",
    )

    def __init__(self) -> None:
        self._counts = {name: count() for name in (*TIERS, *OTHERS)}
        self._start = dict.fromkeys(self._counts, 0)
        self.near = self._counts["near"].__next__
        self.host = self._counts["host"].__next__
        self.peer = self._counts["peer"].__next__
        self.fill = self._counts["fill"].__next__
        self.local = self._counts["local"].__next__
        self.miss = self._counts["miss"].__next__
        self.load = self._counts["load"].__next__
        self.raised = self._counts["raised"].__next__
        self.stale = self._counts["stale"].__next__

    def at(self, tier: str) -> None:
        """Count a read that *tier* answered."""
        next(self._counts[tier])

    def as_dict(self) -> dict[str, int]:
        """Return what has been counted since the start or the last `reset`."""
        start = self._start
        return {t: _value(c) - start[t] for t, c in self._counts.items()}

    def reader(self) -> Callable[[], dict[str, int]]:
        """Return a function that reads all counts, resets or not, and outlives this."""
        counts = self._counts
        return lambda: {t: _value(c) for t, c in counts.items()}

    def reset(self) -> None:
        """Count from nothing again. What `reader` returned goes on counting."""
        self._start = {t: _value(c) for t, c in self._counts.items()}


def _value(counter: count[int]) -> int:
    # A count can be read without moving it by its repr alone: "count(5)".
    return int(repr(counter)[6:-1])
