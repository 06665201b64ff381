from __future__ import annotations

import dataclasses
import enum
import json
import pickle
import sys
import threading
from collections import OrderedDict, defaultdict, namedtuple
from copy import deepcopy
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, localcontext
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshcache.codec import types
from meshcache.codec.types import NATIVE, register
from meshcache.codec.values import BytesCodec, Codec, JsonCodec, MsgpackCodec, codec
from meshcache.errors import ConfigError, SerializationError

VECTORS = Path(__file__).with_name("vectors") / "values.txt"
MSGPACK = MsgpackCodec()
JSON = JsonCodec()

inf, nan = float("inf"), float("nan")


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: object
    y: object = None


@dataclasses.dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)


class Money(NamedTuple):
    amount: object
    currency: object


class Word(str):
    __slots__ = ()


class Session:
    def __init__(self, token):
        self.token = token

    def __eq__(self, other):
        return type(other) is Session and self.token == other.token

    __hash__ = None


Named = namedtuple("Named", "a b")  # noqa: PYI024 - a plain one is what is tested


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(types, "_by_class", {})
        patch.setattr(types, "_by_name", {})
        register(Color, name="color")
        register(Level, name="level")
        register(Right, name="right")
        register(Point, name="point")
        register(Tree, name="tree")
        register(Money, name="money", encode=tuple, decode=lambda pair: Money(*pair))
        register(Session, name="session", encode=lambda one: one.token, decode=Session)
        yield


@pytest.fixture
def registry(monkeypatch):
    """The register may be written to; what was there comes back."""
    monkeypatch.setattr(types, "_by_class", dict(types._by_class))
    monkeypatch.setattr(types, "_by_name", dict(types._by_name))


ZONES = st.one_of(
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")]),
    st.builds(
        timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text()
    ),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
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
    st.sampled_from([Color.RED, Level.LOW, Right.READ | Right.WRITE]),
)
HASHABLE = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Money, inner, inner),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE | st.just(Decimal("-sNaN7")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Session, inner),
    ),
    max_leaves=8,
)


def vectors():
    lines = VECTORS.read_text(encoding="utf-8").splitlines()
    return [line.split("  |  ") for line in lines if line and line[0] != "#"]


# --- msgpack: there and back -------------------------------------------------------


