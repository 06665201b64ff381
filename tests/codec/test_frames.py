"""Frames: any message there and back, any bytes to a message or a counted error."""

from __future__ import annotations

import random
import struct
import tracemalloc
from enum import IntEnum
from pathlib import Path
from typing import Annotated, get_args, get_origin

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshcache.codec.fields import MAX_ITEMS
from meshcache.codec.frames import FrameCodec, hints
from meshcache.codec.messages import (
    CONTROL,
    DATA,
    STRANGER,
    Cancel,
    Fetch,
    Filled,
    Invalidate,
    Leased,
    Pending,
    Stranger,
)
from meshcache.errors import LocalProtocolError, RemoteProtocolError
from meshcache.model import Member, NodeId, State

VECTORS = Path(__file__).parent / "vectors" / "frames.txt"
LABEL = "shop"
CODEC = FrameCodec(LABEL)
HEADER = b"MC\x01\x01\x04shop"
KINDS = CONTROL | DATA | {STRANGER: Stranger}
REASONS = {"magic", "protocol", "cluster", "kind", "body", "field"}
ANN = Member(NodeId(b"a" * 16), 1, 0, State.ALIVE, "h:1", "h:2", "h", 1)


def reason_of(frame: bytes, codec: FrameCodec = CODEC) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(frame)
    assert caught.value.reason in REASONS
    return caught.value.reason


def framed(kind: int, body: object) -> bytes:
    packed = msgpack.packb(body, unicode_errors="surrogatepass")
    return HEADER + bytes((kind,)) + packed


# --- messages by their annotations ------------------------------------------------

LONGEST = 40
"""Lists and texts of the strategies stop here; their real bounds have own tests."""


def values_of(hint):
    """A strategy for all values of a field's type, up to `LONGEST`."""
    if get_origin(hint) is not Annotated:
        if hint is bool:
            return st.booleans()
        return st.sampled_from(hint) if issubclass(hint, IntEnum) else records(hint)
    inner, bound = get_args(hint)[:2]
    if inner is int:
        return st.integers(*bound)
    sizes = {"min_size": bound.low, "max_size": min(bound.high, LONGEST)}
    if inner is bytes:
        return st.binary(**sizes)
    if inner is str:
        return st.text(st.characters(), **sizes)
    return st.lists(values_of(get_args(inner)[0]), **sizes).map(tuple)


def records(kind):
    fields = [values_of(hint) for hint in hints(kind).values()]
    return st.tuples(*fields).map(kind._make)


messages = st.one_of(*(records(message) for message in KINDS.values()))


@given(messages)
@example(Invalidate(b"a" * 16, 1, 1, everything=False, buckets=tuple(range(4096))))
def test_every_message_comes_back_the_same(message):
    found = CODEC.decode(CODEC.encode(message))

    assert message == found
    assert type(message) is type(found)


@given(messages)
def test_what_comes_back_has_its_types_at_every_depth(message):
    def kinds(value):
        inside = map(kinds, value) if isinstance(value, tuple) else ()
        return type(value), *inside

    assert kinds(message) == kinds(CODEC.decode(CODEC.encode(message)))


def test_every_kind_is_tried():
    """`one_of` flattens and may drop; the list above must be the whole."""
    assert len(KINDS) == len(messages.branches)


# --- golden frames ----------------------------------------------------------------


def fixed(hint, number: int):
    """One fixed value of a field's type; each field of a message gets another."""
    if get_origin(hint) is not Annotated:
        return fixed_whole(hint, number)
    inner, bound = get_args(hint)[:2]
    if get_origin(inner) is tuple:
        return (fixed(get_args(inner)[0], number),) * 2
    return {
        int: min(bound.high, max(bound.low, 7**number)),
        bytes: bytes(range(number, number + min(bound.high, 16))),
        str: f"text {number} é",
    }[inner]


def fixed_whole(hint, number: int):
    if hint is bool:
        return bool(number % 2)
    if issubclass(hint, IntEnum):
        return list(hint)[number % len(hint)]
    return fixed_record(hint)


def fixed_record(kind):
    fields = enumerate(hints(kind).values(), 1)
    return kind._make([fixed(hint, number) for number, hint in fields])


def vectors() -> dict[str, str]:
    lines = VECTORS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("  |  ") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("message", KINDS.values(), ids=lambda m: m.__name__)
def test_a_frame_is_the_same_in_every_version(message):
    frame = CODEC.encode(fixed_record(message))

    assert vectors().get(message.__name__) == frame.hex()


@pytest.mark.parametrize(("name", "frame"), vectors().items(), ids=list(vectors()))
def test_a_frame_of_an_earlier_version_is_still_read(name, frame):
    message = {m.__name__: m for m in KINDS.values()}[name]

    assert fixed_record(message) == CODEC.decode(bytes.fromhex(frame))


# --- bytes of any kind ------------------------------------------------------------


