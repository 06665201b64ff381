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
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    final,
    overload,
)

from meshcache.answers import checked
from meshcache.codec.messages import Item, Status, Verb
from meshcache.codec.values import Codec, MsgpackCodec, codec
from meshcache.engine.ops import LoadKey, Unreached
from meshcache.errors import ConfigError, NotANumber, ValueTooLarge
from meshcache.handles import AsyncMemoized, Memoized
from meshcache.memoize import Settings, memoized
from meshcache.model import MISSING, UNSET, Unset
from meshcache.node import Node
from meshcache.region import Home, Region, Wanted
from meshcache.runtime.chain import current
from meshcache.runtime.failures import BUILTIN
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps, arun, run
from meshcache.times import Ttl, checked_timeout, checked_ttl

__all__ = ["Cache", "Options"]

DEFAULT_TTL: Final = 300.0
DEFAULT_JITTER: Final = 0.1
MAX_NAME: Final = 512

Value = TypeVar("Value")
P = ParamSpec("P")
R = TypeVar("R")


class Memoizer(Protocol):
    """What `memoize(...)` returns: the decorator itself."""

    # A coroutine function fits both, and the first that fits is meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncMemoized[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Memoized[P, R]: ...


class Options(TypedDict, total=False):
    """The options of a cache; see `Cache`."""

    ttl: float | None
    near_ttl: float | None
    jitter: float
    codec: str | Codec
    copy: bool


