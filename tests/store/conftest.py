"""Small arenas, and the shorthand in which the tests speak to them."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import pytest

from meshcache.clock import NEVER
from meshcache.hashing import PARTITIONS, key_hash
from meshcache.store.arena import Arena
from meshcache.store.layout import SLOT_BYTES, UNIT, WAYS, Layout
from meshcache.store.view import View

MAX_VALUE = 10_000


class Bench:
    """An arena with every partition granted, and a view of the same memory."""

    def __init__(self, layout: Layout, max_value_bytes: int = MAX_VALUE) -> None:
        self.layout = layout
        self.memory = mmap.mmap(-1, layout.total)
        self.arena = Arena(
            self.memory,
            layout,
            node_id=bytes(range(16)),
            epoch=7,
            host=5,
            max_value_bytes=max_value_bytes,
        )
        for partition in range(PARTITIONS):
            self.arena.grant(partition)
        self.view = View(self.memory)

    def put(
        self,
        key: bytes,
        value: bytes = b"value",
        version: int = 1,
        *,
        expires: float = NEVER,
        now: float = 0.0,
    ) -> bool:
        return self.arena.put(
            key, key_hash(key), value, version=version, expires=expires, now=now
        )

    def get(self, key: bytes, now: float = 0.0) -> bytes | None:
        """Return the value that the owner reads, which is what others read."""
        found = self.arena.get(key, key_hash(key), now)
        assert found == self.view.get(key, key_hash(key), now)
        return None if found is None else found.value

    def peek(self, key: bytes, now: float = 0.0) -> bytes | None:
        found = self.view.peek(key, key_hash(key), now)
        return None if found is None else found.value

    def remove(self, key: bytes, now: float = 0.0) -> Any:
        return self.arena.remove(key, key_hash(key), now)

    def touch(self, key: bytes, expires: float, now: float = 0.0) -> Any:
        return self.arena.touch(key, key_hash(key), expires, now)

    def walked(
        self, partitions: Any = range(PARTITIONS), now: float = 0.0, limit: int = 64
    ) -> dict[bytes, bytes]:
        """Return what a whole walk of the view comes by."""
        found, cursor = {}, 0
        while cursor is not None:
            cursor, items = self.view.walk(partitions, cursor, limit, now)
            found |= {key: entry.value for key, _, entry in items}
        return found


def layout_for(logs: int) -> Layout:
    """Return a layout with so many bytes of logs, however few, and slots to spare."""
    sets = max(1, 2 * logs // (WAYS * SLOT_BYTES))
    small = logs // 10 // UNIT * UNIT
    return Layout(sets - (not sets & 1), small, logs // UNIT * UNIT - small)


@pytest.fixture
def make() -> Callable[..., Bench]:
    """Return an arena with room for about so many entries of 100 bytes."""

    def make_bench(entries: int = 100, **settings: Any) -> Bench:
        return Bench(layout_for(entries * 128), **settings)

    return make_bench


@pytest.fixture
def bench(make) -> Bench:
    return make()
