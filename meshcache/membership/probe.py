"""Probes: whom to ask next, one round of asking, and asking for others.

    t = 0         Ping to the target
    timeout       no answer: PingReq to k helpers
    0.8 timeout later, each helper without an answer sends a Nack
    interval      the verdict; an answer that comes late but before it counts

(SWIM sections 3.1 and 4.3, Lifeguard section IV.A.)
"""

from __future__ import annotations

import random
from typing import Final, final

from meshcache.codec.mail import Route
from meshcache.model import NodeId

__all__ = ["NACK_AT", "Probe", "Relay", "Targets"]

NACK_AT: Final = 0.8
"""The part of the budget after which a helper says that it heard nothing."""


_LATE_ANSWER: Final = 4.0
"""For how many budgets a late answer is still passed on."""


@final
class Targets:
    """The order in which members are probed. Confined to the driver thread.

    A shuffled list, walked from end to end and shuffled again; a new member goes in
    anywhere. So two probes of one member are at most 2n - 1 periods apart, where
    plain random choice gives no bound (SWIM section 4.3).
    """

    __slots__ = ("_at", "_ids", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ids: list[NodeId] = []
        self._at = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, node_id: NodeId) -> None:
        """Take in a member, at a uniformly random place."""
        place = self._rng.randint(0, len(self._ids))
        self._ids.insert(place, node_id)
        if place < self._at:
            self._at += 1

    def remove(self, node_id: NodeId) -> None:
        """Leave a member out."""
        place = self._ids.index(node_id)
        del self._ids[place]
        if place < self._at:
            self._at -= 1

    def next(self) -> NodeId | None:
        """Return the member whose turn it is."""
        if not self._ids:
            return None
        if self._at >= len(self._ids):
            self._rng.shuffle(self._ids)
            self._at = 0
        self._at += 1
        return self._ids[self._at - 1]


@final
class Probe:
    """One round of asking one member. Confined to the driver thread."""

    __slots__ = (
        "ends_at",
        "epoch",
        "helpers",
        "indirect_at",
        "nacked",
        "seq",
        "target",
    )

    def __init__(
        self, seq: int, target: NodeId, epoch: int, indirect_at: float, ends_at: float
    ) -> None:
        self.seq = seq
        self.target = target
        self.epoch = epoch
        self.indirect_at: float | None = indirect_at
        self.ends_at = ends_at
        self.helpers: list[NodeId] = []
        self.nacked: list[NodeId] = []

    @property
    def deadline(self) -> float:
        """When something has to be done about it."""
        return self.ends_at if self.indirect_at is None else self.indirect_at

    def nack(self, helper: NodeId) -> bool:
        """Note that a helper is well and heard nothing; return whether that is new."""
        if helper not in self.helpers or helper in self.nacked:
            return False
        self.nacked.append(helper)
        return True

    def blame(self) -> int:
        """Return how much the failure says against this node, not the target.

        Helpers that sent a Nack could hear us, so the target alone is silent; those
        who sent nothing, or the want of helpers, leave it open who is at fault.
        """
        return len(self.helpers) - len(self.nacked) if self.helpers else 1


@final
class Relay:
    """A probe made for another node. Confined to the driver thread."""

    __slots__ = ("ends_at", "nack_at", "origin_seq", "route", "target")

    def __init__(
        self, route: Route, origin_seq: int, target: NodeId, now: float, budget: float
    ) -> None:
        self.route = route
        self.origin_seq = origin_seq
        self.target = target
        self.nack_at: float | None = now + NACK_AT * budget
        self.ends_at = now + _LATE_ANSWER * budget

    @property
    def deadline(self) -> float:
        """When something has to be done about it."""
        return self.ends_at if self.nack_at is None else self.nack_at
