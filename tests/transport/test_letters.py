"""Letters over real pages and real connections.

The owner's host thread is the listener's `serve`; whoever passes by is its `attend`.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshcache.transport import host, wires
from meshcache.transport.host import HELLO, HostListener, HostRoute, NotTaken
from meshcache.transport.letters import (
    DONE,
    EMPTY,
    MAX_LETTER,
    PLAINLY_DONE,
    RING,
    SENT,
    TAKEN,
    Letter,
    open_letter,
)
from meshcache.transport.paths import Short
from meshcache.transport.wires import (
    MAX_PAUSE,
    Bell,
    HostCaller,
    NotSent,
    Unanswered,
)

OWNER = bytes(range(16))
PATIENCE = 10.0
INTERRUPTS = 2000

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="no pages without a name here"
)


class Owner:
    """A node's end. Its host thread runs; `attends` says whether somebody passes by."""

    def __init__(self, directory) -> None:
        self.listener = HostListener(directory, OWNER)
        self.answer: Callable[[bytes], bytes | None] = bytes.upper
        self.attends = True
        self.rung: list[int] = []
        self.served: list[bytes] = []
        self.attended: list[bytes] = []
        self.routes: list[HostRoute] = []
        self.bell = Bell(self.rung.append, self.pass_by)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self.listener.stopped:
            self.listener.serve(self.serve)

    def serve(self, frame: bytes, route: HostRoute) -> bytes | None:
        self.served.append(frame)
        self.routes.append(route)
        return self.answer(frame)

    def pass_by(self) -> None:
        """Be a thread that hears the bell; here the one that waits for an answer."""
        if self.attends:
            self.listener.attend(self.attend, lambda: None)

    def attend(self, frame: bytes, route: HostRoute) -> bytes | None:
        self.attended.append(frame)
        self.routes.append(route)
        return self.answer(frame)

    def close(self) -> None:
        self.listener.stop()
        self._thread.join(PATIENCE)
        self.listener.close()


@pytest.fixture
def owner(tmp_path) -> Iterator[Owner]:
    made = Owner(tmp_path)
    yield made
    made.close()


@pytest.fixture
def caller(tmp_path) -> Iterator[HostCaller]:
    made = HostCaller(tmp_path)
    yield made
    made.close()


def ask(caller: HostCaller, owner: Owner, frame: bytes = b"hello") -> bytes:
    return caller.call(OWNER, frame, PATIENCE, lambda answer: answer, owner.bell)


def page() -> tuple[Letter, Letter]:
    opened = open_letter()
    assert opened is not None
    other = Letter(opened[1])
    os.close(opened[1])
    return opened[0], other


# --- the page -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MAX_LETTER])
def test_what_one_end_puts_the_other_reads(size):
    one, other = page()
    frame = bytes(range(256)) * 17
    one.put(frame[:size], SENT)

    assert SENT == other.words[0]
    assert frame[:size] == other.read()


def test_a_frame_that_is_half_there_is_none():
    one, other = page()
    one.put(b"whole", SENT)
    one._memory[25] ^= 1

    assert other.read() is None


def test_a_frame_is_read_once():
    one, other = page()
    one.put(b"once", SENT)

    assert b"once" == other.read()
    assert other.read() is None


# --- who does it --------------------------------------------------------------------


def test_a_letter_is_done_by_who_passes_by_and_wakes_nobody(owner, caller):
    assert b"HELLO" == ask(caller, owner)
    assert b"AGAIN" == ask(caller, owner, b"again")
    assert ([b"hello", b"again"], []) == (owner.attended, owner.served)
    assert [RING, RING] == owner.rung
    assert (2, 2) == (caller.letters, owner.listener.received)


def test_what_was_plainly_done_comes_without_a_frame(owner, caller):
    owner.answer = lambda _: PLAINLY_DONE

    assert ask(caller, owner) is PLAINLY_DONE
    owner.attends = False
    assert ask(caller, owner) is PLAINLY_DONE
    assert [b"hello"] == owner.served


