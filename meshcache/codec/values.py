"""Values: back as they were, or refused.

The first caller of a memoized function gets what the loader returned; the hundredth
gets what a codec made of bytes. They must not be able to tell. So a codec returns an
equal value of the same type at every depth, or it refuses to encode.
"""

from __future__ import annotations

import json
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Protocol, final, runtime_checkable

from msgpack import Packer, unpackb

from meshcache import native
from meshcache.codec.extensions import (
    MARK_HEADER,
    Marks,
    boxed,
    extended,
    may_hold_lookalikes,
    scalar,
)
from meshcache.codec.refusal import Refusal, brief, called, in_short
from meshcache.errors import ConfigError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["BytesCodec", "Codec", "JsonCodec", "MsgpackCodec", "codec"]


@runtime_checkable
class Codec(Protocol):
    """From values to bytes and back, exactly. Implementations are thread-safe.

    `decode(encode(v))` equals `v` and has its type, at every depth; where that cannot
    be had, `encode` raises SerializationError. `decode` raises SerializationError on
    bytes that are not an encoding, which the cache counts and treats as a miss. What
    `decode` returns shares nothing that can change with the value that was encoded.
    """

    @property
    def name(self) -> str:
        """What settings and errors call it."""

    def encode(self, value: object) -> bytes:
        """Return the bytes of *value*."""

    def decode(self, data: bytes) -> object:
        """Return the value whose bytes are *data*."""


def codec(spec: str | Codec) -> Codec:
    """Return the codec called *spec*, or *spec* itself if it is a codec.

    Raises:
        ConfigError: there is no such codec.
    """
    if not isinstance(spec, str):
        if isinstance(spec, type) or not isinstance(spec, Codec):
            raise ConfigError(
                f"codec={spec!r} is no codec: it needs a name, encode(value) and "
                "decode(data), as meshcache.codec.values.Codec describes."
            )
        return spec
    if spec == "pickle":
        raise ConfigError(
            'codec="pickle" does not exist: unpickling runs whatever the bytes say, '
            "so any process that can write to the cache could run code in every "
            "other. Register your types with meshcache.register, or pass a Codec "
            "object of your own if every writer is trusted."
        )
    if spec not in _CODECS:
        known = ", ".join(map(repr, _CODECS))
        raise ConfigError(f"codec={spec!r} is none of {known}, nor a Codec object.")
    return _CODECS[spec]


# --- msgpack ---------------------------------------------------------------------

_MAX_IDLE_PACKERS: Final = 16
_MAX_IDLE_BYTES: Final = 65_536
"""A packer keeps its buffer; one that has written more than this is let go."""

_AS_FLOAT: Final = 1
"""What to make of msgpack's timestamps. We write none; a float is at least a value,
which msgpack's own class would not be."""

_packer: Final = partial(Packer, default=extended, strict_types=True, buf_size=1024)


@final
class MsgpackCodec:
    """The default codec: every type of `codec.types.NATIVE` and what is registered.

    Plain msgpack for what msgpack has, `extensions` for the rest. What it nests, it
    may nest as deeply as msgpack allows: 1,024 levels, 511 before its version 1.2.

    Thread-safe.
    """

    __slots__ = ("_idle", "decode")

    name: Final = "msgpack"

    decode: Final[Callable[[bytes], object]]
    """Returns the value whose bytes are given. Raises SerializationError if they are
    no encoding, or hold a type that is not registered in this process."""

    def __init__(self) -> None:
        self.decode = _DECODE
        # Making a packer costs more than packing a small value. list.pop and append
        # are atomic, so threads share the idle ones without a lock.
        self._idle: list[Packer] = []

    def __reduce__(self) -> tuple[type[MsgpackCodec], tuple[()]]:
        return MsgpackCodec, ()

    def encode(self, value: object) -> bytes:
        """Return the bytes of *value*.

        Raises:
            SerializationError: it would not come back the same.
        """
        try:
            data = self._pack(value)
            if may_hold_lookalikes(data):
                safe = boxed(value)
                return data if safe is value else self._pack(safe)
        except Refusal as refusal:
            raise SerializationError(refusal.explain(value)) from refusal.__cause__
        except Exception as error:  # msgpack's limits on depth and length
            raise SerializationError(
                f"The {called(type(value))} cannot be encoded; it nests too deeply, "
                f"contains itself or is too long ({in_short(error)})"
            ) from error
        return data

    def _pack(self, value: object) -> bytes:
        try:
            packer = self._idle.pop()
        except IndexError:
            packer = _packer()
        data: bytes
        try:
            data = packer.pack(value)
        except UnicodeEncodeError:
            # Lone surrogates are rare, and to let them pass makes every str dearer.
            data = _packer(unicode_errors="surrogatepass").pack(value)
            return data
        # One that raised is not used again: it may hold half a value.
        if len(data) <= _MAX_IDLE_BYTES and len(self._idle) < _MAX_IDLE_PACKERS:
            self._idle.append(packer)
        return data


