"""Requests under way: each has one answer, one loss or one time-out, and then is over.

A call that a peer does not answer in time marks the peer as avoided and asks
membership to probe it. `Pending` puts a call's deadline off: the owner lives and the
load goes on. Answers to calls that are over are counted and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, final

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
    Refused,
    Surveyed,
    Values,
    Written,
)
from meshcache.engine.core import Core
from meshcache.engine.peers import Peer

__all__ = ["Answer", "Call", "Calls", "Loss"]

Answer: TypeAlias = (
    Values | Filled | Leased | Lent | Failed | Written | Surveyed | NotOwner | Refused
)


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

    __slots__ = ("_by_rid", "_core", "_doubt", "_next")

    def __init__(self, core: Core, doubt: Callable[[Peer], None]) -> None:
        self._core = core
        self._doubt = doubt
        self._by_rid: dict[int, Call] = {}
        self._next = core.rng.getrandbits(48)

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
        call.answered(message)

    def pending(self, message: Pending) -> None:
        """Put off the deadlines of calls whose load goes on."""
        for rid in message.rids:
            call = self._by_rid.get(rid)
            if call is not None:
                call.peer.avoided = False
                call.deadline = self._core.now + self._core.config.request_timeout

    def cancel(self, rid: int) -> None:
        """Forget a call whose answer nobody waits for, and tell the peer."""
        call = self._by_rid.pop(rid, None)
        if call is not None:
            self._core.send(call.peer, Cancel(rid))

    def lose(self, peer: Peer) -> None:
        """End every call to a peer that is gone."""
        for call in [c for c in self._by_rid.values() if c.peer is peer]:
            if self._by_rid.pop(call.rid, None) is not None:
                self._core.counters.lost += 1
                call.lost(Loss.GONE)

    def silent(self, peer: Peer) -> None:
        """Avoid a peer that did not answer in time, and have it probed."""
        self._core.counters.timeouts += 1
        peer.avoided = True
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
