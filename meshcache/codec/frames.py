"""Frames: a message as bytes, and any bytes as a message or a counted error.

    "MC" | newest protocol | oldest protocol | label length | label | kind | msgpack

The two protocol bytes are the range the sender understands; two nodes talk when their
ranges meet. The label is the cluster's name, so that two clusters which meet on a
reused address refuse each other with both names in the error instead of merging.

Nothing in a frame is trusted: msgpack cannot declare more than the frame holds, every
field is checked against its `Annotated` type and `Bound`, and what does not fit is a
`RemoteProtocolError`. One message is one frame; parts are not used, because ZeroMQ
limits the size of a part but not their number.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import (
    Annotated,
    Any,
    Final,
    TypeAlias,
    cast,
    final,
    get_args,
    get_origin,
    get_type_hints,
)

import msgpack

from meshcache.codec.fields import Bound
from meshcache.codec.messages import (
    CONTROL,
    DATA,
    STRANGER,
    Item,
    Message,
    Stranger,
    Verb,
    Write,
)
from meshcache.errors import LocalProtocolError, RemoteProtocolError
from meshcache.model import Member, State

__all__ = [
    "MAGIC",
    "MAX_LABEL",
    "PROTOCOL",
    "PROTOCOL_OLDEST",
    "FrameCodec",
    "hints",
]

MAGIC: Final = b"MC"
PROTOCOL: Final = 1
PROTOCOL_OLDEST: Final = 1
MAX_LABEL: Final = 64
_LABEL_AT: Final = len(MAGIC) + 2
_MOST_FIELDS: Final = 16
"""Up to so many fields a message of the wrong number is told of by name."""

Check: TypeAlias = Callable[[Any], Any]
"""Takes what msgpack decoded, returns the field's value or raises ValueError."""


def _integer(bound: Bound) -> Check:
    low, high = bound

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            # Never a peer's value as it is: its repr may be larger than the frame, or
            # nest too deeply to be made at all.
            got = value if type(value) is int else type(value).__name__
            raise ValueError(f"want an integer of {low} to {high}, got {got}")
        return value

    return check


def _sized(kind: type[bytes | str], bound: Bound) -> Check:
    low, high = bound

    def check(value: Any) -> Any:
        if type(value) is not kind or not low <= len(value) <= high:
            raise ValueError(f"want {kind.__name__} of length {low} to {high}")
        return value

    return check


def _sequence(item: Check, bound: Bound) -> Check:
    low, high = bound

    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple or not low <= len(value) <= high:
            raise ValueError(f"want a list of {low} to {high}")
        return tuple(map(item, value))

    return check


def _enum(kind: type[IntEnum]) -> Check:
    members = dict(kind._value2member_map_)

    def check(value: Any) -> Any:
        if type(value) is not int or value not in members:
            raise ValueError(f"want one of {kind.__name__}")
        return members[value]

    return check


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("want true or false")
    return value


def _record(kind: type[Any]) -> Check:
    checks = [_check_for(hint) for hint in hints(kind).values()]
    make: Callable[[list[Any]], Any] = kind._make

    def check(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(checks):
            raise ValueError(f"want the {len(checks)} fields of {kind.__name__}")
        return make([check(field) for check, field in zip(checks, value, strict=True)])

    return check


# `Member` is a noun of the ground floor and knows nothing of wires, so its bounds
# are written here.
_MEMBER_BOUNDS: Final[dict[str, Any]] = {
    "node_id": Annotated[bytes, Bound(16, 16)],
    "epoch": Annotated[int, Bound(0, 2**64 - 1)],
    "incarnation": Annotated[int, Bound(0, 2**32 - 1)],
    "state": State,
    "address": Annotated[str, Bound(1, 255)],
    "data_address": Annotated[str, Bound(1, 255)],
    "host": Annotated[str, Bound(0, 128)],
    "weight": Annotated[int, Bound(0, 1)],
}


def hints(kind: type[Any]) -> dict[str, Any]:
    """Return the types of a record's fields, with their bounds, by name."""
    if kind is Member:
        return _MEMBER_BOUNDS
    return get_type_hints(kind, include_extras=True)


def _check_for(hint: Any) -> Check:
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)[:2]
        if get_origin(inner) is tuple:
            return _sequence(_check_for(get_args(inner)[0]), bound)
        return _integer(bound) if inner is int else _sized(inner, bound)
    if hint is bool:
        return _boolean
    if issubclass(hint, IntEnum):
        return _enum(hint)
    return _record(hint)


def _widest(hint: Any) -> int:
    """Return how long a list, or record, in a value of this type can be."""
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)[:2]
        if get_origin(inner) is not tuple:
            return 0
        longest: int = bound.high
        return max(longest, _widest(get_args(inner)[0]))
    if issubclass(hint, int):
        return 0
    fields = hints(hint)
    return max([len(fields), *map(_widest, fields.values())])


_KIND_OF: Final[dict[type[Any], int]] = {
    cls: kind for kind, cls in (*CONTROL.items(), *DATA.items(), (STRANGER, Stranger))
}
_CHECK_OF: Final[dict[int, Check]] = {
    kind: _record(cls) for cls, kind in _KIND_OF.items()
}
_WIDEST_OF: Final = {
    kind: max(_MOST_FIELDS, _widest(cls)) for cls, kind in _KIND_OF.items()
}


def _bounds(kind: type[Any], *names: str) -> list[Bound]:
    found = hints(kind)
    return [get_args(found[name])[1] for name in names]


