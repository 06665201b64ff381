"""What the parts of the engine share: who we are, what we hold, what we want done."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import final

from meshcache.codec.mail import Reply, Route, Send
from meshcache.codec.messages import Data
from meshcache.config import Config
from meshcache.engine.agenda import Agenda
from meshcache.engine.effects import Complete, Effect
from meshcache.engine.handover import Handover
from meshcache.engine.ops import Outcome, Ticket
from meshcache.engine.owner import Owner
from meshcache.engine.peers import Peer, Peers
from meshcache.engine.ranges import Ranges
from meshcache.engine.readers import Readers
from meshcache.fill.flight import Flights
from meshcache.model import Member
from meshcache.store.arena import Arena
from meshcache.store.record import Entry

__all__ = ["Core", "Counters"]


@final
@dataclass(slots=True)
class Counters:
    """What the engine counts, each from the node's start."""

    served_hits: int = 0  # keys answered to peers from this node's range
    served_misses: int = 0  # keys asked for by peers that were not there
    flights: int = 0  # loads opened, here or by asking an owner
    joined: int = 0  # requests that waited for a load already under way
    runs: int = 0  # loads given to this node's own pool for others
    leases: int = 0  # loads given to their caller
    leases_passed: int = 0  # leases whose holder failed, died or ran late
    late_values: int = 0  # values of loads that were over, dropped
    fenced: int = 0  # values not stored because a write came during the load
    overloaded: int = 0  # requests turned away at a bound
    local: int = 0  # reads left to the caller because the mesh could not answer
    timeouts: int = 0  # requests a peer did not answer in time
    lost: int = 0  # requests whose peer went away
    not_owner_sent: int = 0  # requests refused because the key is not ours
    not_owner_received: int = 0  # our requests refused likewise
    wrong_epoch: int = 0  # requests meant for an earlier process at our address
    late_answers: int = 0  # answers nobody waited for any more
    invalidations_sent: int = 0
    invalidations_received: int = 0
    invalidation_gaps: int = 0  # notes lost on the way: all of a peer's doubted

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@final
@dataclass(slots=True, eq=False)
class Core:
    """The state that the engine's parts work on. Confined to the driver thread.

    `now` is the time of the input in hand; `out` gathers its effects.
    """

    me: Member
    config: Config
    rng: random.Random
    store: Arena
    owner: Owner
    handover: Handover
    peers: Peers
    ranges: Ranges
    flights: Flights
    readers: Readers
    agenda: Agenda = field(default_factory=Agenda)
    counters: Counters = field(default_factory=Counters)
    now: float = 0.0
    leaving: bool = False
    out: list[Effect] = field(default_factory=list)

    def send(self, peer: Peer, message: Data) -> None:
        """Have *message* sent to *peer* on the data plane."""
        self.out.append(Send(peer.member.data_address, message))

    def reply(self, route: Route, message: Data) -> None:
        """Have *message* sent back along *route*."""
        self.out.append(Reply(route, message))

    def complete(self, ticket: Ticket, outcome: Outcome) -> None:
        """Have the application told."""
        self.out.append(Complete(ticket, outcome))

    def stamp(self) -> int:
        """Return a version for a write that happens now."""
        return self.owner.stamp(self.now)

    def observe(self, version: int) -> None:
        """Take note of a version made by another node."""
        self.owner.observe(version, self.now)

    def find(self, key: bytes, hashed: int) -> Entry | None:
        """Return what is stored of a key of ours, or is on its way here.

        Of another's key there may be something too: it is given up, but not sealed yet.
        """
        if not self.ranges.mine(hashed):
            return None
        entry = self.store.get(key, hashed, self.now)
        return self.handover.find(key, hashed, self.now) if entry is None else entry

    def peer_of(self, hashed: int) -> Peer | None:
        """Return the peer that owns the key of this hash; None for us or nobody."""
        owner = self.ranges.owner(hashed)
        return None if owner is None else self.peers.get(owner.node_id)

    def ttl_ms(self, expires: float) -> int:
        """Return what remains until *expires* as it goes on the wire: at least 1."""
        if expires == float("inf"):
            return -1
        return max(1, int((expires - self.now) * 1000))

    def expires(self, ttl_ms: int) -> float:
        """Return when something with *ttl_ms* to live will be dead."""
        return float("inf") if ttl_ms < 0 else self.now + ttl_ms / 1000
