from __future__ import annotations

import dataclasses
import enum
import http
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from io import BytesIO
from itertools import combinations
from pathlib import Path
from struct import pack
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshcache.codec import keys, scalars, types
from meshcache.codec.keys import (
    MAX_KEY_BYTES,
    MAX_KEY_DEPTH,
    decode_key,
    encode_key,
)
from meshcache.codec.scalars import SCALARS
from meshcache.codec.types import key_name, register
from meshcache.errors import KeyRefused, ValueTooLarge
from meshcache.model import State

VECTORS = Path(__file__).with_name("vectors") / "keys.txt"
NAMES = {
    "Decimal": Decimal,
    "State": State,
    "UTC": UTC,
    "UUID": UUID,
    "ZoneInfo": ZoneInfo,
    "date": date,
    "datetime": datetime,
    "http": http,
    "inf": float("inf"),
    "nan": float("nan"),
    "time": time,
    "timedelta": timedelta,
    "timezone": timezone,
}


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Shade(enum.Enum):
    RED = 1


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Pair:
    y: int
    x: int


@dataclasses.dataclass
class Mutable:
    x: int


class User:
    def __init__(self, token):
        self.token = token

    def __cache_key__(self):
        return self.token


class Admin(User):
    pass


class UserId(int):
    pass


@pytest.fixture(scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(types, "_by_class", {})
        patch.setattr(types, "_by_name", {})
        for cls in (Color, Right, Point):
            register(cls)
        yield


@pytest.fixture(scope="session")
def meaning(fingerprint):
    def in_order(value):
        cls = type(value)
        if cls is dict:
            items = sorted(value.items(), key=lambda item: fingerprint(item[0]))
            return {key: in_order(item) for key, item in items}
        return cls(map(in_order, value)) if cls in {list, tuple} else value

    return lambda value: fingerprint(in_order(value))


ZONES = st.one_of(
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")]),
    st.builds(
        timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text()
    ),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(), max_size=6),
    st.binary(max_size=6),
    st.dates(),
    st.datetimes(timezones=st.none() | ZONES),
    st.times(timezones=st.none() | ZONES),
    st.timedeltas(),
    ZONES,
    st.decimals(allow_nan=False) | st.just(Decimal("NaN7")),
    st.uuids(),
    st.sampled_from([Color.RED, Right.READ | Right.WRITE, Color, Point]),
)
HASHABLE = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
    ),
    max_leaves=6,
)
KEYS = st.recursive(
    HASHABLE | st.just(Decimal("sNaN7")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
    ),
    max_leaves=8,
)


def vectors():
    lines = VECTORS.read_text(encoding="utf-8").splitlines()
    return [line.split("  |  ") for line in lines if line and line[0] != "#"]


def nested(depth):
    value = ()
    for _ in range(depth - 1):
        value = (value,)
    return value


# --- the encoding ----------------------------------------------------------------


@pytest.mark.parametrize(("source", "expected"), vectors())
def test_a_key_is_written_as_it_always_was(source, expected):
    assert expected == encode_key(eval(source, NAMES)).hex()


@pytest.mark.parametrize(("source", "expected"), vectors())
def test_an_old_key_is_read_as_it_always_was(source, expected, meaning):
    if "State" in source or "http" in source:
        with pytest.raises(KeyRefused, match="registered"):
            decode_key(bytes.fromhex(expected))
    else:
        read = decode_key(bytes.fromhex(expected))

        assert meaning(eval(source, NAMES)) == meaning(read)


def test_every_letter_means_one_thing():
    # A letter given twice would leave one entry fewer in the table.
    assert len(keys._DECODERS) == 16 + len(SCALARS)


@pytest.mark.slow
@given(KEYS)
def test_a_key_comes_back_equal_in_type_and_content(known, meaning, value):
    assert meaning(value) == meaning(decode_key(encode_key(value)))


@pytest.mark.slow
@given(st.lists(KEYS, min_size=2, max_size=6))
def test_keys_share_an_encoding_exactly_if_nothing_tells_them_apart(meaning, values):
    for one, other in combinations(values, 2):
        alike = meaning(one) == meaning(other)

        assert alike == (encode_key(one) == encode_key(other))


