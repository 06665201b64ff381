"""The chronicle: what is happening now, what has happened, and when."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from launcher.picture import Event, picture

if TYPE_CHECKING:
    from launcher.control import Fleet
    from launcher.screen import Screen

__all__ = ["Chronicle"]

_RATE_TICKS: Final = 10


@final
class Chronicle:
    """Keeps a run's clock and events, and the screen up to date with them.

    Confined to the main thread; the fleet calls `tick` whenever it waits.
    """

    def __init__(self, fleet: Fleet, screen: Screen, nodes: int) -> None:
        self._fleet = fleet
        self._screen = screen
        self._nodes = nodes
        self._began_s = time.monotonic()
        self._events: list[Event] = []
        self._answered: deque[tuple[float, int]] = deque(maxlen=_RATE_TICKS)
        self._phase = ""
        self._done = 0.0, 0.0
        self._phase_began_s, self._phase_s = self._began_s, 1.0
        fleet.on_tick = self.tick

    def enter(self, phase: str, done: tuple[float, float], seconds: float) -> None:
        """Begin a phase that takes the progress bar from one share to another."""
        self._phase, self._done = phase, done
        self._phase_began_s, self._phase_s = time.monotonic(), max(seconds, 0.1)
        self.tick()

    def tell(self, text: str) -> None:
        """Record an event of this moment."""
        event = Event(self._elapsed_s(), text)
        self._events.append(event)
        self._screen.tell(event)
        self.tick()

    def tick(self) -> None:
        """Show this moment."""
        now = picture(self._fleet, self._nodes)
        elapsed_s = self._elapsed_s()
        self._answered.append((elapsed_s, now.requests))
        self._screen.show(
            replace(
                now,
                phase=self._phase,
                done=self._share(),
                elapsed_s=elapsed_s,
                per_second=self._per_second(),
                events=self._events,
            )
        )

    def close(self) -> None:
        """Show this moment as the last one: what follows is only the leaving."""
        self.tick()
        self._fleet.on_tick = lambda: None

    def _share(self) -> float:
        since_s = time.monotonic() - self._phase_began_s
        first, last = self._done
        return first + (last - first) * min(since_s / self._phase_s, 1.0)

    def _per_second(self) -> float:
        (then_s, before), (now_s, after) = self._answered[0], self._answered[-1]
        return (after - before) / (now_s - then_s) if now_s > then_s else 0.0

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s