@pytest.mark.slow
@given(VALUES)
@example([-0.0, 0.0, nan, inf, -inf, complex(-0.0, nan)])
@example({"\ud800": ["\udfff\ud83d", "\U0001f600"]})
@example({1: 2, None: 3, (1, (2,)): 4, frozenset({b"x"}): 5, 2.5: 6, 2**80: 7})
@example([2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 2**5000, -(2**5000)])
@example([(), [], {}, set(), frozenset(), "", b"", ((),), [[]], ([],)])
@example(Tree("root", [Tree("leaf"), Tree("twig", [Tree("bud")])]))
@example(datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")))
@example([Decimal("1.00"), Decimal("1E+9"), Decimal("-0"), Decimal("-Infinity")])
def test_a_value_comes_back_equal_in_type_and_content(fingerprint, value):
    assert fingerprint(value) == fingerprint(MSGPACK.decode(MSGPACK.encode(value)))


def test_every_native_type_is_among_those_tested():
    samples = [None, True, 1, 1.0, 1j, "", b"", [], (), {}, set(), frozenset()]
    samples += [
        date.min,
        datetime(1, 1, 1, tzinfo=UTC),
        time.min,
        timedelta.min,
        UTC,
        ZoneInfo("UTC"),
    ]
    samples += [Decimal(1), UUID(int=1)]

    assert set(map(type, samples)) == NATIVE
    assert samples == MSGPACK.decode(MSGPACK.encode(samples))


def test_a_dict_keeps_its_order():
    value = {"b": 1, "a": 2, 3: {"z": 1, "y": 2}}
    read = MSGPACK.decode(MSGPACK.encode(value))

    assert list(value) == list(read)
    assert list(value[3]) == list(read[3])


def test_what_comes_back_shares_nothing():
    value = {"tags": ["a"]}
    data = MSGPACK.encode(value)
    MSGPACK.decode(data)["tags"].append("b")
    value["tags"].append("c")

    assert {"tags": ["a"]} == dict(MSGPACK.decode(data))


def test_plain_values_are_plain_msgpack():
    value = {"id": 7, "name": "Ann", "tags": ["a", "b"], "raw": b"\xc4", "pi": 3.14}

    assert msgpack.packb(value) == MSGPACK.encode(value)


def test_a_decimal_comes_back_whatever_the_context_does():
    value = Decimal("123456789.10E+5")
    with localcontext() as context:
        context.prec = 2
        context.capitals = 0
        context.clear_traps()

        assert value.as_tuple() == MSGPACK.decode(MSGPACK.encode(value)).as_tuple()


def test_other_libraries_change_what_this_codec_does_not():
    value = [(1, 2), {3: 4}, {5}]

    # aiocache and fastapi-cache2 store JSON; plain msgpack is no better.
    assert [[1, 2], {"3": 4}] == json.loads(json.dumps(value[:2]))
    assert [[1, 2]] == msgpack.unpackb(msgpack.packb(value[:1]))
    assert value == MSGPACK.decode(MSGPACK.encode(value))


@pytest.mark.parametrize(("source", "expected"), vectors())
def test_a_value_is_written_as_it_always_was(source, expected):
    assert expected == MSGPACK.encode(eval(source)).hex()


@pytest.mark.parametrize(("source", "expected"), vectors())
def test_an_old_value_is_read_as_it_always_was(source, expected, fingerprint):
    read = MSGPACK.decode(bytes.fromhex(expected))

    assert fingerprint(eval(source)) == fingerprint(read)


# --- msgpack: what is refused ------------------------------------------------------


class Pytz(tzinfo):
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            object(),
            r"value is of type object, of which the codec knows nothing.*register",
        ),
        (
            bytearray(b"a"),
            r"value is of type bytearray, which .* as bytes\. Convert it to b",
        ),
        (
            memoryview(b"a"),
            r"value is of type memoryview, which would come back as bytes",
        ),
        (msgpack.ExtType(5, b"a"), r"ExtType"),
        (msgpack.ExtType(ord("("), b""), r"ExtType"),
        (msgpack.Timestamp(1, 2), r"Timestamp, of which the codec knows nothing"),
        (
            OrderedDict(),
            r"value is of type collections\.OrderedDict, .*a plain dict\. Conv",
        ),
        (defaultdict(list), r"defaultdict, which would come back as a plain dict"),
        (Named(1, 2), r"Named, .*plain tuple\. Convert it to tuple, or register"),
        (Word("a"), r"Word, which would come back as a plain str"),
        (json.JSONDecodeError, r"value is of type type, "),
        ([1, (2, {"a": Word("x")})], r"value\[1\]\[1\]\['a'\] is of type .*Word"),
        ([1, (2, {"a": bytearray()})], r"value\[1\]\[1\]\['a'\] is of type bytearray"),
        ({Word("k"): 1}, r"value\.keys\(\) is of type .*Word"),
        ({"k": {memoryview(b"a")}}, r"value\['k'\]\[\.\.\.\] is of type memoryview"),
        (Point(1, {"z": Word("x")}), r"value\.y\['z'\] is of type .*Word"),
        (Point(1, [bytearray()]), r"value\.y\[0\] is of type bytearray"),
        (Session([bytearray()]), r"inside the value is of type bytearray"),
        (Money(1, object()), r"inside the value is of type object"),
        ([time(0, tzinfo=Pytz())], r"value\[0\] does not come back.*Pytz.*ZoneInfo"),
        ({2**20_000: Word("x")}, r"value\[<int>\] is of type .*Word"),
    ],
)
def test_what_would_not_come_back_is_refused_by_name(value, message):
    with pytest.raises(SerializationError, match=message):
        MSGPACK.encode(value)


class Unknown(enum.IntEnum):
    ONE = 1


def test_an_enum_that_is_not_registered_is_not_an_int():
    with pytest.raises(SerializationError, match=r"Unknown.*plain int.*register\(cls"):
        MSGPACK.encode({"n": Unknown.ONE})


def test_a_subclass_of_a_registered_class_is_refused():
    class Deeper(Tree):
        pass

    with pytest.raises(SerializationError, match="Deeper"):
        MSGPACK.encode(Deeper("a"))


def test_an_attribute_that_would_be_lost_is_refused():
    tree = Tree("a")
    tree.parent = None

    with pytest.raises(SerializationError, match=r"value\[0\] does.*'parent' is no fi"):
        MSGPACK.encode([tree])


def test_a_lookalike_may_be_registered_like_any_class(registry, fingerprint):
    register(bytearray, name="bytearray", encode=bytes, decode=bytearray)
    value = [bytearray(b"a"), {"k": (b"b", bytearray(b"c"))}, Point(bytearray(b"d"))]
    read = MSGPACK.decode(MSGPACK.encode(value))

    assert fingerprint(value) == fingerprint(read)
    assert bytearray(b"e") == MSGPACK.decode(MSGPACK.encode(bytearray(b"e")))


