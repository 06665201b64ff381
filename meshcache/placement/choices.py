"""Each partition's first choice among the nodes, kept up to date as they change.

The first choice is the node with the highest score, so it depends on who is there
and not on who came first. A node that comes is scored against all partitions; of a
node that goes, only its own partitions choose again.
"""

from __future__ import annotations

from array import array
from itertools import repeat
from typing import TYPE_CHECKING, Final, final

from meshcache.hashing import PARTITIONS
from meshcache.model import NodeId
from meshcache.placement.score import score

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Choices"]

_ALL: Final = range(PARTITIONS)
_NOBODY: Final = NodeId(b"")


@final
class Choices:
    """The nodes, and for each partition the one that it would go to if it could.

    `first` and `nodes` are for reading; `change` replaces the nodes. About 260 KB,
    whatever the number of nodes. Confined to the driver thread.
    """

    __slots__ = ("_best", "first", "nodes")

    def __init__(self) -> None:
        self.nodes: frozenset[NodeId] = frozenset()
        self.first: list[NodeId] = [_NOBODY] * PARTITIONS
        # Of who was chosen. Numbers in an array take a fifth of the memory.
        self._best = array("Q", bytes(8 * PARTITIONS))

    def change(self, nodes: frozenset[NodeId]) -> None:
        """Let *nodes* and no others be chosen from."""
        stayed = self.nodes & nodes
        orphans = self._release(self.nodes - nodes)
        for node in stayed:
            self._contest(node, orphans)
        for node in nodes - stayed:
            self._contest(node, _ALL)
        self.nodes = nodes

    def _release(self, gone: frozenset[NodeId]) -> list[int]:
        """Return the partitions that chose one of *gone*, now without a choice."""
        if not gone:
            return []
        orphans = [p for p, node in enumerate(self.first) if node in gone]
        for partition in orphans:
            self.first[partition] = _NOBODY
            self._best[partition] = 0
        return orphans

    def _contest(self, node: NodeId, partitions: Sequence[int]) -> None:
        """Give *node* those of *partitions* where it beats the present choice.

        Of equal scores the smaller id wins, or the order of joining would show.
        """
        first, best = self.first, self._best
        scores = map(score, repeat(node), partitions)
        before = map(best.__getitem__, partitions)
        for p, new, old in zip(partitions, scores, before, strict=True):
            if new >= old and (new > old or not first[p] or node < first[p]):
                first[p] = node
                best[p] = new
