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
from _thread import RLock, allocate_lock
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, TypeAlias, final

from meshcache.clock import monotonic
from meshcache.transport.letters import (
    DONE,
    EMPTY,
    HANDED,
    MAX_LETTER,
    MAX_PAGES,
    PLAIN,
    PLAINLY_DONE,
    SENT,
    TAKEN,
    Letter,
    open_letter,
)
from meshcache.transport.paths import Short, socket_path
from meshcache.transport.waker import drain, wake, waker

__all__ = [
    "FD",
    "FLAGS",
    "HELLO",
    "MAX_FRAME",
    "RETRY",
    "SIZE",
    "SUPPORTED",
    "HostListener",
    "HostRoute",
    "NotTaken",
    "frame_end",
]

SUPPORTED: Final = hasattr(socket, "AF_UNIX") and hasattr(select, "poll")

MAX_FRAME: Final = 65_536
"""Bytes of a frame; well below what a Unix socket holds, so that none is sent by half.
Whatever is larger is not worth a short cut."""

MAX_CALLERS: Final = 256
"""Connections that an owner keeps. Each takes a descriptor here and one there, and
those with a page (`MAX_PAGES`) two."""

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

ACCEPTED_PER_TURN: Final = 16

RETRY: Final = 1.0
"""Seconds after which a connection is tried again that could not be made."""

SIZE: Final = Struct(">I")
FD: Final = Struct("i")
HELLO: Final = SIZE.pack(0)
FLAGS: Final = getattr(socket, "MSG_NOSIGNAL", 0)
_MODE: Final = 0o600
_STOPPED_POLL: Final = 0.05
_DONE_WITH: Final = frozenset({DONE, HANDED, PLAIN})


class HostRoute(NamedTuple):
    """A route: one connection to the listener."""

    number: int


Take: TypeAlias = Callable[[bytes, HostRoute], bytes | None]
"""Takes a frame and its route; returns the answer, if there is one at once."""


class NotTaken(Exception):
    """A letter can not be done on this thread, now. Nothing of it was done."""


# --- the owner's end --------------------------------------------------------------


