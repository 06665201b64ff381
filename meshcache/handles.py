"""What a memoized function is to those who call it: its type and its handles.

The types keep the parameters of the function that was memoized, so that a checker
checks `load_user.invalidate(7)` as it checks `load_user(7)`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import (
    Any,
    Concatenate,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    overload,
)

from meshcache.model import Missing

__all__ = [
    "AsyncBoundMemoized",
    "AsyncMemoized",
    "BoundMemoized",
    "CacheInfo",
    "CacheParameters",
    "Memoized",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class CacheInfo(NamedTuple):
    """What `functools.lru_cache` reports, for this process.

    A hit was answered from any memory, here or at the owner; a miss took a load,
    wherever that ran and however it ended. `maxsize` bounds what all functions of the
    node keep near; `currsize` is how much of that is this function's.
    """

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class CacheParameters(TypedDict):
    """What `functools.lru_cache` says of how it was made.

    `maxsize` is as in `CacheInfo`; `typed` is True, because `f(1)` and `f(1.0)` never
    share.
    """

    maxsize: int | None
    typed: bool


class _Handles(Protocol[P, R_co]):
    """What memoized functions of both kinds have."""

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself; of a method, that of the class."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the value for these arguments; return whether there was one."""

    async def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the value for these arguments; see `invalidate`."""

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R_co | Missing:
        """Return the value if it is stored, else MISSING; never load."""

    async def apeek(self, *args: P.args, **kwargs: P.kwargs) -> R_co | Missing:
        """Return the value if it is stored, else MISSING; see `peek`."""

    def set(self, value: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store *value* as if the function had returned it for these arguments."""

    async def aset(self, value: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store *value* for these arguments; see `set`."""

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Return the key that the cluster knows this call by."""

    def invalidate_all(self) -> None:
        """Forget the values for all arguments, on all members."""

    async def ainvalidate_all(self) -> None:
        """Forget the values for all arguments; see `invalidate_all`."""

    def cache_info(self) -> CacheInfo:
        """Return hits, misses and sizes, as `functools.lru_cache` does."""

    def cache_clear(self) -> None:
        """Forget everything and count from nothing, as `functools.lru_cache` does."""

    def cache_parameters(self) -> CacheParameters:
        """Return how it was made, as `functools.lru_cache` does."""


# --- plain functions -------------------------------------------------------------


class _Plain(_Handles[P, R_co], Protocol[P, R_co]):
    """The handles of a function that is not `async def`."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function now, store what it returns, and return it."""

    def uncached(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function itself."""


class _OnClass(_Plain[P, R_co], Protocol[P, R_co]):
    """What `Shop.price` is: its handles take a shop first.

    So does a call, unless it is a class method; a checker cannot tell which.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> R_co: ...


class BoundMemoized(_Plain[P, R_co], Protocol[P, R_co]):
    """A memoized function with its first argument, `shop.price`. Thread-safe."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the function's value for these arguments, from memory if it can."""


class Memoized(_Plain[P, R_co], Protocol[P, R_co]):
    """A memoized function. Thread-safe.

    As a method it knows whose it is, and so do its handles: `shop.price("tea")` and
    `shop.price.invalidate("tea")`, or `Shop.price.invalidate(shop, "tea")`.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the function's value for these arguments, from memory if it can."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> _OnClass[P, R_co]: ...
    @overload
    def __get__(
        self: Memoized[Concatenate[S, Q], R], instance: S, owner: Any = None, /
    ) -> BoundMemoized[Q, R]: ...
    @overload
    def __get__(
        self, instance: object, owner: Any = None, /
    ) -> Callable[..., R_co]: ...


# --- async functions -------------------------------------------------------------


class _Async(_Handles[P, R_co], Protocol[P, R_co]):
    """The handles of an `async def` function."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Run the function now, store what it returns, and return it."""

    def uncached(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the function itself."""


class _AsyncOnClass(_Async[P, R_co], Protocol[P, R_co]):
    """What `Shop.stock` is; see `_OnClass`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R_co]: ...


class AsyncBoundMemoized(_Async[P, R_co], Protocol[P, R_co]):
    """A memoized `async def` function with its first argument. See `BoundMemoized`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return the function's value for these arguments, from memory if it can."""


class AsyncMemoized(_Async[P, R_co], Protocol[P, R_co]):
    """A memoized `async def` function. Thread-safe, on any loop. See `Memoized`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return the function's value for these arguments, from memory if it can."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> _AsyncOnClass[P, R_co]: ...
    @overload
    def __get__(
        self: AsyncMemoized[Concatenate[S, Q], R], instance: S, owner: Any = None, /
    ) -> AsyncBoundMemoized[Q, R]: ...
    @overload
    def __get__(
        self, instance: object, owner: Any = None, /
    ) -> Callable[..., Coroutine[Any, Any, R_co]]: ...
