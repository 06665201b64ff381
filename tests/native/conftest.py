"""What is compiled and its twin in Python, side by side on the same bytes."""

from __future__ import annotations

import gc
import mmap
import sys
import tracemalloc
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest

from meshcache import native
from meshcache.clock import NEVER
from meshcache.hashing import key_hash
from meshcache.store.arena import Arena
from meshcache.store.index import UNREAD
from meshcache.store.layout import UNIT, WAYS, Layout, Words
from meshcache.store.record import Entry, encode
from meshcache.store.view import View, _compiled, _make_get

MAX_VALUE = 200_000
LEAK_ROUNDS = 1000
_HOLDERS = (list, tuple, dict, set, frozenset)


@pytest.fixture(scope="session")
def compiled() -> Any:
    """The compiled module."""
    if not native.built:
        pytest.skip("nothing was compiled, or MESHCACHE_NATIVE leaves it aside")
    return native._compiled


class Twins:
    """An arena with every partition granted, and both readers of its memory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.memory = mmap.mmap(-1, layout.total)
        self.arena = Arena(
            self.memory,
            layout,
            node_id=bytes(16),
            epoch=1,
            host=1,
            max_value_bytes=MAX_VALUE,
        )
        self.arena.grant_all()
        self.parts = parts = View(self.memory)._parts
        self.torn = [0, 0]
        self.pure = _make_get(parts, _make_get(parts, self._missed))
        self.compiled: Any = _compiled(parts, self._torn)

    def _missed(self, key: bytes, hashed: int, now: float) -> None:
        self.torn[0] += 1

    def _torn(self) -> None:
        self.torn[1] += 1

    def put(self, key: bytes, value: bytes, version: int = 1, **kwargs: Any) -> bool:
        settings = {"expires": NEVER, "now": 0.0} | kwargs
        return self.arena.put(key, key_hash(key), value, version=version, **settings)

    def place(
        self,
        key: bytes,
        value: bytes = b"value",
        *,
        offset: int = 1,
        way: int = 0,
        hashed: int | None = None,
        expires: float = NEVER,
        version: int = 1,
    ) -> int:
        """Write an entry where it is wanted, and return the place of its meta."""
        hashed = key_hash(key) if hashed is None else hashed
        start = self.layout.units_at + UNIT * offset
        tenure = self.parts.tenures[hashed >> 50]
        record = encode(tenure, key, (value, version, expires))
        # The end of it may be beyond the end of the memory.
        record = record[: self.layout.total - start]
        self.memory[start : start + len(record)] = record
        slot = hashed % self.layout.sets * WAYS + way
        self.parts.index.publish(slot, hashed, offset, UNREAD)
        return start

    def both(
        self, key: bytes, now: float = 0.0, hashed: int | None = None
    ) -> tuple[Any, Any]:
        """Return what each twin says and does: entry, types, uses and tears."""
        hashed = key_hash(key) if hashed is None else hashed
        uses, answers = self.parts.index.uses, []
        before = bytes(uses)
        for number, get in enumerate((self.pure, self.compiled)):
            uses[:] = before
            torn = self.torn[number]
            found = get(key, hashed, now)
            kinds = found and [type(found), *map(type, found)]
            answers.append((found, kinds, bytes(uses), self.torn[number] - torn))
        return answers[0], answers[1]

    def read(self, key: bytes, now: float = 0.0, hashed: int | None = None) -> Any:
        """Return what both find, and also where."""
        one, other = self.both(key, now, hashed)
        found = key, key_hash(key) if hashed is None else hashed

        assert one == other
        assert self.parts.index.find(*found) == self.compiled.find(*found)

        return one[0]


@pytest.fixture(scope="session")
def make_twins(compiled) -> type[Twins]:
    return Twins


@pytest.fixture
def twins(compiled) -> Twins:
    """A small one, of one set of slots, whose last bytes no page ends with."""
    return Twins(Layout(1, 1000, 3000))


class Asked:
    """A reader of a memory, and what it asks Python."""

    def __init__(self, twins: Twins, answer: object, **changes: Any) -> None:
        layout, self.answer = twins.layout, answer
        self.questions: list[tuple[Any, ...]] = []
        settings = {
            "sets": layout.sets,
            "offsets_at": layout.offsets_at,
            "prints_at": layout.prints_at,
            "uses_at": layout.uses_at,
            "units_at": layout.units_at,
            "tenures_at": layout.tenures_at,
            "void_at": 8 * Words.VOID,
            "cleared_at": 8 * Words.CLEARED,
            "partition_bits": 14,
            "use_max": 4,
            "envelope": 0xC1,
            "covers_key": lambda version, key: self.ask("key", version, key),
            "covers_tags": lambda version, value: self.ask("tags", version, value),
            "entry": Entry,
            "torn": lambda: self.ask("torn"),
        }
        self.get = native._compiled.Reader(twins.memory, **(settings | changes))

    def ask(self, *question: object) -> object:
        self.questions.append(question)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def asked(twins: Twins) -> Any:
    return lambda answer=False, **changes: Asked(twins, answer, **changes)


def _fingerprint(value: object) -> list[tuple[type, object]]:
    """Return what two values share only if types and bits are the same throughout.

    It does not call itself: the deepest values are at the limit of what may nest.
    """
    seen, todo = [], [value]
    while todo:
        value = todo.pop()
        said: object = repr(value) if not isinstance(value, _HOLDERS) else len(value)
        if isinstance(value, float):
            said = pack(">d", value)
        elif isinstance(value, dict):
            todo += [part for pair in value.items() for part in pair]
        elif isinstance(value, set | frozenset):
            todo += sorted(value, key=repr)
        elif isinstance(value, list | tuple):
            todo += value
        seen.append((type(value), said))
    return seen


@pytest.fixture(scope="session")
def fingerprint() -> Any:
    return _fingerprint


def _check_leaks(work: Callable[[], object], *counted: object) -> None:
    """Check that *work*, done again and again, leaves neither memory nor references.

    What grows once (a dict of the interpreter's) is no leak: the least of three counts.
    """
    work()
    grown, moved = [], []
    tracemalloc.start()
    try:
        for _ in range(3):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            counts = [sys.getrefcount(each) for each in counted]
            for _ in range(LEAK_ROUNDS):
                work()
            gc.collect()
            later = [sys.getrefcount(each) for each in counted]
            grown.append(tracemalloc.get_traced_memory()[0] - before)
            moved.append([abs(n - m) for n, m in zip(counts, later, strict=True)])
    finally:
        tracemalloc.stop()

    assert min(grown) < 4 * LEAK_ROUNDS
    assert all(min(each) < LEAK_ROUNDS / 2 for each in zip(*moved, strict=True))


@pytest.fixture(scope="session")
def check_leaks() -> Any:
    return _check_leaks
