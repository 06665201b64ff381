"""Who owns which partition, as one value that threads may share."""

from __future__ import annotations

from heapq import nsmallest
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeAlias, final

from meshcache.hashing import PARTITIONS, partition_of, set_hash
from meshcache.placement.score import score

if TYPE_CHECKING:
    from array import array

    from meshcache.model import Member, NodeId

__all__ = ["Table", "moved"]

_WIDTH: Final = 2**64 // PARTITIONS

Identity: TypeAlias = "tuple[NodeId, int]"


@final
class Table:
    """Who owns which partition. Never changes; a new table replaces it.

    `members` are those that own, sorted by id. `epoch` names their identities: two
    nodes whose tables have the same epoch agree on every owner. A table without
    members has epoch 0; `owners` are then all 0 and mean nobody. Thread-safe, without
    a lock.
    """

    __slots__ = ("epoch", "members", "owners")

    def __init__(self, members: tuple[Member, ...], owners: array[int]) -> None:
        """Take *owners* as indexes into *members*, one for each partition."""
        assert len(owners) == PARTITIONS
        self.members: Final = members
        self.epoch: Final = _epoch_of(members)
        self.owners: Final = memoryview(owners).toreadonly()

    def owner(self, partition: int) -> Member | None:
        """Return who owns *partition*; None when nobody owns anything."""
        assert 0 <= partition < PARTITIONS
        if not self.members:
            return None
        return self.members[self.owners[partition]]

    def owner_of(self, hashed: int) -> Member | None:
        """Return who owns the partition of a 64-bit key hash."""
        if not self.members:
            return None
        return self.members[self.owners[partition_of(hashed)]]

    def rank(self, partition: int, n: int) -> list[Member]:
        """Return the first *n* members that should hold *partition*, owner first.

        The others follow by score, whatever they hold: the next owner, should this
        one go, is nearly always the second.
        """
        owner = self.owner(partition)
        return nsmallest(
            n,
            self.members,
            key=lambda member: (
                member is not owner,
                ~score(member.node_id, partition),
                member.node_id,
            ),
        )

    def count(self, node_id: NodeId) -> int:
        """Return how many partitions *node_id* owns."""
        return len(self.partitions_of(node_id))

    def partitions_of(self, node_id: NodeId) -> list[int]:
        """Return the partitions that *node_id* owns, in order."""
        for index, member in enumerate(self.members):
            if member.node_id == node_id:
                return [p for p, owner in enumerate(self.owners) if owner == index]
        return []

    def ranges(self, node_id: NodeId) -> list[tuple[int, int]]:
        """Return the hashes that *node_id* owns, as first and last of each run."""
        runs = []
        numbered = enumerate(self.partitions_of(node_id))
        for _, group in groupby(numbered, key=lambda pair: pair[1] - pair[0]):
            run = [partition for _, partition in group]
            runs.append((run[0] * _WIDTH, (run[-1] + 1) * _WIDTH - 1))
        return runs

    def __repr__(self) -> str:
        names = " ".join(member.name for member in self.members) or "nobody"
        return f"<Table {self.epoch:016x} of {len(self.members)}: {names}>"


def moved(old: Table, new: Table) -> list[int]:
    """Return the partitions whose owner, as (node_id, epoch), is another in *new*."""
    now = {identity: index for index, identity in enumerate(_seats(new))}
    same = [now.get(identity, -1) for identity in _seats(old)]
    pairs = zip(old.owners, new.owners, strict=True)
    return [p for p, (before, after) in enumerate(pairs) if same[before] != after]


def _seats(table: Table) -> list[Identity | None]:
    """Return whom the indexes of *table* mean; where nobody owns, all are 0."""
    return [_identity(member) for member in table.members] or [None]


def _identity(member: Member) -> Identity:
    return member.node_id, member.epoch


def _epoch_of(members: tuple[Member, ...]) -> int:
    if not members:
        return 0
    return set_hash([m.node_id + m.epoch.to_bytes(8, "big") for m in members])