ALIKE = [
    *(0, False, 0.0, -0.0, 0j, -0j, "0", b"0", Decimal(0), Decimal("0.0"), "", b""),
    *(1, True, 1.0, 1 + 0j, "1", b"1", Decimal(1), Decimal("1.0"), Right.READ),
    *((), [], {}, set(), frozenset(), None, "None", b"None", (None,), ((),), [[]]),
    *((1,), [1], {1: 1}, {1}, frozenset({1}), (1, 1), [(1,)], ([1],), "(1,)"),
    *(("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("a b", "c"), ("a", "b c")),
    *(((1, 2), 3), (1, (2, 3)), (1, 2, 3), (("1", 2), 3)),
    *(float("nan"), float("inf"), "nan", Decimal("NaN"), Decimal("sNaN")),
    *(date(2024, 1, 2), "2024-01-02", datetime(2024, 1, 2, tzinfo=UTC)),
    datetime.fromisoformat("2024-01-02"),
    datetime.fromisoformat("2024-01-02").replace(fold=1),
    datetime(2024, 1, 2, tzinfo=timezone(timedelta(0), "GMT")),
    datetime(2024, 1, 2, tzinfo=ZoneInfo("UTC")),
    datetime(2024, 1, 2, tzinfo=ZoneInfo("Etc/UTC")),
    *(time(0), time(0, fold=1), time(0, tzinfo=UTC), timedelta(0), UTC),
    *(UUID(int=0), str(UUID(int=0)), bytes(16)),
    *(Color.RED, Shade.RED, Color.GREEN, "RED", Right.WRITE),
    *(Point(1, 2), Pair(1, 2), Point(2, 1), {"x": 1, "y": 2}),
    *(User(1), Admin(1), User("1"), User((1,))),
]


def test_no_two_of_these_lookalikes_share_a_key():
    encoded = [encode_key(value) for value in ALIKE]
    pairs = combinations(range(len(ALIKE)), 2)

    assert not [
        (ALIKE[one], ALIKE[two]) for one, two in pairs if encoded[one] == encoded[two]
    ]


@pytest.mark.parametrize(
    ("library", "one", "other"),
    [
        ("dogpile.cache 1.5.0", ("a b", "c"), ("a", "b c")),
        ("dogpile.cache 1.5.0", (1,), ("1",)),
        ("cashews 7.6.0", (1, ""), ("1", None)),
        ("cashews 7.6.0", (True,), ("true",)),
        ("cashews 7.6.0", (None,), ("",)),
        ("cashews 7.6.0", ("p:b:q",), ("p", "q:b:")),
        ("functools, typed=False", (1,), (1.0,)),
        ("functools, typed=False", (1,), (True,)),
        ("Flask-Caching 2.5.1, one repr", (User(1),), (User(2),)),
        ("aiocache 0.12.3, str(self)", (User("a"),), (User("b"),)),
        ("dogpile.cache 1.5.0, self dropped", (User(1),), (Admin(1),)),
    ],
)
def test_arguments_that_another_library_confuses_have_two_keys(library, one, other):
    assert encode_key(one) != encode_key(other)


@given(st.dictionaries(st.text(max_size=3) | st.integers(), st.integers()))
def test_the_order_of_a_dict_is_no_part_of_it(value):
    assert encode_key(value) == encode_key(dict(reversed(value.items())))


@given(st.lists(st.integers() | st.text(max_size=3)), st.randoms(use_true_random=False))
def test_the_order_of_a_set_is_no_part_of_it(items, rng):
    shuffled = list(items)
    rng.shuffle(shuffled)

    assert encode_key(set(items)) == encode_key(set(shuffled))


def test_the_order_of_a_dataclass_is_no_part_of_it():
    earlier = dataclasses.make_dataclass("P", ["x", "y"], frozen=True)
    later = dataclasses.make_dataclass("P", ["y", "x"], frozen=True)
    earlier.__module__ = later.__module__ = "shapes"

    assert encode_key(earlier(1, 2)) == encode_key(later(2, 1))


def test_a_decimal_is_written_the_same_in_every_context():
    expected = encode_key(Decimal("1E+5"))
    with localcontext() as context:
        context.capitals = 0
        context.prec = 1

        assert expected == encode_key(Decimal("1E+5"))


def test_registering_a_class_moves_no_key(monkeypatch):
    monkeypatch.setattr(types, "_by_class", {})
    monkeypatch.setattr(types, "_by_name", {})
    expected = encode_key((Color.RED, Point(1, 2)))
    register(Color, name="color")
    register(Point, name="point")

    assert expected == encode_key((Color.RED, Point(1, 2)))
    assert (Color.RED, Point(1, 2)) == decode_key(expected)


def test_a_class_with_a_cache_key_is_what_that_returns_whatever_else_it_is():
    @dataclasses.dataclass(frozen=True)
    class Row:
        id: int
        blob: object

        def __cache_key__(self):
            return self.id

    Row.__qualname__ = "Row"

    assert encode_key(Row(1, object())) == encode_key(Row(1, object()))
    assert encode_key(Row(1, None)) != encode_key(Row(2, None))


def test_a_class_is_a_key_by_its_name_and_its_instances_are_others():
    assert b"Yhttp:HTTPMethod" == encode_key(http.HTTPMethod)
    assert b"Ybuiltins:int" == encode_key(int)
    assert encode_key(Point) != encode_key(Pair)
    assert encode_key(Point) != encode_key(key_name(Point))


def test_a_class_that_is_not_registered_is_not_looked_for():
    with pytest.raises(KeyRefused, match="no class of that name is registered"):
        decode_key(b"Ybuiltins:int")


def test_a_cache_key_is_a_method_an_attribute_or_a_property():
    class Row:
        __qualname__ = "Row"
        __cache_key__ = 7

    class Computed(Row):
        __qualname__ = "Row"

        @property
        def __cache_key__(self):
            return 7

    class Called(Row):
        __qualname__ = "Row"

        def __cache_key__(self):
            return 7

    assert 1 == len({encode_key(cls()) for cls in (Row, Computed, Called)})


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_every_process_writes_the_same(seed):
    program = (
        "from meshcache.codec.keys import encode_key\n"
        "words = 'alpha beta gamma delta epsilon'.split()\n"
        "print(encode_key((set(words), dict.fromkeys(words), frozenset(words))).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    expected = encode_key((set(words), dict.fromkeys(words), frozenset(words))).hex()

    assert expected == done.stdout.strip()


# --- what is refused -------------------------------------------------------------

Named = namedtuple("Named", "a b")  # noqa: PYI024 - a plain one is what is tested


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            object(),
            r"key is of type object, which has no stable encoding.*__cache_key__",
        ),
        (lambda: 0, r"key is of type function, .*address or hash"),
        (type("f.<locals>.Local", (), {}), r"that name may mean several classes"),
        (iter([1]), r"key is of type list_iterator, "),
        (bytearray(b"a"), r"key is of type bytearray, which can change\. Pass bytes"),
        (memoryview(b"a"), r"key is of type memoryview, .*Pass bytes"),
        (UserId(1), r"UserId, a subclass .* plain int .*__cache_key__"),
        (Named(1, 2), r"Named, a subclass .*Pass a plain tuple"),
        (OrderedDict(), r"OrderedDict, a subclass .*Pass a plain dict"),
        (Mutable(1), r"Mutable, a dataclass that can change.*frozen=True"),
        ([0, object()], r"key\[1\] is of type object"),
        ((0, [1, {"a": object()}]), r"key\[1\]\[1\]\['a'\] is of type object"),
        ({len: 1}, r"key\.keys\(\) is of type builtin_function"),
        ({object()}, r"key\[\.\.\.\] is of type object"),
        (
            {"k": {frozenset({object()}): 1}},
            r"key\['k'\]\.keys\(\)\[\.\.\.\] is of type ob",
        ),
        (Point(1, object()), r"key\.y is of type object"),
        (Pair(y=object(), x=1), r"key\.y is of type object"),
        ([User(object())], r"key\[0\]\.__cache_key__\(\) is of type object"),
    ],
)
def test_what_has_no_stable_encoding_is_refused_by_name(value, message):
    with pytest.raises(KeyRefused, match=message) as caught:
        encode_key(value)

    assert "ignore=" in str(caught.value)
    assert "key=" in str(caught.value)


