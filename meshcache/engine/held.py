"""Requests that come again in a moment: their partition is ours, but not open yet.

So does what all members are to be told, as long as a sibling is about to be met.

Its old owner has yet to seal it, or discovery to say who else is there. That takes
milliseconds, and an answer given before would be a miss, or a second load. When
patience is over they are let through, and find what they find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Abandon,
    Borrow,
    Clear,
    Fetch,
    Fulfil,
    Load,
    Survey,
    Untag,
    Write,
)
from meshcache.engine.core import Core
from meshcache.engine.handover import POLL
from meshcache.engine.ops import (
    ClearCache,
    Closed,
    GetKeys,
    InvalidateTags,
    LoadKey,
    LoadKeys,
    Operation,
    Ticket,
    WriteKeys,
)
from meshcache.hashing import key_hash, partition_of

__all__ = ["Addressed", "HeldBack"]

Addressed: TypeAlias = (
    Fetch | Load | Borrow | Write | Clear | Untag | Survey | Fulfil | Abandon
)
"""What a peer says to this very process, not to one before it at its address."""


@final
class HeldBack:
    """What waits for a partition to open. Confined to the driver thread.

    Args:
        core: of the engine.
        serve: takes a peer's request, when it comes again.
        operate: takes an operation of this process likewise.
        reclaim: is called when others have opened what is ours.
    """

    __slots__ = ("_core", "_operate", "_reclaim", "_serve", "_waiting")

    def __init__(
        self,
        core: Core,
        serve: Callable[[Addressed, Route], None],
        operate: Callable[[Ticket, Operation], None],
        reclaim: Callable[[], None],
    ) -> None:
        self._core = core
        self._reclaim = reclaim
        self._serve = serve
        self._operate = operate
        self._waiting: dict[Ticket, Operation] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def request(self, message: Addressed, route: Route) -> bool:
        """Hold back a peer's request if it must wait; return whether it must."""
        if not self._must_wait(_hashes_asked(message)):
            return False
        agenda, now = self._core.agenda, self._core.now
        agenda.at(now + POLL, lambda _now: self._serve(message, route))
        return True

    def operation(self, ticket: Ticket, op: Operation) -> bool:
        """Hold back an operation if it must wait; return whether it must."""
        if not (self._must_wait(_hashes(op)) or self._must_meet(op)):
            return False
        self._waiting[ticket] = op
        self._core.agenda.at(self._core.now + POLL, partial(self._again, ticket))
        return True

    def forsake(self, ticket: Ticket) -> None:
        """Hear that nobody waits for an operation any more."""
        self._waiting.pop(ticket, None)

    def close(self) -> None:
        """End what waits: this node stops."""
        for ticket in self._waiting:
            self._core.complete(ticket, Closed())
        self._waiting.clear()

    def _again(self, ticket: Ticket, _now: float) -> None:
        op = self._waiting.pop(ticket, None)
        if op is not None:
            self._operate(ticket, op)

    def _must_meet(self, op: Operation) -> bool:
        """Whether *op* has to wait for siblings to be met, or sealed."""
        if not isinstance(op, ClearCache | InvalidateTags):
            return False
        core = self._core
        return core.ranges.awaits_strangers(core.now, core.config.request_timeout)

    def _must_wait(self, hashes: Sequence[int]) -> bool:
        handover, ranges, now = self._core.handover, self._core.ranges, self._core.now
        if any(ranges.deposed(hashed) for hashed in hashes):
            self._reclaim()
        return handover.waiting and any(
            handover.holds_back(partition_of(hashed), now) for hashed in hashes
        )


def _hashes(op: Operation) -> Sequence[int]:
    match op:
        case GetKeys(keys) | LoadKeys(keys):
            return [hashed for _, hashed in keys]
        case WriteKeys(_, items):
            return [hashed for _, hashed in items]
        case LoadKey():
            return (op.hashed,)
        case _:
            return ()


def _hashes_asked(message: Addressed) -> Sequence[int]:
    match message:
        case Fetch() | Borrow():
            return [key_hash(key) for key in message.keys]
        case Write():
            return [key_hash(item.key) for item in message.items]
        case Load():
            return (key_hash(message.key),)
        case _:
            return ()
