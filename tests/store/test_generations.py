from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.hashing import BUCKETS
from meshcache.store.generations import Generations, Stamp, Tenure

buckets = st.integers(0, BUCKETS - 1)


@given(buckets, buckets)
def test_a_write_makes_the_stamps_of_its_bucket_fall_and_no_others(stamped, written):
    generations = Generations()
    stamp = Tenure(generations.table).stamp(stamped)

    generations.bump(written)

    assert (stamped != written) is stamp.stands


@given(buckets)
def test_a_stamp_taken_after_the_write_stands(bucket):
    generations = Generations()
    generations.bump(bucket)

    assert Tenure(generations.table).stamp(bucket).stands


@given(buckets)
def test_bump_all_makes_every_stamp_fall(bucket):
    generations = Generations()
    stamp = Tenure(generations.table).stamp(bucket)

    generations.bump_all()

    assert not stamp.stands


def test_bump_all_keeps_the_table_that_readers_hold():
    generations = Generations()
    table = generations.table

    generations.bump_all()

    assert table is generations.table
    assert [1] * BUCKETS == table


def test_the_end_of_a_tenure_makes_its_stamps_fall_and_spares_other_tenures():
    generations = Generations()
    ending, staying = Tenure(generations.table), Tenure(generations.table)
    fallen, standing = ending.stamp(7), staying.stamp(7)

    ending.end()

    assert ending.ended
    assert not fallen.stands
    assert standing.stands


def test_a_stamp_taken_after_the_end_does_not_stand_either():
    tenure = Tenure(Generations().table)

    tenure.end()

    assert not tenure.stamp(7).stands
    assert not Stamp(tenure, 7, tenure.table[7]).stands


def test_counters_in_shared_memory_serve_as_well():
    table = memoryview(bytearray(8 * BUCKETS)).cast("q")
    stamp = Tenure(table).stamp(7)

    assert stamp.stands

    table[7] += 1

    assert not stamp.stands
