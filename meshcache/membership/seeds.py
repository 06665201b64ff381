"""Seeds: addresses to ask again and again who lives there, for ever.

A cluster that split may have forgotten its other half; seeds are what brings the halves
back together. An address that does not answer is asked sooner at first, then less and
less often, down to once in `interval`; a node that is alone does not slow down below
once a second, since until somebody answers there is no cluster.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final, final

__all__ = ["MAX_SEEDS", "Seeds"]

MAX_SEEDS: Final = 256
"""Discovery may return a whole data centre; any few of it are enough."""

_FIRST_RETRY: Final = 0.25
_ALONE_RETRY: Final = 1.0
_SPREAD: Final = 0.1


@final
class Seeds:
    """When to contact which address. Confined to the driver thread."""

    __slots__ = ("_deadline", "_interval", "_next", "_retry", "_rng")

    def __init__(self, interval: float, rng: random.Random) -> None:
        self._interval = interval
        self._rng = rng
        self._next: dict[str, float] = {}
        self._retry: dict[str, float] = {}
        self._deadline: float | None = None

    def replace(self, addresses: Iterable[str], now: float) -> None:
        """Take *addresses* for the seeds from now on. New ones are due at once."""
        known = self._next
        wanted = list(dict.fromkeys(addresses))[:MAX_SEEDS]
        self._next = {address: known.get(address, now) for address in wanted}
        self._retry = {
            address: self._retry.get(address, _FIRST_RETRY) for address in wanted
        }
        self._deadline = min(self._next.values(), default=None)

    def due(self, now: float, *, alone: bool) -> list[str]:
        """Return the addresses to contact now, and plan the next time for each."""
        if self._deadline is None or now < self._deadline:
            return []
        due = [address for address, at in self._next.items() if at <= now]
        for address in due:
            delay = min(self._retry[address], self._interval)
            self._retry[address] = 2 * delay
            self._plan(address, now, min(delay, _ALONE_RETRY) if alone else delay)
        return due

    def answered(self, address: str, now: float) -> None:
        """Note that somebody lives at *address*: the next contact can wait."""
        if address in self._next:
            self._retry[address] = self._interval
            self._plan(address, now, self._interval)

    def deadline(self) -> float | None:
        """Return when the next address is due."""
        return self._deadline

    def _plan(self, address: str, now: float, delay: float) -> None:
        spread = self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
        self._next[address] = now + delay * spread
        self._deadline = min(self._next.values())
