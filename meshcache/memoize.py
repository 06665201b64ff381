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

import asyncio
import sys
from collections.abc import Callable
from functools import partial, update_wrapper
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, final

from meshcache.binding import RESERVED, Binder, Bound
from meshcache.clock import monotonic
from meshcache.codec.keys import decode_key, encode_key
from meshcache.codec.messages import Item, LoaderName, Status, Verb
from meshcache.engine.ops import LoadKey
from meshcache.errors import ConfigError, KeyRefused
from meshcache.handles import CacheInfo
from meshcache.model import MISSING
from meshcache.region import Region, Wanted
from meshcache.runtime.chain import current
from meshcache.runtime.failures import known
from meshcache.runtime.loaders import CannotRun, Loaded
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps, arun, run
from meshcache.store.near import VISITED_MAX, NearEntry
from meshcache.times import Ttl, checked_timeout

__all__ = ["Settings", "memoized"]

R = TypeVar("R")

_Bound: TypeAlias = tuple[Runtime | None, Steps[R]]
"""An operation ready to be run: on what, and its steps."""

MAX_NAME: Final = 400

# Arguments that are their own near key: of these exact types, none of which has a
# value that equals one of another. `True == 1 == 1.0` must not meet in a dict.
_PLAIN: Final = frozenset({int, str, type(None)})
_IS_PLAIN: Final = (
    "((_mesh_type := type({name})) is int or _mesh_type is str or {name} is None)"
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
    return {wait}_mesh_answer(({arguments}))
"""


_SHARED: Final = "_mesh_entry.value"
_COPIED: Final = "_mesh_decode(_mesh_entry.value)"


class Settings(NamedTuple):
    """How one function is memoized; see `Cache.memoize`."""

    ttl: Ttl
    key: Callable[..., object] | None
    ignore: tuple[str, ...]
    name: str | None
    version: int
    fill: Literal["owner", "caller"]
    errors: tuple[type[Exception], ...]
    load_timeout: float | None


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
        self.is_async: Final = iscoroutinefunction(function)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.has_key: Final = settings.key is not None
        self.loader_name: Final = LoaderName(region.name, settings.version)
        self._settings = settings
        self._errors = known(settings.errors)
        self._timeout = checked_timeout(settings.load_timeout)
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
        op = LoadKey(
            full,
            hashed,
            name,
            self._settings.version,
            carried,
            current(),
            self._timeout,
        )
        wanted = Wanted(
            self.near_key_of(args, kwargs, bound),
            op,
            partial(self.function, *args, **kwargs),
            self._settings.ttl,
            self._errors,
        )
        return self.region.fill(runtime, wanted)

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

    def _loaded(self, value: Any) -> Loaded:
        self.region.tally.load()
        encoded = self.region.codec.encode(value)
        return Loaded(encoded, self.region.ttl_ms(self._settings.ttl))

    def load(self, key: bytes, args: bytes) -> Loaded:
        """Run the function for a peer; see `Loader`."""
        positional, named = self._arguments(key, args)
        return self._loaded(self.function(*positional, **named))

    async def aload(self, key: bytes, args: bytes) -> Loaded:
        """Run the function for a peer; see `Loader`."""
        positional, named = self._arguments(key, args)
        return self._loaded(await self.function(*positional, **named))

    # --- handles -----------------------------------------------------------------

    def peek(
        self, runtime: Runtime | None, args: Bound, kwargs: dict[str, Any]
    ) -> Steps[Any]:
        """Return the stored value, or MISSING."""
        full, hashed, bound = self._full(runtime, args, kwargs)
        near_key = self.near_key_of(args, kwargs, bound)
        return self.region.look_up(runtime, near_key, full, hashed)

    def write(
        self,
        runtime: Runtime | None,
        verb: Verb,
        value: bytes,
        args: Bound,
        kwargs: dict[str, Any],
    ) -> Steps[bool]:
        """Set or delete the value of one call."""
        full, _, _ = self._full(runtime, args, kwargs)
        ttl_ms = self.region.ttl_ms(self._settings.ttl)
        item = self.region.checked_item(runtime, Item(full, value, ttl_ms, 0))
        result = yield from self.region.write_one(runtime, verb, item)
        return result.status is Status.HIT

    def key_for(self, *args: Any, **kwargs: Any) -> bytes:
        """Return the key that the cluster knows this call by."""
        return self._full(self.region.bind(), args, kwargs)[0]

    def info(self) -> CacheInfo:
        """Return what `cache_info` reports."""
        counts, now = self.region.tally.as_dict(), monotonic()
        runtime = self.region.runtime
        mine = list(self.region.entries.values())
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
    _check_kind(function)
    _check_settings(settings)
    name = _loader_name(function, settings.name)
    region = cache.part(f"{name}|{settings.version}")
    memo = Memo(function, region, settings)
    wrapper = _wrapper(memo)
    update_wrapper(wrapper, function)
    vars(wrapper).update(_handles(memo))
    if settings.fill == "owner":
        region.register(memo)
    return wrapper


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
        arguments=_listed(names),
        value=_COPIED if memo.region.copy else _SHARED,
    )
    scope = {
        "region": memo.region,
        "now": monotonic,
        "visited_max": VISITED_MAX,
        "hit": memo.region.tally.near,
        "decode": memo.region.codec.decode,
        "answer": _of_all(memo, answer),
    }
    named = {RESERVED + name: value for name, value in scope.items()}
    return memo.binder.define(body, named, is_async=memo.is_async)


def _usable(entry: NearEntry, now: float) -> bool:
    stands = entry.tenure.table[entry.bucket] == entry.generation
    return stands and entry.expires > now


def _listed(names: tuple[str, ...]) -> str:
    return "".join(f"{name}, " for name in names)


def _of_all(memo: Memo, answer: Callable[..., Any]) -> Callable[[Bound], Any]:
    """Return *answer* as a function of the values of all arguments, in order."""
    spread = memo.binder.spread

    def answer_all(values: Bound) -> Any:
        args, kwargs = spread(values)
        return answer(*args, **kwargs)

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
    region = memo.region

    async def answer(*args: Any, **kwargs: Any) -> Any:
        runtime = region.runtime or region.bind()
        value = memo.near(runtime, args, kwargs)
        if value is not MISSING:
            return value
        # Peers may have this function run here from now on, on this very loop.
        memo.loop = asyncio.get_running_loop()
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

    def _delete(self, args: Bound, kwargs: dict[str, Any]) -> _Bound[bool]:
        runtime = self._region.bind()
        return runtime, self._memo.write(runtime, Verb.DELETE, b"", args, kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        return run(*self._delete(args, kwargs))

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> bool:
        return await arun(*self._delete(args, kwargs))

    def _peek(self, args: Bound, kwargs: dict[str, Any]) -> _Bound[Any]:
        runtime = self._region.bind()
        return runtime, self._memo.peek(runtime, args, kwargs)

    def peek(self, *args: Any, **kwargs: Any) -> Any:
        return run(*self._peek(args, kwargs))

    async def apeek(self, *args: Any, **kwargs: Any) -> Any:
        return await arun(*self._peek(args, kwargs))

    def _set(self, value: Any, args: Bound, kwargs: dict[str, Any]) -> _Bound[bool]:
        runtime, encoded = self._region.bind(), self._region.codec.encode(value)
        return runtime, self._memo.write(runtime, Verb.SET, encoded, args, kwargs)

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
        runtime = self._region.bind()
        return runtime, self._region.clear(runtime)

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
)


def _handles(memo: Memo) -> dict[str, Any]:
    operations = _Operations(memo)
    refresh = operations.arefresh if memo.is_async else operations.refresh
    return {name: getattr(operations, name) for name in _HANDLES} | {"refresh": refresh}


def _check_kind(function: Callable[..., Any]) -> None:
    if isinstance(function, classmethod | staticmethod):
        kind = type(function).__name__
        raise ConfigError(f"put @{kind} above @memoize, so that it wraps the memoized")
    if not callable(function):
        raise ConfigError(
            f"{function!r} is no function to memoize; options go by name, as in "
            "@cache.memoize(ttl=60)"
        )
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise ConfigError(
            f"{function.__qualname__} is a generator: what it yields can be read once, "
            "and a cached value many times; memoize a function that returns a list"
        )


def _check_settings(settings: Settings) -> None:
    if settings.fill not in {"owner", "caller"}:
        raise ConfigError(f'fill={settings.fill!r} is neither "owner" nor "caller"')
    if type(settings.version) is not int or not 0 <= settings.version < 2**32:
        raise ConfigError(
            f"version={settings.version!r} is no number from 0; raise it by 1 whenever "
            "the function's results change in kind"
        )
    for error in settings.errors:
        if not _is_exception(error):
            raise ConfigError(f"errors={error!r}: that is no class of exceptions")


def _is_exception(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def _loader_name(function: Callable[..., Any], name: object) -> str:
    """Return what all processes call *function*, so that they mean the same."""
    if name is not None:
        if not isinstance(name, str) or not name.isprintable() or "|" in name:
            raise ConfigError(f"name={name!r:.80} is not printable text without |")
        if not 1 <= len(name) <= MAX_NAME:
            raise ConfigError(f"name={name!r:.80} is not of 1 to {MAX_NAME} letters")
        return name
    qualified = getattr(function, "__qualname__", "<unnamed>")
    module = getattr(function, "__module__", None)
    if "<lambda>" in qualified or "<unnamed>" in qualified:
        raise ConfigError(f"{function!r} has no name of its own; pass name=")
    if getattr(function, "__closure__", None) and "<locals>" in qualified:
        raise ConfigError(
            f"{qualified} takes values from the function around it, so two of that "
            "name may differ and must not share; pass name= to say that they may, or "
            "define it at the top of a module"
        )
    if module == "__main__":
        module = _main_module(qualified)
    return f"{module}:{qualified}"


def _main_module(qualified: str) -> str:
    """Return the name that the running script has where it is imported."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None:
        raise ConfigError(
            f"{qualified} was defined at a prompt, which has no name that other "
            "processes could know it by; pass name="
        )
    return Path(file).stem
