from __future__ import annotations

import random
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.codec.envelope import Envelope
from meshcache.hashing import BUCKETS, key_hash
from meshcache.store.generations import Generations, Stamp, Tenure
from meshcache.store.layout import TAG_SLOTS_MAX, TAG_SLOTS_MIN, Layout
from meshcache.store.near import Near
from meshcache.store.tags import NEWEST, Tags, private_tags

U64 = 2**64 - 1
RED, BLUE, GREEN = 0x1111_0000_0001, 0x2222_0000_0002, 0x3333_0000_0003
versions = st.one_of(st.integers(0, 50), st.sampled_from([U64 - 1, U64]))
# All the slots of a small table, and many a tag that shares one of its two.
hashes = st.builds(lambda low, high: low | high << 32, *[st.integers(0, 7)] * 2)


def make(slots=8):
    words = memoryview(bytearray(16)).cast("Q")
    table = memoryview(bytearray(8 * slots)).cast("Q")
    return Tags(words, table)


def tagged(*tags, body=b"value"):
    return Envelope(body, tags=tags).wrap()


# --- the table --------------------------------------------------------------------


def test_nothing_is_covered_before_the_first_mark():
    assert not make().covers(0, (RED, BLUE))


def test_a_tag_is_covered_up_to_its_mark_and_others_are_not():
    tags = make(1024)
    tags.mark((RED,), 5)

    assert tags.covers(5, (RED,))
    assert tags.covers(5, (BLUE, RED))
    assert not tags.covers(6, (RED,))
    assert not tags.covers(0, (BLUE,))
    assert not tags.covers(0, ())


def test_an_older_mark_does_not_lower_a_newer_one():
    tags = make()
    tags.mark((RED,), 5)
    tags.mark((RED,), 3)

    assert tags.covers(5, (RED,))


def test_one_slot_written_for_another_tag_kills_nothing():
    tags, mine = make(), 1 | 2 << 32
    tags.mark((1 | 3 << 32,), 9)

    assert not tags.covers(0, (mine,))


def test_both_slots_written_for_others_cost_what_is_older_its_life():
    tags, mine = make(), 1 | 2 << 32
    tags.mark((1 | 3 << 32,), 9)
    tags.mark((4 | 2 << 32,), 7)

    assert tags.covers(7, (mine,))
    assert not tags.covers(8, (mine,))


@given(st.lists(st.tuples(hashes, versions)), hashes, versions)
def test_what_was_marked_is_covered_and_what_is_newer_than_all_marks_is_not(
    made, tag, version
):
    tags = make()
    for marked, at in made:
        tags.mark((marked,), at)
    bound = max((at for marked, at in made if marked == tag), default=-1)

    if version <= bound and version < U64:
        assert tags.covers(version, (tag,))
    if version > max((at for _, at in made), default=-1):
        assert not tags.covers(version, (tag,))


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "others"), [(1024, 50), (1024, 200), (4096, 1500)])
def test_what_was_not_marked_looks_dead_about_as_often_as_is_said(slots, others):
    rng, dead, rounds, asked = random.Random(slots + others), 0, 10, 2000
    for _ in range(rounds):
        tags = private_tags() if slots == 4096 else make(slots)
        tags.mark([rng.getrandbits(64) for _ in range(others)], 5)
        dead += sum(tags.covers(5, (rng.getrandbits(64),)) for _ in range(asked))
    expected = (1 - (1 - 1 / slots) ** (2 * others)) ** 2

    assert expected == pytest.approx(dead / (rounds * asked), rel=0.25)
    assert expected <= (2 * others / slots) ** 2


def test_a_reader_who_sees_the_newest_mark_sees_its_slots():
    seen = []

    class Words(list):
        """The words, as one sees them who asks whenever they change."""

        def __setitem__(self, at, number):
            super().__setitem__(at, number)
            if at == NEWEST:
                seen.append(tags.covers(5, (RED,)) and tags.covers(5, (BLUE,)))

    tags = Tags(Words([0, 0]), [0] * 1024)
    tags.mark((RED, BLUE), 5)

    assert [True] == seen


def test_the_moves_are_odd_while_a_slot_is_written_and_even_after():
    seen = []

    class Slots(list):
        def __setitem__(self, at, number):
            seen.append(tags.moves)
            super().__setitem__(at, number)

    tags = Tags([0, 0], Slots([0] * 1024))
    tags.mark((RED,), 5)
    tags.mark((BLUE,), 6)

    assert [1, 1, 3, 3] == seen
    assert 4 == tags.moves


