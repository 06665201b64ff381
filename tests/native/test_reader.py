"""Reading against `store.view._make_get`, and finding against `Index.find`."""

from __future__ import annotations

import math
from random import Random

import pytest

from meshcache.clock import NEVER
from meshcache.codec.envelope import Envelope
from meshcache.hashing import PARTITIONS, key_hash
from meshcache.store.layout import Layout, Words
from meshcache.store.record import FIXED_BYTES

KEY = b"c\0key"
HASHED = key_hash(KEY)


# --- what is found ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5, 1002, 1003, 1004, 1005, 1100, 2700])
def test_an_entry_is_read_whatever_its_size(twins, size):
    twins.put(KEY, bytes(size), 7)

    assert (bytes(size), 7, NEVER) == twins.read(KEY)


@pytest.mark.parametrize(
    "hashed", [0, 1, 0xFFFF, 0x10000, 0x10001, 2**63, 2**64 - 1, 2**50, 2**50 - 1]
)
@pytest.mark.parametrize("sets", [1, 3, 7])
def test_a_key_is_looked_for_where_its_hash_says(make_twins, hashed, sets):
    twins = make_twins(Layout(sets, 1000, 3000))
    for way in (0, 1, 15):
        start = twins.place(KEY, hashed=hashed, way=way)

        assert b"value" == twins.read(KEY, hashed=hashed).value

        for other in (hashed ^ 1 << 16, hashed ^ 2, (hashed + sets) % 2**64):
            twins.read(KEY, hashed=other)
        twins.memory[start] ^= 0xFF

        assert twins.read(KEY, hashed=hashed) is None

        twins.parts.index.free(hashed % sets * 16 + way)


def test_of_two_with_one_fingerprint_each_is_found(twins):
    twins.place(b"one", b"1", offset=1, way=3, hashed=HASHED)
    twins.place(b"two", b"2", offset=100, way=5, hashed=HASHED)
    twins.place(b"longer", b"3", offset=200, way=15, hashed=HASHED)

    assert b"1" == twins.read(b"one", hashed=HASHED).value
    assert b"2" == twins.read(b"two", hashed=HASHED).value
    assert b"3" == twins.read(b"longer", hashed=HASHED).value
    assert twins.read(b"six", hashed=HASHED) is None


def test_a_ghost_before_or_after_the_living_is_passed_over(twins):
    for ways in ((3, 5), (5, 3)):
        for way, offset in zip(ways, (0, 9), strict=True):
            twins.place(KEY, offset=9)
            twins.parts.index.free(0)
            twins.parts.index.publish(way, HASHED, offset, 4)

        assert b"value" == twins.read(KEY).value
        assert twins.read(b"other", hashed=HASHED) is None

        twins.parts.index.free(3)
        twins.parts.index.free(5)


def test_only_a_ghost_is_no_entry(twins):
    twins.parts.index.publish(4, HASHED, 0, 9)

    assert twins.read(KEY) is None
    assert (4, 0) == twins.compiled.find(KEY, HASHED)


def test_of_two_ghosts_both_take_the_same(twins):
    for way in (2, 9, 11):
        twins.parts.index.publish(way, HASHED, 0, 9)

        assert twins.read(KEY) is None

    assert (11, 0) == twins.compiled.find(KEY, HASHED)


def test_what_lies_before_the_first_unit_is_no_entry(twins):
    twins.place(KEY, offset=0)

    assert twins.read(KEY) is None


def test_a_read_raises_the_use_up_to_its_limit(twins):
    twins.place(KEY, way=6)
    for use in range(256):
        twins.parts.index.uses[6] = use
        twins.read(KEY)

        assert use + (use < 4) == twins.parts.index.uses[6]


def test_a_read_writes_nothing_but_the_use(twins):
    twins.place(KEY, way=6)
    before = bytearray(twins.memory)
    twins.compiled(KEY, HASHED, 0.0)
    before[twins.layout.uses_at + 6] += 1

    assert before == twins.memory[:]


