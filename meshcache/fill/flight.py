"""Flights: loads in progress, at most one to join for each key.

A flight is opened by the first who misses a key; everyone who asks while it is open
joins it and waits. It is in one of three phases:

    ASKING   the owner of the key was asked, and will answer or be given up
    RUNNING  this node's own loader pool is at it
    LEASED   one of the waiters, the *holder*, runs the loader itself

The lease passes on to the next waiter when its holder is cancelled, dies or runs out
of time (memcached's leases, Nishtala et al., NSDI'13, section 3.2.1, made to move).

A write to the key *detaches* the flight: those who asked before the write are still
served by it, nobody can join it any more, and what it brings is not stored. So a value
loaded from older truth never outlives the invalidation it ran into.

A refresh of a key that a peer owns flies *beside* the plain load of that key, if there
is one. Who has nothing yet must not wait for it: the owner has an older value to give.

Whoever asks for many keys at once is in many flights, as one party in each. Those
parties are a *lot*, so that they can be found together.

Time is an argument; nothing here sends, loads or stores. Confined to the driver thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias, final

__all__ = ["Flight", "Flights", "Party", "Phase", "Waiter"]

Party: TypeAlias = Hashable
"""Who waits: a ticket of this process, or the request of a peer."""

LEASE_SHARE: Final = 0.25
"""The part of its time that a waiter must have left to be worth a lease. With less it
would only start a load that it cannot stay for."""


class Phase(Enum):
    """Who is at work for a flight."""

    ASKING = "asking"
    RUNNING = "running"
    LEASED = "leased"


@final
@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits for a flight: since when, until when, and from which node.

    `node` is empty for this process; `lot` is what it is a part of, if anything.
    `wants` is what it has asked for, as far as it may have to ask again.
    """

    party: Party
    since: float
    deadline: float
    node: bytes = b""
    lot: Party | None = None
    wants: object = None

    def can_load(self, now: float) -> bool:
        """Whether enough of its time is left to hand it the lease."""
        return self.deadline - now >= LEASE_SHARE * (self.deadline - self.since)


@final
@dataclass(slots=True, eq=False)
class Flight:
    """One load in progress.

    `asked` is our request to the owner while it is open; `upstream` is what the owner
    knows this load by, if it leased it to us; `stamp` is the engine's proof that
    nothing was written since the start. `expires` is when the holder's lease is over,
    or when the pool should have been done.

    `born` is a version of the moment it was opened, and `tags` those that its value
    will bear, as far as they are known. It is to bring a value of a version above
    `than`; only `beside` flights ask for that.
    """

    id: int
    key: bytes
    hashed: int
    phase: Phase
    started: float
    stamp: object = None
    upstream: object = None
    asked: int | None = None
    holder: Waiter | None = None
    expires: float = float("inf")
    detached: bool = False
    beside: bool = False
    than: int = 0
    born: int = 0
    tags: tuple[int, ...] = ()
    waiters: dict[Party, Waiter] = field(default_factory=dict)

    def next_holder(self, now: float) -> Waiter | None:
        """Return the waiter who has waited longest and can still load, if any."""
        return next((w for w in self.waiters.values() if w.can_load(now)), None)


