"""Decoding against `codec.values._decode`: the same value to the last bit, or error."""

from __future__ import annotations

import struct
import tracemalloc
from decimal import Decimal
from itertools import count
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgpack import packb

from meshcache.codec.values import MsgpackCodec, _decode
from meshcache.errors import SerializationError

MSGPACK = MsgpackCodec()
DEPTH = 32
LEFT = object()

NUMBERS = st.integers() | st.integers(-(2**64), 2**65) | st.integers(-300, 70_000)
PLAIN_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-300, 70_000),
    st.floats(),
    st.text(st.characters(), max_size=40),
    st.binary(max_size=40),
)
PLAIN = st.recursive(
    PLAIN_LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(PLAIN_LEAVES, inner, max_size=20)
    ),
    max_leaves=30,
)
HASHABLE = st.recursive(
    PLAIN_LEAVES
    | NUMBERS
    | st.decimals(allow_nan=False)
    | st.complex_numbers()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE | st.datetimes() | st.uuids() | st.timedeltas() | st.times(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLE, max_size=3),
        st.frozensets(HASHABLE, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=4),
    ),
    max_leaves=12,
)
PIECES = st.one_of(
    st.integers(0, 255).map(lambda byte: bytes([byte])),
    st.integers(0x80, 0x9F).map(lambda byte: bytes([byte])),
    st.integers(0xC0, 0xDF).map(lambda byte: bytes([byte])),
    st.sampled_from([b"\0", b"\0\1", b"\0\0\0\2", b"\xc7\0(", b"\xff\xff\xff\xff"]),
    st.binary(max_size=9),
    PLAIN_LEAVES.map(MSGPACK.encode),
)


@pytest.fixture(scope="module")
def decode(compiled):
    return compiled.decoder(_decode)


@pytest.fixture(scope="module")
def alone(compiled):
    """What the compiled does by itself; LEFT is what it leaves to Python."""
    return compiled.decoder(lambda data: LEFT)


@pytest.fixture(scope="module")
def agree(decode, alone, fingerprint):
    """Check that the twins agree about some bytes; return their outcome."""

    def outcome(function, data):
        try:
            return fingerprint(function(data))
        except SerializationError as error:
            return str(error)

    def check(data):
        expected = outcome(_decode, data)

        assert expected == outcome(decode, data)

        value = alone(data)

        assert value is LEFT or expected == fingerprint(value)

        return expected

    return check


# --- what is an encoding ---------------------------------------------------------


@pytest.mark.slow
@given(PLAIN)
@example([-0.0, 0.0, float("nan"), float("inf"), 5e-324])
@example([2**64 - 1, 2**63, 2**63 - 1, -(2**63), -(2**31) - 1, -(2**31)])
@example([b"\xc7\0(", "\ud800\udfff", "\U0001f600", b"", "", {}, []])
@example({1: 1, 1.5: 2, None: 3, b"a": 4, "a": 5, "": 6})
def test_a_plain_value_is_decoded_alone_and_the_same(agree, alone, fingerprint, value):
    data = MSGPACK.encode(value)

    assert fingerprint(value) == agree(data) == fingerprint(alone(data))