_VERBS: Final = tuple(Verb)  # its numbers are 0, 1, 2 and so on
_WRITE_FIELDS: Final = len(Write._fields)
_WRITE_NUMBERS: Final = [
    *_bounds(Write, "rid", "epoch", "table", "hop", "budget_ms"),
    Bound(0, len(_VERBS) - 1),
    *_bounds(Item, "ttl_ms", "delta"),
]
_KEY, _BLOB = _bounds(Item, "key", "value")


@final
class FrameCodec:
    """Encodes and decodes the frames of one cluster. Thread-safe: it has no state."""

    __slots__ = ("_headers", "_prefix", "_write", "label")

    def __init__(self, label: str) -> None:
        encoded = label.encode()
        assert len(encoded) <= MAX_LABEL
        self.label = label
        self._prefix = (
            MAGIC + bytes((PROTOCOL, PROTOCOL_OLDEST, len(encoded))) + encoded
        )
        self._headers = {
            cls: self._prefix + bytes((kind,)) for cls, kind in _KIND_OF.items()
        }
        self._write = self._headers[Write]

    def encode(self, message: Message) -> bytes:
        """Return *message* as one frame.

        Raises:
            LocalProtocolError: a field does not fit msgpack; nothing was sent.
        """
        header = self._headers[type(message)]
        try:
            body = cast("bytes", msgpack.packb(message, unicode_errors="surrogatepass"))
            return header + body
        except (ValueError, OverflowError, TypeError) as error:
            raise LocalProtocolError(f"{type(message).__name__}: {error}") from error

    def decode(self, frame: bytes) -> Message:
        """Return the message in *frame*.

        Raises:
            RemoteProtocolError: with `reason` "magic", "protocol", "cluster", "kind",
                "body" or "field"; the text says what was wanted and what came.
        """
        at = len(self._prefix)
        if not frame.startswith(self._prefix):
            at = self._stranger_or_newer(frame)
        if len(frame) <= at:
            raise RemoteProtocolError("kind", "the frame ends before its kind")
        check = _CHECK_OF.get(frame[at])
        if check is None:
            raise RemoteProtocolError("kind", f"no message has the kind {frame[at]}")
        packed = memoryview(frame)[at + 1 :]
        try:
            # msgpack up to 1.2.3 makes a list as long as declared before it reads on,
            # at each of a thousand levels.
            body = msgpack.unpackb(
                packed,
                use_list=False,
                unicode_errors="surrogatepass",
                max_array_len=min(_WIDEST_OF[frame[at]], len(packed)),
                max_map_len=0,
                max_ext_len=0,
            )
        except (
            ValueError,
            TypeError,
            RecursionError,
            msgpack.UnpackException,
        ) as error:
            raise RemoteProtocolError("body", f"not msgpack: {error}") from error
        try:
            return cast("Message", check(body))
        except ValueError as error:
            raise RemoteProtocolError("field", str(error)) from error

    def single_write(self, frame: bytes) -> tuple[int, int, Verb, Item] | None:
        """Return rid, epoch, verb and item of a `Write` of one key.

        None for every other frame, and for one that `decode` would refuse: a quarter
        of the work for what siblings send most.
        """
        if not frame.startswith(self._write):
            return None
        try:
            rid, epoch, table, hop, budget_ms, verb, ((key, value, ttl_ms, delta),) = (
                msgpack.unpackb(
                    memoryview(frame)[len(self._write) :],
                    use_list=False,
                    max_array_len=_WRITE_FIELDS,
                    max_map_len=0,
                    max_ext_len=0,
                    max_str_len=0,
                )
            )
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
            return None
        numbers = (rid, epoch, table, hop, budget_ms, verb, ttl_ms, delta)
        for number, (low, high) in zip(numbers, _WRITE_NUMBERS, strict=True):
            if type(number) is not int or not low <= number <= high:
                return None
        for data, (low, high) in ((key, _KEY), (value, _BLOB)):
            if type(data) is not bytes or not low <= len(data) <= high:
                return None
        return rid, epoch, _VERBS[verb], Item(key, value, ttl_ms, delta)

    def _stranger_or_newer(self, frame: bytes) -> int:
        """Return where the kind is, if another protocol's frame is still ours to read.

        Raises:
            RemoteProtocolError: it is not, and why.
        """
        if frame[: len(MAGIC)] != MAGIC:
            raise RemoteProtocolError("magic", f"not a meshcache frame: {frame[:8]!r}")
        if len(frame) <= _LABEL_AT:
            raise RemoteProtocolError("magic", "the frame ends within its header")
        newest, oldest, length = frame[len(MAGIC) : _LABEL_AT + 1]
        label = frame[_LABEL_AT + 1 : _LABEL_AT + 1 + length]
        if label != self.label.encode():
            theirs = label.decode(errors="replace")
            raise RemoteProtocolError(
                "cluster",
                f"a peer of cluster {theirs!r} reached cluster {self.label!r}: "
                "an address was reused, or a seed belongs to another cluster",
            )
        if oldest > PROTOCOL or newest < PROTOCOL_OLDEST:
            raise RemoteProtocolError(
                "protocol",
                f"the peer speaks protocols {oldest} to {newest}, this node "
                f"{PROTOCOL_OLDEST} to {PROTOCOL}: upgrade the older of the two",
            )
        return _LABEL_AT + 1 + length
