"""The I/O thread: it feeds the engine and does what the engine returns.

One turn: wait for frames, operations or a deadline; take a bounded number of each;
do the effects; wake the loops of tasks that were answered. It owns the engine and
every socket, and it never runs a loader, never blocks but in its poll, and never calls
the application's code.

Other threads reach it by `submit`, which appends to a deque and writes to the poll's
wake descriptor only if the thread may be asleep:

1. the driver says that it sleeps, then looks at the deque, then polls;
2. a caller appends to the deque, then looks whether the driver sleeps.

Whatever the interleaving, either the driver sees the operation or the caller sees the
driver asleep and wakes it.
"""

from __future__ import annotations

import logging
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeAlias, final

from meshcache.clock import monotonic
from meshcache.codec.frames import FrameCodec
from meshcache.codec.mail import Route
from meshcache.codec.messages import CONTROL, Message, Stranger, Write
from meshcache.config import Config
from meshcache.engine.effects import (
    Changed,
    Complete,
    Effect,
    Reply,
    Retabled,
    RunLoader,
    Send,
)
from meshcache.engine.engine import Engine
from meshcache.engine.ops import Closed, Forsake, Operation
from meshcache.errors import LocalProtocolError, RemoteProtocolError
from meshcache.model import State
from meshcache.runtime.tickets import AsyncTicket, SyncTicket, Ticket, Wakeups
from meshcache.transport.arrivals import Arrival
from meshcache.transport.host import HostListener, HostRoute
from meshcache.transport.letters import RING
from meshcache.transport.zeromq import ZmqTransport

__all__ = ["Driver", "Post", "Told"]

OPERATIONS_PER_TURN: Final = 256
IDLE_POLL: Final = 1.0
FAREWELL_POLL: Final = 0.05
GIVE_WAY: Final = 0.0002
"""Seconds for which a thread lets those who serve siblings go first, at most."""
IN_VAIN_MAX: Final = 8
"""Times that this was for nothing, after which the bell is not believed."""

_CONTROL: Final = frozenset(CONTROL.values())

Told: TypeAlias = Changed | Retabled
Post: TypeAlias = Callable[[Engine, float], list[Effect]]

_log = logging.getLogger("meshcache.driver")


