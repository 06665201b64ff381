"""First choices, corrected so that no node holds more than its share allows.

Partitions ask nodes for a seat and nodes have a limited number of them. A full node
keeps those it scores highest with; whoever is turned away, now or later, asks the
next node of its own order. This is deferred acceptance (Gale and Shapley, 1962). Its
outcome does not depend on the order in which partitions ask (McVitie and Wilson,
1971), so it is a function of the nodes alone, and small changes of the nodes change
it little. Few partitions are ever turned away, and only for those is a whole order
of nodes computed.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from math import isqrt
from typing import TYPE_CHECKING, Final, final

from meshcache.hashing import PARTITIONS
from meshcache.placement.score import score

if TYPE_CHECKING:
    from meshcache.model import NodeId
    from meshcache.placement.choices import Choices

__all__ = ["NODES_MAX", "capacity", "seat"]

NODES_MAX: Final = PARTITIONS // 2
"""How many nodes can own partitions. With fewer than two partitions each, "an equal
share" means nothing."""


def capacity(nodes: int) -> int:
    """Return how many partitions each of *nodes* may hold.

    A tenth above the mean. Beyond 64 nodes that is less than 1.6 standard deviations
    of an unbounded share (its variance is its mean), and a tighter bound would turn
    away, and move at every change, more partitions than balance is worth: from there
    on it is 1.6 standard deviations. Measured in docs/decisions/0002-placement.md.
    """
    assert 0 < nodes <= NODES_MAX
    tenth = 11 * PARTITIONS // (10 * nodes)
    deviations = PARTITIONS // nodes + isqrt(256 * PARTITIONS // (100 * nodes))
    return max(tenth, deviations)


def seat(choices: Choices, seats: int) -> list[NodeId]:
    """Return the owner of each partition when no node has more than *seats*."""
    assert seats * len(choices.nodes) >= PARTITIONS
    seating = _Seating(choices, seats)
    seating.settle()
    return seating.owners


@final
class _Seating:
    """One run of deferred acceptance, from the first choices to the owners.

    A node is in `_lowest` once it is full: a heap of (score, partition), so the one
    it would give up next is on top. It stays full, for it only ever exchanges.
    """

    __slots__ = ("_asks", "_held", "_lowest", "_nodes", "_seats", "owners")

    def __init__(self, choices: Choices, seats: int) -> None:
        self._nodes = choices.nodes
        self._seats = seats
        self._held: dict[NodeId, list[int]] = {node: [] for node in choices.nodes}
        for partition, node in enumerate(choices.first):
            self._held[node].append(partition)
        self._lowest: dict[NodeId, list[tuple[int, int]]] = {}
        self._asks: dict[int, list[tuple[int, NodeId]]] = {}
        self.owners = choices.first.copy()

    def settle(self) -> None:
        """Turn away what is over the limit, until everybody has a seat."""
        away = [p for node in self._nodes for p in self._trim(node)]
        while away:
            away.extend(self._place(away.pop()))

    def _trim(self, node: NodeId) -> list[int]:
        """Return the partitions that *node* cannot keep of those that chose it."""
        over = len(self._held[node]) - self._seats
        if over <= 0:
            return []
        lowest = self._heap(node)
        return [heappop(lowest)[1] for _ in range(over)]

    def _place(self, partition: int) -> list[int]:
        """Seat *partition* at the best node that takes it; return whom it unseats."""
        asks = self._order(partition)
        while True:
            inverse, node = heappop(asks)
            if len(self._held[node]) < self._seats:
                self._held[node].append(partition)
                self.owners[partition] = node
                return []
            lowest = self._heap(node)
            if (~inverse, partition) > lowest[0]:
                self.owners[partition] = node
                return [heapreplace(lowest, (~inverse, partition))[1]]

    def _heap(self, node: NodeId) -> list[tuple[int, int]]:
        """Return the heap of *node*, which has just become full or was already."""
        lowest = self._lowest.get(node)
        if lowest is None:
            lowest = [(score(node, p), p) for p in self._held[node]]
            heapify(lowest)
            self._lowest[node] = lowest
        return lowest

    def _order(self, partition: int) -> list[tuple[int, NodeId]]:
        """Return the nodes that *partition* has not asked yet, the best on top.

        Scores are inverted, for a heap has its least on top; of equal scores the
        smaller id comes first, as in `Choices`.
        """
        order = self._asks.get(partition)
        if order is None:
            order = [(~score(node, partition), node) for node in self._nodes]
            heapify(order)
            heappop(order)  # the first choice has turned it away
            self._asks[partition] = order
        return order
