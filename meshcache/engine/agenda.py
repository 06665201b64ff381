"""What is due when: one heap for every deadline of the engine.

A deadline that was put off is not searched for. Its owner pushes it again when the
old one comes up (`due` hands out the entry, the owner looks at its own clock), so a
change of mind costs nothing and the heap holds at most one live entry per thing plus
those not yet due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TypeAlias, final

__all__ = ["Agenda"]

Action: TypeAlias = Callable[[float], None]


@final
class Agenda:
    """Actions and the times they are due. Confined to the driver thread."""

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, action: Action) -> None:
        """Have *action* handed out once *when* has come."""
        self._sequence += 1
        heappush(self._heap, (when, self._sequence, action))

    def next(self) -> float | None:
        """Return when the next action is due."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Action]:
        """Yield the actions due by *now*, those added meanwhile for later excluded."""
        while self._heap and self._heap[0][0] <= now:
            yield heappop(self._heap)[2]