def test_an_application_error_in_encode_is_chained(registry):
    error = RuntimeError("no database")

    def fail(_):
        raise error

    register(Word, name="word", encode=fail, decode=Word)

    with pytest.raises(SerializationError, match="no database") as caught:
        MSGPACK.encode([Word("a")])

    assert error is caught.value.__cause__


def test_what_contains_itself_is_refused():
    circle, bag, tree, session = [], {}, Tree("a"), Session([])
    circle += [circle, circle]
    bag["self"] = (bag,)
    tree.children.append(tree)
    session.token.append(session.token)

    for value in (circle, bag, tree, session):
        with pytest.raises(SerializationError, match="contains itself"):
            MSGPACK.encode(value)


def test_the_search_for_the_culprit_ends_where_values_contain_themselves():
    circle = []
    circle += [circle, circle]

    with pytest.raises(SerializationError, match="Something inside the value"):
        MSGPACK.encode([Money(1, object()), circle])


def test_a_type_that_encodes_to_itself_is_refused(registry):
    register(Word, name="word", encode=lambda word: word, decode=Word)

    with pytest.raises(SerializationError, match="contains itself"):
        MSGPACK.encode(Word("a"))


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}])
def test_nesting_is_bounded(wrap):
    def nested(depth):
        value = b"\xc4"
        for _ in range(depth):
            value = wrap(value)
        return value

    assert nested(500) == MSGPACK.decode(MSGPACK.encode(nested(500)))

    with pytest.raises(SerializationError, match="nests too deeply"):
        MSGPACK.encode(nested(2000))


def test_a_refused_value_leaves_no_trace_in_the_next():
    mine = MsgpackCodec()
    for _ in range(3):
        with pytest.raises(SerializationError):
            mine.encode(["begun", object()])

        assert [1] == mine.decode(mine.encode([1]))


def test_a_packer_that_grew_is_let_go():
    mine = MsgpackCodec()
    mine.encode("x" * 100_000)

    assert [] == mine._idle

    mine.encode("x")

    assert 1 == len(mine._idle)


def test_encoding_within_encoding_does_not_mix(registry):
    register(Word, name="word", encode=lambda w: MSGPACK.encode([str(w)]), decode=repr)
    inner = MSGPACK.encode(["a"])

    assert MSGPACK.encode([Word("a"), 1]).count(inner) == 1


@pytest.mark.slow
def test_threads_share_a_codec(fingerprint):
    mine = MsgpackCodec()
    wrong = []

    def work(number):
        value = [(number, i, Point(number, "x" * i)) for i in range(20)]
        for _ in range(100):
            read = mine.decode(mine.encode(value))
            wrong.extend([] if read == value else [number])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert [] == wrong


# --- msgpack: decoding what nobody encoded -------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x92\x01",
        b"\xa2\xff\xff",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xd4\x05\x00",
        b"\xd4\x7f\x00",
        b"\xc7\x01I",
        b"\xc7\x00(",
        b"\x92\x01\xc7\x00(",
        b"\x92\xc7\x00(\xc7\x00(",
        b"\x81\xc7\x00(\x01",
        b"\x82\x01\xc7\x00(\x01\x02",
        b"\x93\xc7\x00<\x01\x01",
        b"\x93\xc7\x00<\x01\xc3",
        b"\x92\xc7\x00<\x90",
        b"\x91\xc7\x00@",
        b"\x93\xc7\x00@\xa2no\x01",
        b"\x93\xc7\x00@\x01\x01",
        b"\x93\xc7\x00@\xa5color\xa4BLUE",
        b"\x93\xc7\x00@\xa5point\x81\xa1x\x01",
        b"\x93\xc7\x00@\xa5money\x01",
        b"\xc7\x05Dzzzzz",
        b"\xd6D\x00\x00\x00\x00",
        b"\xc7\x0bZEurope/Nope",
        b"\xc7\x10Z../../etc/passwd"[:19],
        b"\xd5Q--",
        b"\x91" * 3000,
        b"\x92\xc7\x00(" * 3000,
        b"\xdc\xff\xff" * 3000,
    ],
)
def test_what_is_no_value_is_refused(data):
    with pytest.raises(SerializationError):
        MSGPACK.decode(data)


def test_an_error_quotes_only_the_beginning_of_the_bytes():
    with pytest.raises(SerializationError) as caught:
        MSGPACK.decode(b"\x01" * 100_000)

    assert len(str(caught.value)) < 500


def test_a_class_that_is_not_registered_here_is_named_and_not_imported():
    data = MSGPACK.encode(Color.RED).replace(b"color", b"sys:x")

    with pytest.raises(SerializationError, match="holds a sys:x, and no class"):
        MSGPACK.decode(data)


