"""The host wire over real sockets."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from meshcache.transport import host, wires
from meshcache.transport.host import MAX_FRAME, HostListener, HostRoute
from meshcache.transport.paths import Short, sweep
from meshcache.transport.wires import HostCaller, NotSent, Unanswered

OWNER = bytes(range(16))
PATIENCE = 10.0


class Owner:
    """A node's end, on a thread of its own that serves until it is closed.

    `answer` is given the frame and returns what to send back, or None for silence.
    """

    opened: ClassVar[list[Owner]] = []

    def __init__(self, directory, answer: Callable[[bytes], bytes | None]) -> None:
        self.opened.append(self)
        self.listener = HostListener(directory, OWNER)
        self.answer = answer
        self.routes: list[HostRoute] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self.listener.stopped:
            self.listener.serve(self._take)

    def _take(self, frame: bytes, route: HostRoute) -> bytes | None:
        self.routes.append(route)
        return self.answer(frame)

    def close(self) -> None:
        self.listener.stop()
        self._thread.join(PATIENCE)
        self.listener.close()


def taken(listener: HostListener) -> list[tuple[bytes, HostRoute]]:
    """Return what has come, with its routes, and leave it unanswered."""
    frames: list[tuple[bytes, HostRoute]] = []
    listener.serve(lambda *frame: frames.append(frame), 0)
    return frames


@pytest.fixture(autouse=True)
def _no_owner_is_left() -> Iterator[None]:
    yield
    while Owner.opened:
        Owner.opened.pop().close()


@pytest.fixture
def caller(tmp_path) -> Iterator[HostCaller]:
    made = HostCaller(tmp_path)
    yield made
    made.close()


@pytest.fixture
def owner(tmp_path) -> Iterator[Owner]:
    """An owner that answers with what it was sent."""
    made = Owner(tmp_path, lambda frame: frame)
    yield made
    made.close()


@pytest.fixture
def listener(tmp_path) -> Iterator[HostListener]:
    """A listener that the test itself serves."""
    made = HostListener(tmp_path, OWNER)
    yield made
    made.close()


@pytest.fixture
def connect(tmp_path, listener) -> Iterator[Callable[[], socket.socket]]:
    """Connect to the listener by hand, and have it accept."""
    made = []

    def connect() -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        made.append(one)
        with Short(tmp_path / f"{OWNER.hex()}.sock") as short:
            one.connect(short)
        assert [] == taken(listener)
        one.settimeout(PATIENCE)
        return one

    yield connect
    for one in made:
        one.close()


def call(caller: HostCaller, frame: bytes, timeout: float = PATIENCE) -> bytes:
    return caller.call(OWNER, frame, timeout, lambda answer: answer)


def framed(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


# --- asking and answering ---------------------------------------------------------


def test_each_of_many_threads_gets_the_answer_to_its_own_request(owner, caller):
    def ask(number: int) -> bool:
        sent = [b"%d-%d" % (number, i) for i in range(50)]
        return sent == [call(caller, frame) for frame in sent]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))

    assert len(owner.listener) <= 8


def test_a_connection_is_used_again(owner, caller):
    for _ in range(5):
        call(caller, b"hello")

    assert 1 == len({*owner.routes})


@pytest.mark.parametrize("size", [1, 4091, 4092, 4093, MAX_FRAME])
def test_a_frame_of_any_allowed_size_goes_and_comes_whole(owner, caller, size):
    frame = os.urandom(size)

    assert frame == call(caller, frame)


def test_a_frame_over_the_limit_is_not_sent(owner, caller):
    with pytest.raises(NotSent):
        call(caller, b"x" * (MAX_FRAME + 1))

    assert 0 == owner.listener.received


def test_where_nobody_listens_nothing_is_sent(caller):
    with pytest.raises(NotSent):
        call(caller, b"hello")


def test_an_owner_that_does_not_read_is_not_sent_anything(listener, caller):
    with pytest.raises(NotSent):
        call(caller, b"hello")

    assert [] == [frame for _ in range(3) for frame in taken(listener)]


def test_after_a_failure_no_connection_is_tried_for_a_while(tmp_path, caller):
    with pytest.raises(NotSent):
        call(caller, b"hello")
    owner = Owner(tmp_path, lambda frame: frame)
    with pytest.raises(NotSent):
        call(caller, b"hello")
    owner.close()

    assert not owner.routes


def test_an_owner_that_has_closed_a_connection_long_ago_is_asked_by_another(
    owner, caller
):
    call(caller, b"first")
    owner.listener.drop(owner.routes[0])

    assert b"second" == call(caller, b"second")


def test_an_owner_that_is_gone_is_not_sent_anything(owner, caller):
    call(caller, b"hello")
    owner.close()

    with pytest.raises(NotSent):
        call(caller, b"hello")


# --- no answer --------------------------------------------------------------------


def test_a_late_answer_is_never_taken_for_that_of_a_later_request(tmp_path, caller):
    owner = Owner(tmp_path, lambda frame: None if frame == b"first" else frame)
    with pytest.raises(Unanswered) as raised:
        call(caller, b"first", timeout=0.01)
    owner.listener.reply(owner.routes[0], b"late")

    assert raised.value.silent
    assert b"second" == call(caller, b"second")
    owner.close()


def test_the_death_of_the_owner_ends_the_wait_at_once(tmp_path, caller):
    owner = Owner(tmp_path, lambda _: None)
    owner.answer = lambda _: owner.listener.drop(owner.routes[-1])
    with pytest.raises(Unanswered) as raised:
        call(caller, b"hello", timeout=3600)

    assert not raised.value.silent
    owner.close()


def test_a_connection_with_an_answer_nobody_can_read_is_not_used_again(owner, caller):
    def refuse(_: bytes) -> bytes:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - its own
        caller.call(OWNER, b"first", PATIENCE, refuse)
    call(caller, b"second")

    assert 2 == len({*owner.routes})


def test_an_interrupted_call_leaves_nothing_for_the_next_one(tmp_path, caller):
    def interrupt(frame: bytes) -> bytes | None:
        if frame != b"first":
            return frame
        os.kill(os.getpid(), signal.SIGUSR1)
        return None

    def stop(*_: object) -> None:
        owner.listener.reply(owner.routes[-1], b"the answer to the first")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, stop)
    owner = Owner(tmp_path, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            call(caller, b"first")

        assert b"second" == call(caller, b"second")
    finally:
        signal.signal(signal.SIGUSR1, before)
        owner.close()


def test_closing_ends_the_calls_under_way(tmp_path, caller):
    owner = Owner(tmp_path, lambda _: caller.close())
    with pytest.raises(Unanswered) as raised:
        call(caller, b"hello", timeout=3600)
    with pytest.raises(NotSent):
        call(caller, b"hello")
    owner.close()

    assert not raised.value.silent
    assert 0 == len(caller)


# --- bounds -----------------------------------------------------------------------


def test_there_are_no_more_connections_than_allowed(owner, caller, monkeypatch):
    monkeypatch.setattr(wires, "MAX_WIRES", 1)

    def ask_another(frame: bytes) -> bytes:
        with pytest.raises(NotSent):
            call(caller, b"second")
        return frame

    assert b"first" == caller.call(OWNER, b"first", PATIENCE, ask_another)
    assert b"third" == call(caller, b"third")


def test_where_there_are_many_one_is_kept_for_each_sibling(owner, caller, monkeypatch):
    monkeypatch.setattr(wires, "MAX_WIRES", 4)
    all_there = threading.Barrier(4)

    def ask(_: int) -> None:
        caller.call(OWNER, b"hello", PATIENCE, lambda _: all_there.wait(PATIENCE))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))

    assert 2 >= len(caller)


def test_a_caller_that_is_gone_does_not_end_the_owner(tmp_path):
    """Though SIGPIPE is at its default, as many programs set it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            one, listener = socket.socket(socket.AF_UNIX), HostListener(tmp_path, OWNER)
            with Short(tmp_path / f"{OWNER.hex()}.sock") as short:
                one.connect(short)
            one.close()
            code = len(taken(listener))
        finally:
            os._exit(code)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_callers_over_the_limit_are_turned_away_before_they_send(
    tmp_path, owner, caller, monkeypatch
):
    monkeypatch.setattr(host, "MAX_CALLERS", 1)
    call(caller, b"hello")
    other = HostCaller(tmp_path)
    with pytest.raises(NotSent):
        call(other, b"hello")
    other.close()

    assert 1 == owner.listener.turned_away
    assert 1 == owner.listener.received