def survives(frame: bytes) -> None:
    try:
        found = CODEC.decode(frame)
    except RemoteProtocolError as error:
        refusal = error
    else:
        assert type(found) in KINDS.values()
        return
    assert refusal.reason in REASONS
    assert len(str(refusal)) < 1000


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_counted_error(data):
    survives(data)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_any_body_is_a_message_or_a_counted_error(kind, body):
    survives(HEADER + bytes((kind,)) + body)


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
wild = st.recursive(
    leaves | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(st.sampled_from(sorted(KINDS)), wild)
def test_any_msgpack_is_a_message_or_a_counted_error(kind, body):
    survives(framed(kind, body))


@given(messages, st.data())
def test_a_changed_frame_is_a_message_or_a_counted_error(message, data):
    frame = bytearray(CODEC.encode(message))
    places = st.integers(0, len(frame) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(places)] = data.draw(st.integers(0, 255))

    survives(bytes(frame))


@given(messages, wild, st.data())
def test_a_message_with_one_odd_field_is_a_message_or_a_counted_error(
    message, odd, data
):
    fields = list(message)
    if fields:
        fields[data.draw(st.integers(0, len(fields) - 1))] = odd
    kind = next(kind for kind, cls in KINDS.items() if cls is type(message))

    survives(framed(kind, fields))


@given(messages, st.data())
def test_a_frame_that_was_cut_is_refused(message, data):
    frame = CODEC.encode(message)

    reason_of(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(messages, st.binary(min_size=1, max_size=9))
def test_a_frame_with_something_after_its_end_is_refused(message, more):
    assert "body" == reason_of(CODEC.encode(message) + more)


# --- bombs ------------------------------------------------------------------------

LIST = b"\xdd" + struct.pack(">I", 2**32 - 1)
HUGE = {
    "list": LIST,
    "map": b"\xdf" + struct.pack(">I", 2**32 - 1),
    "text": b"\xdb" + struct.pack(">I", 2**32 - 1),
    "bytes": b"\xc6" + struct.pack(">I", 2**32 - 1),
    "extension": b"\xc9" + struct.pack(">I", 2**32 - 1) + b"\x01",
    "lists in lists": LIST * 200,
    "lists of no length in lists": b"\x91" * 100_000,
    "lists that declare what the frame could hold": (b"\xdd" + struct.pack(">I", 4000))
    * 800,
    "timestamp": b"\xc7\x0c\xff" + bytes(12),
}


@pytest.mark.parametrize("body", HUGE.values(), ids=list(HUGE))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_declared_but_not_there_takes_no_memory(kind, body):
    frame = HEADER + bytes((kind,)) + body
    tracemalloc.start()
    try:
        assert reason_of(frame) in {"body", "field"}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 64 * 1024 * 1024


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 1000, 1010, 1015, 1022, 2000])
@pytest.mark.parametrize("kind", sorted({*CONTROL, *DATA}))
def test_a_field_that_nests_deeply_is_refused_like_any_other(kind, depth):
    width = len(hints(KINDS[kind]))
    nest = b"\x91" * depth + b"\x01"
    body = bytes((0x90 + width,)) + nest + b"\x01" * (width - 1)

    assert reason_of(HEADER + bytes((kind,)) + body) in {"body", "field"}


def test_a_field_is_not_quoted_in_the_error():
    filled = framed(33, (b"x" * 100_000, b"", 0, 0, True))

    with pytest.raises(RemoteProtocolError, match="got bytes") as caught:
        CODEC.decode(filled)
    assert len(str(caught.value)) < 200


# --- bounds -----------------------------------------------------------------------


def test_the_largest_lists_there_may_be_come_through():
    found = Pending(tuple(range(MAX_ITEMS)))

    assert found == CODEC.decode(CODEC.encode(found))
    assert "body" == reason_of(framed(35, (list(range(MAX_ITEMS + 1)),)))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(22, (-1,), id="below its least"),
        pytest.param(22, (True,), id="a boolean for an integer"),
        pytest.param(22, (1.0,), id="a float for an integer"),
        pytest.param(22, (None,), id="nothing for an integer"),
        pytest.param(22, (1, 2), id="a field too many"),
        pytest.param(22, (), id="a field too few"),
        pytest.param(22, 7, id="no fields at all"),
        pytest.param(255, (1,), id="a field where there is none"),
        pytest.param(39, (1, 4), id="no such reason"),
        pytest.param(39, (1, -1), id="no such reason below"),
        pytest.param(39, (1, False), id="a boolean for an enum"),
        pytest.param(35, ([],), id="an empty list where one is wanted"),
        pytest.param(16, (1, 1, 1, 0, 1, [b"k"]), id="a key of one byte"),
        pytest.param(16, (1, 1, 1, 256, 1, [b"c\0k"]), id="a hop over a byte"),
        pytest.param(16, (1, 1, 1, 0, 1, ["c\0k"]), id="text for bytes"),
        pytest.param(33, (1, b"v", -2, 0, True), id="a ttl below never"),
        pytest.param(33, (1, b"v", 0, 0, 1), id="an integer for a boolean"),
        pytest.param(33, (1, "v", 0, 0, True), id="text for a value"),
        pytest.param(49, (b"a" * 16, 1, 1, False, [4096]), id="no such bucket"),
        pytest.param(49, (b"a" * 17, 1, 1, False, []), id="an id too long"),
        pytest.param(5, ((b"a" * 15, *ANN[1:]), [], []), id="a member's id too short"),
        pytest.param(5, ((*ANN[:3], 9, *ANN[4:]), [], []), id="no such state"),
        pytest.param(5, ((*ANN[:7], 2), [], []), id="no such weight"),
        pytest.param(5, ((*ANN[:4], "", *ANN[5:]), [], []), id="no address"),
    ],
)
def test_a_field_out_of_its_bounds_is_refused(kind, body):
    assert "field" == reason_of(framed(kind, body))


