# The expected value stands on the left here.

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.hashing import PARTITIONS
from meshcache.placement.choices import Choices
from meshcache.placement.score import score
from meshcache.placement.seating import NODES_MAX, capacity, seat


def choices_of(nodes):
    choices = Choices()
    choices.change(frozenset(nodes))
    return choices


def ids(seed, n):
    rng = random.Random(seed)
    return [rng.randbytes(16) for _ in range(n)]


def greedy(nodes, seats):
    """The same seats by another road: the best-matched pair of all goes first."""
    owners = [None] * PARTITIONS
    free = dict.fromkeys(nodes, seats)
    pairs = ((score(node, p), p, node) for node in nodes for p in range(PARTITIONS))
    for _, partition, node in sorted(pairs, reverse=True):
        if owners[partition] is None and free[node]:
            owners[partition] = node
            free[node] -= 1
    return owners


@pytest.mark.parametrize("nodes", range(1, 65))
def test_up_to_64_nodes_nobody_may_hold_more_than_a_tenth_above_the_mean(nodes):
    assert 10 * nodes * capacity(nodes) <= 11 * PARTITIONS


def test_there_are_always_seats_for_all():
    short = [n for n in range(1, NODES_MAX + 1) if n * capacity(n) < PARTITIONS]

    assert [] == short


def test_a_node_more_never_gives_anybody_more_seats():
    seats = [capacity(nodes) for nodes in range(1, NODES_MAX + 1)]

    assert sorted(seats, reverse=True) == seats


def test_beyond_64_nodes_the_limit_is_in_standard_deviations():
    assert [281, 146, 76, 22, 4] == [capacity(n) for n in (64, 128, 256, 1024, 8192)]


def test_more_nodes_than_can_own_are_refused():
    with pytest.raises(AssertionError):
        capacity(NODES_MAX + 1)


def test_with_seats_enough_everybody_gets_the_first_choice():
    choices = choices_of(ids(1, 4))

    assert choices.first == seat(choices, PARTITIONS)


def test_too_few_seats_are_refused():
    with pytest.raises(AssertionError):
        seat(choices_of(ids(1, 4)), PARTITIONS // 4 - 1)


def test_with_just_enough_seats_all_are_taken():
    counts = Counter(seat(choices_of(ids(2, 4)), PARTITIONS // 4))

    assert [PARTITIONS // 4] * 4 == list(counts.values())


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.integers(0, 40), st.integers(0, 2**32))
def test_the_pair_that_matches_best_of_all_goes_first(nodes, spare, seed):
    names = ids(seed, nodes)
    seats = -(-PARTITIONS // nodes) + spare

    assert greedy(names, seats) == seat(choices_of(names), seats)
