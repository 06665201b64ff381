"""Memoized functions as methods: `Shop.price`, and `shop.price` with its handles.

A plain function makes a method of itself, and faster than anything else, but the
method of a memoized one would have handles that know nothing of the shop:
`shop.price.invalidate("tea")` would forget what is known of the shop "tea". So what
is made for a class binds its handles too. Both kinds are `functools.partial`, whose
calls cost little and which `inspect` looks through, to see that it is `async def`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, update_wrapper
from inspect import Parameter
from types import MethodType
from typing import Any, Final, TypeAlias, final

from meshcache.codec.keys import encode_key
from meshcache.errors import KeyRefused, ValueTooLarge

__all__ = [
    "OF_A_CALL",
    "OF_A_VALUE",
    "Wrapped",
    "bound",
    "method",
    "rewrap",
    "tells_apart",
]

OF_A_CALL: Final = frozenset(
    {"ainvalidate", "apeek", "invalidate", "key_for", "peek", "refresh", "uncached"}
)
"""The handles that take the arguments of a call."""

OF_A_VALUE: Final = frozenset({"aset", "set"})
"""The handles that take a value first, and then the arguments of a call."""

_OF_THE_FUNCTION: Final = frozenset({"__doc__", "__module__"})
_FIRST: Final = frozenset({"self", "cls"})
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

Function: TypeAlias = Callable[..., Any]
Wrapped: TypeAlias = "classmethod[Any, Any, Any] | staticmethod[Any, Any] | MethodType"
"""What holds a function, which is what can be memoized of it."""


@final
class Bound(partial[Any]):
    """A memoized function with its first argument: `shop.price`. Thread-safe."""

    def __getattribute__(self, name: str) -> Any:
        # Every class has these two, so `__getattr__` would never be asked for them.
        if name in _OF_THE_FUNCTION:
            return getattr(self.func, name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.func, name)
        if name in OF_A_CALL:
            return partial(found, *self.args)
        if name in OF_A_VALUE:
            return _setter(found, self.args[0])
        return found

    def __get__(self, instance: object, owner: type | None = None) -> Bound:
        return self

    @property
    def __self__(self) -> Any:
        return self.args[0]

    @property
    def __func__(self) -> Function:
        return self.func

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.func)
        parameters = list(signature.parameters.values())
        if parameters and parameters[0].kind in _POSITIONAL:
            del parameters[0]
        return signature.replace(parameters=parameters)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bound):
            return NotImplemented
        return self.func is other.func and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((self.func, id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound memoized {self.func.__qualname__} of {self.__self__!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.__self__, self.func.__name__)


@final
class Method(partial[Any]):
    """A memoized function in the body of a class: `Shop.price`. Thread-safe."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if instance is owner:
            # A class method asks until Python 3.12; later it makes this by itself, and
            # knows nothing of handles. It shall not depend on that.
            return MethodType(self, instance)
        return Bound(self.func, instance)

    def __repr__(self) -> str:
        return f"<memoized {self.func.__qualname__}>"

    def __reduce__(self) -> str:
        qualified: str = self.func.__qualname__
        return qualified


def method(function: Function, first: str | None) -> Function:
    """Return a memoized function such that its methods have handles.

    Args:
        function: what is called in place of the memoized function; it has its name.
        first: the name of its first parameter. One outside of every class is taken
            for a method if that says so: it may be made an attribute later.
    """
    around = function.__qualname__.rpartition(".")[0]
    if first not in _FIRST and (not around or around.endswith("<locals>")):
        return function
    made = Method(function)
    update_wrapper(made, function)
    # `update_wrapper` says that it wraps *function*, where that says what it wraps.
    vars(made).update(vars(function))
    return made


def bound(memoized: Function, first: object) -> Bound:
    """Return a memoized function with its first argument."""
    return Bound(memoized.func if isinstance(memoized, Method) else memoized, first)


def rewrap(wrapped: Wrapped, memoized: Function) -> Any:
    """Return what *wrapped* is, around the memoized form of its function."""
    if isinstance(wrapped, MethodType):
        return bound(memoized, wrapped.__self__)
    if isinstance(wrapped, staticmethod) and isinstance(memoized, Method):
        # It is called as it is, and spared the way around.
        return staticmethod(memoized.func)
    return type(wrapped)(memoized)


def tells_apart(function: MethodType) -> bool:
    """Whether the object that a method is bound to can be part of a key."""
    try:
        encode_key(function.__self__)
    except (KeyRefused, ValueTooLarge):
        return False
    return True


def _setter(found: Function, first: object) -> Function:
    def setter(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        return found(value, first, *args, **kwargs)

    return setter
