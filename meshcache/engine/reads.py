"""Reading without loading: `GetKeys` for the application, `Fetch` for peers.

What cannot be had is a miss: an owner that is silent, gone, overloaded or of another
opinion about the table costs the caller nothing but the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import Fetch, Found, Status, Values
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.coalesce import Coalescer
from meshcache.engine.core import Core
from meshcache.engine.ops import GetKeys, Got, Results, Ticket, Tier
from meshcache.engine.peers import Peer
from meshcache.engine.scatter import Part, Scatter
from meshcache.hashing import key_hash
from meshcache.store.generations import Stamp

__all__ = ["Reads"]

MISS: Final = Found(Status.MISS, b"", 0, 0)
DISOWNED: Final = Found(Status.NOT_OWNER, b"", 0, 0)


@final
class Reads:
    """The reading half of the engine. Confined to the driver thread."""

    __slots__ = ("_calls", "_core", "coalescer")

    def __init__(self, core: Core, calls: Calls) -> None:
        self._core = core
        self._calls = calls
        self.coalescer: Final = Coalescer(core, self._fetch)

    def get(self, ticket: Ticket, op: GetKeys) -> None:
        """Find the keys of *op*, here and at their owners."""
        if self.coalescer.take(ticket, op):
            return
        core = self._core
        self._fetch(op.keys, lambda found: core.complete(ticket, Results(found)))

    def _fetch(
        self,
        keys: tuple[tuple[bytes, int], ...],
        done: Callable[[tuple[Got | None, ...]], None],
    ) -> None:
        _Fetching(self._core, self._calls, keys, done).start()

    def serve(self, route: Route, message: Fetch) -> None:
        """Answer a peer's `Fetch` from this node's range.

        The answer may stop before the last key when it has grown to
        `max_batch_bytes`; the peer asks again for the rest.
        """
        core = self._core
        if not message.quiet:
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
        core = self._core
        hashed = key_hash(key)
        if not core.ranges.mine(hashed):
            core.counters.not_owner_sent += 1
            return DISOWNED
        entry = core.find(key, hashed)
        if entry is None:
            core.counters.served_misses += 1
            return MISS
        core.counters.served_hits += 1
        ttl_ms = core.ttl_ms(entry.expires)
        return Found(Status.HIT, entry.value, ttl_ms, entry.version)


@final
class _Fetching(Scatter[bytes, Found, Got | None]):
    """A read of many keys under way."""

    def own(self, item: bytes, hashed: int) -> Got | None:
        stamp = self.core.ranges.stamp(hashed)
        entry = self.core.find(item, hashed)
        if entry is None:
            return None
        return Got(entry.value, entry.expires, entry.version, Tier.HOST, stamp)

    def size(self, item: bytes) -> int:
        return len(item)

    def before(self, peer: Peer, index: int, hop: int) -> Stamp | None:
        if self.core.ranges.lane(peer.member.node_id) is None:
            peer.follow(self.core.now)
        # A redirected answer comes from a node whose invalidations this node's
        # tenure does not follow, so it is not to be kept near.
        return None if hop else self.core.ranges.stamp(self.items[index][1])

    def message(self, part: Part, budget_ms: int, rid: int) -> Fetch:
        keys = tuple(self.items[i][0] for i in part.indexes)
        member, ranges = part.peer.member, self.core.ranges
        quiet = ranges.lane(member.node_id) is not None
        table = ranges.table.epoch
        return Fetch(rid, member.epoch, table, part.hop, budget_ms, quiet, keys)

    def found(self, part: Part, answer: Answer) -> tuple[Found, ...] | None:
        # It may end before the last key: the rest is asked for again.
        return answer.results if isinstance(answer, Values) else None

    def take(self, found: Found, noted: object) -> Got | None:
        if found.status is not Status.HIT:
            return None
        self.core.observe(found.version)
        expires = self.core.expires(found.ttl_ms)
        stamp = noted if isinstance(noted, Stamp) else None
        return Got(found.value, expires, found.version, Tier.PEER, stamp)

    def lost(self, item: bytes, peer: Peer | None, why: Loss) -> None:
        return None
