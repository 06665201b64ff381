"""Letters over real pages and real connections.

The owner's host thread is the listener's `serve`; whoever passes by is its `attend`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshcache.transport.host import HostListener, HostRoute, NotTaken
from meshcache.transport.letters import (
    MAX_LETTER,
    PLAINLY_DONE,
    RING,
    SENT,
    TAKEN,
    Letter,
    open_letter,
)
from meshcache.transport.wires import (
    MAX_PAUSE,
    Bell,
    HostCaller,
    NotSent,
    Unanswered,
)

OWNER = bytes(range(16))
PATIENCE = 10.0

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