def test_a_frame_that_reads_like_it_is_not_plainly_done(owner, caller):
    owner.answer = lambda _: b"".join([PLAINLY_DONE[:2], PLAINLY_DONE[2:]])

    assert ask(caller, owner) is not PLAINLY_DONE


def test_where_nobody_passes_by_a_knock_wakes_the_host_thread(owner, caller):
    owner.attends = False

    assert b"HELLO" == ask(caller, owner)
    assert ([], [b"hello"]) == (owner.attended, owner.served)


def test_after_a_knock_frames_are_sent_for_a_while(owner, caller):
    owner.attends = False
    for _ in range(8):
        ask(caller, owner)

    # A letter, one frame, a letter, three frames, a letter, and more frames.
    assert [2, 1, 2, 1, 1, 1, 2, 1] == owner.rung
    sibling = caller._siblings[OWNER]
    for _ in range(20):
        sibling.found(awake=False)
    assert MAX_PAUSE == sibling.rest
    sibling.found(awake=True)
    assert 0 == sibling.rest


@pytest.mark.parametrize("attends", [True, False])
def test_what_is_handed_on_is_answered_along_the_wire(owner, caller, attends):
    owner.attends = attends

    def hand_on(frame: bytes) -> None:
        later = threading.Timer(0.01, owner.listener.reply, (owner.routes[-1], b"late"))
        later.start()

    owner.answer = hand_on

    assert b"late" == ask(caller, owner)
    assert b"late" == ask(caller, owner)
    assert 1 == len(caller)


@pytest.mark.parametrize("attends", [True, False])
def test_an_answer_that_was_faster_than_the_knock_is_not_lost(owner, caller, attends):
    owner.attends = attends

    def reply_at_once(frame: bytes) -> None:
        owner.listener.reply(owner.routes[-1], frame.upper())

    owner.answer = reply_at_once
    ask(caller, owner)
    wires = list(caller._wires)
    assert b"AGAIN" == ask(caller, owner, b"again")
    assert wires == list(caller._wires)


def test_an_answer_that_no_page_holds_comes_by_the_wire(owner, caller):
    owner.answer = lambda frame: frame * (MAX_LETTER + 1)

    assert b"x" * (MAX_LETTER + 1) == ask(caller, owner, b"x")


def test_a_request_that_no_page_holds_is_a_frame(owner, caller):
    large = b"x" * (MAX_LETTER + 1)

    assert large.upper() == ask(caller, owner, large)
    assert [large] == owner.served


def test_who_cannot_do_it_leaves_it_for_the_host_thread(owner, caller):
    def refuse(frame: bytes, route: HostRoute) -> bytes:
        raise NotTaken

    owner.attend = refuse

    assert b"HELLO" == ask(caller, owner)
    assert [b"hello"] == owner.served


def test_many_threads_each_get_their_own_answer(owner, caller):
    with ThreadPoolExecutor(4) as pool:
        frames = [b"a%d" % number for number in range(200)]
        answers = list(pool.map(lambda frame: ask(caller, owner, frame), frames))

    assert [frame.upper() for frame in frames] == answers
    assert 200 == len(owner.attended) + len(owner.served)


# --- what goes wrong ----------------------------------------------------------------


def test_a_letter_in_an_ended_connection_is_not_opened_and_goes_elsewhere(
    owner, caller
):
    ask(caller, owner)
    owner.listener.drop(owner.routes[-1])

    assert b"AGAIN" == ask(caller, owner, b"again")
    assert [b"hello", b"again"] == owner.attended + owner.served


def test_what_was_begun_when_the_connection_ended_may_have_been_done(owner, caller):
    def end_it(frame: bytes) -> bytes | None:
        owner.listener.drop(owner.routes[-1])
        return None

    owner.answer = end_it
    with pytest.raises(Unanswered) as caught:
        ask(caller, owner)

    assert not caught.value.silent