def test_without_descriptors_the_owner_stops_accepting_for_a_while(
    tmp_path, listener, monkeypatch
):
    class Exhausted:
        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "too many")

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.setblocking(False)
        with Short(tmp_path / f"{OWNER.hex()}.sock") as short:
            waiting.connect(short)
        real = listener._listener
        listener._listener = Exhausted(real)
        taken(listener)
        listener._listener = real
        taken(listener)

        assert 0 == len(listener)

        listener._paused = 0.0  # that it is time, now
        taken(listener)

        assert 1 == len(listener)


# --- what should not come ---------------------------------------------------------


def test_a_frame_that_comes_in_pieces_is_whole_in_the_end(listener, connect):
    one = connect()
    for byte in framed(b"hello"):
        assert [] == taken(listener)
        one.sendall(bytes([byte]))

    assert [b"hello"] == [frame for frame, _ in taken(listener)]


def test_two_frames_that_come_together_are_two(listener, connect):
    connect().sendall(framed(b"one") + framed(b"two"))

    assert [b"one", b"two"] == [frame for frame, _ in taken(listener)]


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1, 2**32 - 1])
def test_a_size_that_no_sibling_sends_ends_the_connection(listener, connect, size):
    one = connect()
    one.sendall(struct.pack(">I", size) + b"x")

    assert [] == taken(listener)
    assert 1 == listener.garbage
    assert 0 == len(listener)


