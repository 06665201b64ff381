"""Those whose owner was lost before it answered: they wait until there is another.

When a process dies its connections break at once, and membership has its word some
tenths of a second later: the table is still the old one. If whoever waited loaded for
itself then, each process would, all at the same time. So they are kept here, and ask
the new owner when there is one, who has one of them load.

A connection also breaks where nobody has died, and of a host that is cut off membership
knows after seconds. So nobody is kept for longer than `request_timeout` after the loss,
which is what a silent owner costs too, nor so long that it could not load for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, final

from meshcache.engine.calls import Calls
from meshcache.engine.core import Core
from meshcache.engine.ops import Ticket
from meshcache.engine.parties import Local
from meshcache.fill.flight import Waiter
from meshcache.hashing import partition_of

__all__ = ["LOOK", "Again", "Stranded"]

LOOK: Final = 0.02
"""Seconds between two looks whether those who wait here have an owner again."""

Again: TypeAlias = Callable[[list[Waiter]], None]
"""Asks once more for all of these."""


class _Case(NamedTuple):
    """One who waits here, for the owner of what, and how it asks then."""

    waiter: Waiter
    hashed: int
    again: Again


@final
class Stranded:
    """Those who wait for a new owner, `max_waiters` at most.

    Confined to the driver thread.
    """

    __slots__ = ("_calls", "_cases", "_core", "_count", "_looks")

    def __init__(self, core: Core, calls: Calls) -> None:
        self._core = core
        self._calls = calls
        self._cases: dict[Ticket, list[_Case]] = {}
        self._count = 0
        self._looks = False

    def __len__(self) -> int:
        return self._count

    def must_wait(self, waiter: Waiter, hashed: int) -> bool:
        """Whether it is too early to ask for a key, and not too late to wait."""
        now = self._core.now
        # One who cannot load any more has nothing to lose: others may.
        # The next look may come late.
        last = waiter.can_load(now) and not waiter.can_load(now + 2 * LOOK)
        return waiter.deadline > now and not last and self._is_bereft(hashed)

    def keep(self, waiter: Waiter, hashed: int, again: Again) -> bool:
        """Keep *waiter* until the next look at least; False if there is no room."""
        if self._count >= self._core.config.max_waiters:
            return False
        party = waiter.party
        assert isinstance(party, Local)
        self._cases.setdefault(party.ticket, []).append(_Case(waiter, hashed, again))
        self._count += 1
        if not self._looks:
            self._looks = True
            self._core.agenda.at(self._core.now + LOOK, self._look)
        return True

    def forsake(self, ticket: Ticket) -> None:
        """Hear that nobody waits for *ticket* any more."""
        self._count -= len(self._cases.pop(ticket, ()))

    def close(self) -> list[Ticket]:
        """Let go of all of them: this node stops. Return whom to tell."""
        tickets = list(self._cases)
        self._cases.clear()
        self._count = 0
        return tickets

    def _is_bereft(self, hashed: int) -> bool:
        """Whether the owner of a key was lost just now, or cannot serve it yet."""
        core = self._core
        if core.ranges.mine(hashed):
            return core.handover.holds_back(partition_of(hashed), core.now)
        peer = core.peer_of(hashed)
        if peer is None or peer.usable:
            return False
        return self._calls.lost_lately(peer)

    def _look(self, now: float) -> None:
        """Have those ask again who can, or must."""
        ready: dict[Again, list[Waiter]] = {}
        for ticket, cases in list(self._cases.items()):
            left = []
            for case in cases:
                if self.must_wait(case.waiter, case.hashed):
                    left.append(case)
                else:
                    ready.setdefault(case.again, []).append(case.waiter)
            self._count -= len(cases) - len(left)
            if left:
                self._cases[ticket] = left
            else:
                del self._cases[ticket]
        self._looks = bool(self._cases)
        if self._looks:
            self._core.agenda.at(now + LOOK, self._look)
        for again, waiters in ready.items():
            # First who can load: the others are then served with what it brings.
            again(sorted(waiters, key=lambda waiter: not waiter.can_load(now)))
