from __future__ import annotations

import gc
from random import Random

import pytest

from meshcache.store.fifo import Queued
from meshcache.store.policy import ALIVE, VISITED_MAX, AdaptiveFifo

DEAD = 1


class Thing(Queued):
    __slots__ = ("expires",)

    def __init__(self, key, weight=1, expires=1e9):
        self.key, self.weight, self.expires, self.visited = key, weight, expires, 0


def judge(thing, now):
    return DEAD if thing.expires <= now else ALIVE


def make(max_entries=10, max_weight=1_000_000, ghosts=64):
    return AdaptiveFifo(max_entries, max_weight, ghosts=ghosts, judge=judge, verdicts=2)


def ask(policy, key):
    """Read *key*, store it if it is missing, and return whether it was there."""
    thing = policy.entries.get(key)
    if thing is None:
        policy.store(Thing(key), 0.0)
        return False
    thing.visited = min(VISITED_MAX, thing.visited + 1)
    return True


def hits(policy, trace):
    return sum(ask(policy, key) for key in trace)


def test_a_newcomer_that_is_never_read_leaves_first():
    policy = make(max_entries=10)
    for key in range(10):
        ask(policy, key)

    ask(policy, "newcomer")
    ask(policy, "next")

    assert "newcomer" not in policy.entries
    assert "next" in policy.entries


def test_what_is_read_twice_while_it_is_new_survives_a_scan():
    policy = make(max_entries=100)
    for key in range(100):
        ask(policy, ("old", key))
    for _ in range(3):
        ask(policy, "liked")

    hits(policy, range(300))

    assert "liked" in policy.entries


def test_what_is_read_once_while_it_is_new_does_not_survive_a_scan():
    policy = make(max_entries=100)
    for key in range(100):
        ask(policy, ("old", key))
        ask(policy, ("old", key))
    for _ in range(2):
        ask(policy, "noticed")

    hits(policy, range(100))

    assert "noticed" not in policy.entries


def test_each_round_in_main_costs_a_mark():
    policy = make(max_entries=10)
    hits(policy, range(10))
    policy._set_share(0.01)
    oldest = policy._main.newer
    oldest.visited = 2

    for lap in range(40):
        policy.store(Thing(("new", lap)), 0.0)
        policy.entries["new", lap].visited = 2

    assert oldest.key not in policy.entries


def test_a_key_evicted_not_long_ago_comes_back_into_main():
    policy = make(max_entries=10)
    hits(policy, range(12))
    gone = next(key for key in range(12) if key not in policy.entries)

    ask(policy, gone)

    assert policy.entries[gone].queue is policy._main
    assert 1 == policy.ghost_hits


def test_a_ghost_of_small_lets_small_grow_and_one_of_main_lets_it_shrink():
    policy = make(max_entries=100)
    hits(policy, range(150))
    start = policy._share
    from_small = next(key for key in range(149, 0, -1) if key not in policy.entries)
    ask(policy, from_small)
    grown = policy._share

    assert start < grown

    policy._ghosts_main.add(hash(("", "ghost")), 50)
    ask(policy, "ghost")

    assert grown > policy._share


def test_of_a_loop_longer_than_the_cache_a_part_stays():
    policy = make(max_entries=100, ghosts=100)

    assert hits(policy, list(range(500)) * 20) > 0.1 * 20 * 500


def test_a_replacement_keeps_its_place_and_its_marks():
    policy = make(max_entries=10)
    hits(policy, range(5))
    old = policy.entries[0]
    old.visited = 2

    policy.store(Thing(0), 0.0)

    assert policy.entries[0] is not old
    assert 2 == policy.entries[0].visited
    assert old.newer is policy.entries[0].newer


@pytest.mark.parametrize("grown", [50, 99, 100])
def test_a_replacement_that_grew_makes_its_own_room(grown):
    policy = make(max_entries=100, max_weight=100)
    for key in range(10):
        policy.store(Thing(key, weight=10), 0.0)

    policy.store(Thing(3, weight=grown), 0.0)

    assert grown == policy.entries[3].weight
    assert policy.weight <= 100


