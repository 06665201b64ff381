"""The reader as an object: what it takes and refuses, and that it leaves nothing."""

from __future__ import annotations

import gc
import mmap
import sys
import weakref

import pytest

from meshcache.codec.envelope import Envelope
from meshcache.hashing import key_hash
from meshcache.store.layout import Layout, Words
from meshcache.store.record import Entry
from meshcache.store.view import Reader

KEY = b"c\0key"
HASHED = key_hash(KEY)
TAGGED = Envelope(b"body", tags=(3 | 4 << 32,)).wrap()


# --- arguments -------------------------------------------------------------------


@pytest.mark.parametrize("length", [65_534, 65_535])
def test_the_longest_keys_are_read(make_twins, length):
    twins = make_twins(Layout(1, 1000, 200_000))
    key = b"k" * length

    assert twins.put(key, b"value")
    assert b"value" == twins.read(key).value
    assert twins.read(key[:-1] + b"l") is None


@pytest.mark.parametrize("length", [65_536, 65_537, 131_072])
def test_a_key_that_is_too_long_is_not_taken_for_a_short_one(make_twins, length):
    twins = make_twins(Layout(1, 1000, 400_000))
    key = b"k" * length
    short = key[: length - 65_536]
    twins.place(short, key + b"value", hashed=HASHED)

    assert twins.read(key, hashed=HASHED) is None
    assert [0, 0] == twins.torn


def test_an_empty_key_is_a_key(twins):
    twins.put(b"", b"of the empty")

    assert b"of the empty" == twins.read(b"").value
    assert twins.read(b"\0") is None


