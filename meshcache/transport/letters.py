"""Letters: requests that a busy owner finds by itself, so that nobody is woken.

To wake a thread of another process costs more than what it is woken for: the kernel
puts it on a core, it asks for the interpreter of its process, and the thread that had
it waits. Where the owner's own threads use the cache all the time, one of them passes
by in a few microseconds. So the two ends of a host wire share a page of memory. The
caller puts its request there, rings (`Words.BELL`), and lets others run meanwhile. A
thread of the owner that hears the bell does what it finds and puts the answer into the
same page.

If none passes by, the caller *knocks*: it sends an empty frame along the wire, which
wakes the owner's host thread, and sleeps until the answer comes by the wire.

The page belongs to the connection and goes with it; the owner makes it and sends it
along with its greeting. It has no name, and neither end can make it shorter.

    state u64 | size u64 | checksum u64 | frame

Who changes the state: the caller EMPTY to SENT, and any to EMPTY when it is through or
gives up; the owner SENT to TAKEN, and TAKEN to DONE (the answer is in the page) or
HANDED (it comes by the wire) or PLAIN (`PLAINLY_DONE`). The frame is there before the
state; on a processor that shows the two in another order, the checksum says so.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from typing import Final, final

from xxhash import xxh3_64_intdigest

from meshcache.clock import monotonic

__all__ = [
    "DONE",
    "EMPTY",
    "HANDED",
    "MAX_LETTER",
    "MAX_PAGES",
    "PLAIN",
    "PLAINLY_DONE",
    "RING",
    "SENT",
    "TAKEN",
    "Letter",
    "open_letter",
    "waited",
]

EMPTY, SENT, TAKEN, DONE, HANDED, PLAIN = range(6)

PLAINLY_DONE: Final = b"done"
"""Stands for an answer that takes no frame: it was done, and there is nothing else to
say. The state PLAIN says so. This very object; no frame is it, whatever it holds."""

RING: Final = 2
"""What the bell is set to for a letter; 1 is for a frame."""

LOOKS: Final = 8
"""Times that a caller looks, at least, before it knocks. Others run in between, each
for milliseconds if they are programs that compute."""

PROBES: Final = 2
"""Times that it looks, at least, where the owner was not awake the last time."""

PATIENCE: Final = 0.001
"""Seconds for which it looks, at least, where the owner was awake the last time."""

PROBE: Final = 0.0002
"""Seconds for which it looks where the owner was not."""

_PAGE: Final = mmap.PAGESIZE
_HEAD: Final = 24
_READ: Final = 0
"""In place of a checksum. No frame that is sent has this one, nor has the empty one."""
MAX_LETTER: Final = _PAGE - _HEAD
"""Bytes of a frame; a larger one goes by the wire."""

MAX_PAGES: Final = 64
"""Connections that have a page, of those to a node and again of those from it. A page
takes a descriptor more at each end, and 1,024 is all that many processes may have."""


def _find_hand_over() -> Callable[[], object] | None:
    """Return what lets another process have this core, and other threads the GIL."""
    if sys.platform != "linux" or sys.version_info >= (3, 12):
        return getattr(os, "sched_yield", None)
    try:
        from ctypes import CDLL  # noqa: PLC0415 - only where `os` keeps the GIL

        return CDLL(None).sched_yield
    except (ImportError, OSError, AttributeError):
        return None


_hand_over: Final = _find_hand_over()


@final
class Letter:
    """One end's view of a page. `words[0]` is the state."""

    __slots__ = ("_memory", "words")

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _PAGE)
        self.words = memoryview(self._memory)[:_HEAD].cast("Q")

    def put(self, frame: bytes, state: int) -> None:
        """Put *frame* into the page, which is this end's by now, and then *state*."""
        self._memory[_HEAD : _HEAD + len(frame)] = frame
        words = self.words
        words[1] = len(frame)
        words[2] = xxh3_64_intdigest(frame)
        words[0] = state

    def read(self) -> bytes | None:
        """Return the frame, once; None if it is not whole."""
        words = self.words
        frame = self._memory[_HEAD : _HEAD + words[1]]
        if xxh3_64_intdigest(frame) != words[2]:
            return None
        # Or who sees the next state before the next frame would take it for that.
        words[2] = _READ
        return frame


def open_letter() -> tuple[Letter, int] | None:
    """Return a new page and its descriptor; None where there are none to be had."""
    if _hand_over is None or not hasattr(os, "memfd_create"):
        return None
    import fcntl  # noqa: PLC0415 - not on Windows

    fd = -1
    try:
        fd = os.memfd_create("meshcache", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _PAGE)
        # Or the other end could have this one die of SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return Letter(fd), fd
    except OSError:
        if fd >= 0:
            os.close(fd)
        return None


def waited(letter: Letter, meanwhile: Callable[[], object], *, awake: bool) -> int:
    """Let others run until the owner is done, or for some time; return the state.

    *meanwhile* is called again and again: the owner may wait for this very process.
    """
    assert _hand_over is not None
    words, looks, end = letter.words, 0, 0.0
    patience, least = (PATIENCE, LOOKS) if awake else (PROBE, PROBES)
    while (state := words[0]) == SENT or state == TAKEN:
        if looks >= least:
            if not end:
                end = monotonic() + patience
            elif monotonic() > end:
                break
        meanwhile()
        _hand_over()
        looks += 1
    return state
