"""What a worker can see of its own node: who answered, who is there, who owns what."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from launcher.space import letter
from launcher.summary import TIERS
from launcher.wire import View

if TYPE_CHECKING:
    import meshcache

__all__ = ["Tiers", "view_of"]


@final
class Tiers:
    """Tells which tier answered the last read. For a thread that alone reads."""

    def __init__(self, node: meshcache.Node) -> None:
        self._node = node
        self._counts = self._now()

    def last(self) -> str:
        """Return the tier whose counter has moved since the last call."""
        counts = self._now()
        moved = [tier for tier in TIERS if counts[tier] != self._counts[tier]]
        self._counts = counts
        assert len(moved) == 1, f"one read moved {moved}"
        return moved[0]

    def _now(self) -> dict[str, int]:
        return dict(self._node.stats()["reads"])


def view_of(node: meshcache.Node, known: View | None) -> View:
    """Return what the node believes; the owner map is made only for a new table."""
    table = node.table()
    states = {member.node_id.hex(): member.state.name for member in node.members()}
    if known is not None and known.epoch == table.epoch:
        return View(table.epoch, states, known.order, known.owners)
    return View(
        table.epoch,
        states,
        [member.node_id.hex() for member in table.members],
        "".join(map(letter, table.owners)) if table.members else "",
    )
