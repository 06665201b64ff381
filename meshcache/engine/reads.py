"""Reading without loading: `GetKeys` for the application, `Fetch` for peers.

Many keys go as one request per owner. What cannot be had is a miss: an owner that is
silent, gone, overloaded or of another opinion about the table costs the caller nothing
but the value. A key that its supposed owner disowns is asked for once more, where the
newer table says, and never a third time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import Fetch, Found, Refused, Status, Values
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.gather import Gather, Part, by_owner, chunks
from meshcache.engine.ops import GetKeys, Got, Results, Ticket, Tier
from meshcache.engine.peers import Peer
from meshcache.hashing import key_hash
from meshcache.store.generations import Stamp

__all__ = ["Reads"]

MISS: Final = Found(Status.MISS, b"", 0, 0)
DISOWNED: Final = Found(Status.NOT_OWNER, b"", 0, 0)


@final
class Reads:
    """The reading half of the engine."""

    __slots__ = ("calls", "core")

    def __init__(self, core: Core, calls: Calls) -> None:
        self.core = core
        self.calls = calls

    def get(self, ticket: Ticket, op: GetKeys) -> None:
        """Find the keys of *op*, here and at their owners."""
        core = self.core
        gather = Gather[Got | None](
            len(op.keys), None, lambda found: core.complete(ticket, Results(found))
        )
        if not op.keys:
            core.complete(ticket, Results(()))
            return
        remote: list[tuple[int, Peer | None]] = []
        for index, (key, hashed) in enumerate(op.keys):
            if core.ranges.mine(hashed):
                gather.put(index, self.own(key, hashed))
            else:
                remote.append((index, core.peer_of(hashed)))
        deadline = core.now + core.config.request_timeout
        self.fetch(op, gather, by_owner(remote), 0, deadline)

    def own(self, key: bytes, hashed: int) -> Got | None:
        """Return what this node's own range holds under *key*."""
        stamp = self.core.ranges.stamp(hashed)
        entry = self.core.store.get(key, hashed, self.core.now)
        if entry is None:
            return None
        return Got(entry.value, entry.expires, entry.version, Tier.HOST, stamp)

    def fetch(
        self,
        op: GetKeys,
        gather: Gather[Got | None],
        groups: dict[Peer | None, list[int]],
        hop: int,
        deadline: float,
    ) -> None:
        """Ask each owner for its keys; `None` as an owner means nobody to ask."""
        config = self.core.config
        for peer, indexes in groups.items():
            for part in chunks(
                indexes,
                lambda i: len(op.keys[i][0]),
                config.max_batch_keys,
                config.max_batch_bytes,
            ):
                _Fetching(self, Part(op, gather, part, hop, deadline)).ask(peer)

    def serve(self, route: Route, message: Fetch) -> None:
        """Answer a peer's `Fetch` from this node's range.

        The answer may stop before the last key when it has grown to
        `max_batch_bytes`; the peer asks again for the rest.
        """
        core = self.core
        core.readers.add(route, core.now)
        results: list[Found] = []
        size = 0
        for key in message.keys:
            found = self._find(key)
            size += len(found.value)
            if results and size > core.config.max_batch_bytes:
                break
            results.append(found)
        core.reply(route, Values(message.rid, tuple(results)))

    def _find(self, key: bytes) -> Found:
        core = self.core
        hashed = key_hash(key)
        if not core.ranges.mine(hashed):
            core.counters.not_owner_sent += 1
            return DISOWNED
        entry = core.store.get(key, hashed, core.now)
        if entry is None:
            core.counters.served_misses += 1
            return MISS
        core.counters.served_hits += 1
        ttl_ms = core.ttl_ms(entry.expires)
        return Found(Status.HIT, entry.value, ttl_ms, entry.version)


@final
class _Fetching:
    """One `Fetch` under way: the part of an operation that one owner answers."""

    __slots__ = ("_part", "_peer", "_reads", "_stamps")

    def __init__(self, reads: Reads, part: Part[GetKeys, Got | None]) -> None:
        self._reads = reads
        self._part = part
        self._peer: Peer | None = None
        self._stamps: list[Stamp | None] = []

    def ask(self, peer: Peer | None) -> None:
        """Send the request, or count every key as a miss if that cannot be."""
        core = self._reads.core
        self._peer = peer
        if peer is None:
            self._lost(Loss.AVOIDED)
            return
        # A redirected answer comes from a node whose invalidations this node's
        # tenure does not follow, so it is not to be kept near.
        self._stamps = [
            core.ranges.stamp(self._part.op.keys[i][1]) if self._part.hop == 0 else None
            for i in self._part.indexes
        ]
        peer.follow(core.now)
        keys = tuple(self._part.op.keys[i][0] for i in self._part.indexes)
        epoch, table = peer.member.epoch, core.ranges.table.epoch
        budget_ms = max(1, int((self._part.deadline - core.now) * 1000))
        started = self._reads.calls.start(
            peer,
            lambda rid: Fetch(rid, epoch, table, self._part.hop, budget_ms, keys),
            self._part.deadline,
            self._answered,
            self._lost,
        )
        if started is None:
            self._lost(Loss.AVOIDED)

    def _answered(self, message: Answer) -> None:
        if not isinstance(message, Values) or not message.results:
            if isinstance(message, Refused):
                self._reads.core.counters.local += 1
            self._lost(Loss.GONE)
            return
        disowned: list[int] = []
        for index, found, stamp in zip(
            self._part.indexes, message.results, self._stamps, strict=False
        ):
            if found.status is Status.NOT_OWNER and self._part.hop == 0:
                disowned.append(index)
            else:
                self._part.gather.put(index, self._got(found, stamp))
        rest = self._part.indexes[len(message.results) :]
        if rest:
            more = replace(self._part, indexes=rest)
            _Fetching(self._reads, more).ask(self._peer)
        self._redirect(disowned)

    def _got(self, found: Found, stamp: Stamp | None) -> Got | None:
        if found.status is not Status.HIT:
            return None
        expires = self._reads.core.expires(found.ttl_ms)
        return Got(found.value, expires, found.version, Tier.PEER, stamp)

    def _redirect(self, indexes: list[int]) -> None:
        core = self._reads.core
        again: list[tuple[int, Peer | None]] = []
        for index in indexes:
            core.counters.not_owner_received += 1
            key, hashed = self._part.op.keys[index]
            peer = core.peer_of(hashed)
            if core.ranges.mine(hashed):
                self._part.gather.put(index, self._reads.own(key, hashed))
            elif peer is None or peer is self._peer:
                self._part.gather.put(index, None)
            else:
                again.append((index, peer))
        self._reads.fetch(
            self._part.op, self._part.gather, by_owner(again), 1, self._part.deadline
        )

    def _lost(self, _why: Loss) -> None:
        for index in self._part.indexes:
            self._part.gather.put(index, None)
