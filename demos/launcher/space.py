"""The hash space as a picture: one letter per partition, and what can be read off it.

An owner map is a string as `View.owners` has it: the letter at place p names the
owner of partition p.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Final, NamedTuple

__all__ = ["NOBODY", "Moved", "letter", "moved", "ranges", "sample", "translate"]

_FIRST: Final = 48
NOBODY: Final = chr(_FIRST - 1)


class Moved(NamedTuple):
    """What changed between two owner maps when one member went."""

    to: dict[str, int]
    """How many of its partitions each other owner took."""
    bystanders: int
    """How many partitions moved although neither owner was the one that went."""


def letter(place: int) -> str:
    """Return the letter of the owner at a place in an order."""
    return chr(_FIRST + place)


def translate(owners: str, names: dict[str, str]) -> str:
    """Return the map with each letter replaced; letters without a name are nobody's."""
    return owners.translate({ord(was): names.get(was, NOBODY) for was in set(owners)})


def moved(before: str, after: str, gone: str) -> Moved:
    """Return where the partitions of *gone* went. Both maps must speak one alphabet."""
    assert len(before) == len(after)
    to: Counter[str] = Counter()
    bystanders = 0
    for old, new in zip(before, after, strict=True):
        if old == gone != new:
            to[new] += 1
        elif old != new:
            bystanders += 1
    return Moved(dict(to), bystanders)


def ranges(owners: str) -> dict[str, int]:
    """Return in how many unbroken hash ranges each owner's partitions lie."""
    return dict(Counter(owner for owner, _ in groupby(owners)))


def sample(owners: str, cells: int) -> str:
    """Return the owners of *cells* partitions, evenly spaced over the space."""
    if not owners:
        return NOBODY * cells
    return "".join(owners[cell * len(owners) // cells] for cell in range(cells))
