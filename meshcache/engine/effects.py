"""What the engine wants done. The driver does it, in order, and reports nothing back.

Two kinds: something for the driver to do (`Send`, `Reply`, `RunLoader`), and something
to tell the application (`Complete`, `Changed`, `Retabled`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from meshcache.codec.mail import Reply, Send
from meshcache.engine.ops import Outcome, Ticket
from meshcache.membership.effects import Changed
from meshcache.placement.table import Table

__all__ = [
    "Changed",
    "Complete",
    "Effect",
    "Reply",
    "Retabled",
    "RunLoader",
    "Send",
]


class Complete(NamedTuple):
    """The operation of this ticket has its outcome."""

    ticket: Ticket
    outcome: Outcome


class RunLoader(NamedTuple):
    """Run a registered loader in the pool and answer with `RunEnded`."""

    flight: int
    loader: str
    loader_version: int
    key: bytes
    args: bytes
    chain: tuple[int, ...]


class Retabled(NamedTuple):
    """The partition table has changed; `moved` partitions have another owner."""

    table: Table
    moved: int


Effect: TypeAlias = Send | Reply | Complete | RunLoader | Changed | Retabled
