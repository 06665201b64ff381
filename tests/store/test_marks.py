from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.store.marks import NEWEST, Marks

U64 = 2**64 - 1
versions = st.one_of(st.integers(0, 50), st.sampled_from([U64 - 1, U64]))
names = st.integers(0, 30).map(lambda number: b"n%d" % number)


def make(places=16):
    words = memoryview(bytearray(16)).cast("Q")
    table = memoryview(bytearray(16 * places)).cast("Q")
    return Marks(words, table), words, table


def test_nothing_is_covered_before_the_first_mark():
    marks, words, _ = make()

    assert not marks.covers(0, b"a", b"b")
    assert 0 == words[NEWEST]


def test_a_name_is_covered_up_to_its_mark_and_others_are_not():
    marks, _, _ = make()
    marks.mark(b"a", 5)

    assert marks.covers(5, b"a")
    assert marks.covers(5, b"b", b"a")
    assert not marks.covers(6, b"a")
    assert not marks.covers(0, b"b")


def test_an_older_mark_does_not_lower_a_newer_one():
    marks, _, _ = make()
    marks.mark(b"a", 5)
    marks.mark(b"a", 3)

    assert marks.covers(5, b"a")


def test_a_key_is_covered_with_its_cache_and_with_the_whole_of_it():
    marks, _, _ = make()
    marks.mark(b"a", 5)
    marks.mark(b"b|x", 5)

    assert marks.covers_key(5, b"a\0key")
    assert marks.covers_key(5, b"a|part\0key")
    assert marks.covers_key(5, b"b|x\0key")
    assert not marks.covers_key(5, b"b\0key")
    assert not marks.covers_key(5, b"b|y\0key")
    assert not marks.covers_key(5, b"ab\0a")


def test_a_table_that_is_full_is_forgotten_at_the_price_of_a_floor():
    marks, _, table = make(places=16)
    for number in range(12):
        marks.mark(b"n%d" % number, 10 + number)

    assert not marks.covers(10, b"other")

    marks.mark(b"one more", 3)

    assert marks.covers(21, b"other")
    assert not marks.covers(22, b"other")
    assert 1 == sum(hashed > 0 for hashed in table[::2])


def test_marking_a_known_name_in_a_full_table_forgets_nothing():
    marks, _, _ = make(places=16)
    for number in range(12):
        marks.mark(b"n%d" % number, 10)
    marks.mark(b"n0", 50)

    assert marks.covers(50, b"n0")
    assert not marks.covers(10, b"other")


@given(st.lists(st.tuples(names, versions)), names, versions)
def test_what_was_marked_stays_covered_whatever_is_forgotten(made, name, version):
    marks, words, _ = make(places=8)
    for marked, at in made:
        marks.mark(marked, at)
    bound = max((at for marked, at in made if marked == name), default=-1)

    if version <= bound and version < U64:
        assert marks.covers(version, name)
    if version > max((at for _, at in made), default=-1):
        assert not marks.covers(version, name)
        assert version >= words[NEWEST]


def test_a_reader_who_missed_the_mark_because_it_was_forgotten_meets_the_floor():
    marks, words, table = make(places=16)
    for number in range(12):
        marks.mark(b"n%d" % number, 10)

    class Late:
        """The table, as one sees it who is overtaken by the writer at each look."""

        looks = 0

        def __getitem__(self, at):
            self.looks += 1
            if self.looks == 1:
                marks.mark(b"one more", 3)
            return table[at]

        def __len__(self):
            return len(table)

    reader = Marks(words, Late())

    assert reader.covers(10, b"n3")


def test_a_damaged_table_without_a_free_place_ends_the_search():
    marks, _, table = make(places=4096)
    marks.mark(b"a", 5)
    for at in range(len(table)):
        table[at] = 7

    assert not marks.covers(5, b"a")

    marks.mark(b"b", 9)

    assert marks.covers(9, b"b")
    assert marks.covers(5, b"a")