def test_a_foreign_timestamp_is_at_least_a_value():
    assert 1.5 == MSGPACK.decode(msgpack.packb(msgpack.Timestamp(1, 500_000_000)))


def check_any(data, fingerprint):
    try:
        value = MSGPACK.decode(data)
    except SerializationError:
        return
    again = MSGPACK.decode(MSGPACK.encode(value))

    assert fingerprint(value) == fingerprint(again)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_a_value_that_can_be_encoded(fingerprint, data):
    check_any(data, fingerprint)


@pytest.mark.slow
@given(VALUES, st.data())
def test_a_damaged_value_is_refused_or_another_value(fingerprint, value, data):
    damaged = bytearray(MSGPACK.encode(value))
    place = data.draw(st.integers(0, len(damaged) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        damaged[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[place]
    else:
        damaged.insert(place, data.draw(st.integers(0, 255)))

    check_any(bytes(damaged), fingerprint)


# --- bytes and json ------------------------------------------------------------------


@given(st.binary())
def test_bytes_are_stored_as_they_are(value):
    assert value is BytesCodec().decode(BytesCodec().encode(value))


@pytest.mark.parametrize("value", [None, "a", 1, bytearray(b"a"), memoryview(b"a")])
def test_the_bytes_codec_takes_bytes_only(value):
    with pytest.raises(SerializationError, match="msgpack"):
        BytesCodec().encode(value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON_VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), TEXT),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)


@given(JSON_VALUES)
@example([-0.0, 1e-320, 1.7976931348623157e308, 10**400])
def test_json_values_come_back_equal_in_type_and_content(fingerprint, value):
    assert fingerprint(value) == fingerprint(JSON.decode(JSON.encode(value)))


def test_json_is_compact_and_readable_by_anyone():
    assert b'{"name":"Zo\xc3\xab","n":[1,2.5,null]}' == JSON.encode(
        {"name": "Zoë", "n": [1, 2.5, None]}
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2), r"value is of type tuple, which JSON would change.*msgpack"),
        ({"a": [(1,)]}, r"value\['a'\]\[0\] is of type tuple"),
        ({1: 2}, r"value\.keys\(\) is a key that JSON would make a str"),
        ({None: 2}, "would make a str"),
        ({Word("a"): 2}, "would make a str"),
        (nan, "JSON cannot hold"),
        ([inf], "JSON cannot hold"),
        (b"a", "bytes"),
        ({1, 2}, "set"),
        (Word("a"), "Word"),
        (Level.LOW, "Level"),
        (OrderedDict(), "OrderedDict"),
        (datetime(2024, 1, 1, tzinfo=UTC), "datetime"),
        ("\ud83d\ude00", "surrogates"),
        ([10**5000], "digits"),
    ],
)
def test_what_json_would_change_is_refused(value, message):
    with pytest.raises(SerializationError, match=message):
        JSON.encode(value)


def test_json_refuses_what_contains_itself():
    circle = []
    circle.append(circle)

    with pytest.raises(SerializationError, match="Circular"):
        JSON.encode(circle)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[1,]", b"NaN", b"[-Infinity]", b"1e999", b"\xff", b"'a'"),
        *(b"[" * 100_000, b"1" * 5000, "null".encode("utf-16")),
    ],
    ids=map(str, range(11)),
)
def test_what_is_no_json_is_refused(data):
    with pytest.raises(SerializationError, match="not json"):
        JSON.decode(data)


# --- by name -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["msgpack", "json", "bytes"])
def test_a_codec_is_found_by_its_name(name):
    assert name == codec(name).name
    assert isinstance(codec(name), Codec)


def test_a_codec_of_the_applications_own_is_taken_as_it_is():
    class Upper:
        name = "upper"

        def encode(self, value):
            return value.upper().encode()

        def decode(self, data):
            return data.decode()

    mine = Upper()

    assert mine is codec(mine)

    with pytest.raises(ConfigError, match="is no codec"):
        codec(Upper)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ConfigError, match="'msgpack', 'json', 'bytes'"):
        codec("yaml")


def test_what_is_no_codec_is_told_what_one_is():
    with pytest.raises(ConfigError, match="encode"):
        codec(42)


@pytest.mark.parametrize("name", ["msgpack", "json", "bytes"])
def test_a_codec_that_was_used_can_be_copied(name):
    used = codec(name)
    used.decode(used.encode(b"" if name == "bytes" else []))

    assert type(used) is type(deepcopy(used)) is type(pickle.loads(pickle.dumps(used)))


def test_pickle_is_told_why_it_is_missing():
    with pytest.raises(ConfigError, match=r"run code.*register.*Codec object"):
        codec("pickle")