def test_a_connection_that_was_dropped_yields_no_more(listener, connect):
    connect().sendall(framed(b"one") + framed(b"two"))
    frames = []

    def drop(frame: bytes, route: HostRoute) -> None:
        frames.append(frame)
        listener.drop(route)

    for _ in range(2):
        listener.serve(drop, 0)

    assert [b"one"] == frames
    assert 0 == len(listener)


def test_an_answer_for_a_caller_that_is_gone_is_counted(listener, connect):
    one = connect()
    one.sendall(framed(b"hello"))
    ((_, route),) = taken(listener)
    one.close()
    taken(listener)
    listener.reply(route, b"late")

    assert 0 == len(listener)
    assert 1 == listener.unroutable


def test_who_never_reads_its_answers_is_cut_off(listener, connect):
    one = connect()
    one.sendall(framed(b"hello"))
    ((_, route),) = taken(listener)
    for _ in range(1000):
        listener.reply(route, b"x" * MAX_FRAME)
    taken(listener)

    assert 0 == len(listener)


def test_an_answer_over_the_limit_is_not_sent_by_half(listener, connect):
    one = connect()
    one.sendall(framed(b"hello"))
    ((_, route),) = taken(listener)
    listener.reply(route, b"x" * (MAX_FRAME + 1))

    assert struct.pack(">I", 0) == one.recv(MAX_FRAME)
    assert b"" == one.recv(MAX_FRAME)


# --- files ------------------------------------------------------------------------


def test_the_socket_is_this_users_alone_and_goes_with_its_owner(tmp_path):
    listener = HostListener(tmp_path, OWNER)
    path = tmp_path / f"{OWNER.hex()}.sock"
    mode = stat.S_IMODE(path.stat().st_mode)
    listener.close()

    assert 0o600 == mode
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="others take short paths only")
def test_a_path_that_is_too_long_for_a_socket_is_shortened(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    owner, caller = Owner(deep, lambda frame: frame), HostCaller(deep)

    assert b"hello" == call(caller, b"hello")
    caller.close()
    owner.close()


def test_a_directory_that_is_not_there_leaves_nothing_open(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        HostListener(tmp_path / "none", OWNER)


def test_the_sockets_of_the_dead_are_swept_and_no_others(tmp_path):
    dead = bytes(reversed(OWNER))
    for listener in [HostListener(tmp_path, OWNER), HostListener(tmp_path, dead)]:
        listener.abandon_after_fork()  # which closes, and leaves the file
    (tmp_path / "notes.sock").touch()
    (tmp_path / f"{dead.hex()}.arena").touch()
    sweep(tmp_path, lambda node_id: node_id == OWNER)
    sweep(tmp_path / "none", lambda _: False)

    assert {f"{OWNER.hex()}.sock", "notes.sock", f"{dead.hex()}.arena"} == {
        path.name for path in tmp_path.iterdir()
    }


def test_a_forked_child_lets_go_of_its_copies_only(tmp_path, owner, caller):
    call(caller, b"hello")
    child = os.fork()
    if not child:
        code = 1
        try:
            owner.listener.abandon_after_fork()
            caller.abandon_after_fork()
            code = len(caller) + len(owner.listener)
        finally:
            os._exit(code)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert b"again" == call(caller, b"again")
    assert 1 == len({*owner.routes})


def test_what_is_forgotten_is_closed(owner, caller):
    call(caller, b"hello")
    caller.forget(OWNER)

    assert 0 == len(caller)
    assert b"again" == call(caller, b"again")
