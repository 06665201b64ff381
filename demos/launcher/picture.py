"""What the screen shows at one moment, as plain data made from the fleet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from launcher.space import letter, ranges, translate
from launcher.summary import hits, latency_us

if TYPE_CHECKING:
    from launcher.control import Fleet, Worker

__all__ = ["Event", "Picture", "Row", "owner_map", "picture"]

_FROM_GOOD_TO_BAD: Final = ("alive", "joining", "left", "suspect", "dead", "gone")


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling, and when it happened."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One member, as the others see it."""

    slot: int
    label: str
    node: str
    pid: int
    state: str
    share: float
    ranges: int
    requests: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is on the screen. `owners` speaks of slots, not of node ids."""

    nodes: int
    phase: str = ""
    done: float = 0.0
    elapsed_s: float = 0.0
    per_second: float = 0.0
    rows: list[Row] = field(default_factory=list)
    owners: str = ""
    hits: dict[str, int] = field(default_factory=dict)
    latency_us: dict[str, dict[str, float | None]] = field(default_factory=dict)
    distinct: int = 0
    loads: int = 0
    events: list[Event] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many reads were answered."""
        return sum(self.hits.values())


def picture(fleet: Fleet, nodes: int) -> Picture:
    """Return the picture of a fleet, without what only the story knows."""
    owners, latency = owner_map(fleet), fleet.latency()
    runs = ranges(owners)
    return Picture(
        nodes,
        rows=[
            Row(
                slot,
                worker.label,
                worker.node[:8],
                worker.process.pid,
                _state(fleet, worker),
                owners.count(letter(slot)) / len(owners) if owners else 0.0,
                runs.get(letter(slot), 0),
                worker.progress.requests,
            )
            for slot, worker in sorted(fleet.workers.items())
        ],
        owners=owners,
        hits=hits(latency),
        latency_us=latency_us(latency),
        distinct=len(fleet.asked | fleet.loaded.keys()),
        loads=fleet.loaded.total(),
    )


def owner_map(fleet: Fleet) -> str:
    """Return who owns what, by slot, as the first living worker believes it."""
    slots = {worker.node: letter(worker.slot) for worker in fleet.everyone}
    for worker in fleet.living:
        if worker.view is not None:
            names = {
                letter(place): slots[node]
                for place, node in enumerate(worker.view.order)
                if node in slots
            }
            return translate(worker.view.owners, names)
    return ""


def _state(fleet: Fleet, worker: Worker) -> str:
    unknown = "gone" if worker.ended else "joining"
    said = Counter(
        other.view.states.get(worker.node, unknown).lower()
        for other in fleet.living
        if other.view is not None and other is not worker
    )
    if not worker.node or not said:
        return "starting"
    if len(said) == 1:
        return next(iter(said))
    # The members do not agree yet: say what the worst news is, and how many have it.
    worst = max(said, key=_FROM_GOOD_TO_BAD.index)
    return f"{worst} {said[worst]}/{said.total()}"
