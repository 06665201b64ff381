from __future__ import annotations

import gc
import math
import tracemalloc
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshcache.clock import NEVER
from meshcache.errors import ConfigError, ValueTooLarge
from meshcache.hashing import PARTITIONS, key_hash, partition_of
from meshcache.store import memory
from meshcache.store.memory import ENTRY_BYTES, MemoryStore

MAX_VALUE = 10_000


def make(entries: int = 100) -> MemoryStore:
    """Return a store with room for about so many entries of 100 bytes."""
    total = 2_000_000
    for _ in range(3):
        fixed = MemoryStore(total, MAX_VALUE).stats()["bytes"]
        total = fixed + entries * (ENTRY_BYTES + 100)
    store = MemoryStore(total, MAX_VALUE)
    for partition in range(PARTITIONS):
        store.grant(partition, 1)
    return store


def put(store, key, value=b"value", version=1, *, expires=NEVER, now=0.0):
    return store.put(
        key, key_hash(key), value, version=version, expires=expires, now=now
    )


def get(store, key, now=0.0):
    found = store.get(key, key_hash(key), now)
    return None if found is None else found.value


def remove(store, key, now=0.0):
    return store.remove(key, key_hash(key), now)


def touch(store, key, expires, now=0.0):
    return store.touch(key, key_hash(key), expires, now)


def partition(key):
    return partition_of(key_hash(key))


def test_what_was_put_is_found_with_its_version_and_expiry():
    store = make()

    assert put(store, b"c\0key", b"value", version=7, expires=9.0)
    assert (b"value", 7, 9.0) == store.get(b"c\0key", key_hash(b"c\0key"), 0.0)


def test_an_entry_is_gone_at_the_moment_it_expires():
    store = make()
    put(store, b"c\0key", expires=5.0)

    assert b"value" == get(store, b"c\0key", now=4.9)
    assert None is get(store, b"c\0key", now=5.0)


@pytest.mark.parametrize(("version", "stored"), [(6, False), (7, True), (8, True)])
def test_the_greater_version_wins_and_an_equal_one_replaces(version, stored):
    store = make()
    put(store, b"c\0key", b"old", version=7)

    assert stored is put(store, b"c\0key", b"new", version=version)
    assert (b"new" if stored else b"old") == get(store, b"c\0key")


def test_a_dead_entry_does_not_hold_its_version_against_a_newcomer():
    store = make()
    put(store, b"c\0key", b"old", version=7, expires=5.0)

    assert put(store, b"c\0key", b"new", version=6, now=6.0)
    assert b"new" == get(store, b"c\0key", now=6.0)
    assert 1 == store.stats()["expired"]


def test_a_value_that_has_expired_already_replaces_the_old_one_by_nothing():
    store = make()
    put(store, b"c\0key", b"old", version=1)

    assert put(store, b"c\0key", b"new", version=2, expires=3.0, now=3.0)
    assert 0 == store.stats()["entries"]


def test_nothing_is_stored_in_a_partition_that_is_not_ours():
    store = make()
    store.revoke(partition(b"c\0key"))

    assert not put(store, b"c\0key")

    store.grant(partition(b"c\0key"), 2)

    assert None is get(store, b"c\0key")


def test_revoking_ends_the_entries_of_the_partition_and_no_others():
    store = make()
    put(store, b"c\0key")
    put(store, b"c\0other")

    store.revoke(partition(b"c\0key"))

    assert None is get(store, b"c\0key")
    assert b"value" == get(store, b"c\0other")


def test_granting_again_does_not_bring_the_old_entries_back():
    store = make()
    put(store, b"c\0key")
    store.revoke(partition(b"c\0key"))
    store.revoke(partition(b"c\0key"))

    store.grant(partition(b"c\0key"), 2)

    assert None is get(store, b"c\0key")
    assert put(store, b"c\0key", b"new")
    assert b"new" == get(store, b"c\0key")
    assert 1 == store.stats()["revoked_dropped"]


def test_granting_the_present_tenure_again_changes_nothing():
    store = make()
    put(store, b"c\0key")

    store.grant(partition(b"c\0key"), 1)

    assert b"value" == get(store, b"c\0key")


def test_a_tenure_never_comes_twice():
    store = make()
    store.revoke(5)

    with pytest.raises(AssertionError):
        store.grant(5, 1)


def test_clearing_ends_a_cache_up_to_the_version_and_no_other_cache():
    store = make()
    for version in (4, 5, 6):
        put(store, b"c\0%d" % version, version=version)
    put(store, b"cc\0key", version=4)

    store.clear(b"c", 5)

    assert None is get(store, b"c\x004")
    assert None is get(store, b"c\x005")
    assert b"value" == get(store, b"c\x006")
    assert b"value" == get(store, b"cc\0key")


