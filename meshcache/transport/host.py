"""The host wire: requests between the nodes of one host, past ZeroMQ and its threads.

    <directory of the arenas>/<node id>.sock

Each owner listens at a Unix socket in the directory that holds its arena, which is
this user's alone. A thread of a sibling connects, sends a request, and sleeps in the
kernel until the answer wakes it. At the owner the request is read by the I/O thread,
like any frame.

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
import selectors
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, islice
from math import ceil
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, TypeVar, final
from weakref import WeakSet

from meshcache.clock import monotonic
from meshcache.codec.mail import Route
from meshcache.transport.arrivals import Arrival

__all__ = [
    "MAX_FRAME",
    "SUPPORTED",
    "HostCaller",
    "HostListener",
    "HostRoute",
    "NotSent",
    "Unanswered",
    "sweep",
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

FILES_MAX: Final = 1024
"""Files looked at in one sweep, so a full directory costs bounded time."""

PATH_MAX: Final = 107 if sys.platform == "linux" else 103
"""Bytes of a socket's path that the kernel takes."""

_SUFFIX: Final = ".sock"
_SIZE: Final = Struct(">I")
_HELLO: Final = _SIZE.pack(0)
_ANSWER: Final = 4096
_FLAGS: Final = getattr(socket, "MSG_NOSIGNAL", 0)
_MODE: Final = 0o600

Result = TypeVar("Result")


class HostRoute(NamedTuple):
    """A route: one connection to the listener."""

    number: int


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
    """A connection that was accepted, and what has come of a frame so far."""

    __slots__ = ("partial", "route", "socket")

    def __init__(self, number: int, accepted: socket.socket) -> None:
        self.route = HostRoute(number)
        self.socket = accepted
        self.partial = bytearray()


@final
class HostListener:
    """Where a node's siblings put their requests. Confined to the driver thread.

    `fileno` is readable whenever `receive` has something to do.

    Attributes:
        received: frames that have come.
        unroutable: answers whose connection was gone, or took no more.
        garbage: connections closed for what they brought.
        turned_away: connections over `MAX_CALLERS`, closed at once.

    Raises:
        OSError: the socket cannot be made; nothing is left behind.
    """

    def __init__(self, directory: Path, node_id: bytes) -> None:
        self.received = self.unroutable = self.garbage = self.turned_away = 0
        self._path = _path(directory, node_id)
        self._listener = _listen(self._path)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._callers: dict[HostRoute, _Caller] = {}
        self._numbers = count(1)
        self._dead_routes: list[Route] = []
        self._paused: float | None = None
        self._room = memoryview(bytearray(_SIZE.size + MAX_FRAME))

    def __len__(self) -> int:
        return len(self._callers)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        # One for all connections: the poll looks at each of its own in every turn.
        return self._selector.fileno()

    def receive(self) -> Iterator[Arrival]:
        """Yield what has arrived, a bounded amount from each connection."""
        for key, _ in self._selector.select(0):
            caller: _Caller | None = key.data
            if caller is None:
                self._accept()
            elif caller.route in self._callers:
                yield from self._read(caller)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptor is left. Who waits hears nothing and goes another way.
                self._selector.unregister(self._listener)
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
        self._callers[caller.route] = caller
        self._selector.register(accepted, selectors.EVENT_READ, caller)

    def _read(self, caller: _Caller) -> Iterator[Arrival]:
        room = self._room
        try:
            size = caller.socket.recv_into(room)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size == 0:
            self._close(caller)
        elif not caller.partial and size == _whole(room[:size]):
            self.received += 1
            yield Arrival(bytes(room[_SIZE.size : size]), caller.route, inbound=True)
        else:
            caller.partial += room[:size]
            yield from self._cut(caller)

    def _cut(self, caller: _Caller) -> Iterator[Arrival]:
        """Yield the frames that are complete."""
        partial = caller.partial
        while caller.route in self._callers and (whole := _whole(partial)):
            if not _SIZE.size < whole <= _SIZE.size + MAX_FRAME:
                self.drop(caller.route)
                return
            if len(partial) < whole:
                return
            frame = bytes(partial[_SIZE.size : whole])
            del partial[:whole]
            self.received += 1
            yield Arrival(frame, caller.route, inbound=True)

    def reply(self, route: HostRoute, frame: bytes) -> None:
        """Send *frame* back along *route*; who cannot take it is cut off."""
        caller = self._callers.get(route)
        if caller is None:
            self.unroutable += 1
            return
        sent = 0
        if len(frame) <= MAX_FRAME:
            with suppress(OSError):
                sent = caller.socket.send(_SIZE.pack(len(frame)) + frame, _FLAGS)
        if sent != _SIZE.size + len(frame):
            self.unroutable += 1
            self._close(caller)

    def drop(self, route: HostRoute) -> None:
        """Close a connection that brought what no sibling sends."""
        self.garbage += 1
        caller = self._callers.get(route)
        if caller is not None:
            self._close(caller)

    def dead_routes(self) -> list[Route]:
        """Return the routes that lead nowhere any more since asked."""
        dead, self._dead_routes = self._dead_routes, []
        return dead

    def sweep(self, now: float) -> None:
        """Accept again, after there were no descriptors. Call it at every turn."""
        if self._paused is not None and now >= self._paused:
            self._paused = None
            self._selector.register(self._listener, selectors.EVENT_READ, None)

    def _close(self, caller: _Caller) -> None:
        del self._callers[caller.route]
        self._dead_routes.append(caller.route)
        self._selector.unregister(caller.socket)
        caller.socket.close()

    def close(self) -> None:
        """Close every connection and remove the socket."""
        with suppress(OSError):
            self._path.unlink()
        self.abandon_after_fork()

    def abandon_after_fork(self) -> None:
        """In a forked child: close what is the parent's, and change nothing of it.

        As long as the child had a copy, the parent's death would end no connection.
        """
        for caller in self._callers.values():
            caller.socket.close()
        self._callers.clear()
        self._listener.close()
        # Only closed: to unregister would be to change what the parent polls.
        self._selector.close()