def test_an_error_calls_the_argument_by_its_name():
    with pytest.raises(KeyRefused, match=r"^filters\['owner'\] is of type object"):
        encode_key({"owner": object()}, name="filters")


def test_a_zone_of_another_library_is_refused():
    class Pytz(type(UTC).__base__):
        pass

    with pytest.raises(KeyRefused, match=r"key\[0\] .*zone is a .*Pytz.*ZoneInfo"):
        encode_key((datetime(2024, 1, 1, tzinfo=Pytz()),))


def test_a_zone_without_a_name_is_refused():
    counts = pack(">6L", 0, 0, 0, 0, 1, 4)
    file = BytesIO(b"TZif" + bytes(16) + counts + bytes(6) + b"UTC\0")
    nameless = ZoneInfo.from_file(file)

    with pytest.raises(KeyRefused, match="no IANA name"):
        encode_key(nameless)


def test_a_class_whose_name_may_mean_several_is_refused():
    def row_of(table):
        @dataclasses.dataclass(frozen=True)
        class Row:
            id: int

        return Row

    with pytest.raises(KeyRefused, match="may mean several classes"):
        encode_key(row_of("users")(1))


def test_a_base_that_knows_nothing_of_the_rest_is_no_dataclass():
    class Deeper(Point):
        pass

    Deeper.__qualname__ = "Deeper"

    with pytest.raises(KeyRefused, match="Deeper"):
        encode_key(Deeper(1, 2))


