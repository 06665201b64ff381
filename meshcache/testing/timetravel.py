"""Time for tests: it goes forward when it is told to, and nobody sleeps.

    with time_travel() as time:
        users.set(7, "Ada", ttl=60)
        time.advance(61)
        assert users.get(7) is None

The clocks of this package are builtins that every module holds by name, which costs
nothing and cannot be changed from outside. So for as long as time can be moved, each of
those names stands for a function that adds what time was moved by, and afterwards for
the builtin again. The application's own clocks, and those of event loops, stay as they
are: what sleeps or waits in real time goes on doing so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final, TypeAlias, final

from meshcache.clock import places
from meshcache.node import running

__all__ = ["Time", "time_travel"]

_MOST: Final = 10 * 365 * 86_400.0
"""Seconds that time may be moved by: more than a few years is a slip of the pen."""

Clocks: TypeAlias = tuple[Callable[[], float], Callable[[], int]]

_travelling: Final = Lock()


@final
class Time:
    """What the package takes for the time. Thread-safe."""

    def __init__(self) -> None:
        self._moved_ns = 0
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<Time, moved by {self.moved} s>"

    @property
    def moved(self) -> float:
        """By how many seconds it is ahead."""
        return self._moved_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once, for every node and cache of this process.

        On return, what has become due meanwhile is done: loads and leases that ran
        out of time have ended, and whoever waited has been told.

        Raises:
            ValueError: time does not go back.
        """
        if not 0 <= seconds <= _MOST:
            raise ValueError(f"seconds={seconds!r}: time goes forward, by some years")
        with self._lock:
            self._moved_ns += int(seconds * 1e9)
        for node in running():
            node.catch_up()

    def monotonic(self) -> float:
        """Return monotonic seconds, as this package is to see them."""
        return time.monotonic() + self._moved_ns / 1e9

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch, likewise."""
        return time.time_ns() + self._moved_ns


@contextmanager
def time_travel() -> Iterator[Time]:
    """Let time be moved for a while.

    What was stored meanwhile bears times that are yet to come. So if time was moved,
    the nodes that run at the end are stopped, and each starts again, empty, when it is
    used next.

    Raises:
        RuntimeError: time can be moved already.
    """
    if not _travelling.acquire(blocking=False):
        raise RuntimeError("time can be moved already; use what you have it by")
    moving = Time()
    real = (time.monotonic, time.time_ns)
    moved = (moving.monotonic, moving.time_ns)
    try:
        _exchange(real, moved)
        yield moving
    finally:
        try:
            if moving.moved:
                for node in running():
                    node.renew()
        finally:
            _exchange(moved, real)
            _travelling.release()


def _exchange(old: Clocks, new: Clocks) -> None:
    """Let every name of the package that stands for one of *old* stand for its new."""
    by_id = {id(clock): other for clock, other in zip(old, new, strict=True)}
    for place in places():
        for name, value in list(place.items()):
            if id(value) in by_id:
                place[name] = by_id[id(value)]
