"""Keys: one encoding for each value, and one value for each encoding.

Two keys share an entry exactly if they are of the same type and content, all the way
down: `1`, `True`, `1.0`, `"1"`, `b"1"`, `(1,)` and `[1]` are seven keys. The encoding
is the same in every process, on every machine and in every version of meshcache, and
it can be decoded, so that an owner can run a loader from the key alone.

    key        one letter for the type, then the content to the end
    element    length (one byte, or FF and four), then a key
    int        i  hexadecimal                 str    s  UTF-8, surrogates passed
    float      f  eight bytes as they are     bytes  b  as they are
    tuple      (  elements                    list   [  elements
    dict       {  pairs of elements, sorted
    set        <  elements, sorted            frozenset  |  elements, sorted
    Enum       E  class, member               dataclass  @  class, names and values
    a class    Y  its name, as a str's content
    any class  K  class, what its `__cache_key__` says; cannot be decoded

`n`, `F` and `T` are None, False and True; the other letters are those of `scalars`.

Content is what is written, not what is equal: 0.0 and -0.0 are two keys, and so are
`Decimal("1.0")` and `Decimal("1.00")`. Two entries for equal arguments cost a load;
one entry for unequal ones would be a wrong answer. Dicts and sets have no order.

What has no stable encoding is refused by name. The shapes and letters above are
golden (tests/codec/vectors/keys.txt): changing one orphans every entry of a running
cluster.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from meshcache import native
from meshcache.codec.refusal import brief, called, in_short
from meshcache.codec.scalars import SCALARS, Scalar
from meshcache.codec.types import (
    Kind,
    class_named,
    enum_token,
    field_names,
    key_name,
)
from meshcache.errors import KeyRefused, ValueTooLarge
from meshcache.hashing import key_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MAX_KEY_BYTES", "MAX_KEY_DEPTH", "decode_key", "encode_key", "full_key"]

MAX_KEY_DEPTH: Final = 32
"""How deep containers may nest in a key. Deeper ones are refused, as are cycles."""

MAX_KEY_BYTES: Final = 65_536
"""The greatest length of an encoded key: what a message can carry (messages.Key)."""

_FLOAT: Final = Struct(">d")
_LONG: Final = 0xFF
_LONG_SIZE: Final = 4
_SHORT: Final = [bytes([size]) for size in range(_LONG)]


@native.encoder
def encode_key(value: Any, *, name: str = "key") -> bytes:
    """Return the one encoding of *value*. Thread-safe.

    Args:
        value: the key, or a tuple of arguments.
        name: what an error calls it.

    Raises:
        KeyRefused: it, or something inside it, has no stable encoding.
        ValueTooLarge: the encoding is longer than `MAX_KEY_BYTES`.
    """
    cls = type(value)
    data: bytes
    if cls is str:
        data = b"s" + value.encode("utf-8", "surrogatepass")
    elif cls is int:
        data = b"i%x" % value
    else:
        try:
            data = _encode(value, 0)
        except _Refusal as refusal:
            raise KeyRefused(refusal.explain(name)) from None
    if len(data) > MAX_KEY_BYTES:
        raise ValueTooLarge(_too_large(len(data)))
    return data


def _full_key(prefix: bytes, key: object) -> tuple[bytes, int]:
    full = prefix + encode_key(key)
    return full, key_hash(full)


full_key: Final = native.keys(_full_key)
"""Returns *prefix* and the encoding of *key* in one, and its hash. Thread-safe; raises
what `encode_key` does."""


def decode_key(data: bytes) -> object:
    """Return the value whose encoding is *data*. Thread-safe.

    Raises:
        KeyRefused: *data* is no encoding, not the one that `encode_key` makes, of a
            class that is not registered here, or made by a `__cache_key__`.
    """
    if len(data) > MAX_KEY_BYTES:
        raise KeyRefused(_too_large(len(data)))
    try:
        value = _decode(data, 0)
        canonical = encode_key(value) == data
    except KeyRefused:
        raise
    except Exception as error:  # a registered class may raise anything
        raise KeyRefused(f"{brief(data)} is no key: {in_short(error)}") from error
    if not canonical:
        raise KeyRefused(f"{brief(data)} is not how this key is written.")
    return value


def _too_large(size: int) -> str:
    return (
        f"A key of {size:,} bytes is over the limit of {MAX_KEY_BYTES:,}. Pass less, "
        "or a digest of it; with memoize, leave it out by ignore= or make a shorter "
        "key by key=."
    )


# --- encoding --------------------------------------------------------------------


def _encode(value: object, depth: int) -> bytes:
    cls = type(value)
    encoder = _ENCODERS.get(cls)
    return encoder(value, depth) if encoder else _encode_object(cls, value, depth)


def _elements(
    tag: bytes, values: Iterable[Any], depth: int, step: Callable[[int], str]
) -> bytes:
    """Return *tag* and the elements; *step* names the way to one that is refused."""
    if depth >= MAX_KEY_DEPTH:
        raise _Refusal(f"nests over {MAX_KEY_DEPTH} levels, or contains itself", "")
    parts = [tag]
    total = 0
    try:
        for value in values:
            cls = type(value)
            # The two most frequent kinds of argument are spared a call.
            if cls is str:
                data = b"s" + value.encode("utf-8", "surrogatepass")
            elif cls is int:
                data = b"i%x" % value
            else:
                data = _encode(value, depth + 1)
            size = len(data)
            parts.append(_SHORT[size] + data if size < _LONG else _long(data))
            total += size
            if total > MAX_KEY_BYTES:
                # A few shared lists can spell out to more than memory holds.
                raise ValueTooLarge(_too_large(total))
    except _Refusal as refusal:
        refusal.path.append(step(len(parts) - 1))
        raise
    return b"".join(parts)


def _long(data: bytes) -> bytes:
    return b"\xff" + len(data).to_bytes(_LONG_SIZE, "big") + data


_index: Final = "[{}]".format


def _encode_set(
    tag: bytes, values: set[object] | frozenset[object], depth: int
) -> bytes:
    elements = [_elements(b"", (value,), depth, lambda _: "[...]") for value in values]
    return tag + b"".join(sorted(elements))


def _encode_dict(value: dict[object, object], depth: int) -> bytes:
    return b"{" + b"".join(sorted(_pair(pair, depth) for pair in value.items()))


def _pair(pair: tuple[object, object], depth: int) -> bytes:
    def step(index: int) -> str:
        return f"[{brief(pair[0])}]" if index else ".keys()"

    return _elements(b"", pair, depth, step)


def _scalar(code: int, pack: Callable[[Any], bytes]) -> Callable[[Any, int], bytes]:
    tag = bytes([code])

    def encode(value: object, _depth: int) -> bytes:
        try:
            return tag + pack(value)
        except ValueError as error:
            raise _Refusal(f"has no stable encoding: {error}", "") from None

    return encode


_ENCODERS: Final[dict[type[Any], Callable[[Any, int], bytes]]] = {
    type(None): lambda _value, _depth: b"n",
    bool: lambda value, _depth: b"T" if value else b"F",
    int: lambda value, _depth: b"i%x" % value,
    float: lambda value, _depth: b"f" + _FLOAT.pack(value),
    str: lambda value, _depth: b"s" + value.encode("utf-8", "surrogatepass"),
    bytes: lambda value, _depth: b"b" + value,
    tuple: lambda value, depth: _elements(b"(", value, depth, _index),
    list: lambda value, depth: _elements(b"[", value, depth, _index),
    dict: _encode_dict,
    set: lambda value, depth: _encode_set(b"<", value, depth),
    frozenset: lambda value, depth: _encode_set(b"|", value, depth),
    **{scalar.cls: _scalar(scalar.code, scalar.pack) for scalar in SCALARS},
}


def _encode_object(cls: type[Any], value: Any, depth: int) -> bytes:
    """Return the encoding of an instance of no built-in class."""
    if hasattr(cls, "__cache_key__"):
        return _encode_opaque(cls, value.__cache_key__, depth)
    if issubclass(cls, type):
        return b"Y" + _name(value).encode("utf-8", "surrogatepass")
    if issubclass(cls, Enum):
        return _elements(b"E", (_name(cls), _token(value)), depth, _index)
    names = field_names(cls)
    if names is None or not cls.__dataclass_params__.frozen:
        raise _Refusal(*_why_not(cls))
    return _encode_dataclass(cls, value, sorted(names), depth)


def _encode_opaque(cls: type[Any], token: object, depth: int) -> bytes:
    way = ".__cache_key__"
    if callable(token) and not isinstance(token, type):
        way, token = way + "()", token()
    return _elements(b"K", (_name(cls), token), depth, lambda _: way)


def _encode_dataclass(
    cls: type[Any], value: Any, names: list[str], depth: int
) -> bytes:
    """Return class, names and values, by name: a field that moves, moves no key."""
    parts: list[object] = [_name(cls)]
    for name in names:
        if not hasattr(value, name):
            raise _Refusal(f"has no value in its field {name!r}", "")
        parts += (name, getattr(value, name))
    return _elements(b"@", parts, depth, lambda index: f".{parts[index - 1]}")


def _token(member: Enum) -> str | int:
    try:
        return enum_token(member)
    except ValueError as error:
        raise _Refusal(f"has no stable encoding: {error}", "") from None


def _name(cls: type[Any]) -> str:
    name = key_name(cls)
    if name is None:
        raise _Refusal(
            f"is of type {called(cls)}, and that name may mean several classes",
            "Define the class at the top of a module, or register it with a name=.",
        )
    return name


# --- refusing --------------------------------------------------------------------


class _Refusal(Exception):
    """On its way out of the containers, gathers the path to what was refused."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy
        self.path: list[str] = []

    def explain(self, name: str) -> str:
        where = name + "".join(reversed(self.path))
        remedy = f" {self.remedy}" if self.remedy else ""
        return (
            f"{where} {self.why}.{remedy} With memoize, an argument can also be left "
            "out by ignore= or turned into a key of your own by key=."
        )