def test_what_is_not_found_raises_no_use(twins):
    twins.place(KEY, expires=5.0)
    before = twins.memory[:]
    twins.compiled(KEY, HASHED, 5.0)
    twins.compiled(b"other", HASHED, 0.0)
    twins.arena.clear(b"c", 5)
    twins.compiled(KEY, HASHED, 0.0)

    assert before[twins.layout.uses_at] == twins.memory[twins.layout.uses_at]


@pytest.mark.parametrize("expires", [-1.0, 0.0, 5.0, NEVER, math.nan, -NEVER])
@pytest.mark.parametrize("now", [-2.0, 0.0, 4.999, 5.0, 5.001, math.nan, NEVER, 5, 6])
def test_an_entry_lives_until_it_expires(twins, expires, now):
    twins.place(KEY, expires=expires)

    assert (twins.read(KEY, now) is not None) is (expires > now)


def test_a_sealed_partition_has_no_entries_and_a_new_tenure_none_of_the_old(twins):
    partition = HASHED >> 50
    twins.place(KEY)
    for tenure in (0, 2, 63, 0x81, 0xC1, 0x41, 0xFF):
        twins.parts.tenures[partition] = tenure

        assert twins.read(KEY) is None

    twins.parts.tenures[partition] = 1
    twins.parts.tenures[partition - 1] = twins.parts.tenures[partition + 1] = 0x81

    assert twins.read(KEY) is not None


@pytest.mark.parametrize("tenure", [0, 1, 63, 0x81, 0xFF])
@pytest.mark.parametrize("hashed", [2**50 - 1, 2**64 - 1])
def test_the_first_and_the_last_partition_are_read_like_others(twins, tenure, hashed):
    twins.parts.tenures[0] = twins.parts.tenures[PARTITIONS - 1] = tenure
    twins.place(KEY, hashed=hashed)

    assert b"value" == twins.read(KEY, hashed=hashed).value


@pytest.mark.parametrize("at", range(1, 8))
def test_what_has_another_meta_is_no_entry_of_the_key(twins, at):
    start = twins.place(KEY)
    twins.memory[start + at] ^= 1

    assert twins.read(KEY) is None


# --- what is void ----------------------------------------------------------------

TAGGED = Envelope(b"body", tags=(3 | 4 << 32, 5 | 6 << 32)).wrap()
OTHER = Envelope(b"body", tags=(7 | 8 << 32,)).wrap()


@pytest.mark.parametrize("value", [b"", b"value", TAGGED, OTHER, b"\xc1", b"\xc0"])
@pytest.mark.parametrize(
    "marks",
    [
        {"cache": 10},
        {"part": 10},
        {"other": 10},
        {"tag": 10},
        {"tag": 5, "other": 10},
        {"tag": 10, "other": 5},
        {"cache": 5, "tag": 10},
        {"cache": 10, "tag": 5},
        {"cache": 2**64 - 1},
        {"tag": 2**64 - 1},
    ],
    ids=str,
)
def test_what_was_cleared_or_invalidated_since_is_dead(twins, marks, value):
    for version in (1, 4, 5, 6, 9, 10, 11, 2**63, 2**64 - 2, 2**64 - 1):
        twins.place(b"c|part\0key", value, version=version, offset=version % 9 * 20 + 1)
        twins.read(b"c|part\0key")
    for kind, version in marks.items():
        match kind:
            case "tag":
                twins.arena.mark_tags([5 | 6 << 32], version)
            case _:
                name = {"cache": b"c", "part": b"c|part", "other": b"d"}[kind]
                twins.arena.clear(name, version)
    tag = marks.get("tag", 0) if value == TAGGED else 0
    bound = max(marks.get("cache", 0), marks.get("part", 0), tag)
    for version in (1, 4, 5, 6, 9, 10, 11, 2**63, 2**64 - 2, 2**64 - 1):
        twins.place(b"c|part\0key", value, version=version, offset=version % 9 * 20 + 1)
        alive = twins.read(b"c|part\0key") is not None

        # The greatest of all versions is above every mark.
        assert alive is (version > bound or version == 2**64 - 1)


