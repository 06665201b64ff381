"""Which keys the running code is loading, innermost last.

A loader that asks for its own key would wait for itself for ever. The chain follows a
load through threads, tasks and, inside requests, through nodes, so that such a call
is refused wherever it closes the circle.

A task that a loader starts and leaves behind inherits the chain and outlives the
load, so each link says whether its load is still going on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, final

__all__ = ["MAX_DEPTH", "current", "loading"]

MAX_DEPTH: Final = 1000
"""Loaders within loaders; more are refused. Plain functions end at Python's own limit
before that, at about 150."""


@final
class _Link:
    __slots__ = ("hashed", "open")

    def __init__(self, hashed: int) -> None:
        self.hashed = hashed
        self.open = True


_chain: ContextVar[tuple[_Link, ...]] = ContextVar("meshcache_chain", default=())


def current() -> tuple[int, ...]:
    """Return the hashes of the keys being loaded around the caller."""
    chain = _chain.get()
    return tuple(link.hashed for link in chain if link.open) if chain else ()


@contextmanager
def loading(hashes: tuple[int, ...]) -> Iterator[None]:
    """Run the body as the loader of the last of *hashes*, inside of the others."""
    links = tuple(map(_Link, hashes))
    token = _chain.set(links)
    try:
        yield
    finally:
        for link in links:
            link.open = False
        _chain.reset(token)
