"""Memoized functions: a decorator that makes a loader's results the cluster's.

    @users.memoize(ttl=60)
    def load_user(user_id: int) -> dict: ...

A call is answered from memory if any process has loaded the same arguments; else one
loader runs in the whole cluster. With `fill="owner"` that is the owner's copy of this
function, which needs nothing but the arguments; with `fill="caller"` it is this call.

The decorated function is a function still: it works as a method, it has the same
signature and it is `async def` if it was. Its handles are attributes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

from meshcache.binding import RESERVED, Binder, Bound
from meshcache.changes import clear, write_one
from meshcache.clock import monotonic
from meshcache.codec.keys import decode_key, encode_key
from meshcache.codec.messages import Item, LoaderName, Status, Verb
from meshcache.engine.ops import LoadKey
from meshcache.errors import KeyRefused
from meshcache.freshness import Recipe
from meshcache.handles import CacheInfo
from meshcache.loads import Wanted, load
from meshcache.methods import method, rewrap
from meshcache.model import MISSING
from meshcache.naming import check_kind, code_of, loader_name, wraps
from meshcache.options import Settings, Tags
from meshcache.region import Region
from meshcache.runtime.chain import current
from meshcache.runtime.failures import failure_of, known
from meshcache.runtime.loaders import CannotRun, Loaded
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps, arun, run
from meshcache.store.near import VISITED_MAX, NearEntry

if TYPE_CHECKING:
    import asyncio

__all__ = ["info_of", "memoized"]

R = TypeVar("R")

_Bound: TypeAlias = tuple[Runtime | None, Steps[R]]
"""An operation ready to be run: on what, and its steps."""

GONE: Final = Loaded(b"", 0)

# Arguments that are their own near key: of these exact types, none of which has a
# value that equals one of another. `True == 1 == 1.0` must not meet in a dict.
_PLAIN: Final = frozenset({int, str, type(None)})
# The source calls no builtin by its own name: an argument may be called `type`.
_IS_PLAIN: Final = (
    "((_mesh_type := _mesh_type_of({name})) is _mesh_int or _mesh_type is _mesh_str"
    " or {name} is None)"
)

# A memoized function whose near hit is written out, in the signature of the function
# itself: so the interpreter names the arguments and applies defaults, which it does
# faster than `*args` are looked through. The budget is in tests/benchmarks. It takes
# no lock and allocates nothing, with several arguments a tuple.
_FUNCTION: Final = """\
    if {plain}:
        _mesh_entry = _mesh_region.entries.get({near_key})
        if (
            _mesh_entry is not None
            and _mesh_entry.tenure.table[_mesh_entry.bucket] == _mesh_entry.generation
            and _mesh_entry.expires > _mesh_now()
        ):
            if _mesh_entry.visited < _mesh_visited_max:
                _mesh_entry.visited += 1
            _mesh_hit()
            return {value}
    return {wait}_mesh_answer(({kept}), ({arguments}))