def test_a_dataclass_without_one_of_its_values_is_refused():
    with pytest.raises(KeyRefused, match="no value in its field 'x'"):
        encode_key(object.__new__(Point))


def test_a_member_that_its_class_would_not_give_back_is_refused():
    stray = object.__new__(Color)
    stray._name_, stray._value_ = "BLUE", 3

    with pytest.raises(KeyRefused, match="BLUE"):
        encode_key(stray)


def test_nesting_is_bounded():
    deepest = nested(MAX_KEY_DEPTH)

    assert deepest == decode_key(encode_key(deepest))

    with pytest.raises(KeyRefused, match="nests over"):
        encode_key((deepest,))


def test_what_contains_itself_is_refused():
    circle, bag, user = [], {}, User(None)
    circle += [circle, circle]
    bag["self"] = bag
    user.token = user

    for value in (circle, bag, user):
        with pytest.raises(KeyRefused, match="contains itself"):
            encode_key(value)


def test_a_few_shared_lists_cannot_fill_the_memory():
    value = ["x"]
    for _ in range(MAX_KEY_DEPTH - 1):
        value = [value] * 100

    with pytest.raises(ValueTooLarge):
        encode_key(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * MAX_KEY_BYTES,
        16 ** (MAX_KEY_BYTES - 1),
        b"x" * MAX_KEY_BYTES,
        ["x"] * MAX_KEY_BYTES,
    ],
    ids=["str", "int", "bytes", "list"],
)
def test_length_is_bounded(value):
    with pytest.raises(ValueTooLarge, match="digest"):
        encode_key(value)


@pytest.mark.parametrize(
    "value",
    ["x" * (MAX_KEY_BYTES - 1), 16 ** (MAX_KEY_BYTES - 2), [b"x" * 65_529]],
    ids=["str", "int", "list"],
)
def test_the_longest_key_comes_back(value):
    assert value == decode_key(encode_key(value))


