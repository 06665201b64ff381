"""The short way to read a `Write` of one key says what the long way says."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import Cancel, Item, Verb, Write
from meshcache.errors import RemoteProtocolError

CODEC = FrameCodec("shop")
WRITE = CODEC.encode(Cancel(1))[:-3] + bytes((18,))
PLAIN = Write(7, 2**60, 3, 0, 2000, Verb.SET, (Item(b"c\0sk", b"v", -1, 0),))

numbers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([-1, 0, 1, 4, 5, 255, 256])
odd = numbers | st.binary(max_size=3) | st.none() | st.booleans() | st.text(max_size=2)


def the_long_way(frame: bytes) -> tuple[int, int, Verb, Item] | None:
    try:
        message = CODEC.decode(frame)
    except RemoteProtocolError:
        return None
    if not isinstance(message, Write) or len(message.items) != 1:
        return None
    return message.rid, message.epoch, message.verb, message.items[0]


@st.composite
def writes(draw: st.DrawFn) -> bytes:
    """Frames of writes, with a field or two that may be anything."""
    items = [
        list(PLAIN.items[0]) for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2])))
    ]
    body = [*PLAIN[:-1], items]
    for fields in (body, *items):
        if draw(st.booleans()):
            fields[draw(st.integers(0, len(fields) - 1))] = draw(odd)
    if draw(st.integers(0, 9)) == 0:
        body.append(0)
    return WRITE + msgpack.packb(body)


@pytest.mark.slow
@given(writes())
def test_both_ways_take_the_same_frames_for_the_same_writes(frame):
    assert the_long_way(frame) == CODEC.single_write(frame)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_write_or_nothing(data):
    assert the_long_way(WRITE + data) == CODEC.single_write(WRITE + data)
    assert CODEC.single_write(data) is None


@pytest.mark.parametrize("verb", Verb)
def test_each_verb_is_itself(verb):
    frame = CODEC.encode(PLAIN._replace(verb=verb))

    assert (7, 2**60, verb, PLAIN.items[0]) == CODEC.single_write(frame)
    assert verb is CODEC.single_write(frame)[2]


def test_what_is_meant_for_another_cluster_is_no_write():
    assert FrameCodec("other").single_write(CODEC.encode(PLAIN)) is None


def test_a_write_with_something_after_its_end_is_none():
    assert CODEC.single_write(CODEC.encode(PLAIN) + b"\0") is None


def item(**fields: object) -> dict[str, object]:
    return {"items": (PLAIN.items[0]._replace(**fields),)}


@pytest.mark.parametrize(
    "fields",
    [
        {"rid": -1},
        {"epoch": -1},
        {"table": -1},
        {"hop": -1},
        {"hop": 256},
        {"budget_ms": 2**32},
        {"verb": -1},
        {"verb": len(Verb)},
        item(key=b"k"),
        item(key=bytes(65_537)),
        item(ttl_ms=-2),
        item(ttl_ms=2**53 + 1),
        item(delta=2**63),
    ],
)
def test_a_field_out_of_its_bounds_makes_it_none(fields):
    frame = CODEC.encode(PLAIN._replace(**fields))

    assert the_long_way(frame) is None
    assert CODEC.single_write(frame) is None
