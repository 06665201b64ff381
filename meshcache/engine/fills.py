"""Loading what is missing, once in the whole cluster.

    asked here, key is ours        the caller gets the lease and loads by itself
    asked here, key is a peer's    one `Load` to the owner, for all who ask here
    asked by a peer, key is ours   our pool runs the loader, if we know it and have
                                   room; else that peer gets the lease

Whoever comes second waits. Whoever comes first and is itself inside a loader, or finds
the pool busy, is given a lease and never a place in a queue: loaders that wait for each
other's keys cannot fill the pools of two nodes and lock them.

When the owner is silent, gone, overloaded or of another opinion about the table, one
of those who wait here gets the lease all the same, and its value serves this process
alone (groupcache's local fallback, single-flight kept). While an owner lives it says
so (`Pending`, three times per time-out), so silence is noticed within one time-out
however long the load takes.
"""

from __future__ import annotations

from functools import partial
from typing import Final, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Abandon,
    Cancel,
    Failed,
    Filled,
    Fulfil,
    Leased,
    Load,
    LoaderName,
    NotOwner,
    Pending,
    Reason,
    Refused,
)
from meshcache.engine.calls import Answer, Calls
from meshcache.engine.core import Core
from meshcache.engine.effects import RunLoader
from meshcache.engine.ops import (
    Closed,
    Deliver,
    Drop,
    Failure,
    Got,
    Granted,
    LoadKey,
    Raised,
    Register,
    RunEnded,
    Ticket,
    Tier,
    TimedOut,
)
from meshcache.engine.parties import Asking, Brought, Local, Remote, Upstream
from meshcache.errors import ValueTooLarge
from meshcache.fill.flight import Flight, Party, Phase, Waiter
from meshcache.hashing import key_hash
from meshcache.model import NodeId
from meshcache.store.generations import Stamp
from meshcache.store.record import Entry

__all__ = ["RECURSIVE", "Fills"]

BEATS_PER_TIMEOUT: Final = 3
RECURSIVE: Final = "meshcache.errors:RecursiveLoad"
NO_LEASE: Final = 0
"""The lease of a load that nobody shares: what it brings is not told to anybody."""


