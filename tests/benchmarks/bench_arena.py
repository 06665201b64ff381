"""What the arena costs, and that readers of other processes get nothing but the truth.

    python tests/benchmarks/bench_arena.py [--quick] [--json] [--reads N] [--bytes N]

Costs are nanoseconds of CPU for a key of 24 bytes, by the size of the value: the least
of several repeats, since all that can happen to a repeat is that it takes longer. The
log has been filled and goes round; "put, read" is with newcomers that readers ask for,
so that entries are promoted and go round in main. The counts say what the index did.

The hammering is one process that writes and four that read; see hammer.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from hammer import hammer

from meshcache.clock import NEVER
from meshcache.hashing import PARTITIONS, key_hash
from meshcache.store.arena import Arena, private
from meshcache.store.layout import Layout
from meshcache.store.view import View

MAX_BYTES = 8_000_000
SIZES = (100, 1000, 10_000)
BATCH = 500
REPEATS = 60
HAMMERED = 10_000_000
SEED = 1


class Subject:
    """An arena that is full and goes round, and a view of it."""

    def __init__(self, max_bytes: int, size: int) -> None:
        memory = private(max_bytes)
        self.arena = Arena(
            memory,
            Layout.for_bytes(max_bytes),
            node_id=bytes(16),
            epoch=1,
            host=1,
            max_value_bytes=max(SIZES),
        )
        for partition in range(PARTITIONS):
            self.arena.grant(partition)
        self.view = View(memory)
        self.value = bytes(size)
        self.numbers = count()
        self.newest: list[tuple[bytes, int]] = []
        for _ in range(2 * max_bytes // (BATCH * size) + 1):
            self.store(self.fresh())

    def fresh(self) -> list[tuple[bytes, int]]:
        names = [b"bench\0%018d" % next(self.numbers) for _ in range(BATCH)]
        self.newest = [(name, key_hash(name)) for name in names]
        return self.newest

    def store(self, keys: list[tuple[bytes, int]]) -> None:
        put, value = self.arena.put, self.value
        for key, hashed in keys:
            put(key, hashed, value, version=1, expires=NEVER, now=0.0)


def least(
    work: Callable[[list[tuple[bytes, int]]], object],
    keys: Callable[[], list[tuple[bytes, int]]],
    repeats: int,
) -> int:
    """Return the least nanoseconds of *work* for each of the keys given to it."""
    best = float("inf")
    for _ in range(repeats):
        chosen = keys()
        start = process_time()
        work(chosen)
        best = min(best, (process_time() - start) / len(chosen))
    return round(1e9 * best)


def costs(max_bytes: int, size: int, repeats: int) -> dict[str, Any]:
    subject, rng = Subject(max_bytes, size), Random(SEED)
    arena, view = subject.arena, subject.view
    # Few enough to be there all the time, whatever the size.
    kept = subject.fresh()[: max(1, arena._small.size // (8 * size))]
    subject.store(kept)

    def reading(get: Callable[..., object]) -> Callable[[Any], None]:
        def read(keys: list[tuple[bytes, int]]) -> None:
            for key, hashed in keys:
                get(key, hashed, 0.0)

        return read

    def touch(keys: list[tuple[bytes, int]]) -> None:
        for key, hashed in keys:
            arena.touch(key, hashed, NEVER, 0.0)

    def read_before() -> list[tuple[bytes, int]]:
        for key, hashed in rng.sample(subject.newest, BATCH // 3):
            for _ in range(2):
                arena.get(key, hashed, 0.0)
        return subject.fresh()

    return {
        "arena.get": least(reading(arena.get), lambda: kept, repeats),
        "view.get": least(reading(view.get), lambda: kept, repeats),
        "view.get, miss": least(reading(view.get), subject.fresh, repeats),
        "put, new": least(subject.store, subject.fresh, repeats),
        "put, read": least(subject.store, read_before, repeats),
        "put, again": least(subject.store, lambda: kept, repeats),
        "touch": least(touch, lambda: kept, repeats),
        "counts": arena.stats(),
    }


def run(max_bytes: int, repeats: int, reads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        hammered = hammer(Path(directory), seconds=600.0, reads=reads)
    return {
        "max_bytes": max_bytes,
        "repeats": repeats,
        "costs": {str(size): costs(max_bytes, size, repeats) for size in SIZES},
        "hammered": hammered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=int, default=MAX_BYTES)
    parser.add_argument("--reads", type=int, default=HAMMERED)
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    reads = min(asked.reads, 50_000) if asked.quick else asked.reads
    found = run(asked.bytes, 5 if asked.quick else REPEATS, reads)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    sizes = found["costs"]
    print(f"{'ns by value bytes':24}" + "".join(f"{size:>12}" for size in sizes))
    for name in next(iter(sizes.values())):
        if name != "counts":
            row = [sizes[size][name] for size in sizes]
            print(f"{name:24}" + "".join(f"{cost:>12}" for cost in row))
    for name in next(iter(sizes.values()))["counts"]:
        row = [sizes[size]["counts"][name] for size in sizes]
        print(f"{name:24}" + "".join(f"{number:>12}" for number in row))
    print("hammered", found["hammered"]["reads"], found["hammered"]["writer"]["puts"])


if __name__ == "__main__":
    main()