@pytest.mark.parametrize(
    "args",
    [
        *((), (KEY,), (KEY, HASHED), (KEY, HASHED, 0.0, 0.0), ("key", HASHED, 0.0)),
        *((bytearray(KEY), HASHED, 0.0), (memoryview(KEY), HASHED, 0.0)),
        *((None, HASHED, 0.0), (KEY, 1.5, 0.0), (KEY, "1", 0.0), (KEY, None, 0.0)),
        *((KEY, HASHED, "0"), (KEY, HASHED, None), (KEY, HASHED, b"0")),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(twins, args):
    with pytest.raises(TypeError):
        twins.compiled(*args)
    with pytest.raises(TypeError):
        twins.compiled.find(*(args[:1] if len(args) == 2 else args))


@pytest.mark.parametrize("hashed", [-1, 2**64, 2**70])
def test_a_hash_that_is_none_is_refused(twins, hashed):
    with pytest.raises(OverflowError):
        twins.compiled(KEY, hashed, 0.0)
    with pytest.raises(OverflowError):
        twins.compiled.find(KEY, hashed)


def test_arguments_by_name_are_refused(twins):
    with pytest.raises(TypeError):
        twins.compiled(KEY, HASHED, now=0.0)
    with pytest.raises(TypeError):
        twins.compiled(KEY, HASHED, 0.0, more=0.0)
    with pytest.raises(TypeError):
        twins.compiled.find(KEY, hashed=HASHED)


class Time:
    def __float__(self):
        raise RuntimeError("no time")


def test_an_error_of_an_argument_passes_as_it_is(twins):
    with pytest.raises(RuntimeError, match="no time"):
        twins.compiled(KEY, HASHED, Time())

    twins.place(KEY, expires=5.0)

    assert twins.compiled(KEY, HASHED, -1.0) is not None
    assert twins.compiled(KEY, 2**64 - 1, 0.0) is None


# --- making one, and letting it go -----------------------------------------------

SIZE = 1024
SMALL = {
    "sets": 1,
    "offsets_at": 0,
    "prints_at": 64,
    "uses_at": 96,
    "void_at": 112,
    "cleared_at": 120,
    "tenures_at": 128,
    "units_at": 136,
    "partition_bits": 1,
    "use_max": 4,
    "envelope": 0xC1,
    "covers_key": bool,
    "covers_tags": bool,
    "entry": Entry,
    "torn": bool,
}


@pytest.mark.parametrize(
    "change",
    [
        {"offsets_at": SIZE - 64},
        {"prints_at": SIZE - 32},
        {"uses_at": SIZE - 16},
        {"void_at": SIZE - 8},
        {"cleared_at": SIZE - 8},
        {"tenures_at": SIZE - 2},
        {"tenures_at": SIZE - 512, "partition_bits": 9},
        {"units_at": SIZE},
        {"sets": 9, "offsets_at": 448, "prints_at": 160, "uses_at": 0},
        {"entry": tuple},
    ],
    ids=str,
)
def test_parts_that_end_with_the_memory_are_read(compiled, change):
    memory = mmap.mmap(-1, SIZE)
    reader = compiled.Reader(memory, **(SMALL | change))

    assert reader(b"key", 2**64 - 1, 0.0) is None
    assert reader(b"key", 2**64 - 9, 0.0) is None
    assert (-1, 0) == reader.find(b"key", 2**64 - 1)
    with pytest.raises(BufferError):
        memory.close()
    del reader
    memory.close()


@pytest.mark.parametrize(
    "change",
    [
        *({name: SIZE} for name in SMALL if name.endswith("_at") and name[1] != "n"),
        *({name: -8} for name in SMALL if name.endswith("_at")),
        *({name: 2**62} for name in SMALL if name.endswith("_at")),
        *({name: 2**63 - 8} for name in SMALL if name.endswith("_at")),
        *({"offsets_at": SIZE - 60}, {"prints_at": SIZE - 30}, {"uses_at": SIZE - 15}),
        *({"tenures_at": SIZE - 1}, {"tenures_at": SIZE - 504, "partition_bits": 9}),
        *({"units_at": SIZE + 8}, {"sets": 0}, {"sets": 2, "uses_at": SIZE - 31}),
        *({"sets": 2, "prints_at": SIZE - 62}, {"sets": 2, "offsets_at": SIZE - 124}),
        *({"sets": 65}, {"sets": 2**60 + 1}, {"sets": 2**63}, {"sets": 2**64 - 1}),
        *({"offsets_at": 2}, {"offsets_at": 1}, {"prints_at": 65}, {"units_at": 140}),
        *({"void_at": 116}, {"cleared_at": 124}, {"partition_bits": 0}),
        *({"partition_bits": 33}, {"partition_bits": 64}, {"partition_bits": 255}),
        *({"entry": list}, {"entry": object}),
    ],
    ids=str,
)
def test_parts_that_do_not_lie_in_the_memory_are_refused(compiled, change):
    memory = mmap.mmap(-1, SIZE)
    with pytest.raises(ValueError, match="no arena could lie"):
        compiled.Reader(memory, **(SMALL | change))
    memory.close()


@pytest.mark.parametrize("name", SMALL)
def test_a_setting_that_is_missing_or_of_another_kind_is_refused(compiled, name):
    memory = mmap.mmap(-1, SIZE)
    with pytest.raises(TypeError):
        compiled.Reader(memory, **{k: v for k, v in SMALL.items() if k != name})
    if isinstance(SMALL[name], int) or name == "entry":
        with pytest.raises(TypeError):
            compiled.Reader(memory, **(SMALL | {name: "1"}))
    if name in {"use_max", "envelope", "partition_bits"}:
        with pytest.raises(OverflowError):
            compiled.Reader(memory, **(SMALL | {name: 256}))
    memory.close()


def test_a_memory_that_is_none_is_refused(compiled):
    for wrong in (b"x" * SIZE, "text", None, memoryview(bytes(SIZE))):
        with pytest.raises(TypeError):
            compiled.Reader(wrong, **SMALL)
    with pytest.raises(TypeError):
        compiled.Reader()
    with pytest.raises(TypeError):
        compiled.Reader(mmap.mmap(-1, SIZE), *SMALL.values())


def test_a_memory_that_does_not_lie_as_words_do_is_refused(compiled):
    memory = mmap.mmap(-1, SIZE + 8)
    for start in (1, 2, 4):
        with pytest.raises(ValueError, match="no arena"):
            compiled.Reader(memoryview(memory)[start:], **SMALL)

    assert compiled.Reader(memoryview(memory)[8:], **SMALL)(b"", 0, 0.0) is None

    memory.close()


def test_the_class_is_closed(compiled):
    with pytest.raises(TypeError):
        type("Deeper", (compiled.Reader,), {})
    with pytest.raises(TypeError):
        compiled.Reader.more = 1


def test_a_reader_that_is_in_a_circle_goes_with_its_last_user(compiled):
    class Holder:
        def torn(self):
            return None

    for name in ("torn", "covers_key", "covers_tags"):
        memory, holder = mmap.mmap(-1, SIZE), Holder()
        holder.reader = compiled.Reader(memory, **(SMALL | {name: holder.torn}))
        gone = weakref.ref(holder)
        del holder
        gc.collect()

        assert gone() is None

        memory.close()


def test_the_memory_is_released_with_the_reader_of_its_parts(make_twins):
    twins = make_twins(Layout(1, 1000, 3000))
    twins.put(KEY, b"value")
    memory, parts = twins.memory, twins.parts
    reader = Reader(parts)

    assert b"value" == reader.get(KEY, HASHED, 0.0).value

    del twins, parts, reader
    gc.collect()
    memory.close()


@pytest.mark.slow
@pytest.mark.parametrize("answer", [False, True, RuntimeError("no answer")])
def test_nothing_is_leaked(twins, asked, check_leaks, answer):
    it = asked(answer, **{} if answer is not False else {"torn": bool})
    twins.place(b"plain", b"x", offset=1, way=0, version=9000)
    twins.place(b"void", TAGGED, offset=50, way=1, version=5000)
    twins.place(b"large", TAGGED + bytes(1500), offset=100, way=2, version=5000)
    start = twins.place(b"torn", bytes(1500), offset=300, way=3, version=9000)
    twins.memory[start + 8] ^= 1
    twins.place(b"old", b"x", offset=30, way=4, expires=1.0)
    twins.parts.header[Words.VOID] = twins.parts.header[Words.CLEARED] = 6000
    keys = [b"plain", b"void", b"large", b"torn", b"old", b"none"]
    calls = [(key, key_hash(key), 1.0) for key in keys]
    calls += [(b"plain", -1, 0.0), (b"plain", 1, "x"), ("plain", 1, 0.0)]

    def work():
        for key, hashed, now in calls:
            try:
                it.get(key, hashed, now)
                it.get.find(key, hashed)
            except (RuntimeError, TypeError, OverflowError) as error:
                # What an error remembers of this is no leak.
                error.__traceback__ = None
        it.questions.clear()

    check_leaks(work, None, True, Entry, *keys)


def test_a_reader_that_could_not_be_made_leaves_nothing(compiled):
    memory = mmap.mmap(-1, SIZE)
    counted = [bool, Entry, compiled.Reader, memory]
    for change in ({"sets": 0}, {"entry": list}, {"entry": 1}, {"torn_at": 1}):
        counts = [sys.getrefcount(each) for each in counted]
        for _ in range(500):
            with pytest.raises((TypeError, ValueError)):
                compiled.Reader(memory, **(SMALL | change))
        gc.collect()
        later = [sys.getrefcount(each) for each in counted]

        assert all(abs(n - m) < 50 for n, m in zip(counts, later, strict=True))

    for _ in range(500):
        compiled.Reader(memory, **SMALL)

    assert all(
        abs(sys.getrefcount(each) - count) < 50
        for each, count in zip(counted, counts, strict=True)
    )
    memory.close()
