"""Exceptions as they travel between nodes, and as they arrive.

What travels is a name, a message, a traceback in text and the error's arguments as far
as they can be encoded. What arrives is a `LoadError`, unless the receiver knows the
class already: built-in exceptions and those that a memoized function lists in
`errors=` are raised as themselves, caused by the `LoadError`. No class is ever looked
up by a name that came over the wire.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from meshcache.codec.values import MsgpackCodec
from meshcache.engine.ops import Failure
from meshcache.errors import (
    LoadError,
    LoadTimeout,
    MeshCacheError,
    RecursiveLoad,
    SerializationError,
)

__all__ = ["BUILTIN", "error_of", "failure_of", "known", "packed", "unpacked"]

MAX_MESSAGE: Final = 4_096
MAX_TRACEBACK: Final = 16_384
MAX_ARGS: Final = 4_096

_codec: Final = MsgpackCodec()


def known(classes: Iterable[type[BaseException]]) -> Mapping[str, type[Exception]]:
    """Return *classes* by the names they travel under."""
    return {_name(c): c for c in classes if issubclass(c, Exception)}


def _name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


BUILTIN: Final[Mapping[str, type[Exception]]] = MappingProxyType(
    dict(
        known(
            value
            for value in vars(builtins).values()
            if isinstance(value, type) and issubclass(value, Exception)
        )
    )
)


def failure_of(error: BaseException) -> Failure:
    """Return *error* in the form that travels, its texts cut to their limits."""
    text = "".join(traceback.format_exception(error))
    return Failure(
        _name(type(error)),
        _message(error)[:MAX_MESSAGE],
        text[-MAX_TRACEBACK:],
        _encoded(error.args),
    )


def packed(failure: Failure) -> bytes:
    """Return *failure* as bytes to store."""
    return _codec.encode(tuple(failure))


def unpacked(data: bytes) -> Failure:
    """Return the failure whose bytes are *data*.

    Raises:
        SerializationError: they are not one's.
    """
    found = _codec.decode(data)
    if isinstance(found, tuple) and [*map(type, found)] == [str, str, str, bytes]:
        return Failure(*found)
    raise SerializationError(f"{data[:40]!r} is no remembered error")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - an error's own __str__ may be broken
        return f"<no message: its __str__ raised {type(broken).__name__}>"


def _encoded(args: tuple[object, ...]) -> bytes:
    try:
        encoded = _codec.encode(args)
    except MeshCacheError:
        return b""
    return encoded if len(encoded) <= MAX_ARGS else b""


def error_of(
    failure: Failure, classes: Mapping[str, type[Exception]] = BUILTIN
) -> Exception:
    """Return the exception to raise for *failure*.

    Args:
        failure: what came.
        classes: the classes that may be raised as themselves, by name.
    """
    type_name, message, text, args = failure
    for special in (RecursiveLoad, LoadTimeout):
        if type_name == _name(special):
            return special(type_name, message, text)
    error = LoadError(type_name, message, text)
    kind = classes.get(type_name, BUILTIN.get(type_name))
    if kind is None or not args:
        return error
    try:
        rebuilt = kind(*_arguments(args))
    except Exception:  # noqa: BLE001 - a class may refuse what its instance carried
        return error
    rebuilt.__cause__ = error
    return rebuilt


def _arguments(encoded: bytes) -> tuple[object, ...]:
    decoded = _codec.decode(encoded)
    return decoded if isinstance(decoded, tuple) else ()
