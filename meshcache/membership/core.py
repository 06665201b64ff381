"""What the parts of the membership machine share: the members, the news, the outbox."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, final

from meshcache.clock import NEVER
from meshcache.codec.mail import Reply, Route, Send
from meshcache.codec.messages import Accusation, Ack, Ping
from meshcache.membership.awareness import Awareness
from meshcache.membership.broadcast import Broadcasts
from meshcache.membership.counters import Counters
from meshcache.membership.effects import Effect
from meshcache.membership.roster import Roster
from meshcache.membership.settings import Settings
from meshcache.model import Member, NodeId, State

__all__ = ["Core"]

MAX_CONTACTS: Final = 256


@final
@dataclass(slots=True, eq=False)
class Core:
    """The state that the parts work on. Confined to the driver thread.

    `now` is the time of the input in hand; `out` gathers its effects. `contested` are
    addresses that several members claim, and that somebody must ask about.
    """

    settings: Settings
    rng: random.Random
    roster: Roster
    awareness: Awareness
    broadcasts: Broadcasts = field(default_factory=Broadcasts)
    counters: Counters = field(default_factory=Counters)
    now: float = 0.0
    out: list[Effect] = field(default_factory=list)
    contested: list[str] = field(default_factory=list)
    contacts: dict[int, str] = field(default_factory=dict)
    gossip_at: float = NEVER
    gossiped_at: float = -NEVER
    seq: int = 0

    @property
    def live_count(self) -> int:
        """How many members are alive or suspect, this node among them."""
        return self.roster.live_count + 1

    @property
    def retransmit_limit(self) -> int:
        """How often each piece of news is sent."""
        return self.settings.retransmit_limit(self.live_count)

    def next_seq(self) -> int:
        """Return a number for a message that will be answered."""
        self.seq += 1
        return self.seq

    def tell(self, member: Member) -> None:
        """Queue the newest word on a member for everybody."""
        self.broadcasts.put(member)
        self.wake_gossip()

    def tell_accuser(self, accusation: Accusation) -> None:
        """Queue the name of an accuser for everybody."""
        self.broadcasts.accuse(accusation)
        self.wake_gossip()

    def wake_gossip(self) -> None:
        """Plan the next round of gossip, if none is planned."""
        if self.gossip_at == NEVER:
            next_round = self.gossiped_at + self.settings.gossip_interval
            self.gossip_at = max(self.now, next_round)

    def news(self, first: tuple[Member, ...] = ()) -> tuple[Member, ...]:
        """Return what a message carries: *first*, and the least-sent news."""
        if not self.broadcasts:
            return first
        room = self.settings.max_updates - len(first)
        news = self.broadcasts.draw(room, self.retransmit_limit)
        self.counters.updates_sent += len(news)
        if not first:
            return tuple(news)
        return first + tuple(member for member in news if member not in first)

    def speaks_ill_of(self, member: Member) -> bool:
        """Whether a message to *member* has to say what is thought of it."""
        return member.state > State.ALIVE and self.settings.buddy

    def ping(self, member: Member, seq: int) -> None:
        """Ping a member; one that is ill thought of is told so, and can object."""
        ill = (member,) if self.speaks_ill_of(member) else ()
        self.send_ping(
            member.address, seq, member.node_id, member.epoch, self.news(ill)
        )

    def send_ping(
        self,
        address: str,
        seq: int,
        target: bytes,
        epoch: int,
        news: tuple[Member, ...],
    ) -> None:
        """Ping the process meant, or whoever lives there if *target* is empty."""
        roster = self.roster
        ping = Ping(seq, roster.me, target, epoch, roster.checksum, news)
        self.out.append(Send(address, ping))

    def acknowledge(
        self, route: Route, seq: int, subject: NodeId, news: tuple[Member, ...]
    ) -> None:
        """Say along *route* that *subject* is alive."""
        roster = self.roster
        ack = Ack(seq, roster.me, subject, roster.checksum, news)
        self.out.append(Reply(route, ack))

    def expect_answer(self, address: str) -> int:
        """Return a number by which an answer proves that its sender lives there."""
        if len(self.contacts) >= MAX_CONTACTS:
            del self.contacts[next(iter(self.contacts))]
        seq = self.next_seq()
        self.contacts[seq] = address
        return seq
