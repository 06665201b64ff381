"""Who takes part in a load, and what it ends with.

A party is one who waits for, or works at, one load. Who asks for many keys at once is
a party in each of its loads, told apart by `part`, counted from 1; the party without a
part stands for the lot of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshcache.codec.mail import Route
from meshcache.engine.ops import LoadKey, Ticket, Tier
from meshcache.engine.peers import Peer
from meshcache.fill.flight import Flight

__all__ = ["Asking", "Brought", "Local", "Remote", "Upstream"]


class Local(NamedTuple):
    """A waiter of this process."""

    ticket: Ticket
    part: int = 0


class Remote(NamedTuple):
    """A waiter of another node: the way back to it, and its request."""

    route: Route
    rid: int
    part: int = 0


class Upstream(NamedTuple):
    """The owner who leased us a load, and the token it knows the load by.

    `ask_again` asks for those who still wait when the lease has gone back.
    """

    peer: Peer
    token: int
    ask_again: Callable[[], None]


class Asking(NamedTuple):
    """A flight whose owner is being asked, for the first time or (`hop` 1) again."""

    flight: Flight
    op: LoadKey
    peer: Peer
    hop: int
    deadline: float


class Brought(NamedTuple):
    """What a flight ends with: a value as it goes out, and how it was come by."""

    value: bytes
    ttl_ms: int
    version: int
    tier: Tier