def _whole(data: memoryview | bytearray | bytes) -> int:
    """Return how many bytes the first frame takes, with its length; 0 if unknown."""
    if len(data) < _SIZE.size:
        return 0
    size: int = _SIZE.unpack_from(data)[0]
    return _SIZE.size + size


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _Short(path) as short:
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

    __slots__ = ("__weakref__", "_poll", "_socket")

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # Never blocks but in `_poll`, where a deadline holds whatever signals come.
        self._socket.setblocking(False)
        with _Short(path) as short:
            self._socket.connect(short)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def __del__(self) -> None:
        # An interrupt may come between any two steps of whoever has it.
        with suppress(AttributeError):  # no socket was to be had
            self.close()

    def greeted(self) -> bool:
        """Wait for the owner's first word; return whether it came."""
        return bool(
            self._poll.poll(HELLO_TIMEOUT * 1000)
            and self._socket.recv(_SIZE.size) == _HELLO
        )

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
        data = bytearray()
        whole = 0
        while not whole or len(data) < whole:
            left_ms = max(0, ceil((end - monotonic()) * 1000))
            if not self._poll.poll(left_ms):
                raise Unanswered(silent=True)
            try:
                part = self._socket.recv(_ANSWER)
            except OSError:
                part = b""
            if part and not data and len(part) == _whole(part):
                return part[_SIZE.size :]
            data += part
            whole = _whole(data)
            if not part or len(data) > _SIZE.size + MAX_FRAME:
                raise Unanswered(silent=False)
        # What is beyond the frame nobody asked for; no rid will fit it.
        return bytes(data[_SIZE.size :])

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
        sibling = self._siblings.get(node_id)
        if sibling is None:
            sibling = _Sibling(_path(self._directory, node_id))
            sibling = self._siblings.setdefault(node_id, sibling)
        wire = self._sent(sibling, frame)
        try:
            result = read(wire.receive(timeout))
        except BaseException:
            self._end(wire)
            raise
        self._put_back(sibling, wire)
        return result

    def _sent(self, sibling: _Sibling, frame: bytes) -> _Wire:
        """Return the connection by which *frame* was sent."""
        if len(frame) > MAX_FRAME:
            raise NotSent
        data = _SIZE.pack(len(frame)) + frame
        while True:
            wire, fresh = self._take(sibling)
            if wire.send(data):
                return wire
            # The owner has ended it, perhaps long ago. Others may be as old.
            self._end(wire)
            if fresh:
                raise NotSent

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


# --- files ------------------------------------------------------------------------


def sweep(directory: Path, is_alive: Callable[[bytes], bool]) -> None:
    """Remove the sockets of nodes that are no more."""
    with suppress(OSError), os.scandir(directory) as entries:
        names = [e.name for e in islice(entries, FILES_MAX) if e.name.endswith(_SUFFIX)]
        for name in names:
            with suppress(ValueError, OSError):
                if not is_alive(bytes.fromhex(name.removesuffix(_SUFFIX))):
                    (directory / name).unlink()


def _path(directory: Path, node_id: bytes) -> Path:
    return directory / f"{node_id.hex()}{_SUFFIX}"


@final
class _Short:
    """A name for *path* that the kernel takes as a socket's, inside a `with`.

    On Linux a long path is shortened through a descriptor of its directory; elsewhere
    the kernel refuses it, and there is no wire.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        path = self._path
        if len(os.fsencode(path)) <= PATH_MAX or sys.platform != "linux":
            return str(path)
        self._fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}/{path.name}"

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