@pytest.mark.parametrize(
    ("marks", "value", "expected"),
    [
        ((0, 0), TAGGED, []),
        ((5, 5), TAGGED, []),
        ((6, 0), b"value", []),
        ((6, 0), b"", []),
        ((6, 0), b"\xc0", []),
        ((6, 5), TAGGED, ["tags"]),
        ((6, 6), b"value", ["key"]),
        ((6, 6), b"", ["key"]),
        ((6, 6), TAGGED, ["key", "tags"]),
        ((5, 6), TAGGED, []),
    ],
)
def test_python_is_asked_only_for_what_may_be_void(
    twins, asked, marks, value, expected
):
    it = asked()
    twins.place(KEY, value, version=5)
    twins.parts.header[Words.VOID], twins.parts.header[Words.CLEARED] = marks

    assert value == it.get(KEY, HASHED, 0.0).value
    assert expected == [question[0] for question in it.questions]
    assert all(5 == question[1] for question in it.questions)
    assert all(question[2] in (KEY, value) for question in it.questions)


def test_an_empty_value_has_no_first_byte(twins, asked):
    it = asked(envelope=0)
    twins.place(KEY, b"", version=5)
    twins.parts.header[Words.VOID] = 6

    assert b"" == it.get(KEY, HASHED, 0.0).value
    assert [] == it.questions


@pytest.mark.parametrize("answer", [True, 1, [0], "yes"])
def test_what_python_says_is_void_is_not_found(twins, asked, answer):
    it = asked(answer)
    twins.place(KEY, TAGGED, version=5)
    twins.parts.header[Words.VOID] = twins.parts.header[Words.CLEARED] = 6

    assert it.get(KEY, HASHED, 0.0) is None
    assert ["key"] == [question[0] for question in it.questions]

    twins.parts.header[Words.CLEARED] = 0

    assert it.get(KEY, HASHED, 0.0) is None
    assert ["key", "tags"] == [question[0] for question in it.questions]


@pytest.mark.parametrize("cleared", [0, 6])
@pytest.mark.parametrize("size", [0, 3000])
def test_an_error_of_what_is_asked_passes_as_it_is(twins, asked, cleared, size):
    error = RuntimeError("no answer")
    twins.place(KEY, TAGGED + bytes(size), version=5)
    twins.parts.header[Words.VOID] = 6
    twins.parts.header[Words.CLEARED] = cleared
    with pytest.raises(RuntimeError) as caught:
        asked(error).get(KEY, HASHED, 0.0)

    assert error is caught.value
    assert 1 == twins.parts.index.uses[0]


# --- what is torn or damaged -----------------------------------------------------


def test_a_wrong_checksum_is_one_tear_for_each_read(twins):
    start = twins.place(KEY, bytes(2000))
    twins.memory[start + FIXED_BYTES + 1000] ^= 1
    for reads in (1, 2, 3):
        assert twins.read(KEY) is None
        assert [reads, reads] == twins.torn


def test_an_error_of_torn_passes_as_it_is(twins, asked):
    start = twins.place(KEY)
    twins.memory[start + 8] ^= 1
    it = asked(RuntimeError("torn"))
    with pytest.raises(RuntimeError, match="torn"):
        it.get(KEY, HASHED, 0.0)

    assert [("torn",)] == it.questions


@pytest.mark.slow
def test_every_damage_of_a_byte_is_a_miss_for_both(twins):
    keys = [b"a\0", b"a\0bc", b"b\0d", b"", b"a\0empty", b"t\0tagged"]
    values = [b"first", b"x" * 40, bytes(33), b"of none", b"", TAGGED]
    stored = dict(zip(keys, values, strict=True))
    for version, (key, value) in enumerate(stored.items(), 1):
        twins.put(key, value, version)
    twins.arena.clear(b"z", 3)
    twins.arena.mark_tags([9 | 10 << 32], 20)
    twins.arena.remove(b"b\0d", key_hash(b"b\0d"), 0.0)
    layout = twins.layout
    places = [
        *range(72, 88),
        *range(112, 144),
        *(layout.tenures_at + (key_hash(key) >> 50) for key in keys),
        *range(layout.offsets_at, layout.tags_at),
        *range(layout.logs_at, layout.logs_at + 320),
    ]
    for place in places:
        before = twins.memory[place]
        for flip in (*(1 << bit for bit in range(8)), 0xFF):
            twins.memory[place] = before ^ flip
            for key in keys:
                found = twins.read(key)

                assert found is None or stored[key] == found.value
        twins.memory[place] = before


