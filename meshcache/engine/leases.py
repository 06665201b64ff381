"""Loads under way, whoever asked for them: who works, who waits, and how they end.

A flight (`fill.flight`) is opened by whoever misses a key first. It ends with a value
or an error, which all who wait for it are told, or with nobody left to load. In
between its lease passes from one who cannot go on to the next who waits.

What a load brings is stored if the key is ours and nothing was written since it began.
Where it takes the place of an older value, the generation of its key moves too, so
that no process goes on with what it holds.
"""

from __future__ import annotations

from typing import Final, TypeAlias, final

from meshcache.codec.envelope import is_error, tags_of
from meshcache.codec.messages import Abandon, Failed, Filled, Leased, Reason, Refused
from meshcache.engine.calls import Calls
from meshcache.engine.core import Core
from meshcache.engine.gather import Gather
from meshcache.engine.ops import (
    Busy,
    Closed,
    Failure,
    Got,
    Granted,
    Lot,
    Raised,
    Ticket,
    Tier,
    TimedOut,
)
from meshcache.engine.parties import Brought, Local, Remote, Upstream
from meshcache.engine.stranded import Again, Stranded
from meshcache.errors import ValueTooLarge
from meshcache.fill.flight import Flight, Party, Phase, Waiter
from meshcache.hashing import bucket_of, partition_of
from meshcache.store.generations import Stamp
from meshcache.store.record import Entry

__all__ = ["NO_LEASE", "RECURSIVE", "Leases", "Told"]

RECURSIVE: Final = "meshcache.errors:RecursiveLoad"
NO_LEASE: Final = 0
"""The lease of a load that nobody shares: what it brings is not told to anybody."""

Told: TypeAlias = Got | Granted | Raised | TimedOut
"""What one who asks for a load is told in the end; in a lot also `Busy`."""


