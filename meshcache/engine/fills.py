"""Loading what is missing, once in the whole cluster: what this process asks for.

    asked here, key is ours        the caller gets the lease and loads by itself
    asked here, key is a peer's    one `Load` to the owner, for all who ask here
    asked by a peer, key is ours   `lending`

Whoever comes second waits. When the owner is silent, overloaded or of another opinion
about the table, one of those who wait here gets the lease all the same, and its value
serves this process alone (groupcache's local fallback, single-flight kept). While an
owner lives it says so (`Pending`), so silence is noticed within one time-out however
long the load takes.

When the owner is gone, all who wait here ask again as soon as there is another, who has
one of them load; see `stranded`.

Who holds a value and wants it newer says which version it has. That load is one load
in the cluster like any other, and the old value stays readable until it ends.
"""

from __future__ import annotations

from functools import partial
from typing import Final, final

from meshcache.codec.messages import (
    Failed,
    Filled,
    Fulfil,
    Leased,
    Load,
    NotOwner,
    Reason,
    Refused,
)
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.leases import RECURSIVE, Leases
from meshcache.engine.ops import (
    Deliver,
    Drop,
    Failure,
    Got,
    LoadKey,
    Raised,
    Ticket,
    Tier,
)
from meshcache.engine.parties import Asking, Brought, Local, Upstream
from meshcache.engine.peers import Peer
from meshcache.engine.stranded import LOOK
from meshcache.fill.flight import Flight, Phase, Waiter
from meshcache.model import NodeId

__all__ = ["Fills", "recursive", "wanted_by"]

MAX_CHAIN: Final = 64
"""How many of the loaders around a load its message names (`messages.Load`)."""


