"""From the arguments of a call to one canonical tuple, and back.

Equal calls give equal tuples: `f(1)`, `f(a=1)` and, with a default of 0, `f(1, b=0)`
are one. The work is done by a function compiled once for each signature, so Python's
own argument passing applies defaults and names, in C (`inspect.Signature.bind` takes
about 8 us a call, this well under one). `Binder.define` uses the same for a function
that reads the arguments by their names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from typing import Any, Final, TypeAlias, final

from meshcache.codec.keys import encode_key
from meshcache.errors import ConfigError, KeyRefused

__all__ = ["RESERVED", "Binder", "Bound"]

RESERVED: Final = "_mesh_"
"""What the names begin with that a function made by `Binder.define` uses itself."""

Bound: TypeAlias = tuple[Any, ...]

_DEFINED: Final = f"{RESERVED}defined"
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@final
class Binder:
    """The canonical form of calls of one function. Thread-safe.

    Attributes:
        bind: takes a call's arguments and returns the canonical tuple, without the
            ignored ones; raises the TypeError that the call itself would.
        whole: whether a call can be made again from its tuple.
        names: of all arguments, where each has one; else None.
        kept: the names of those in the tuple.
    """

    def __init__(self, function: Callable[..., Any], ignore: Iterable[str]) -> None:
        self._function = function
        parameters = inspect.signature(function).parameters
        self._parameters = list(parameters.values())
        ignored = frozenset(ignore)
        if unknown := ignored - set(parameters):
            raise ConfigError(
                f"ignore={sorted(unknown)} names no argument of {_name(function)}; "
                f"it has {', '.join(parameters) or 'none'}"
            )
        self._kept = [p for name, p in parameters.items() if name not in ignored]
        self.whole: Final = not ignored
        self.kept: Final = tuple(p.name for p in self._kept)
        self.names: Final = _names(self._parameters)
        self._words, self._defaults = _signature(self._parameters)
        self.bind: Final = self._compile()

    def encode(self, bound: Bound) -> bytes:
        """Return the encoding of a canonical tuple.

        Raises:
            KeyRefused: an argument has no stable encoding; it is named.
        """
        try:
            return encode_key(bound)
        except KeyRefused:
            for parameter, value in zip(self._kept, bound, strict=True):
                where = f"argument {parameter.name!r} of {_name(self._function)}"
                encode_key(value, name=where)
            raise

    def call(self, bound: Bound) -> tuple[Bound, dict[str, Any]]:
        """Return the arguments of a call whose canonical tuple is *bound*.

        Raises:
            ValueError: no call of this function has that tuple.
        """
        if not self.whole or len(bound) != len(self._kept):
            raise ValueError(f"not the arguments of {_name(self._function)}")
        return self.spread(bound)

    def spread(self, values: Sequence[Any]) -> tuple[Bound, dict[str, Any]]:
        """Return how to pass these values of all arguments, the ignored included."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter, value in zip(self._parameters, values, strict=True):
            if parameter.kind in _POSITIONAL:
                args.append(value)
            elif parameter.kind is Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is Parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                kwargs.update(value)
        return tuple(args), kwargs

    def _compile(self) -> Callable[..., Bound]:
        """Return a function of the same signature that returns the canonical tuple."""
        body = "".join(f"{_canonical(parameter)}, " for parameter in self._kept)
        # Names of parameters are identifiers and defaults are passed by name, so
        # nothing of the application's gets into the source.
        source = f"lambda {self._words}: ({body})"
        bind: Callable[..., Bound] = eval(source, dict(self._defaults))  # noqa: S307
        # An error about missing arguments names the function.
        bind.__qualname__ = getattr(self._function, "__qualname__", bind.__qualname__)
        return bind

    def define(
        self, body: str, scope: Mapping[str, Any], *, is_async: bool
    ) -> Callable[..., Any]:
        """Return a function of the same signature.

        Args:
            body: its source, indented; it may use what the arguments are called.
            scope: what else it uses, by names that begin with `RESERVED`.
            is_async: whether it is `async def`.
        """
        source = f"{'async ' if is_async else ''}def {_DEFINED}({self._words}):\n{body}"
        names = {**self._defaults, **scope}
        exec(source, names)  # noqa: S102 - as in `_compile`
        defined: Callable[..., Any] = names[_DEFINED]
        return defined


def _names(parameters: list[Parameter]) -> tuple[str, ...] | None:
    """Return the names of all arguments; None if some have none, or a reserved one."""
    several = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    if any(p.kind in several or p.name.startswith(RESERVED) for p in parameters):
        return None
    return tuple(p.name for p in parameters)


def _signature(parameters: list[Parameter]) -> tuple[str, dict[str, Any]]:
    """Return the source of a parameter list, and the defaults that it names."""
    defaults: dict[str, Any] = {}
    words: list[str] = []
    for index, parameter in enumerate(parameters):
        before = parameters[index - 1].kind if index else None
        if (
            before is Parameter.POSITIONAL_ONLY
            and parameter.kind is not Parameter.POSITIONAL_ONLY
        ):
            words.append("/")
        if parameter.kind is Parameter.KEYWORD_ONLY and before not in {
            Parameter.KEYWORD_ONLY,
            Parameter.VAR_POSITIONAL,
        }:
            words.append("*")
        words.append(_word(parameter, defaults))
    if parameters and parameters[-1].kind is Parameter.POSITIONAL_ONLY:
        words.append("/")
    return ", ".join(words), defaults


def _word(parameter: Parameter, defaults: dict[str, Any]) -> str:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.kind is Parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    if parameter.default is Parameter.empty:
        return parameter.name
    name = f"{RESERVED}default_of_{parameter.name}"
    defaults[name] = parameter.default
    return f"{parameter.name}={name}"


def _canonical(parameter: Parameter) -> str:
    if parameter.kind is Parameter.VAR_KEYWORD:
        return f"tuple(sorted({parameter.name}.items()))"
    return parameter.name


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__qualname__', function)}()"
