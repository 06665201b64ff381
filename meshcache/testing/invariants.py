"""What must hold on every node after every step, whatever the network does.

Each check looks at one node's member list before and after an input. They hold because
of the rules in `meshcache.membership.rules` and nothing else, so a breach is a bug in
the machine and never bad luck. `seen` counts the transitions that were checked: a run
in which nobody died has proved nothing about death.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, final

from meshcache.model import Member, NodeId, State

__all__ = ["InvariantBroken", "Invariants"]

_NEWS_PER_MEMBER: Final = 6
"""A member's record, and an accusation by each of the first few accusers."""


class InvariantBroken(AssertionError):
    """A machine did what no machine may do. The text says which, and how to replay."""


@final
class Invariants:
    """Checks the member lists of all nodes. Confined to the simulation's thread."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._said: dict[tuple[bytes, int], int] = {}
        self._described: dict[tuple[bytes, int, int], tuple[object, ...]] = {}
        self._terminal: dict[tuple[str, bytes], Member] = {}

    def check(
        self,
        observer: str,
        me: Member,
        before: tuple[Member, ...],
        after: tuple[Member, ...],
    ) -> None:
        """Compare two successive lists of one observer.

        Raises:
            InvariantBroken: something that must hold does not.
        """
        self._check_myself(observer, me, after)
        if len(after) < len(before) or not self._check_in_order(
            observer, me, before, after
        ):
            self._check_anyhow(observer, me, before, after)

    def check_bounds(self, observer: str, queued: int, members: int) -> None:
        """Check that no more news wait than the members give reason for."""
        self._require(
            queued <= _NEWS_PER_MEMBER * members,
            f"{observer} queues {queued} news of {members} members",
        )

    def _check_in_order(
        self,
        observer: str,
        me: Member,
        before: tuple[Member, ...],
        after: tuple[Member, ...],
    ) -> bool:
        """Check lists in which nobody moved; return False where somebody did."""
        changed = [
            (was, member)
            for was, member in zip(before, after, strict=False)
            if was is not member
        ]
        if any(was.node_id != member.node_id for was, member in changed):
            return False
        for was, member in changed:
            self._check_member(observer, me.node_id, was, member)
        for member in after[len(before) :]:
            self._check_member(observer, me.node_id, None, member)
        return True

    def _check_anyhow(
        self,
        observer: str,
        me: Member,
        before: tuple[Member, ...],
        after: tuple[Member, ...],
    ) -> None:
        known = {member.node_id: member for member in before}
        for member in after:
            was = known.pop(member.node_id, None)
            if was is not member:
                self._check_member(observer, me.node_id, was, member)
        for was in known.values():
            self._require(
                was.state >= State.DEAD, f"{observer} forgot {was.name} alive"
            )
            self._terminal.pop((observer, was.node_id), None)

    def _check_myself(
        self, observer: str, me: Member, after: tuple[Member, ...]
    ) -> None:
        self._require(
            me.state in (State.ALIVE, State.LEFT), f"{observer} believes it is {me}"
        )
        key = (me.node_id, me.epoch)
        self._require(
            me.incarnation >= self._said.get(key, 0),
            f"{observer} lowered its own incarnation",
        )
        self._said[key] = me.incarnation
        self._require(
            after.count(me) == 1,
            f"{observer} does not list itself once",
        )

    def _check_member(
        self, observer: str, my_id: NodeId, was: Member | None, member: Member
    ) -> None:
        before = "unknown" if was is None else was.state.name
        self.seen[f"{before} -> {member.state.name}"] += 1
        key = (member.node_id, member.epoch)
        self._require(
            member.incarnation <= self._said.get(key, -1),
            f"{observer} knows {member.name} at incarnation {member.incarnation}, "
            f"which it never raised itself to ({self._said.get(key)})",
        )
        described = self._described.setdefault((*key, member.incarnation), member[4:])
        self._require(
            described == member[4:], f"{member.name} is described in two ways"
        )
        if was is not None:
            self._require(
                was[1:3] <= member[1:3],
                f"{observer} went back from {was[1:3]} to {member[1:3]} "
                f"on {member.name}",
            )
        if member.node_id != my_id:
            self._check_resurrection(observer, member)

    def _check_resurrection(self, observer: str, member: Member) -> None:
        key = (observer, member.node_id)
        if member.state >= State.DEAD:
            self._terminal[key] = member
            return
        buried = self._terminal.pop(key, None)
        if buried is not None:
            self.seen["resurrection"] += 1
            self._require(
                member[1:3] > buried[1:3],
                f"{observer} brought {member.name} back from {buried[1:4]} "
                f"by {member[1:4]}",
            )

    def _require(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - a claim
        if not holds:
            raise InvariantBroken(otherwise)
