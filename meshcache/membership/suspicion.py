"""Suspicion: the time a silent member has to object (Lifeguard section IV.B).

It starts long, because one accuser may be wrong, and shrinks with the logarithm of the
accusers who came to the same belief by their own probes:

    timeout = longest - (longest - shortest) * ln(C + 1) / ln(K + 1)

C is the number of accusers after the first, K how many bring it to the shortest. Only
the first K + 1 accusations are passed on.

The shortest grows with the logarithm of the members, as memberlist's does. It need not
where this node has lost its connection to the suspect as well: the heartbeats of a
connection are answered by a thread that needs no interpreter lock, so that a process
which is merely busy keeps it. That is one node's evidence, so it counts only when K
others have confirmed, and for nothing where there is nobody to confirm, or while this
node has reason to doubt itself.
"""

from __future__ import annotations

from math import inf, log
from typing import final

from meshcache.model import NodeId

__all__ = ["Suspicion", "Suspicions"]


@final
class Suspicion:
    """One member under suspicion. Confined to the driver thread."""

    __slots__ = (
        "_began",
        "_longest",
        "_not_before",
        "_shortest",
        "_shortest_unlinked",
        "accusers",
        "needed",
        "unlinked",
    )

    def __init__(
        self,
        now: float,
        shortest: float,
        longest: float,
        needed: int,
        shortest_unlinked: float = inf,
    ) -> None:
        self._began = now
        self._shortest = shortest
        self._longest = longest
        self._shortest_unlinked = min(shortest, shortest_unlinked)
        self._not_before = now
        self.needed = needed
        self.accusers: list[NodeId] = []
        self.unlinked = False

    def confirm(self, accuser: NodeId) -> bool:
        """Note an accuser; return whether it is a new one that others should hear of.

        The first one known is taken for the one who raised it and confirms nothing:
        the suspicion itself may arrive ahead of its accuser's name.
        """
        if accuser in self.accusers or len(self.accusers) > self.needed:
            return False
        self.accusers.append(accuser)
        return True

    def postpone(self, until: float) -> None:
        """Grant the suspect at least until then."""
        self._not_before = max(self._not_before, until)

    def deadline(self, *, well: bool = False) -> float:
        """Return when the suspect is taken for dead by a node that is *well* or not."""
        return max(self._not_before, self._began + self._timeout(well=well))

    def _timeout(self, *, well: bool) -> float:
        confirmed = max(0, len(self.accusers) - 1)
        if confirmed >= self.needed:
            hasten = self.unlinked and well and self.needed > 0
            return self._shortest_unlinked if hasten else self._shortest
        span = self._longest - self._shortest
        return self._longest - span * log(confirmed + 1) / log(self.needed + 1)


@final
class Suspicions:
    """All members under suspicion, and the nearest deadline among them.

    Confined to the driver thread.
    """

    __slots__ = ("_by_id", "_deadline", "_fresh", "_well")

    def __init__(self) -> None:
        self._by_id: dict[NodeId, Suspicion] = {}
        self._deadline: float | None = None
        self._fresh = True
        self._well = False

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, node_id: NodeId) -> Suspicion | None:
        """Return the suspicion of a member, if it is under one."""
        return self._by_id.get(node_id)

    def start(self, node_id: NodeId, suspicion: Suspicion) -> None:
        """Put a member under suspicion that is under none."""
        assert node_id not in self._by_id
        self._by_id[node_id] = suspicion
        self._fresh = False

    def end(self, node_id: NodeId) -> Suspicion | None:
        """Drop the suspicion of a member and return it, if there is one."""
        suspicion = self._by_id.pop(node_id, None)
        if suspicion is not None:
            self._fresh = False
        return suspicion

    def confirm(self, node_id: NodeId, accuser: NodeId) -> bool:
        """Note an accuser; return whether others should hear of it."""
        suspicion = self._by_id.get(node_id)
        if suspicion is None:
            return False
        self._fresh = False
        return suspicion.confirm(accuser)

    def unlink(self, node_id: NodeId, *, lost: bool) -> None:
        """Note that the connection to a member is lost, or is there again."""
        suspicion = self._by_id.get(node_id)
        if suspicion is not None:
            suspicion.unlinked = lost
            self._fresh = False

    def require(self, needed: int) -> None:
        """Ask for *needed* confirmations from now on: there may be fewer accusers."""
        for suspicion in self._by_id.values():
            suspicion.needed = needed
        self._fresh = False

    def postpone(self, until: float) -> None:
        """Grant every suspect at least until then."""
        for suspicion in self._by_id.values():
            suspicion.postpone(until)
        self._fresh = False

    def due(self, now: float, *, well: bool = False) -> list[NodeId]:
        """Return the members whose time is over, to a node that is *well* or not."""
        deadline = self.deadline(well=well)
        if deadline is None or now < deadline:
            return []
        ends = {key: one.deadline(well=well) for key, one in self._by_id.items()}
        return [key for key, end in ends.items() if end <= now]

    def deadline(self, *, well: bool = False) -> float | None:
        """Return when the first suspect's time is over, likewise."""
        if not self._fresh or well is not self._well:
            times = [one.deadline(well=well) for one in self._by_id.values()]
            self._deadline = min(times, default=None)
            self._fresh, self._well = True, well
        return self._deadline