@final
class Driver:
    """Runs one engine over one transport. `run` is the I/O thread's body.

    `submit`, `post` and `stop` are thread-safe; all else is the thread's own.

    Args:
        engine: the machine.
        transport: its sockets, open.
        config: the cluster's name and the bounds.
        run_loader: starts a loader's run elsewhere; must not block.
        told: takes news of members and tables; must not block.
        host: by which this host's other nodes are answered, if they can ask.
    """

    def __init__(
        self,
        engine: Engine,
        transport: ZmqTransport,
        config: Config,
        run_loader: Callable[[RunLoader], None],
        told: Callable[[Told], None],
        *,
        host: HostListener | None = None,
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._frames = FrameCodec(config.cluster)
        self._mailbox: deque[tuple[Ticket | None, Operation]] = deque()
        self._posts: deque[Post] = deque()
        self._arrivals: deque[Arrival] = deque()
        self._mailbox_max = config.mailbox
        self._run_loader = run_loader
        self._told = told
        self._host = host
        self._wakeups = Wakeups()
        self._way = allocate_lock()
        self._way.acquire()
        self._wanted = False
        self._in_vain = 0
        self._bell = engine.store.bell
        self._sleeping = False
        self._stop_by: float | None = None
        self._warned: set[str] = set()
        self.closed = False
        self.attend: Callable[[], None] = self._deaf
        self.garbage: dict[str, int] = {}
        self.errors = 0

    # --- from any thread ---------------------------------------------------------

    def submit(self, ticket: Ticket | None, operation: Operation) -> bool:
        """Put *operation* to the engine; False if too many wait, or it has closed."""
        if self.closed or len(self._mailbox) >= self._mailbox_max:
            return False
        self._mailbox.append((ticket, operation))
        self._wake()
        return True

    def post(self, post: Post) -> None:
        """Have something else done to the engine on its own thread."""
        self._posts.append(post)
        self._wake()

    def note(self, operation: Operation) -> None:
        """Put *operation* to the engine, which has no outcome, whatever waits."""
        if not self.submit(None, operation):
            self.post(lambda engine, now: engine.request(None, operation, now))

    def arrived(self, arrival: Arrival) -> bool:
        """Put a frame of a sibling to the engine; False as for `submit`."""
        if self.closed or len(self._arrivals) >= self._mailbox_max:
            return False
        self._arrivals.append(arrival)
        self._bell[0] = 1
        self._wake()
        return True

    @property
    def behind(self) -> bool:
        """Whether a frame of a sibling waits for this thread."""
        return bool(self._arrivals)

    def give_way(self) -> None:
        """Let a sibling have its answer before the calling thread goes on.

        The interpreter would let a busy thread run for its whole switch interval,
        5 ms, while a sibling process waits. The bell is silenced by who serves; if
        nobody does, whoever rang has died.
        """
        if self._bell[0] == RING:
            self.attend()
            return
        self._way.acquire(blocking=False)  # what came too late for the last one
        self._wanted = True
        if self._way.acquire(timeout=GIVE_WAY):
            self._in_vain = 0
            return
        self._in_vain += 1
        if self._in_vain >= IN_VAIN_MAX:
            self._in_vain = 0
            self._bell[0] = 0

    def heed(self) -> None:
        """Do what siblings have put into their pages, if they have rung."""
        if self._bell[0] == RING:
            self.attend()

    def way_was_given(self) -> None:
        """Let the thread go on that has given way."""
        if self._wanted:
            self._wanted = False
            # Two may come here at once.
            with suppress(RuntimeError):
                self._way.release()

    def _deaf(self) -> None:
        self._bell[0] = 0

    def stop(self, timeout: float) -> None:
        """Say farewell for at most *timeout* seconds, then end the thread."""
        self._stop_by = monotonic() + timeout
        self._wake()

    def _wake(self) -> None:
        if self._sleeping:
            self._transport.wake()

    # --- the thread --------------------------------------------------------------

    def run(self) -> None:
        """Turn until told to stop, then close everything."""
        try:
            while not self._done():
                self._turn()
        finally:
            self.closed = True
            self._abandon_waiters()
            self._transport.close()
            if self._host is not None:
                self._host.stop()

    def _done(self) -> bool:
        if self._stop_by is None:
            return False
        now = monotonic()
        self._do(self._engine.leave(now))
        return self._engine.left or now >= self._stop_by

    def _turn(self) -> None:
        self._sleeping = True
        self._transport.poll(self._patience())
        self._sleeping = False
        served = self.behind
        # What an input does must not end the thread: the others would hang.
        try:
            self._inputs()
        except Exception:  # noqa: BLE001 - logged and counted; nobody else can
            self.errors += 1
            _log.exception("a turn of the I/O thread failed; going on with the next")
        self._wake_loops()
        if served:
            self.way_was_given()

    def _wake_loops(self) -> None:
        """Settle what tasks wait for; a lease that reached nobody passes on."""
        while gone := self._wakeups.flush():
            for ticket in gone:
                forsaken = Forsake(ticket)
                self._do(self._engine.request(None, forsaken, monotonic()))

    def _patience(self) -> float:
        if self._mailbox or self._posts or self._arrivals:
            return 0
        longest = IDLE_POLL if self._stop_by is None else FAREWELL_POLL
        due = self._engine.deadline()
        return longest if due is None else min(longest, due - monotonic())

    def _inputs(self) -> None:
        engine, transport = self._engine, self._transport
        for arrival in transport.receive():
            self._take(arrival)
        if self._arrivals:
            self._bell[0] = 0
        for _ in range(min(len(self._arrivals), OPERATIONS_PER_TURN)):
            self._take(self._arrivals.popleft())
        for address in transport.lost():
            self._do(engine.connection_lost(address, monotonic()))
        for address in transport.made():
            self._do(engine.connection_made(address, monotonic()))
        for route in transport.dead_routes():
            engine.route_lost(route)
        while self._posts:
            self._do(self._posts.popleft()(engine, monotonic()))
        for _ in range(min(len(self._mailbox), OPERATIONS_PER_TURN)):
            ticket, operation = self._mailbox.popleft()
            self._do(engine.request(ticket, operation, monotonic()))
        now = monotonic()
        due = engine.deadline()
        if due is not None and due <= now:
            self._do(engine.tick(now))
        transport.sweep(now)

    def _take(self, arrival: Arrival) -> None:
        try:
            message = self._frames.decode(arrival.frame)
        except RemoteProtocolError as error:
            self._drop(arrival, error)
            return
        route = arrival.route
        if type(route) is HostRoute and type(message) is not Write:
            # The rest has reasons to come over its own connection: readers and holders
            # of leases are told things there, and membership takes it for a sign.
            assert self._host is not None
            self._host.drop(route)
            return
        self._do(self._engine.receive(message, arrival.route, monotonic()))

    def _drop(self, arrival: Arrival, error: RemoteProtocolError) -> None:
        """Count a frame that is not for us; say why, once for each kind of reason."""
        self.garbage[error.reason] = self.garbage.get(error.reason, 0) + 1
        if error.reason not in self._warned:
            self._warned.add(error.reason)
            _log.warning("a frame was dropped: %s", error)
        if arrival.inbound and error.reason in {"cluster", "protocol"}:
            # Our own header tells the other side who we are; it logs the same.
            self._reply(arrival.route, self._frames.encode(Stranger()))

    # --- effects -----------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(address, message):
                    self._send(address, message)
                case Reply(route, message):
                    frame = self._encode(message)
                    if frame is not None:
                        self._reply(route, frame)
                case Complete(ticket, outcome):
                    if type(ticket) is SyncTicket:
                        ticket.resolve(outcome)
                    elif type(ticket) is AsyncTicket:
                        self._wakeups.add(ticket, outcome)
                case RunLoader():
                    self._run_loader(effect)
                case Changed() | Retabled():
                    self._tell(effect)

    def _reply(self, route: Route, frame: bytes) -> None:
        if type(route) is HostRoute:
            assert self._host is not None
            self._host.reply(route, frame)
        else:
            self._transport.reply(route, frame)

    def _send(self, address: str, message: Message) -> None:
        frame = self._encode(message)
        if frame is not None:
            control = type(message) in _CONTROL
            plane = self._transport.control if control else self._transport.data
            self._transport.send(address, frame, plane)

    def _encode(self, message: Message) -> bytes | None:
        try:
            return self._frames.encode(message)
        except LocalProtocolError:
            self.errors += 1
            _log.exception("a message could not be encoded and was not sent")
            return None

    def _tell(self, news: Told) -> None:
        if isinstance(news, Changed) and news.member.state >= State.DEAD:
            self._transport.forget(news.member.address)
            self._transport.forget(news.member.data_address)
        self._told(news)

    def _abandon_waiters(self) -> None:
        while self._mailbox:
            ticket, _ = self._mailbox.popleft()
            if isinstance(ticket, SyncTicket):
                ticket.resolve(Closed())
            elif isinstance(ticket, AsyncTicket):
                self._wakeups.add(ticket, Closed())
        self._wakeups.flush()