@final
class Fills:
    """The loading part of the engine."""

    __slots__ = ("_calls", "_core", "_loaders", "_runs", "_tasks")

    def __init__(self, core: Core, calls: Calls) -> None:
        self._core = core
        self._calls = calls
        self._loaders: frozenset[LoaderName] = frozenset()
        self._tasks: frozenset[LoaderName] = frozenset()
        self._runs: dict[int, bool] = {}
        self._core.agenda.at(self._core.now + self._beat, self._tell_pending)
        self._core.agenda.at(self._core.now + core.config.sweep_interval, self._look)

    @property
    def _beat(self) -> float:
        return self._core.config.request_timeout / BEATS_PER_TIMEOUT

    @property
    def running(self) -> int:
        """How many loads this node's pool is at."""
        return len(self._runs)

    def register(self, op: Register) -> None:
        """Take note of what this process can load for others."""
        self._loaders, self._tasks = frozenset(op.loaders), op.tasks

    # --- asked here --------------------------------------------------------------

    def ask(self, ticket: Ticket, op: LoadKey) -> None:
        """Answer, join, open or ask for the load of one key."""
        # Under the lock, so that no thread of the application writes the key between
        # the look for it and the opening of its flight.
        with self._core.store.lock:
            self._ask(ticket, op)

    def _ask(self, ticket: Ticket, op: LoadKey) -> None:
        core = self._core
        stamp = core.ranges.stamp(op.hashed)
        entry = core.find(op.key, op.hashed)
        if entry is not None:
            got = Got(entry.value, entry.expires, entry.version, Tier.HOST, stamp)
            core.complete(ticket, got)
            return
        if op.hashed in op.chain:
            core.complete(ticket, _recursive(op))
            return
        deadline = core.now + op.timeout
        waiter = Waiter(Local(ticket), core.now, deadline)
        flight = self._joinable(op.key)
        if flight is None:
            self._open_here(op, waiter, stamp)
        elif self._core.flights.join(flight, waiter):
            core.counters.joined += 1
        else:
            self._lease_alone(waiter)

    def _open_here(self, op: LoadKey, waiter: Waiter, stamp: Stamp) -> None:
        flight = self._open(op.key, op.hashed, stamp)
        if flight is None:
            self._lease_alone(waiter)
            return
        peer = self._core.peer_of(op.hashed)
        if peer is None or not peer.usable:
            self._grant(flight, waiter)
        elif not self._core.flights.join(flight, waiter):
            self._core.flights.close(flight)
            self._lease_alone(waiter)
        else:
            deadline = self._core.now + self._core.config.request_timeout
            self._ask_owner(Asking(flight, op, peer, 0, deadline))

    def _lease_alone(self, waiter: Waiter) -> None:
        """Let a caller load for itself: there is no room to share its load."""
        assert isinstance(waiter.party, Local)
        self._core.counters.overloaded += 1
        granted = Granted(NO_LEASE, Tier.LOCAL, None)
        self._core.complete(waiter.party.ticket, granted)

    # --- asking the owner --------------------------------------------------------

    def _ask_owner(self, asking: Asking) -> None:
        core = self._core
        flight, op, peer, hop, deadline = asking
        quiet = core.ranges.lane(peer.member.node_id) is not None
        if not quiet:
            peer.follow(core.now)
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
            op.chain,
        )
        flight.asked = self._calls.start(
            peer,
            lambda rid: message._replace(rid=rid),
            deadline,
            partial(self._owner_answered, asking),
            lambda _why: self._without_owner(flight),
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
                self._finish(flight, Brought(value, ttl_ms, version, tier))
            case Leased(_, token, _):
                flight.upstream = Upstream(asking.peer, token)
                self._pass(flight)
            case Failed(_, type_name, message, traceback, args):
                self._fail(flight, Failure(type_name, message, traceback, args))
            case NotOwner(_, owner, _) if asking.hop == 0:
                self._core.counters.not_owner_received += 1
                self._redirect(asking, owner)
            case _:
                self._without_owner(flight)

    def _redirect(self, asking: Asking, owner: bytes) -> None:
        """Ask once more: where our table says now, else where the peer's does."""
        core = self._core
        if core.ranges.mine(asking.op.hashed):
            self._pass(asking.flight)
            return
        peer = core.peer_of(asking.op.hashed)
        if peer is asking.peer:
            peer = core.peers.get(NodeId(owner))
        if peer is None or peer is asking.peer or not peer.usable:
            self._without_owner(asking.flight)
        else:
            self._ask_owner(asking._replace(peer=peer, hop=1))

    def _without_owner(self, flight: Flight) -> None:
        """Do without the owner: one of those who wait here loads for all of them."""
        flight.asked = None
        self._pass(flight)

    # --- asked by a peer ---------------------------------------------------------

    def serve(self, route: Route, message: Load) -> None:
        """Answer, join or open the load of one key for a peer."""
        core = self._core
        hashed = key_hash(message.key)
        if not core.ranges.mine(hashed):
            owner = core.ranges.owner(hashed)
            core.counters.not_owner_sent += 1
            owner_id = b"" if owner is None else owner.node_id
            reply = NotOwner(message.rid, owner_id, core.ranges.table.epoch)
            core.reply(route, reply)
            return
        if not message.quiet:
            core.readers.add(route, core.now)
        with core.store.lock:
            self._serve(Remote(route, message.rid), message, hashed)

    def _serve(self, party: Remote, message: Load, hashed: int) -> None:
        core = self._core
        entry = core.find(message.key, hashed)
        if entry is not None:
            core.counters.served_hits += 1
            ttl_ms = core.ttl_ms(entry.expires)
            hit = Filled(message.rid, entry.value, ttl_ms, entry.version, loaded=False)
            core.reply(party.route, hit)
            return
        core.counters.served_misses += 1
        # The same request twice, repeated on the way, is answered once.
        if core.flights.of(party) is None:
            self._serve_load(party, message, hashed)

    def _serve_load(self, party: Remote, message: Load, hashed: int) -> None:
        core = self._core
        deadline = core.now + message.budget_ms / 1000
        waiter = Waiter(party, core.now, deadline, message.caller)
        flight = self._joinable(message.key)
        if flight is not None:
            core.counters.joined += 1
            if not self._core.flights.join(flight, waiter):
                self._refuse(party, Reason.OVERLOADED)
            return
        flight = self._open(message.key, hashed, core.ranges.stamp(hashed))
        if flight is None:
            self._refuse(party, Reason.OVERLOADED)
        elif self._can_run(message) and self._core.flights.join(flight, waiter):
            flight.expires = deadline
            self._run(flight, message)
        else:
            self._grant(flight, waiter)

    def _can_run(self, message: Load) -> bool:
        name = LoaderName(message.loader, message.loader_version)
        if name not in self._loaders or message.chain:
            return False
        config, task = self._core.config, name in self._tasks
        busy = sum(run is task for run in self._runs.values())
        return busy < (config.loader_tasks if task else config.loader_threads)

    def _run(self, flight: Flight, message: Load) -> None:
        core = self._core
        core.counters.runs += 1
        flight.phase = Phase.RUNNING
        name = LoaderName(message.loader, message.loader_version)
        self._runs[flight.id] = name in self._tasks
        core.out.append(
            RunLoader(
                flight.id,
                message.loader,
                message.loader_version,
                message.key,
                message.args,
                (*message.chain, flight.hashed),
            )
        )

    def run_ended(self, op: RunEnded) -> None:
        """Take what the pool brought, for those who wait and for the store."""
        self._runs.pop(op.flight, None)
        flight = self._core.flights.get(op.flight)
        if flight is None:
            self._core.counters.late_values += 1
        elif op.value is not None:
            self._brought(flight, op.value, op.ttl_ms)
        elif op.failure is not None:
            self._fail(flight, op.failure)
        else:
            self._pass(flight)

    def fulfil(self, message: Fulfil) -> None:
        """Take the value of a load that a peer was leased.

        Whoever brings it: one whose lease has passed on meanwhile is as welcome.
        """
        flight = self._core.flights.get(message.token)
        if flight is None:
            self._core.counters.late_values += 1
        else:
            self._brought(flight, message.value, message.ttl_ms)

    def abandon(self, route: Route, message: Abandon) -> None:
        """Hear that a leased load failed, or pass the lease on if it was dropped."""
        flight = self._core.flights.get(message.token)
        if flight is None or flight.holder is None:
            return
        party = flight.holder.party
        if not isinstance(party, Remote) or party.route != route:
            return
        if message.type_name:
            self._fail(flight, Failure(*message[2:]))
        else:
            self._pass(flight)

    def cancel(self, route: Route, message: Cancel) -> None:
        """Hear that a peer does not wait for its request any more."""
        self._forsake(Remote(route, message.rid))

    # --- a caller's lease --------------------------------------------------------

    def deliver(self, op: Deliver) -> None:
        """Take the value of a load that a caller of this process was leased."""
        flight = self._core.flights.get(op.lease)
        if flight is None:
            return
        if isinstance(flight.upstream, Upstream):
            peer, token = flight.upstream
            message = Fulfil(peer.member.epoch, token, op.value, op.ttl_ms)
            self._core.send(peer, message)
        self._brought(flight, op.value, op.ttl_ms)

    def drop(self, op: Drop) -> None:
        """Hear that a caller's load failed, or pass its lease on."""
        party = Local(op.ticket)
        flight = self._core.flights.get(op.lease)
        if flight is None or flight.holder is None or flight.holder.party != party:
            return
        if op.failure is None:
            self._pass(flight)
            return
        self._abandon_upstream(flight, op.failure)
        self._fail(flight, op.failure)

    def forsake(self, ticket: Ticket) -> None:
        """Hear that a caller of this process does not wait any more."""
        self._forsake(Local(ticket))

    def _forsake(self, party: Party) -> None:
        flight = self._core.flights.of(party)
        if flight is None:
            return
        if flight.holder is not None and flight.holder.party == party:
            self._pass(flight)
        else:
            self._core.flights.leave(flight, party)
            self._end_if_unwanted(flight)

    # --- flights -----------------------------------------------------------------

    def _joinable(self, key: bytes) -> Flight | None:
        """Return the flight to join, unless something was written since its start.

        A write to a key of ours detaches its very flight. Of a peer's key we hear by
        its bucket; if another key was meant, the owner has us join its own flight.
        """
        flights = self._core.flights
        flight = flights.joinable(key)
        if flight is None:
            return None
        if flight.phase is Phase.RUNNING and flight.expires <= self._core.now:
            # A loader that hangs must not take its key with it.
            flights.detach(flight)
            return None
        if self._core.ranges.mine(flight.hashed):
            return flight
        if isinstance(flight.stamp, Stamp) and not flight.stamp.stands:
            flights.detach(flight)
            return None
        return flight

    def _open(self, key: bytes, hashed: int, stamp: Stamp) -> Flight | None:
        core = self._core
        flight = core.flights.open(key, hashed, Phase.ASKING, core.now)
        if flight is not None:
            core.counters.flights += 1
            flight.stamp = stamp
        return flight

    def _look(self, now: float) -> None:
        """End the waits and the leases whose time is over.

        One look at all of them every so often: most loads end long before, and a
        deadline in the agenda for each would be kept until it is due.
        """
        core = self._core
        for flight in core.flights:
            for late in [w for w in flight.waiters.values() if w.deadline <= now]:
                core.flights.leave(flight, late.party)
                self._give_up(late.party)
                self._end_if_unwanted(flight)
            if flight.holder is not None and flight.expires <= now:
                self._pass(flight)
        core.agenda.at(now + core.config.sweep_interval, self._look)

    def _end_if_unwanted(self, flight: Flight) -> None:
        """Close a flight that only waits for an answer which nobody wants now.

        A pool's run and a holder's load go on: others may ask for what they bring.
        """
        if flight.phase is not Phase.ASKING or flight.waiters:
            return
        if flight.asked is not None:
            self._calls.cancel(flight.asked)
        self._core.flights.close(flight)

    def _grant(self, flight: Flight, waiter: Waiter) -> None:
        """Give *waiter* the lease, until its own time is over."""
        core = self._core
        core.counters.leases += 1
        core.flights.grant(flight, waiter, waiter.deadline)
        match waiter.party:
            case Local(ticket):
                alone = flight.upstream is None and not core.ranges.mine(flight.hashed)
                core.counters.local += alone
                tier = Tier.LOCAL if alone else Tier.FILL
                core.complete(ticket, Granted(flight.id, tier, _stamp_of(flight)))
            case Remote(route, rid):
                lease_ms = max(1, int((waiter.deadline - core.now) * 1000))
                core.reply(route, Leased(rid, flight.id, lease_ms))

    def _pass(self, flight: Flight) -> None:
        """Give the lease to the next who can use it; else give the flight up."""
        core = self._core
        if flight.holder is not None:
            core.counters.leases_passed += 1
            core.flights.release(flight)
        waiter = flight.next_holder(core.now)
        if waiter is not None:
            self._grant(flight, waiter)
            return
        self._abandon_upstream(flight, None)
        for late in core.flights.close(flight):
            self._give_up(late.party)

    def _abandon_upstream(self, flight: Flight, failure: Failure | None) -> None:
        if isinstance(flight.upstream, Upstream):
            peer, token = flight.upstream
            told = ("", "", "", b"") if failure is None else failure
            self._core.send(peer, Abandon(peer.member.epoch, token, *told))
            flight.upstream = None

    # --- endings -----------------------------------------------------------------

    def _brought(self, flight: Flight, value: bytes, ttl_ms: int) -> None:
        """End a flight whose value was loaded in this process or under our lease."""
        alone = flight.upstream is None and not self._core.ranges.mine(flight.hashed)
        tier = Tier.LOCAL if alone else Tier.FILL
        version = self._core.stamp()
        self._finish(flight, Brought(value, ttl_ms, version, tier))

    def _finish(self, flight: Flight, brought: Brought) -> None:
        self._store(flight, brought)
        for waiter in self._core.flights.close(flight):
            match waiter.party:
                case Local(ticket):
                    self._core.complete(ticket, self._got(flight, brought))
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
        if brought.ttl_ms == 0 or not core.ranges.mine(flight.hashed):
            return
        expires = core.expires(brought.ttl_ms)
        if flight.detached:
            core.counters.fenced += 1
            return
        try:
            entry = Entry(brought.value, brought.version, expires)
            core.owner.fill(flight.key, flight.hashed, entry, core.now)
        except ValueTooLarge:
            core.counters.overloaded += 1

    def _fail(self, flight: Flight, failure: Failure) -> None:
        """End a flight with its loader's error, which every waiter hears."""
        for waiter in self._core.flights.close(flight):
            match waiter.party:
                case Local(ticket):
                    recursive = failure.type_name == RECURSIVE
                    self._core.complete(ticket, Raised(failure, recursive))
                case Remote(route, rid):
                    self._core.reply(route, Failed(rid, *failure))

    def _give_up(self, party: Party) -> None:
        match party:
            case Local(ticket):
                self._core.complete(ticket, TimedOut())
            case Remote():
                self._refuse(party, Reason.TIMED_OUT)

    def _refuse(self, party: Remote, reason: Reason) -> None:
        if reason is Reason.OVERLOADED:
            self._core.counters.overloaded += 1
        self._core.reply(party.route, Refused(party.rid, reason))

    # --- what happens around -----------------------------------------------------

    def peer_gone(self, node_id: bytes) -> None:
        """Pass on the leases of a node that is gone, and wait with it no more."""
        flights = self._core.flights
        for flight in flights:
            for party in [p for p, w in flight.waiters.items() if w.node == node_id]:
                flights.leave(flight, party)
            if flight.holder is not None and flight.holder.node == node_id:
                self._pass(flight)

    def close(self) -> None:
        """End every flight: this node stops."""
        for flight in self._core.flights:
            self._abandon_upstream(flight, None)
            for waiter in self._core.flights.close(flight):
                match waiter.party:
                    case Local(ticket):
                        self._core.complete(ticket, Closed())
                    case Remote():
                        self._refuse(waiter.party, Reason.LEAVING)

    def _tell_pending(self, now: float) -> None:
        """Tell the peers who wait for our loads that we are at it."""
        rids: dict[Route, list[int]] = {}
        for flight in self._core.flights:
            for party in flight.waiters:
                if isinstance(party, Remote):
                    rids.setdefault(party.route, []).append(party.rid)
        for route, waiting in rids.items():
            self._core.reply(route, Pending(tuple(waiting)))
        self._core.agenda.at(now + self._beat, self._tell_pending)


def _recursive(op: LoadKey) -> Raised:
    message = f"a loader asked for the key it is loading: {op.key!r}"
    return Raised(Failure(RECURSIVE, message, "", b""), recursive=True)


def _stamp_of(flight: Flight) -> Stamp | None:
    """Return what a near entry of this load's value may stand on.

    Nothing, if the value is on its way to an owner that leased us the load: a write
    may have come before it there, whose note has yet to reach us.
    """
    if flight.upstream is not None or not isinstance(flight.stamp, Stamp):
        return None
    return flight.stamp
