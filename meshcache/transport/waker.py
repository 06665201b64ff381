"""Waking a thread that polls: a descriptor that another thread can make readable."""

from __future__ import annotations

import os

__all__ = ["drain", "wake", "waker"]


def waker() -> tuple[int, int]:
    """Return the descriptors to poll and to write to, in order to end a poll."""
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def wake(fd: int) -> None:
    """End the current poll, or the next."""
    os.write(fd, b"\1\0\0\0\0\0\0\0")


def drain(fd: int) -> None:
    """Take what was written to end a poll."""
    try:
        while len(os.read(fd, 4096)) == 4096:  # noqa: PLR2004 - the size just asked for
            pass
    except BlockingIOError:
        return
