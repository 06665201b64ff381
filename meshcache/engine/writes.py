"""Changing what is stored: `WriteKeys` for the application, `Write` for peers.

A write happens at the owner (`Owner`), in this order: the store, then the generation,
then the flight of that key is detached, then readers are told, then the writer is
answered. So whoever reads after the answer reads the new value, and no load
that began before it can bring the old one back.

Writes do not fail open. A key whose owner could not be reached is reported as such,
and says whether the write may have happened all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Found,
    Item,
    Status,
    Verb,
    Write,
    Written,
)
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.ops import (
    Ticket,
    Unreached,
    WriteKeys,
    WriteResult,
    WriteResults,
)
from meshcache.engine.owner import moves
from meshcache.engine.peers import Peer
from meshcache.engine.scatter import Part, Scatter
from meshcache.hashing import bucket_of, key_hash

__all__ = ["Writes"]


@final
class Writes:
    """The writing half of the engine."""

    __slots__ = ("calls", "core")

    def __init__(self, core: Core, calls: Calls) -> None:
        self.core = core
        self.calls = calls

    # --- for the application -----------------------------------------------------

    def write(self, ticket: Ticket, op: WriteKeys) -> None:
        """Change the keys of *op*, here and at their owners."""
        core = self.core
        _Writing(
            self,
            op,
            lambda results: core.complete(ticket, WriteResults(results)),
        ).start()

    # --- for peers ---------------------------------------------------------------

    def serve(self, route: Route, message: Write) -> None:
        """Do what a peer asks, as far as the keys are ours."""
        results = []
        for item in message.items:
            hashed = key_hash(item.key)
            if self.core.ranges.mine(hashed):
                done = self.apply(message.verb, item, hashed)
                results.append(Found(done.status, done.number, 0, 0))
            else:
                self.core.counters.not_owner_sent += 1
                results.append(Found(Status.NOT_OWNER, b"", 0, 0))
        self.core.reply(route, Written(message.rid, tuple(results)))

    # --- at the owner ------------------------------------------------------------

    def apply(self, verb: Verb, item: Item, hashed: int) -> WriteResult:
        """Do one write of a key that this node owns."""
        core = self.core
        if core.handover.arriving and verb is not Verb.SET:
            # What it is to be done to may still lie in the old owner's arena.
            core.handover.find(item.key, hashed, core.now)
        result = core.owner.apply(verb, item, hashed, core.now)
        if moves(verb, result):
            core.readers.moved(bucket_of(hashed))
        return result


@final
class _Writing(Scatter[Item, Found, WriteResult | Unreached]):
    """A write of many keys under way."""

    def __init__(
        self,
        writes: Writes,
        op: WriteKeys,
        done: Callable[[tuple[WriteResult | Unreached, ...]], None],
    ) -> None:
        super().__init__(writes.core, writes.calls, op.items, done)
        self._writes = writes
        self._verb = op.verb

    def own(self, item: Item, hashed: int) -> WriteResult | Unreached:
        result = self._writes.apply(self._verb, item, hashed)
        if result.status is Status.NOT_OWNER:
            # Its old owner is silent and may still answer for it.
            return Unreached(self.core.me.data_address, unknown=False)
        return result

    def size(self, item: Item) -> int:
        return len(item.key) + len(item.value)

    def before(self, peer: Peer, index: int, hop: int) -> None:
        self._doubt(peer, index)

    def _doubt(self, peer: Peer, index: int) -> None:
        """Make this process forget what it holds of a key that is written.

        Done when the write is sent and again when it is answered: the owner's note
        travels by itself, and this process must read its own writes.
        """
        item, hashed = self.items[index]
        peer.generations.bump(bucket_of(hashed))
        self.core.flights.detach_key(item.key)

    def message(self, part: Part, budget_ms: int, rid: int) -> Write:
        items = tuple(self.items[i][0] for i in part.indexes)
        epoch, table = part.peer.member.epoch, self.core.ranges.table.epoch
        return Write(rid, epoch, table, part.hop, budget_ms, self._verb, items)

    def found(self, part: Part, answer: Answer) -> tuple[Found, ...] | None:
        for index in part.indexes:
            self._doubt(part.peer, index)
        if not isinstance(answer, Written):
            return None
        if len(answer.results) != len(part.indexes):
            # A peer's garbage. What it did, if anything, is not known.
            unknown = Found(Status.UNKNOWN, b"", 0, 0)
            return (unknown,) * len(part.indexes)
        return answer.results

    def take(self, found: Found, noted: object) -> WriteResult | Unreached:
        if found.status is Status.UNKNOWN:
            return Unreached("", unknown=True)
        return WriteResult(found.status, found.value)

    def lost(self, item: Item, peer: Peer | None, why: Loss) -> Unreached:
        address = "" if peer is None else peer.member.data_address
        return Unreached(address, unknown=why is not Loss.AVOIDED)
