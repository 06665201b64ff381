"""Keys against `codec.keys`: the same bytes and hash, or the same error."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import tracemalloc
import weakref
from decimal import Decimal
from pathlib import Path
from struct import pack, unpack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import meshcache
from meshcache.codec import keys as module
from meshcache.codec.keys import MAX_KEY_BYTES, MAX_KEY_DEPTH, decode_key
from meshcache.hashing import key_hash

PREFIX = b"users\0"
EDGES = [0, 1, 2**31, 2**32, 2**60, 2**62, 2**63, 2**64, 2**70, 16**15, 16**16]
INTS = sorted(
    {sign * (edge + by) for edge in EDGES for by in (-1, 0, 1) for sign in (-1, 1)}
)
PLAIN = {type(None), bool, int, float, str, bytes, tuple, list}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-300, 300),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.binary(max_size=20),
    st.integers(240, 270).map(lambda size: b"b" * size),
)
KEYS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=6) | st.lists(inner, max_size=6).map(tuple),
    max_leaves=20,
)
HASHABLE = LEAVES | st.integers() | st.decimals(allow_nan=False) | st.dates()
OTHERS = st.recursive(
    HASHABLE | st.uuids() | st.complex_numbers() | st.timedeltas(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.frozensets(HASHABLE, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3),
    ),
    max_leaves=10,
)
LEFT = object()


class Word(str):
    __slots__ = ()


class Number(int):
    pass


class Pair(tuple):
    __slots__ = ()


class Items(list):
    pass


class Raw(bytes):
    pass


class Real(float):
    pass


@pytest.fixture(scope="module")
def pure():
    """The twin in Python."""
    return inspect.unwrap(module.encode_key)


@pytest.fixture(scope="module")
def pure_full(pure):
    def full_key(prefix, key):
        full = prefix + pure(key)
        return full, key_hash(full)

    return full_key


@pytest.fixture(scope="module")
def encode(compiled, pure):
    return compiled.encoder(pure)


@pytest.fixture(scope="module")
def full(compiled, pure_full):
    return compiled.keys(pure_full)


@pytest.fixture(scope="module")
def alone(compiled):
    """What the compiled does by itself; LEFT is what it would leave to Python."""
    return compiled.encoder(lambda value: LEFT)


def outcome(function, *args, **kwargs):
    try:
        made = function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whatever it is, both raise it
        return type(error), str(error)
    return type(made), made


@pytest.fixture(scope="module")
def agree(pure, encode, pure_full, full, alone):
    """Check that the twins agree about a key; return whether it is left to Python."""

    def check(key, prefix=PREFIX):
        expected = outcome(pure, key)

        assert expected == outcome(encode, key)
        assert outcome(pure_full, prefix, key) == outcome(full, prefix, key)

        made = alone(key)

        assert made is LEFT or expected == (bytes, made)

        return made is LEFT

    return check


# --- what is plain ---------------------------------------------------------------


@pytest.mark.parametrize("number", INTS)
def test_an_int_of_64_bits_is_written_as_python_writes_it(agree, number):
    assert agree(number) is not (-(2**63) <= number < 2**63)
    assert agree((number, [number])) is not (-(2**63) <= number < 2**63)


@pytest.mark.slow
@given(KEYS, st.binary(max_size=20))
@example(True, PREFIX)
@example([True, False, None, 1, 0, -1, 1.0, -0.0, "", b"", (), []], PREFIX)
@example(("\x00", "\x7f\x80", "\ud800\udfff", "\U0001f600", "é" * 127), b"")
def test_a_plain_key_is_written_alone_and_the_same(agree, key, prefix):
    assert not agree(key, prefix)


@pytest.mark.parametrize("bits", [0x7FF8000000000001, 0x7FF0000000000001, 1, 1 << 63])
def test_a_float_keeps_its_bits(alone, bits):
    (number,) = unpack(">d", pack(">Q", bits))

    assert b"f" + pack(">Q", bits) == alone(number)


@pytest.mark.parametrize("size", [0, 1, 252, 253, 254, 255, 256, 509, 510, 511, 512])
@pytest.mark.parametrize("make", [bytes, lambda n: "x" * n, lambda n: (1,) * n])
def test_an_element_says_how_long_it_is(agree, make, size):
    one = make(size)
    for key in (one, (one,), [one, one], ([one], 7), (((one,),), "after", one)):
        assert not agree(key)


@pytest.mark.parametrize("before", [0, 1, 505, 511, 512, 513, 2000, 300_000])
@pytest.mark.parametrize("size", [0, 1, 5, 505, 511, 512, 513, 2000])
def test_keys_and_prefixes_of_any_size_go_together(agree, before, size):
    agree("x" * size, b"p" * before)
    agree(("x" * size, 1), b"p" * before)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_nest_is_written_alone_up_to_its_limit(agree, kind):
    key = kind()
    for depth in range(1, 3 * MAX_KEY_DEPTH):
        assert agree(key) is (depth > MAX_KEY_DEPTH)

        key = kind([key])


def test_what_lies_side_by_side_is_not_deep(agree):
    assert not agree(tuple([()] * 500 + [[[]]] * 500))


def test_a_long_element_in_every_level_is_written(agree):
    key = "x" * 300
    for _ in range(MAX_KEY_DEPTH):
        key = ("y" * 300, key, 1)

    assert not agree(key)


def test_what_comes_out_is_read_again(alone):
    key = (1, "a", [b"x" * 300, None, (True, -5)], "é")

    assert key == decode_key(alone(key))


@pytest.mark.parametrize(
    "make",
    [
        lambda size: "x" * (size - 1),
        lambda size: b"x" * (size - 1),
        lambda size: "xé" + "x" * (size - 4),
        lambda size: (b"x" * (size - 7),),
        lambda size: [1] * ((size - 1) // 3) + [None] * ((size - 1) % 3 // 2),
        lambda size: (("x" * (size - 20), "y"), "z"),
    ],
    ids=["ascii", "bytes", "str", "tuple", "list", "nest"],
)
def test_a_key_is_written_up_to_the_greatest_length_and_refused_over_it(
    agree, pure, make
):
    for size in range(MAX_KEY_BYTES - 9, MAX_KEY_BYTES + 9):
        kind, _ = outcome(pure, make(size))

        assert agree(make(size)) is (kind is not bytes)

    for size in (2 * MAX_KEY_BYTES, 4 * MAX_KEY_BYTES + 9, 9 * MAX_KEY_BYTES):
        assert agree(make(size))


def test_a_prefix_takes_nothing_from_the_greatest_length(compiled):
    full = compiled.keys(lambda prefix, key: LEFT)
    longest = "x" * (MAX_KEY_BYTES - 1)

    assert full(PREFIX * 100, longest) is not LEFT
    assert full(PREFIX * 100, longest + "x") is LEFT


def test_a_few_shared_lists_do_not_fill_the_memory(alone):
    key = ["x"]
    for _ in range(MAX_KEY_DEPTH - 1):
        key = [key] * 100
    tracemalloc.start()
    try:
        assert alone(key) is LEFT
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_what_contains_itself_is_left_to_python(agree):
    circle = []
    circle += [circle, 1]

    assert agree(circle)
    assert agree((1, circle))


# --- what is not -----------------------------------------------------------------


@pytest.mark.slow
@given(OTHERS)
def test_every_kind_of_key_is_written_as_python_writes_it(agree, key):
    agree(key)


@pytest.mark.parametrize(
    "key",
    [
        *(
            {"a": 1},
            {1},
            frozenset(),
            1j,
            Decimal(1),
            object,
            object(),
            bytearray(b"a"),
        ),
        *(Word("a"), Number(1), Pair(), Items(), Raw(), Real(1), memoryview(b"a")),
        *(2**64, -(2**63) - 1, 2**300),
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_is_not_plain_is_left_to_python_wherever_it_is(agree, key):
    for holder in (key, (key,), [1, key], ("a", ([key], "b"))):
        assert agree(holder)


@pytest.mark.parametrize("prefix", ["text", bytearray(b"a"), memoryview(b"a"), None, 1])
def test_a_prefix_that_is_not_bytes_is_left_to_python(agree, prefix):
    agree(1, prefix)
    agree("a", prefix)


def test_other_numbers_of_arguments_are_left_to_python(pure, encode, pure_full, full):
    for args in ((), (PREFIX,), (PREFIX, 1, 2)):
        assert outcome(pure_full, *args) == outcome(full, *args)
    for args in ((), (1, 2)):
        assert outcome(pure, *args) == outcome(encode, *args)


def test_arguments_may_have_names(pure, encode, pure_full, full):
    expected = pure_full(PREFIX, 1)

    assert expected == full(prefix=PREFIX, key=1) == full(PREFIX, key=1)
    assert b"i1" == encode(value=1) == encode(1, name="number")
    assert outcome(pure, 1, nonsense=1) == outcome(encode, 1, nonsense=1)
    assert outcome(pure, {1}, name="n") == outcome(encode, {1}, name="n")
    assert outcome(pure, [object()], name="mine") == outcome(
        encode, [object()], name="mine"
    )
    assert "mine[0]" in outcome(encode, [object()], name="mine")[1]


# --- the object ------------------------------------------------------------------


def test_the_twin_is_at_hand(encode, pure, full, pure_full):
    assert encode.__wrapped__ is pure
    assert full.__wrapped__ is pure_full
    assert module.encode_key.__wrapped__ is pure
    assert module.full_key.__wrapped__ is module._full_key


def test_what_makes_keys_is_made_by_the_module_alone(full):
    with pytest.raises(TypeError):
        type(full)()
    with pytest.raises(TypeError):
        type(full).__call__ = None
    with pytest.raises(AttributeError):
        full.__wrapped__ = None


@pytest.mark.parametrize("maker", ["keys", "encoder", "decoder", "records"])
def test_what_was_made_goes_with_its_last_user(compiled, maker):
    class Holder:
        def rest(self, *args):
            return args

    holder = Holder()
    holder.made = getattr(compiled, maker)(holder.rest)

    assert ((1j, 2, 3, 4)) == holder.made(1j, 2, 3, 4)

    gone = weakref.ref(holder)
    del holder
    gc.collect()

    assert gone() is None


@pytest.mark.slow
def test_nothing_is_leaked(alone, full, check_leaks):
    plain = [None, True, 1.5, b"bytes", "\xe9", "x" * 1000, 7, -(2**63)]
    keys = [*plain, tuple(plain), [plain, plain], "x" * MAX_KEY_BYTES]
    keys += [2**80, (1, {1}), ("x" * 600, object()), ["x" * 99_000] * 9, "\ud800"]

    def work():
        for key in keys:
            alone(key)
        outcome(full, "", 1)
        outcome(full, PREFIX, plain)

    check_leaks(work, *plain, False, LEFT)


WITHIN = """
from meshcache import native

encode = native.encoder(lambda value: None)
for one in range(480, 530):
    for other in range(0, 1200):
        encode(("x" * one, b"y" * other))
        encode("z" * (one + other))
print(native.built)
"""


@pytest.mark.slow
def test_what_is_written_stays_within_its_block(compiled):
    # Python's own debugging allocator aborts where bytes behind a block have changed.
    path = os.pathsep.join([str(Path(meshcache.__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", WITHIN],
        env={**os.environ, "PYTHONMALLOC": "debug", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert (0, "True\n") == (done.returncode, done.stdout), done.stderr[:2000]
