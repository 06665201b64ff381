"""Changing what is stored: `WriteKeys` for the application, `Write` for peers.

A write happens at the owner, on one thread, in this order: the store, then the
generation, then the flight of that key is detached, then readers are told, then the
writer is answered. So whoever reads after the answer reads the new value, and no load
that began before it can bring the old one back.

Writes do not fail open. A key whose owner could not be reached is reported as such,
and says whether the write may have happened all the same.
"""

from __future__ import annotations

from functools import partial
from typing import Final, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import (
    Clear,
    Found,
    Item,
    Status,
    Verb,
    Write,
    Written,
)
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.gather import Gather, Part, by_owner, chunks
from meshcache.engine.ops import (
    ClearCache,
    Ticket,
    Unreached,
    WriteKeys,
    WriteResult,
    WriteResults,
)
from meshcache.engine.peers import Peer
from meshcache.errors import SerializationError, ValueTooLarge
from meshcache.hashing import bucket_of, key_hash
from meshcache.model import State

__all__ = ["Writes"]

DONE: Final = WriteResult(Status.HIT, b"")
NOTHING: Final = WriteResult(Status.MISS, b"")
NOBODY: Final = Unreached("", unknown=False)

_numbers: Final = MsgpackCodec()


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
        if not op.items:
            core.complete(ticket, WriteResults(()))
            return
        gather = self._gather(ticket, len(op.items))
        remote: list[tuple[int, Peer | None]] = []
        for index, (item, hashed) in enumerate(op.items):
            if core.ranges.mine(hashed):
                gather.put(index, self.apply(op.verb, item, hashed))
            else:
                remote.append((index, core.peer_of(hashed)))
        deadline = core.now + core.config.request_timeout
        self.send(op, gather, by_owner(remote), 0, deadline)

    def clear(self, ticket: Ticket, op: ClearCache) -> None:
        """Forget a cache here and on every member that may hold some of it."""
        core = self.core
        members = [
            p for p in core.peers if p.member.state <= State.SUSPECT and p.member.weight
        ]
        gather = self._gather(ticket, 1 + len(members))
        self._forget(op.cache)
        deadline = core.now + core.config.request_timeout
        budget_ms = int(core.config.request_timeout * 1000)
        for index, peer in enumerate(members):
            address = peer.member.data_address
            started = self.calls.start(
                peer,
                partial(_clear_message, peer.member.epoch, budget_ms, op.cache),
                deadline,
                partial(_cleared, gather, index, peer),
                partial(_not_cleared, gather, index, peer),
            )
            if started is None:
                gather.put(index, Unreached(address, unknown=False))
        gather.put(len(members), DONE)

    def _gather(self, ticket: Ticket, count: int) -> Gather[WriteResult | Unreached]:
        return Gather[WriteResult | Unreached](
            count,
            NOBODY,
            lambda results: self.core.complete(ticket, WriteResults(results)),
        )

    def send(
        self,
        op: WriteKeys,
        gather: Gather[WriteResult | Unreached],
        groups: dict[Peer | None, list[int]],
        hop: int,
        deadline: float,
    ) -> None:
        """Send each owner its part; `None` as an owner means nobody to send to."""
        config = self.core.config
        for peer, indexes in groups.items():
            for part in chunks(
                indexes,
                lambda i: len(op.items[i][0].key) + len(op.items[i][0].value),
                config.max_batch_keys,
                config.max_batch_bytes,
            ):
                _Writing(self, Part(op, gather, part, hop, deadline)).ask(peer)

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

    def serve_clear(self, route: Route, message: Clear) -> None:
        """Forget a cache because a peer says so."""
        self._forget(message.cache)
        self.core.reply(route, Written(message.rid, (Found(Status.HIT, b"", 0, 0),)))

    # --- at the owner ------------------------------------------------------------

    def apply(self, verb: Verb, item: Item, hashed: int) -> WriteResult:
        """Do one write of a key that this node owns."""
        try:
            result = _APPLY[verb](self, item, hashed)
        except ValueTooLarge:
            return WriteResult(Status.TOO_LARGE, b"")
        if result.status is Status.HIT:
            self._moved(item.key, hashed)
        return result

    def _moved(self, key: bytes, hashed: int) -> None:
        bucket = bucket_of(hashed)
        self.core.store.generations.bump(bucket)
        self.core.flights.detach_key(key)
        self.core.readers.moved(bucket)

    def _put(self, key: bytes, hashed: int, value: bytes, expires: float) -> None:
        core = self.core
        core.store.put(
            key, hashed, value, version=core.stamp(), expires=expires, now=core.now
        )

    def _set(self, item: Item, hashed: int) -> WriteResult:
        if item.ttl_ms == 0:
            self.core.store.remove(item.key, hashed, self.core.now)
        else:
            expires = self.core.expires(item.ttl_ms)
            self._put(item.key, hashed, item.value, expires)
        return DONE

    def _add(self, item: Item, hashed: int) -> WriteResult:
        if self.core.store.get(item.key, hashed, self.core.now) is not None:
            return NOTHING
        return self._set(item, hashed)

    def _touch(self, item: Item, hashed: int) -> WriteResult:
        store, now = self.core.store, self.core.now
        if item.ttl_ms == 0:
            return self._delete(item, hashed)
        found = store.touch(item.key, hashed, self.core.expires(item.ttl_ms), now)
        return NOTHING if found is None else DONE

    def _delete(self, item: Item, hashed: int) -> WriteResult:
        if self.core.store.remove(item.key, hashed, self.core.now) is not None:
            return DONE
        # A delete is a write even where nothing was stored: a load may be under way.
        self._moved(item.key, hashed)
        return NOTHING

    def _incr(self, item: Item, hashed: int) -> WriteResult:
        entry = self.core.store.get(item.key, hashed, self.core.now)
        stored = item.value if entry is None else entry.value
        try:
            number = _numbers.decode(stored)
        except SerializationError:
            number = None
        if type(number) is not int:
            return WriteResult(Status.NOT_A_NUMBER, b"")
        encoded = _numbers.encode(number + item.delta)
        if entry is not None:
            self._put(item.key, hashed, encoded, entry.expires)
        elif item.ttl_ms != 0:
            self._put(item.key, hashed, encoded, self.core.expires(item.ttl_ms))
        return WriteResult(Status.HIT, encoded)

    def _forget(self, cache: str) -> None:
        core = self.core
        prefix = cache.encode()
        core.store.clear(prefix, core.stamp())
        core.store.generations.bump_all()
        for peer in core.peers:
            peer.generations.bump_all()
        # A cache `a|b` is a part of `a`, and cleared with it.
        whole = (prefix + b"\0", prefix + b"|")
        core.flights.detach_if(lambda f: f.key.startswith(whole))
        core.readers.moved_all()


