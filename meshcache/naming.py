"""What can be memoized, and what all processes call it.

Functions of one name share their values, in this process and in all others. So the
name says which function it is, and what a function holds besides its arguments (a
closure, the object of a bound method) either becomes part of the key or has to be
vouched for by `name=`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property, partial
from inspect import isasyncgenfunction, isgeneratorfunction
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeGuard

from meshcache.binding import Binder
from meshcache.errors import ConfigError
from meshcache.methods import Wrapped, tells_apart
from meshcache.options import Settings

__all__ = ["check_kind", "code_of", "loader_name", "wraps"]

MAX_NAME: Final = 400


def code_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what says of what kind *function* is: of an object, its `__call__`."""
    if isinstance(function, FunctionType | MethodType | partial | type):
        return function
    called: Callable[..., Any] = type(function).__call__
    return called


def wraps(function: object, settings: Settings) -> TypeGuard[Wrapped]:
    """Whether to memoize the function inside of *function*.

    So the object of a bound method is an argument, where that can be; else it is
    something that the function holds.
    """
    if not isinstance(function, MethodType):
        return isinstance(function, classmethod | staticmethod)
    if settings.key is not None:
        return False
    first = Binder(function.__func__, ()).first
    return first in settings.ignore or tells_apart(function)


def check_kind(function: object) -> None:
    """Refuse what cannot be memoized, and say why."""
    if isinstance(function, property | cached_property):
        kind = type(function).__name__
        raise ConfigError(f"put @{kind} above @memoize, so that it wraps the memoized")
    if not callable(function):
        raise ConfigError(
            f"{function!r} is no function to memoize; options go by name, as in "
            "@cache.memoize(ttl=60)"
        )
    code = code_of(function)
    if isgeneratorfunction(code) or isasyncgenfunction(code):
        raise ConfigError(
            f"{code.__qualname__} is a generator: what it yields can be read once, "
            "and a cached value many times; memoize a function that returns a list"
        )


def loader_name(function: Callable[..., Any], name: object) -> str:
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
    if _holds(function):
        raise ConfigError(
            f"{function!r} holds an object or arguments, in which another of that "
            "name may differ and must not share; pass name= to say that they may, or "
            "define __cache_key__ on the object's class"
        )
    if getattr(function, "__closure__", None) and "<locals>" in qualified:
        raise ConfigError(
            f"{qualified} takes values from the function around it, so two of that "
            "name may differ and must not share; pass name= to say that they may, or "
            "define it at the top of a module"
        )
    if module == "__main__":
        module = _main_module(qualified)
    return f"{module}:{qualified}"


def _holds(function: Callable[..., Any]) -> bool:
    """Whether it was given an object or arguments that are no part of the key."""
    # A builtin function has its module there.
    holder = getattr(function, "__self__", None)
    held = holder is not None and not isinstance(holder, ModuleType)
    return held or isinstance(function, partial)


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