def _why_not(cls: type[Any]) -> tuple[str, str]:
    """Return why instances of *cls* have no stable encoding, and the remedy."""
    why = f"is of type {called(cls)}, "
    if cls in {bytearray, memoryview}:
        return why + "which can change", "Pass bytes."
    if field_names(cls) is not None:
        remedy = "Make it @dataclass(frozen=True) or define __cache_key__(self) on it."
        return why + "a dataclass that can change", remedy
    base = next((base for base in cls.__mro__ if base in _ENCODERS), None)
    if base is not None:
        plain = base.__name__
        why += f"a subclass that may mean more than a {plain} of the same content"
        return why, f"Pass a plain {plain} or define __cache_key__(self) on the class."
    why += (
        "which has no stable encoding: Python tells its instances apart by address or "
        "hash, and those differ between processes"
    )
    remedy = (
        "Pass what identifies it (an id, a name, a tuple of such), or define "
        "__cache_key__(self) on the class to return that."
    )
    return why, remedy


# --- decoding --------------------------------------------------------------------


def _decode(data: bytes, depth: int) -> object:
    if depth > MAX_KEY_DEPTH:
        raise ValueError("it nests too deeply")
    return _DECODERS[data[:1]](data[1:], depth)


def _parts(data: bytes, depth: int) -> list[object]:
    """Return the values of the elements in *data*.

    An element that says it is longer than the rest is cut, and that it is not how the
    key is written comes out at the end, in `decode_key`.
    """
    values = []
    start, end = 0, len(data)
    while start < end:
        size = data[start]
        start += 1
        if size == _LONG:
            size = int.from_bytes(data[start : start + _LONG_SIZE], "big")
            start += _LONG_SIZE
        values.append(_decode(data[start : start + size], depth + 1))
        start += size
    return values