@pytest.mark.parametrize("odd", [{}, {1: 2}, msgpack.ExtType(5, b"x")])
def test_maps_and_extensions_are_in_no_message(odd):
    assert reason_of(framed(22, (odd,))) in {"body", "field"}


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(KINDS)))
def test_a_kind_that_is_none_is_refused(kind):
    assert "kind" == reason_of(framed(kind, (1,)))


def test_a_message_that_does_not_fit_msgpack_is_refused_before_it_is_sent():
    with pytest.raises(LocalProtocolError, match="Cancel"):
        CODEC.encode(Cancel(2**64))


# --- other clusters, other protocols ----------------------------------------------


def header(newest: int, oldest: int, label: str = LABEL) -> bytes:
    encoded = label.encode()
    return b"MC" + bytes((newest, oldest, len(encoded))) + encoded


CANCEL = bytes((22,)) + msgpack.packb((7,))


@pytest.mark.parametrize("label", ["stage", "shopp", "sho", "", "x" * 64])
def test_a_frame_of_another_cluster_names_both(label):
    with pytest.raises(RemoteProtocolError) as caught:
        CODEC.decode(FrameCodec(label).encode(Cancel(7)))

    assert "cluster" == caught.value.reason
    assert f"cluster {label!r}" in str(caught.value)
    assert "cluster 'shop'" in str(caught.value)


def test_a_label_that_is_no_text_is_named_all_the_same():
    assert "cluster" == reason_of(b"MC\x01\x01\x02\xff\xfe" + CANCEL)


def test_a_newer_protocol_that_still_speaks_ours_is_read():
    assert Cancel(7) == CODEC.decode(header(9, 1) + CANCEL)


@pytest.mark.parametrize(("newest", "oldest"), [(9, 2), (0, 0), (255, 255)])
def test_a_protocol_that_does_not_meet_ours_is_refused_with_both_ranges(newest, oldest):
    with pytest.raises(RemoteProtocolError, match=f"{oldest} to {newest}") as caught:
        CODEC.decode(header(newest, oldest) + CANCEL)

    assert "protocol" == caught.value.reason
    assert "1 to 1" in str(caught.value)


def test_another_cluster_is_told_before_another_protocol():
    """Two clusters upgrade when they like; what matters is that they are two."""
    assert "cluster" == reason_of(header(9, 9, "stage") + CANCEL)


@pytest.mark.parametrize(
    "frame", [b"", b"M", b"HTTP/1.1 200", b"\x16\x03\x01", b"mc\x01\x01\x04shop\x16"]
)
def test_what_does_not_begin_like_a_frame_is_refused(frame):
    assert "magic" == reason_of(frame)


@pytest.mark.parametrize("length", range(2, 5))
def test_a_header_that_ends_early_is_refused(length):
    assert "magic" == reason_of(HEADER[:length])


def test_a_frame_without_a_kind_is_refused():
    assert "kind" == reason_of(HEADER)


def test_a_stranger_says_with_its_header_who_it_is():
    greeting = FrameCodec("stage").encode(Stranger())

    assert "cluster" == reason_of(greeting)
    assert Stranger() == FrameCodec("stage").decode(greeting)


def test_a_label_may_be_as_long_as_a_cluster_name():
    long = FrameCodec("é" * 32)

    assert Cancel(1) == long.decode(long.encode(Cancel(1)))


# --- what goes over the wire most -------------------------------------------------


def test_messages_are_short():
    """A read of one key is two frames; what they add to key and value is paid often."""
    rng = random.Random(1)
    rid, epoch, table = (rng.getrandbits(63) for _ in range(3))
    fetch = Fetch(rid, epoch, table, 0, 1000, False, (b"users\0i42",))
    sizes = {
        "Fetch": len(CODEC.encode(fetch)) - len(b"users\0i42"),
        "Cancel": len(CODEC.encode(Cancel(rid))),
        "Filled": len(CODEC.encode(Filled(rid, b"v", -1, table, loaded=True))) - 1,
        "Leased": len(CODEC.encode(Leased(rid, epoch, 30_000))),
    }

    assert {"Fetch": 46, "Cancel": 20, "Filled": 33, "Leased": 32} == sizes