def _decode(data: bytes) -> object:
    try:
        if data.find(MARK_HEADER) >= 0:
            return _decode_marked(data)
        value: object = unpackb(
            data,
            ext_hook=scalar,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            timestamp=_AS_FLOAT,
        )
    except SerializationError:
        raise
    except Exception as error:  # a registered class may raise anything
        raise _not_an_encoding(data, MsgpackCodec.name, error) from error
    return value


_DECODE: Final = native.decoder(_decode)


def _decode_marked(data: bytes) -> object:
    marks = Marks()
    value: object = unpackb(
        data,
        ext_hook=marks.extension,
        list_hook=marks.items,
        strict_map_key=False,
        unicode_errors="surrogatepass",
        timestamp=_AS_FLOAT,
    )
    marks.check()
    return value


def _not_an_encoding(data: bytes, name: str, error: Exception) -> SerializationError:
    return SerializationError(f"{brief(data)} is not {name}: {in_short(error)}")


# --- the other two ---------------------------------------------------------------


@final
class BytesCodec:
    """For an application that has bytes already: they are stored as they are.

    Thread-safe.
    """

    __slots__ = ()

    name: Final = "bytes"

    def encode(self, value: object) -> bytes:
        """Return *value*; SerializationError unless it is bytes."""
        if type(value) is bytes:
            return value
        raise SerializationError(
            f"The bytes codec stores bytes, not {called(type(value))}. Convert "
            'it, or give the cache codec="msgpack".'
        )

    def decode(self, data: bytes) -> object:
        """Return *data*."""
        return data


@final
class JsonCodec:
    """For values that other languages read too: what JSON has, and nothing it changes.

    That is None, bool, int, finite float, str without lone surrogates, list, and dict
    with str keys. Thread-safe.
    """

    __slots__ = ()

    name: Final = "json"

    def encode(self, value: object) -> bytes:
        """Return the bytes of *value*.

        Raises:
            SerializationError: JSON would change it.
        """
        try:
            _check_json(value)
            text = json.dumps(
                value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
            )
            return text.encode()
        except Refusal as refusal:
            raise SerializationError(refusal.explain(value)) from None
        except (ValueError, RecursionError) as error:
            raise SerializationError(
                f"JSON cannot hold the value ({in_short(error)})"
            ) from error

    def decode(self, data: bytes) -> object:
        """Return the value whose bytes are *data*; SerializationError if none is."""
        try:
            value: object = json.loads(
                data.decode(), parse_float=_finite, parse_constant=_finite
            )
        except (ValueError, RecursionError) as error:
            raise _not_an_encoding(data, self.name, error) from error
        return value


_JSON: Final = frozenset({type(None), bool, int, float, str, list, dict})


def _check_json(root: object) -> None:
    seen: set[int] = set()
    todo = [root]
    while todo:
        value = todo.pop()
        cls = type(value)
        if cls not in _JSON:
            raise Refusal(
                value,
                f"is of type {called(cls)}, which JSON would change",
                _USE_MSGPACK,
            )
        if cls in {list, dict} and id(value) not in seen:
            seen.add(id(value))
            todo.extend(_json_items(value))


def _json_items(value: Any) -> Iterable[object]:
    items: Iterable[object] = value
    if type(value) is dict:
        items = value.values()
        for key in value:
            if type(key) is not str:
                raise Refusal(key, "is a key that JSON would make a str", _USE_MSGPACK)
    return items


_USE_MSGPACK: Final = 'Convert it, or give the cache codec="msgpack".'


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no number in JSON")
    return number


_CODECS: Final[dict[str, Codec]] = {
    each.name: each for each in (MsgpackCodec(), JsonCodec(), BytesCodec())
}
