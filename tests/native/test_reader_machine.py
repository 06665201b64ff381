"""Both readers of an arena in use: whatever was done to it, they say the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from meshcache.codec.envelope import Envelope
from meshcache.hashing import key_hash, partition_of
from meshcache.store.layout import Layout

CACHES = [b"a", b"a|x", b"b"]
KEYS = [cache + b"\0%d" % number for cache in CACHES for number in range(8)]
KEYS += [b"", b"\0", b"a\0" + b"k" * 300]
caches = st.sampled_from(CACHES)
keys = st.sampled_from(KEYS)
tags = st.sampled_from([1 | 2 << 32, 2 | 1 << 32, 3 | 4 << 32])
bearing = st.just(()) | st.lists(tags, max_size=2, unique=True).map(tuple)
sizes = st.integers(0, 70) | st.sampled_from([200, 980, 1024, 3000])
versions = st.integers(0, 40) | st.sampled_from([2**63, 2**64 - 2, 2**64 - 1])
ttls = st.sampled_from([0, 1, 2, 5, math.inf, math.inf])


class ReadersMachine(RuleBasedStateMachine):
    """After each step each key is asked of both, and what is found was stored so."""

    make: type

    @initialize(
        sets=st.sampled_from([1, 3]),
        small=st.sampled_from([200, 1000]),
        main=st.sampled_from([2000, 5000, 20_000]),
    )
    def start(self, sets, small, main):
        self.twins = self.make(Layout(sets, small, main))
        self.arena = self.twins.arena
        self.largest = main - 400
        self.now = 0.0
        self.made = 0
        self.stored = {}

    @rule(
        items=st.lists(st.tuples(keys, sizes, versions, bearing), max_size=6), ttl=ttls
    )
    def put(self, items, ttl):
        for key, size, version, borne in items:
            self.made += 1
            body = b"%d:" % self.made + bytes(min(size, self.largest))
            value = Envelope(body, tags=borne).wrap() if size else b""
            expires = self.now + ttl
            if self.twins.put(key, value, version, expires=expires, now=self.now):
                self.stored[key] = value, version, expires

    @rule(key=keys)
    def remove(self, key):
        self.arena.remove(key, key_hash(key), self.now)
        self.stored.pop(key, None)

    @rule(key=keys, ttl=ttls)
    def touch(self, key, ttl):
        found = self.arena.touch(key, key_hash(key), self.now + ttl, self.now)
        if found is not None:
            self.stored[key] = tuple(found)

    @rule(cache=caches, version=versions)
    def clear(self, cache, version):
        self.arena.clear(cache, version)

    @rule(several=st.lists(tags, min_size=1, max_size=2), version=versions)
    def invalidate(self, several, version):
        self.arena.mark_tags(several, version)

    @rule(key=keys)
    def revoke(self, key):
        self.arena.revoke(partition_of(key_hash(key)), 1.0)

    @rule(key=keys)
    def grant(self, key):
        self.arena.grant(partition_of(key_hash(key)))

    @rule(several=st.lists(keys, max_size=8))
    def use(self, several):
        for key in several:
            self.arena.get(key, key_hash(key), self.now)

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds):
        self.now += seconds

    @invariant()
    def both_say_the_same(self):
        if not hasattr(self, "twins"):
            return
        uses = self.twins.parts.index.uses
        before = bytes(uses)
        for key in KEYS:
            found = self.twins.read(key, self.now)

            assert found is None or self.stored[key] == found
        # Else all would have been read as often as can be, and none be evicted.
        uses[:] = before

        assert [0, 0] == self.twins.torn


@pytest.mark.slow
def test_both_readers_agree_about_an_arena_in_use(make_twins):
    machine = type("Machine", (ReadersMachine,), {"make": make_twins})
    chosen = settings(max_examples=40, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(machine, settings=chosen)
