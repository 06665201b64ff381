"""Why a value is refused, where it sits, and what to do: the text of the error.

Encoding runs at msgpack's speed and knows no path. It only remembers the culprit;
the way to it is searched for once there is an error to explain.
"""

from __future__ import annotations

from collections import deque
from reprlib import repr as repr_of
from typing import TYPE_CHECKING, Any, Final, final

from meshcache.codec.types import NATIVE, NESTING, Kind, registered

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Refusal", "brief", "called", "in_short", "why_not"]

_MAX_ERROR: Final = 200
"""How much of an error's text another error quotes; it may hold all the bytes."""


@final
class Refusal(Exception):
    """*culprit* cannot be encoded. Never leaves the codec."""

    def __init__(self, culprit: object, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.culprit = culprit
        self.why = why
        self.remedy = remedy

    def explain(self, root: object) -> str:
        """Return the error's text, given the value that was to be encoded."""
        return f"{_path(root, self.culprit)} {self.why}. {self.remedy}".rstrip()


def called(cls: type[Any]) -> str:
    """Return the name of *cls* as a person would write it."""
    module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
    return module + cls.__qualname__


def in_short(error: Exception) -> str:
    """Return the type and the beginning of the text of *error*, which may be long."""
    return f"{type(error).__name__}: {str(error)[:_MAX_ERROR]}"


def brief(value: object) -> str:
    """Return a short text for *value*, whatever its own repr may do."""
    try:
        return repr_of(value)
    except Exception:  # noqa: BLE001 - an int of many digits has no repr
        return f"<{called(type(value))}>"


def why_not(cls: type[Any]) -> tuple[str, str]:
    """Return why instances of *cls* are refused as values, and the remedy."""
    base = next((base for base in cls.__mro__ if base in NATIVE), None)
    if cls in {bytearray, memoryview}:
        why, convert = "which would come back as bytes", "Convert it to bytes"
    elif base is not None:
        why = f"which would come back as a plain {base.__name__}"
        convert = f"Convert it to {base.__name__}"
    else:
        why, convert = "of which the codec knows nothing", "Convert it"
    return f"is of type {called(cls)}, {why}", (
        f"{convert}, or register the class: meshcache.register(cls) for an Enum or "
        "dataclass, meshcache.register(cls, encode=..., decode=...) for any other. "
        "Or give the cache another codec=."
    )


def _path(root: object, culprit: object) -> str:
    """Return the way from *root* to *culprit*, as Python would write it."""
    seen: set[int] = set()
    todo: deque[tuple[str, object]] = deque([("value", root)])
    while todo:
        path, value = todo.popleft()
        if value is culprit:
            return path
        if id(value) not in seen:
            seen.add(id(value))
            todo.extend((path + step, item) for step, item in _steps(value))
    return "Something inside the value"


def _steps(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what is directly inside *value*, and how to get there."""
    cls = type(value)
    if cls is dict:
        yield from ((".keys()", key) for key in value)
        yield from ((f"[{brief(key)}]", item) for key, item in value.items())
    elif cls in NESTING:
        ordered = cls in {list, tuple}
        for index, item in enumerate(value):
            yield (f"[{index}]" if ordered else "[...]"), item
    elif (known := registered(cls)) is not None and known.kind is Kind.DATACLASS:
        for name in cls.__dataclass_fields__:
            yield f".{name}", getattr(value, name, None)
