"""How an outcome gets from the I/O thread to whoever waits for it.

A thread waits on a lock, the cheapest hand-over there is. A task waits on a future of
its own loop; all futures of one loop that are settled in one turn of the I/O thread
are settled by a single `call_soon_threadsafe`, since each of those wakes the loop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias, final

from meshcache.engine.ops import Closed, Outcome
from meshcache.runtime.threads import allocate_lock

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncTicket", "SyncTicket", "Ticket", "Wakeups"]

_log = logging.getLogger("meshcache.runtime")


@final
class SyncTicket:
    """One outcome for one waiting thread."""

    __slots__ = ("_lock", "_outcome")

    def __init__(self) -> None:
        self._outcome: Outcome = Closed()
        self._lock = allocate_lock()
        self._lock.acquire()

    def resolve(self, outcome: Outcome) -> None:
        """Hand over *outcome*. Called once, by the I/O thread."""
        self._outcome = outcome
        self._lock.release()

    def wait(self, timeout: float) -> Outcome:
        """Wait for the outcome; `Closed` if there is none within *timeout* seconds.

        The engine ends everything by itself. The time-out is for an I/O thread that
        has died.
        """
        self._lock.acquire(timeout=timeout)
        return self._outcome


@final
class AsyncTicket:
    """One outcome for one waiting task."""

    __slots__ = ("future", "loop", "outcome")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.outcome: Outcome = Closed()

    def settle(self) -> None:
        """Hand over the outcome, on the loop's own thread."""
        if not self.future.done():
            self.future.set_result(self.outcome)


Ticket: TypeAlias = SyncTicket | AsyncTicket


@final
class Wakeups:
    """Settled tickets of tasks, gathered for one wake-up per loop. For one thread."""

    __slots__ = ("_by_loop",)

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[AsyncTicket]] = {}

    def add(self, ticket: AsyncTicket, outcome: Outcome) -> None:
        """Have *ticket* settled at the next `flush`."""
        ticket.outcome = outcome
        self._by_loop.setdefault(ticket.loop, []).append(ticket)

    def flush(self) -> list[AsyncTicket]:
        """Wake every loop that has something to settle.

        Returns:
            The tickets of loops that were closed with their tasks still waiting. What
            they were told has reached nobody.
        """
        gone: list[AsyncTicket] = []
        if self._by_loop:
            by_loop, self._by_loop = self._by_loop, {}
            for loop, tickets in by_loop.items():
                try:
                    loop.call_soon_threadsafe(_settle, tickets)
                except RuntimeError:
                    _log.debug("a closed event loop left %d requests", len(tickets))
                    gone += tickets
        return gone


def _settle(tickets: list[AsyncTicket]) -> None:
    for ticket in tickets:
        ticket.settle()