def test_after_a_mark_that_was_interrupted_the_next_one_sets_the_moves_right():
    class Slots(list):
        fails = True

        def __setitem__(self, at, number):
            if self.fails:
                raise KeyboardInterrupt
            super().__setitem__(at, number)

    slots = Slots([0] * 1024)
    tags = Tags([0, 0], slots)
    with pytest.raises(KeyboardInterrupt):
        tags.mark((RED,), 5)
    interrupted = tags.moves
    slots.fails = False
    tags.mark((RED,), 6)

    assert not tags.quiet_since(interrupted)
    assert tags.quiet_since(tags.moves)


@pytest.mark.parametrize(
    ("max_bytes", "slots"),
    [
        ("256KiB", TAG_SLOTS_MIN),
        ("2MiB", 2048),
        ("64MiB", TAG_SLOTS_MAX),
        ("1GiB", TAG_SLOTS_MAX),
    ],
)
def test_slots_for_tags_take_a_small_share_of_the_arena(max_bytes, slots):
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    size = int(max_bytes[:-3]) * units[max_bytes[-3:]]

    assert slots == Layout.for_bytes(size).tag_slots


# --- in the arena -----------------------------------------------------------------


def test_an_invalidated_tag_makes_its_entries_dead_however_they_are_looked_for(bench):
    bench.put(b"c\0red", tagged(RED), version=5)
    bench.put(b"c\0both", tagged(RED, BLUE), version=5)
    bench.put(b"c\0blue", tagged(BLUE), version=5)
    bench.put(b"c\0none", b"plain", version=5)
    bench.arena.mark_tags((RED,), 5)

    left = {b"c\0blue": tagged(BLUE), b"c\0none": b"plain"}
    for key in (b"c\0red", b"c\0both", b"c\0blue", b"c\0none"):
        assert left.get(key) == bench.get(key) == bench.peek(key)
    assert left == bench.walked()


def test_what_is_newer_than_the_mark_lives(bench):
    bench.arena.mark_tags((RED,), 5)

    assert bench.put(b"c\0key", tagged(RED), version=6)
    assert tagged(RED) == bench.get(b"c\0key") == bench.peek(b"c\0key")


def test_what_is_void_already_is_not_stored(bench):
    bench.put(b"c\0key", b"old", version=1)
    bench.arena.mark_tags((RED,), 5)

    assert not bench.put(b"c\0key", tagged(RED), version=5)
    assert b"old" == bench.get(b"c\0key")


def test_a_dead_entry_does_not_stand_in_the_way_of_an_older_one(bench):
    bench.put(b"c\0key", tagged(RED), version=9)
    bench.arena.mark_tags((RED,), 9)

    assert bench.put(b"c\0key", b"other", version=2)
    assert b"other" == bench.get(b"c\0key")


def test_a_dead_entry_cannot_be_touched_or_taken_back(bench):
    bench.put(b"c\0key", tagged(RED), version=5)
    bench.arena.mark_tags((RED,), 5)

    assert bench.touch(b"c\0key", 100.0) is None
    assert bench.remove(b"c\0key") is None
    assert 1 == bench.arena.stats()["cleared"]


def test_an_entry_that_was_touched_keeps_its_version_and_dies_with_its_tag(bench):
    bench.put(b"c\0key", tagged(RED), version=5)
    bench.touch(b"c\0key", 100.0)
    bench.arena.mark_tags((RED,), 5)

    assert bench.get(b"c\0key") is None


def test_the_dead_are_counted_as_cleared_when_room_is_needed(make):
    bench = make(entries=20)
    for number in range(10):
        bench.put(b"c\0%d" % number, tagged(RED, body=bytes(60)), version=5)
    bench.arena.mark_tags((RED,), 5)
    for number in range(100):
        bench.put(b"c\0new%d" % number, bytes(60), version=9)

    assert 10 == bench.arena.stats()["cleared"]


def test_tagged_over_tells_of_loads_that_began_before_the_invalidation(bench):
    bench.arena.mark_tags((RED,), 5)

    assert bench.arena.tagged_over(5, (BLUE, RED))
    assert not bench.arena.tagged_over(6, (RED,))
    assert not bench.arena.tagged_over(5, ())


