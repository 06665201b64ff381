"""The caller's end of the host wires: what a node sends to its siblings by (host.py).

A connection carries one request at a time. Whoever wants to send takes an idle one, or
makes one, and puts it back when it has read the answer. If anything else happens, a
time-out, an interrupt, garbage, it is closed, and what was on its way goes with it: no
later request can be given an earlier one's answer.

A request goes as a letter (letters.py) where the owner has been found awake the last
time, and as a frame where not. After one that had to be knocked for, the next ones go
as frames, twice as many as the time before.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, final
from weakref import WeakSet

from meshcache.clock import monotonic
from meshcache.transport.host import (
    FD,
    FLAGS,
    HELLO,
    MAX_FRAME,
    RETRY,
    SIZE,
    frame_end,
)
from meshcache.transport.letters import (
    DONE,
    EMPTY,
    HANDED,
    MAX_LETTER,
    MAX_PAGES,
    PLAIN,
    PLAINLY_DONE,
    RING,
    SENT,
    Letter,
    waited,
)
from meshcache.transport.paths import Short, socket_path

__all__ = ["Bell", "HostCaller", "NotSent", "Unanswered"]

MAX_WIRES: Final = 128
"""Connections that a node has to all its siblings. Whoever finds no idle one and may
make none goes the ordinary way."""

HELLO_TIMEOUT: Final = 0.1
"""Seconds for the owner to accept a connection. Nothing has been asked by then, so the
ordinary way is still open."""

MAX_PAUSE: Final = 255
"""Requests that go as frames, at most, before the next letter."""

_ANSWER: Final = 4096
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_ENDED: Final = frozenset({errno.EPIPE, errno.ECONNRESET})

Result = TypeVar("Result")


class Bell(NamedTuple):
    """How to call for an owner's attention, and to give one's own meanwhile.

    Attributes:
        ring: sets the owner's bell, to what it is rung for.
        heed: does what others ask of this node, if they have rung.
    """

    ring: Callable[[int], object]
    heed: Callable[[], object]


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


@final
class _Wire:
    """A connection to a sibling. Used by one thread at a time.

    `cut` once something can not be sent, and it need not be the owner that has ended
    the connection.
    """

    __slots__ = ("__weakref__", "_left", "_socket", "_timeout", "cut", "letter")

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # The time-out holds whatever signals come (PEP 475); SO_RCVTIMEO's would not.
        self._socket.settimeout(HELLO_TIMEOUT)
        self._timeout = HELLO_TIMEOUT
        self._left = b""
        self.letter: Letter | None = None
        self.cut = False
        with Short(path) as short:
            self._socket.connect(short)

    def __del__(self) -> None:
        # An interrupt may come between any two steps of whoever has it.
        with suppress(AttributeError):  # no socket was to be had
            self.close()

    def greeted(self, *, paged: bool) -> bool:
        """Wait for the owner's first word; return whether it came.

        If *paged*, use the page that comes with it.
        """
        room = socket.CMSG_LEN(FD.size)
        try:
            # `socket.recv_fds` leaves out the flags.
            hello, passed, *_ = self._socket.recvmsg(SIZE.size, room, _CLOEXEC)
        except OSError:
            return False
        for level, kind, data in passed:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._receive_page(data, paged=paged)
        return hello == HELLO

    def _receive_page(self, data: bytes, *, paged: bool) -> None:
        for (fd,) in FD.iter_unpack(data[: len(data) // FD.size * FD.size]):
            try:
                if paged:
                    self.letter = Letter(fd)
            except (OSError, ValueError):
                pass
            finally:
                os.close(fd)

    def send(self, data: bytes) -> bool:
        """Return whether all was sent; if not, the owner has no whole frame of it."""
        try:
            return self._socket.send(data, FLAGS) == len(data)
        except OSError as error:
            if error.errno not in _ENDED:
                self.cut = True
            return False

    def by_letter(
        self, frame: bytes, timeout: float, bell: Bell, *, awake: bool
    ) -> tuple[bytes | None, bool]:
        """Return the answer, None if the owner has nothing; and whether it was awake.

        Raises:
            Unanswered: there is none.
        """
        letter = self.letter
        assert letter is not None
        letter.put(frame, SENT)
        try:
            bell.ring(RING)
            state = waited(letter, bell.heed, awake=awake)
            if state == PLAIN:
                return PLAINLY_DONE, True
            if state == DONE:
                return letter.read() or b"", True
            if state == HANDED:
                return self.receive(timeout), True
            if self.send(HELLO):
                return self._roused(letter, timeout), False
            if letter.words[0] == SENT and not self.cut:
                return None, False
            raise Unanswered(silent=False)
        finally:
            if self.letter is not None:
                letter.words[0] = EMPTY

    def _roused(self, letter: Letter, timeout: float) -> bytes:
        """Return the answer after a knock, which is answered by an empty frame."""
        answer = self.receive(timeout)
        if answer:
            # The I/O thread was faster than the one that was knocked for.
            self.receive(timeout)
        elif letter.words[0] == HANDED:
            answer = self.receive(timeout)
        elif letter.words[0] == PLAIN:
            return PLAINLY_DONE
        return answer or letter.read() or b""

    def receive(self, timeout: float) -> bytes:
        """Wait for one frame and return it.

        Raises:
            Unanswered: there is none.
        """
        end = monotonic() + timeout
        data = self._left or self._part(timeout)
        whole = frame_end(data, len(data))
        while not whole or len(data) < whole:
            data += self._part(end - monotonic())
            whole = frame_end(data, len(data))
            if len(data) > SIZE.size + MAX_FRAME:
                raise Unanswered(silent=False)
        self._left = data[whole:]
        return data[SIZE.size : whole]

    @property
    def clean(self) -> bool:
        """Whether nothing has come that nobody asked for."""
        return not self._left

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
        self.cut = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. Does nothing the second time."""
        self._socket.close()