_APPLY: Final = {
    Verb.SET: Writes._set,  # noqa: SLF001 - the table is part of the class
    Verb.ADD: Writes._add,  # noqa: SLF001
    Verb.TOUCH: Writes._touch,  # noqa: SLF001
    Verb.DELETE: Writes._delete,  # noqa: SLF001
    Verb.INCR: Writes._incr,  # noqa: SLF001
}


def _clear_message(epoch: int, budget_ms: int, cache: str, rid: int) -> Clear:
    return Clear(rid, epoch, budget_ms, cache)


def _cleared(
    gather: Gather[WriteResult | Unreached], index: int, peer: Peer, answer: Answer
) -> None:
    if isinstance(answer, Written):
        gather.put(index, DONE)
    else:
        gather.put(index, Unreached(peer.member.data_address, unknown=False))


def _not_cleared(
    gather: Gather[WriteResult | Unreached], index: int, peer: Peer, why: Loss
) -> None:
    unknown = why is not Loss.AVOIDED
    gather.put(index, Unreached(peer.member.data_address, unknown))


@final
class _Writing:
    """One `Write` under way: the part of an operation that one owner does."""

    __slots__ = ("_part", "_peer", "_writes")

    def __init__(
        self, writes: Writes, part: Part[WriteKeys, WriteResult | Unreached]
    ) -> None:
        self._writes = writes
        self._part = part
        self._peer: Peer | None = None

    def ask(self, peer: Peer | None) -> None:
        """Send the request, or report every key as unreached if that cannot be."""
        core = self._writes.core
        self._peer = peer
        if peer is None:
            self._lost(Loss.AVOIDED)
            return
        self._doubt_local_copies(peer)
        items = tuple(self._part.op.items[i][0] for i in self._part.indexes)
        epoch, table = peer.member.epoch, core.ranges.table.epoch
        budget_ms = max(1, int((self._part.deadline - core.now) * 1000))
        verb = self._part.op.verb
        started = self._writes.calls.start(
            peer,
            lambda rid: Write(
                rid, epoch, table, self._part.hop, budget_ms, verb, items
            ),
            self._part.deadline,
            self._answered,
            self._lost,
        )
        if started is None:
            self._lost(Loss.AVOIDED)

    def _doubt_local_copies(self, peer: Peer) -> None:
        """Make this process forget what it holds of the keys that are written.

        Done when the write is sent and again when it is answered: the owner's note
        travels by itself, and this process must read its own writes.
        """
        for index in self._part.indexes:
            item, hashed = self._part.op.items[index]
            peer.generations.bump(bucket_of(hashed))
            self._writes.core.flights.detach_key(item.key)

    def _answered(self, message: Answer) -> None:
        peer = self._peer
        assert peer is not None
        self._doubt_local_copies(peer)
        if not isinstance(message, Written):
            self._lost(Loss.AVOIDED)
            return
        if len(message.results) != len(self._part.indexes):
            self._lost(Loss.SILENT)
            return
        disowned: list[int] = []
        for index, found in zip(self._part.indexes, message.results, strict=True):
            if found.status is Status.NOT_OWNER:
                disowned.append(index)
            else:
                self._part.gather.put(index, WriteResult(found.status, found.value))
        self._redirect(disowned)

    def _redirect(self, indexes: list[int]) -> None:
        core = self._writes.core
        again: list[tuple[int, Peer | None]] = []
        for index in indexes:
            core.counters.not_owner_received += 1
            item, hashed = self._part.op.items[index]
            peer = core.peer_of(hashed)
            if core.ranges.mine(hashed):
                result = self._writes.apply(self._part.op.verb, item, hashed)
                self._part.gather.put(index, result)
            elif self._part.hop or peer is None or peer is self._peer:
                self._part.gather.put(index, NOBODY)
            else:
                again.append((index, peer))
        self._writes.send(
            self._part.op, self._part.gather, by_owner(again), 1, self._part.deadline
        )

    def _lost(self, why: Loss) -> None:
        address = "" if self._peer is None else self._peer.member.data_address
        unreached = Unreached(address, unknown=why is not Loss.AVOIDED)
        for index in self._part.indexes:
            self._part.gather.put(index, unreached)