def test_a_heavy_newcomer_empties_small_before_main_and_is_next_to_leave():
    policy = make(max_entries=1000, max_weight=1000)
    hits(policy, range(1000))

    policy.store(Thing("heavy", weight=300), 0.0)

    assert 1 == policy._small.count
    assert 700 == policy._main.count

    ask(policy, "next")

    assert "heavy" not in policy.entries
    assert 700 == policy._main.count


def test_the_dead_are_not_spared():
    policy = make(max_entries=3)
    for key in range(3):
        policy.store(Thing(key, expires=5.0), 0.0)
        policy.entries[key].visited = VISITED_MAX

    for key in "abc":
        policy.store(Thing(key), 6.0)
        policy.entries[key].visited = VISITED_MAX

    assert set("abc") == set(policy.entries)
    assert [0, 3] == policy.dropped
    assert 3 == policy.evicted


def test_an_eviction_spares_only_so_many():
    policy = make(max_entries=3000, ghosts=3000)
    for key in range(3000):
        ask(policy, key)
    for thing in policy.entries.values():
        thing.visited = VISITED_MAX

    policy.store(Thing("new"), 0.0)

    lowered = sum(thing.visited < VISITED_MAX for thing in policy.entries.values())

    assert lowered <= 1001


def test_clearing_starts_over():
    policy = make(max_entries=10)
    hits(policy, range(20))

    policy.clear()

    assert 0 == policy.weight
    assert 0 == hits(policy, range(10))
    assert 10 == len(policy.entries)


@pytest.mark.parametrize("seed", range(5))
def test_both_bounds_hold_and_the_books_balance(seed):
    rng = Random(seed)
    policy = make(max_entries=50, max_weight=1000, ghosts=50)
    for _ in range(2000):
        key = rng.randrange(200)
        if rng.random() < 0.1:
            policy.remove(key)
        else:
            policy.store(Thing(key, weight=rng.choice([1, 5, 50, 400, 1000])), 0.0)
            things = policy.entries.values()

            assert len(policy.entries) <= 50
            assert policy.weight == sum(thing.weight for thing in things) <= 1000
            assert policy._small.count + policy._main.count == len(things)


def test_shelves_keep_their_keys_apart_and_share_the_room():
    policy = make(max_entries=10)
    left, right = policy.shelf("left"), policy.shelf("right")
    policy.store(Thing("key"), 0.0, right)
    policy.store(Thing("key"), 0.0, left)

    assert left.entries["key"] is not right.entries["key"]
    assert 2 == len(policy)

    policy.remove("key", left)

    assert {} == left.entries
    assert ["key"] == list(right.entries)

    for key in range(10):
        policy.store(Thing(key), 0.0, left)

    assert {} == right.entries
    assert 10 == len(policy)


def test_a_ghost_is_of_its_shelf():
    policy = make(max_entries=10)
    left, right = policy.shelf("left"), policy.shelf("right")
    for key in range(12):
        policy.store(Thing(key), 0.0, left)
    gone = next(key for key in range(12) if key not in left.entries)

    policy.store(Thing(gone), 0.0, right)

    assert 0 == policy.ghost_hits

    policy.store(Thing(gone), 0.0, left)

    assert 1 == policy.ghost_hits


def test_a_shelf_lives_as_long_as_a_reader_or_an_entry_of_it():
    policy = make()
    shelf = policy.shelf("kept")
    policy.store(Thing("key"), 0.0, shelf)
    entries = shelf.entries
    del shelf
    gc.collect()

    assert policy.shelf("kept").entries is entries

    policy.clear()
    gc.collect()

    assert policy.shelf("kept").entries is not entries


def test_clearing_empties_every_shelf():
    policy = make()
    shelf = policy.shelf("other")
    policy.store(Thing("key"), 0.0, shelf)
    policy.store(Thing("key"), 0.0)

    policy.clear()

    assert {} == shelf.entries
    assert {} == policy.entries
    assert 0 == len(policy)
