"""A node that is alone in the world: no thread, no socket, no file.

The engine, the arena and the near cache are the real ones. What differs is who drives
the engine: here it is whichever thread asks it something, and who waits for a load
looks at the clock in between. There is nobody to send a message to.

It starts in a few milliseconds, where a node with an I/O thread takes tens, so that
each test can have one of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final, cast, final
from uuid import uuid4

from meshcache.clock import monotonic, time_ns
from meshcache.config import Config
from meshcache.engine.effects import Changed, Complete, Effect, Retabled, RunLoader
from meshcache.engine.engine import Engine
from meshcache.engine.ops import Asked, Closed, Forsake, Operation, Outcome
from meshcache.model import Member, NodeId, State
from meshcache.placement.placement import Placement
from meshcache.runtime.driver import Driver, Post, Told
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.threads import allocate_lock
from meshcache.runtime.tickets import AsyncTicket, SyncTicket, Ticket, Wakeups
from meshcache.transport.arrivals import Traffic
from meshcache.transport.zeromq import ZmqTransport

__all__ = ["Alone"]

_ADDRESS: Final = "127.0.0.1:0"
_LONGEST: Final = 0.05
"""Seconds until a waiter looks again whether something is due."""


@final
class Alone(Runtime):
    """A runtime without edges. Thread-safe."""

    def _spawn(self) -> Callable[[float], bool]:
        """Make the engine here and now; there is nothing to wait for at the end."""
        now = monotonic()
        me, placement = _nobody_else()
        self._engine = engine = Engine(
            me,
            self.config,
            random.Random(),
            now,
            time_ns() - int(now * 1e9),
            alone=placement,
        )
        self._turns = _Turns(engine, self.config, self._loaders.run, self._tell)
        # A `Driver` for whoever of this class's base reaches it.
        self._driver = cast("Driver", self._turns)
        self._transport = cast("ZmqTransport", _Nowhere())
        self._members = engine.members()
        self.tenures = engine.ranges.tenures
        self.bell = engine.store.bell
        self._turns.post(lambda engine, at: engine.join((), at))
        self._started = True
        return lambda _timeout: True

    def _ask(self, operation: Asked) -> tuple[SyncTicket, Outcome]:
        turns, ticket = self._turns, SyncTicket()
        if not turns.submit(ticket, operation):
            return ticket, Closed()
        outcome: Outcome = Closed()
        try:
            while turns.awaits(ticket):
                ticket.wait(turns.pause())
                turns.turn()
            outcome = ticket.wait(0)
        finally:
            if isinstance(outcome, Closed):
                self.tell(Forsake(ticket))
        return ticket, outcome

    async def aask(self, operation: Asked) -> tuple[AsyncTicket, Outcome]:
        """Put *operation* to the engine and await its outcome."""
        turns, ticket = self._turns, AsyncTicket(asyncio.get_running_loop())
        if not turns.submit(ticket, operation):
            return ticket, Closed()
        try:
            while not ticket.future.done() and not turns.closed:
                await asyncio.wait({ticket.future}, timeout=turns.pause())
                turns.turn()
            done = ticket.future.done()
            return ticket, ticket.future.result() if done else Closed()
        except BaseException:
            self.tell(Forsake(ticket))
            raise


@final
class _Turns:
    """What the I/O thread does, on the threads of those who ask. Thread-safe.

    It can be used as a `Driver`. One thread at a time has the engine; what others ask
    meanwhile, that thread does before it goes.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        run_loader: Callable[[RunLoader], None],
        told: Callable[[Told], None],
    ) -> None:
        self._engine = engine
        self._run_loader = run_loader
        self._told = told
        self._most = config.mailbox
        self._mailbox: deque[tuple[Ticket | None, Operation]] = deque()
        self._posts: deque[Post] = deque()
        self._waiting: set[Ticket] = set()
        self._wakeups = Wakeups()
        self._busy = allocate_lock()
        self._due: float | None = None
        self.closed = False
        self.garbage: dict[str, int] = {}
        self.errors = 0

    # --- what a driver offers ----------------------------------------------------

    def submit(self, ticket: Ticket | None, operation: Operation) -> bool:
        """Put *operation* to the engine; False if too many wait, or it has closed."""
        if self.closed or len(self._mailbox) >= self._most:
            return False
        if ticket is not None:
            self._waiting.add(ticket)
        self._mailbox.append((ticket, operation))
        self.turn()
        return True

    def note(self, operation: Operation) -> None:
        """Put *operation* to the engine, which has no outcome, whatever waits."""
        self.post(lambda engine, now: engine.request(None, operation, now))

    def post(self, post: Post) -> None:
        """Have something else done to the engine."""
        self._posts.append(post)
        self.turn()

    def give_way(self) -> None:
        """Return at once: there is no sibling that waits."""

    def stop(self, timeout: float) -> None:
        """End, with nobody to bid farewell. Who waits finds out in a moment."""
        self.closed = True

    # --- waiting -----------------------------------------------------------------

    def awaits(self, ticket: Ticket) -> bool:
        """Whether *ticket* has no outcome yet, and may get one."""
        return ticket in self._waiting and not self.closed

    def pause(self) -> float:
        """Return for how long one may wait before the next `turn`."""
        due = self._due
        return _LONGEST if due is None else max(0.0, min(_LONGEST, due - monotonic()))

    def turn(self) -> None:
        """Do what was asked and what is due, unless another thread is at it.

        That one looks once more when it has let go, so that nothing stays undone.
        """
        while self._busy.acquire(blocking=False):
            try:
                self._inputs()
            finally:
                self._busy.release()
            if not self._mailbox and not self._posts:
                return

    def _inputs(self) -> None:
        engine = self._engine
        while self._posts:
            self._do(self._posts.popleft()(engine, monotonic()))
        while self._mailbox:
            ticket, operation = self._mailbox.popleft()
            self._do(engine.request(ticket, operation, monotonic()))
        now = monotonic()
        due = engine.deadline()
        if due is not None and due <= now:
            self._do(engine.tick(now))
        while gone := self._wakeups.flush():
            for lost in gone:
                self._do(engine.request(None, Forsake(lost), monotonic()))
        self._due = engine.deadline()

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Complete(ticket, outcome):
                    self._complete(ticket, outcome)
                case RunLoader():
                    self._run_loader(effect)
                case Changed() | Retabled():
                    self._told(effect)
                case _:
                    pass  # A message, and there is nobody.

    def _complete(self, ticket: object, outcome: Outcome) -> None:
        if isinstance(ticket, SyncTicket):
            ticket.resolve(outcome)
            self._waiting.discard(ticket)
        elif isinstance(ticket, AsyncTicket):
            self._waiting.discard(ticket)
            self._wakeups.add(ticket, outcome)


@final
class _Nowhere:
    """The transport of a node that has none."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.ports: set[int] = set()

    def addresses(self) -> set[str]:
        return set()


@cache
def _nobody_else() -> tuple[Member, Placement]:
    """Return a member and the placement of a cluster that has no other.

    One for all nodes that are alone. Making the table would take longer than all the
    rest, and they never meet.
    """
    node_id = NodeId(uuid4().bytes)
    me = Member(node_id, time_ns(), 0, State.ALIVE, _ADDRESS, _ADDRESS, "alone", 1)
    placement = Placement()
    placement.update([me])
    return me, placement