@final
class Fills:
    """The loading part of the engine, for the application."""

    __slots__ = ("_calls", "_core", "_leases")

    def __init__(self, core: Core, calls: Calls, leases: Leases) -> None:
        self._core = core
        self._calls = calls
        self._leases = leases

    # --- asked here --------------------------------------------------------------

    def ask(self, ticket: Ticket, op: LoadKey) -> None:
        """Answer, join, open or ask for the load of one key."""
        now = self._core.now
        self._ask(Waiter(Local(ticket), now, now + op.timeout, wants=op), op)

    def again(self, waiters: list[Waiter]) -> None:
        """Ask anew for callers who have waited, each with the time that it has left."""
        now = self._core.now
        for waiter in waiters:
            rest = waiter.deadline - now
            if rest > 0:
                self._ask(waiter, wanted_by(waiter)._replace(timeout=rest))
            else:
                self._leases.give_up(waiter.party)

    def _ask(self, waiter: Waiter, op: LoadKey) -> None:
        # Under the lock, so that no thread of the application writes the key between
        # the look for it and the opening of its flight.
        with self._core.store.lock:
            self._find_or_load(waiter, op)

    def _find_or_load(self, waiter: Waiter, op: LoadKey) -> None:
        core, party = self._core, waiter.party
        stamp = core.ranges.stamp(op.hashed)
        entry = core.find(op.key, op.hashed)
        if entry is not None and entry.version > op.than:
            got = Got(entry.value, entry.expires, entry.version, Tier.HOST, stamp)
            self._leases.tell(party, got)
            return
        if op.hashed in op.chain:
            self._leases.tell(party, recursive(op.key))
            return
        flight = self._leases.joinable(op.key, op.hashed, op.than)
        if flight is None:
            self._open(op, waiter)
        elif core.flights.join(flight, waiter):
            core.counters.joined += 1
        else:
            self._leases.lease_alone(party)

    def _open(self, op: LoadKey, waiter: Waiter) -> None:
        if self._leases.stranded.must_wait(waiter, op.hashed):
            self.strand(waiter, op.hashed)
            return
        flight = self._leases.open(op.key, op.hashed, op.tags, op.than)
        if flight is None:
            self._leases.lease_alone(waiter.party)
            return
        peer = self._core.peer_of(op.hashed)
        if peer is None or not peer.usable:
            self._leases.begin(flight, waiter)
        elif not self._core.flights.join(flight, waiter):
            self._core.flights.close(flight)
            self._leases.lease_alone(waiter.party)
        else:
            self.ask_owner(flight, op, peer)

    # --- asking the owner --------------------------------------------------------

    def ask_owner(self, flight: Flight, op: LoadKey, peer: Peer) -> None:
        """Ask the owner on behalf of all who wait for *flight*."""
        deadline = self._core.now + self._core.config.request_timeout
        self._ask_owner(Asking(flight, op, peer, 0, deadline))

    def follow(self, peer: Peer) -> bool:
        """Rely on a peer's notes of its writes, or on its arena; then it is *quiet*."""
        quiet = self._core.ranges.lane(peer.member.node_id) is not None
        if not quiet:
            peer.follow(self._core.now)
        return quiet

    def _ask_owner(self, asking: Asking) -> None:
        core = self._core
        flight, op, peer, hop, deadline = asking
        quiet = self.follow(peer)
        if hop:
            flight.stamp = None
        known = (op.loader, op.loader_version) in peer.loaders
        message = Load(
            0,
            peer.member.epoch,
            core.ranges.table.epoch,
            hop,
            max(1, int(op.timeout * 1000)),
            quiet,
            core.me.node_id,
            op.key,
            op.loader if known else "",
            op.loader_version,
            op.args if known else b"",
            op.chain[-MAX_CHAIN:],
            op.than,
            op.tags,
        )
        flight.asked = self._calls.start(
            peer,
            lambda rid: message._replace(rid=rid),
            deadline,
            partial(self._owner_answered, asking),
            partial(self._owner_lost, flight),
        )
        if flight.asked is None:
            self._without_owner(flight)

    def _owner_answered(self, asking: Asking, answer: Answer) -> None:
        flight = asking.flight
        flight.asked = None
        match answer:
            case Filled(_, value, ttl_ms, version, loaded):
                self._core.observe(version)
                tier = Tier.FILL if loaded else Tier.PEER
                self._leases.finish(flight, Brought(value, ttl_ms, version, tier))
            case Leased(_, token, _):
                before = flight.upstream
                if isinstance(before, Upstream) and before.token != token:
                    # What an earlier holder has read may be older than this load.
                    self._core.flights.renew(flight)
                again = partial(self.ask_again, flight)
                flight.upstream = Upstream(asking.peer, token, again)
                self._leases.pass_on(flight)
            case Failed(_, type_name, message, traceback, args):
                failure = Failure(type_name, message, traceback, args)
                self._leases.fail(flight, failure)
            case NotOwner(_, owner, _) if asking.hop == 0:
                self._core.counters.not_owner_received += 1
                self._redirect(asking, owner)
            case NotOwner() if self._may_wait(flight):
                self._strand(flight)
            case Refused(_, Reason.TIMED_OUT) if self._has_time(asking):
                self.ask_again(flight)
            case Refused() if self._calls.lost_lately(asking.peer):
                self._strand(flight)
            case _:
                self._without_owner(flight)

    def _has_time(self, asking: Asking) -> bool:
        """Whether somebody waits who has more time than was asked for."""
        began = asking.deadline - self._core.config.request_timeout
        ends = began + asking.op.timeout
        return any(w.deadline > ends for w in asking.flight.waiters.values())

    def ask_again(self, flight: Flight) -> None:
        """Ask the owner for those who still wait, if one of them can load."""
        core = self._core
        peer = core.peer_of(flight.hashed)
        if flight.next_holder(core.now) is None:
            self._without_owner(flight)
        elif peer is None or self._calls.lost_lately(peer):
            self.again(core.flights.close(flight))
        elif peer.usable:
            self.ask_for(flight, peer)
        else:
            self._without_owner(flight)

    def ask_for(self, flight: Flight, peer: Peer) -> None:
        """Ask the owner for those who still wait, with the time that they have left."""
        waiters = flight.waiters.values()
        ops = [wanted_by(waiter) for waiter in waiters]
        rest = max(waiter.deadline for waiter in waiters) - self._core.now
        flight.phase = Phase.ASKING
        flight.than = max(op.than for op in ops)
        self.ask_owner(flight, ops[0]._replace(timeout=rest, than=flight.than), peer)

    def _redirect(self, asking: Asking, owner: bytes) -> None:
        """Ask once more: where our table says now, else where the peer's does."""
        core = self._core
        if core.ranges.mine(asking.op.hashed):
            self.again(core.flights.close(asking.flight))
            return
        peer = core.peer_of(asking.op.hashed)
        if peer is asking.peer:
            peer = core.peers.get(NodeId(owner))
        if peer is not None and peer is not asking.peer and peer.usable:
            self._ask_owner(asking._replace(peer=peer, hop=1))
        elif self._may_wait(asking.flight):
            self._strand(asking.flight)
        else:
            self._without_owner(asking.flight)

    def _may_wait(self, flight: Flight) -> bool:
        later = self._core.now + 2 * LOOK
        return self._calls.unsettled and flight.next_holder(later) is not None

    def _owner_lost(self, flight: Flight, why: Loss) -> None:
        if why is Loss.GONE:
            self._strand(flight)
        else:
            self._without_owner(flight)

    def _strand(self, flight: Flight) -> None:
        for waiter in self._core.flights.close(flight):
            self.strand(waiter, flight.hashed)

    def strand(self, waiter: Waiter, hashed: int) -> None:
        """Have a caller ask for its key when that has another owner."""
        self._leases.strand(waiter, hashed, self.again)

    def _without_owner(self, flight: Flight) -> None:
        """Do without the owner: one of those who wait here loads for all of them."""
        flight.asked = None
        self._leases.pass_on(flight)

    # --- a caller's lease --------------------------------------------------------

    def deliver(self, op: Deliver) -> None:
        """Take the value of a load that a caller of this process was leased."""
        flight = self._core.flights.get(op.lease)
        if flight is None:
            return
        if isinstance(flight.upstream, Upstream):
            peer, token, _ = flight.upstream
            message = Fulfil(peer.member.epoch, token, op.value, op.ttl_ms)
            self._core.send(peer, message)
        self._leases.brought(flight, op.value, op.ttl_ms)

    def drop(self, op: Drop) -> None:
        """Hear that a caller's load failed, or pass its lease on."""
        flight = self._core.flights.get(op.lease)
        if flight is None or flight.holder is None:
            return
        party = flight.holder.party
        if not isinstance(party, Local) or party.ticket != op.ticket:
            return
        if op.failure is None:
            self._leases.pass_on(flight)
            return
        self._leases.abandon_upstream(flight, op.failure)
        self._leases.fail(flight, op.failure)

    def forsake(self, ticket: Ticket) -> None:
        """Hear that a caller of this process does not wait any more."""
        self._leases.forsake(Local(ticket))


def wanted_by(waiter: Waiter) -> LoadKey:
    """Return what a caller of this process has asked for."""
    op = waiter.wants
    assert isinstance(op, LoadKey)
    return op


def recursive(key: bytes) -> Raised:
    """Return what a loader is told that asks for the key it is loading."""
    message = f"a loader asked for the key it is loading: {key!r}"
    return Raised(Failure(RECURSIVE, message, "", b""), recursive=True)
