"""One node as a machine: messages, operations and time in, effects out.

The driver feeds it and does what it returns; the simulator does the same with a clock
of its own. Nothing here reads a clock, opens a socket, starts a thread, runs a loader
or calls the application.

    receive   a message from a peer, with the route it came by
    request   an operation of this process, with a ticket for its outcome
    tick      time has come for something; `deadline` says when that is next
    join, seeds, leave, connection_lost, connection_made, proof_of_death
              what the edges find out

The parts share one `Core`. `Swim` says who is there. From that `Ranges` makes the
partition table and ends the tenures of what moved. `Reads` and `Writes` serve both the
application and the peers; `Fills` and `Lots` load for the one, `Lending` for the
others. Owners are asked through `Calls`. Within one input the message is acted on,
membership's changes are taken into the table, readers are told what moved, and only
then the effects go out, with the readers' notes ahead of the answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict
from mmap import mmap
from typing import Any, Final, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Abandon,
    Ack,
    Borrow,
    Cancel,
    Clear,
    Control,
    Data,
    Fetch,
    Fulfil,
    Invalidate,
    Load,
    Loaders,
    Message,
    Pending,
    Ping,
    Reason,
    Refused,
    Stranger,
    Survey,
    Untag,
    Write,
)
from meshcache.config import Config
from meshcache.engine.calls import Answer, Calls
from meshcache.engine.core import Core
from meshcache.engine.effects import Changed, Effect, Retabled
from meshcache.engine.fills import Fills
from meshcache.engine.forget import Forgets
from meshcache.engine.handover import Handover
from meshcache.engine.held import Addressed, HeldBack
from meshcache.engine.leases import Leases
from meshcache.engine.lending import Lending
from meshcache.engine.lots import Lots
from meshcache.engine.ops import (
    Asked,
    AskTables,
    ClearCache,
    Closed,
    Deliver,
    Drop,
    Forsake,
    GetKeys,
    InvalidateTags,
    LoadKey,
    LoadKeys,
    Moved,
    Note,
    Operation,
    Register,
    RunEnded,
    Ticket,
    WriteKeys,
    Wrote,
)
from meshcache.engine.owner import Owner
from meshcache.engine.peers import Peer, Peers
from meshcache.engine.ranges import Lanes, Look, Ranges, no_lane
from meshcache.engine.readers import BEAT, SILENCE, Readers
from meshcache.engine.reads import Reads
from meshcache.engine.surveys import Surveys
from meshcache.engine.writes import Writes
from meshcache.fill.flight import Flights
from meshcache.hashing import partition_of
from meshcache.membership.effects import Effect as SwimEffect
from meshcache.membership.machine import Swim
from meshcache.membership.settings import Settings
from meshcache.model import Member, NodeId, State
from meshcache.placement.placement import Placement
from meshcache.store.arena import Arena, private
from meshcache.store.layout import Layout

__all__ = ["Engine"]

ANNOUNCE_DELAY: Final = 0.3
"""Seconds until a newcomer is told of our loaders: it must know us by then."""

ANNOUNCE_INTERVAL: Final = 10.0
"""Seconds between two announcements of our loaders to everybody."""

ARRIVAL: Final = 1.0
"""Seconds for which a node that leaves awaits the entries on their way to it."""


@final
class Engine:
    """The machine described above. Confined to the driver thread.

    Seven things are for any thread, since they change by assignment or are themselves
    safe: `store.get`, `owner.direct`, `ranges.table`, `ranges.tenures`,
    `ranges.sibling`, `is_loading` and `stats()`.

    Args:
        me: this node as its peers shall see it; its addresses are already bound.
        config: the settings; every bound of the engine is in there.
        rng: the only source of randomness.
        now: the time, in monotonic seconds.
        wall_offset_ns: wall time less monotonic time, for the versions of writes.
        memory: where this node's arena is to lie; None for memory of its own.
        host: what names this host among others, as the arenas of its nodes have it.
        open_lane: opens the arena of a member of the same host.
        look: opens those of this host's arenas that are new, whoever's they are.
        expecting: whether others are looked for. If so this node opens its range only
            when discovery has found somebody or nobody.
        alone: a placement of this node only, if nobody else ever comes.
    """

    def __init__(  # noqa: PLR0913 - what names the host has defaults
        self,
        me: Member,
        config: Config,
        rng: random.Random,
        now: float,
        wall_offset_ns: int = 0,
        *,
        memory: mmap | None = None,
        host: int = 0,
        open_lane: Lanes = no_lane,
        look: Look = tuple,
        expecting: bool = False,
        alone: Placement | None = None,
    ) -> None:
        store = _arena(me, config, memory, host)
        peers = Peers()
        first_id = rng.getrandbits(48) + 1
        flights = Flights(config.max_flights, config.max_waiters, first_id)
        owner = Owner(store, flights, wall_offset_ns)
        handover = Handover(store, owner, config.request_timeout / 2)
        readers = Readers(me)
        ranges = Ranges(
            me, store, peers, readers, handover, open_lane=open_lane, look=look
        )
        core = Core(
            me=me,
            config=config,
            rng=rng,
            store=store,
            owner=owner,
            handover=handover,
            peers=peers,
            ranges=ranges,
            flights=flights,
            readers=readers,
            now=now,
        )
        self._core = core
        self._calls = Calls(core, self._doubt)
        self._reads = Reads(core, self._calls)
        self._writes = Writes(core, self._calls)
        self._forgets = Forgets(core, self._calls, self._reclaim)
        self._leases = Leases(core, self._calls)
        self._lending = Lending(core, self._leases)
        self._fills = Fills(core, self._calls, self._leases)
        self._lots = Lots(core, self._calls, self._leases, self._fills)
        self._surveys = Surveys(core, self._calls)
        self._loaders = Register(())
        self._settling = False
        self._leave_by: float | None = None
        self._held = HeldBack(
            core, self._receive_addressed, self._operate, self._reclaim
        )
        self.swim = Swim(me, Settings.of(config), rng)
        self.store = store
        self.owner = owner
        self.ranges = ranges
        if expecting:
            ranges.expect(now)
        ranges.update([me], now) if alone is None else ranges.own_all(alone)
        self._settle_soon()
        core.agenda.at(now + BEAT, self._beat)
        core.agenda.at(now + ANNOUNCE_INTERVAL, self._announce)

    @property
    def readers(self) -> int:
        """How many peers must be told of writes."""
        return len(self._core.readers)

    def is_loading(self, key: bytes) -> bool:
        """Whether somebody here waits for a load of *key* that others may join."""
        return self._core.flights.is_flying(key)

    @property
    def settled(self) -> bool:
        """Whether this node's range is open and all entries have arrived."""
        return self._core.handover.settled

    @property
    def me(self) -> Member:
        """This node as membership knows it."""
        return self.swim.me

    # --- inputs ------------------------------------------------------------------

    def join(self, seeds: Iterable[str], now: float) -> list[Effect]:
        """Begin: look for the cluster at the control addresses *seeds*."""
        self._core.now = now
        self._take(self.swim.join(seeds, now))
        return self._out()

    def seeds(self, addresses: Iterable[str], now: float) -> list[Effect]:
        """Take discovery's latest addresses in place of those before."""
        known = tuple(addresses)
        self._core.now = now
        self._core.ranges.discovered(nobody=not known)
        self._take(self.swim.seeds(known, now))
        return self._out()

    def receive(self, message: Message, route: Route, now: float) -> list[Effect]:
        """Take one message of a peer."""
        self._core.now = now
        if type(message) is Write:  # in a hurry: its sender waits for nothing else
            self._receive_addressed(message, route)
        elif isinstance(message, Control):
            self._receive_control(message, route)
        elif not isinstance(message, Stranger):
            self._receive_data(message, route)
        return self._out()

    def request(self, ticket: Ticket, op: Operation, now: float) -> list[Effect]:
        """Take one operation of this process; see `ops` for what comes back."""
        self._core.now = now
        if self._core.leaving:
            if isinstance(op, Asked):
                self._core.complete(ticket, Closed())
        else:
            self._operate(ticket, op)
        return self._out()

    def remind(self, when: float, action: Callable[[float], None]) -> list[Effect]:
        """Have *action* called when that time has come."""
        self._core.agenda.at(when, action)
        return []

    def tick(self, now: float) -> list[Effect]:
        """Do everything that is due."""
        core = self._core
        core.now = now
        for action in core.agenda.due(now):
            action(now)
        due = self.swim.deadline()
        if due is not None and due <= now:
            self._take(self.swim.tick(now))
        return self._out()

    def deadline(self) -> float | None:
        """Return when `tick` is wanted next, in monotonic seconds."""
        dues = (self._core.agenda.next(), self.swim.deadline())
        return min((due for due in dues if due is not None), default=None)

    def leave(self, now: float) -> list[Effect]:
        """Say farewell and end all that waits. `left` tells when it has been said.

        To be called again and again until then: entries on their way here are awaited
        first, since our heirs look for them here.
        """
        core = self._core
        core.now = now
        if self._leave_by is None:
            self._leave_by = now + ARRIVAL
        if not core.leaving and (not core.handover.arriving or now >= self._leave_by):
            core.leaving = True
            self._held.close()
            self._reads.coalescer.close()
            with core.store.lock:
                core.store.seal_all(now)
            self._leases.close()
            for peer in core.peers:
                self._calls.lose(peer)
            self._take(self.swim.leave(now))
        return self._out()

    @property
    def left(self) -> bool:
        """Whether the farewell has been said as often as it will be."""
        return self._core.leaving and self.swim.left

    def connection_lost(self, address: str, now: float) -> list[Effect]:
        """Hear that a connection was refused or broke. A probe decides what it means.

        Until then nothing is asked of that peer, what it was asked is done without
        it, and nothing read from it is trusted: its notes may be lost.
        """
        core = self._core
        core.now = now
        peer = core.peers.at(address)
        if peer is not None:
            peer.avoided = True
            self._gone(peer)
        if peer is not None and address != peer.member.address:
            # On the data plane a heartbeat may have waited behind a big value.
            self._doubt(peer)
        else:
            self._take(self.swim.connection_lost(address, now))
        return self._out()

    def connection_made(self, address: str, now: float) -> list[Effect]:
        """Hear that a process has answered to a new connection."""
        self._core.now = now
        self._take(self.swim.connection_made(address, now))
        return self._out()

    def silent(self, member: Member, now: float) -> list[Effect]:
        """Hear that *member* was asked by another way, and did not answer in time."""
        core = self._core
        core.now = now
        peer = core.peers.get(member.node_id)
        if peer is not None and peer.member.epoch == member.epoch:
            self._calls.silent(peer)
        return self._out()

    def route_lost(self, route: Route) -> None:
        """Hear that nobody is at the other end of *route* any more."""
        self._core.readers.drop(route)

    def proof_of_death(self, node_id: NodeId, epoch: int, now: float) -> list[Effect]:
        """Hear from the host itself that a process is no more."""
        self._core.now = now
        self._take(self.swim.proof_of_death(node_id, epoch, now))
        return self._out()

    # --- messages ----------------------------------------------------------------

    def _receive_control(self, message: Control, route: Route) -> None:
        if isinstance(message, Ack | Ping):
            peer = self._core.peers.get(message.sender.node_id)
            if peer is not None and peer.avoided:
                # It lives, but that was the other plane: whether it answers requests
                # is for a request to find out, and not for somebody's read.
                self._surveys.try_again(peer)
        self._take(self.swim.receive(message, route, self._core.now))

    def _receive_data(self, message: Data, route: Route) -> None:
        if isinstance(message, Answer):
            self._calls.answer(message, route)
            return
        match message:
            case Pending():
                self._calls.pending(message)
            case Cancel():
                self._lending.cancel(route, message)
            case Invalidate():
                self._invalidate(message)
            case Loaders():
                self._core.peers.note_loaders(message)
            case _:
                self._receive_addressed(message, route)

    def _receive_addressed(self, message: Addressed, route: Route) -> None:
        """Take what is meant for this very process, not for one before it."""
        core = self._core
        if message.epoch != core.me.epoch or core.leaving:
            core.counters.wrong_epoch += message.epoch != core.me.epoch
            reason = Reason.LEAVING if core.leaving else Reason.WRONG_EPOCH
            if not isinstance(message, Fulfil | Abandon):
                core.reply(route, Refused(message.rid, reason))
            return
        if not self._held.request(message, route):
            self._serve(message, route)

    def _serve(self, message: Addressed, route: Route) -> None:
        match message:
            case Fetch():
                self._reads.serve(route, message)
            case Load():
                self._lending.serve(route, message)
            case Borrow():
                self._lending.serve_lot(route, message)
            case Write():
                self._writes.serve(route, message)
            case Clear() | Untag():
                self._forgets.serve(route, message)
            case Survey():
                self._surveys.serve(route, message)
            case Fulfil():
                self._lending.fulfil(message)
            case Abandon():
                self._lending.abandon(route, message)

    def _invalidate(self, message: Invalidate) -> None:
        core = self._core
        peer = core.peers.get(NodeId(message.sender))
        if peer is None or peer.member.epoch != message.sender_epoch:
            return
        core.counters.invalidations_received += 1
        if not peer.invalidate(message, core.now):
            core.counters.invalidation_gaps += 1

    # --- operations --------------------------------------------------------------

    def _operate(self, ticket: Ticket, op: Operation) -> None:
        if self._held.operation(ticket, op):
            return
        match op:
            case GetKeys():
                self._reads.get(ticket, op)
            case LoadKey():
                self._fills.ask(ticket, op)
            case LoadKeys():
                self._lots.ask(ticket, op)
            case WriteKeys():
                self._writes.write(ticket, op)
            case ClearCache() | InvalidateTags():
                self._forgets.ask(ticket, op)
            case AskTables():
                self._surveys.ask(ticket)
            case _:
                self._take_note(op)

    def _take_note(self, op: Note) -> None:
        match op:
            case Moved(bucket):
                self._core.readers.moved(bucket)
            case Wrote(key):
                self._core.flights.detach_key(key)
            case Deliver():
                self._fills.deliver(op)
            case Drop():
                self._fills.drop(op)
            case Forsake(forsaken):
                self._held.forsake(forsaken)
                self._reads.coalescer.forsake(forsaken)
                self._fills.forsake(forsaken)
            case RunEnded():
                self._lending.run_ended(op)
            case Register():
                self._register(op)

    def _register(self, op: Register) -> None:
        self._loaders = op
        self._lending.register(op)
        for peer in self._core.peers:
            self._tell_loaders(peer)

    # --- membership --------------------------------------------------------------

    def _take(self, effects: list[SwimEffect]) -> None:
        """Pass membership's effects on, and follow what has changed."""
        core = self._core
        changed = [e for e in effects if isinstance(e, Changed)]
        core.out.extend(effects)
        for change in changed:
            self._follow(change.member)
        if not changed:
            return
        old = core.ranges.table
        moved = core.ranges.update(self.swim.members(), core.now)
        for change in changed:
            if change.member.state >= State.DEAD:
                core.ranges.part(change.member.node_id, core.now)
        self._settle_soon()
        if core.ranges.table is not old:
            self._detach(moved)
            core.out.append(Retabled(core.ranges.table, len(moved)))

    def _follow(self, member: Member) -> None:
        core = self._core
        if member.node_id == core.me.node_id:
            core.me = member
            return
        known = core.peers.get(member.node_id)
        if member.state <= State.SUSPECT:
            peer = core.peers.learn(member)
            if known is not peer:
                if known is not None:
                    self._gone(known)  # another process has taken its place
                core.ranges.meet(member, core.now)
                self._greet(peer)
        elif known is not None and known.member.epoch <= member.epoch:
            self._gone(known)
            core.peers.drop(member)

    def _settle_soon(self) -> None:
        if not self._settling and not self._core.handover.settled:
            self._settling = True
            self._core.agenda.at(self._core.now, self._settle)

    def _settle(self, now: float) -> None:
        handover = self._core.handover
        self._settling = False
        self._detach(self._core.ranges.settle(now))
        self._settling = not handover.settled
        if self._settling:
            self._core.agenda.at(now + handover.pause, self._settle)

    def _reclaim(self) -> None:
        self._detach(self._core.ranges.reclaim(self._core.now))
        self._settle_soon()

    def _detach(self, partitions: list[int]) -> None:
        """Join no more of the loads that began while another took the writes."""
        if gone := set(partitions):
            self._core.flights.detach_if(lambda f: partition_of(f.hashed) in gone)

    def _greet(self, peer: Peer) -> None:
        when = self._core.now + ANNOUNCE_DELAY
        self._core.agenda.at(when, lambda _now: self._tell_loaders(peer))

    def _gone(self, peer: Peer) -> None:
        """Do without a peer: its answers, its leases, its notes."""
        peer.forget()
        self._calls.lose(peer)
        self._leases.peer_gone(peer.member.node_id)

    def _doubt(self, peer: Peer) -> None:
        """A peer was silent: have membership probe it now."""
        self._take(self.swim.doubt(peer.member.address, self._core.now))

    # --- beats -------------------------------------------------------------------

    def _tell_loaders(self, peer: Peer) -> None:
        if self._loaders.loaders and self._core.peers.get(peer.member.node_id) is peer:
            me = self._core.me
            note = Loaders(me.node_id, me.epoch, self._loaders.loaders)
            self._core.send(peer, note)

    def _announce(self, now: float) -> None:
        for peer in self._core.peers:
            self._tell_loaders(peer)
        self._core.agenda.at(now + ANNOUNCE_INTERVAL, self._announce)

    def _beat(self, now: float) -> None:
        core = self._core
        core.out.extend(core.readers.beat(now))
        for peer in core.peers:
            # The next look is a beat away: what is too old by then is so now.
            if peer.followed and now + BEAT - peer.heard > SILENCE:
                peer.followed = False
                peer.generations.bump_all()
        self._reclaim()
        core.agenda.at(now + BEAT, self._beat)

    # --- outputs -----------------------------------------------------------------

    def _out(self) -> list[Effect]:
        core = self._core
        notes = list(core.readers.flush())
        core.counters.invalidations_sent += len(notes)
        effects, core.out = core.out, []
        return [*notes, *effects] if notes else effects

    def members(self) -> tuple[Member, ...]:
        """Return everyone this node knows of, itself included, in whatever state."""
        return self.swim.members()

    def stats(self) -> dict[str, Any]:
        """Return what the engine and its parts have counted."""
        core = self._core
        return {
            "store": self.store.stats(),
            "membership": self.swim.counters.as_dict(),
            "engine": {
                **core.counters.as_dict(),
                "flights_open": len(core.flights),
                "waiting": core.flights.waiting,
                "calls_open": len(self._calls),
                "readers": len(core.readers),
                "running": self._lending.running,
            },
            "handover": asdict(core.handover.counts),
        }


def _arena(me: Member, config: Config, memory: mmap | None, host: int) -> Arena:
    return Arena(
        private(config.max_bytes) if memory is None else memory,
        Layout.for_bytes(config.max_bytes),
        node_id=me.node_id,
        epoch=me.epoch,
        host=host,
        max_value_bytes=config.max_value_bytes,
    )