def _decode_nothing(value: object) -> Callable[[bytes, int], object]:
    def decode(data: bytes, _depth: int) -> object:
        if data:
            raise ValueError("something follows")
        return value

    return decode


def _decode_float(data: bytes, _depth: int) -> float:
    value: float
    (value,) = _FLOAT.unpack(data)
    return value


def _decode_dict(data: bytes, depth: int) -> dict[object, object]:
    parts = _parts(data, depth)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _decode_enum(data: bytes, depth: int) -> object:
    name, token = _parts(data, depth)
    return _make(Kind.ENUM, name, token)


def _decode_dataclass(data: bytes, depth: int) -> object:
    name, *parts = _parts(data, depth)
    fields = dict(zip(parts[::2], parts[1::2], strict=True))
    return _make(Kind.DATACLASS, name, fields)


def _decode_class(data: bytes, _depth: int) -> object:
    name = data.decode("utf-8", "surrogatepass")
    known = class_named(name)
    if known is None:
        raise KeyRefused(_unknown(name, "class"))
    return known.cls


def _decode_opaque(_data: bytes, _depth: int) -> object:
    raise KeyRefused(
        "A key made by a __cache_key__ says what identifies an object, not the object; "
        "it cannot be decoded."
    )


def _make(kind: Kind, name: object, payload: object) -> object:
    """Return the instance, if its class is registered here. Imports nothing."""
    known = class_named(name) if isinstance(name, str) else None
    if known is None or known.kind is not kind:
        raise KeyRefused(_unknown(name, kind.value))
    return known.make(payload)


def _unknown(name: object, what: str) -> str:
    return (
        f"The key holds {name}, and no {what} of that name is registered in this "
        "process; register it with meshcache.register."
    )


def _decode_scalar(scalar: Scalar) -> Callable[[bytes, int], object]:
    return lambda data, _depth: scalar.unpack(data)


_DECODERS: Final[dict[bytes, Callable[[bytes, int], object]]] = {
    b"n": _decode_nothing(None),
    b"T": _decode_nothing(True),
    b"F": _decode_nothing(False),
    b"i": lambda data, _depth: int(data, 16),
    b"f": _decode_float,
    b"s": lambda data, _depth: data.decode("utf-8", "surrogatepass"),
    b"b": lambda data, _depth: data,
    b"(": lambda data, depth: tuple(_parts(data, depth)),
    b"[": _parts,
    b"{": _decode_dict,
    b"<": lambda data, depth: set(_parts(data, depth)),
    b"|": lambda data, depth: frozenset(_parts(data, depth)),
    b"E": _decode_enum,
    b"@": _decode_dataclass,
    b"Y": _decode_class,
    b"K": _decode_opaque,
    **{bytes([scalar.code]): _decode_scalar(scalar) for scalar in SCALARS},
}
