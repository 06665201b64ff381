"""The host wire: requests between the nodes of one host, past ZeroMQ and its threads.

    <directory of the arenas>/<node id>.sock

Each owner listens at a Unix socket in the directory that holds its arena, which is
this user's alone. A thread of a sibling connects, sends a request, and sleeps in the
kernel until the answer wakes it. At the owner a thread of its own reads the request:
between the two there is only the kernel.

A stream, and so a connection, because it tells more than a datagram. An owner that dies
ends it, so nobody waits for the dead. Nobody else can put anything into it, and
no name is needed for the way back. (A datagram socket also holds ten requests and no
more: `net.unix.max_dgram_qlen`.)

A connection carries one request at a time. Whoever wants to send takes an idle one, or
makes one, and puts it back when it has read the answer. If anything else happens, a
time-out, an interrupt, garbage, it is closed, and what was on its way goes with it: no
later request can be given an earlier one's answer.

    4 bytes of length, big-endian | frame

The owner begins each connection with an empty frame. It proves that a thread there
reads; the kernel accepts connections for a stopped process too.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from _thread import allocate_lock
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, TypeAlias, TypeVar, final
from weakref import WeakSet

from meshcache.clock import monotonic
from meshcache.transport.paths import Short, socket_path
from meshcache.transport.waker import drain, wake, waker

__all__ = [
    "MAX_FRAME",
    "SUPPORTED",
    "HostCaller",
    "HostListener",
    "HostRoute",
    "NotSent",
    "Unanswered",
]

SUPPORTED: Final = hasattr(socket, "AF_UNIX") and hasattr(select, "poll")

MAX_FRAME: Final = 65_536
"""Bytes of a frame; well below what a Unix socket holds, so that none is sent by half.
Whatever is larger is not worth a short cut."""

MAX_CALLERS: Final = 256
"""Connections that an owner keeps. Each takes a descriptor here and one there."""

MAX_WIRES: Final = 128
"""Connections that a node has to all its siblings. Whoever finds no idle one and may
make none goes the ordinary way."""

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

ACCEPTED_PER_TURN: Final = 16

HELLO_TIMEOUT: Final = 0.1
"""Seconds for the owner to accept a connection. Nothing has been asked by then, so the
ordinary way is still open."""

RETRY: Final = 1.0
"""Seconds after which a connection is tried again that could not be made."""

_SIZE: Final = Struct(">I")
_HELLO: Final = _SIZE.pack(0)
_ANSWER: Final = 4096
_FLAGS: Final = getattr(socket, "MSG_NOSIGNAL", 0)
_MODE: Final = 0o600

Result = TypeVar("Result")


class HostRoute(NamedTuple):
    """A route: one connection to the listener."""

    number: int


Take: TypeAlias = Callable[[bytes, HostRoute], bytes | None]
"""Takes a frame and its route; returns the answer, if there is one at once."""


class NotSent(Exception):
    """Nothing was delivered. The request may go another way."""


class Unanswered(Exception):
    """It was sent, and there is no answer: it may have been done.

    Attributes:
        silent: the time was over; otherwise the owner has ended the connection.
    """

    def __init__(self, *, silent: bool) -> None:
        super().__init__("silent" if silent else "lost")
        self.silent = silent


# --- the owner's end --------------------------------------------------------------


@final
class _Caller:
    """A connection that was accepted, and what has come of a frame so far.

    `ended` when nothing more is taken from it, or sent.
    """

    __slots__ = ("ended", "partial", "route", "socket")

    def __init__(self, number: int, accepted: socket.socket) -> None:
        self.route = HostRoute(number)
        self.socket = accepted
        self.partial = bytearray()
        self.ended = False

    def end(self) -> None:
        """Have both sides find the connection ended."""
        self.ended = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


@final
class HostListener:
    """Where a node's siblings put their requests.

    Confined to the thread that calls `serve`; `reply`, `drop` and `stop` are for any
    thread.

    Attributes:
        received: frames that have come.
        unroutable: answers whose connection was gone, or took no more.
        garbage: connections closed for what they brought.
        turned_away: connections over `MAX_CALLERS`, closed at once.
        stopped: whether `stop` was called.

    Raises:
        OSError: the socket cannot be made; nothing is left behind.
    """

    def __init__(self, directory: Path, node_id: bytes) -> None:
        self.received = self.unroutable = self.garbage = self.turned_away = 0
        self.stopped = self._closed = False
        self._path = socket_path(directory, node_id)
        self._listener = _listen(self._path)
        self._waker, self._wake_fd = waker()
        self._poll = _Poll()
        self._poll.register(self._waker, select.POLLIN)
        self._poll.register(self._listener.fileno(), select.POLLIN)
        self._callers: dict[int, _Caller] = {}
        self._by_route: dict[HostRoute, _Caller] = {}
        self._numbers = count(1)
        self._paused: float | None = None
        self._room = bytearray(_SIZE.size + MAX_FRAME)
        self._view = memoryview(self._room)
        # Held to close a connection, and by others to use one: a descriptor that is
        # closed under a thread may be another file when that thread uses it.
        self._closing = allocate_lock()

    def __len__(self) -> int:
        return len(self._callers)

    # --- its own thread ----------------------------------------------------------

    def serve(self, take: Take, timeout: float | None = None) -> None:
        """Wait for frames, give each to *take*, and send back what that returns.

        Where it returns None the answer comes by `reply`, or never. Returns when
        something has come, after *timeout* seconds, or when stopped.
        """
        if self._paused is not None:
            timeout = self._resume(timeout)
        for fd, _ in self._poll.poll(timeout):
            caller = self._callers.get(fd)
            if caller is not None:
                self._read(caller, take)
            elif fd == self._waker:
                drain(fd)
            else:
                self._accept()

    def _resume(self, timeout: float | None) -> float:
        """Accept again, if it is time to; return how long to wait at most."""
        assert self._paused is not None
        left = self._paused - monotonic()
        if left <= 0:
            self._paused = None
            self._poll.register(self._listener.fileno(), select.POLLIN)
            left = RETRY
        return left if timeout is None else min(left, timeout)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptor is left. Who waits hears nothing and goes another way.
                self._poll.unregister(self._listener.fileno())
                self._paused = monotonic() + RETRY
                return
            if len(self._callers) < MAX_CALLERS:
                self._welcome(accepted)
            else:
                self.turned_away += 1
                accepted.close()

    def _welcome(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        caller = _Caller(next(self._numbers), accepted)
        try:
            accepted.send(_HELLO, _FLAGS)
        except OSError:
            accepted.close()
            return
        self._callers[accepted.fileno()] = self._by_route[caller.route] = caller
        self._poll.register(accepted.fileno(), select.POLLIN)

    def _read(self, caller: _Caller, take: Take) -> None:
        try:
            size = 0 if caller.ended else caller.socket.recv_into(self._room)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size == 0:
            self._close(caller)
        elif not caller.partial and size == _whole(self._room, size):
            self._take(caller, bytes(self._view[_SIZE.size : size]), take)
        else:
            caller.partial += self._view[:size]
            self._cut(caller, take)

    def _cut(self, caller: _Caller, take: Take) -> None:
        """Take the frames that are complete."""
        partial = caller.partial
        while not caller.ended:
            whole = _whole(partial, len(partial))
            if whole and not _SIZE.size < whole <= _SIZE.size + MAX_FRAME:
                self.garbage += 1
                self._close(caller)
                return
            if not whole or len(partial) < whole:
                return
            frame = bytes(partial[_SIZE.size : whole])
            del partial[:whole]
            self._take(caller, frame, take)

    def _take(self, caller: _Caller, frame: bytes, take: Take) -> None:
        self.received += 1
        answer = take(frame, caller.route)
        if answer is not None and not _sent(caller, answer):
            self.unroutable += 1
            self._close(caller)

    def _close(self, caller: _Caller) -> None:
        fd = caller.socket.fileno()
        if self._callers.pop(fd, None) is not None:
            self._poll.unregister(fd)
            with self._closing:
                del self._by_route[caller.route]
                caller.ended = True
                caller.socket.close()

    def close(self) -> None:
        """Close every connection and remove the socket."""
        with suppress(OSError):
            self._path.unlink()
        with self._closing:
            self._let_go()

    # --- any thread --------------------------------------------------------------

    def reply(self, route: HostRoute, frame: bytes) -> None:
        """Send *frame* back along *route*; who cannot take it is cut off."""
        with self._closing:
            caller = self._by_route.get(route)
            if caller is None or not _sent(caller, frame):
                self.unroutable += 1
                if caller is not None:
                    caller.end()

    def drop(self, route: HostRoute) -> None:
        """End a connection that brought what no sibling sends."""
        with self._closing:
            self.garbage += 1
            caller = self._by_route.get(route)
            if caller is not None:
                caller.end()

    def stop(self) -> None:
        """Have `serve` return."""
        with self._closing:
            self.stopped = True
            if not self._closed:
                wake(self._wake_fd)

    def abandon_after_fork(self) -> None:
        """In a forked child: close what is the parent's, and change nothing of it.

        As long as the child had a copy, the parent's death would end no connection.
        """
        # Nothing is unregistered: that would be to change what the parent polls.
        self._let_go()

    def _let_go(self) -> None:
        if self._closed:
            return
        self._closed = True
        for caller in self._callers.values():
            caller.socket.close()
        self._callers.clear()
        self._by_route.clear()
        self._listener.close()
        self._poll.close()
        for fd in {self._waker, self._wake_fd}:
            os.close(fd)


def _whole(data: bytes | bytearray, size: int) -> int:
    """Return how many bytes the first frame takes, with its length; 0 if unknown."""
    if size < _SIZE.size:
        return 0
    length: int = _SIZE.unpack_from(data)[0]
    return _SIZE.size + length


def _sent(caller: _Caller, frame: bytes) -> bool:
    """Return whether all of *frame* was sent; if not, the connection is of no use."""
    if caller.ended or len(frame) > MAX_FRAME:
        return False
    data = _SIZE.pack(len(frame)) + frame
    try:
        return caller.socket.send(data, _FLAGS) == len(data)
    except OSError:
        return False


if sys.platform == "linux":
    _Poll = select.epoll
else:

    @final
    class _Poll:
        """What `select.epoll` offers, by `select.poll`."""

        def __init__(self) -> None:
            self._poll = select.poll()
            self.register = self._poll.register
            self.unregister = self._poll.unregister

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            return self._poll.poll(None if timeout is None else timeout * 1000)

        def close(self) -> None:
            """Do nothing: there is no descriptor."""


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with Short(path) as short:
            listener.bind(short)
        path.chmod(_MODE)
        listener.setblocking(False)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        with suppress(OSError):
            path.unlink()
        raise
    return listener


# --- the caller's end -------------------------------------------------------------


@final
class _Wire:
    """A connection to a sibling. Used by one thread at a time."""

    __slots__ = ("__weakref__", "_socket", "_timeout")

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # The time-out holds whatever signals come (PEP 475); SO_RCVTIMEO's would not.
        self._socket.settimeout(HELLO_TIMEOUT)
        self._timeout = HELLO_TIMEOUT
        with Short(path) as short:
            self._socket.connect(short)

    def __del__(self) -> None:
        # An interrupt may come between any two steps of whoever has it.
        with suppress(AttributeError):  # no socket was to be had
            self.close()

    def greeted(self) -> bool:
        """Wait for the owner's first word; return whether it came."""
        try:
            return self._socket.recv(_SIZE.size) == _HELLO
        except OSError:
            return False

    def send(self, data: bytes) -> bool:
        """Return whether all was sent; if not, the owner has no whole frame of it."""
        try:
            return self._socket.send(data, _FLAGS) == len(data)
        except OSError:
            return False

    def receive(self, timeout: float) -> bytes:
        """Wait for one frame and return it.

        Raises:
            Unanswered: there is none.
        """
        end = monotonic() + timeout
        data = self._part(timeout)
        whole = _whole(data, len(data))
        while not whole or len(data) < whole:
            data += self._part(end - monotonic())
            whole = _whole(data, len(data))
            if len(data) > _SIZE.size + MAX_FRAME:
                raise Unanswered(silent=False)
        # What is beyond the frame nobody asked for; no rid will fit it.
        return data[_SIZE.size :]

    def _part(self, timeout: float) -> bytes:
        if timeout != self._timeout:
            if timeout <= 0:
                raise Unanswered(silent=True)
            self._socket.settimeout(timeout)
            self._timeout = timeout
        try:
            part = self._socket.recv(_ANSWER)
        except TimeoutError:
            raise Unanswered(silent=True) from None
        except OSError:
            part = b""
        if not part:
            raise Unanswered(silent=False)
        return part

    def interrupt(self) -> None:
        """Have whoever waits find the connection ended. Thread-safe."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. Does nothing the second time."""
        self._socket.close()