def test_what_was_cleared_does_not_come_back_by_a_late_write_or_an_older_clear():
    store = make()
    store.clear(b"c", 5)
    store.clear(b"c", 3)

    assert not put(store, b"c\0key", version=5)
    assert put(store, b"c\0key", version=6)


def test_clearing_more_caches_than_are_remembered_forgets_none_of_them(monkeypatch):
    monkeypatch.setattr(memory, "MAX_CLEARED", 3)
    store = make()
    for number in range(8):
        put(store, b"%d\0key" % number, version=10)
    put(store, b"kept\0key", version=10)

    for number in range(8):
        store.clear(b"%d" % number, 20)

        assert len(store._clears.versions) <= 3

    assert [None] * 8 == [get(store, b"%d\0key" % number) for number in range(8)]
    assert not put(store, b"0\0key", version=20)
    assert put(store, b"0\0key", version=21)
    assert b"value" == get(store, b"kept\0key")


def test_touch_moves_the_expiry_and_nothing_else():
    store = make()
    put(store, b"c\0key", version=7, expires=5.0)

    assert (b"value", 7, 9.0) == touch(store, b"c\0key", 9.0)
    assert b"value" == get(store, b"c\0key", now=8.0)
    assert None is touch(store, b"c\0never", 9.0)
    assert None is touch(store, b"c\0key", 20.0, now=9.0)


def test_touch_into_the_past_removes():
    store = make()
    put(store, b"c\0key")

    assert b"value" == touch(store, b"c\0key", 3.0, now=3.0).value
    assert None is get(store, b"c\0key", now=0.0)


def test_remove_returns_what_was_alive():
    store = make()
    put(store, b"c\0key", expires=5.0)
    put(store, b"c\0late", expires=5.0)

    assert b"value" == remove(store, b"c\0key").value
    assert None is remove(store, b"c\0key")
    assert None is remove(store, b"c\0late", now=6.0)
    assert 0 == store.stats()["entries"]


def test_a_value_over_the_limit_is_refused_by_name_and_leaves_the_old_one():
    store = make()
    put(store, b"c\0key")

    with pytest.raises(ValueTooLarge, match=r"10001 bytes .* 10000 .*max_value_bytes"):
        put(store, b"c\0key", bytes(MAX_VALUE + 1), version=2)

    assert b"value" == get(store, b"c\0key")
    assert 1 == store.stats()["refused_too_large"]


def test_a_value_that_is_larger_than_the_store_is_refused_by_name():
    store = make(entries=2)

    with pytest.raises(ValueTooLarge, match="max_bytes"):
        put(store, b"c\0key", bytes(5000))


def test_a_store_too_small_for_its_own_tables_is_refused():
    with pytest.raises(ConfigError, match="max_bytes is 10000"):
        MemoryStore(10_000, 100)


def test_a_full_store_evicts_and_counts_what_was_still_good():
    store = make(entries=100)
    for number in range(50):
        put(store, b"c\0%d" % number, bytes(90), expires=1.0)
    for number in range(50, 300):
        put(store, b"c\0%d" % number, bytes(90), now=2.0)

    stats = store.stats()

    assert stats["max_bytes"] - 600 < stats["bytes"] <= stats["max_bytes"]
    assert 300 == stats["entries"] + stats["evicted"]
    assert stats["evicted"] == stats["evicted_unexpired"] + stats["expired"]
    assert stats["expired"] > 0


def test_what_is_read_stays_when_a_scan_passes():
    store = make(entries=100)
    for number in range(100):
        put(store, b"c\0%d" % number, bytes(90))
    get(store, b"c\x000")
    get(store, b"c\x000")

    for number in range(1000, 1060):
        put(store, b"c\0%d" % number, bytes(90))

    assert None is not get(store, b"c\x000")
    assert None is get(store, b"c\x001")


def test_a_sweep_drops_the_expired_the_cleared_and_the_revoked():
    store = make(entries=200)
    for number in range(40):
        put(store, b"short\0%d" % number, expires=1.0)
        put(store, b"gone\0%d" % number)
        put(store, b"kept\0%d" % number)
    store.clear(b"gone", 1)
    store.revoke(partition(b"kept\0" + b"7"))

    removed = [store.sweep(2.0, 10) for _ in range(13)]

    assert max(removed) <= 10
    assert 81 == sum(removed)

    stats = store.stats()

    assert (39, 40, 40, 1) == (
        stats["entries"],
        stats["expired"],
        stats["cleared"],
        stats["revoked_dropped"],
    )


