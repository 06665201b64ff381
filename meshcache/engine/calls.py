"""Requests under way: each has one answer, one loss or one time-out, and then is over.

A call that a peer does not answer in time marks the peer as avoided and asks
membership to probe it. `Pending` puts a call's deadline off: the owner lives and the
load goes on. Answers to calls that are over are counted and dropped.

A peer that is *lost* has gone, by its own word or that of its connection. Membership
knows for certain some time later, and another node a little before or after this one;
so for one `request_timeout` a new owner may come at any moment (`lost_lately`), and
who has asked the wrong one asks again (`unsettled`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Cancel,
    Data,
    Failed,
    Filled,
    Leased,
    Lent,
    NotOwner,
    Pending,
    Reason,
    Refused,
    Surveyed,
    Values,
    Written,
)
from meshcache.engine.core import Core
from meshcache.engine.peers import Peer
from meshcache.model import NodeId

__all__ = ["Answer", "Call", "Calls", "Loss"]

Answer: TypeAlias = (
    Values | Filled | Leased | Lent | Failed | Written | Surveyed | NotOwner | Refused
)


_GOING: Final = frozenset({Reason.LEAVING, Reason.WRONG_EPOCH})
"""Refusals of one that is gone, or will be in a moment."""


class Loss(Enum):
    """Why a call has no answer."""

    AVOIDED = "avoided"
    """It was never sent: the peer is avoided, or too many calls are under way."""
    SILENT = "silent"
    """The peer did not answer in time."""
    GONE = "gone"
    """The connection broke, or membership gave the peer up."""


@final
@dataclass(slots=True, eq=False)
class Call:
    """One request under way, and what to do when it ends."""

    rid: int
    peer: Peer
    deadline: float
    answered: Callable[[Answer], None]
    lost: Callable[[Loss], None]


@final
class Calls:
    """All requests of this node that are under way, bounded by `max_requests`."""

    __slots__ = ("_by_rid", "_core", "_doubt", "_losses", "_next", "_shaken")

    def __init__(self, core: Core, doubt: Callable[[Peer], None]) -> None:
        self._core = core
        self._doubt = doubt
        self._by_rid: dict[int, Call] = {}
        self._next = core.rng.getrandbits(48)
        # The peers that were lost and have not answered since, and when; and when
        # the last was, though it was known of before.
        self._losses: dict[NodeId, float] = {}
        self._shaken = float("-inf")

    def __len__(self) -> int:
        return len(self._by_rid)

    def start(
        self,
        peer: Peer,
        message: Callable[[int], Data],
        deadline: float,
        answered: Callable[[Answer], None],
        lost: Callable[[Loss], None],
        *,
        avoided_too: bool = False,
    ) -> int | None:
        """Send what *message* makes of a fresh request id, and return that id.

        Returns None, with nothing sent and *lost* not called, when the peer is
        avoided or too much is under way.
        """
        core = self._core
        if peer.avoided and not avoided_too:
            return None
        if len(self._by_rid) >= core.config.max_requests:
            return None
        self._next += 1
        rid = self._next
        self._by_rid[rid] = Call(rid, peer, deadline, answered, lost)
        core.agenda.at(deadline, lambda now: self._check(rid, now))
        core.send(peer, message(rid))
        return rid

    def answer(self, message: Answer, route: Route) -> None:
        """End the call that *message* answers."""
        call = self._by_rid.pop(message.rid, None)
        if call is None:
            self._core.counters.late_answers += 1
            if isinstance(message, Leased | Lent):
                # Nobody here will load under its leases: they are for the next.
                self._core.reply(route, Cancel(message.rid))
            return
        call.peer.avoided = False
        self._hears(call.peer, message)
        call.answered(message)

    def pending(self, message: Pending) -> None:
        """Put off the deadlines of calls whose load goes on."""
        for rid in message.rids:
            call = self._by_rid.get(rid)
            if call is not None:
                call.peer.avoided = False
                self._hears(call.peer, message)
                call.deadline = self._core.now + self._core.config.request_timeout

    def cancel(self, rid: int) -> None:
        """Forget a call whose answer nobody waits for, and tell the peer."""
        call = self._by_rid.pop(rid, None)
        if call is not None:
            self._core.send(call.peer, Cancel(rid))

    def lose(self, peer: Peer) -> None:
        """End every call to a peer that is gone."""
        self._lost(peer)
        self._shaken = self._core.now
        for call in [c for c in self._by_rid.values() if c.peer is peer]:
            if self._by_rid.pop(call.rid, None) is not None:
                self._core.counters.lost += 1
                call.lost(Loss.GONE)

    def lost_lately(self, peer: Peer) -> bool:
        """Whether *peer* was lost so lately that another may be about to take over."""
        at = self._losses.get(peer.member.node_id)
        return at is not None and self._is_recent(at)

    @property
    def unsettled(self) -> bool:
        """Whether peers may have another table just now, since some peer was lost."""
        return self._is_recent(self._shaken)

    def _is_recent(self, at: float) -> bool:
        return self._core.now < at + self._core.config.request_timeout

    def _hears(self, peer: Peer, message: Answer | Pending) -> None:
        """Take note that *peer* lives, or is about to go."""
        if isinstance(message, Refused) and message.reason in _GOING:
            self._lost(peer)
        elif self._losses:
            self._losses.pop(peer.member.node_id, None)

    def _lost(self, peer: Peer) -> None:
        """Take note that *peer* is lost; once, however often that is heard."""
        core = self._core
        self._losses = {
            node_id: at
            for node_id, at in self._losses.items()
            if core.peers.get(node_id) is not None or self._is_recent(at)
        }
        self._losses.setdefault(peer.member.node_id, core.now)

    def silent(self, peer: Peer) -> None:
        """Avoid a peer that did not answer in time, and have it probed."""
        self._core.counters.timeouts += 1
        peer.avoided = True
        # If its connection breaks too, later, that is no news: it was done without.
        self._losses.setdefault(peer.member.node_id, float("-inf"))
        self._doubt(peer)

    def _check(self, rid: int, now: float) -> None:
        call = self._by_rid.get(rid)
        if call is None:
            return
        if call.deadline > now:
            self._core.agenda.at(call.deadline, lambda later: self._check(rid, later))
            return
        del self._by_rid[rid]
        # Its answer may be lost on the way. If that was a lease, others wait for us.
        self._core.send(call.peer, Cancel(rid))
        self.silent(call.peer)
        call.lost(Loss.SILENT)