"""


_SHARED: Final = "_mesh_entry.value"
_COPIED: Final = "_mesh_decode(_mesh_entry.value)"


@final
class Memo:
    """One memoized function: its keys, its loads and its handles. Thread-safe.

    It is also the `Loader` by which peers have the function run here.
    """

    def __init__(
        self, function: Callable[..., Any], region: Region, settings: Settings
    ) -> None:
        self.function: Final = function
        self.region: Final = region
        self.binder: Final = Binder(function, settings.ignore)
        self.is_async: Final = iscoroutinefunction(code_of(function))
        self.loop: asyncio.AbstractEventLoop | None = None
        self.has_key: Final = settings.key is not None
        self.loader_name: Final = LoaderName(region.name, settings.version)
        self._settings = settings
        self._errors = known(settings.recipe.errors)
        self._tagged = None if callable(settings.tags) else self._recipe(settings.tags)
        self._by_owner = settings.fill == "owner" and self.binder.whole

    # --- keys --------------------------------------------------------------------

    def near_key(self, bound: Bound) -> object:
        """Return what stands for a call in the near cache of this function's region."""
        for value in bound:
            if type(value) not in _PLAIN:
                return self.binder.encode(bound)
        return bound[0] if len(bound) == 1 else bound

    def near(self, runtime: Runtime | None, args: Bound, kwargs: dict[str, Any]) -> Any:
        """Return what this process holds decoded for a call, or MISSING."""
        if runtime is None:
            return MISSING
        near_key = self.near_key_of(args, kwargs, self.binder.bind(*args, **kwargs))
        return self.region.held(runtime, near_key)

    def _key(self, args: Bound, kwargs: dict[str, Any], bound: Bound) -> bytes:
        make = self._settings.key
        if make is None:
            return self.binder.encode(bound)
        return encode_key(make(*args, **kwargs), name="what key= returned")

    def _full(
        self, runtime: Runtime | None, args: Bound, kwargs: dict[str, Any]
    ) -> tuple[bytes, int, Bound]:
        bound = self.binder.bind(*args, **kwargs)
        key = self.region.prefix + self._key(args, kwargs, bound)
        return *self.region.checked_key(runtime, key), bound

    # --- calls -------------------------------------------------------------------

    def call(
        self, runtime: Runtime | None, args: Bound, kwargs: dict[str, Any]
    ) -> Steps[Any]:
        """Answer a call that was not answered near."""
        full, hashed, bound = self._full(runtime, args, kwargs)
        name, carried = self._carried(bound)
        recipe = self._recipe_for(args, kwargs)
        op = LoadKey(
            full,
            hashed,
            name,
            self._settings.version,
            carried,
            current(),
            self._settings.load_timeout,
            tags=recipe.tags,
        )
        wanted = Wanted(
            self.near_key_of(args, kwargs, bound),
            op,
            partial(self.function, *args, **kwargs),
            recipe,
            self._errors,
        )
        return load(self.region, runtime, wanted)

    def _recipe(self, tags: Tags) -> Recipe:
        return self._settings.recipe._replace(tags=self.region.tag_hashes(tags))

    def _recipe_for(self, args: Bound, kwargs: dict[str, Any]) -> Recipe:
        """Return what is stored of a call's value, with its own tags."""
        if self._tagged is not None:
            return self._tagged
        tags = self._settings.tags
        assert callable(tags)
        return self._recipe(tags(*args, **kwargs))

    def near_key_of(self, args: Bound, kwargs: dict[str, Any], bound: Bound) -> object:
        """Return what stands for a call near, given also its canonical tuple."""
        if self._settings.key is None:
            return self.near_key(bound)
        return self._key(args, kwargs, bound)

    def _carried(self, bound: Bound) -> tuple[str, bytes]:
        """Return the loader's name for the owner, and the arguments it cannot know.

        The name is empty where the owner shall not, or could not, run the function.
        """
        if not self._by_owner:
            return "", b""
        if self._settings.key is None:
            return self.region.name, b""
        try:
            return self.region.name, encode_key(bound)
        except KeyRefused:
            return "", b""

    # --- for peers ---------------------------------------------------------------

    def _arguments(self, key: bytes, args: bytes) -> tuple[Bound, dict[str, Any]]:
        try:
            bound = decode_key(args or key.partition(b"\0")[2])
            return self.binder.call(bound if isinstance(bound, tuple) else ())
        except (KeyRefused, ValueError, TypeError) as error:
            raise CannotRun(str(error)) from error

    def load(self, key: bytes, args: bytes) -> Loaded:
        """Run the function for a peer; see `Loader`."""
        positional, named = self._arguments(key, args)
        recipe, began = self._recipe_for(positional, named), self._begin()
        try:
            value = self.function(*positional, **named)
        except recipe.errors as error:
            return self._raised(recipe, error)
        return self.region.brewed(value, recipe, monotonic() - began)

    async def aload(self, key: bytes, args: bytes) -> Loaded:
        """Run the function for a peer; see `Loader`."""
        positional, named = self._arguments(key, args)
        recipe, began = self._recipe_for(positional, named), self._begin()
        try:
            value = await self.function(*positional, **named)
        except recipe.errors as error:
            return self._raised(recipe, error)
        return self.region.brewed(value, recipe, monotonic() - began)

    def _begin(self) -> float:
        self.region.tally.load()
        return monotonic()

    def _raised(self, recipe: Recipe, error: Exception) -> Loaded:
        """Return what is stored of an error, if it is one to be remembered."""
        if not recipe.remembers(error):
            raise error
        return self.region.remembered(failure_of(error), recipe)

    # --- handles -----------------------------------------------------------------

    def peek(
        self, runtime: Runtime | None, args: Bound, kwargs: dict[str, Any]
    ) -> Steps[Any]:
        """Return the stored value, or MISSING."""
        full, hashed, bound = self._full(runtime, args, kwargs)
        near_key = self.near_key_of(args, kwargs, bound)
        held = yield from self.region.look_up(runtime, near_key, full, hashed)
        return MISSING if held is None or not held.fresh else held.value

    def write(
        self,
        runtime: Runtime | None,
        verb: Verb,
        loaded: Loaded,
        args: Bound,
        kwargs: dict[str, Any],
    ) -> Steps[bool]:
        """Set or delete the value of one call."""
        full, _, _ = self._full(runtime, args, kwargs)
        item = Item(full, loaded.value, loaded.ttl_ms, 0)
        item = self.region.checked_item(runtime, item)
        result = yield from write_one(self.region, runtime, verb, item)
        return result.status is Status.HIT

    def brewed(self, value: Any, args: Bound, kwargs: dict[str, Any]) -> Loaded:
        """Return what is stored of *value* as if this call had returned it."""
        return self.region.brewed(value, self._recipe_for(args, kwargs), 0.0)

    def key_for(self, *args: Any, **kwargs: Any) -> bytes:
        """Return the key that the cluster knows this call by."""
        return self._full(self.region.bind(), args, kwargs)[0]

    def parameters(self) -> dict[str, Any]:
        """Return what `cache_parameters` reports."""
        return {"maxsize": self.info().maxsize, "typed": True}

    def info(self) -> CacheInfo:
        """Return what `cache_info` reports."""
        return info_of(self.region)