def test_whoever_is_interrupted_while_doing_it_ends_the_connection(owner, caller):
    def interrupted(frame: bytes, route: HostRoute) -> bytes:
        raise KeyboardInterrupt

    ask(caller, owner)
    wire = caller._siblings[OWNER].idle[0]
    wire.letter.put(b"hello", SENT)
    with pytest.raises(KeyboardInterrupt):
        owner.listener.attend(interrupted, lambda: None)
    with pytest.raises(Unanswered) as caught:
        wire.receive(PATIENCE)

    assert not caught.value.silent
    assert TAKEN == wire.letter.words[0]


def test_a_letter_whose_connection_has_ended_is_not_opened(owner, caller):
    ask(caller, owner)
    letter = caller._siblings[OWNER].idle[0].letter
    letter.put(b"late", SENT)
    owner.listener._writers[0].ended = True
    owner.pass_by()

    assert SENT == letter.words[0]
    assert [b"hello"] == owner.attended


def test_a_letter_is_marked_before_it_is_done(owner, caller):
    states = []

    def look(frame: bytes) -> bytes:
        states.append(owner.listener._writers[0].letter.words[0])
        return frame

    owner.answer = look
    ask(caller, owner)

    assert [TAKEN] == states


def test_a_silent_owner_costs_one_time_out_and_what_it_finds_later_is_nothing(
    tmp_path, caller
):
    listener = HostListener(tmp_path, OWNER)
    welcome = threading.Thread(target=lambda: listener.serve(_never, PATIENCE))
    welcome.start()
    opened: list[bytes] = []
    bell = Bell(lambda _: None, lambda: None)
    with pytest.raises(Unanswered) as caught:
        caller.call(OWNER, b"hello", 0.05, lambda answer: answer, bell)
    welcome.join(PATIENCE)
    listener.attend(lambda frame, _: opened.append(frame), lambda: None)
    listener.stop()
    listener.close()

    assert caught.value.silent
    assert [] == opened


def test_what_was_plainly_done_is_not_found_in_the_page_again(owner, caller):
    owner.answer = lambda _: PLAINLY_DONE
    ask(caller, owner)
    letter = caller._siblings[OWNER].idle[0].letter
    letter.words[0] = SENT  # seen before the next frame is
    owner.pass_by()

    assert [b"hello"] == owner.attended


def test_a_letter_that_was_withdrawn_before_it_is_opened_is_not_done(owner, caller):
    ask(caller, owner)
    letter = caller._siblings[OWNER].idle[0].letter
    letter.put(b"late", EMPTY)
    owner.listener._open(owner.listener._writers[0], letter, owner.attend)

    assert EMPTY == letter.words[0]
    assert [b"hello"] == owner.attended


def test_closing_between_a_look_and_the_mark_leaves_it_unknown(owner, caller):
    ask(caller, owner)
    closing = Bell(lambda _: None, caller.close)
    # Whoever passes by has this, before it marks.
    with owner.listener._closing, pytest.raises(Unanswered) as caught:
        caller.call(OWNER, b"again", PATIENCE, lambda answer: answer, closing)

    assert not caught.value.silent


def test_a_knock_that_fails_for_another_reason_leaves_it_unknown(owner, caller):
    ask(caller, owner)
    owner.attends = False
    wire = caller._siblings[OWNER].idle[0]
    real = wire._socket
    wire._socket = Failing(real)
    with pytest.raises(Unanswered):
        ask(caller, owner, b"again")
    real.close()


def test_a_knock_does_not_keep_the_owner_from_stopping(owner, caller):
    ask(caller, owner)
    wire = caller._siblings[OWNER].idle[0]
    wire.letter.put(b"again", SENT)
    with owner.listener._attending:
        wire.send(HELLO)
        owner.listener.stop()
        owner._thread.join(PATIENCE)

        assert not owner._thread.is_alive()
    assert [b"hello"] == owner.attended + owner.served