def test_a_handover_sees_the_living_entries_of_its_partitions():
    store = make()
    keys = [b"c\0%d" % number for number in range(30)]
    for key in keys:
        put(store, key, value=key)
    put(store, b"c\0short", expires=1.0)
    wanted = {partition(key) for key in [*keys[:10], b"c\0short"]}

    found = store.entries(wanted, 2.0)
    first = next(found)
    remove(store, keys[9])

    assert {first[0], *(key for key, _ in found)} == set(keys[:9])
    assert first[0] == first[1].value


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [4, 8, 13])
def test_the_memory_really_used_is_within_the_bound(megabytes):
    rng = Random(megabytes)
    max_bytes = megabytes * 10**6
    gc.collect()
    tracemalloc.start()
    try:
        store = MemoryStore(max_bytes, MAX_VALUE)
        for number in range(PARTITIONS):
            store.grant(number, 10**12 + number)
        written = 0
        # Twice over, because a dict is largest just after growing among evictions.
        while written < 2 * (store.stats()["entries"] + 1):
            key = rng.randbytes(16)
            version, expires = (1 << 58) + written, written + 9.5
            put(store, key, bytes(100), version, expires=expires)
            written += 1
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert store.stats()["bytes"] <= max_bytes
    assert 0.85 * max_bytes < used <= 1.05 * max_bytes


caches = st.sampled_from([b"a", b"b", b"c", b"d"])
keys = st.builds(lambda cache, n: cache + b"\0%d" % n, caches, st.integers(0, 11))


class MemoryMachine(RuleBasedStateMachine):
    """The store against a dict that forgets nothing: it may forget, never be wrong.

    The truth of a key is the entry with the greatest version among those that the
    store took while the partition was ours; whatever ends it deletes it here.
    """

    def __init__(self):
        super().__init__()
        self.store = make(entries=15)
        self.truth = {}
        self.cleared = {}
        self.tenure = 1
        self.ours = set(range(PARTITIONS))
        self.now = 0.0
        self.made = 0

    def living(self, key):
        found = self.truth.get(key)
        return found if found is not None and found[2] > self.now else None

    @rule(
        key=keys,
        size=st.sampled_from([0, 50, 1000, 4000]),
        version=st.integers(1, 40),
        ttl=st.sampled_from([0, 1, 2, 5, math.inf]),
    )
    def put(self, key, size, version, ttl):
        self.made += 1
        value, expires = b"%d:" % self.made + bytes(size), self.now + ttl
        took = put(self.store, key, value, version, expires=expires, now=self.now)
        if took:
            assert partition(key) in self.ours
            assert version > self.cleared.get(key[:1], -1)

            self.truth[key] = (value, version, expires)
        elif partition(key) in self.ours and version > self.cleared.get(key[:1], -1):
            # Only a greater version that lives is a reason to refuse.
            assert self.living(key)[1] > version

    @rule(key=keys)
    def read(self, key):
        found = self.store.get(key, key_hash(key), self.now)

        assert found is None or self.living(key) == found

    @rule(key=keys)
    def remove(self, key):
        found = remove(self.store, key, self.now)

        assert found is None or self.living(key) == found

        self.truth.pop(key, None)

    @rule(key=keys, ttl=st.integers(0, 5))
    def touch(self, key, ttl):
        before, expires = self.living(key), self.now + ttl
        found = touch(self.store, key, expires, self.now)
        if found is not None:
            assert (before[0], before[1], expires) == found

            self.truth[key] = tuple(found)

    @rule(cache=caches, version=st.integers(1, 40))
    def clear(self, cache, version):
        self.store.clear(cache, version)
        self.cleared[cache] = max(version, self.cleared.get(cache, -1))
        self.truth = {
            key: entry
            for key, entry in self.truth.items()
            if key[:1] != cache or entry[1] > version
        }

    @rule(key=keys)
    def revoke(self, key):
        self.store.revoke(partition(key))
        self.ours.discard(partition(key))
        self.forget_partition(key)

    @rule(key=keys)
    def grant(self, key):
        self.tenure += 1
        self.store.grant(partition(key), self.tenure)
        self.ours.add(partition(key))
        self.forget_partition(key)

    def forget_partition(self, key):
        for other in list(self.truth):
            if partition(other) == partition(key):
                del self.truth[other]

    @rule(limit=st.integers(0, 10))
    def sweep(self, limit):
        before = self.store.stats()["entries"]
        removed = self.store.sweep(self.now, limit)

        assert removed <= limit
        assert before - removed == self.store.stats()["entries"]

    @rule()
    def hand_over(self):
        for key, entry in self.store.entries(self.ours, self.now):
            assert self.living(key) == entry

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds):
        self.now += seconds

    @invariant()
    def bounds_hold(self):
        stats = self.store.stats()
        weights = [stored.weight for stored in self.store._stored.values()]

        assert stats["bytes"] <= stats["max_bytes"]
        assert stats["bytes"] == self.store._fixed_bytes + sum(weights)
        assert len(weights) == stats["entries"]


MemoryMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestMemoryMachine = pytest.mark.slow(MemoryMachine.TestCase)
