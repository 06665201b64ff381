"""Writing the keys that this node owns, on whatever thread of this process.

A write is done under the store's lock, in this order: the store, then the generation.
So whoever reads after it has returned reads the new value, and no near entry made
before it is used again, in any process of the host.

The driver thread writes what peers and this process ask for. A thread of the
application may write by itself (`direct`) what this process owns, which spares it two
thread switches, unless something else has to happen too that only the driver can do: a
load of that key is under way, or the partition is just being taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

from meshcache.clock import NEVER, HybridClock
from meshcache.codec.envelope import MARK, Kind, unwrap
from meshcache.codec.messages import Item, Status, Verb
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.ops import WriteResult
from meshcache.errors import MeshCacheError, SerializationError, ValueTooLarge
from meshcache.fill.flight import Flights
from meshcache.hashing import bucket_of, partition_of
from meshcache.store.arena import Arena
from meshcache.store.layout import SEALED_BIT
from meshcache.store.record import Entry, Fields

__all__ = ["DONE", "Owner", "moves"]

DONE: Final = WriteResult(Status.HIT, b"")
NOTHING: Final = WriteResult(Status.MISS, b"")
NOT_OURS: Final = WriteResult(Status.NOT_OWNER, b"")
TOO_LARGE: Final = WriteResult(Status.TOO_LARGE, b"")
NOT_A_NUMBER: Final = WriteResult(Status.NOT_A_NUMBER, b"")

MAX_NUMBER: Final = 1024
"""Bytes of a counter. Anything longer is not decoded, for that happens under the
lock."""

_numbers: Final = MsgpackCodec()


def moves(verb: Verb, result: WriteResult) -> bool:
    """Whether a write that ended so has moved its key's generation.

    A delete has, even where nothing was stored: a load may be under way.
    """
    done = result.status is Status.HIT
    return done or (verb is Verb.DELETE and result.status is Status.MISS)


@final
class Owner:
    """The store, its clock and its lock. Thread-safe.

    `wrote` is told the hash of each key that is written, and nobody if it is None;
    it is for whoever moves entries in meanwhile, and set under the lock.
    """

    __slots__ = ("_clock", "_flights", "_inside", "_store", "_wall_offset_ns", "wrote")

    def __init__(self, store: Arena, flights: Flights, wall_offset_ns: int) -> None:
        self._store = store
        self._flights = flights
        self._clock = HybridClock()
        self._wall_offset_ns = wall_offset_ns
        # Whether the calling thread holds the lock, as `threading.Condition` asks it.
        self._inside: Callable[[], bool] = store.lock._is_owned  # type: ignore[attr-defined] # noqa: SLF001 - there is no public way
        self.wrote: set[int] | None = None

    def stamp(self, now: float) -> int:
        """Return a version for a write that happens now."""
        with self._store.lock:
            return self._clock.stamp(int(now * 1e9) + self._wall_offset_ns)

    def observe(self, version: int, now: float) -> None:
        """Take note of a version made by another node."""
        with self._store.lock:
            self._clock.observe(version, int(now * 1e9) + self._wall_offset_ns)

    # --- writes ------------------------------------------------------------------

    def direct(
        self, verb: Verb, item: Item, hashed: int, now: float
    ) -> WriteResult | None:
        """Do one write on the calling thread; None if that is for the driver to do.

        Raises:
            MeshCacheError: called by a signal handler or a finalizer that interrupted
                this very thread in the middle of another change of the store.
        """
        store = self._store
        if self._inside():
            raise MeshCacheError(
                f"the write of {item.key!r:.200} came in the middle of another one "
                "on the same thread, from a signal handler or a finalizer; do it "
                "from a thread of its own"
            )
        with store.lock:
            if (
                not 0 < store.tenures[partition_of(hashed)] < SEALED_BIT
                or self.wrote is not None
                or self._flights.joinable(item.key) is not None
            ):
                return None
            return self._do(verb, item, hashed, now)

    def apply(self, verb: Verb, item: Item, hashed: int, now: float) -> WriteResult:
        """Do one write on the driver thread; `NOT_OURS` if the key is not ours."""
        with self._store.lock:
            if not self._store.granted(partition_of(hashed)):
                return NOT_OURS
            result = self._do(verb, item, hashed, now)
            if moves(verb, result):
                self._flights.detach_key(item.key)
            return result

    def fill(self, key: bytes, hashed: int, entry: Entry, now: float) -> bool:
        """Store what a loader brought; False if the key is not ours to store.

        Raises:
            ValueTooLarge: there is no room for it.
        """
        with self._store.lock:
            return self._store_entry(key, hashed, entry, now)

    def _do(self, verb: Verb, item: Item, hashed: int, now: float) -> WriteResult:
        try:
            result = _DO[verb](self, item, hashed, now)
        except ValueTooLarge:
            return TOO_LARGE
        if result is DONE or moves(verb, result):
            self._store.generations.bump(bucket_of(hashed))
        return result

    def _put(
        self, key: bytes, hashed: int, value: bytes, expires: float, now: float
    ) -> bool:
        version = self._clock.stamp(int(now * 1e9) + self._wall_offset_ns)
        return self._store_entry(key, hashed, (value, version, expires), now)

    def _store_entry(self, key: bytes, hashed: int, entry: Fields, now: float) -> bool:
        value, version, expires = entry
        stored = self._store.put(
            key, hashed, value, version=version, expires=expires, now=now
        )
        if self.wrote is not None:
            self.wrote.add(hashed)
        return stored

    def _set(self, item: Item, hashed: int, now: float) -> WriteResult:
        key, value, ttl_ms, _ = item
        if ttl_ms == 0:
            self._remove(item, hashed, now)
        else:
            self._put(key, hashed, value, _expires(ttl_ms, now), now)
        return DONE

    def _add(self, item: Item, hashed: int, now: float) -> WriteResult:
        if _current(self._store.get(item.key, hashed, now), now) is not None:
            return NOTHING
        return self._set(item, hashed, now)

    def _touch(self, item: Item, hashed: int, now: float) -> WriteResult:
        if item.ttl_ms == 0:
            return self._delete(item, hashed, now)
        entry = _current(self._store.get(item.key, hashed, now), now)
        if entry is None:
            return NOTHING
        kept = unwrap(entry.value).keep_ms / 1000
        expires = _expires(item.ttl_ms, now) + kept
        found = self._store.touch(item.key, hashed, expires, now)
        return NOTHING if found is None else DONE

    def _delete(self, item: Item, hashed: int, now: float) -> WriteResult:
        return DONE if self._remove(item, hashed, now) else NOTHING

    def _remove(self, item: Item, hashed: int, now: float) -> bool:
        if self.wrote is not None:
            self.wrote.add(hashed)
        return _current(self._store.remove(item.key, hashed, now), now) is not None

    def _incr(self, item: Item, hashed: int, now: float) -> WriteResult:
        entry = _current(self._store.get(item.key, hashed, now), now)
        found = unwrap(item.value if entry is None else entry.value)
        number: object = None
        if len(found.body) <= MAX_NUMBER:
            with suppress(SerializationError):
                number = _numbers.decode(found.body)
        if type(number) is not int:
            return NOT_A_NUMBER
        encoded = _numbers.encode(number + item.delta)
        value = found._replace(body=encoded).wrap()
        if entry is not None:
            self._put(item.key, hashed, value, entry.expires, now)
        elif item.ttl_ms != 0:
            self._put(item.key, hashed, value, _expires(item.ttl_ms, now), now)
        return WriteResult(Status.HIT, encoded)


def _current(entry: Entry | None, now: float) -> Entry | None:
    """Return *entry* if it is a value whose ttl is not over, though it may be kept.

    What no reader can make out is none.
    """
    if entry is None or not entry.value.startswith(MARK):
        return entry
    try:
        found = unwrap(entry.value)
    except SerializationError:
        return None
    fresh = now < found.fresh_until(entry.expires)
    return entry if fresh and found.kind is Kind.VALUE else None


def _expires(ttl_ms: int, now: float) -> float:
    return NEVER if ttl_ms < 0 else now + ttl_ms / 1000


_DO: Final = {
    Verb.SET: Owner._set,  # noqa: SLF001 - the table is part of the class
    Verb.ADD: Owner._add,  # noqa: SLF001
    Verb.TOUCH: Owner._touch,  # noqa: SLF001
    Verb.DELETE: Owner._delete,  # noqa: SLF001
    Verb.INCR: Owner._incr,  # noqa: SLF001
}