def test_an_interrupt_at_any_step_lets_others_look_for_letters(owner):
    """A handler that raises, as a time-out's does, again and again."""
    listener, ended = owner.listener, 0

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        while ended < INTERRUPTS and not listener._attending.locked():
            try:
                signal.setitimer(signal.ITIMER_REAL, 3e-5 + ended % 50 * 1e-6)
                while True:
                    listener.attend(_never, _nothing)
            except TimeoutError:
                ended += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert INTERRUPTS == ended


def test_a_finalizer_may_look_for_letters_in_the_middle_of_an_answer(owner, caller):
    ask(caller, owner)
    letter = caller._siblings[OWNER].idle[0].letter
    letter.put(b"again", SENT)
    with owner.listener._closing:
        owner.pass_by()

    assert DONE == letter.words[0]


# --- bounds -------------------------------------------------------------------------


@pytest.mark.parametrize("end", [host, wires])
def test_beyond_some_number_a_connection_has_no_page(
    owner, caller, tmp_path, monkeypatch, end
):
    monkeypatch.setattr(end, "MAX_PAGES", 1)
    inner: list[bytes] = []

    def ask_too(frame: bytes) -> bytes:
        if frame == b"hello":
            inner.append(ask(caller, owner, b"inner"))
        return frame

    owner.answer = ask_too
    ask(caller, owner)

    assert [b"inner"] == inner == owner.served
    assert [False, True] == sorted(wire.letter is not None for wire in caller._wires)


@pytest.mark.parametrize("paged", [True, False])
def test_a_descriptor_that_is_not_used_is_closed(tmp_path, caller, paged):
    listener = socket.socket(socket.AF_UNIX)
    with Short(tmp_path / "owner") as short:
        listener.bind(short)
    listener.listen()
    wire = wires._Wire(tmp_path / "owner")
    accepted, _ = listener.accept()
    reader, writer = os.pipe()
    socket.send_fds(accepted, [HELLO], [writer])
    os.close(writer)
    os.set_blocking(reader, False)

    assert wire.greeted(paged=paged)
    assert wire.letter is None
    assert b"" == os.read(reader, 1)
    for each in (wire, accepted, listener):
        each.close()
    os.close(reader)


# --- forks --------------------------------------------------------------------------


def test_a_child_that_was_forked_in_the_middle_leaves_the_page_alone(owner, caller):
    ask(caller, owner)
    wire = caller._siblings[OWNER].idle[0]
    letter = wire.letter
    letter.put(b"again", SENT)

    def fork(frame: bytes, route: HostRoute) -> bytes:
        owner.listener.abandon_after_fork()
        return frame

    child = os.fork()
    if not child:
        code = 1
        try:
            owner.listener.attend(fork, _nothing)
            code = letter.words[0]
        finally:
            os._exit(code)

    assert TAKEN == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_that_was_forked_while_it_waited_leaves_the_page_alone(owner, caller):
    ask(caller, owner)
    letter = caller._siblings[OWNER].idle[0].letter
    bell = Bell(lambda _: caller.abandon_after_fork(), lambda: None)
    child = os.fork()
    if not child:
        code = 1
        try:
            with pytest.raises(Unanswered):
                caller.call(OWNER, b"again", PATIENCE, lambda answer: answer, bell)
            code = letter.words[0]
        finally:
            os._exit(code)

    assert SENT == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_knock_without_a_letter_ends_the_connection(owner, caller):
    ask(caller, owner)
    wire = caller._siblings[OWNER].idle[0]
    wire.send(bytes(4))
    with pytest.raises(Unanswered):
        wire.receive(PATIENCE)

    assert 1 == owner.listener.garbage


def test_where_nobody_listens_there_is_no_letter_either(caller, owner):
    owner.close()
    with pytest.raises(NotSent):
        ask(caller, owner)


def _never(frame: bytes, route: HostRoute) -> None:
    raise AssertionError(frame)


def _nothing() -> None:
    pass


class Failing:
    """A socket that has no room for what is sent."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def send(self, *_: object) -> int:
        raise OSError(errno.ENOBUFS, "no room")

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)
