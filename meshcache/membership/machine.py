"""One node's part in membership: SWIM with Lifeguard, as a pure machine.

Inputs are `join`, `seeds`, `receive`, `tick`, `leave`, `doubt`, `connection_lost`,
`connection_made`, `proof_of_death` and `announce`; each returns the effects it calls
for. Time and randomness are arguments. `deadline` says when `tick` has something to do.

Finding out who died. In each period one member, in a shuffled order, is pinged. No
answer in `probe_timeout`: k helpers ping it too. No answer by the end of the period:
it is SUSPECT, and DEAD unless it objects in time; the more independent accusers, the
less time. A lost connection starts such a probe at once, out of turn, and is never a
verdict by itself. Only proof of death is: the process is known to be gone. But a lost
connection is stronger evidence than a lost answer, and a suspicion that others have
confirmed ends sooner on it (`suspicion_unlinked`): heartbeats are answered by a thread
that a busy interpreter does not stop.

Finding out who is slow. Missing answers, accusations of this node and late ticks all
say that this node may be the slow one: its health score stretches its own time-outs. A
tick that comes late accuses nobody and re-arms what ran out meanwhile, since the
answers may still be in the queue. A ping to a suspect carries the suspicion, so that it
can object in one round trip, by raising its incarnation.

Telling everybody. News ride on pings and acks, and on gossip to a few members every
`gossip_interval` while there are any. Every message carries its sender's own record;
that is how a joiner gets known. Whoever believes something worse of a member than that
member or a third party says, says so: the accused cannot object to what it never hears.

Agreeing in the end. Acks carry a checksum of who lives; a difference leads to an
exchange of whole lists (push/pull), at most every second and less often while it does
not help, and one member is chosen for it every `push_pull_interval` anyway. DEAD in a
list is hearsay and taken as SUSPECT if we know better; in gossip it is the verdict of
somebody who waited, and believed. The dead and the seeds are tried again for ever, so a
healed partition merges.

Addresses are reused. A ping names the process it is meant for and others drop it. When
two members claim one address, it is asked who lives there; only a process that answers
there, and is newer, makes the older one DEAD, and only once: if that one objects, two
hosts advertise the same address and probing has to decide.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final, final

from meshcache.clock import NEVER
from meshcache.codec.mail import Reply, Route, Send
from meshcache.codec.messages import (
    Ack,
    Control,
    Gossip,
    Nack,
    Ping,
    PingReq,
    PushPull,
)
from meshcache.membership.awareness import Awareness
from meshcache.membership.belief import INCARNATION_MAX, Belief
from meshcache.membership.core import Core
from meshcache.membership.counters import Counters
from meshcache.membership.detector import Detector
from meshcache.membership.effects import Changed, Effect
from meshcache.membership.roster import Record, Roster
from meshcache.membership.seeds import Seeds
from meshcache.membership.settings import Settings
from meshcache.model import Member, NodeId, State

__all__ = ["Swim"]

FAREWELLS: Final = 3
"""Rounds in which a leaving node says so; each reaches `gossip_fanout` members."""

_SYNC_DELAY: Final = 1.0
_CHUNK_MEMBERS: Final = 200
_CHUNK_BYTES: Final = 48 * 1024
_MEMBER_BYTES: Final = 48
"""What a member takes on the wire besides its three strings."""

_MEMBER_MAX: Final = 640
"""So that as many as `Settings.max_updates` allows still fit a control frame."""


@final
class Swim:
    """The membership machine of one node. Confined to the driver thread."""

    __slots__ = (
        "_belief",
        "_core",
        "_detector",
        "_farewell_at",
        "_farewells",
        "_farewells_left",
        "_push_pull_at",
        "_reconnect_at",
        "_running",
        "_seeds",
        "_sync_at",
        "_sync_delay",
        "_synced",
        "settings",
    )

    def __init__(self, me: Member, settings: Settings, rng: random.Random) -> None:
        assert me.state is State.ALIVE
        assert _size(me) <= _MEMBER_MAX
        self.settings = settings
        self._core = Core(
            settings,
            rng,
            Roster(me, settings.max_members),
            Awareness(settings.max_health),
            seq=rng.getrandbits(48),
        )
        self._belief = Belief(self._core)
        self._detector = Detector(self._core, self._belief)
        self._seeds = Seeds(settings.seed_interval, rng)
        self._running = False
        self._synced = False
        self._sync_at = -NEVER
        self._sync_delay = _SYNC_DELAY
        self._push_pull_at = self._reconnect_at = self._farewell_at = NEVER
        self._farewells: list[str] = []
        self._farewells_left = FAREWELLS

    # --- what it knows ----------------------------------------------------------

    @property
    def me(self) -> Member:
        """This node's own record."""
        return self._core.roster.me

    @property
    def counters(self) -> Counters:
        """What has happened, in numbers."""
        return self._core.counters

    @property
    def checksum(self) -> int:
        """A number that is equal on nodes which agree on who lives."""
        return self._core.roster.checksum

    @property
    def health(self) -> int:
        """0 when this node is well; higher, up to `max_health`, when it is slow."""
        return self._core.awareness.score

    @property
    def queued(self) -> int:
        """How many pieces of news wait to be sent."""
        return len(self._core.broadcasts)

    @property
    def left(self) -> bool:
        """Whether the farewell has been said and the node may close."""
        return self.me.state is State.LEFT and not self._running

    def members(self) -> tuple[Member, ...]:
        """Return all members: this node, the suspects, the dead and the departed.

        The same tuple until something changes.
        """
        return self._core.roster.members()

    def member(self, node_id: NodeId) -> Member | None:
        """Return a member by its id, if it is known."""
        record = self._core.roster.get(node_id)
        return record.member if record else None

    # --- inputs -----------------------------------------------------------------

    def join(self, seeds: Iterable[str], now: float) -> list[Effect]:
        """Start to take part, and ask the seeds who is there."""
        assert not self._running
        if self.me.state is State.LEFT:
            return []
        self._running = True
        core, settings, uniform = self._core, self.settings, self._core.rng.uniform
        core.now = now
        self._detector.round_at = now + uniform(0, settings.probe_interval)
        self._push_pull_at = now + settings.push_pull_interval * uniform(0.5, 1.5)
        self._reconnect_at = now + settings.reconnect_interval * uniform(0.9, 1.1)
        self._belief.say_of_myself(self.me)
        core.out.append(Changed(self.me, None))
        self._replace_seeds(seeds)
        return self._effects()

    def seeds(self, addresses: Iterable[str], now: float) -> list[Effect]:
        """Take *addresses* for the seeds from now on; ask the new ones at once."""
        if self._takes_part(now):
            self._replace_seeds(addresses)
        return self._effects()

    def receive(self, message: Control, route: Route, now: float) -> list[Effect]:
        """Take in a message that came along *route*."""
        self._core.now = now
        sender = message.sender
        if self._running and sender.node_id == self.me.node_id:
            self._hear_myself(message, route)
        elif self._running and sender.state in (State.ALIVE, State.LEFT):
            self._belief.learn(sender)
            self._belief.restore_link(sender.node_id, sender.epoch)
            self._dispatch(message, route)
        return self._effects()

    def tick(self, now: float) -> list[Effect]:
        """Do all that is due."""
        self._core.now = now
        due = self.deadline()
        if due is None or now < due:
            return []
        if self.me.state is State.LEFT:
            self._say_farewell()
            return self._effects()
        if now - due > self.settings.late_after:
            self._distrust_myself()
        self._detector.tick()
        self._belief.bury_suspects()
        self._contact_seeds()
        self._begin_push_pull()
        self._reconnect()
        self._gossip()
        return self._effects()

    def deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        if not self._running:
            return None
        if self.me.state is State.LEFT:
            return self._farewell_at
        soonest = min(
            self._detector.deadline(),
            self._core.gossip_at,
            self._push_pull_at,
            self._reconnect_at,
        )
        for other in (self._belief.deadline(), self._seeds.deadline()):
            if other is not None and other < soonest:
                soonest = other
        return soonest

    def leave(self, now: float) -> list[Effect]:
        """Say farewell. `left` turns true when it has been said often enough.

        A node that has not joined has nobody to say it to, and is never to join.
        """
        if not self._running:
            self._core.roster.put(self.me._replace(state=State.LEFT), now)
        elif self._takes_part(now):
            core = self._core
            core.roster.put(self.me._replace(state=State.LEFT), now)
            core.out.append(Changed(self.me, State.ALIVE))
            self._farewells = [member.address for member in core.roster.live()]
            core.rng.shuffle(self._farewells)
            self._say_farewell()
        return self._effects()

    def doubt(self, address: str, now: float) -> list[Effect]:
        """Take note that whoever lives at *address* let something go unanswered."""
        if self._takes_part(now):
            for record in self._living_at(address):
                self._detector.doubt(record.member)
        return self._effects()

    def connection_lost(self, address: str, now: float) -> list[Effect]:
        """Take note that the connection to *address* was refused or broke."""
        if self._takes_part(now):
            for record in self._living_at(address):
                self._belief.lose_link(record)
                self._detector.doubt_unlinked(record.member)
        return self._effects()

    def connection_made(self, address: str, now: float) -> list[Effect]:
        """Take note that there is a connection to *address*, and a process behind it.

        Not one that the kernel alone has accepted: it does that for a stopped process.
        """
        if self._takes_part(now):
            for record in self._living_at(address):
                member = record.member
                self._belief.restore_link(member.node_id, member.epoch)
        return self._effects()

    def proof_of_death(self, node_id: NodeId, epoch: int, now: float) -> list[Effect]:
        """Take note that this process is known to be gone."""
        if self._takes_part(now) and node_id != self.me.node_id:
            self._belief.prove_dead(node_id, epoch)
        return self._effects()

    def announce(self, me: Member, now: float) -> list[Effect]:
        """Tell everybody that this node's addresses, host or weight have changed."""
        assert me[:2] == self.me[:2]
        assert _size(me) <= _MEMBER_MAX
        if self._takes_part(now):
            raised = min(self.me.incarnation + 1, INCARNATION_MAX)
            self._belief.say_of_myself(
                me._replace(incarnation=raised, state=State.ALIVE)
            )
            self._core.out.append(Changed(self.me, State.ALIVE))
        return self._effects()

    # --- messages ---------------------------------------------------------------

    def _dispatch(self, message: Control, route: Route) -> None:
        match message:
            case Ping():
                self._learn_all(message.updates)
                self._on_ping(message, route)
            case Ack():
                self._learn_all(message.updates)
                self._on_ack(message)
            case PingReq():
                self._learn_all(message.updates)
                self._answer_ill_thought(message.sender, route)
                self._on_ping_req(message, route)
            case Nack():
                self._learn_all(message.updates)
                self._detector.nacked(message)
            case Gossip():
                self._learn_all(message.updates)
                for accusation in message.accusations:
                    self._belief.confirm(accusation)
                self._answer_ill_thought(message.sender, route)
            case PushPull():
                self._on_push_pull(message, route)

    def _hear_myself(self, message: Control, route: Route) -> None:
        """Answer a ping of our own: some seed is this very node."""
        core = self._core
        if isinstance(message, Ping):
            core.acknowledge(route, message.seq, self.me.node_id, ())
        elif isinstance(message, Ack) and message.seq in core.contacts:
            self._seeds.answered(core.contacts.pop(message.seq), core.now)

    def _on_ping(self, ping: Ping, route: Route) -> None:
        me, core = self.me, self._core
        if ping.target and (ping.target, ping.target_epoch) != (me.node_id, me.epoch):
            core.counters.misaddressed += 1
            return
        news = core.news(self._belief.ill_of(ping.sender))
        core.acknowledge(route, ping.seq, me.node_id, news)

    def _on_ack(self, ack: Ack) -> None:
        core = self._core
        contact = core.contacts.pop(ack.seq, None)
        if contact is not None and ack.subject == ack.sender.node_id:
            self._seeds.answered(contact, core.now)
            self._belief.lives_at(contact, ack.sender)
        self._detector.answered(ack)
        self._compare(ack, asked=contact is not None)

    def _on_ping_req(self, request: PingReq, route: Route) -> None:
        if request.target != self.me.node_id:
            self._detector.help(request, route)
        elif request.target_epoch == self.me.epoch:
            core = self._core
            core.acknowledge(route, request.seq, self.me.node_id, core.news())

    def _answer_ill_thought(self, sender: Member, route: Route) -> None:
        accusation = self._belief.ill_of(sender)
        if accusation:
            self._core.out.append(Reply(route, Gossip(self.me, accusation)))

    def _on_push_pull(self, message: PushPull, route: Route) -> None:
        for member in message.members:
            self._belief.learn(member, hearsay=True)
        if message.answer:
            for part in self._whole_list(answer=False):
                self._core.out.append(Reply(route, part))
        else:
            self._synced = True

    # --- what is due ------------------------------------------------------------

    def _distrust_myself(self) -> None:
        """Accuse nobody of what this node may have slept through."""
        core = self._core
        core.counters.late += 1
        core.awareness.worse()
        self._detector.distrust()
        grace = core.awareness.stretch(self.settings.probe_interval)
        self._belief.suspicions.postpone(core.now + grace)

    def _contact_seeds(self) -> None:
        core = self._core
        for address in self._seeds.due(core.now, alone=not core.roster.live()):
            core.counters.seed_contacts += 1
            self._ask(address)

    def _replace_seeds(self, addresses: Iterable[str]) -> None:
        own = self.me.address
        self._seeds.replace([a for a in addresses if a != own], self._core.now)
        self._contact_seeds()

    def _ask(self, address: str) -> None:
        """Ask whoever lives at *address* to say who it is."""
        core = self._core
        core.send_ping(address, core.expect_answer(address), b"", 0, core.news())

    def _begin_push_pull(self) -> None:
        core = self._core
        if core.now < self._push_pull_at:
            return
        every = self.settings.push_pull_every(core.live_count)
        self._push_pull_at = core.now + every
        alive = core.roster.alive()
        if alive:
            self._push_pull(core.rng.choice(alive).address)

    def _reconnect(self) -> None:
        """Try one of the dead again; in all, about one node does so each time."""
        core = self._core
        if core.now < self._reconnect_at:
            return
        interval = self.settings.reconnect_interval
        self._reconnect_at = core.now + interval * core.rng.uniform(0.9, 1.1)
        before = core.now - self.settings.forget_after
        observers = core.now - self.settings.forget_observers_after
        for node_id in core.roster.forget(before, max(before, observers)):
            core.broadcasts.drop(node_id)
            core.counters.forgotten += 1
        dead = core.roster.dead(since=-NEVER)
        if dead and core.rng.random() * core.live_count < len(dead):
            member = core.rng.choice(dead)
            core.counters.reconnects += 1
            core.ping(member, core.expect_answer(member.address))

    def _gossip(self) -> None:
        core, settings = self._core, self.settings
        if core.now < core.gossip_at:
            return
        core.gossiped_at = core.now
        live = core.roster.live()
        for member in core.rng.sample(live, min(settings.gossip_fanout, len(live))):
            if core.broadcasts:
                self._send_gossip(member)
        dead = core.roster.dead(since=core.now - settings.gossip_to_dead)
        if dead:
            member = core.rng.choice(dead)
            core.out.append(Send(member.address, Gossip(self.me, (member,))))
        waits = core.broadcasts and live
        core.gossip_at = core.now + settings.gossip_interval if waits else NEVER

    def _send_gossip(self, member: Member) -> None:
        core = self._core
        room = self.settings.max_updates // 2
        drawn = core.broadcasts.draw_accusations(room, core.retransmit_limit)
        ill = {member.node_id: member} if core.speaks_ill_of(member) else {}
        accusations = []
        for accusation in drawn:
            accused = self._belief.accused(accusation)
            if accused is not None:
                ill[accused.node_id] = accused
                accusations.append(accusation)
        gossip = Gossip(self.me, core.news(tuple(ill.values())), tuple(accusations))
        core.out.append(Send(member.address, gossip))

    def _say_farewell(self) -> None:
        """Tell the next few members that this node leaves, round after round."""
        if self._farewells_left == 0 or not self._farewells:
            self._running = False
            return
        core = self._core
        self._farewells_left -= 1
        fanout = self.settings.gossip_fanout
        told, later = self._farewells[:fanout], self._farewells[fanout:]
        self._farewells = later + told
        for address in told:
            core.out.append(Send(address, Gossip(self.me, core.news())))
        self._farewell_at = core.now + self.settings.gossip_interval

    # --- lists ------------------------------------------------------------------

    def _compare(self, ack: Ack, *, asked: bool) -> None:
        """Exchange lists with whoever sees other members alive than we do."""
        core = self._core
        if ack.checksum == self.checksum:
            self._sync_delay = _SYNC_DELAY
            self._synced = True
        elif asked or core.now >= self._sync_at:
            self._sync_at = core.now + self._sync_delay
            slowest = self.settings.push_pull_interval
            self._sync_delay = min(2 * self._sync_delay, slowest)
            core.counters.mismatches += 1
            self._push_pull(ack.sender.address)

    def _push_pull(self, address: str) -> None:
        core = self._core
        core.counters.push_pulls += 1
        core.out += [Send(address, part) for part in self._whole_list(answer=True)]

    def _whole_list(self, *, answer: bool) -> list[PushPull]:
        """Return the list of all others, in parts; the last one asks for an answer."""
        others = [member for member in self.members() if member is not self.me]
        parts = _in_parts(others)
        return [
            PushPull(
                self.me,
                answer=answer and part is parts[-1],
                joining=not self._synced,
                members=tuple(part),
            )
            for part in parts
        ]

    # --- small things -----------------------------------------------------------

    def _living_at(self, address: str) -> list[Record]:
        records = self._core.roster.at(address)
        return [r for r in records if r.live and r.member is not self.me]

    def _takes_part(self, now: float) -> bool:
        self._core.now = now
        return self._running and self.me.state is State.ALIVE

    def _learn_all(self, updates: tuple[Member, ...]) -> None:
        for member in updates:
            self._belief.learn(member)

    def _effects(self) -> list[Effect]:
        """Return the effects of the input, the questions it raised among them."""
        core = self._core
        for address in dict.fromkeys(core.contested):
            self._ask(address)
        core.contested.clear()
        effects, core.out = core.out, []
        return effects


def _in_parts(members: list[Member]) -> list[list[Member]]:
    """Return *members* in parts that fit a control frame; at least one part."""
    parts: list[list[Member]] = [[]]
    total = 0
    for member in members:
        size = _size(member)
        if total + size > _CHUNK_BYTES or len(parts[-1]) == _CHUNK_MEMBERS:
            parts.append([])
            total = 0
        total += size
        parts[-1].append(member)
    return parts


def _size(member: Member) -> int:
    """Return about how many bytes a member takes on the wire, rather more than less."""
    strings = member.address + member.data_address + member.host
    return _MEMBER_BYTES + len(strings.encode(errors="surrogatepass"))
