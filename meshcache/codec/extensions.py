"""What msgpack does not have: tuples, sets, big ints, dates, the application's types.

Scalars are extensions whose codes are the letters of `scalars`, and `I` for an int
beyond 64 bits. What holds other values is a list that begins with a mark, which is an
extension without content:

    [mark ( , items...]         a tuple            [mark < , items...]   a set
    [mark @ , name, payload]    a registered type  [mark | , items...]   a frozenset

No list of the application's begins so, because `ExtType` itself is refused. And since
there is no encoding within an encoding, msgpack's own limit on nesting holds for all
of it, and hostile bytes cannot make the decoder call itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from msgpack import ExtType, Timestamp

from meshcache.codec.refusal import Refusal, why_not
from meshcache.codec.scalars import SCALARS
from meshcache.codec.types import NESTING, class_named, registered
from meshcache.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MARK_HEADER",
    "Marks",
    "boxed",
    "extended",
    "may_hold_lookalikes",
    "scalar",
]

_BIG_INT: Final = ord("I")
_TUPLE: Final = ExtType(ord("("), b"")
_SET: Final = ExtType(ord("<"), b"")
_FROZENSET: Final = ExtType(ord("|"), b"")
_OBJECT: Final = ExtType(ord("@"), b"")
MARK_HEADER: Final = b"\xc7\x00"
"""How every mark begins; bytes without it need no `Marks` to decode."""


_LOOKALIKES: Final = frozenset({bytearray, memoryview, ExtType, Timestamp})
"""What msgpack writes without asking, although it comes back as something else."""

_LOOKALIKE_BYTES: Final = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])
"""The first bytes of msgpack's bin and ext families."""

_WATCHED: Final = _LOOKALIKES | NESTING


# --- encoding --------------------------------------------------------------------


def extended(value: Any) -> object:
    """Return what msgpack shall write for *value*, of which it knows nothing.

    Raises:
        Refusal: it would not come back the same.
    """
    cls = type(value)
    form = _FORMS.get(cls)
    if form is not None:
        try:
            return form(value)
        except ValueError as error:
            raise Refusal(value, f"does not come back the same: {error}") from error
    return _registered(value.value if cls is _Boxed else value)


def _registered(value: Any) -> object:
    known = registered(type(value))
    if known is None:
        raise Refusal(value, *why_not(type(value)))
    try:
        payload = known.take(value)
    except Exception as error:  # encode= is the application's
        raise Refusal(value, f"does not come back the same: {error}") from error
    return [_OBJECT, known.name, boxed(payload)]


def _big_int(value: int) -> ExtType:
    return ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def _scalar_form(code: int, pack: Callable[[Any], bytes]) -> Callable[[Any], object]:
    return lambda value: ExtType(code, pack(value))


_FORMS: Final[dict[type[Any], Callable[[Any], object]]] = {
    int: _big_int,
    tuple: lambda value: [_TUPLE, *value],
    set: lambda value: [_SET, *value],
    frozenset: lambda value: [_FROZENSET, *value],
    **{scalar.cls: _scalar_form(scalar.code, scalar.pack) for scalar in SCALARS},
}


# --- look-alikes -----------------------------------------------------------------


class _Boxed(NamedTuple):
    """A registered look-alike, hidden from msgpack until `extended` is asked."""

    value: Any


def may_hold_lookalikes(data: bytes) -> bool:
    """Whether *data*, just encoded, might have been made of a look-alike.

    Where no byte can begin a bin or an ext, none was written, and the value need not
    be searched.
    """
    return len(data.translate(None, _LOOKALIKE_BYTES)) != len(data)


def boxed(value: Any) -> Any:
    """Return *value* with its look-alikes boxed: itself, if there are none.

    Raises:
        Refusal: one of them is not registered.
    """
    if type(value) not in NESTING:
        return _box(value)
    seen: set[int] = set()
    todo = [value]
    for nest in todo:
        kinds = set(map(type, nest))
        if type(nest) is dict:
            kinds.update(map(type, nest.values()))
        if kinds.isdisjoint(_WATCHED):
            continue
        if not kinds.isdisjoint(_LOOKALIKES):
            return _box(value)
        # A registered type's payload may contain itself; msgpack has yet to see it.
        if id(nest) not in seen:
            seen.add(id(nest))
            items = [*nest, *nest.values()] if type(nest) is dict else nest
            todo.extend(item for item in items if type(item) in NESTING)
    return value


def _box(value: Any) -> Any:
    cls = type(value)
    if cls in _LOOKALIKES:
        if registered(cls) is None:
            raise Refusal(value, *why_not(cls))
        return _Boxed(value)
    if cls is dict:
        return {_box(key): _box(item) for key, item in value.items()}
    if cls in NESTING:
        return cls(_box(item) for item in value)
    return value


# --- decoding --------------------------------------------------------------------


def scalar(code: int, data: bytes) -> object:
    """Return the value of an extension with content; raises what `SCALARS` may."""
    return _SCALARS[code](data)


@final
class Marks:
    """Makes tuples, sets and registered types of the lists that begin with a mark.

    For one decoding, innermost lists first. It counts: a mark that begins no list is
    not of our making, and must not slip out as a value.
    """

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open = 0

    def extension(self, code: int, data: bytes) -> object:
        """Return the value of an extension, or the mark that it is."""
        if data or code not in _MARKS:
            return scalar(code, data)
        self._open += 1
        return _MARKS[code]

    def items(self, items: list[Any]) -> object:
        """Return what the list *items* stands for; itself, without a mark."""
        if not items or type(items[0]) is not _Mark:
            return items
        self._open -= 1
        return items[0].rebuild(items[1:])

    def check(self) -> None:
        """Raise ValueError if a mark began no list."""
        if self._open:
            raise ValueError("a mark that begins no list")


class _Mark(NamedTuple):
    rebuild: Callable[[list[Any]], object]


def _rebuild_set(items: list[Any]) -> set[object]:
    value = set(items)
    if len(value) != len(items):
        raise ValueError("a set that holds something twice")
    return value


def _rebuild_object(items: list[Any]) -> object:
    name, payload = items
    known = class_named(name) if type(name) is str else None
    if known is None:
        raise SerializationError(
            f"The value holds a {name}, and no class of that name is registered in "
            "this process; register it with meshcache.register before reading."
        )
    return known.make(payload)


_MARKS: Final = {
    _TUPLE.code: _Mark(tuple),
    _SET.code: _Mark(_rebuild_set),
    _FROZENSET.code: _Mark(lambda items: frozenset(_rebuild_set(items))),
    _OBJECT.code: _Mark(_rebuild_object),
}

_SCALARS: Final[dict[int, Callable[[bytes], object]]] = {
    _BIG_INT: lambda data: int.from_bytes(data, signed=True),
    **{scalar.code: scalar.unpack for scalar in SCALARS},
}