@final
class _Sibling:
    """One owner: where it listens, and the connections to it that nobody uses."""

    __slots__ = ("idle", "path", "retry_at")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.idle: list[_Wire] = []
        self.retry_at = 0.0


@final
class HostCaller:
    """What the threads of this process send to its siblings by. Thread-safe.

    Args:
        directory: of the sockets; this user's alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._siblings: dict[bytes, _Sibling] = {}
        self._wires: WeakSet[_Wire] = WeakSet()
        self._closed = False

    def __len__(self) -> int:
        return len(self._wires)

    def call(
        self,
        node_id: bytes,
        frame: bytes,
        timeout: float,
        read: Callable[[bytes], Result],
    ) -> Result:
        """Send *frame* once, wait for the answer and return what *read* makes of it.

        What *read* raises is passed on, and the connection closed.

        Raises:
            NotSent: the owner has nothing of it.
            Unanswered: it may have been done.
        """
        if len(frame) > MAX_FRAME:
            raise NotSent
        data = _SIZE.pack(len(frame)) + frame
        sibling = self._siblings.get(node_id)
        if sibling is None:
            sibling = _Sibling(socket_path(self._directory, node_id))
            sibling = self._siblings.setdefault(node_id, sibling)
        while True:
            wire, fresh = self._take(sibling)
            if wire.send(data):
                break
            # The owner has ended it, perhaps long ago. Others may be as old.
            self._end(wire)
            if fresh:
                raise NotSent
        try:
            result = read(wire.receive(timeout))
        except BaseException:
            self._end(wire)
            raise
        self._put_back(sibling, wire)
        return result

    def _take(self, sibling: _Sibling) -> tuple[_Wire, bool]:
        """Return a connection, and whether it was made just now."""
        try:
            return sibling.idle.pop(), False
        except IndexError:
            pass
        now = monotonic()
        if now < sibling.retry_at or len(self._wires) >= MAX_WIRES or self._closed:
            raise NotSent
        try:
            wire = _Wire(sibling.path)
            self._wires.add(wire)
            if wire.greeted():
                return wire, True
            self._end(wire)
        except OSError:
            pass
        sibling.retry_at = monotonic() + RETRY
        raise NotSent

    def _put_back(self, sibling: _Sibling, wire: _Wire) -> None:
        crowded = len(self._wires) > MAX_WIRES // 2
        if self._closed or (crowded and sibling.idle):
            # One for each sibling is left when there are many.
            self._end(wire)
        else:
            sibling.idle.append(wire)

    def _end(self, wire: _Wire) -> None:
        self._wires.discard(wire)
        wire.close()

    def forget(self, node_id: bytes) -> None:
        """Close what leads to a sibling that is gone."""
        sibling = self._siblings.pop(node_id, None)
        while sibling is not None and sibling.idle:
            with suppress(IndexError):
                self._end(sibling.idle.pop())

    def close(self) -> None:
        """End every connection; who waits for an answer gets none."""
        self._closed = True
        for wire in list(self._wires):
            # Its user closes it: a number that is closed under a thread may be another
            # file when that thread wakes up.
            wire.interrupt()
        for node_id in list(self._siblings):
            self.forget(node_id)

    def abandon_after_fork(self) -> None:
        """In a forked child: close what is the parent's, and change nothing of it."""
        self._closed = True
        for wire in list(self._wires):
            self._end(wire)