def info_of(region: Region) -> CacheInfo:
    """Return what `cache_info` reports of a function with this region."""
    counts, now = region.tally.as_dict(), monotonic()
    runtime = region.runtime
    mine = list(region.entries.values())
    return CacheInfo(
        counts["near"] + counts["host"] + counts["peer"],
        counts["fill"] + counts["local"] + counts["raised"],
        None if runtime is None else runtime.config.near_entries,
        sum(_usable(entry, now) for entry in mine),
    )


def memoized(
    function: Callable[..., Any], cache: Region, settings: Settings
) -> Callable[..., Any]:
    """Return *function* memoized in a region of its own, within *cache*.

    Raises:
        ConfigError: it cannot be memoized, or not by that name.
    """
    if wraps(function, settings):
        inner = memoized(function.__func__, cache, settings)
        around: Callable[..., Any] = rewrap(function, inner)
        return around
    check_kind(function)
    name = loader_name(function, settings.name)
    region = cache.part(f"{name}|{settings.version}", settings.freshness)
    memo = Memo(function, region, settings)
    wrapper = _wrapper(memo)
    update_wrapper(wrapper, function)
    vars(wrapper).update(_handles(memo))
    if settings.fill == "owner":
        region.register(memo)
    return method(wrapper, memo.binder.first)


def _wrapper(memo: Memo) -> Callable[..., Any]:
    """Return the function that is called in place of the memoized one."""
    answer = _async_answer(memo) if memo.is_async else _answer(memo)
    names = memo.binder.names
    if names is None or memo.has_key:
        return answer
    kept = memo.binder.kept
    body = _FUNCTION.format(
        plain=" and ".join(_IS_PLAIN.format(name=name) for name in kept) or "True",
        near_key=kept[0] if len(kept) == 1 else f"({_listed(kept)})",
        wait="await " if memo.is_async else "",
        kept=_listed(kept),
        arguments=_listed(names),
        value=_COPIED if memo.region.copy else _SHARED,
    )
    scope = {
        "type_of": type,
        "int": int,
        "str": str,
        "region": memo.region,
        "now": monotonic,
        "visited_max": VISITED_MAX,
        "hit": memo.region.tally.near,
        "decode": memo.region.codec.decode,
        "answer": _async_of_all(memo) if memo.is_async else _of_all(memo),
    }
    named = {RESERVED + name: value for name, value in scope.items()}
    return memo.binder.define(body, named, is_async=memo.is_async)


def _usable(entry: NearEntry, now: float) -> bool:
    stands = entry.tenure.table[entry.bucket] == entry.generation
    return stands and entry.expires > now


def _listed(names: tuple[str, ...]) -> str:
    return "".join(f"{name}, " for name in names)


def _of_all(memo: Memo) -> Callable[[Bound, Bound], Any]:
    """Return what answers a call by its canonical tuple and all its values.

    They are spread out only where the function is to be called.
    """
    region, spread = memo.region, memo.binder.spread

    def answer_all(bound: Bound, values: Bound) -> Any:
        runtime = region.runtime or region.bind()
        if runtime is not None:
            value = region.held(runtime, memo.near_key(bound))
            if value is not MISSING:
                return value
        return run(runtime, memo.call(runtime, *spread(values)))

    return answer_all