@final
class _Caller:
    """A connection that was accepted, and what has come of a frame so far.

    `ended` when nothing more is taken from it, or sent.
    """

    __slots__ = ("ended", "letter", "partial", "route", "socket")

    def __init__(self, number: int, accepted: socket.socket) -> None:
        self.route = HostRoute(number)
        self.letter: Letter | None = None
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
        letters: requests that were found in a page.
        unroutable: answers whose connection was gone, or took no more.
        garbage: connections closed for what they brought.
        turned_away: connections over `MAX_CALLERS`, closed at once.
        stopped: whether `stop` was called.

    Raises:
        OSError: the socket cannot be made; nothing is left behind.
    """

    def __init__(self, directory: Path, node_id: bytes) -> None:
        self._frames = self.letters = self.unroutable = self.garbage = (
            self.turned_away
        ) = 0
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
        self._room = bytearray(SIZE.size + MAX_FRAME)
        self._view = memoryview(self._room)
        # Held to close a connection, and by others to use one: a descriptor that is
        # closed under a thread may be another file when that thread uses it.
        # A finalizer may come in the middle of that and read, and so look for letters.
        self._closing = RLock()
        # Held to do what lies in the pages; taken before the other.
        self._attending = allocate_lock()
        self._writers: tuple[_Caller, ...] = ()

    def __len__(self) -> int:
        return len(self._callers)

    @property
    def received(self) -> int:
        """Requests that have come, by the wire or in a page."""
        return self._frames + self.letters

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
        opened = open_letter() if len(self._writers) < MAX_PAGES else None
        passed = []
        if opened is not None:
            caller.letter = opened[0]
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, FD.pack(opened[1]))]
        try:
            # `socket.send_fds` leaves out the flags.
            accepted.sendmsg([HELLO], passed, FLAGS)
        except OSError:
            accepted.close()
            return
        finally:
            if opened is not None:
                os.close(opened[1])
        self._callers[accepted.fileno()] = self._by_route[caller.route] = caller
        if caller.letter is not None:
            self._writers = (*self._writers, caller)
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
        elif not caller.partial and size == frame_end(self._room, size):
            self._take(caller, bytes(self._view[SIZE.size : size]), take)
        else:
            caller.partial += self._view[:size]
            self._cut(caller, take)

    def _cut(self, caller: _Caller, take: Take) -> None:
        """Take the frames that are complete."""
        partial = caller.partial
        while not caller.ended:
            whole = frame_end(partial, len(partial))
            if whole > SIZE.size + MAX_FRAME:
                self.garbage += 1
                self._close(caller)
                return
            if not whole or len(partial) < whole:
                return
            frame = bytes(partial[SIZE.size : whole])
            del partial[:whole]
            self._take(caller, frame, take)

    def _take(self, caller: _Caller, frame: bytes, take: Take) -> None:
        if not frame:
            self._knocked(caller, take)
            return
        self._frames += 1
        answer = take(frame, caller.route)
        if answer is not None and not _sent(caller, answer):
            self.unroutable += 1
            self._close(caller)

    def _knocked(self, caller: _Caller, take: Take) -> None:
        """Do what lies in the page of *caller*, who now waits at the wire."""
        # Whoever has it may have been interrupted, and wait for this thread to stop.
        while not self._attending.acquire(timeout=_STOPPED_POLL):
            if self.stopped:
                return
        letter, state = caller.letter, EMPTY
        try:
            if letter is not None:
                if letter.words[0] == SENT:
                    self._open(caller, letter, take)
                state = letter.words[0]
        finally:
            self._attending.release()
        if state not in _DONE_WITH:
            self.garbage += 1
            self._close(caller)
        elif not _sent(caller, b""):
            self.unroutable += 1
            self._close(caller)

    def _open(self, caller: _Caller, letter: Letter, take: Take) -> None:
        """Do what a letter asks for, once."""
        # Who finds its connection ended and its letter unopened may send it to others.
        with self._closing:
            sent = letter.words[0] == SENT and not caller.ended
            frame = letter.read() if sent else None
            if frame is None:
                return
            letter.words[0] = TAKEN
        try:
            answer = take(frame, caller.route)
        except NotTaken:
            if not caller.ended:
                letter.put(frame, SENT)
            return
        except BaseException:
            with self._closing:
                caller.end()
            raise
        self.letters += 1
        if caller.ended:
            # In a child that was forked meanwhile the page is the parent's.
            return
        if answer is PLAINLY_DONE:
            letter.words[0] = PLAIN
        elif answer is None or len(answer) > MAX_LETTER:
            letter.words[0] = HANDED
            if answer is not None:
                self.reply(caller.route, answer)
        else:
            letter.put(answer, DONE)

    def _close(self, caller: _Caller) -> None:
        fd = caller.socket.fileno()
        self._writers = tuple([each for each in self._writers if each is not caller])
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

    def attend(self, take: Take, heard: Callable[[], object]) -> None:
        """Do what callers have put into their pages, unless another thread does.

        *heard* is called first: whoever rings after that is looked for again.
        """
        # Called by `map`, in C: a signal's handler may run after a call of our own, and
        # what it raises there, before the `try`, would leave the lock held for ever.
        for free in map(self._attending.acquire, (False,)):
            if not free:
                return
            try:
                heard()
                for caller in self._writers:
                    letter = caller.letter
                    if letter is not None and letter.words[0] == SENT:
                        self._open(caller, letter, take)
            finally:
                self._attending.release()

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
        self._writers = ()
        for caller in self._callers.values():
            caller.ended = True
            caller.socket.close()
        self._callers.clear()
        self._by_route.clear()
        self._listener.close()
        self._poll.close()
        for fd in {self._waker, self._wake_fd}:
            os.close(fd)


def frame_end(data: bytes | bytearray, size: int) -> int:
    """Return how many bytes the first frame takes, with its length; 0 if unknown."""
    if size < SIZE.size:
        return 0
    length: int = SIZE.unpack_from(data)[0]
    return SIZE.size + length


def _sent(caller: _Caller, frame: bytes) -> bool:
    """Return whether all of *frame* was sent; if not, the connection is of no use."""
    if caller.ended or len(frame) > MAX_FRAME:
        return False
    data = SIZE.pack(len(frame)) + frame
    try:
        return caller.socket.send(data, FLAGS) == len(data)
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
