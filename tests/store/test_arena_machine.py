"""The arena against a dict that forgets nothing: it may forget, never be wrong."""

from __future__ import annotations

import math
import mmap

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshcache.codec.envelope import Envelope, tags_of
from meshcache.hashing import PARTITIONS, key_hash, partition_of
from meshcache.store.arena import Arena
from meshcache.store.layout import Layout
from meshcache.store.view import View

caches = st.sampled_from([b"a", b"a|x", b"b"])
keys = st.builds(lambda cache, n: cache + b"\0%d" % n, caches, st.integers(0, 5))
tags = st.sampled_from([1 | 2 << 32, 2 | 1 << 32, 3 | 4 << 32])
# The first two share their slots, and so their fate.
FATE = {1 | 2 << 32: 12, 2 | 1 << 32: 12, 3 | 4 << 32: 34}
bearing = st.lists(tags, max_size=2, unique=True).map(tuple)
sizes = st.one_of(st.integers(0, 70), st.sampled_from([200, 900, 5000]))


def partition(key):
    return partition_of(key_hash(key))


class ArenaMachine(RuleBasedStateMachine):
    """Reads go through the owner and through a view, and must agree.

    The truth of a key is what the arena took last while the partition was ours;
    whatever ends it deletes it here. While nothing has been evicted, it is exact.
    """

    @initialize(
        sets=st.sampled_from([1, 3, 9]),
        small=st.sampled_from([200, 512, 1000]),
        main=st.sampled_from([1024, 2000, 6000, 40_000]),
    )
    def start(self, sets, small, main):
        layout = Layout(sets, small, main)
        self.memory = mmap.mmap(-1, layout.total)
        self.largest = main - 28 - 3
        self.arena = Arena(
            self.memory,
            layout,
            node_id=bytes(16),
            epoch=1,
            host=1,
            max_value_bytes=10_000,
        )
        for number in range(PARTITIONS):
            self.arena.grant(number)
        self.view = View(self.memory)
        self.truth = {}
        self.sealed = {}
        self.cleared = {}
        self.untagged = {}
        self.revoked = set()
        self.now = 0.0
        self.made = 0

    @property
    def exact(self):
        return not self.arena.stats()["evicted"]

    def living(self, key):
        found = self.truth.get(key)
        return found if found is not None and found[2] > self.now else None

    def bound(self, key):
        cache = key.partition(b"\0")[0]
        whole = cache.partition(b"|")[0]
        return max(self.cleared.get(cache, -1), self.cleared.get(whole, -1))

    def tag_bound(self, value):
        fates = {FATE[tag] for tag in tags_of(value)}
        return max((self.untagged.get(fate, -1) for fate in fates), default=-1)

    def check(self, found, key):
        if found is not None or self.exact:
            assert self.living(key) == found

    @rule(
        items=st.lists(
            st.tuples(keys, sizes, st.integers(0, 40), st.just(()) | bearing),
            max_size=12,
        ),
        ttl=st.sampled_from([0, 1, 2, 5, math.inf, math.inf]),
    )
    def put_some(self, items, ttl):
        for key, size, version, borne in items:
            self.put(key, size, version, borne, ttl)

    def put(self, key, size, version, borne, ttl):
        self.made += 1
        body = (b"%d:" % self.made + bytes(size))[: self.largest - 10 - 15 - 16]
        value = Envelope(body, tags=borne).wrap()
        expires = self.now + ttl
        took = self.arena.put(
            key,
            key_hash(key),
            value,
            version=version,
            expires=expires,
            now=self.now,
        )
        bound = max(self.bound(key), self.tag_bound(value))
        allowed = partition(key) not in self.revoked and version > bound
        if took:
            assert allowed
            if self.exact and self.living(key):
                assert self.living(key)[1] <= version

            self.truth[key] = (value, version, expires)
            if self.living(key):
                assert self.arena.get(key, key_hash(key), self.now) == self.truth[key]
        elif allowed:
            # Only a greater version that lives is a reason to refuse.
            assert self.living(key)[1] > version

    @rule(several=st.lists(keys, max_size=12))
    def read_some(self, several):
        for key in several:
            self.read(key)

    def read(self, key):
        found = self.arena.get(key, key_hash(key), self.now)

        assert found == self.view.get(key, key_hash(key), self.now)
        assert found == self.view.peek(key, key_hash(key), self.now) or (
            partition(key) in self.revoked
        )
        self.check(found, key)

    @rule(key=keys)
    def remove(self, key):
        self.check(self.arena.remove(key, key_hash(key), self.now), key)

        assert self.arena.get(key, key_hash(key), self.now) is None

        self.truth.pop(key, None)
        # In a revoked partition nothing is found, yet what lay there is gone.
        self.sealed.pop(key, None)

    @rule(key=keys, ttl=st.integers(0, 5))
    def touch(self, key, ttl):
        before, expires = self.living(key), self.now + ttl
        found = self.arena.touch(key, key_hash(key), expires, self.now)
        if found is None:
            self.check(found, key)
        else:
            assert (before[0], before[1], expires) == found

            self.truth[key] = tuple(found)

    @rule(cache=caches, version=st.integers(0, 40))
    def clear(self, cache, version):
        self.arena.clear(cache, version)
        self.cleared[cache] = max(version, self.cleared.get(cache, -1))
        for held in (self.truth, self.sealed):
            for key in [k for k, e in held.items() if e[1] <= self.bound(k)]:
                del held[key]

    @rule(
        several=st.lists(tags, min_size=1, max_size=2),
        version=st.integers(0, 40),
        key=keys,
        borne=bearing,
    )
    def invalidate(self, several, version, key, borne):
        self.put(key, 10, version, borne, math.inf)
        self.arena.mark_tags(several, version)
        for fate in {FATE[tag] for tag in several}:
            self.untagged[fate] = max(version, self.untagged.get(fate, -1))
        for held in (self.truth, self.sealed):
            for dead in [k for k, e in held.items() if e[1] <= self.tag_bound(e[0])]:
                del held[dead]
                self.read(dead)

    @rule(key=keys)
    def revoke(self, key):
        self.arena.revoke(partition(key))
        self.revoked.add(partition(key))
        for other in [k for k in self.truth if partition(k) == partition(key)]:
            self.sealed[other] = self.truth.pop(other)

    @rule(key=keys, rounds=st.sampled_from([1, 1, 1, 62, 63, 64, 126]))
    def grant(self, key, rounds):
        if partition(key) not in self.revoked:
            self.arena.grant(partition(key))
            return
        for _ in range(rounds - 1):
            self.arena.grant(partition(key))
            self.arena.revoke(partition(key))
        self.arena.grant(partition(key))
        self.revoked.discard(partition(key))
        for other in [k for k in self.sealed if partition(k) == partition(key)]:
            del self.sealed[other]

    @rule(limit=st.integers(1, 50))
    def walk(self, limit):
        found, cursor = {}, 0
        while cursor is not None:
            cursor, items = self.view.walk(range(PARTITIONS), cursor, limit, self.now)
            found |= {key: tuple(entry) for key, _, entry in items}
        there = {
            key: entry
            for key, entry in (self.truth | self.sealed).items()
            if entry[2] > self.now
        }

        assert found.items() <= there.items()
        if self.exact:
            assert there == found

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds):
        self.now += seconds

    @invariant()
    def counts_agree(self):
        if not hasattr(self, "arena"):
            return
        stats, index = self.arena.stats(), self.arena._index
        rings = (self.arena._small, self.arena._main)

        assert stats["entries"] == sum(offset > 0 for offset in index.offsets)
        assert stats["bytes_live"] == sum(ring.live for ring in rings)
        assert all(0 <= ring.live <= ring.used <= ring.size for ring in rings)
        assert 0 == stats["resets"] == stats["checksum_misses"]


ArenaMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None
)
TestArenaMachine = pytest.mark.slow(ArenaMachine.TestCase)
