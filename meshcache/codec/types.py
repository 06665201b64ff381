"""The application's own types that may travel as values, and their names.

A value of a class that is not built in is stored as a name and a payload. This is the
register of those names. It is process-wide, as classes are, and it is the only way
from a name to a class: nothing that arrives from a peer or from shared memory ever
imports a module or finds a class that was not registered here.

A class registers under `module:qualname`, or under a name of the application's own,
which has no colon, so that the two kinds never meet. Every process that shares a cache
registers the same classes, best where they are defined.
"""

from __future__ import annotations

import dataclasses
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, overload
from uuid import UUID
from zoneinfo import ZoneInfo

from meshcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_NAME",
    "NATIVE",
    "NESTING",
    "Kind",
    "Known",
    "class_named",
    "enum_member",
    "enum_token",
    "field_names",
    "key_name",
    "register",
    "registered",
]

T = TypeVar("T")

MAX_NAME: Final = 255
"""The greatest length of a registered name, in characters."""

NATIVE: Final = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes),
        *(list, tuple, dict, set, frozenset),
        *(date, datetime, time, timedelta, timezone, ZoneInfo),
        *(Decimal, UUID),
    }
)
"""What travels without registration: these classes exactly, not their subclasses."""

NESTING: Final = frozenset({list, tuple, dict, set, frozenset})
"""Those of the native classes that hold other values."""

_MAIN: Final = frozenset({"__main__", "__mp_main__"})
_HARMLESS: Final = frozenset({"__orig_class__"})
"""Instance attributes that `typing` sets and nobody's equality looks at."""


class Kind(Enum):
    """How instances of a registered class become a payload."""

    ENUM = "enum"
    DATACLASS = "dataclass"
    CUSTOM = "custom"


class Known(NamedTuple):
    """A registered class.

    `take` turns an instance into its payload and `make` does the reverse. Both raise
    ValueError for what would not come back the same, and whatever the application's
    own functions raise.
    """

    cls: type[Any]
    name: str
    kind: Kind
    take: Callable[[Any], object]
    make: Callable[[Any], object]


_by_class: dict[type[Any], Known] = {}
_by_name: dict[str, Known] = {}


@overload
def register(cls: type[T], *, name: str | None = None) -> type[T]: ...
@overload
def register(
    cls: type[T],
    *,
    encode: Callable[[T], object],
    decode: Callable[[Any], T],
    name: str | None = None,
) -> type[T]: ...
@overload
def register(
    cls: None = None, *, name: str | None = None
) -> Callable[[type[T]], type[T]]: ...
@overload
def register(
    cls: None = None,
    *,
    encode: Callable[[T], object],
    decode: Callable[[Any], T],
    name: str | None = None,
) -> Callable[[type[T]], type[T]]: ...
def register(
    cls: type[T] | None = None,
    *,
    name: str | None = None,
    encode: Callable[[T], object] | None = None,
    decode: Callable[[Any], T] | None = None,
) -> type[T] | Callable[[type[T]], type[T]]:
    """Let instances of *cls* travel as values. Also a decorator, bare or called.

    An Enum travels by its members' names (a Flag by its number), a dataclass by its
    fields; neither `__init__` nor `__post_init__` runs when it comes back. Any other
    class needs both functions.

    Thread-safe in the way that importing is: register where the class is defined.
    The same class may be registered again, and so may its successor of the same
    module and qualified name, as after a reload; instances of the class it replaces
    are refused from then on.

    Args:
        cls: the class.
        name: what to call it, at most 255 characters without a colon; by default its
            `module:qualname`. A class of `__main__` or of a function body needs one,
            because its own name differs between processes or is not unique.
        encode: returns a value of supported types that says all about an instance.
        decode: makes an equal instance of exactly *cls* from what `encode` returned.

    Raises:
        ConfigError: the class cannot travel, or another has its name. Nothing was
            registered.
    """
    if cls is None:
        return lambda cls: _register(cls, name, encode, decode)
    return _register(cls, name, encode, decode)


def registered(cls: type[Any]) -> Known | None:
    """Return what is known of this very class, or None."""
    return _by_class.get(cls)


def class_named(name: str) -> Known | None:
    """Return the class registered under *name*, or None. Never imports anything."""
    return _by_name.get(name)


def key_name(cls: type[Any]) -> str | None:
    """Return what a key calls *cls*, the same in every process; None if nothing is.

    It is `module:qualname` whether the class is registered or not, so that a late
    registration moves no key. Only a class without such a name goes by the one that
    it was given.
    """
    if _stable(cls):
        return _qualified(cls)
    known = _by_class.get(cls)
    if known is not None:
        return known.name
    # Two classes of one function body have one qualified name: keys would collide.
    return None if "<locals>" in cls.__qualname__ else f"__main__:{cls.__qualname__}"


# --- registering -----------------------------------------------------------------


def _register(
    cls: type[T],
    name: str | None,
    encode: Callable[[T], object] | None,
    decode: Callable[[Any], T] | None,
) -> type[T]:
    if not isinstance(cls, type):
        raise ConfigError(f"register() takes a class, not {cls!r}.")
    if cls in NATIVE:
        raise ConfigError(f"{cls.__qualname__} travels as it is; do not register it.")
    if (encode is None) != (decode is None):
        raise ConfigError(
            f"Registering {cls.__qualname__} takes both encode= and decode=, or neither"
        )
    name = _checked_name(cls, name)
    if encode is not None and decode is not None:
        known = _custom(cls, name, encode, decode)
    elif issubclass(cls, Enum):
        known = _enum(cls, name)
    else:
        known = _dataclass(cls, name)
    _enter(known)
    return cls


