"""Gathering single reads, so that those of one owner go as one request.

A read of one key that only mail can answer waits for others of the same owner, at most
for `coalesce_window`. To the owner, and to all else in the engine, it is a read that
was asked when the wait was over: its stamp is taken then, and what this process writes
meanwhile goes out ahead of it. What is here or in sight, or is asked of an avoided
peer, does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, final

from meshcache.engine.core import Core
from meshcache.engine.ops import Closed, GetKeys, Got, Results, Ticket
from meshcache.engine.peers import Peer

__all__ = ["Coalescer"]

Item: TypeAlias = tuple[bytes, int]
Found: TypeAlias = tuple[Got | None, ...]


@final
@dataclass(slots=True, eq=False)
class _Batch:
    """What waits to be asked of one owner: who wants which key."""

    peer: Peer
    wanted: dict[Item, list[Ticket]] = field(default_factory=dict)
    tickets: int = 0
    size: int = 0

    def add(self, ticket: Ticket, item: Item) -> None:
        """Let *ticket* have what will be found of a key."""
        tickets = self.wanted.setdefault(item, [])
        self.size += 0 if tickets else len(item[0])
        self.tickets += 1
        tickets.append(ticket)


@final
class Coalescer:
    """The reads that wait for company. Confined to the driver thread.

    Args:
        core: of the engine.
        fetch: asks for keys, of whoever owns them then, and tells what was found.
    """

    __slots__ = ("_batches", "_core", "_fetch", "_waiting", "_window")

    def __init__(
        self,
        core: Core,
        fetch: Callable[[tuple[Item, ...], Callable[[Found], None]], None],
    ) -> None:
        self._core = core
        self._window = core.config.coalesce_window
        self._fetch = fetch
        self._batches: dict[Peer, _Batch] = {}
        self._waiting: set[Ticket] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, ticket: Ticket, op: GetKeys) -> bool:
        """Let an operation wait for company if it should; return whether it does."""
        if not self._window or len(op.keys) != 1:
            return False
        core, item = self._core, op.keys[0]
        peer = core.peer_of(item[1])
        if peer is None or peer.avoided:
            return False
        if core.ranges.lane(peer.member.node_id) is not None:
            return False
        batch = self._batches.get(peer) or self._begin(peer)
        batch.add(ticket, item)
        self._waiting.add(ticket)
        if self._is_full(batch):
            self._go(batch)
        return True

    def forsake(self, ticket: Ticket) -> None:
        """Hear that nobody waits for an operation any more."""
        self._waiting.discard(ticket)

    def close(self) -> None:
        """End what waits: this node stops."""
        for batch in self._batches.values():
            for _, tickets in self._released(batch):
                for ticket in tickets:
                    self._core.complete(ticket, Closed())
        self._batches.clear()

    def _begin(self, peer: Peer) -> _Batch:
        batch = self._batches[peer] = _Batch(peer)
        when = self._core.now + self._window
        self._core.agenda.at(when, lambda _now: self._go(batch))
        return batch

    def _is_full(self, batch: _Batch) -> bool:
        config = self._core.config
        return (
            batch.tickets >= config.max_batch_keys
            or batch.size >= config.max_batch_bytes
        )

    def _go(self, batch: _Batch) -> None:
        """Ask for what waits, unless it was so much that it has been asked for."""
        if self._batches.get(batch.peer) is not batch:
            return
        del self._batches[batch.peer]
        asked = dict(self._released(batch))
        if asked:
            self._fetch(tuple(asked), partial(self._share, list(asked.values())))

    def _released(self, batch: _Batch) -> Iterator[tuple[Item, list[Ticket]]]:
        """Yield the keys that are still wanted, and let go of who wants them."""
        for item, those in batch.wanted.items():
            tickets = [ticket for ticket in those if ticket in self._waiting]
            self._waiting.difference_update(tickets)
            if tickets:
                yield item, tickets

    def _share(self, asked: list[list[Ticket]], found: Found) -> None:
        """Tell each who waited what was found of its key."""
        for tickets, got in zip(asked, found, strict=True):
            for ticket in tickets:
                self._core.complete(ticket, Results((got,)))
