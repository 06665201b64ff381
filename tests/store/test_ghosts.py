from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.store.ghosts import Ghosts, table_bytes


def hashed(key):
    return hash(("shelf", key))


def test_a_ghost_is_remembered_once():
    ghosts = Ghosts(64)
    ghosts.add(hashed(1), 64)

    assert ghosts.take(hashed(1), 64)
    assert not ghosts.take(hashed(1), 64)


def test_a_stranger_is_not_a_ghost():
    ghosts = Ghosts(64)
    ghosts.add(hashed(1), 64)

    assert not ghosts.take(hashed(2), 64)


def test_a_ghost_is_forgotten_after_so_many_others():
    ghosts = Ghosts(64)
    for key in range(5):
        ghosts.add(hashed(key), 64)

    assert not ghosts.take(hashed(0), 4)
    assert ghosts.take(hashed(1), 4)


def test_most_ghosts_within_reach_are_remembered():
    ghosts = Ghosts(1024)
    for key in range(5000):
        ghosts.add(hashed(key), 1024)

    remembered = sum(ghosts.take(hashed(key), 1024) for key in range(3976, 5000))

    assert remembered > 0.8 * 1024


def test_keys_in_steps_of_a_power_of_two_do_not_crowd():
    ghosts = Ghosts(1024)
    for key in range(512):
        ghosts.add(hashed(key << 12), 1024)

    remembered = sum(ghosts.take(hashed(key << 12), 1024) for key in range(512))

    assert remembered > 0.9 * 512


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200))
def test_the_population_stays_within_reach(steps):
    ghosts = Ghosts(16)
    for add, key in steps:
        if add:
            ghosts.add(hashed(key), 10)
        else:
            ghosts.take(hashed(key), 10)

        assert 0 <= ghosts.population <= 10


def test_the_table_takes_what_it_says():
    ghosts = Ghosts(1000)
    arrays = (ghosts._hashes, ghosts._times)
    taken = sum(part.itemsize * len(part) for part in arrays) + len(ghosts._hands)

    assert table_bytes(1000) == taken
