"""Local health: how far this node trusts its own clock and network (Lifeguard IV.A).

A node that misses answers may be the slow one itself. The score rises with every sign
of that and falls with every probe that goes well; all its time-outs stretch with it.
"""

from __future__ import annotations

from typing import final

__all__ = ["Awareness"]


@final
class Awareness:
    """A counter between 0 (well) and *limit* (do not trust me). Driver thread only."""

    __slots__ = ("_limit", "score")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.score = 0

    @property
    def well(self) -> bool:
        """Whether nothing speaks against this node."""
        return self.score == 0

    def better(self) -> None:
        """Note a probe that was answered."""
        self.score = max(0, self.score - 1)

    def worse(self, by: int = 1) -> None:
        """Note *by* signs that this node is slow."""
        self.score = min(self._limit, self.score + by)

    def stretch(self, seconds: float) -> float:
        """Return *seconds* as long as the present health makes them."""
        return seconds * (self.score + 1)