@final
class Leases:
    """The loads of one node. Confined to the driver thread."""

    __slots__ = ("_calls", "_core", "_lots", "stranded")

    def __init__(self, core: Core, calls: Calls) -> None:
        self._core = core
        self._calls = calls
        self._lots: dict[Ticket, Gather[Told | Busy]] = {}
        self.stranded: Final = Stranded(core, calls)
        core.agenda.at(core.now + core.config.sweep_interval, self._look)

    # --- opening -----------------------------------------------------------------

    def joinable(self, key: bytes, hashed: int, than: int = 0) -> Flight | None:
        """Return the flight to join, unless something was written since its start.

        A write to a key of ours detaches its very flight, once we hold it. Of a peer's
        key we hear by its bucket; if another key was meant, the owner has us join its
        own flight.
        """
        core, flights = self._core, self._core.flights
        flight = flights.joinable(key, beside=self._flies_beside(hashed, than))
        if flight is None:
            return None
        if flight.phase is Phase.RUNNING and flight.expires <= core.now:
            # A loader that hangs must not take its key with it.
            flights.detach(flight)
            return None
        if core.ranges.mine(hashed) and core.store.granted(partition_of(hashed)):
            return flight
        stamp = flight.stamp if isinstance(flight.stamp, Stamp) else None
        # Without one an owner has it that is not the table's: we hear nothing of it.
        fallen = stamp is None or not stamp.stands
        # What is on its way may bear a tag that was invalidated since, or be no newer
        # than what this caller holds.
        early = flight.than < than or (stamp is not None and not stamp.quiet)
        if fallen or (early and flight.phase is Phase.ASKING):
            flights.detach(flight)
            return None
        return flight

    def _flies_beside(self, hashed: int, than: int) -> bool:
        """Whether a load is a refresh of what only the owner can give meanwhile."""
        return than > 0 and not self._core.ranges.mine(hashed)

    def open(
        self, key: bytes, hashed: int, tags: tuple[int, ...], than: int = 0
    ) -> Flight | None:
        """Open a flight; None when there are too many.

        To be called under the store's lock, where the key was looked for.
        """
        core = self._core
        stamp = core.ranges.stamp(hashed)
        beside = self._flies_beside(hashed, than)
        flight = core.flights.open(key, hashed, Phase.ASKING, core.now, beside=beside)
        if flight is None:
            return None
        core.counters.flights += 1
        flight.stamp = stamp
        flight.born = core.stamp()
        flight.than, flight.tags = than, tags
        return flight

    def lease_alone(self, party: Party) -> None:
        """Let a caller load for itself: there is no room to share its load."""
        self._core.counters.overloaded += 1
        self.tell(party, Granted(NO_LEASE, Tier.LOCAL, None))

    def strand(self, waiter: Waiter, hashed: int, again: Again) -> None:
        """Have a caller ask *again* when its key has another owner."""
        if not self.stranded.keep(waiter, hashed, again):
            self.lease_alone(waiter.party)

    # --- who works ---------------------------------------------------------------

    def begin(self, flight: Flight, waiter: Waiter) -> None:
        """Give the lease of a new flight to who opened it, if it can stay for it."""
        if waiter.can_load(self._core.now):
            self.grant(flight, waiter)
        else:
            self._core.flights.close(flight)
            self.give_up(waiter.party)

    def grant(self, flight: Flight, waiter: Waiter) -> None:
        """Give *waiter* the lease, and tell it so."""
        core = self._core
        self.lend(flight, waiter)
        match waiter.party:
            case Local():
                alone = flight.upstream is None and not core.ranges.mine(flight.hashed)
                if alone:
                    self._does_without(flight)
                tier = Tier.LOCAL if alone else Tier.FILL
                self.tell(waiter.party, Granted(flight.id, tier, _stamp_of(flight)))
            case Remote(route, rid):
                lease_ms = max(1, int((waiter.deadline - core.now) * 1000))
                core.reply(route, Leased(rid, flight.id, lease_ms))

    def _does_without(self, flight: Flight) -> None:
        """Let what is loaded without its owner last until that speaks, if it does."""
        core = self._core
        core.counters.local += 1
        peer = core.peer_of(flight.hashed)
        lane = None if peer is None else core.ranges.lane(peer.member.node_id)
        if lane is not None and lane.sealed(partition_of(flight.hashed)):
            # It is the owner no more, and what its heir writes moves nothing there.
            flight.stamp = None
        elif lane is None and peer is not None:
            peer.follow(core.now)
            peer.without = True

    def lend(self, flight: Flight, waiter: Waiter) -> None:
        """Give *waiter* the lease, until its own time is over."""
        self._core.counters.leases += 1
        self._core.flights.grant(flight, waiter, waiter.deadline)

    def pass_on(self, flight: Flight) -> None:
        """Give the lease to the next who can use it; else give the flight up."""
        core = self._core
        if flight.holder is not None:
            core.counters.leases_passed += 1
            core.flights.release(flight)
            if self._returned(flight):
                return
        waiter = flight.next_holder(core.now)
        if waiter is not None:
            self.grant(flight, waiter)
            return
        self.abandon_upstream(flight, None)
        for late in core.flights.close(flight):
            self.give_up(late.party)

    def _returned(self, flight: Flight) -> bool:
        """Give a lease back to the owner who gave it, for it to say whose turn it is.

        Its time is over there when it is here: two would load if both passed it on.
        """
        upstream = flight.upstream
        if not isinstance(upstream, Upstream) or not flight.waiters:
            return False
        # Known still: a value that its holder brings late is as welcome as any.
        self.give_back(upstream, None)
        upstream.ask_again()
        return True

    def abandon_upstream(self, flight: Flight, failure: Failure | None) -> None:
        """Tell the owner who leased us this load that it did not end well."""
        if isinstance(flight.upstream, Upstream):
            self.give_back(flight.upstream, failure)
            flight.upstream = None

    def give_back(self, upstream: Upstream, failure: Failure | None) -> None:
        """Give an owner its lease back."""
        peer, token, _ = upstream
        told = ("", "", "", b"") if failure is None else failure
        self._core.send(peer, Abandon(peer.member.epoch, token, *told))

    # --- endings -----------------------------------------------------------------

    def brought(self, flight: Flight, value: bytes, ttl_ms: int) -> None:
        """End a flight whose value was loaded in this process or under our lease."""
        alone = flight.upstream is None and not self._core.ranges.mine(flight.hashed)
        tier = Tier.LOCAL if alone else Tier.FILL
        version = self._core.stamp()
        self.finish(flight, Brought(value, ttl_ms, version, tier))

    def finish(self, flight: Flight, brought: Brought) -> None:
        """End a flight with a value, which every waiter gets."""
        self._store(flight, brought)
        for waiter in self._core.flights.close(flight):
            match waiter.party:
                case Local():
                    self.tell(waiter.party, self._got(flight, brought))
                case Remote(route, rid):
                    filled = Filled(rid, *brought[:3], loaded=True)
                    self._core.reply(route, filled)

    def _got(self, flight: Flight, brought: Brought) -> Got:
        value, ttl_ms, version, tier = brought
        expires = self._core.expires(ttl_ms)
        return Got(value, expires, version, tier, _stamp_of(flight))

    def _store(self, flight: Flight, brought: Brought) -> None:
        """Keep the value, if the key is ours and no write has come since the start."""
        core = self._core
        value, ttl_ms, version, _ = brought
        if ttl_ms == 0 or not core.ranges.mine(flight.hashed):
            return
        expires = core.expires(ttl_ms)
        with core.store.lock:
            if flight.detached or core.store.tagged_over(flight.born, tags_of(value)):
                core.counters.fenced += 1
                return
            try:
                self._replace(flight, Entry(value, version, expires))
            except ValueTooLarge:
                core.counters.overloaded += 1

    def _replace(self, flight: Flight, entry: Entry) -> None:
        core, key, hashed = self._core, flight.key, flight.hashed
        replaces = core.store.get(key, hashed, core.now) is not None
        if replaces and is_error(entry.value):
            # A remembered error never takes the place of a value, however old.
            return
        if core.owner.fill(key, hashed, entry, core.now) and replaces:
            bucket = bucket_of(hashed)
            core.store.generations.bump(bucket)
            core.readers.moved(bucket)
            # No write has come between: this value is the one that now stands.
            flight.stamp = core.ranges.stamp(hashed)

    def fail(self, flight: Flight, failure: Failure) -> None:
        """End a flight with its loader's error, which every waiter hears."""
        for waiter in self._core.flights.close(flight):
            match waiter.party:
                case Local():
                    recursive = failure.type_name == RECURSIVE
                    self.tell(waiter.party, Raised(failure, recursive))
                case Remote(route, rid):
                    self._core.reply(route, Failed(rid, *failure))

    def give_up(self, party: Party) -> None:
        """Tell *party* that its time is over."""
        match party:
            case Local():
                self.tell(party, TimedOut())
            case Remote():
                self.refuse(party, Reason.TIMED_OUT)

    def refuse(self, party: Remote, reason: Reason) -> None:
        """Tell a peer that it has to do without us."""
        if reason is Reason.OVERLOADED:
            self._core.counters.overloaded += 1
        self._core.reply(party.route, Refused(party.rid, reason))

    # --- telling this process ----------------------------------------------------

    def gather(self, ticket: Ticket, count: int) -> None:
        """Complete *ticket* when its parts, from 1 to *count*, have all been told."""

        def done(outcomes: tuple[Told | Busy, ...]) -> None:
            del self._lots[ticket]
            self._core.complete(ticket, Lot(outcomes))

        self._lots[ticket] = Gather[Told | Busy](count, Busy(), done)

    def tell(self, party: Party, told: Told) -> None:
        """Tell a caller of this process how its load, or its part of a lot, went."""
        assert isinstance(party, Local)
        if party.part:
            self.tell_part(party, told)
        else:
            self._core.complete(party.ticket, told)

    def tell_part(self, party: Local, told: Told | Busy) -> None:
        """Tell a caller how one part of its lot went, unless it has given up."""
        lot = self._lots.get(party.ticket)
        if lot is not None:
            lot.put(party.part - 1, told)

    # --- what happens around -----------------------------------------------------

    def forsake(self, party: Party) -> None:
        """Hear that *party*, or all the parts of that lot, wait no more."""
        if isinstance(party, Local):
            self._lots.pop(party.ticket, None)
            self.stranded.forsake(party.ticket)
        for each in (party, *self._core.flights.parts(party)):
            self.withdraw(each)

    def withdraw(self, party: Party) -> None:
        """Take one party out of its flight; its lease, if it has it, passes on."""
        flight = self._core.flights.of(party)
        if flight is None:
            return
        if flight.holder is not None and flight.holder.party == party:
            self.pass_on(flight)
        else:
            self._core.flights.leave(flight, party)
            self._end_if_unwanted(flight)

    def _end_if_unwanted(self, flight: Flight) -> None:
        """Close a flight that only waits for an answer which nobody wants now.

        A pool's run and a holder's load go on: others may ask for what they bring.
        """
        if flight.phase is not Phase.ASKING or flight.waiters:
            return
        if flight.asked is not None:
            self._calls.cancel(flight.asked)
        self._core.flights.close(flight)

    def peer_gone(self, node_id: bytes) -> None:
        """Pass on the leases of a node that is gone, and wait with it no more."""
        flights = self._core.flights
        for flight in flights:
            for party in [p for p, w in flight.waiters.items() if w.node == node_id]:
                flights.leave(flight, party)
            if flight.holder is not None and flight.holder.node == node_id:
                self.pass_on(flight)

    def close(self) -> None:
        """End every flight: this node stops."""
        core = self._core
        for ticket in dict.fromkeys((*self._lots, *self.stranded.close())):
            core.complete(ticket, Closed())
        self._lots.clear()
        for flight in core.flights:
            self.abandon_upstream(flight, None)
            for waiter in core.flights.close(flight):
                match waiter.party:
                    case Local(ticket, 0):
                        core.complete(ticket, Closed())
                    case Remote():
                        self.refuse(waiter.party, Reason.LEAVING)

    def _look(self, now: float) -> None:
        """End the waits and the leases whose time is over.

        One look at all of them every so often: most loads end long before, and a
        deadline in the agenda for each would be kept until it is due.
        """
        core = self._core
        for flight in core.flights:
            for late in [w for w in flight.waiters.values() if w.deadline <= now]:
                core.flights.leave(flight, late.party)
                self.give_up(late.party)
                self._end_if_unwanted(flight)
            if flight.holder is not None and flight.expires <= now:
                self.pass_on(flight)
        core.agenda.at(now + core.config.sweep_interval, self._look)


def _stamp_of(flight: Flight) -> Stamp | None:
    """Return what a near entry of this load's value may stand on.

    Nothing, if the value is on its way to an owner that leased us the load: a write
    may have come before it there, whose note has yet to reach us.
    """
    if flight.upstream is not None or not isinstance(flight.stamp, Stamp):
        return None
    return flight.stamp
