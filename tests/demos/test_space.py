from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from launcher.space import NOBODY, Moved, moved, ranges, sample, translate

OWNERS = st.text(alphabet="012", min_size=1, max_size=64)


def test_partitions_of_the_dead_are_counted_by_who_took_them():
    assert Moved({"0": 2, "1": 1}, 0) == moved("012122", "010110", "2")


def test_partitions_that_the_dead_still_owns_have_not_moved():
    assert Moved({"0": 1}, 0) == moved("0122", "0120", "2")


def test_a_partition_that_moved_between_survivors_is_a_bystander():
    assert Moved({"0": 1}, 1) == moved("0012", "0110", "2")


def test_a_range_is_a_run_of_partitions_with_one_owner():
    assert {"0": 2, "1": 1} == ranges("00110")


@given(OWNERS)
def test_ranges_cover_every_owner(owners):
    assert set(owners) == set(ranges(owners))


@given(OWNERS, st.integers(1, 100))
def test_sample_has_the_size_asked_for_and_invents_no_owner(owners, cells):
    taken = sample(owners, cells)

    assert cells == len(taken)
    assert set(taken) <= set(owners)


@given(OWNERS)
def test_sample_of_as_many_cells_as_partitions_is_the_map(owners):
    assert owners == sample(owners, len(owners))


def test_without_a_map_all_cells_are_nobodys():
    assert NOBODY * 3 == sample("", 3)


def test_letters_without_a_name_are_nobodys():
    assert f"21{NOBODY}" == translate("012", {"0": "2", "1": "1"})