def _async_of_all(memo: Memo) -> Callable[[Bound, Bound], Any]:
    from asyncio import get_running_loop  # noqa: PLC0415 - only tasks need it

    region, spread = memo.region, memo.binder.spread

    async def answer_all(bound: Bound, values: Bound) -> Any:
        runtime = region.runtime or region.bind()
        if runtime is not None:
            value = region.held(runtime, memo.near_key(bound))
            if value is not MISSING:
                return value
        memo.loop = get_running_loop()  # As in `_async_answer`.
        return await arun(runtime, memo.call(runtime, *spread(values)))

    return answer_all


def _answer(memo: Memo) -> Callable[..., Any]:
    region = memo.region

    def answer(*args: Any, **kwargs: Any) -> Any:
        runtime = region.runtime or region.bind()
        value = memo.near(runtime, args, kwargs)
        if value is not MISSING:
            return value
        return run(runtime, memo.call(runtime, args, kwargs))

    return answer


def _async_answer(memo: Memo) -> Callable[..., Any]:
    from asyncio import get_running_loop  # noqa: PLC0415 - only tasks need it

    region = memo.region

    async def answer(*args: Any, **kwargs: Any) -> Any:
        runtime = region.runtime or region.bind()
        value = memo.near(runtime, args, kwargs)
        if value is not MISSING:
            return value
        # Peers may have this function run here from now on, on this very loop.
        memo.loop = get_running_loop()
        return await arun(runtime, memo.call(runtime, args, kwargs))

    return answer


@final
class _Operations:
    """The attributes of a memoized function; `Memoized` describes them."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo
        self._region = memo.region
        self.uncached = memo.function
        self.key_for = memo.key_for
        self.cache_info = memo.info
        self.cache_parameters = memo.parameters

    def _delete(self, args: Bound, kwargs: dict[str, Any]) -> _Bound[bool]:
        runtime = self._region.attached()
        return runtime, self._memo.write(runtime, Verb.DELETE, GONE, args, kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        return run(*self._delete(args, kwargs))

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> bool:
        return await arun(*self._delete(args, kwargs))

    def _peek(self, args: Bound, kwargs: dict[str, Any]) -> _Bound[Any]:
        runtime = self._region.attached()
        return runtime, self._memo.peek(runtime, args, kwargs)

    def peek(self, *args: Any, **kwargs: Any) -> Any:
        return run(*self._peek(args, kwargs))

    async def apeek(self, *args: Any, **kwargs: Any) -> Any:
        return await arun(*self._peek(args, kwargs))

    def _set(self, value: Any, args: Bound, kwargs: dict[str, Any]) -> _Bound[bool]:
        runtime, loaded = (
            self._region.attached(),
            self._memo.brewed(value, args, kwargs),
        )
        return runtime, self._memo.write(runtime, Verb.SET, loaded, args, kwargs)

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        run(*self._set(value, args, kwargs))

    async def aset(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        await arun(*self._set(value, args, kwargs))

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        value = self.uncached(*args, **kwargs)
        self.set(value, *args, **kwargs)
        return value

    async def arefresh(self, *args: Any, **kwargs: Any) -> Any:
        value = await self.uncached(*args, **kwargs)
        await self.aset(value, *args, **kwargs)
        return value

    def _clear(self) -> _Bound[None]:
        runtime = self._region.attached()
        return runtime, clear(self._region, runtime)

    def invalidate_all(self) -> None:
        run(*self._clear())

    async def ainvalidate_all(self) -> None:
        await arun(*self._clear())

    def cache_clear(self) -> None:
        self.invalidate_all()
        self._region.tally.reset()


_HANDLES: Final = (
    "invalidate",
    "ainvalidate",
    "peek",
    "apeek",
    "set",
    "aset",
    "uncached",
    "key_for",
    "invalidate_all",
    "ainvalidate_all",
    "cache_info",
    "cache_clear",
    "cache_parameters",
)


def _handles(memo: Memo) -> dict[str, Any]:
    operations = _Operations(memo)
    refresh = operations.arefresh if memo.is_async else operations.refresh
    return {name: getattr(operations, name) for name in _HANDLES} | {"refresh": refresh}
