"""The bytes of an entry against `store.record._encode`: the same, or the same error."""

from __future__ import annotations

from struct import pack, unpack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshcache.clock import NEVER
from meshcache.store.record import MAX_KEY_BYTES, Entry, _encode, extent

U64 = st.integers(0, 2**64 - 1)


class Bytes(bytes):
    __slots__ = ()


class Float(float):
    __slots__ = ()


@pytest.fixture(scope="module")
def record(compiled):
    return compiled.records(_encode)


@pytest.fixture(scope="module")
def alone(compiled):
    """What the compiled does by itself; None is what it would leave to Python."""
    return compiled.records(lambda tenure, key, entry: None)


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is, both raise it
        return type(error), str(error)


@given(
    st.integers(0, 255),
    st.binary(max_size=300),
    st.tuples(st.binary(max_size=2000), U64, st.floats()),
)
@example(0, b"", (b"", 0, 0.0))
@example(255, b"\xff", (b"\xff", 2**64 - 1, -0.0))
def test_an_entry_has_the_bytes_that_python_writes(alone, tenure, key, fields):
    expected = _encode(tenure, key, fields)

    assert expected == alone(tenure, key, fields)
    assert expected == alone(tenure, key, Entry(*fields))
    assert len(expected) <= extent(unpack("=Q", expected[:8])[0]) < len(expected) + 8


@pytest.mark.parametrize("bits", [0x7FF8000000000001, 0x7FF0000000000001, 1, 1 << 63])
def test_an_expiry_keeps_its_bits(alone, bits):
    (expires,) = unpack("=d", pack("=Q", bits))

    assert pack("=Q", bits) == alone(1, b"key", (b"", 1, expires))[20:28]


@pytest.mark.parametrize("size", [0, 1, 995, 996, 997, 65_536, 200_000])
def test_a_value_of_any_size_is_written_as_python_writes_it(alone, size):
    entry = bytes(size), 1, NEVER

    assert _encode(1, b"key", entry) == alone(1, b"key", entry)


def test_the_longest_key_is_written_and_a_longer_one_left_to_python(alone, record):
    longest, entry = b"k" * MAX_KEY_BYTES, (b"value", 1, NEVER)

    assert _encode(1, longest, entry) == alone(1, longest, entry)

    for more in (b"k", b"kk", longest):
        assert alone(1, longest + more, entry) is None
        assert outcome(_encode, 1, longest + more, entry) == outcome(
            record, 1, longest + more, entry
        )


@pytest.mark.parametrize(
    "args",
    [
        *(
            (tenure, b"k", (b"v", 1, 1.0))
            for tenure in (256, -1, 2**64, True, 1.0, "1")
        ),
        *(
            (1, key, (b"v", 1, 1.0))
            for key in (bytearray(b"k"), "k", None, Bytes(b"k"))
        ),
        *((1, b"k", (value, 1, 1.0)) for value in (bytearray(b"v"), "v", Bytes(b"v"))),
        *((1, b"k", (b"v", version, 1.0)) for version in (-1, 2**64, 1.0, True, None)),
        *((1, b"k", (b"v", 1, expires)) for expires in (1, Float(1), None, "1")),
        *((1, b"k", entry) for entry in ([b"v", 1, 1.0], (b"v", 1), (b"v", 1, 1.0, 1))),
        *((1, b"k", None), (1, b"k"), (), (1, b"k", (b"v", 1, 1.0), 1)),
    ],
    ids=str,
)
def test_other_arguments_are_left_to_python(compiled, record, args):
    rest = compiled.records(lambda *args: None)

    assert rest(*args) is None
    assert outcome(_encode, *args) == outcome(record, *args)


def test_arguments_may_have_names(record):
    entry = b"value", 1, NEVER

    assert _encode(1, b"key", entry) == record(tenure=1, key=b"key", entry=entry)
    assert _encode(1, b"key", entry) == record(1, b"key", entry=entry)


def test_the_twin_is_at_hand(record):
    assert record.__wrapped__ is _encode


@pytest.mark.slow
def test_nothing_is_leaked(alone, check_leaks):
    key, value, rest = b"key", b"value" * 10, Entry(b"v", 2**70, 1.0)

    def work():
        alone(1, key, (value, 2**60, 1.5))
        for args in ((1, key, rest), (2**70, key, rest), (256, key, rest), (1,)):
            outcome(alone, *args)

    check_leaks(work, None, key, value, rest, Entry)