@final
class Flights:
    """All flights of one node, bounded in flights and in waiters.

    Flight ids start at a number drawn for the process, so that a token of an earlier
    process at the same address never names a flight of this one.
    """

    __slots__ = (
        "_beside",
        "_by_id",
        "_by_key",
        "_by_party",
        "_lots",
        "_max_flights",
        "_max_waiters",
        "_next",
        "waiting",
    )

    def __init__(self, max_flights: int, max_waiters: int, first_id: int) -> None:
        self._by_key: dict[bytes, Flight] = {}
        self._beside: dict[bytes, Flight] = {}
        self._by_id: dict[int, Flight] = {}
        self._by_party: dict[Party, Flight] = {}
        self._lots: dict[Party, dict[Party, None]] = {}
        self._max_flights = max_flights
        self._max_waiters = max_waiters
        self._next = first_id
        self.waiting = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._by_id.values()))

    def open(
        self, key: bytes, hashed: int, phase: Phase, now: float, *, beside: bool = False
    ) -> Flight | None:
        """Open a flight that others can join; None when there are too many."""
        joinable = self._beside if beside else self._by_key
        assert key not in joinable
        if len(self._by_id) >= self._max_flights:
            return None
        flight = Flight(self._next, key, hashed, phase, now, beside=beside)
        self._next += 1
        joinable[key] = self._by_id[flight.id] = flight
        return flight

    def renew(self, flight: Flight) -> None:
        """Give *flight* another id: what comes under the old one comes too late."""
        if self._by_id.pop(flight.id, None) is not None:
            flight.id = self._next
            self._next += 1
            self._by_id[flight.id] = flight

    def joinable(self, key: bytes, *, beside: bool = False) -> Flight | None:
        """Return the flight that whoever asks for *key* now may join."""
        return (self._beside if beside else self._by_key).get(key)

    def is_flying(self, key: bytes) -> bool:
        """Whether there is any flight of *key* to join."""
        return key in self._by_key or key in self._beside

    def get(self, flight_id: int) -> Flight | None:
        """Return the flight of that id, joinable or not, unless it is over."""
        return self._by_id.get(flight_id)

    def of(self, party: Party) -> Flight | None:
        """Return the flight that *party* waits for or holds the lease of."""
        return self._by_party.get(party)

    def parts(self, lot: Party) -> list[Party]:
        """Return those parties of *lot* that wait, or hold a lease."""
        return list(self._lots.get(lot, ()))

    def join(self, flight: Flight, waiter: Waiter) -> bool:
        """Let *waiter* wait; False when too many wait already."""
        if self.waiting >= self._max_waiters:
            return False
        assert waiter.party not in flight.waiters
        flight.waiters[waiter.party] = waiter
        self._enter(flight, waiter)
        self.waiting += 1
        return True

    def leave(self, flight: Flight, party: Party) -> Waiter | None:
        """Take one waiter out of *flight*."""
        waiter = flight.waiters.pop(party, None)
        if waiter is not None:
            self.waiting -= 1
            self._exit(waiter)
        return waiter

    def grant(self, flight: Flight, waiter: Waiter, expires: float) -> None:
        """Make *waiter* the holder of the lease; it waits no longer, it works."""
        self.leave(flight, waiter.party)
        self.release(flight)
        flight.phase = Phase.LEASED
        flight.holder = waiter
        flight.expires = expires
        self._enter(flight, waiter)

    def release(self, flight: Flight) -> None:
        """Take the lease from its holder, if it has one."""
        if flight.holder is not None:
            self._exit(flight.holder)
            flight.holder = None

    def detach(self, flight: Flight) -> None:
        """Keep newcomers out of *flight*, and its value out of the store."""
        flight.detached = True
        self._close_door(flight)

    def detach_key(self, key: bytes) -> None:
        """Detach the flights of *key*, if there are any."""
        for joinable in (self._by_key, self._beside):
            flight = joinable.get(key)
            if flight is not None:
                self.detach(flight)

    def detach_if(self, test: Callable[[Flight], bool]) -> None:
        """Detach every flight for which *test* holds."""
        for joinable in (self._by_key, self._beside):
            for flight in [f for f in joinable.values() if test(f)]:
                self.detach(flight)

    def close(self, flight: Flight) -> list[Waiter]:
        """End *flight* and return those who still wait, longest first."""
        if self._by_id.pop(flight.id, None) is None:
            return []
        self._close_door(flight)
        self.release(flight)
        waiters = list(flight.waiters.values())
        for waiter in waiters:
            self.leave(flight, waiter.party)
        return waiters

    def _close_door(self, flight: Flight) -> None:
        joinable = self._beside if flight.beside else self._by_key
        if joinable.get(flight.key) is flight:
            del joinable[flight.key]

    def _enter(self, flight: Flight, waiter: Waiter) -> None:
        self._by_party[waiter.party] = flight
        if waiter.lot is not None:
            self._lots.setdefault(waiter.lot, {})[waiter.party] = None

    def _exit(self, waiter: Waiter) -> None:
        self._by_party.pop(waiter.party, None)
        parts = self._lots.get(waiter.lot)
        if parts is not None:
            parts.pop(waiter.party, None)
            if not parts:
                del self._lots[waiter.lot]
