"""Which partitions are whose, as this node sees it, and what follows when that changes.

Every partition has a `Tenure`: the object through which near entries are tied to its
owner's generations. When a partition moves, its tenure ends and a new one begins; all
that was read under the old one is dead at once. What this node holds of a partition
that is no longer its own is revoked in the store likewise.

The table and the list of tenures are replaced or changed by assignment only, so
application threads read them without a lock: whoever sees the old tenure sees it end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from meshcache.engine.peers import Peers
from meshcache.hashing import PARTITIONS, bucket_of, partition_of
from meshcache.model import Member
from meshcache.placement.placement import Placement
from meshcache.placement.table import Table
from meshcache.placement.table import moved as moved_between
from meshcache.store.generations import Generations, Stamp, Tenure
from meshcache.store.memory import MemoryStore

__all__ = ["Ranges"]


@final
class Ranges:
    """The partition table and this node's part in it."""

    __slots__ = (
        "_me",
        "_nobody",
        "_peers",
        "_placement",
        "_store",
        "_tenure",
        "table",
        "tenures",
    )

    def __init__(self, me: Member, store: MemoryStore, peers: Peers) -> None:
        self._me = me
        self._store = store
        self._peers = peers
        self._placement = Placement()
        self._nobody = Generations()
        self._tenure = 0
        self.table: Table = self._placement.update(())
        self.tenures = [Tenure(self._nobody.table) for _ in range(PARTITIONS)]

    def update(self, members: Iterable[Member]) -> list[int]:
        """Make the table of *members* and return the partitions that moved."""
        old, new = self.table, self._placement.update(members)
        if new is old:
            return []
        moved = moved_between(old, new)
        for partition in moved:
            self.tenures[partition].end()
            self.tenures[partition] = Tenure(self._table_of(new.owner(partition)))
        self.table = new
        for partition in moved:
            owner = new.owner(partition)
            if owner is not None and owner.node_id == self._me.node_id:
                self._tenure += 1
                self._store.grant(partition, self._tenure)
            else:
                self._store.revoke(partition)
        return moved

    def _table_of(self, owner: Member | None) -> list[int]:
        if owner is None:
            return self._nobody.table
        if owner.node_id == self._me.node_id:
            return self._store.generations.table
        return self._peers.learn(owner).generations.table

    def owner(self, hashed: int) -> Member | None:
        """Return the member that owns the key of this hash."""
        return self.table.owner_of(hashed)

    def mine(self, hashed: int) -> bool:
        """Whether this node owns the key of this hash."""
        owner = self.table.owner_of(hashed)
        return owner is not None and owner.node_id == self._me.node_id

    def stamp(self, hashed: int) -> Stamp:
        """Return the stamp of this moment, to be taken before a value is read."""
        return self.tenures[partition_of(hashed)].stamp(bucket_of(hashed))