@final
class Cache:
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
        node: the node to use. None is the default node; a callable returns one.

    Raises:
        ConfigError: an option is unknown or out of its bounds.
    """

    def __init__(
        self, name: str, *, node: Home = None, **options: Unpack[Options]
    ) -> None:
        unknown = set(options) - set(Options.__annotations__)
        if unknown:
            names, known = ", ".join(sorted(unknown)), ", ".join(_KNOWN)
            raise ConfigError(f"{names}: no such option; a cache has {known}")
        self.region: Final = Region(
            _checked_name(name),
            codec=codec(options.get("codec", "msgpack")),
            ttl=checked_ttl(options.get("ttl", DEFAULT_TTL), "ttl"),
            near_ttl=checked_ttl(options.get("near_ttl"), "near_ttl"),
            jitter=_checked_jitter(options.get("jitter", DEFAULT_JITTER)),
            copy=_checked_copy(options.get("copy", False)),
            home=node,
        )

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

    # --- loading -----------------------------------------------------------------

    def get_or_load(
        self,
        key: object,
        loader: Callable[[], Value],
        *,
        ttl: Ttl = UNSET,
        load_timeout: float | None = None,
    ) -> Value:
        """Return the value of *key*, loaded by *loader* if nobody has it.

        One loader runs in the whole cluster, in the context of one of those who ask;
        the others wait for what it brings.

        Args:
            key: anything with a stable encoding.
            loader: takes nothing and returns the value.
            ttl: seconds to live, None for ever, 0 not stored; unset, the cache's own.
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
        loaded: Value = run(
            runtime, self._load(runtime, key, loader, ttl, load_timeout)
        )
        return loaded

    @overload
    async def aget_or_load(
        self,
        key: object,
        loader: Callable[[], Awaitable[Value]],
        *,
        ttl: Ttl = ...,
        load_timeout: float | None = ...,
    ) -> Value: ...
    @overload
    async def aget_or_load(
        self,
        key: object,
        loader: Callable[[], Value],
        *,
        ttl: Ttl = ...,
        load_timeout: float | None = ...,
    ) -> Value: ...
    async def aget_or_load(
        self,
        key: object,
        loader: Callable[[], Any],
        *,
        ttl: Ttl = UNSET,
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
        return await arun(runtime, self._load(runtime, key, loader, ttl, load_timeout))

    def _load(
        self,
        runtime: Runtime | None,
        key: object,
        loader: Callable[[], Any],
        ttl: Ttl,
        load_timeout: float | None,
    ) -> Steps[Any]:
        region, timeout = self.region, checked_timeout(load_timeout)
        full, hashed = region.full(runtime, key)
        op = LoadKey(full, hashed, "", 0, b"", current(), timeout)
        wanted = Wanted(region.near_key(key), op, loader, ttl, BUILTIN)
        return region.fill(runtime, wanted)

    # --- memoizing ---------------------------------------------------------------

    @overload
    def memoize(  # type: ignore[overload-overlap] # as for `Memoizer`
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncMemoized[P, R]: ...
    @overload
    def memoize(self, function: Callable[P, R], /) -> Memoized[P, R]: ...
    @overload
    def memoize(
        self,
        /,
        *,
        ttl: Ttl = ...,
        key: Callable[..., object] | None = ...,
        ignore: Iterable[str] = ...,
        name: str | None = ...,
        version: int = ...,
        fill: Literal["owner", "caller"] = ...,
        errors: type[Exception] | Iterable[type[Exception]] = ...,
        load_timeout: float | None = ...,
    ) -> Memoizer: ...
    def memoize(  # noqa: PLR0913 - a decorator's options, each by its name
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        ttl: Ttl = UNSET,
        key: Callable[..., object] | None = None,
        ignore: Iterable[str] = (),
        name: str | None = None,
        version: int = 1,
        fill: Literal["owner", "caller"] = "owner",
        errors: type[Exception] | Iterable[type[Exception]] = (),
        load_timeout: float | None = None,
    ) -> Any:
        """Keep a function's results in this cache, by its arguments.

        Use it bare, `@users.memoize`, or with options. The function may be `async
        def`. What the decorated function has beside itself, `invalidate`, `refresh`,
        `peek` and so on, is described by `Memoized`.

        Args:
            function: the loader; its arguments need a stable encoding.
            ttl: seconds to live, None for ever, 0 not stored; unset, the cache's own.
            key: makes the key from the arguments, in place of all of them.
            ignore: names of arguments that do not tell calls apart, such as a
                connection. The owner cannot know them, so the caller loads.
            name: what all processes call this function. By default its module and
                qualified name; needed for lambdas and for functions that take values
                from a function around them.
            version: raise it when the function's results change in kind: processes
                of different versions then do not share.
            fill: "owner" runs the loader in the process that owns the key, if that
                has the function too; "caller" runs it where it was called.
            errors: exception classes that callers shall see as themselves when the
                loader raised them in another process. Built-in ones need no mention.
            load_timeout: seconds to wait for a load elsewhere; None is the node's.

        Raises:
            ConfigError: the function cannot be memoized, or an option is wrong.
        """
        settings = Settings(
            ttl, key, tuple(ignore), name, version, fill, _all(errors), load_timeout
        )
        if not isinstance(ttl, Unset):
            checked_ttl(ttl, "ttl")
        if function is None:
            return lambda loader: memoized(loader, self.region, settings)
        return memoized(function, self.region, settings)

    # --- writing -----------------------------------------------------------------

    def set(self, key: object, value: Any, ttl: Ttl = UNSET) -> None:
        """Store *value* under *key*; with `ttl=0`, forget what is there.

        Raises:
            SerializationError: the value would not come back the same.
            ValueTooLarge: the value is over `max_value_bytes`.
            PeerUnavailable, PeerTimeout: it was not stored, or may not have been.
            NodeClosed: the node was stopped.
        """
        runtime = self.region.runtime or self.region.bind()
        if runtime is None or not self._set_here(runtime, key, value, ttl):
            run(runtime, self._set(runtime, Verb.SET, key, value, ttl))

    async def aset(self, key: object, value: Any, ttl: Ttl = UNSET) -> None:
        """Store *value* under *key*; see `set`."""
        runtime = self.region.bind()
        await arun(runtime, self._set(runtime, Verb.SET, key, value, ttl))

    def add(self, key: object, value: Any, ttl: Ttl = UNSET) -> bool:
        """Store *value* if nothing is stored under *key*; return whether it was.

        Raises:
            as `set` does.
        """
        runtime = self.region.bind()
        return run(runtime, self._set(runtime, Verb.ADD, key, value, ttl))

    async def aadd(self, key: object, value: Any, ttl: Ttl = UNSET) -> bool:
        """Store *value* if nothing is stored under *key*; see `add`."""
        runtime = self.region.bind()
        return await arun(runtime, self._set(runtime, Verb.ADD, key, value, ttl))

    def _set_here(self, runtime: Runtime, key: object, value: Any, ttl: Ttl) -> bool:
        """Store what this process owns without further ado; False if it does not."""
        region = self.region
        full, hashed = region.full(runtime, key)
        if not runtime.owns(hashed):
            return False
        item = Item(full, region.codec.encode(value), region.ttl_ms(ttl), 0)
        result = runtime.write_here(
            Verb.SET, region.checked_item(runtime, item), hashed
        )
        return result is not None and checked(item, result).status is Status.HIT

    def _set(
        self, runtime: Runtime | None, verb: Verb, key: object, value: Any, ttl: Ttl
    ) -> Steps[bool]:
        region = self.region
        item = region.item(runtime, key, region.codec.encode(value), region.ttl_ms(ttl))
        result = yield from region.write_one(runtime, verb, item)
        return result.status is Status.HIT

    def touch(self, key: object, ttl: Ttl = UNSET) -> bool:
        """Give what is stored under *key* a new ttl; return whether there was any."""
        runtime = self.region.bind()
        return run(runtime, self._bare(runtime, Verb.TOUCH, key, ttl))

    async def atouch(self, key: object, ttl: Ttl = UNSET) -> bool:
        """Give what is stored under *key* a new ttl; see `touch`."""
        runtime = self.region.bind()
        return await arun(runtime, self._bare(runtime, Verb.TOUCH, key, ttl))

    def delete(self, key: object) -> bool:
        """Forget *key*; return whether anything was stored under it.

        A load of this key that is under way serves those who asked before, and what
        it brings is not stored.
        """
        runtime = self.region.bind()
        return run(runtime, self._bare(runtime, Verb.DELETE, key, 0))

    async def adelete(self, key: object) -> bool:
        """Forget *key*; see `delete`."""
        runtime = self.region.bind()
        return await arun(runtime, self._bare(runtime, Verb.DELETE, key, 0))

    def _bare(
        self, runtime: Runtime | None, verb: Verb, key: object, ttl: Ttl
    ) -> Steps[bool]:
        item = self.region.item(runtime, key, b"", self.region.ttl_ms(ttl))
        result = yield from self.region.write_one(runtime, verb, item)
        return result.status is Status.HIT

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
        runtime = self.region.bind()
        return run(runtime, self._incr(runtime, key, delta, initial, ttl))

    async def aincr(
        self, key: object, delta: int = 1, *, initial: int = 0, ttl: Ttl = UNSET
    ) -> int:
        """Add *delta* to the integer under *key*, atomically; see `incr`."""
        runtime = self.region.bind()
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
                f"cache {self.name!r} has the codec {region.codec.name!r}; the owner "
                'counts only what "msgpack" encodes, so keep counters in such a cache'
            )
        delta = _checked_number(delta, "delta")
        if not -(2**63) <= delta < 2**63:
            raise ValueTooLarge(f"delta={delta} is not within 64 bits; add it in parts")
        start = region.codec.encode(_checked_number(initial, "initial"))
        item = region.item(runtime, key, start, region.ttl_ms(ttl))
        item = item._replace(delta=delta)
        result = yield from region.write_one(runtime, Verb.INCR, item)
        number = region.codec.decode(result.number)
        assert isinstance(number, int)
        return number

    # --- many at once ------------------------------------------------------------

    def set_many(self, mapping: Mapping[Any, Any], ttl: Ttl = UNSET) -> list[Any]:
        """Store every value of *mapping*; return the keys of those that were not.

        One request goes to each owner.
        """
        runtime = self.region.bind()
        return run(runtime, self._set_many(runtime, mapping, ttl))

    async def aset_many(
        self, mapping: Mapping[Any, Any], ttl: Ttl = UNSET
    ) -> list[Any]:
        """Store every value of *mapping*; see `set_many`."""
        runtime = self.region.bind()
        return await arun(runtime, self._set_many(runtime, mapping, ttl))

    def _set_many(
        self, runtime: Runtime | None, mapping: Mapping[Any, Any], ttl: Ttl
    ) -> Steps[list[Any]]:
        region = self.region
        items = [
            region.item(runtime, key, region.codec.encode(value), region.ttl_ms(ttl))
            for key, value in mapping.items()
        ]
        results = yield from region.write(runtime, Verb.SET, items)
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
        runtime = self.region.bind()
        return run(runtime, self._delete_many(runtime, keys))

    async def adelete_many(self, keys: Iterable[object]) -> int:
        """Forget all of *keys*; see `delete_many`."""
        runtime = self.region.bind()
        return await arun(runtime, self._delete_many(runtime, keys))

    def _delete_many(
        self, runtime: Runtime | None, keys: Iterable[object]
    ) -> Steps[int]:
        region = self.region
        items = [region.item(runtime, key, b"", 0) for key in keys]
        results = yield from region.write(runtime, Verb.DELETE, items)
        pairs = zip(items, results, strict=True)
        return sum(checked(item, one).status is Status.HIT for item, one in pairs)

    def clear(self) -> None:
        """Forget everything in this cache, its memoized functions' values included.

        Raises:
            PeerUnavailable, PeerTimeout: some member was not reached. All others have
                forgotten.
        """
        runtime = self.region.bind()
        run(runtime, self.region.clear(runtime))

    async def aclear(self) -> None:
        """Forget everything in this cache; see `clear`."""
        runtime = self.region.bind()
        await arun(runtime, self.region.clear(runtime))


_KNOWN: Final = tuple(Options.__annotations__)


def _all(
    errors: type[Exception] | Iterable[type[Exception]],
) -> tuple[type[Exception], ...]:
    """Return all of *errors*, which may be a single one, as in an `except`."""
    return (errors,) if isinstance(errors, type) else tuple(errors)


def _checked_number(number: object, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise NotANumber(f"{what}={number!r} is no integer")
    return int(number)


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
