"""A region of the cluster's memory: its names and times, and how its reads go.

Each operation is a generator of steps (`runtime.steps`), so that `Cache` and memoized
functions can offer it sync and async without a second copy. A read goes near (this
process's decoded objects), then host (this node's own range), then to the owner. How
what is missing is loaded is in `loads`, how what is there is changed in `changes`.

The runtime is an argument: the node may be stopped by another thread at any time, and
an operation ends with the runtime it began with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import count
from sys import intern
from typing import Any, Final, NamedTuple, TypeAlias, final

from meshcache import default
from meshcache.answers import found as found_in
from meshcache.bypass import bypassed, bypassing
from meshcache.clock import monotonic
from meshcache.codec.envelope import MARK, Envelope, Kind, tag_hash, unwrap
from meshcache.codec.fields import MAX_TAGS, NO_EXPIRY
from meshcache.codec.keys import encode_key, full_key
from meshcache.codec.messages import Item
from meshcache.codec.values import BytesCodec, Codec, JsonCodec, MsgpackCodec
from meshcache.config import Config
from meshcache.engine.ops import Failure, GetKeys, Got, Tier
from meshcache.errors import (
    ConfigError,
    KeyRefused,
    SerializationError,
    ValueTooLarge,
)
from meshcache.freshness import EARLIEST, PLAIN, Age, Freshness, Recipe
from meshcache.hashing import (
    BUCKET_MASK,
    PARTITION_SHIFT,
    bucket_of,
    key_hash,
    partition_of,
)
from meshcache.model import MISSING, Unset
from meshcache.node import Node
from meshcache.runtime.failures import packed, unpacked
from meshcache.runtime.loaders import Loaded, Loader
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Answer, Steps
from meshcache.runtime.tally import Tally
from meshcache.store.generations import Stamp
from meshcache.store.near import VISITED_MAX, NearEntry, NearShelf
from meshcache.times import Ttl, checked_ttl

__all__ = ["MAX_KEY", "Held", "Home", "Region"]

Home: TypeAlias = Node | Callable[[], Node] | None
"""The node of a region: itself, a callable that returns it, or None, the default."""

MAX_KEY: Final = 65_536
MAX_NAME: Final = 1000

# Exact `str` and `int` keys are their own near keys; all others go by their encoding,
# which is bytes and so equals neither. (`True == 1 == 1.0` must not meet in a dict.)
_PLAIN: Final = frozenset({str, int})

_ids: Final = count(1)
_FRESH: Final = frozenset({Age.FRESH, Age.EARLY})


class Held(NamedTuple):
    """What was found of a key, decoded, and what it may be used for.

    Attributes:
        value: what is stored; nothing of use where there is a *failure*.
        age: how old it is for this region.
        got: where it was found, in which version and until when it is stored.
        failure: the error that is remembered in place of a value.
    """

    value: Any
    age: Age
    got: Got
    failure: Failure | None = None

    @property
    def fresh(self) -> bool:
        """Whether it is a value whose ttl is not over."""
        return self.failure is None and self.age in _FRESH


@final
class Region:
    """A named region with its codec, its times to live and its node. Thread-safe."""

    def __init__(
        self,
        name: str,
        *,
        codec: Codec,
        ttl: float | None,
        near_ttl: float | None,
        jitter: float,
        copy: bool,
        home: Home,
        freshness: Freshness = PLAIN,
    ) -> None:
        self.name: Final = name
        self.codec: Final = codec
        self.ttl: Final = ttl
        self.near_ttl: Final = near_ttl
        self.jitter: Final = jitter
        self.copy: Final = copy
        self.freshness: Final = freshness
        self._keep_ms: Final = freshness.keep_ms
        self.id: Final = _identity(name, codec, near_ttl, copy=copy)
        self.tally: Final = Tally()
        self.runtime: Runtime | None = None
        # The runtime's near entries, or none: what a memoized call looks at first.
        self.entries: dict[Hashable, NearEntry] = {}
        # Never none: a put that outlives the node must not lose its region's name.
        self._shelf = NearShelf(self.id)
        self._home = home
        self._keeps = 0.0
        self.prefix: Final = name.encode() + b"\0"
        self._random = random.Random()
        self._loader: Loader | None = None

    def part(self, name: str, freshness: Freshness = PLAIN) -> Region:
        """Return a region of its own within this one: cleared with it, and by itself.

        Raises:
            ConfigError: the two names together are too long.
        """
        full = f"{self.name}|{name}"
        if len(full.encode()) > MAX_NAME:
            raise ConfigError(
                f"{full!r:.80}... is over {MAX_NAME} bytes; pass a shorter name="
            )
        return Region(
            full,
            codec=self.codec,
            ttl=self.ttl,
            near_ttl=self.near_ttl,
            jitter=self.jitter,
            copy=self.copy,
            home=self._home,
            freshness=freshness,
        )

    # --- the node ----------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node that this region is on."""
        home = self._home
        if isinstance(home, Node):
            return home
        return default.node() if home is None else home()

    def bind(self) -> Runtime | None:
        """Return the runtime to read and load by; None if that shall do without."""
        runtime = self.runtime
        if runtime is None and not bypassed():
            runtime = self.attached()
        return runtime

    def attached(self) -> Runtime | None:
        """Return the running node's runtime; None if it is stopped or disabled."""
        runtime = self.runtime
        if runtime is None:
            node = self.node
            if self._loader is not None:
                node.register(self._loader)
            runtime = node.attach(self)
        return runtime

    def rebind(self, runtime: Runtime | None) -> None:
        """Use *runtime* from now on; None is to ask the node at the next use."""
        self.runtime = runtime
        if runtime is None:
            self._shelf, self.entries = NearShelf(self.id), {}
            return
        self._shelf = runtime.near.shelf(self.id)
        self.entries = self._shelf.entries
        self._keeps = self._near_seconds(runtime.config)
        if bypassing(self):
            # All take the long way then, which asks.
            self.runtime, self.entries = None, {}

    def _near_seconds(self, config: Config) -> float:
        """Return for how long this process may keep what it reads; 0 for not at all."""
        if not config.near_entries or not config.near_bytes:
            return 0.0
        most = config.near_ttl
        return most if self.near_ttl is None else min(self.near_ttl, most)

    def register(self, loader: Loader) -> None:
        """Let peers have *loader* run in this process, once the node runs.

        Where the node comes from a callable, that is from the region's first use on.
        """
        if self._home is None:
            default.register(loader)
        elif isinstance(self._home, Node):
            self._home.register(loader)
        else:
            self._loader = loader

    # --- reading -----------------------------------------------------------------

    def local(self, runtime: Runtime | None, key: object) -> Any:
        """Return what this process or this host's shared memory holds, or MISSING.

        The hot path of every read: near, then the owner's arena if it lies on this
        host, written out in one piece. Its budget is in tests/benchmarks.
        """
        if runtime is None:
            return MISSING
        kind = type(key)
        encoded = None if kind is str or kind is int else encode_key(key)
        near_key = key if encoded is None else encoded
        now = monotonic()
        entry = self.entries.get(near_key)
        if (
            entry is not None
            and entry.tenure.table[entry.bucket] == entry.generation
            and entry.expires > now
        ):
            if entry.visited < VISITED_MAX:
                entry.visited += 1
            self.tally.near()
            value = entry.value
            return self.codec.decode(value) if self.copy else value
        if encoded is None:
            full, hashed = full_key(self.prefix, key)
        else:
            full = self.prefix + encoded
            hashed = key_hash(full)
        return self._host(runtime, near_key, full, hashed, now)

    def _host(
        self, runtime: Runtime, near_key: object, full: bytes, hashed: int, now: float
    ) -> Any:
        tenure = runtime.tenures[hashed >> PARTITION_SHIFT]
        get = tenure.get
        if get is None:
            return MISSING
        if runtime.bell[0]:
            runtime.give_way()
        bucket = hashed & BUCKET_MASK
        generation = tenure.table[bucket]  # Before the read: see `Stamp`.
        found = get(full, hashed, now)
        if found is None:
            return MISSING
        encoded, version, expires = found
        if encoded[:1] == MARK:
            stamp = Stamp(tenure, bucket, generation)
            got = Got(encoded, expires, version, Tier.HOST, stamp)
            # What is old, or may be loaded anew, is for the long way to think about.
            held = self.judge(runtime, near_key, got, EARLIEST, hashed)
            if held is None or held.failure is not None or held.age is not Age.FRESH:
                return MISSING
            self.tally.host()
            return held.value
        # Another version of the application may have stored it, with another codec.
        try:
            value = self.codec.decode(encoded)
        except SerializationError:
            return MISSING
        self.tally.host()
        near_ttl = self._keeps
        if near_ttl and runtime.near.admits(hashed):
            until = now + near_ttl
            runtime.near.put(
                near_key,
                encoded if self.copy else value,
                expires=min(expires, until),
                stamp=Stamp(tenure, bucket, generation),
                weight=len(encoded),
                now=now,
                shelf=self._shelf,
            )
        return value

    def near(self, runtime: Runtime | None, key: object) -> Any:
        """Return what this process holds decoded, or MISSING."""
        return MISSING if runtime is None else self.held(runtime, self.near_key(key))

    def held(self, runtime: Runtime, near_key: object) -> Any:
        """Return what this process holds decoded by its near key, or MISSING."""
        found = runtime.near.get(near_key, monotonic(), self._shelf)
        if found is MISSING:
            return MISSING
        self.tally.near()
        return self.codec.decode(found) if self.copy else found

    def near_key(self, key: object) -> object:
        """Return what stands for *key* in the near cache of this region."""
        return key if type(key) in _PLAIN else encode_key(key)

    def find(
        self, runtime: Runtime, near_key: object, full: bytes, hashed: int
    ) -> Held | None:
        """Return what an arena of this host holds, whatever its age."""
        tenure = runtime.tenures[partition_of(hashed)]
        get = tenure.get
        if get is None:
            return None
        stamp = tenure.stamp(bucket_of(hashed))  # Before the read: see `Stamp`.
        found = get(full, hashed, monotonic())
        if found is None:
            return None
        encoded, version, expires = found
        got = Got(encoded, expires, version, Tier.HOST, stamp)
        return self.judge(runtime, near_key, got, hashed=hashed)

    def judge(
        self,
        runtime: Runtime,
        near_key: object,
        got: Got,
        chance: float | None = None,
        hashed: int | None = None,
    ) -> Held | None:
        """Decode what was found, and keep it near if it is fresh.

        Args:
            runtime: to keep it in.
            near_key: to keep it under.
            got: what was found.
            chance: as in `Freshness.age`; None draws one.
            hashed: of a key that can be read in this host's memory: such are kept
                near only when they are asked for more than once.

        Returns:
            None if it cannot be read: another version of the application may have
            stored it, with another codec.
        """
        drawn = self._random.random() if chance is None else chance
        now = monotonic()
        try:
            envelope = unwrap(got.value)
            age = self.freshness.age(envelope, got.expires, now, drawn)
            if envelope.kind is Kind.ERROR:
                return Held(None, age, got, unpacked(envelope.body))
            value = self.codec.decode(envelope.body)
        except SerializationError:
            return None
        if age is Age.FRESH and (hashed is None or runtime.near.admits(hashed)):
            # Only in an arena does a version tell when the value was stored.
            version = 0 if hashed is None else got.version
            self.keep(runtime, near_key, value, got, envelope, version=version)
        return Held(value, age, got)

    def keep(
        self,
        runtime: Runtime,
        near_key: object,
        value: object,
        got: Got,
        envelope: Envelope,
        *,
        version: int = 0,
    ) -> None:
        """Keep a fresh value near, as long as it may be given unasked.

        One with tags falls with each of them; see `Stamp.tagged` for *version*.
        """
        stamp = got.stamp
        if stamp is not None and envelope.tags:
            stamp = stamp.tagged(envelope.tags, version)
        if stamp is None or not self._keeps:
            return
        now = monotonic()
        until = self.freshness.near_until(envelope, got.expires, now)
        runtime.near.put(
            near_key,
            envelope.body if self.copy else value,
            expires=min(until, now + self._keeps),
            stamp=stamp,
            weight=len(got.value),
            now=now,
            shelf=self._shelf,
        )

    def get(self, runtime: Runtime | None, key: object, missing: Any) -> Steps[Any]:
        """Return the value of *key*, else *missing*."""
        full, hashed = self.full(runtime, key)
        near_key = self.near_key(key)
        held = yield from self.look_up(runtime, near_key, full, hashed)
        return missing if held is None or not held.fresh else held.value

    def look_up(
        self, runtime: Runtime | None, near_key: object, full: bytes, hashed: int
    ) -> Steps[Held | None]:
        """Return what is stored of a key that is not near, counted as a read."""
        held = None
        if runtime is not None:
            held = self.find(runtime, near_key, full, hashed)
            if held is None:
                answer: Answer = yield GetKeys(((full, hashed),))
                got = found_in(answer, 1)[0]
                held = None if got is None else self.judge(runtime, near_key, got)
        self.count(held)
        return held

    def count(self, held: Held | None) -> None:
        """Count a read by where its value was found."""
        if held is None or not held.fresh:
            self.tally.miss()
        else:
            self.tally.at(held.got.tier.value)

    def get_many(
        self, runtime: Runtime | None, keys: Sequence[object]
    ) -> Steps[dict[Any, Any]]:
        """Return the values of those of *keys* that are stored, by key.

        Raises:
            KeyRefused: two of them are two keys here and one in a dict.
        """
        self.check_apart(keys)
        values: dict[Any, Any] = {}
        asked: list[tuple[object, tuple[bytes, int]]] = []
        for key in keys:
            found = self.local(runtime, key)
            if found is MISSING:
                asked.append((key, self.full(runtime, key)))
            else:
                values[key] = found
        if asked and runtime is not None:
            answer: Answer = yield GetKeys(tuple(full for _, full in asked))
            for (key, _), got in zip(asked, found_in(answer, len(asked)), strict=True):
                near_key = self.near_key(key)
                held = None if got is None else self.judge(runtime, near_key, got)
                if held is not None and held.fresh:
                    values[key] = held.value
                    self.tally.at(held.got.tier.value)
        for key in keys:
            if key not in values:
                self.tally.miss()
        return {key: values[key] for key in keys if key in values}

    def check_apart(self, keys: Sequence[object]) -> None:
        """Refuse `1` beside `True`: the dict that is returned has room for one."""
        known: dict[Any, tuple[object, object]] = {}
        for key in keys:
            near_key = self.near_key(key)
            first, other = known.setdefault(key, (key, near_key))
            if other != near_key:
                raise KeyRefused(
                    f"{first!r} and {key!r} are two keys, and one in the dict that is "
                    "returned; ask for one of them by itself"
                )

    def contains(self, runtime: Runtime | None, key: object) -> Steps[bool]:
        """Return whether something is stored under *key*."""
        full, hashed = self.full(runtime, key)
        if runtime is None:
            return False
        get = runtime.tenures[partition_of(hashed)].get
        found = None if get is None else get(full, hashed, monotonic())
        if found is not None:
            return _is_fresh(found.value, found.expires)
        answer: Answer = yield GetKeys(((full, hashed),))
        got = found_in(answer, 1)[0]
        return got is not None and _is_fresh(got.value, got.expires)

    # --- keys, values, times -----------------------------------------------------

    def full(self, runtime: Runtime | None, key: object) -> tuple[bytes, int]:
        """Return the key as the cluster knows it, and its hash.

        Raises:
            KeyRefused: it has no stable encoding.
            ValueTooLarge: it is over `max_key_bytes`.
        """
        located = full, _ = full_key(self.prefix, key)
        if runtime is not None and len(full) <= runtime.config.max_key_bytes:
            return located
        return self.checked_key(runtime, full)

    def checked_key(self, runtime: Runtime | None, full: bytes) -> tuple[bytes, int]:
        """Return *full* and its hash, unless it is over the limit."""
        limit = MAX_KEY if runtime is None else runtime.config.max_key_bytes
        if len(full) > limit:
            raise ValueTooLarge(
                f"a key of {len(full)} bytes, {full!r:.60}..., is over max_key_bytes="
                f"{limit}; raise that, or use a digest as key"
            )
        return full, key_hash(full)

    def item(
        self, runtime: Runtime | None, key: object, value: bytes, ttl_ms: int
    ) -> Item:
        """Return what a write of *key* sends, unless it is over a limit."""
        full, _ = self.full(runtime, key)
        return self.checked_item(runtime, Item(full, value, ttl_ms, 0))

    def checked_item(self, runtime: Runtime | None, item: Item) -> Item:
        """Return *item*, unless its value is over `max_value_bytes`."""
        if runtime is None or len(item.value) <= runtime.config.max_value_bytes:
            return item
        raise ValueTooLarge(
            f"the value of {item.key!r:.200} takes {len(item.value)} bytes, over "
            f"max_value_bytes={runtime.config.max_value_bytes}; raise that, or store "
            "less under one key"
        )

    def sealed(
        self, body: bytes, ttl: Ttl, tags: tuple[int, ...] = (), cost: float = 0.0
    ) -> Loaded:
        """Return what is stored of a value's bytes, and for how long.

        Args:
            body: the codec's bytes.
            ttl: seconds for which they are fresh.
            tags: the hashes of its tags.
            cost: seconds that its load took.

        Raises:
            ConfigError: the ttl is negative, or no number.
        """
        ttl_ms = self.ttl_ms(ttl)
        keep_ms = self._keep_ms if ttl_ms > 0 else 0
        if not (keep_ms or tags or cost) and not body.startswith(MARK):
            return Loaded(body, ttl_ms)
        envelope = Envelope(body, keep_ms, int(cost * 1000), tags)
        return Loaded(envelope.wrap(), ttl_ms + keep_ms)

    def brewed(self, value: object, recipe: Recipe, cost: float) -> Loaded:
        """Return what is stored of what a load brought after *cost* seconds.

        Raises:
            SerializationError: the value would not come back the same.
            ConfigError: its ttl is negative, or no number.
        """
        body = self.codec.encode(value)
        paid = cost if self.freshness.early else 0.0
        return self.sealed(body, recipe.ttl_of(value), recipe.tags, paid)

    def remembered(self, failure: Failure, recipe: Recipe) -> Loaded:
        """Return what is stored of an error that a load ended with."""
        ttl_ms = self.ttl_ms(recipe.error_ttl)
        envelope = Envelope(packed(failure), tags=recipe.tags, kind=Kind.ERROR)
        return Loaded(envelope.wrap(), ttl_ms)

    def tag_hashes(self, tags: str | Iterable[str]) -> tuple[int, ...]:
        """Return what stands for *tags* in this cache, each once, in order.

        Raises:
            ConfigError: one is no text, or there are too many.
        """
        names = sorted({tags} if isinstance(tags, str) else set(tags))
        for name in names:
            if type(name) is not str or not name:
                raise ConfigError(f"tags: {name!r} is no tag; a tag is a word of text")
        if len(names) > MAX_TAGS:
            raise ConfigError(f"{len(names)} tags are over the {MAX_TAGS} of one value")
        return tuple(tag_hash(self.name, name) for name in names)

    def ttl_ms(self, ttl: Ttl) -> int:
        """Return a ttl in the wire's milliseconds, with the region's jitter taken off.

        Raises:
            ConfigError: it is negative, or no number.
        """
        seconds = self.ttl if isinstance(ttl, Unset) else checked_ttl(ttl, "ttl")
        if seconds is None:
            return NO_EXPIRY
        if seconds == 0:
            return 0
        less = self._random.random() * self.jitter
        return max(1, int(seconds * (1 - less) * 1000))


def _is_fresh(stored: bytes, expires: float) -> bool:
    """Return whether what is stored is a value whose ttl is not over."""
    try:
        envelope = unwrap(stored)
    except SerializationError:
        return False
    fresh = monotonic() < envelope.fresh_until(expires)
    return fresh and envelope.kind is Kind.VALUE


def _identity(name: str, codec: Codec, near_ttl: float | None, *, copy: bool) -> str:
    """Return what regions have in common that may use each other's decoded values.

    Two caches of one name and the same options may, so one made anew for each request
    finds what the one before it kept. Whether two codecs of the application's are
    alike is not known.
    """
    ours = isinstance(codec, MsgpackCodec | JsonCodec | BytesCodec)
    # Interned, so that a look-up compares pointers.
    return intern(f"{name}\0{codec.name if ours else next(_ids)}\0{near_ttl}\0{copy}")