# --- decoding what nobody encoded ------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"?", b"n ", b"Tx", b"F\0"),
        *(b"i", b"i-0", b"i07", b"i+7", b"i 7", b"iFF", b"i0xf", b"i1_0", b"i\xb2"),
        *(b"f", b"f" + bytes(7), b"f" + bytes(9), b"s\xff", b"s\xc0\x80"),
        *(b"(\x02n", b"(\xff\0\0\0\x01n", b"(\xff\xff\xff\xff\xff", b"(\xff", b"(\0"),
        *(b"{\x01n", b"{\x02i2\x01n\x02i1\x01n", b"{\x02i1\x01n\x02i1\x01n"),
        *(b"<\x02i2\x02i1", b"<\x02i1\x02i1", b"<\x01T\x02i1", b"<\x01[", b"|\x01{"),
        *(b"D\0\0\0\0", b"D\x07\xe8\x01\x02x", b"M" + bytes(12), b"H" + bytes(7)),
        b"H" + bytes(7) + b"\x02",
        *(b"P" + bytes(11), b"P" + b"\x7f" * 12, b"P\0\0\0\0\0\x01\x51\x80\0\0\0\0"),
        *(b"O", b"O" + b"\x7f" * 8, b"O" + bytes(8) + b"name"),
        *(b"Z", b"Z../../etc/passwd", b"Z/etc/passwd", b"ZAmerica", b"ZNo/Such"),
        *(b"Zzone.tab", b"ZEurope/Berlin\n", b"Z\xff", b"Z" + b"a" * 300),
        *(b"Q", b"Qx", b"Q 1", b"Q1e5", b"Q1_0", b"Qnan", b"Q\xd9\xa1", b"Q0x1"),
        *(b"U", b"U" + bytes(15), b"C" + bytes(15), b"E", b"E\x02sa", b"@", b"K"),
        b"K\x02sa\x02i1",
        b"E\x02i1\x02i1",
        b"(\x01(" * 2,
    ],
)
def test_what_is_no_key_is_refused(data):
    with pytest.raises(KeyRefused):
        decode_key(data)


def test_what_a_cache_key_made_says_so_when_it_is_decoded():
    with pytest.raises(KeyRefused, match="__cache_key__"):
        decode_key(encode_key((User(1),)))


def test_a_class_that_is_not_registered_is_named_and_not_imported(monkeypatch):
    monkeypatch.setattr(types, "_by_name", {})
    data = encode_key(Color.RED).replace(b"Color", b"Other")

    with pytest.raises(KeyRefused, match="Other, and no enum"):
        decode_key(data)


def test_a_class_registered_as_something_else_is_refused(known):
    data = encode_key(Point(1, 2)).replace(b"Point", b"Color")

    with pytest.raises(KeyRefused, match="no dataclass of that name"):
        decode_key(data)


def test_deep_bytes_do_not_exhaust_the_stack():
    data = b""
    for _ in range(MAX_KEY_DEPTH * 4):
        data = encode_key(())[:1] + bytes([len(data)]) + data if data else b"("

    with pytest.raises(KeyRefused):
        decode_key(data)


def test_long_bytes_are_refused_unread():
    with pytest.raises(KeyRefused, match="over the limit"):
        decode_key(b"b" * (MAX_KEY_BYTES + 1))


@pytest.mark.parametrize("name", [b"../x", b"a.b", b"/x", b"a//b", b"", b"a" * 256])
def test_a_zone_name_that_is_none_opens_no_file_and_imports_no_module(
    name, monkeypatch
):
    looked_for = []
    monkeypatch.setattr(scalars, "ZoneInfo", looked_for.append)

    with pytest.raises(KeyRefused, match="not an IANA zone name"):
        decode_key(b"Z" + name)

    assert [] == looked_for


@given(st.binary(max_size=40))
@example(b"(\x02i1\x02i2")
def test_any_bytes_are_refused_or_the_encoding_of_what_they_decode_to(data):
    try:
        value = decode_key(data)
    except KeyRefused:
        return

    assert data == encode_key(value)


@pytest.mark.slow
@given(KEYS, st.data())
def test_a_damaged_key_is_refused_or_another_key(known, value, data):
    damaged = bytearray(encode_key(value))
    place = data.draw(st.integers(0, len(damaged) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        damaged[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[place]
    else:
        damaged.insert(place, data.draw(st.integers(0, 255)))
    try:
        read = decode_key(bytes(damaged))
    except KeyRefused:
        return

    assert bytes(damaged) == encode_key(read)
