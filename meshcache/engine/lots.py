"""Loading many keys at once, without waiting for anybody's load.

Of each key the caller gets the value, or the lease to load it, or is told that
somebody else is at it. The keys of others go as one `Borrow` to each owner.

Each key has a flight of its own from the start, in which the lot takes part like any
caller. So whoever asks here for one of those keys meanwhile joins, and is served with
what the owner answers: the value, the lease once the lot lets go of it or brings the
value, or the owner's own word if somebody else is at it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, final

from meshcache.codec.messages import Borrow, Lent, Loan, Status
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.fills import Fills, recursive, wanted_by
from meshcache.engine.leases import Leases
from meshcache.engine.ops import (
    Busy,
    Got,
    LoadKey,
    LoadKeys,
    Lot,
    Ticket,
    Tier,
)
from meshcache.engine.parties import Brought, Local, Upstream
from meshcache.engine.peers import Peer
from meshcache.engine.scatter import Part, Scatter
from meshcache.fill.flight import Flight, Waiter

__all__ = ["Lots"]


class _Wanted(NamedTuple):
    """A key of a lot whose owner is asked: its flight, and who waits in it."""

    flight: Flight
    party: Local


class _Asked(NamedTuple):
    """Whom a key was asked of."""

    wanted: _Wanted
    peer: Peer


@final
class Lots:
    """The loading of many keys, for the application. Confined to the driver thread."""

    __slots__ = ("calls", "core", "fills", "leases")

    def __init__(self, core: Core, calls: Calls, leases: Leases, fills: Fills) -> None:
        self.core = core
        self.calls = calls
        self.leases = leases
        self.fills = fills

    def ask(self, ticket: Ticket, op: LoadKeys) -> None:
        """Find or lease what is ours of *op*, and ask the owners of the rest."""
        if not op.keys:
            self.core.complete(ticket, Lot(()))
            return
        self.leases.gather(ticket, len(op.keys))
        lot, now = Local(ticket), self.core.now
        thans = op.thans or (0,) * len(op.keys)
        waiters = []
        for part, ((key, hashed), than) in enumerate(
            zip(op.keys, thans, strict=True), 1
        ):
            one = LoadKey(key, hashed, "", 0, b"", op.chain, op.timeout, than, op.tags)
            party = Local(ticket, part)
            waiters.append(Waiter(party, now, now + op.timeout, lot=lot, wants=one))
        _Asking(self, op).ask(waiters)


@final
class _Asking:
    """The asking for one lot: for all its keys at first, and again for some."""

    def __init__(self, lots: Lots, op: LoadKeys) -> None:
        self.lots = lots
        self.op = op

    def ask(self, waiters: list[Waiter]) -> None:
        """Find or lease what is ours, and ask the owners of the rest."""
        wanted: list[tuple[_Wanted, int]] = []
        for waiter in waiters:
            # As with one key: nobody writes it between the look and the flight.
            with self.lots.core.store.lock:
                flight = self._begin(waiter, wanted_by(waiter))
            if flight is not None:
                assert isinstance(waiter.party, Local)
                wanted.append((_Wanted(flight, waiter.party), flight.hashed))
        _Borrowing(self, wanted).start()

    def again(self, waiters: list[Waiter]) -> None:
        """Ask anew for keys that were waited for, with the time that is left."""
        # All of them have the same.
        rest = waiters[0].deadline - self.lots.core.now
        if rest > 0:
            self.op = self.op._replace(timeout=rest)
            self.ask(waiters)
            return
        for waiter in waiters:
            self.lots.leases.give_up(waiter.party)

    def strand(self, waiter: Waiter, hashed: int) -> None:
        """Ask for a key when it has another owner."""
        self.lots.leases.strand(waiter, hashed, self.again)

    def _begin(self, waiter: Waiter, one: LoadKey) -> Flight | None:
        """Tell what can be told of a key at once, or open the flight to ask with."""
        core, leases, party = self.lots.core, self.lots.leases, waiter.party
        assert isinstance(party, Local)
        stamp = core.ranges.stamp(one.hashed)
        entry = core.find(one.key, one.hashed)
        if entry is not None and entry.version > one.than:
            value, version, expires = entry
            leases.tell(party, Got(value, expires, version, Tier.HOST, stamp))
        elif one.hashed in one.chain:
            leases.tell(party, recursive(one.key))
        elif leases.joinable(one.key, one.hashed, one.than) is not None:
            leases.tell_part(party, Busy())
        else:
            return self._open(waiter, one)
        return None

    def _open(self, waiter: Waiter, one: LoadKey) -> Flight | None:
        core, leases, party = self.lots.core, self.lots.leases, waiter.party
        if leases.stranded.must_wait(waiter, one.hashed):
            self.strand(waiter, one.hashed)
            return None
        flight = leases.open(one.key, one.hashed, one.tags, one.than)
        if flight is None:
            leases.lease_alone(party)
            return None
        peer = core.peer_of(one.hashed)
        if peer is None or not peer.usable:
            leases.begin(flight, waiter)
        elif not core.flights.join(flight, waiter):
            core.flights.close(flight)
            leases.lease_alone(party)
        else:
            return flight
        return None


@final
class _Borrowing(Scatter[_Wanted, Loan, None]):
    """The asking of the owners. What comes of it is told through the flights."""

    def __init__(self, asking: _Asking, wanted: list[tuple[_Wanted, int]]) -> None:
        lots = asking.lots
        super().__init__(lots.core, lots.calls, wanted, lambda _told: None)
        self._asking = asking
        self._leases = lots.leases
        self._fills = lots.fills
        self._op = asking.op

    def own(self, item: _Wanted, hashed: int) -> None:
        """It has become ours meanwhile, so somebody may be at it already."""
        for by, waiter in self._parted(item):
            by.again([waiter])

    def size(self, item: _Wanted) -> int:
        return len(item.flight.key)

    def before(self, peer: Peer, index: int, hop: int) -> _Asked:
        wanted, _ = self.items[index]
        if hop:
            # The notes of whoever answers now are not those that its stamp stands on.
            wanted.flight.stamp = None
        return _Asked(wanted, peer)

    def message(self, part: Part, budget_ms: int, rid: int) -> Borrow:
        core = self.core
        flights = [self.items[i][0].flight for i in part.indexes]
        return Borrow(
            rid,
            part.peer.member.epoch,
            core.ranges.table.epoch,
            part.hop,
            max(1, int(self._op.timeout * 1000)),
            self._fills.follow(part.peer),
            core.me.node_id,
            tuple(flight.key for flight in flights),
            self._op.tags,
            tuple(flight.than for flight in flights) if self._op.thans else (),
        )

    def found(self, part: Part, answer: Answer) -> tuple[Loan, ...] | None:
        # It may end before the last key: the rest is asked for again.
        return answer.results if isinstance(answer, Lent) else None

    def take(self, found: Loan, noted: object) -> None:
        assert isinstance(noted, _Asked)
        wanted, peer = noted
        flight = wanted.flight
        match found:
            case Loan(Status.LEASED, _, _, _, token):
                again = partial(self._fills.ask_again, flight)
                self._leased(wanted, Upstream(peer, token, again))
            case Loan(Status.HIT, value, ttl_ms, version):
                self.core.observe(version)
                brought = Brought(value, ttl_ms, version, Tier.PEER)
                self._leases.finish(flight, brought)
            case Loan(Status.BUSY):
                self._busy(wanted, peer)
            case _:
                self._without_owner(wanted)

    def lost(self, item: _Wanted, peer: Peer | None, why: Loss) -> None:
        calls = self._asking.lots.calls
        going = peer is not None and calls.lost_lately(peer)
        refused = why is Loss.AVOIDED and (going or calls.unsettled)
        if why is not Loss.GONE and not refused:
            self._without_owner(item)
            return
        for by, waiter in self._parted(item):
            by.strand(waiter, item.flight.hashed)

    # --- what becomes of one key -------------------------------------------------

    def _is_over(self, flight: Flight) -> bool:
        """Whether nobody waits for a flight any more."""
        return self.core.flights.get(flight.id) is not flight

    def _leased(self, wanted: _Wanted, upstream: Upstream) -> None:
        flight = wanted.flight
        if self._is_over(flight):
            self._leases.give_back(upstream, None)
            return
        flight.upstream = upstream
        self._leases.pass_on(flight)
        # It may have come too late for the lot, and be for one who has joined.
        self._step_aside(wanted)

    def _busy(self, wanted: _Wanted, peer: Peer) -> None:
        """Leave the flight to those who have joined it, if there are any."""
        self._step_aside(wanted)
        if wanted.flight.waiters:
            self._fills.ask_for(wanted.flight, peer)
        else:
            self.core.flights.close(wanted.flight)

    def _step_aside(self, wanted: _Wanted) -> None:
        """Wait no more for what somebody else is at."""
        flight, party = wanted
        if self.core.flights.leave(flight, party) is not None:
            self._leases.tell_part(party, Busy())

    def _parted(self, wanted: _Wanted) -> list[tuple[_Asking | Fills, Waiter]]:
        """End a flight; return who waited in it, each with what can ask for it anew."""
        flight, party = wanted
        if self._is_over(flight):
            return []
        return [
            (self._asking if waiter.party == party else self._fills, waiter)
            for waiter in self.core.flights.close(flight)
        ]

    def _without_owner(self, wanted: _Wanted) -> None:
        if not self._is_over(wanted.flight):
            self._leases.pass_on(wanted.flight)
