"""The other nodes as this one deals with them: whom to ask, whom to avoid.

Membership says who is in the cluster. A `Peer` adds what this node has seen of it
lately: whether it answers, what it can load, and how far its invalidations were
followed. A peer that let a request time out is *avoided*: nothing is asked of it until
it answers one, so that its silence costs one time-out and not one per read. The engine
tries it again by itself whenever membership hears of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import final

from meshcache.codec.messages import Invalidate, Loaders
from meshcache.model import Member, NodeId, State
from meshcache.store.generations import Generations

__all__ = ["Peer", "Peers"]


@final
@dataclass(slots=True, eq=False)
class Peer:
    """One other node.

    `generations` is this node's copy of the peer's: the numbers differ from the
    original's, but they move whenever the original's do, which is all that a near
    entry asks. `number` is the last invalidation taken, `heard` when that was. `tried`
    tells that an avoided peer is being asked whether it answers again; `without`, that
    something of its range was loaded here while it perhaps did not know of us.
    """

    member: Member
    generations: Generations = field(default_factory=Generations)
    number: int = 0
    heard: float = 0.0
    followed: bool = False
    avoided: bool = False
    tried: bool = False
    without: bool = False
    loaders: frozenset[tuple[str, int]] = frozenset()

    @property
    def usable(self) -> bool:
        """Whether to ask it for something new: alive, and not lately silent."""
        return self.member.state is State.ALIVE and not self.avoided

    def follow(self, now: float) -> None:
        """Begin, or go on, to rely on this peer's invalidations."""
        if not self.followed:
            self.followed = True
            self.heard = now

    def invalidate(self, message: Invalidate, now: float) -> bool:
        """Take one of the peer's notes; False if some before it were lost."""
        expected = self.number + 1 if message.buckets or message.everything else None
        gap = message.number != (self.number if expected is None else expected)
        self.number = message.number
        self.heard = now
        if gap or message.everything or self.without:
            # From here on it tells us of writes. It may not have told us of all before.
            self.without = False
            self.generations.bump_all()
        else:
            for bucket in message.buckets:
                self.generations.bump(bucket)
        return not gap

    def forget(self) -> None:
        """Trust nothing read from this peer so far: notes may have been lost."""
        self.generations.bump_all()
        self.number = 0


@final
class Peers:
    """All peers by identity, and by either of their addresses."""

    __slots__ = ("_by_address", "_by_id")

    def __init__(self) -> None:
        self._by_id: dict[NodeId, Peer] = {}
        self._by_address: dict[str, Peer] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, node_id: NodeId) -> Peer | None:
        """Return the peer of that id."""
        return self._by_id.get(node_id)

    def at(self, address: str) -> Peer | None:
        """Return the peer that listens at *address*, on either plane."""
        return self._by_address.get(address)

    def learn(self, member: Member) -> Peer:
        """Take membership's word on a member and return its peer."""
        known = peer = self._by_id.get(member.node_id)
        if peer is None or peer.member.epoch != member.epoch:
            peer = Peer(member)
            self._by_id[member.node_id] = peer
        if known is not None and known.member[4:6] != member[4:6]:
            self._drop_addresses(known)
        peer.member = member
        self._by_address[member.address] = peer
        self._by_address[member.data_address] = peer
        return peer

    def drop(self, member: Member) -> None:
        """Forget a member that is dead or has left."""
        peer = self._by_id.pop(member.node_id, None)
        if peer is not None:
            peer.forget()
            self._drop_addresses(peer)

    def _drop_addresses(self, peer: Peer) -> None:
        for address in (peer.member.address, peer.member.data_address):
            if self._by_address.get(address) is peer:
                del self._by_address[address]

    def note_loaders(self, message: Loaders) -> None:
        """Remember what a peer can load for others."""
        peer = self._by_id.get(NodeId(message.sender))
        if peer is not None:
            peer.loaders = frozenset(_names(message.loaders))


def _names(loaders: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    return ((name, version) for name, version in loaders)