def test_a_clear_and_a_tag_do_not_hide_each_other(bench):
    bench.put(b"c\0key", tagged(RED), version=5)
    bench.put(b"d\0key", b"plain", version=5)
    bench.arena.clear(b"d", 9)
    bench.arena.mark_tags((RED,), 7)

    assert bench.get(b"c\0key") is None
    assert bench.get(b"d\0key") is None

    bench.put(b"c\0key", tagged(RED), version=8)
    bench.arena.clear(b"e", 2)

    assert tagged(RED) == bench.get(b"c\0key")


def test_tags_that_make_no_sense_are_none(bench):
    odd = b"\xc1\0" + bytes(12) + b"\xff"
    bench.put(b"c\0key", odd, version=5)
    bench.arena.mark_tags((0, RED), 5)

    assert odd == bench.get(b"c\0key") == bench.peek(b"c\0key")


def test_an_empty_value_is_read_after_a_tag_was_invalidated(bench):
    bench.put(b"c\0key", b"", version=5)
    bench.arena.mark_tags((RED,), 5)

    assert b"" == bench.get(b"c\0key")


# --- near -------------------------------------------------------------------------


class Kept:
    """A partition's counters and marks, and a near entry made under them."""

    def __init__(self, *tags, get=None, version=0):
        self.generations = Generations()
        self.marks = private_tags()
        self.tenure = Tenure(self.generations.table, get, self.marks)
        self.stamp = self.tenure.stamp(7).tagged(tags, version)


def test_a_near_entry_falls_with_any_of_its_tags_and_with_its_key():
    assert Kept(RED, BLUE).stamp.stands

    for fall in (
        lambda kept: kept.marks.mark((RED,), 5),
        lambda kept: kept.marks.mark((GREEN, BLUE), 5),
        lambda kept: kept.generations.bump(7),
        lambda kept: kept.tenure.end(),
    ):
        kept = Kept(RED, BLUE)
        fall(kept)

        assert not kept.stamp.stands


def test_a_near_entry_stands_while_others_are_invalidated():
    kept = Kept(RED, BLUE)
    kept.marks.mark((GREEN,), 5)
    kept.generations.bump(8)

    assert kept.stamp.stands


def test_what_fell_stays_down_whatever_moves_after():
    kept = Kept(RED)
    kept.generations.bump(7)
    for number in range(20):
        kept.marks.mark((RED,), number)
        kept.generations.bump(7)

        assert not kept.stamp.stands


def test_what_was_read_while_a_tag_was_invalidated_is_not_kept():
    kept = Kept(RED)
    early = kept.tenure.stamp(7)
    kept.marks.mark((GREEN,), 5)

    assert early.tagged((RED,), 0) is None
    assert early.tagged((RED,), 9) is None
    assert kept.tenure.stamp(7).tagged((RED,), 0).stands


def test_what_is_read_in_the_middle_of_an_invalidation_is_not_kept():
    found = []

    class Slots(list):
        stamp = None

        def __setitem__(self, at, number):
            stamp = self.stamp or tenure.stamp(7)
            super().__setitem__(at, number)
            found.append(stamp.tagged((RED,)))

    slots = Slots([0] * 1024)
    marks = Tags([0, 0], slots)
    tenure = Tenure(Generations().table, None, marks)
    slots.stamp = tenure.stamp(7)
    marks.mark((RED,), 5)
    slots.stamp = None
    marks.mark((RED,), 6)

    assert [None] * 4 == found


def test_a_stamp_that_fell_before_is_of_no_use():
    kept = Kept(RED)
    stamp = kept.tenure.stamp(7)
    kept.generations.bump(7)

    assert not stamp.tagged((RED,), 0).stands


def test_what_is_read_from_the_memory_of_the_marks_is_kept_by_its_version(bench):
    arena = bench.arena
    tenure = Tenure(arena.generations.table, arena.get, arena.tags)
    arena.mark_tags((RED,), 5)
    by_hand = Stamp(tenure, 7, tenure.table[7])

    assert by_hand.tagged((RED,), 6).stands
    assert by_hand.tagged((RED,), 5) is None
    assert by_hand.tagged((BLUE,), 5).stands


def test_without_memory_to_look_into_a_version_proves_nothing():
    marks = private_tags()
    marks.mark((RED,), 5)
    tenure = Tenure(Generations().table, None, marks)

    assert Stamp(tenure, 7, 0).tagged((RED,), 9) is None


