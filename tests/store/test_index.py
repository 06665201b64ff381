from __future__ import annotations

import mmap

import pytest

from meshcache.clock import NEVER
from meshcache.store.index import UNREAD, USE_MAX, Index
from meshcache.store.layout import UNIT, WAYS, Layout
from meshcache.store.record import encode

LAYOUT = Layout(7, 800, 8000)


@pytest.fixture
def index():
    return Index(mmap.mmap(-1, LAYOUT.total), LAYOUT)


def of_set(number, count):
    """Return hashes of one set with fingerprints of their own."""
    return [number + LAYOUT.sets * (1000 + i) for i in range(count)]


def seat(index, hashed, offset):
    slot = index.seat(hashed)
    index.publish(slot, hashed, offset, UNREAD)
    return slot


def test_a_key_is_found_by_its_fingerprint_in_its_set(index):
    one, two = of_set(3, 2)
    slot = seat(index, one, 11)

    assert 3 == slot // WAYS
    assert [slot] == index.matches(one)
    assert [] == index.matches(two)
    assert slot == index.pointing(one, 11)
    assert -1 == index.pointing(one, 12)
    assert index.belongs(slot, one)
    assert not index.belongs(slot, two)
    assert not index.belongs(slot + WAYS, one)


def test_two_keys_of_one_fingerprint_have_a_slot_each(index):
    hashed = of_set(3, 1)[0]

    assert sorted([seat(index, hashed, 11), seat(index, hashed, 12)]) == (
        index.matches(hashed)
    )


def test_a_fingerprint_that_straddles_two_slots_is_no_match(index):
    index.prints[0] = 0x3400
    index.prints[1] = 0x0012
    hashed = next(h for h in range(0x1234, 1 << 30, 1 << 16) if h % LAYOUT.sets == 0)

    assert [] == index.matches(hashed)
    assert (-1, 0) == index.find(b"key", hashed)


def test_a_fingerprint_of_zero_is_found_and_a_free_slot_is_not(index):
    hashed = LAYOUT.sets << 16
    assert [] == index.matches(hashed)

    slot = seat(index, hashed, 11)

    assert [slot] == index.matches(hashed)


def lay(index, offset, key):
    """Let an entry with *key* lie at *offset*."""
    start = LAYOUT.units_at + UNIT * offset
    record = encode(1, key, (b"value", 1, NEVER))
    index._memory[start : start + len(record)] = record


def test_a_key_is_found_by_all_of_its_bytes(index):
    hashed = of_set(3, 1)[0]
    lay(index, 11, b"key and more")
    lay(index, 21, b"key")
    longer, shorter = seat(index, hashed, 11), seat(index, hashed, 21)

    assert (shorter, 21) == index.find(b"key", hashed)
    assert (longer, 11) == index.find(b"key and more", hashed)
    assert (-1, 0) == index.find(b"yek", hashed)
    assert (b"key", b"key and more") == (index.key_at(21), index.key_at(11))


def test_a_ghost_is_found_where_the_key_is_not(index):
    hashed = of_set(3, 1)[0]
    slot = seat(index, hashed, 11)
    index.bury(slot, 8)

    assert (slot, 0) == index.find(b"key", hashed)


def test_an_offset_beyond_the_logs_is_no_entry(index):
    hashed, beyond = of_set(3, 1)[0], LAYOUT.total // UNIT
    seat(index, hashed, beyond)

    assert (-1, 0) == index.find(b"key", hashed)
    assert b"" == index.key_at(beyond)


def test_an_offset_is_found_in_its_own_slot_and_under_its_own_fingerprint(index):
    hashed, other = of_set(0, 2)
    slot = seat(index, other, 11)

    assert (slot, -1) == (index.pointing(other, 11), index.pointing(hashed, 11))

    # The bytes of 11 again, across two slots.
    index.free(slot)
    index.offsets[0], index.offsets[1] = 11 << 16, 0
    index.prints[0] = hashed & 0xFFFF

    assert -1 == index.pointing(hashed, 11)


def test_a_newcomer_takes_a_free_slot_then_the_stalest_ghosts_then_the_least_read(
    index,
):
    hashes = of_set(2, WAYS + 3)
    slots = [seat(index, hashed, 9) for hashed in hashes[:WAYS]]

    assert WAYS == len(set(slots))

    index.bury(slots[4], 4000)
    index.bury(slots[5], 4000)
    index.free(slots[6])

    assert slots[6] == seat(index, hashes[WAYS], 9)
    assert slots[4] == seat(index, hashes[WAYS + 1], 9)
    assert slots[5] == seat(index, hashes[WAYS + 2], 9)

    for slot in slots:
        index.uses[slot] = USE_MAX - (slot == slots[8])

    assert slots[8] == index.seat(hashes[0])


def test_a_ghost_is_fresh_until_as_much_was_evicted_as_it_may_wait_for(index):
    ghost, other = (seat(index, hashed, 9) for hashed in of_set(2, 2))
    index.bury(ghost, 100)

    assert index.is_fresh(ghost)
    assert not index.is_fresh(other)

    for _ in range(99):
        index.bury(other, 100)

    assert index.is_fresh(ghost)

    for _ in range(100):
        index.bury(other, 100)

    assert not index.is_fresh(ghost)
    assert index.is_fresh(other)


def test_a_free_slot_is_no_ghost(index):
    slot = seat(index, 5, 9)
    index.free(slot)

    assert not index.is_fresh(slot)
    assert [] == index.matches(5)
