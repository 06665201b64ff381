"""A cache: what the application holds, a named region with its own keys and defaults.

Every operation has an a-prefixed async twin. Both drive the same generator of
`Region`, by waiting or by awaiting.

Reads fail open: what the mesh cannot answer is a miss or a local load. Writes fail
loud: one that was not done, or may not have been, raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import (
    Any,
    Final,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    Unpack,
    cast,
    final,
    overload,
)

from meshcache.codec.values import codec
from meshcache.engine.ops import LoadKey
from meshcache.entry import CacheEntry, entry
from meshcache.errors import ConfigError
from meshcache.freshness import Recipe, TtlOf
from meshcache.handles import AsyncMemoized, Memoized
from meshcache.loads import Wanted, load
from meshcache.many import Batch, load_many
from meshcache.memoize import memoized
from meshcache.memoize_many import AsyncManyMemoized, ManyMemoized, memoized_many
from meshcache.model import MISSING, UNSET, Unset
from meshcache.node import Node
from meshcache.options import (
    ManyOptions,
    MemoizeOptions,
    Options,
    Tags,
    checked_known,
    freshness_of,
    settings_of,
)
from meshcache.region import Home, Region
from meshcache.runtime.chain import current
from meshcache.runtime.failures import BUILTIN
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps, arun, run
from meshcache.times import checked_timeout, checked_ttl
from meshcache.writing import Writing

__all__ = ["Cache", "Options"]

DEFAULT_TTL: Final = 300.0
DEFAULT_JITTER: Final = 0.1
MAX_NAME: Final = 512

Key = TypeVar("Key")
Value = TypeVar("Value")
P = ParamSpec("P")
R = TypeVar("R")
Coming: TypeAlias = Coroutine[Any, Any, R]


class Memoizer(Protocol):
    """What `memoize(...)` returns: the decorator itself."""

    # A coroutine function fits both, and the first that fits is meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncMemoized[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Memoized[P, R]: ...


class ManyMemoizer(Protocol):
    """What `memoize_many(...)` returns: the decorator itself."""

    @overload
    def __call__(
        self,
        function: Callable[[list[Key]], Coroutine[Any, Any, Mapping[Key, Value]]],
        /,
    ) -> AsyncManyMemoized[Key, Value]: ...
    @overload
    def __call__(
        self, function: Callable[[list[Key]], Mapping[Key, Value]], /
    ) -> ManyMemoized[Key, Value]: ...


@final
class Cache(Writing):
    """A named region with its own keys and defaults. Thread-safe.

    Two caches of the same name, in this process or another, are one and the same
    data. Constructing one starts nothing; the first use starts its node.

    Args:
        name: 1 to 512 bytes of printable text without `|`.
        ttl: seconds to live for what is stored without saying otherwise. None never
            expires (what is not used may still be evicted).
        near_ttl: seconds for which this process may answer from its own memory. Writes
            are noticed at once in the usual case; this bounds what a lost message can
            cost. None is the node's setting, which also is the most; 0 turns it off.
        jitter: up to this share is taken off each ttl, at random, so that what was
            stored together does not expire together. 0 to 1.
        codec: how values become bytes: "msgpack" (exact for many types), "json",
            "bytes", or your own `Codec`.
        copy: give each caller an object of its own, decoded anew, which it may change.
            By default those of one process share what is near, and must not change it.
        stale: seconds beyond its ttl for which a loaded value is given all the same,
            while one caller in the cluster loads it anew behind its readers.
        stale_if_error: seconds beyond its ttl for which it is given if the load fails.
        early: how eagerly a fresh value is loaded anew before its ttl is over, by
            chance and by what its load took, so that a popular one is never missing.
            0 is not at all, 1 as its authors have it (XFetch: Vattani, Chierichetti
            and Lowenstein, VLDB 8(8), 2015).
        soft_timeout: seconds to wait for a load where `stale_if_error` has an old
            value to give in its place; the load goes on. None is to its end.
        none_ttl: seconds to live for a loaded `None`. Unset, as for any other value.
        node: the node to use. None is the default node; a callable returns one.

    Raises:
        ConfigError: an option is unknown or out of its bounds.
    """

    def __init__(
        self, name: str, *, node: Home = None, **options: Unpack[Options]
    ) -> None:
        checked_known(dict(options), Options, "a cache")
        none_ttl = options.get("none_ttl", UNSET)
        if not isinstance(none_ttl, Unset):
            none_ttl = checked_ttl(none_ttl, "none_ttl")
        self._none_ttl: Final = none_ttl
        region = Region(
            _checked_name(name),
            codec=codec(options.get("codec", "msgpack")),
            ttl=checked_ttl(options.get("ttl", DEFAULT_TTL), "ttl"),
            near_ttl=checked_ttl(options.get("near_ttl"), "near_ttl"),
            jitter=_checked_jitter(options.get("jitter", DEFAULT_JITTER)),
            copy=_checked_copy(options.get("copy", False)),
            home=node,
            freshness=freshness_of(dict(options)),
        )
        super().__init__(region)

    def __repr__(self) -> str:
        return f"<Cache {self.name!r}, ttl={self.region.ttl}>"

    @property
    def name(self) -> str:
        """The name that makes it one with all caches of that name."""
        return self.region.name

    @property
    def node(self) -> Node:
        """The node that this cache uses."""
        return self.region.node

    # --- reading -----------------------------------------------------------------

    def get(self, key: object, default: Any = None) -> Any:
        """Return the value stored under *key*, else *default*.

        Raises:
            KeyRefused: the key has no stable encoding.
            ValueTooLarge: the key is over `max_key_bytes`.
        """
        region = self.region
        runtime = region.runtime or region.bind()
        found = region.local(runtime, key)
        if found is not MISSING:
            return found
        return run(runtime, region.get(runtime, key, default))

    async def aget(self, key: object, default: Any = None) -> Any:
        """Return the value stored under *key*, else *default*; see `get`."""
        region = self.region
        runtime = region.runtime or region.bind()
        found = region.local(runtime, key)
        if found is not MISSING:
            return found
        return await arun(runtime, region.get(runtime, key, default))

    def get_many(self, keys: Iterable[object]) -> dict[Any, Any]:
        """Return the values of those of *keys* that are stored, by key.

        Keys that are not near go as one request to each owner.
        """
        runtime = self.region.bind()
        return run(runtime, self.region.get_many(runtime, list(keys)))

    async def aget_many(self, keys: Iterable[object]) -> dict[Any, Any]:
        """Return the values of those of *keys* that are stored; see `get_many`."""
        runtime = self.region.bind()
        return await arun(runtime, self.region.get_many(runtime, list(keys)))

    def __contains__(self, key: object) -> bool:
        runtime = self.region.bind()
        return run(runtime, self.region.contains(runtime, key))

    async def acontains(self, key: object) -> bool:
        """Return whether something is stored under *key*: the twin of `in`."""
        runtime = self.region.bind()
        return await arun(runtime, self.region.contains(runtime, key))

    def get_entry(self, key: object) -> CacheEntry | None:
        """Return what is stored under *key* and what is known of it, else None.

        Unlike `get` it returns what is stale too, and says so.
        """
        runtime = self.region.bind()
        return run(runtime, entry(self.region, runtime, key))

    async def aget_entry(self, key: object) -> CacheEntry | None:
        """Return what is stored under *key* and what is known; see `get_entry`."""
        runtime = self.region.bind()
        return await arun(runtime, entry(self.region, runtime, key))

    # --- loading -----------------------------------------------------------------

    def get_or_load(
        self,
        key: object,
        loader: Callable[[], Value],
        *,
        ttl: TtlOf = UNSET,
        tags: Tags = (),
        load_timeout: float | None = None,
    ) -> Value:
        """Return the value of *key*, loaded by *loader* if nobody has it.

        One loader runs in the whole cluster, in the context of one of those who ask;
        the others wait for what it brings.

        Args:
            key: anything with a stable encoding.
            loader: takes nothing and returns the value.
            ttl: seconds to live, None for ever, 0 not stored; unset, the cache's own.
                Or what returns them for the value.
            tags: words by which `invalidate_tags` forgets it, up to 16.
            load_timeout: seconds to wait for somebody else's load; None is the node's
                setting.

        Raises:
            LoadError: the loader raised for somebody else, and this caller waited.
                Built-in exceptions are raised as themselves.
            LoadTimeout: a load took too long.
            RecursiveLoad: called by the loader of the same key.
            SerializationError: the value would not come back the same.
        """
        runtime = self.region.runtime or self.region.bind()
        value: Value = self.region.local(runtime, key)
        if value is not MISSING:
            return value
        recipe = self._recipe(ttl, tags)
        steps = self._load(runtime, key, loader, recipe, load_timeout)
        loaded: Value = run(runtime, steps)
        return loaded

    @overload
    async def aget_or_load(
        self,
        key: object,
        loader: Callable[[], Awaitable[Value]],
        *,
        ttl: TtlOf = ...,
        tags: Tags = ...,
        load_timeout: float | None = ...,
    ) -> Value: ...
    @overload
    async def aget_or_load(
        self,
        key: object,
        loader: Callable[[], Value],
        *,
        ttl: TtlOf = ...,
        tags: Tags = ...,
        load_timeout: float | None = ...,
    ) -> Value: ...
    async def aget_or_load(
        self,
        key: object,
        loader: Callable[[], Any],
        *,
        ttl: TtlOf = UNSET,
        tags: Tags = (),
        load_timeout: float | None = None,
    ) -> Any:
        """Return the value of *key*, loaded if nobody has it; see `get_or_load`.

        *loader* is a coroutine function, or a plain one, which runs in a thread. A
        coroutine that takes longer than *load_timeout* is cancelled.
        """
        runtime = self.region.runtime or self.region.bind()
        value = self.region.local(runtime, key)
        if value is not MISSING:
            return value
        recipe = self._recipe(ttl, tags)
        steps = self._load(runtime, key, loader, recipe, load_timeout)
        return await arun(runtime, steps)

    def _recipe(self, ttl: TtlOf, tags: Tags) -> Recipe:
        if not callable(ttl):
            self.region.ttl_ms(ttl)
        return Recipe(ttl, self._none_ttl, tags=self.region.tag_hashes(tags))

    def _load(
        self,
        runtime: Runtime | None,
        key: object,
        loader: Callable[[], Any],
        recipe: Recipe,
        load_timeout: float | None,
    ) -> Steps[Any]:
        region, timeout = self.region, checked_timeout(load_timeout)
        full, hashed = region.full(runtime, key)
        op = LoadKey(full, hashed, "", 0, b"", current(), timeout, tags=recipe.tags)
        wanted = Wanted(region.near_key(key), op, loader, recipe, BUILTIN)
        return load(region, runtime, wanted)

    def get_or_load_many(
        self,
        keys: Iterable[Key],
        loader: Callable[[list[Key]], Mapping[Key, Value]],
        *,
        ttl: TtlOf = UNSET,
        tags: Tags = (),
        load_timeout: float | None = None,
    ) -> dict[Key, Value]:
        """Return the values of *keys*, what is missing loaded by one call of *loader*.

        One request goes to each owner. Each key is loaded once in the cluster at a
        time, and shares that load with single reads. What the cache's options say of
        old values holds for each key; with a `soft_timeout` those that are to stand in
        for a load are loaded by a call of their own.

        Args:
            keys: the keys, each with a stable encoding.
            loader: takes a list of those that nobody has and nobody loads, and returns
                their values by key. What it leaves out does not exist: it is left out
                of the answer, and nothing is stored.
            ttl: as in `get_or_load`; also the others.
            tags: those of each value.
            load_timeout: seconds to wait for somebody else's load.

        Raises:
            KeyRefused: two of the keys are two keys here and one in a dict.
            as `get_or_load` does.
        """
        runtime = self.region.runtime or self.region.bind()
        batch = self._batch(keys, loader, self._recipe(ttl, tags), load_timeout)
        return run(runtime, load_many(self.region, runtime, batch))

    async def aget_or_load_many(
        self,
        keys: Iterable[Key],
        loader: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]],
        *,
        ttl: TtlOf = UNSET,
        tags: Tags = (),
        load_timeout: float | None = None,
    ) -> dict[Key, Value]:
        """Return the values of *keys*, loaded if need be; see `get_or_load_many`."""
        runtime = self.region.runtime or self.region.bind()
        batch = self._batch(keys, loader, self._recipe(ttl, tags), load_timeout)
        return await arun(runtime, load_many(self.region, runtime, batch))

    def _batch(
        self,
        keys: Iterable[Any],
        loader: Callable[..., Any],
        recipe: Recipe,
        load_timeout: float | None,
    ) -> Batch:
        return Batch(list(keys), loader, recipe, checked_timeout(load_timeout))

    # --- memoizing ---------------------------------------------------------------

    @overload
    def memoize(  # type: ignore[overload-overlap] # as for `Memoizer`
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncMemoized[P, R]: ...
    @overload
    def memoize(self, function: Callable[P, R], /) -> Memoized[P, R]: ...
    @overload
    def memoize(self, /, **options: Unpack[MemoizeOptions]) -> Memoizer: ...
    def memoize(
        self,
        function: Callable[..., Any] | None = None,
        /,
        **options: Unpack[MemoizeOptions],
    ) -> Any:
        """Keep a function's results in this cache, by its arguments.

        Use it bare, `@users.memoize`, or with options. The function may be `async
        def`. What the decorated function has beside itself, `invalidate`, `refresh`,
        `peek` and so on, is described by `Memoized`.

        Args:
            function: the loader; its arguments need a stable encoding.
            **options:
                ttl: seconds to live, None for ever, 0 not stored; unset, the cache's
                    own. Or what returns them for a value: `lambda token: token.life`.
                key: makes the key from the arguments, in place of all of them.
                ignore: names of arguments that do not tell calls apart, such as a
                    connection. The owner cannot know them, so the caller loads.
                name: what all processes call this function. By default its module and
                    qualified name; needed for lambdas and for functions that take
                    values from a function around them.
                version: raise it when the function's results change in kind: processes
                    of different versions then do not share.
                tags: words by which `invalidate_tags` forgets values, up to 16; or
                    what returns them for the arguments of a call.
                fill: "owner" runs the loader in the process that owns the key, if that
                    has the function too; "caller" runs it where it was called.
                stale, stale_if_error, early, soft_timeout: as for `Cache`; unset, the
                    cache's own.
                none_ttl: seconds to live for `None`; unset, the cache's own, else as
                    for any other value.
                errors: exception classes that callers shall see as themselves when the
                    loader raised them in another process. Built-in ones need no
                    mention for that.
                error_ttl: seconds for which an error of one of these classes is
                    remembered, and raised without a load. An error never takes the
                    place of a value.
                cache_if: takes a value and returns whether to store it.
                load_timeout: seconds to wait for a load elsewhere; None is the node's.

        Raises:
            ConfigError: the function cannot be memoized, or an option is wrong.
        """
        region = self.region
        settings = settings_of(options, region.freshness, self._none_ttl)
        if function is None:
            return lambda loader: memoized(loader, region, settings)
        return memoized(function, region, settings)

    @overload
    def memoize_many(
        self,
        function: Callable[[list[Key]], Coroutine[Any, Any, Mapping[Key, Value]]],
        /,
    ) -> AsyncManyMemoized[Key, Value]: ...
    @overload
    def memoize_many(
        self, function: Callable[[list[Key]], Mapping[Key, Value]], /
    ) -> ManyMemoized[Key, Value]: ...
    @overload
    def memoize_many(self, /, **options: Unpack[ManyOptions]) -> ManyMemoizer: ...
    def memoize_many(
        self,
        function: Callable[..., Any] | None = None,
        /,
        **options: Unpack[ManyOptions],
    ) -> Any:
        """Keep the results of a function of many keys in this cache, key by key.

        The function takes a list of keys and returns a dict of their values; called
        through the cache it gets those that are missing. See `get_or_load_many`.

        Args:
            function: the loader.
            **options: those of `memoize` that make sense here: ttl, name, version,
                tags (words alone), stale, stale_if_error, early, soft_timeout,
                none_ttl, cache_if and load_timeout.

        Raises:
            ConfigError: the function cannot be memoized so, or an option is wrong.
        """
        checked_known(dict(options), ManyOptions, "a memoized function of many keys")
        region = self.region
        chosen = cast("MemoizeOptions", options)
        settings = settings_of(chosen, region.freshness, self._none_ttl)
        if function is None:
            return lambda loader: memoized_many(loader, region, settings)
        return memoized_many(function, region, settings)


def _checked_copy(copy: object) -> bool:
    if not isinstance(copy, bool):
        raise ConfigError(f"copy={copy!r} is neither True nor False")
    return copy


def _checked_jitter(jitter: object) -> float:
    if isinstance(jitter, bool) or not isinstance(jitter, int | float):
        raise ConfigError(f"jitter={jitter!r} is no number")
    if not 0 <= jitter <= 1:
        raise ConfigError(f"jitter={jitter!r} is not in 0 to 1; it is a share of ttl")
    return float(jitter)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name.isprintable() or "|" in name:
        raise ConfigError(f"a cache's name is printable text without '|', not {name!r}")
    if not 1 <= len(name.encode()) <= MAX_NAME:
        raise ConfigError(f"a cache's name has 1 to {MAX_NAME} bytes, not {name!r:.60}")
    return name
