"""From the arguments of a call to one canonical tuple, and back.

Equal calls give equal tuples: `f(1)`, `f(a=1)` and, with a default of 0, `f(1, b=0)`
are one. The work is done by a function compiled once for each signature, so Python's
own argument passing applies defaults and names, in C (`inspect.Signature.bind` takes
about 8 us a call, this well under one). `Binder.define` uses the same for a function
that reads the arguments by their names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any, Final, TypeAlias, final

from meshcache.clock import compiled
from meshcache.codec.keys import encode_key
from meshcache.errors import ConfigError, KeyRefused

__all__ = ["RESERVED", "Binder", "Bound"]

RESERVED: Final = "_mesh_"
"""What the names begin with that a function made by `Binder.define` uses itself."""

Bound: TypeAlias = tuple[Any, ...]

_DEFINED: Final = f"{RESERVED}defined"
_PAIRS: Final = f"{RESERVED}pairs"
_NAMED: Final = f"{RESERVED}named"
_VALUES: Final = f"{RESERVED}values"
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_SEVERAL: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_FIRST: Final = ("self", "cls")

# What is known of a builtin function that does not tell its parameters, such as `max`.
_ANYTHING: Final = inspect.Signature(
    [Parameter("args", _SEVERAL[0]), Parameter("kwargs", _SEVERAL[1])]
)


@final
class Binder:
    """The canonical form of calls of one function. Thread-safe.

    Attributes:
        bind: takes a call's arguments and returns the canonical tuple, without the
            ignored ones; raises the TypeError that the call itself would.
        spread: takes the values of all arguments, the ignored included, and returns
            how to pass them.
        whole: whether a call can be made again from its tuple.
        names: of all arguments, where each has one; else None.
        kept: the names of those in the tuple.
        first: the name of the first argument; None if it takes none.
    """

    def __init__(self, function: Callable[..., Any], ignore: Iterable[str]) -> None:
        self._function = function
        parameters = _parameters(function)
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
        self.first: Final = next(iter(parameters), None)
        self.names: Final = _names(self._parameters)
        self._words, self._defaults = _signature(self._parameters)
        self.bind: Final = self._compile_bind()
        self.spread: Final = _compile_spread(self._parameters)

    def encode(self, bound: Bound) -> bytes:
        """Return the encoding of a canonical tuple.

        Raises:
            KeyRefused: an argument has no stable encoding; it is named.
        """
        try:
            return encode_key(bound)
        except KeyRefused:
            self._explain(bound)
            raise

    def _explain(self, bound: Bound) -> None:
        """Raise for the argument that has no stable encoding."""
        for parameter, value in zip(self._kept, bound, strict=True):
            where = f"argument {parameter.name!r} of {_name(self._function)}"
            try:
                encode_key(value, name=where)
            except KeyRefused:
                if parameter is self._parameters[0] and _is_bare(parameter, value):
                    raise KeyRefused(_who_is(parameter.name, where, value)) from None
                raise

    def call(self, bound: Bound) -> tuple[Bound, dict[str, Any]]:
        """Return the arguments of a call whose canonical tuple is *bound*.

        Raises:
            ValueError: no call of this function has that tuple.
        """
        if not self.whole or len(bound) != len(self._kept):
            raise ValueError(f"not the arguments of {_name(self._function)}")
        return self.spread(bound)

    def _compile_bind(self) -> Callable[..., Bound]:
        """Return a function of the same signature that returns the canonical tuple."""
        body = "".join(f"{_canonical(parameter)}, " for parameter in self._kept)
        # Names of parameters are identifiers and defaults are passed by name, so
        # nothing of the application's gets into the source.
        source = f"lambda {self._words}: ({body})"
        names = {**self._defaults, _PAIRS: _sorted_pairs}
        bind: Callable[..., Bound] = eval(source, names)  # noqa: S307
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
        exec(source, names)  # noqa: S102 - as in `_compile_bind`
        defined: Callable[..., Any] = names[_DEFINED]
        return compiled(defined)


def _parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return _ANYTHING.parameters


def _names(parameters: list[Parameter]) -> tuple[str, ...] | None:
    """Return the names of all arguments; None if some have none, or a reserved one."""
    if any(p.kind in _SEVERAL or p.name.startswith(RESERVED) for p in parameters):
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
    """Return the source of an argument's part in the canonical tuple.

    It calls nothing by the name of a builtin: an argument may have that name.
    """
    if parameter.kind is Parameter.VAR_KEYWORD:
        return f"{_PAIRS}({parameter.name})"
    return parameter.name


def _sorted_pairs(named: dict[str, Any]) -> Bound:
    return tuple(sorted(named.items()))


def _compile_spread(
    parameters: list[Parameter],
) -> Callable[[Bound], tuple[Bound, dict[str, Any]]]:
    args: list[str] = []
    kwargs: list[str] = []
    for index, parameter in enumerate(parameters):
        value = f"{_VALUES}[{index}]"
        if parameter.kind in _POSITIONAL:
            args.append(f"{value}, ")
        elif parameter.kind is Parameter.VAR_POSITIONAL:
            args.append(f"*{value}, ")
        elif parameter.kind is Parameter.KEYWORD_ONLY:
            kwargs.append(f"{parameter.name!r}: {value}, ")
        else:
            kwargs.append(f"**{_NAMED}({value}), ")
    source = f"lambda {_VALUES}: (({''.join(args)}), {{{''.join(kwargs)}}})"
    spread: Callable[[Bound], tuple[Bound, dict[str, Any]]]
    spread = eval(source, {_NAMED: dict})  # noqa: S307 - as in `_compile_bind`
    return spread


def _is_bare(parameter: Parameter, value: object) -> bool:
    """Whether *value* is an object whose method is called, and says nothing of it."""
    return parameter.name in _FIRST and not hasattr(type(value), "__cache_key__")


def _who_is(name: str, where: str, value: object) -> str:
    """Return why a method is not called, and the remedies."""
    kind = value.__qualname__ if isinstance(value, type) else type(value).__qualname__
    return (
        f"{where}: nothing says which {kind} this is in a way that other processes "
        f"understand. Define __cache_key__ on the class, a method or an attribute "
        f"that tells its objects apart (an id, a name, a tuple of such); or leave it "
        f'out by ignore=("{name}",) if the result does not depend on it; or make the '
        "key by key=."
    )


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__qualname__', function)}()"