def wreck(rng, memory, start, end):
    """Change something from *start* to *end*: a bit, a word, or a whole range."""
    at = rng.randrange(start, end)
    size = min(rng.choice([1, 2, 4, 8, 300]), end - at)
    match rng.randrange(4):
        case 0:
            memory[at] ^= 1 << rng.randrange(8)
        case 1:
            memory[at : at + size] = rng.randbytes(size)
        case 2:
            memory[at : at + size] = rng.choice([b"\0", b"\xff"]) * size
        case 3:
            other = rng.randrange(start, end - size + 1)
            memory[at : at + size] = memory[other : other + size]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["anywhere", "header", "index", "logs"])
@pytest.mark.parametrize("seed", range(4))
def test_any_damage_is_a_miss_for_both(make_twins, part, seed):
    rng, twins = Random(seed), make_twins(Layout(3, 1000, 6000))
    keys = [b"c%d\0%d" % (number % 3, number) for number in range(40)]
    stored = {}
    for version, key in enumerate(keys, 1):
        body = bytes(rng.randrange(200)) + b"%d" % version
        value = stored[key] = Envelope(body, tags=(version,)[: version % 2]).wrap()
        twins.put(key, value, version)
    twins.arena.clear(b"c1", 10)
    twins.arena.mark_tags([31], 31)
    layout = twins.layout
    start, end = {
        "anywhere": (0, layout.total),
        "header": (72, 144),
        "index": (layout.offsets_at, layout.tags_at),
        "logs": (layout.logs_at, layout.total),
    }[part]
    whole = twins.memory[:]
    for _ in range(60):
        twins.memory[:] = whole
        for _ in range(rng.choice([1, 3, 30])):
            wreck(rng, twins.memory, start, end)
        for key in keys:
            one, other = twins.both(key)

            # Where an offset leads out of the memory, Python looks no further.
            assert one == other or one[0] is None
            assert other[0] is None or stored[key] == other[0].value
            assert twins.parts.index.find(key, key_hash(key)) == twins.compiled.find(
                key, key_hash(key)
            )


@pytest.mark.parametrize("back", range(-2, 6))
def test_an_offset_near_or_behind_the_end_is_a_miss(twins, back):
    units = (twins.layout.total - twins.layout.units_at) // 8
    twins.place(KEY)
    for offset in (units - back, 2**32 - 1 - abs(back), 2**31):
        twins.parts.index.offsets[0] = offset

        assert twins.read(KEY) is None
        assert twins.read(b"", hashed=HASHED) is None

    assert [0, 0] == twins.torn


AT_THE_END = [
    (key, size, beyond)
    for key in (b"", b"fo", b"four", b"x" * 12, b"x" * 300)
    for size in (0, 1, 2, 5, 12, 13, 20, 21)
    for beyond in (0, 1, 2, 4)
    # Entries begin where units do.
    if (FIXED_BYTES + len(key) + size - beyond) % 8 == 0 and size >= beyond
]


@pytest.mark.parametrize(("key", "size", "beyond"), AT_THE_END)
def test_an_entry_may_end_where_the_memory_does_and_not_behind(
    twins, key, size, beyond
):
    # Behind the end the page goes on with zeros: with those its checksum is right.
    length = FIXED_BYTES + len(key) + size - beyond
    offset = (twins.layout.total - twins.layout.units_at - length) // 8
    twins.place(key, bytes(size), offset=offset, hashed=HASHED)
    found = twins.read(key, hashed=HASHED)

    assert (found is not None) is (beyond == 0)
    assert [beyond > 0] * 2 == twins.torn


@pytest.mark.parametrize("length", [5, 13, 21, 45])
def test_a_key_behind_the_end_of_the_memory_is_another(twins, length):
    key = b"k" * (length - 1) + b"\0"
    total = twins.layout.total - twins.layout.units_at
    offset = (total - FIXED_BYTES - length + 1) // 8
    twins.place(key, b"", offset=offset, hashed=HASHED)

    assert twins.read(key, hashed=HASHED) is None
    assert [0, 0] == twins.torn
