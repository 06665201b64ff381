"""The roster: every member this node knows, and the questions asked about them.

What is derived is kept: the lists by state are made anew only after a change, and the
checksum and the counts move along with each. The dead and the departed stay as
tombstones, so that old news do not bring them back, until they are forgotten or their
place is needed.
"""

from __future__ import annotations

from math import inf
from typing import final

from xxhash import xxh3_64_intdigest

from meshcache.model import Member, NodeId, State

__all__ = ["Record", "Roster"]


@final
class Record:
    """A member and what this node alone knows of it. Driver thread only."""

    __slots__ = ("displaced", "member", "proven", "since", "unlinked")

    def __init__(self, member: Member, now: float) -> None:
        self.member = member
        self.since = now
        """When it came to its present state."""
        self.proven = False
        """Its process is known to be gone, so no word of its own can be newer."""
        self.displaced = False
        """A newer process has answered at its address. Held against it only once."""
        self.unlinked = False
        """This node's connection to it is lost, and no word of it has come since."""

    @property
    def live(self) -> bool:
        """Whether it is alive, or still has time to say so."""
        return self.member.state <= State.SUSPECT


@final
class Roster:
    """All members by id, this node among them. Confined to the driver thread."""

    __slots__ = (
        "_alive",
        "_by_address",
        "_dead",
        "_limit",
        "_live",
        "_members",
        "_records",
        "alive_count",
        "checksum",
        "live_count",
        "me",
    )

    def __init__(self, me: Member, limit: int) -> None:
        self.me = me
        self._limit = limit
        self._records = {me.node_id: Record(me, 0.0)}
        self._by_address: dict[str, dict[NodeId, None]] = {}
        self._members: tuple[Member, ...] | None = None
        self._live: tuple[Member, ...] | None = None
        self._alive: tuple[Member, ...] | None = None
        self._dead: dict[NodeId, Record] = {}
        self.live_count = 0
        """How many others are alive or suspect."""
        self.alive_count = 0
        """How many others are alive and not suspect."""
        self.checksum = _hash_of(me)
        """A number that is equal on nodes which agree on who lives.

        Incarnation is in it because it versions addresses and weight. State is not: a
        suspicion is on its way out either way, and tombstones go at different times.
        """
        self._index(me)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, node_id: NodeId) -> Record | None:
        """Return the record of a member, if it is known."""
        return self._records.get(node_id)

    def put(self, member: Member, now: float) -> None:
        """Store the newest word on a member."""
        record = self._records.get(member.node_id)
        self._count(record.member if record else None, member)
        if member.node_id == self.me.node_id:
            self.me = member
        if record is None:
            record = self._records[member.node_id] = Record(member, now)
            self._index(member)
        else:
            self._replace(record, member, now)
        if member.state is State.DEAD:
            self._dead[member.node_id] = record
        else:
            self._dead.pop(member.node_id, None)
        self._members = self._live = self._alive = None

    def has_room(self) -> bool:
        """Return whether a new member may come in, giving up a tombstone if need be."""
        if len(self._records) < self._limit:
            return True
        gone = [record for record in self._records.values() if not record.live]
        if gone:
            self._remove(min(gone, key=lambda record: record.since))
        return bool(gone)

    def forget(self, before: float, observers: float = -inf) -> list[NodeId]:
        """Drop the dead and departed of before then; return who they were.

        Those who owned nothing are dropped if they went before *observers*: a command
        line that looks at the cluster every few seconds is somebody new each time.
        """
        old = [
            record
            for record in self._records.values()
            if not record.live
            and record.since < (before if record.member.weight else observers)
            and record.member.node_id != self.me.node_id
        ]
        for record in old:
            self._remove(record)
        return [record.member.node_id for record in old]

    def at(self, address: str) -> list[Record]:
        """Return everybody, dead or alive, whose control address this is."""
        return [self._records[node_id] for node_id in self._by_address.get(address, ())]

    def members(self) -> tuple[Member, ...]:
        """Return all members: this node, the suspects, the dead and the departed."""
        if self._members is None:
            self._members = tuple(record.member for record in self._records.values())
        return self._members

    def live(self) -> tuple[Member, ...]:
        """Return the others that are alive or suspect."""
        if self._live is None:
            self._live = tuple(
                member
                for member in self.members()
                if member.state <= State.SUSPECT and member is not self.me
            )
        return self._live

    def alive(self) -> tuple[Member, ...]:
        """Return the others that are alive and not suspect."""
        if self._alive is None:
            self._alive = tuple(
                member for member in self.live() if member.state is State.ALIVE
            )
        return self._alive

    def dead(self, since: float) -> list[Member]:
        """Return the members that have died since then."""
        return [r.member for r in self._dead.values() if r.since >= since]

    def _count(self, known: Member | None, member: Member | None) -> None:
        """Move counts and checksum from what was known of a member to what is now."""
        for word, sign in ((known, -1), (member, 1)):
            if word is None or word.state > State.SUSPECT:
                continue
            self.checksum = (self.checksum + sign * _hash_of(word)) % 2**64
            if word.node_id != self.me.node_id:
                self.live_count += sign
                self.alive_count += sign * (word.state is State.ALIVE)

    def _replace(self, record: Record, member: Member, now: float) -> None:
        known = record.member
        if known.address != member.address:
            record.unlinked = False
            self._unindex(known)
            self._index(member)
        if known.epoch != member.epoch:
            record.proven = record.displaced = record.unlinked = False
        if known.state is not member.state:
            record.since = now
        record.member = member

    def _remove(self, record: Record) -> None:
        del self._records[record.member.node_id]
        self._dead.pop(record.member.node_id, None)
        self._unindex(record.member)
        self._count(record.member, None)
        self._members = self._live = self._alive = None

    def _index(self, member: Member) -> None:
        self._by_address.setdefault(member.address, {})[member.node_id] = None

    def _unindex(self, member: Member) -> None:
        ids = self._by_address[member.address]
        del ids[member.node_id]
        if not ids:
            del self._by_address[member.address]


def _hash_of(member: Member) -> int:
    return xxh3_64_intdigest(
        member.node_id
        + member.epoch.to_bytes(8, "big")
        + member.incarnation.to_bytes(4, "big")
    )
