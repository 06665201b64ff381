"""Loading many keys at once, without waiting for anybody's load.

Of each key the caller gets the value, or the lease to load it, or is told that
somebody else is at it. The keys of others go as one `Borrow` to each owner.

Each key has a flight of its own from the start, in which the lot takes part like any
caller. So whoever asks here for one of those keys meanwhile joins, and is served with
what the owner answers: the value, the lease once the lot lets go of it or brings the
value, or the owner's own word if somebody else is at it.
"""

from __future__ import annotations

from typing import NamedTuple, final

from meshcache.codec.messages import Borrow, Lent, Loan, Status
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.fills import Fills, recursive
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


class _Key(NamedTuple):
    """A key of a lot, its hash, and the version that its value has to be newer than."""

    key: bytes
    hashed: int
    than: int


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
        wanted: list[tuple[_Wanted, int]] = []
        thans = op.thans or (0,) * len(op.keys)
        pairs = zip(op.keys, thans, strict=True)
        for part, ((key, hashed), than) in enumerate(pairs, 1):
            party = Local(ticket, part)
            # As with one key: nobody writes it between the look and the flight.
            with self.core.store.lock:
                flight = self._begin(party, _Key(key, hashed, than), op)
            if flight is not None:
                wanted.append((_Wanted(flight, party), hashed))
        _Borrowing(self, op, wanted).start()

    def _begin(self, party: Local, wanted: _Key, op: LoadKeys) -> Flight | None:
        """Tell what can be told of a key at once, or open the flight to ask with."""
        core, leases = self.core, self.leases
        key, hashed, than = wanted
        stamp = core.ranges.stamp(hashed)
        entry = core.find(key, hashed)
        if entry is not None and entry.version > than:
            value, version, expires = entry
            leases.tell(party, Got(value, expires, version, Tier.HOST, stamp))
        elif hashed in op.chain:
            leases.tell(party, recursive(key))
        elif leases.joinable(key, hashed, than) is not None:
            leases.tell_part(party, Busy())
        else:
            return self._open(party, wanted, op)
        return None

    def _open(self, party: Local, wanted: _Key, op: LoadKeys) -> Flight | None:
        core, leases = self.core, self.leases
        key, hashed, than = wanted
        flight = leases.open(key, hashed, op.tags, than)
        if flight is None:
            leases.lease_alone(party)
            return None
        lot = party._replace(part=0)
        waiter = Waiter(party, core.now, core.now + op.timeout, lot=lot)
        peer = core.peer_of(hashed)
        if peer is None or not peer.usable:
            leases.grant(flight, waiter)
        elif not core.flights.join(flight, waiter):
            core.flights.close(flight)
            leases.lease_alone(party)
        else:
            return flight
        return None


@final
class _Borrowing(Scatter[_Wanted, Loan, None]):
    """The asking of the owners. What comes of it is told through the flights."""

    def __init__(
        self, lots: Lots, op: LoadKeys, wanted: list[tuple[_Wanted, int]]
    ) -> None:
        super().__init__(lots.core, lots.calls, wanted, lambda _told: None)
        self._leases = lots.leases
        self._fills = lots.fills
        self._op = op

    def own(self, item: _Wanted, hashed: int) -> None:
        self._without_owner(item)

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
                self._leased(flight, Upstream(peer, token))
            case Loan(Status.HIT, value, ttl_ms, version):
                self.core.observe(version)
                brought = Brought(value, ttl_ms, version, Tier.PEER)
                self._leases.finish(flight, brought)
            case Loan(Status.BUSY):
                self._busy(wanted, peer)
            case _:
                self._without_owner(wanted)

    def lost(self, item: _Wanted, peer: Peer | None, why: Loss) -> None:
        self._without_owner(item)

    # --- what becomes of one key -------------------------------------------------

    def _is_over(self, flight: Flight) -> bool:
        """Whether nobody waits for a flight any more."""
        return self.core.flights.get(flight.id) is not flight

    def _leased(self, flight: Flight, upstream: Upstream) -> None:
        if self._is_over(flight):
            self._leases.give_back(upstream, None)
            return
        flight.upstream = upstream
        self._leases.pass_on(flight)

    def _busy(self, wanted: _Wanted, peer: Peer) -> None:
        """Leave the flight to those who have joined it, if there are any."""
        flight, party = wanted
        flights, now = self.core.flights, self.core.now
        if flights.leave(flight, party) is not None:
            self._leases.tell_part(party, Busy())
        waiters = flight.waiters.values()
        if not waiters:
            flights.close(flight)
            return
        timeout = max(waiter.deadline for waiter in waiters) - now
        key, hashed, than, tags = flight.key, flight.hashed, flight.than, flight.tags
        op = LoadKey(key, hashed, "", 0, b"", (), timeout, than, tags)
        self._fills.ask_owner(flight, op, peer)

    def _without_owner(self, wanted: _Wanted) -> None:
        if not self._is_over(wanted.flight):
            self._leases.pass_on(wanted.flight)
