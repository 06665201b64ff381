"""Memoized functions of many keys: only the missing ones reach the loader.

    @users.memoize_many(ttl=60)
    def load_users(ids: list[int]) -> dict[int, User]: ...

    load_users([1, 2, 3])    # {1: ..., 2: ..., 3: ...}, one load for what is missing

Each key has an entry and a load of its own, which all callers of any of them share.
What the loader leaves out of its dict does not exist: it is left out of the answer,
and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import update_wrapper
from inspect import Parameter, iscoroutinefunction, signature
from typing import Any, Final, Generic, TypeVar, cast, final

from meshcache.answers import checked
from meshcache.changes import clear, write
from meshcache.codec.messages import Status, Verb
from meshcache.errors import ConfigError
from meshcache.handles import CacheInfo
from meshcache.many import Batch, load_many
from meshcache.memoize import info_of
from meshcache.naming import loader_name
from meshcache.options import Settings
from meshcache.region import Region
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps, arun, run

__all__ = ["AsyncManyMemoized", "ManyMemoized", "memoized_many"]

K = TypeVar("K")
V = TypeVar("V")


class _Many(Generic[K]):
    """What both kinds have: the region, and how to forget."""

    def __init__(
        self, function: Callable[..., Any], region: Region, settings: Settings
    ) -> None:
        update_wrapper(cast("Callable[..., Any]", self), function)
        self._function = function
        self._region = region
        self._timeout = settings.load_timeout
        self._recipe = settings.recipe._replace(
            tags=region.tag_hashes(_fixed(settings))
        )

    def _batch(self, keys: Iterable[K]) -> Batch:
        return Batch(list(keys), self._function, self._recipe, self._timeout)

    def invalidate(self, *keys: K) -> int:
        """Forget the values of *keys*; return how many were stored."""
        runtime = self._region.attached()
        return run(runtime, self._forget(runtime, keys))

    async def ainvalidate(self, *keys: K) -> int:
        """Forget the values of *keys*; see `invalidate`."""
        runtime = self._region.attached()
        return await arun(runtime, self._forget(runtime, keys))

    def _forget(self, runtime: Runtime | None, keys: tuple[K, ...]) -> Steps[int]:
        items = [self._region.item(runtime, key, b"", 0) for key in keys]
        results = yield from write(self._region, runtime, Verb.DELETE, items)
        pairs = zip(items, results, strict=True)
        return sum(checked(item, one).status is Status.HIT for item, one in pairs)

    def invalidate_all(self) -> None:
        """Forget the values of all keys, on all members."""
        runtime = self._region.attached()
        run(runtime, clear(self._region, runtime))

    async def ainvalidate_all(self) -> None:
        """Forget the values of all keys; see `invalidate_all`."""
        runtime = self._region.attached()
        await arun(runtime, clear(self._region, runtime))

    def cache_info(self) -> CacheInfo:
        """Return hits, misses and sizes, as `functools.lru_cache` does, key by key."""
        return info_of(self._region)

    def cache_clear(self) -> None:
        """Forget everything and count from nothing."""
        self.invalidate_all()
        self._region.tally.reset()


@final
class ManyMemoized(_Many[K], Generic[K, V]):
    """A memoized function of many keys. Thread-safe."""

    @property
    def uncached(self) -> Callable[[list[K]], Mapping[K, V]]:
        """The function itself."""
        return self._function

    def __call__(self, keys: Iterable[K], /) -> dict[K, V]:
        """Return the values of *keys*, in order; those that do not exist left out."""
        region = self._region
        runtime = region.runtime or region.bind()
        return run(runtime, load_many(region, runtime, self._batch(keys)))


@final
class AsyncManyMemoized(_Many[K], Generic[K, V]):
    """A memoized `async def` function of many keys. Thread-safe, on any loop."""

    @property
    def uncached(self) -> Callable[[list[K]], Coroutine[Any, Any, Mapping[K, V]]]:
        """The function itself."""
        return self._function

    async def __call__(self, keys: Iterable[K], /) -> dict[K, V]:
        """Return the values of *keys*, in order; those that do not exist left out."""
        region = self._region
        runtime = region.runtime or region.bind()
        return await arun(runtime, load_many(region, runtime, self._batch(keys)))


def memoized_many(
    function: Callable[..., Any], cache: Region, settings: Settings
) -> Any:
    """Return *function* memoized key by key in a region of its own, within *cache*.

    Raises:
        ConfigError: it cannot be memoized so, or not by that name.
    """
    _check_one_list(function)
    name = loader_name(function, settings.name)
    region = cache.part(f"{name}|{settings.version}", settings.freshness)
    is_async = iscoroutinefunction(function)
    return (AsyncManyMemoized if is_async else ManyMemoized)(function, region, settings)


_WANTED: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _check_one_list(function: Callable[..., Any]) -> None:
    if not callable(function):
        raise ConfigError(
            f"{function!r} is no function to memoize; options go by name, as in "
            "@cache.memoize_many(ttl=60)"
        )
    known = list(signature(function).parameters.values())
    needed = [p for p in known if p.default is Parameter.empty]
    if len(needed) != 1 or needed[0] is not known[0] or known[0].kind not in _WANTED:
        raise ConfigError(
            f"{function!r} does not take one list of keys and nothing else; "
            "memoize_many gives it those that are missing, and wants a dict back"
        )


def _fixed(settings: Settings) -> Any:
    if callable(settings.tags):
        raise ConfigError(
            "tags of a function of many keys are the same for all of its keys: words, "
            "not a function"
        )
    return settings.tags
