"""The process that bench_memory.py weighs: a node that holds all entries, and no more.

A module of its own, so that what the benchmark itself imports is not weighed with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fleet import serve

import meshcache

VALUE = bytes(100)
BATCH = 1000


def keys(entries: int) -> Iterator[list[str]]:
    """Yield keys of 16 letters each, in batches."""
    for start in range(0, entries, BATCH):
        yield [f"key:{at:012}" for at in range(start, min(start + BATCH, entries))]


class Holder:
    """A node that holds all entries."""

    def __init__(self) -> None:
        self.node = meshcache.Node().__enter__()
        # The key's own encoding and the name come on top of its 16 bytes.
        self.cache = self.node.cache("m", ttl=None, codec="bytes")
        self.node.wait_ready(timeout=30)
        self.cache.get("not there")

    def __call__(self, entries: int, *, read: bool) -> int:
        if read:
            return sum(len(self.cache.get_many(some)) for some in keys(entries))
        for some in keys(entries):
            for key in some:
                self.cache.set(key, VALUE)
        return entries


if __name__ == "__main__":
    serve(Holder)
