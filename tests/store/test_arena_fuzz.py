"""Anybody may change any byte of the memory at any time: misses, nothing else."""

from __future__ import annotations

import mmap
from random import Random
from time import perf_counter

import pytest

from meshcache.clock import NEVER
from meshcache.hashing import PARTITIONS, key_hash, partition_of
from meshcache.store.arena import Arena
from meshcache.store.layout import Layout
from meshcache.store.view import BadArena, View

LAYOUT = Layout(9, 1000, 10_000)
KEYS = [b"c%d\0%d" % (number % 3, number) for number in range(60)]
HASHES = {key: key_hash(key) for key in KEYS}
PATIENCE = 2.0


class Victim:
    """An arena and a view whose memory is damaged while they are used."""

    def __init__(self, seed):
        self.rng = Random(seed)
        self.memory = mmap.mmap(-1, LAYOUT.total)
        self.arena = Arena(
            self.memory,
            LAYOUT,
            node_id=bytes(16),
            epoch=1,
            host=1,
            max_value_bytes=2000,
        )
        for partition in range(PARTITIONS):
            self.arena.grant(partition)
        self.view = View(self.memory)
        self.stored = {key: set() for key in KEYS}
        self.version = 0

    def damage(self, start, end):
        """Change something from *start* to *end*: a bit, a word, or a whole range."""
        rng, memory = self.rng, self.memory
        at = rng.randrange(start, end)
        match rng.randrange(5):
            case 0:
                memory[at] ^= 1 << rng.randrange(8)
            case 1:
                size = min(rng.randrange(1, 17), end - at)
                memory[at : at + size] = rng.randbytes(size)
            case 2:
                size = min(rng.randrange(1, 500), end - at)
                memory[at : at + size] = rng.choice([b"\0", b"\xff"]) * size
            case 3:
                size = min(rng.randrange(1, 2000), end - at)
                memory[at : at + size] = rng.randbytes(size)
            case 4:
                size = min(rng.randrange(1, 500), end - at)
                other = rng.randrange(start, end - size + 1)
                memory[at : at + size] = memory[other : other + size]

    def use(self):
        """Do each thing once; check that what is found was stored under its key."""
        rng, key = self.rng, self.rng.choice(KEYS)
        hashed = HASHES[key]
        self.version += 1
        value = b"%s=%d" % (key, self.version) + bytes(rng.randrange(300))
        if self.arena.put(
            key, hashed, value, version=self.version, expires=NEVER, now=0.0
        ):
            self.stored[key].add((value, self.version))
        key = rng.choice(KEYS)
        hashed = HASHES[key]
        for found in (
            self.arena.get(key, hashed, 0.0),
            self.view.get(key, hashed, 0.0),
            self.view.peek(key, hashed, 0.0),
            self.arena.touch(key, hashed, NEVER, 0.0) if rng.random() < 0.2 else None,
            self.arena.remove(key, hashed, 0.0) if rng.random() < 0.1 else None,
        ):
            assert found is None or found[:2] in self.stored[key]
        if rng.random() < 0.05:
            self.arena.revoke(partition_of(hashed))
        if rng.random() < 0.3:
            self.arena.grant(partition_of(hashed))
        if rng.random() < 0.02:
            self.arena.clear(b"c%d" % rng.randrange(3), self.version)
            self.arena.generations.bump(rng.randrange(4096))
        self.arena.stats()

    def walk(self):
        cursor, steps = 0, 0
        while cursor is not None:
            cursor, items = self.view.walk(range(PARTITIONS), cursor, 32, 0.0)
            steps += 1
            for key, hashed, entry in items:
                assert HASHES[key] == hashed
                assert entry[:2] in self.stored[key]

        assert steps <= LAYOUT.slots


PARTS = {
    "anywhere": (0, LAYOUT.total),
    "tables": (LAYOUT.generations_at, LAYOUT.offsets_at),
    "marks": (72, 104),
    "offsets": (LAYOUT.offsets_at, LAYOUT.prints_at),
    "index": (LAYOUT.offsets_at, LAYOUT.logs_at),
    "small": (LAYOUT.logs_at, LAYOUT.logs_at + LAYOUT.small_bytes),
    "logs": (LAYOUT.logs_at, LAYOUT.total),
}


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))]
)
@pytest.mark.parametrize("part", PARTS)
def test_damage_is_a_miss_and_never_an_error(part, seed):
    victim = Victim(seed)
    for _ in range(100):
        victim.use()
    for _ in range(200):
        victim.damage(*PARTS[part])
        start = perf_counter()
        for _ in range(3):
            victim.use()
        if victim.rng.random() < 0.05:
            victim.walk()

        assert perf_counter() - start < PATIENCE


def test_after_damage_of_the_logs_the_store_works_again():
    victim = Victim(1)
    for _ in range(200):
        victim.use()
    size = LAYOUT.total - LAYOUT.logs_at
    victim.memory[LAYOUT.logs_at :] = victim.rng.randbytes(size)
    for _ in range(300):
        victim.use()
    for key in KEYS[:10]:
        victim.version += 1
        victim.arena.put(
            key, HASHES[key], b"x", version=victim.version, expires=NEVER, now=0.0
        )

        assert b"x" == victim.view.get(key, HASHES[key], 0.0).value

    assert victim.arena.stats()["resets"] > 0
    assert 0 <= victim.arena.stats()["entries"] <= LAYOUT.slots


def test_a_view_of_noise_is_refused_or_reads_misses():
    rng = Random(7)
    victim = Victim(7)
    for _ in range(100):
        victim.use()
    whole = victim.memory[:]
    for _ in range(200):
        victim.memory[:] = whole
        victim.damage(0, 104)
        try:
            view = View(victim.memory)
        except BadArena:
            continue
        for key in rng.sample(KEYS, 10):
            found = view.get(key, HASHES[key], 0.0)

            assert found is None or found[:2] in victim.stored[key]
        view.walk(range(PARTITIONS), 0, 10**9, 0.0)