@pytest.mark.parametrize("size", [15, 16, 31, 32, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize(
    "make", [range, lambda n: "x" * n, lambda n: b"x" * n, lambda n: "é" * n]
)
def test_a_size_is_read_however_it_is_written(alone, make, size):
    made = make(size)
    several = [list(made), dict.fromkeys(made, 1)] if make is range else [made]
    for value in several:
        assert value == alone(MSGPACK.encode(value)) == _decode(MSGPACK.encode(value))


@pytest.mark.slow
@given(VALUES)
@example([(), set(), frozenset(), (1, (2, {3})), 2**64, -(2**63) - 1, 2**5000])
@example({(1, 2): [Decimal("-sNaN7"), 1j], frozenset({b"x"}): ({"a": ()},)})
def test_every_kind_of_value_is_the_same(agree, value):
    agree(MSGPACK.encode(value))


def test_what_msgpack_does_not_have_is_left_to_python(alone):
    for value in ((), [(1,)], {1: 2**64}, [1, {2}], 1j, {"a": Decimal(1)}):
        assert alone(MSGPACK.encode(value)) is LEFT


@given(st.integers(-(2**63), 2**64 - 1))
@example(-1)
@example(-128)
@example(-(2**15))
@example(-(2**31))
@example(-(2**63))
def test_a_number_is_the_same_however_wide_it_is_written(agree, alone, number):
    for code, form in zip(range(0xCC, 0xD4), "BHIQbhiq", strict=True):
        try:
            data = bytes([code]) + struct.pack(f">{form}", number)
        except struct.error:
            continue

        assert number == alone(data)
        agree(data)


def test_every_short_form_is_decoded_alone(alone):
    for value in (*range(-200, 300), *("x" * n for n in range(40)), [], {}):
        assert value == alone(MSGPACK.encode(value))


@pytest.mark.parametrize("bits", ["7fc00001", "ff800000", "80000000", "00000001"])
def test_a_float_of_four_bytes_is_the_same(agree, alone, bits):
    data = b"\xca" + bytes.fromhex(bits)

    assert isinstance(alone(data), float)
    agree(data)


@given(st.binary(min_size=8, max_size=8))
def test_a_float_keeps_its_bits(agree, alone, bits):
    assert bits == struct.pack(">d", alone(b"\xcb" + bits))
    agree(b"\xcb" + bits)


def test_a_float_keeps_the_bits_of_a_nan(alone):
    for bits in ("7ff8000000000001", "fff8dead00beef00", "7ff0000000000001"):
        found = alone(b"\xcb" + bytes.fromhex(bits))

        assert bits == struct.pack(">d", found).hex()


def test_a_long_form_of_what_is_short_is_the_same(agree):
    for data in (
        *(b"\xd9\x01a", b"\xda\0\x01a", b"\xdb\0\0\0\x01a", b"\xc4\0", b"\xc6\0\0\0\0"),
        *(b"\xdc\0\x01\x07", b"\xdd\0\0\0\0", b"\xde\0\x01\x01\x02", b"\xdf\0\0\0\0"),
    ):
        assert "SerializationError" not in str(agree(data))


def test_the_last_of_equal_keys_stays(alone):
    assert {"a": 2} == alone(b"\x82\xa1a\x01\xa1a\x02")
    assert {1: 2} == alone(b"\x82\x01\x01\x01\x02")


def test_the_same_names_are_one_object(alone):
    data = MSGPACK.encode([{"some_name": 1}, {"some_name": 2}])
    one, other = alone(data)

    assert next(iter(one)) is next(iter(other))


def test_names_are_told_apart_however_many_there_are(alone):
    rng = Random(1)
    sizes = [0, 1, 2, 5, 30, 31, 32, 33]
    names = ["".join(rng.choices("abcd", k=rng.choice(sizes))) for _ in range(4000)]
    names += [name[:9] + "é" for name in names[:500]]
    names += [f"name{number:04}" for number in range(2000)]
    for _ in range(2):
        for name in names:
            assert {name: name} == alone(MSGPACK.encode({name: name}))

    every = dict.fromkeys(names, 1)

    assert every == alone(MSGPACK.encode(every))


def test_a_name_is_not_another_that_looks_like_its_bytes(alone):
    for number in range(3000):
        name = f"é{number}"
        for other in (name.encode().decode("latin-1"), name):
            assert {other: 1} == alone(MSGPACK.encode({other: 1}))


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 100, 1000, 1100])
@pytest.mark.parametrize(
    ("head", "leaf"), [(b"\x91", b"\xc0"), (b"\x81\x01", b"\xc0"), (b"\x91", b"\x90")]
)
def test_a_nest_is_decoded_alone_up_to_its_limit(agree, alone, head, leaf, depth):
    data = head * (depth - 1) + (leaf if leaf == b"\x90" else head + leaf)

    assert (alone(data) is LEFT) is (depth > DEPTH)
    agree(data)


def test_what_lies_side_by_side_is_not_deep(alone):
    value = [[[]] * 100, {"a": {}}, {"b": {}}] * 100

    assert value == alone(MSGPACK.encode(value))


# --- what is none ----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [1, -1, 200, -200, 70_000, -70_000, 2**40, -(2**40), 1.5, None, True],
        {"name": "x" * 40, "bin": b"y" * 300, 7: [[], {}, "é"], "k" * 300: [0] * 20},
        dict.fromkeys(range(20), "\ud800"),
    ],
)
def test_what_is_cut_anywhere_is_refused(agree, alone, value):
    data = MSGPACK.encode(value)
    for size in range(len(data)):
        assert alone(data[:size]) is LEFT
        assert "is not msgpack" in agree(data[:size])


@pytest.mark.slow
def test_every_first_byte_is_understood_alike(agree):
    tails = [Random(byte).randbytes(20) for byte in range(4)]
    tails += [bytes([byte]) * 20 for byte in (0, 1, 2, 0x7F, 0x80, 0xC0, 0xFF)]
    tails += [bytes(zeros) + b"\x02\x01\x02\x03\x04" for zeros in range(8)]
    for head in range(256):
        for tail in tails:
            for size in range(len(tail) + 1):
                agree(bytes([head]) + tail[:size])


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_any_bytes_are_understood_alike(agree, data):
    agree(data)


