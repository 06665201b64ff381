"""One process writes an arena as fast as it can while others read it.

Every value proves itself: it holds its key, its version, and a filling that follows
from the version. A reader counts what is wrong, and versions of a key that go back.
Used by bench_arena.py and by tests/processes/test_arena_readers.py.

    python hammer.py write FILE       until its input is closed
    python hammer.py read FILE SEED SECONDS READS
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from meshcache.clock import NEVER
from meshcache.hashing import PARTITIONS, key_hash, partition_of
from meshcache.store.arena import Arena
from meshcache.store.layout import Layout
from meshcache.store.view import View

MAX_BYTES = 400_000
KEYS = [b"hammer\0%d" % number for number in range(3000)]
HASHES = [key_hash(key) for key in KEYS]
BATCH = 1000


def value_of(key: bytes, version: int) -> bytes:
    return key + b"=%d=" % version + bytes([version & 0xFF]) * (version * 7 % 301)


def hammer(
    directory: Path, *, seconds: float = 3.0, reads: int = 10**12, readers: int = 4
) -> dict[str, Any]:
    """Let *readers* processes read until the first of *seconds* and *reads* in all."""
    path = directory / "hammered.arena"
    layout = Layout.for_bytes(MAX_BYTES)
    path.write_bytes(bytes(layout.total))
    script = [sys.executable, __file__]
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root}
    pipe = subprocess.PIPE
    writer = subprocess.Popen(
        [*script, "write", path], stdin=pipe, stdout=pipe, env=env, text=True
    )
    started = time.monotonic()
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        share = str(reads // readers)
        processes = [
            subprocess.Popen(
                [*script, "read", path, str(seed), str(seconds), share],
                stdout=pipe,
                env=env,
                text=True,
            )
            for seed in range(readers)
        ]
        found = Counter[str]()
        for process in processes:
            out, _ = process.communicate(timeout=seconds + 60)
            found.update(json.loads(out))
        out, _ = writer.communicate(timeout=60)
    finally:
        if writer.poll() is None:
            writer.kill()
            writer.wait()
    taken = time.monotonic() - started
    return {"reads": dict(found), "writer": json.loads(out), "seconds": taken}


def write(path: str) -> None:
    """Write, remove, hand out and take back until the input is closed."""
    memory, layout = mapped(path), Layout.for_bytes(MAX_BYTES)
    arena = Arena(
        memory, layout, node_id=bytes(16), epoch=1, host=1, max_value_bytes=10_000
    )
    for partition in range(PARTITIONS):
        arena.grant(partition)
    print("ready", flush=True)
    ended = threading.Event()
    threading.Thread(
        target=lambda: (sys.stdin.read(), ended.set()), daemon=True
    ).start()
    rng, version = Random(1), 0
    while not ended.is_set():
        for number in rng.choices(range(len(KEYS)), k=BATCH):
            version += 1
            key, hashed = KEYS[number], HASHES[number]
            value = value_of(key, version)
            arena.put(key, hashed, value, version=version, expires=NEVER, now=0.0)
        arena.remove(key, hashed, 0.0)
        arena.revoke(partition_of(hashed))
        arena.grant(partition_of(hashed))
    print(json.dumps(arena.stats() | {"puts": version}))


def read(path: str, seed: int, seconds: float, reads: int) -> None:
    """Read keys at random, some much more often than others, and judge each value."""
    view, rng = View(mapped(path)), Random(seed)
    last = [0] * len(KEYS)
    hits = wrong = backwards = done = 0
    end = time.monotonic() + seconds
    while done < reads and time.monotonic() < end:
        for share in rng.choices((rng.random(), rng.random() ** 8), k=BATCH):
            number = int(share * len(KEYS)) + rng.getrandbits(3)
            number = min(number, len(KEYS) - 1)
            key = KEYS[number]
            entry = view.get(key, HASHES[number], 0.0)
            if entry is None:
                continue
            hits += 1
            wrong += entry.value != value_of(key, entry.version)
            backwards += entry.version < last[number]
            last[number] = entry.version
        done += BATCH
    counts = {"done": done, "hits": hits, "wrong": wrong, "backwards": backwards}
    print(json.dumps(counts | {"torn": view.torn}))


def mapped(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:  # noqa: PTH123 - it is mapped, not read
        return mmap.mmap(file.fileno(), 0)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        read(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
