"""The writing half of a cache: set, add, touch, delete, count, clear.

Writes fail loud: one that was not done, or may not have been, raises. Every operation
has an a-prefixed async twin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from meshcache.answers import checked
from meshcache.changes import clear, untag, write, write_one
from meshcache.codec.messages import Item, Status, Verb
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.ops import Unreached
from meshcache.engine.owner import DONE
from meshcache.errors import ConfigError, NotANumber, ValueTooLarge
from meshcache.model import UNSET
from meshcache.options import Tags
from meshcache.region import Region
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps, arun, run
from meshcache.times import Ttl

__all__ = ["Writing"]

_SET: Final = Verb.SET  # An enumeration takes longer to look into.


class Writing:
    """What changes the keys of a region. Thread-safe."""

    def __init__(self, region: Region) -> None:
        self.region: Final = region

    # --- writing -----------------------------------------------------------------

    def set(
        self, key: object, value: Any, ttl: Ttl = UNSET, *, tags: Tags = ()
    ) -> None:
        """Store *value* under *key*; with `ttl=0`, forget what is there.

        Args:
            key: anything with a stable encoding.
            value: what to store.
            ttl: seconds to live, None for ever; unset, the cache's own.
            tags: words by which `invalidate_tags` forgets it, up to 16.

        Raises:
            SerializationError: the value would not come back the same.
            ValueTooLarge: the value is over `max_value_bytes`.
            PeerUnavailable, PeerTimeout: it was not stored, or may not have been.
            NodeClosed: the node was stopped.
        """
        region = self.region
        runtime = region.runtime or region.attached()
        full, hashed = region.full(runtime, key)
        hashes = region.tag_hashes(tags) if tags else ()
        stored, ttl_ms = region.sealed(region.codec.encode(value), ttl, hashes)
        item = region.checked_item(runtime, Item(full, stored, ttl_ms, 0))
        if runtime is not None:
            # Here, or by a sibling: without a turn of the I/O thread.
            result = runtime.write_now(_SET, item, hashed)
            if result is DONE:
                return
            if result is not None and checked(item, result).status is Status.HIT:
                return
        run(runtime, self._write(runtime, Verb.SET, item))

    async def aset(
        self, key: object, value: Any, ttl: Ttl = UNSET, *, tags: Tags = ()
    ) -> None:
        """Store *value* under *key*; see `set`."""
        runtime = self.region.attached()
        item = self._item(runtime, key, value, ttl, tags)
        await arun(runtime, self._write(runtime, Verb.SET, item))

    def add(
        self, key: object, value: Any, ttl: Ttl = UNSET, *, tags: Tags = ()
    ) -> bool:
        """Store *value* if nothing is stored under *key*; return whether it was.

        Raises:
            as `set` does.
        """
        runtime = self.region.attached()
        item = self._item(runtime, key, value, ttl, tags)
        return run(runtime, self._write(runtime, Verb.ADD, item))

    async def aadd(
        self, key: object, value: Any, ttl: Ttl = UNSET, *, tags: Tags = ()
    ) -> bool:
        """Store *value* if nothing is stored under *key*; see `add`."""
        runtime = self.region.attached()
        item = self._item(runtime, key, value, ttl, tags)
        return await arun(runtime, self._write(runtime, Verb.ADD, item))

    def _item(
        self, runtime: Runtime | None, key: object, value: Any, ttl: Ttl, tags: Tags
    ) -> Item:
        region = self.region
        hashes = region.tag_hashes(tags) if tags else ()
        sealed = region.sealed(region.codec.encode(value), ttl, hashes)
        return region.item(runtime, key, sealed.value, sealed.ttl_ms)

    def _write(self, runtime: Runtime | None, verb: Verb, item: Item) -> Steps[bool]:
        result = yield from write_one(self.region, runtime, verb, item)
        return result.status is Status.HIT

    def touch(self, key: object, ttl: Ttl = UNSET) -> bool:
        """Give what is stored under *key* a new ttl; return whether there was any."""
        runtime = self.region.attached()
        return run(runtime, self._bare(runtime, Verb.TOUCH, key, ttl))

    async def atouch(self, key: object, ttl: Ttl = UNSET) -> bool:
        """Give what is stored under *key* a new ttl; see `touch`."""
        runtime = self.region.attached()
        return await arun(runtime, self._bare(runtime, Verb.TOUCH, key, ttl))

    def delete(self, key: object) -> bool:
        """Forget *key*; return whether anything was stored under it.

        A load of this key that is under way serves those who asked before, and what
        it brings is not stored.
        """
        runtime = self.region.attached()
        return run(runtime, self._bare(runtime, Verb.DELETE, key, 0))

    async def adelete(self, key: object) -> bool:
        """Forget *key*; see `delete`."""
        runtime = self.region.attached()
        return await arun(runtime, self._bare(runtime, Verb.DELETE, key, 0))

    def _bare(
        self, runtime: Runtime | None, verb: Verb, key: object, ttl: Ttl
    ) -> Steps[bool]:
        item = self.region.item(runtime, key, b"", self.region.ttl_ms(ttl))
        return self._write(runtime, verb, item)

    def incr(
        self, key: object, delta: int = 1, *, initial: int = 0, ttl: Ttl = UNSET
    ) -> int:
        """Add *delta* to the integer under *key*, atomically; return the sum.

        Args:
            key: where.
            delta: what to add, of either sign, within 64 bits.
            initial: what to count from where nothing is stored.
            ttl: for a counter that starts now. One that exists keeps its own.

        Raises:
            NotANumber: something else than an integer is stored there, or given here.
            ValueTooLarge: *delta* is not within 64 bits.
            ConfigError: the cache's codec is not "msgpack".
        """
        runtime = self.region.attached()
        return run(runtime, self._incr(runtime, key, delta, initial, ttl))

    async def aincr(
        self, key: object, delta: int = 1, *, initial: int = 0, ttl: Ttl = UNSET
    ) -> int:
        """Add *delta* to the integer under *key*, atomically; see `incr`."""
        runtime = self.region.attached()
        return await arun(runtime, self._incr(runtime, key, delta, initial, ttl))

    def decr(
        self, key: object, delta: int = 1, *, initial: int = 0, ttl: Ttl = UNSET
    ) -> int:
        """Subtract *delta* from the integer under *key*; see `incr`."""
        return self.incr(key, -delta, initial=initial, ttl=ttl)

    async def adecr(
        self, key: object, delta: int = 1, *, initial: int = 0, ttl: Ttl = UNSET
    ) -> int:
        """Subtract *delta* from the integer under *key*; see `incr`."""
        return await self.aincr(key, -delta, initial=initial, ttl=ttl)

    def _incr(
        self, runtime: Runtime | None, key: object, delta: int, initial: int, ttl: Ttl
    ) -> Steps[int]:
        region = self.region
        if not isinstance(region.codec, MsgpackCodec):
            raise ConfigError(
                f"cache {region.name!r} has the codec {region.codec.name!r}; the owner "
                'counts only what "msgpack" encodes, so keep counters in such a cache'
            )
        delta = _checked_number(delta, "delta")
        if not -(2**63) <= delta < 2**63:
            raise ValueTooLarge(f"delta={delta} is not within 64 bits; add it in parts")
        start = region.codec.encode(_checked_number(initial, "initial"))
        item = region.item(runtime, key, start, region.ttl_ms(ttl))
        item = item._replace(delta=delta)
        result = yield from write_one(region, runtime, Verb.INCR, item)
        number = region.codec.decode(result.number)
        assert isinstance(number, int)
        return number

    # --- many at once ------------------------------------------------------------

    def set_many(
        self, mapping: Mapping[Any, Any], ttl: Ttl = UNSET, *, tags: Tags = ()
    ) -> list[Any]:
        """Store every value of *mapping*; return the keys of those that were not.

        One request goes to each owner. The tags are those of each value.
        """
        runtime = self.region.attached()
        return run(runtime, self._set_many(runtime, mapping, ttl, tags))

    async def aset_many(
        self, mapping: Mapping[Any, Any], ttl: Ttl = UNSET, *, tags: Tags = ()
    ) -> list[Any]:
        """Store every value of *mapping*; see `set_many`."""
        runtime = self.region.attached()
        return await arun(runtime, self._set_many(runtime, mapping, ttl, tags))

    def _set_many(
        self, runtime: Runtime | None, mapping: Mapping[Any, Any], ttl: Ttl, tags: Tags
    ) -> Steps[list[Any]]:
        tags = (tags,) if isinstance(tags, str) else tuple(tags)
        items = [
            self._item(runtime, key, value, ttl, tags) for key, value in mapping.items()
        ]
        results = yield from write(self.region, runtime, Verb.SET, items)
        return [
            key
            for key, result in zip(mapping, results, strict=True)
            if isinstance(result, Unreached) or result.status is not Status.HIT
        ]

    def delete_many(self, keys: Iterable[object]) -> int:
        """Forget all of *keys*; return how many were stored.

        Raises:
            PeerUnavailable, PeerTimeout: some were not reached. All others are done.
        """
        runtime = self.region.attached()
        return run(runtime, self._delete_many(runtime, keys))

    async def adelete_many(self, keys: Iterable[object]) -> int:
        """Forget all of *keys*; see `delete_many`."""
        runtime = self.region.attached()
        return await arun(runtime, self._delete_many(runtime, keys))

    def _delete_many(
        self, runtime: Runtime | None, keys: Iterable[object]
    ) -> Steps[int]:
        region = self.region
        items = [region.item(runtime, key, b"", 0) for key in keys]
        results = yield from write(region, runtime, Verb.DELETE, items)
        pairs = zip(items, results, strict=True)
        return sum(checked(item, one).status is Status.HIT for item, one in pairs)

    def clear(self) -> None:
        """Forget everything in this cache, its memoized functions' values included.

        Raises:
            PeerUnavailable, PeerTimeout: some member was not reached. All others have
                forgotten.
        """
        runtime = self.region.attached()
        run(runtime, clear(self.region, runtime))

    async def aclear(self) -> None:
        """Forget everything in this cache; see `clear`."""
        runtime = self.region.attached()
        await arun(runtime, clear(self.region, runtime))

    def invalidate_tags(self, *tags: str) -> None:
        """Forget all values of this cache that bear one of *tags*.

        Those of its memoized functions too. It costs the same however many there are.
        A load under way of a value that will bear one serves those who asked before,
        and what it brings is not stored.

        Raises:
            PeerUnavailable, PeerTimeout: some member was not reached. All others have
                forgotten.
        """
        runtime = self.region.attached()
        run(runtime, untag(self.region, runtime, tags))

    async def ainvalidate_tags(self, *tags: str) -> None:
        """Forget all values of this cache that bear one of *tags*.

        See `invalidate_tags`.
        """
        runtime = self.region.attached()
        await arun(runtime, untag(self.region, runtime, tags))


def _checked_number(number: object, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise NotANumber(f"{what}={number!r} is no integer")
    return int(number)