def _checked_name(cls: type[Any], name: str | None) -> str:
    if name is None:
        if not _stable(cls):
            raise ConfigError(
                f"{_qualified(cls)} is no name that other processes know or that is "
                f'unique. Give it one: register(name="{cls.__name__.lower()}").'
            )
        return _qualified(cls)
    if not name or len(name) > MAX_NAME or ":" in name:
        raise ConfigError(
            f"name={name!r} must have 1 to {MAX_NAME} characters and no colon "
            "(the colon marks the default, module:qualname)."
        )
    return name


def _enter(known: Known) -> None:
    """Put *known* into both tables, in the place of itself or its predecessor."""
    mine = _by_class.get(known.cls)
    if mine is not None and mine.name != known.name:
        raise ConfigError(
            f"{_qualified(known.cls)} is registered as {mine.name!r} already; "
            f"it cannot be {known.name!r} as well."
        )
    # A key calls an importable class by its qualified name, whatever its own.
    names = {known.name, _qualified(known.cls)} if _stable(known.cls) else {known.name}
    holders = [_by_name[name] for name in names if name in _by_name]
    for holder in holders:
        if _qualified(holder.cls) != _qualified(known.cls):
            raise ConfigError(
                f"The name {holder.name!r} belongs to {_qualified(holder.cls)}; "
                f"register {_qualified(known.cls)} under another name=."
            )
    for holder in holders:
        _by_class.pop(holder.cls, None)
    _by_class[known.cls] = known
    _by_name.update(dict.fromkeys(names, known))


def _qualified(cls: type[Any]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _stable(cls: type[Any]) -> bool:
    """Whether `module:qualname` means this class, and no other, in every process."""
    return cls.__module__ not in _MAIN and "<locals>" not in cls.__qualname__


# --- the three kinds -------------------------------------------------------------


def enum_token(member: Enum) -> str | int:
    """Return what stands for *member*: its name, or the number of a Flag.

    Raises:
        ValueError: the class would not give this member back.
    """
    cls = type(member)
    token = member._value_ if isinstance(member, Flag) else member._name_
    if enum_member(cls, token) is not member:
        raise ValueError(f"{member!r} is not a member that its class would give back")
    return token


def enum_member(cls: type[Enum], token: object) -> Enum:
    """Return the member that *token* stands for; ValueError if there is none."""
    if issubclass(cls, Flag):
        if type(token) is int:
            return cls(token)
    elif type(token) is str and token in cls.__members__:
        return cls.__members__[token]
    raise ValueError(f"{_qualified(cls)} has no member {token!r}")


def field_names(cls: type[Any]) -> tuple[str, ...] | None:
    """Return the fields of a class that `@dataclass` itself decorates, or None.

    A subclass that is not decorated inherits the fields and may hold more than they
    say, so it is no dataclass here.
    """
    if "__dataclass_fields__" not in cls.__dict__:
        return None
    return tuple(field.name for field in dataclasses.fields(cls))


def _enum(cls: type[Enum], name: str) -> Known:
    return Known(
        cls, name, Kind.ENUM, enum_token, lambda token: enum_member(cls, token)
    )


def _dataclass(cls: type[Any], name: str) -> Known:
    fields = field_names(cls)
    if fields is None:
        raise ConfigError(
            f"{_qualified(cls)} is neither an Enum nor a dataclass (@register goes "
            "above @dataclass). Give the functions that take it apart and make it "
            "again: register(cls, encode=..., decode=...)."
        )
    try:
        object.__new__(cls)
    except TypeError as error:
        raise ConfigError(
            f"{_qualified(cls)} cannot be made from its fields alone ({error}). "
            "Register it with encode=... and decode=..."
        ) from error
    take, make = _by_fields(cls, fields)
    return Known(cls, name, Kind.DATACLASS, take, make)


def _by_fields(
    cls: type[Any], fields: tuple[str, ...]
) -> tuple[Callable[[Any], object], Callable[[Any], object]]:
    """Return the two functions of a dataclass.

    `__init__` is not run again: it may validate, count or derive, and what it derives
    need not be what the fields held. In return nothing may hide outside the fields,
    save what a `cached_property` can compute again.
    """
    names = frozenset(fields)
    kept = names | _HARMLESS | _cached_properties(cls)
    slots = _slots(cls) - kept

    def take(instance: Any) -> object:
        extra = getattr(instance, "__dict__", {}).keys() - kept
        extra |= {slot for slot in slots if hasattr(instance, slot)}
        if extra:
            raise ValueError(
                f"the attribute {min(extra)!r} is no field and would be lost; make it "
                "a field(init=False), or register the class with encode= and decode="
            )
        try:
            return {field: getattr(instance, field) for field in fields}
        except AttributeError as error:
            raise ValueError(f"a field has no value: {error}") from error

    def make(payload: Any) -> object:
        if type(payload) is not dict or payload.keys() != names:
            raise ValueError(f"not the fields of {_qualified(cls)}")
        instance = object.__new__(cls)
        for field in fields:
            object.__setattr__(instance, field, payload[field])
        return instance

    return take, make


def _custom(
    cls: type[T],
    name: str,
    encode: Callable[[T], object],
    decode: Callable[[Any], T],
) -> Known:
    def make(payload: Any) -> object:
        instance = decode(payload)
        if type(instance) is not cls:
            raise ValueError(f"decode= made a {type(instance)}, not a {cls}")
        return instance

    return Known(cls, name, Kind.CUSTOM, encode, make)


def _cached_properties(cls: type[Any]) -> frozenset[str]:
    return frozenset(
        name
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, cached_property)
    )


def _slots(cls: type[Any]) -> frozenset[str]:
    names: set[str] = set()
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
    return frozenset(names) - {"__dict__", "__weakref__"}
