"""The nouns that every floor shares: members, and the two sentinels."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, Literal, NamedTuple, NewType

__all__ = ["MISSING", "UNSET", "Member", "Missing", "NodeId", "State", "Unset"]

NodeId = NewType("NodeId", bytes)
"""16 random bytes, made when a node starts and never used again."""


class State(IntEnum):
    """What membership believes of a member, from good news to bad.

    ALIVE -> SUSPECT -> DEAD by silence; SUSPECT -> ALIVE by the member's own word;
    ALIVE or SUSPECT -> LEFT by the member's own farewell. DEAD and LEFT come back to
    ALIVE only with a higher incarnation or epoch, which only the member can issue.
    """

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Member(NamedTuple):
    """A node as membership records it; also how it travels in messages.

    Identity is `(node_id, epoch)`. `weight` 0 marks an observer, such as a command
    line client: it is a member and may ask, but it owns no partition.
    """

    node_id: NodeId
    epoch: int
    incarnation: int
    state: State
    address: str
    data_address: str
    host: str
    weight: int

    @property
    def name(self) -> str:
        """The first eight hex digits of the node id, for people."""
        return self.node_id[:4].hex()

    @property
    def routable(self) -> bool:
        """Whether this member holds partitions. Suspects do, until the verdict."""
        return self.state <= State.SUSPECT and self.weight > 0


class Missing(Enum):
    """The type of `MISSING`: not in the cache. Falsy, and unlike any cached value."""

    MISSING = "MISSING"

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "meshcache.MISSING"

    __str__ = __repr__


class Unset(Enum):
    """The type of `UNSET`: the caller did not say, so the cache's default holds."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "meshcache.UNSET"


MISSING: Final = Missing.MISSING
UNSET: Final = Unset.UNSET
