"""Loading what peers miss, as the owner of their keys.

    `Load`     our pool runs the loader, if we know it and have room; else the peer
               gets the lease; who comes second waits for the first
    `Borrow`   many keys at once: values and leases, and nobody is made to wait

Whoever is itself inside a loader, or finds the pool busy, is given a lease and never a
place in a queue: loaders that wait for each other's keys cannot fill the pools of two
nodes and lock them.
"""

from __future__ import annotations

from typing import Final, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Abandon,
    Borrow,
    Cancel,
    Filled,
    Fulfil,
    Lent,
    Load,
    LoaderName,
    Loan,
    NotOwner,
    Pending,
    Reason,
    Status,
)
from meshcache.engine.core import Core
from meshcache.engine.effects import RunLoader
from meshcache.engine.leases import Leases
from meshcache.engine.ops import Failure, Register, RunEnded
from meshcache.engine.parties import Remote
from meshcache.fill.flight import Flight, Phase, Waiter
from meshcache.hashing import key_hash

__all__ = ["Lending"]

BEATS_PER_TIMEOUT: Final = 3

_BUSY: Final = Loan(Status.BUSY, b"", 0, 0, 0)
_DISOWNED: Final = Loan(Status.NOT_OWNER, b"", 0, 0, 0)
_OVERLOADED: Final = Loan(Status.MISS, b"", 0, 0, 0)


@final
class Lending:
    """The loading part of the engine, for peers. Confined to the driver thread."""

    __slots__ = ("_core", "_leases", "_loaders", "_runs", "_tasks")

    def __init__(self, core: Core, leases: Leases) -> None:
        self._core = core
        self._leases = leases
        self._loaders: frozenset[LoaderName] = frozenset()
        self._tasks: frozenset[LoaderName] = frozenset()
        self._runs: dict[int, bool] = {}
        core.agenda.at(core.now + self._beat, self._tell_pending)

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

    # --- one key -----------------------------------------------------------------

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
        if entry is not None and entry.version > message.than:
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
        flight = self._leases.joinable(message.key, hashed)
        if flight is not None:
            core.counters.joined += 1
            if not core.flights.join(flight, waiter):
                self._leases.refuse(party, Reason.OVERLOADED)
            return
        flight = self._leases.open(message.key, hashed, message.tags)
        if flight is None:
            self._leases.refuse(party, Reason.OVERLOADED)
        elif self._can_run(message) and core.flights.join(flight, waiter):
            flight.expires = deadline
            self._run(flight, message)
        else:
            self._leases.grant(flight, waiter)

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
            self._leases.brought(flight, op.value, op.ttl_ms)
        elif op.failure is not None:
            self._leases.fail(flight, op.failure)
        else:
            self._leases.pass_on(flight)

    # --- many keys ---------------------------------------------------------------

    def serve_lot(self, route: Route, message: Borrow) -> None:
        """Give a peer what is here of these keys, and leases of what nobody loads.

        The answer may stop before the last key when it has grown to
        `max_batch_bytes`; the peer asks again for the rest.
        """
        core = self._core
        if core.flights.parts(Remote(route, message.rid)):
            return  # It was repeated on the way, and has its answer.
        if not message.quiet:
            core.readers.add(route, core.now)
        loans: list[Loan] = []
        size = 0
        thans = dict(zip(message.keys, message.thans, strict=False))
        for part, key in enumerate(message.keys, 1):
            party = Remote(route, message.rid, part)
            loan = self._loan(party, key, thans.get(key, 0), message)
            size += len(loan.value)
            if loans and size > core.config.max_batch_bytes:
                break
            loans.append(loan)
        core.reply(route, Lent(message.rid, message.budget_ms, tuple(loans)))

    def _loan(self, party: Remote, key: bytes, than: int, message: Borrow) -> Loan:
        core = self._core
        hashed = key_hash(key)
        if not core.ranges.mine(hashed):
            core.counters.not_owner_sent += 1
            return _DISOWNED
        with core.store.lock:
            entry = core.find(key, hashed)
            if entry is None or entry.version <= than:
                return self._lend(party, key, than, message)
        core.counters.served_hits += 1
        ttl_ms = core.ttl_ms(entry.expires)
        return Loan(Status.HIT, entry.value, ttl_ms, entry.version, 0)

    def _lend(self, party: Remote, key: bytes, than: int, message: Borrow) -> Loan:
        core, hashed = self._core, key_hash(key)
        core.counters.served_misses += 1
        if self._leases.joinable(key, hashed, than) is not None:
            return _BUSY
        flight = self._leases.open(key, hashed, message.tags, than)
        if flight is None:
            core.counters.overloaded += 1
            return _OVERLOADED
        deadline = core.now + message.budget_ms / 1000
        lot = party._replace(part=0)
        waiter = Waiter(party, core.now, deadline, message.caller, lot)
        self._leases.lend(flight, waiter)
        return Loan(Status.LEASED, b"", 0, 0, flight.id)

    # --- a peer's lease ----------------------------------------------------------

    def fulfil(self, message: Fulfil) -> None:
        """Take the value of a load that a peer was leased.

        Whoever brings it: one whose lease has passed on meanwhile is as welcome.
        """
        flight = self._core.flights.get(message.token)
        if flight is None:
            self._core.counters.late_values += 1
        else:
            self._leases.brought(flight, message.value, message.ttl_ms)

    def abandon(self, route: Route, message: Abandon) -> None:
        """Hear that a leased load failed, or pass the lease on if it was dropped."""
        flight = self._core.flights.get(message.token)
        if flight is None or flight.holder is None:
            return
        party = flight.holder.party
        if not isinstance(party, Remote) or party.route != route:
            return
        if message.type_name:
            self._leases.fail(flight, Failure(*message[2:]))
        else:
            self._leases.pass_on(flight)

    def cancel(self, route: Route, message: Cancel) -> None:
        """Hear that a peer does not wait for its request any more."""
        self._leases.forsake(Remote(route, message.rid))

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