@final
class _Sibling:
    """One owner: where it listens, and the connections to it that nobody uses."""

    __slots__ = ("idle", "path", "pause", "rest", "retry_at")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.idle: list[_Wire] = []
        self.retry_at = 0.0
        # Requests that go by the wire before another one is put into a page, and how
        # many it were the last time.
        self.rest = self.pause = 0

    def found(self, *, awake: bool) -> None:
        """Learn whether letters are worth while."""
        self.pause = 0 if awake else min(MAX_PAUSE, 2 * self.pause + 1)
        self.rest = self.pause


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
        self.letters = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._wires)

    def call(
        self,
        node_id: bytes,
        frame: bytes,
        timeout: float,
        read: Callable[[bytes], Result],
        bell: Bell | None = None,
    ) -> Result:
        """Send *frame* once, wait for the answer and return what *read* makes of it.

        What *read* raises is passed on, and the connection closed.

        Raises:
            NotSent: the owner has nothing of it.
            Unanswered: it may have been done.
        """
        if len(frame) > MAX_FRAME:
            raise NotSent
        sibling = self._siblings.get(node_id)
        if sibling is None:
            sibling = _Sibling(socket_path(self._directory, node_id))
            sibling = self._siblings.setdefault(node_id, sibling)
        while True:
            wire, fresh = self._take(sibling)
            try:
                answer = self._asked(sibling, wire, frame, timeout, bell)
                result = () if answer is None else (read(answer),)
            except BaseException:
                self._end(wire)
                raise
            if result:
                self._put_back(sibling, wire)
                return result[0]
            # The owner has ended it, perhaps long ago. Others may be as old.
            self._end(wire)
            if fresh:
                raise NotSent

    def _asked(
        self,
        sibling: _Sibling,
        wire: _Wire,
        frame: bytes,
        timeout: float,
        bell: Bell | None,
    ) -> bytes | None:
        """Return the answer to *frame*; None if the owner has nothing of it."""
        fits = wire.letter is not None and len(frame) <= MAX_LETTER
        if bell is None or not fits or sibling.rest:
            sibling.rest = max(0, sibling.rest - 1)
            if bell is not None:
                bell.ring(1)
            sent = wire.send(SIZE.pack(len(frame)) + frame)
            return wire.receive(timeout) if sent else None
        answer, awake = wire.by_letter(frame, timeout, bell, awake=not sibling.pause)
        sibling.found(awake=awake)
        self.letters += awake
        return answer

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
            if wire.greeted(paged=len(self._wires) <= MAX_PAGES):
                return wire, True
            self._end(wire)
        except OSError:
            pass
        sibling.retry_at = monotonic() + RETRY
        raise NotSent

    def _put_back(self, sibling: _Sibling, wire: _Wire) -> None:
        crowded = sibling.idle and len(self._wires) > MAX_WIRES // 2
        if self._closed or crowded or not wire.clean:
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
            # A thread of the parent may wait for what comes into that page.
            wire.letter = None
            self._end(wire)
