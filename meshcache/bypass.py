"""Doing without the caches for a while: in one thread or task, for a debug or a test.

A near hit asks nothing but its entry, and shall cost no more for this. So while anybody
bypasses the caches all regions are unbound from their nodes: every call takes the long
way, where the one who bypasses is told from the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, Protocol, final
from weakref import WeakSet

from meshcache.runtime.fork import watch

__all__ = ["bypass", "bypassed", "bypassing"]


class Bound(Protocol):
    """What is bound to a node, and can be unbound."""

    def rebind(self, runtime: Any) -> None:
        """Use *runtime* from now on; None is to ask the node at the next use."""


@final
class _State:
    """How many bypass the caches now, and whom that concerns."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.depth = 0
        self.bound: WeakSet[Bound] = WeakSet()
        watch(self)

    def after_fork_in_child(self) -> None:
        """Have a lock that nobody of the parent holds."""
        self.lock = Lock()


_state: Final = _State()
_here: Final[ContextVar[bool]] = ContextVar("meshcache_bypass", default=False)


@contextmanager
def bypass() -> Iterator[None]:
    """Do without the caches in the body, in this thread or task.

        with meshcache.bypass():
            user = load_user(7)      # the function itself

    Reads find nothing, loads run here and store nothing. Writes and invalidations are
    done as ever, and all others read as ever, a little slower meanwhile.
    """
    with _state.lock:
        _state.depth += 1
        all_bound = list(_state.bound)
    for bound in all_bound:
        bound.rebind(None)
    token = _here.set(True)
    try:
        yield
    finally:
        _here.reset(token)
        with _state.lock:
            _state.depth -= 1


def bypassed() -> bool:
    """Whether the caller does without the caches."""
    return _here.get()


def bypassing(bound: Bound) -> bool:
    """Return whether anybody does, so that *bound* must not stay bound.

    To be asked after it was bound: who begins to bypass counts first, and unbinds then.
    """
    with _state.lock:
        _state.bound.add(bound)
        return _state.depth > 0