def test_under_a_tenure_that_has_ended_or_knows_no_tags_nothing_is_kept():
    ended = Kept(RED)
    stamp = ended.tenure.stamp(7)
    ended.tenure.end()

    assert stamp.tagged((RED,), 0) is None
    assert Tenure(Generations().table).stamp(7).tagged((RED,), 0) is None


def test_near_serves_what_bears_a_tag_until_that_is_invalidated():
    kept, near = Kept(RED), Near(10, 1000)
    near.put("key", "value", expires=9.0, stamp=kept.stamp, weight=1, now=0.0)

    assert "value" == near.get("key", 1.0)

    kept.marks.mark((RED,), 5)

    assert not near.get("key", 1.0)


def test_counters_at_their_end_do_not_disturb_the_sum():
    kept = Kept(RED)
    kept.generations.table[7] = U64
    stamp = kept.tenure.stamp(7).tagged((RED,), 0)
    kept.marks.mark((RED,), U64)

    assert not stamp.stands

    kept.generations.bump(7)

    assert not stamp.stands


TAG, SHARER = 1 | 2 << 32, 2 | 3 << 32


class Shared(list):
    """Words of a memory in which somebody writes just when they are looked at."""

    def __init__(self, words, look):
        super().__init__(words)
        self.look = look

    def __getitem__(self, at):
        self.look()
        return super().__getitem__(at)


class Race:
    """A writer who makes so many stores just before a reader's look of that number."""

    def __init__(self, plan, marked):
        self.plan = plan
        self.looks = 0
        self.words, self.slots = (Shared([0] * n, self.look) for n in (2, 8))
        self.marks = Tags(self.words, self.slots)
        self.stores = []
        words, slots = Logged([0] * 2, self.stores), Logged([0] * 8, self.stores)
        self.real = {id(words): self.words, id(slots): self.slots}
        for version, tag in enumerate(marked, 5):
            Tags(words, slots).mark((tag,), version)
        self.all = len(self.stores)

    def look(self):
        self.looks += 1
        self.store(self.plan.get(self.looks, 0))

    def store(self, number):
        for words, at, value in self.stores[:number]:
            self.real[id(words)][at] = value
        del self.stores[:number]


class Logged(list):
    """Words of which it is noted what was stored."""

    def __init__(self, words, stores):
        super().__init__(words)
        self.stores = stores

    def __setitem__(self, at, value):
        super().__setitem__(at, value)
        self.stores.append((self, at, value))


def read_in_memory(race, tenure, tag):
    """Read as a process does that sees the owner's memory, and its marks."""
    stamp = Stamp(tenure, 7, tenure.table[7])
    return None if race.marks.covers(1, (tag,)) else stamp.tagged((tag,), 1)


def read_from_owner(race, tenure, tag):
    """Ask an owner whose memory is seen: he goes by the marks, and tells the value."""
    stamp = tenure.stamp(7)
    return None if race.marks.covers(1, (tag,)) else stamp.tagged((tag,))


def read_by_wire(race, tenure, tag):
    """Read from an owner who is told before this process is told for the last time."""
    stamp = tenure.stamp(7)
    told = len(race.stores) < race.all
    race.look()
    return None if told else stamp.tagged((tag,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "marked"),
    [
        (read_by_wire, (TAG,)),
        (read_in_memory, (TAG,)),
        (read_in_memory, (SHARER, TAG)),
        (read_from_owner, (TAG,)),
        (read_from_owner, (SHARER, TAG)),
    ],
)
def test_nothing_stands_that_was_invalidated_whenever_it_was_read(read, marked):
    """Each two places of a reader's course, with each two numbers of stores there."""
    ends = set()
    stores = Race({}, marked).all
    for first, second in combinations(range(1, 14), 2):
        for one, two in product(range(stores + 1), repeat=2):
            race = Race({first: one, second: two}, marked)
            get = None if read is read_by_wire else lambda *_: None
            tenure = Tenure(Generations().table, get, race.marks)
            found = read(race, tenure, TAG)
            ends.add((found is not None, race.looks > first))
            race.store(stores)

            assert found is None or not found.stands, (first, one, second, two)
    assert {(True, True), (False, True)} <= ends


def test_buckets_of_a_sum_are_those_of_the_partition():
    kept = Kept(RED)
    for bucket in (0, BUCKETS - 1, key_hash(b"c\0k") % BUCKETS):
        assert kept.tenure.stamp(bucket).tagged((RED,), 0).stands
