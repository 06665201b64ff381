"""Doing without the caches: for the one who says so, and for nobody else."""

from __future__ import annotations

import asyncio
import threading

import pytest

import meshcache
from meshcache.bypass import _state
from meshcache.testing import isolated


@pytest.fixture(autouse=True)
def node():
    with isolated() as alone:
        yield alone


@pytest.fixture
def users():
    return meshcache.Cache("users")


def test_reads_find_nothing_and_loads_store_nothing(users):
    users.set("k", "stored")
    with meshcache.bypass():
        assert None is users.get("k")
        assert "loaded" == users.get_or_load("k", lambda: "loaded")
        assert "k" not in users

    assert "stored" == users.get("k")


def test_a_memoized_function_is_itself(users):
    calls = []

    @users.memoize(name="f")
    def load(key):
        calls.append(key)
        return len(calls)

    assert [1, 1] == [load(1), load(1)]
    with meshcache.bypass():
        assert [2, 3] == [load(1), load(1)]
    assert 1 == load(1)


def test_writes_and_invalidations_are_done(users):
    users.set("k", "old")
    with meshcache.bypass():
        users.set("k", "new")
        users.set("other", 1)
        users.delete("other")

    assert "new" == users.get("k")
    assert None is users.get("other")


def test_others_read_as_ever(users):
    users.set("k", "stored")
    seen = []
    with meshcache.bypass():
        other = threading.Thread(target=lambda: seen.append(users.get("k")))
        other.start()
        other.join()

    assert ["stored"] == seen


def test_it_is_the_task_s_own(users):
    users.set("k", "stored")
    inside = asyncio.Event()
    over = asyncio.Event()

    async def without():
        with meshcache.bypass():
            inside.set()
            await over.wait()
            return await users.aget("k")

    async def main():
        task = asyncio.create_task(without())
        await inside.wait()
        found = await users.aget("k")
        over.set()
        return found, await task

    assert ("stored", None) == asyncio.run(main())


def test_one_within_another_ends_with_the_outer(users):
    users.set("k", "stored")
    with meshcache.bypass():
        with meshcache.bypass():
            assert None is users.get("k")
        assert None is users.get("k")

    assert "stored" == users.get("k")


def test_a_cache_that_is_first_used_meanwhile_is_bypassed_too(users):
    users.set("k", "stored")
    with meshcache.bypass():
        late = meshcache.Cache("users")
        late.set("other", 1)
        assert None is late.get("k")

    assert "stored" == late.get("k")


def test_afterwards_a_read_takes_the_short_way_again(users):
    with meshcache.bypass():
        users.get("k")
        assert None is users.region.runtime
    users.get("k")

    assert None is not users.region.runtime


def test_a_child_of_a_fork_waits_for_no_thread_of_the_parent(users):
    """There is none that could let the lock go."""
    with _state.lock:
        _state.after_fork_in_child()
        assert not _state.lock.locked()