@pytest.mark.slow
@given(VALUES | PLAIN, st.data())
def test_damaged_bytes_are_understood_alike(agree, value, data):
    damaged = bytearray(MSGPACK.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert"]))
        if kind == "flip":
            damaged[at : at + 1] = bytes(
                byte ^ 1 << data.draw(st.integers(0, 7))
                for byte in damaged[at : at + 1]
            )
        elif kind == "set":
            damaged[at : at + 1] = data.draw(PIECES)
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 3))]
        else:
            damaged[at:at] = data.draw(PIECES)
    agree(bytes(damaged))


@pytest.mark.parametrize("value", [1, "a", [1], {"a": 1}, None, b"x", 1.5, -5])
def test_what_is_followed_by_something_is_refused(agree, alone, value):
    for more in (b"\0", b"\xc0", b"\xc1", b"more"):
        data = MSGPACK.encode(value) + more

        assert alone(data) is LEFT
        assert "is not msgpack" in agree(data)


@pytest.mark.parametrize("key", [[1], {1: 2}, [[]]])
def test_a_key_that_cannot_be_one_is_refused(agree, alone, key):
    data = b"\x82\x01\x02" + packb(key) + b"\x03"

    assert alone(data) is LEFT
    assert "unhashable" in agree(data)


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"]
)
def test_a_str_that_is_no_utf8_is_refused(agree, alone, text):
    data = bytes([0xA0 + len(text)]) + text

    assert alone(data) is LEFT
    assert "is not msgpack" in agree(data)


@pytest.mark.parametrize(
    "head", ["dd", "df", "db", "c6", "dc", "de", "da", "c5", "c9", "dd00000001dd"]
)
def test_a_claim_of_more_than_there_is_allocates_nothing(agree, alone, head):
    data = bytes.fromhex(head) + b"\xff" * 10
    alone(data)
    tracemalloc.start()
    try:
        assert alone(data) is LEFT
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    agree(data)


# --- other arguments -------------------------------------------------------------


class Bytes(bytes):
    __slots__ = ()


@pytest.mark.parametrize(
    "data",
    [
        *(bytearray(b"\x91\x01"), bytearray(b"\x91"), memoryview(b"\x91\x01")),
        *(Bytes(b"\x91\x01"), "\x01", None, 1, [b"\x01"]),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_is_not_bytes_is_left_to_python(agree, alone, data):
    assert alone(data) is LEFT
    agree(data)


def test_other_numbers_of_arguments_are_left_to_python(decode):
    assert decode(data=b"\x01") == _decode(data=b"\x01")
    for args in ((), (b"\x01", 2)):
        with pytest.raises(TypeError, match="_decode"):
            decode(*args)


def test_an_error_of_python_passes_as_it_is(compiled):
    error = KeyboardInterrupt()

    def fail(data):
        raise error

    with pytest.raises(KeyboardInterrupt) as caught:
        compiled.decoder(fail)(b"\xc1")

    assert error is caught.value


def test_the_twin_is_at_hand(decode):
    assert decode.__wrapped__ is _decode


@pytest.mark.slow
def test_nothing_is_leaked(alone, check_leaks):
    whole = MSGPACK.encode([None, True, {"a": [1.5, b"x" * 40, 2**40]}, "\ud800"])
    cases = [whole[:size] for size in range(len(whole) + 1)]
    cases += [whole + b"\0", b"\x82\xa1k\x01\x90\x01", b"\x92\x91\x05\xa1\xff"]
    cases += [b"\x81\xa3key", b"\x81\xa3key\xc1", b"\x91" * 40, b"\x81\x01" * 40]
    cases += [b"\x92\x82\x01\x02\x80\x03\x04", b"\x93\xc3\xc2\xc1"]
    cases += [b"\x81\xa2k%d\x01" % digit for digit in range(10)]
    cases += [b"\x81\xa2\xc3\xa9\x01", b"\x81\xa2\xc3k\x01", b"\x81\xa5abc"]
    check_leaks(lambda: [alone(data) for data in cases], None, True, False, LEFT)


@pytest.mark.slow
def test_no_names_are_kept_but_a_few(alone, check_leaks):
    numbers = count()

    def work():
        return alone(MSGPACK.encode({f"name{next(numbers)}": 1}))

    for _ in range(5000):
        work()
    check_leaks(work)
