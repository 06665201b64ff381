"""From members to the partition table, the same on every node.

    members --> Choices --> seat --> Table
                (kept)     (anew)

The table is a function of the routable members and of nothing else: not of the order
they came in, nor of tables before. Only the first choices are kept between updates,
for scoring all nodes anew is what would take time; they have no history either.
Observers, the dead and those who left own nothing; suspects keep what they have.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, final

from meshcache.hashing import PARTITIONS
from meshcache.placement.choices import Choices
from meshcache.placement.seating import NODES_MAX, capacity, seat
from meshcache.placement.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshcache.model import Member

__all__ = ["Placement"]


@final
class Placement:
    """The present table, and what is kept to make the next one quickly.

    Confined to the driver thread; the tables are for everybody.
    """

    __slots__ = ("_choices", "_owners", "table")

    def __init__(self) -> None:
        self._choices = Choices()
        self._owners = _zeros()
        self.table = Table((), self._owners)

    def update(self, members: Iterable[Member]) -> Table:
        """Return the table for *members*: the same object if it is the same table.

        A member that only has news of itself, such as an address, an incarnation or
        a suspicion, gives a new table of the same epoch and with the same owners.
        """
        routable = _routable(members)
        if routable == self.table.members:
            return self.table
        assert len(routable) <= NODES_MAX
        ids = [member.node_id for member in routable]
        if ids != [member.node_id for member in self.table.members]:
            self._choices.change(frozenset(ids))
            self._owners = self._assign()
        self.table = Table(routable, self._owners)
        return self.table

    def _assign(self) -> array[int]:
        """Return the owners as indexes into the sorted nodes, two bytes for each."""
        nodes = sorted(self._choices.nodes)
        if len(nodes) <= 1:
            return _zeros()
        index = {node: number for number, node in enumerate(nodes)}
        owners = seat(self._choices, capacity(len(nodes)))
        return array("H", map(index.__getitem__, owners))


def _zeros() -> array[int]:
    return array("H", bytes(2 * PARTITIONS))


def _routable(members: Iterable[Member]) -> tuple[Member, ...]:
    """Return the members that own partitions, sorted by id.

    Should an id be there twice, its latest epoch speaks for it.
    """
    latest = {member.node_id: member for member in sorted(members)}
    return tuple(member for member in latest.values() if member.routable)
