"""A default node for one test: empty at its start, alone, and gone at its end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import meshcache
from meshcache import MISSING, Cache, LoadTimeout, NodeState, NotReady
from meshcache.default import _default, stand_in
from meshcache.engine.ops import Closed, GetKeys, Results
from meshcache.testing import isolated

users = Cache("isolated-users")


@users.memoize(ttl=60)
def load_user(user_id):
    return {"id": user_id}


@users.memoize(ttl=60)
async def aload_user(user_id):
    return user_id


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = _default.node
    yield
    assert before is _default.node
    assert None is users.region.runtime


def test_what_a_test_stored_the_next_does_not_see():
    for number in range(3):
        with isolated():
            assert None is users.get("k")
            assert MISSING is load_user.peek(7)
            users.set("k", number)
            load_user(7)

            assert number == users.get("k")
            assert {"id": 7} == load_user.peek(7)


def test_counts_begin_at_nothing():
    for _ in range(2):
        with isolated() as node:
            users.set("k", 1)
            users.get("k")
            load_user(1)
            load_user(1)

            assert (1, 1) == load_user.cache_info()[:2]
            assert 1 == node.stats()["loads"]
            assert 2 == sum(node.stats()["reads"][tier] for tier in ("near", "host"))


def test_it_starts_at_its_first_use_only():
    with isolated() as node:
        assert NodeState.NEW is node.state
        users.get("k")

        assert NodeState.RUNNING is node.state

    assert NodeState.STOPPED is node.state


def test_it_has_no_thread_no_descriptor_and_no_file(tmp_path):
    with isolated():
        users.get("k")  # what is made once for all
    threads = set(threading.enumerate())
    descriptors = set(Path("/proc/self/fd").iterdir())
    with isolated(runtime_dir=str(tmp_path)):
        users.set("k", 1)
        load_user(7)

        assert threads == set(threading.enumerate())
        assert len(descriptors) == len(set(Path("/proc/self/fd").iterdir()))
    assert [] == list(tmp_path.iterdir())


def test_the_caches_return_to_the_node_that_was_there(make_node):
    real = make_node()
    before, _default.node = _default.node, real
    try:
        users.set("k", "real")
        load_user(7)
        with isolated() as node:
            assert node is meshcache.node() is users.node
            assert None is users.get("k")
            users.set("k", "isolated")
        assert real is users.node
        assert "real" == users.get("k")
        assert {"id": 7} == load_user.peek(7)
    finally:
        _default.node = before
        real.release()


def test_what_the_application_starts_is_this_node():
    with isolated() as node:
        assert node is meshcache.start(cluster="production", max_bytes="1GB")
        assert node.config.cluster.startswith("test-")


def test_what_the_application_stops_is_empty_and_goes_on():
    with isolated() as node:
        users.set("k", 1)
        meshcache.stop()

        assert node is meshcache.node()
        assert None is users.get("k")
        users.set("k", 2)
        assert 2 == users.get("k")


def test_settings_are_the_nodes_but_those_of_its_place(monkeypatch):
    monkeypatch.setenv("MESHCACHE_SEEDS", "10.0.0.7:7946")
    monkeypatch.setenv("MESHCACHE_BIND", "0.0.0.0:7946")
    with isolated(near_ttl=5, seeds=["10.0.0.8:7946"]) as node:
        node.start()

        assert (5, ()) == (node.config.near_ttl, node.config.seeds)
        assert [node.me] == node.members()


def test_it_is_ready_and_has_no_peers():
    with isolated() as node:
        assert node.wait_ready(timeout=1).ready
        assert node.me == node.owner("isolated-users", 7)
        with pytest.raises(NotReady):
            node.wait_ready(peers=1, timeout=0.01)


def test_one_within_another_is_another():
    with isolated() as outer:
        users.set("k", "outer")
        with isolated() as inner:
            assert inner is users.node
            assert None is users.get("k")
        assert outer is users.node
        assert "outer" == users.get("k")


def test_threads_that_want_one_key_share_one_load(together):
    begun = threading.Event()
    loads = []

    def load():
        loads.append(1)
        begun.wait(0.02)
        return "value"

    with isolated():
        values = together(8, lambda _: users.get_or_load("k", load))

    assert ["value"] * 8 == values
    assert 1 == len(loads)


def test_an_error_reaches_all_who_wait_and_is_not_kept(together):
    begun = threading.Event()

    def fail():
        begun.wait(0.02)
        raise KeyError("gone")

    with isolated():
        results = together(4, lambda _: users.get_or_load("k", fail))

        assert {KeyError} == set(map(type, results))
        assert 1 == users.get_or_load("k", lambda: 1)


def test_tasks_share_one_load_too(runner):
    loads = []

    async def load():
        loads.append(1)
        await asyncio.sleep(0.01)
        return len(loads)

    async def main():
        waiting = [users.aget_or_load("k", load) for _ in range(8)]
        return await asyncio.gather(*waiting), await aload_user(7)

    with isolated():
        assert ([1] * 8, 7) == runner.run(main())


@pytest.mark.slow
def test_who_waits_too_long_is_told(together):
    goes_on = threading.Event()

    def load():
        goes_on.wait(10)

    def want(number):
        try:
            return users.get_or_load("k", load, load_timeout=0.05)
        finally:
            goes_on.set()

    with isolated():
        results = together(2, want)

    assert {LoadTimeout, type(None)} == set(map(type, results))


@pytest.mark.slow
def test_a_task_that_waits_too_long_is_told(runner):
    async def main():
        goes_on = asyncio.Event()

        async def want(seconds):
            try:
                await users.aget_or_load("k", goes_on.wait, load_timeout=seconds)
            finally:
                goes_on.set()

        wants = [want(seconds) for seconds in (10, 0.05)]
        return await asyncio.gather(*wants, return_exceptions=True)

    with isolated():
        assert [type(None), LoadTimeout] == list(map(type, runner.run(main())))


def test_a_node_stands_in_for_the_default_one_for_a_while(make_node):
    real = make_node()
    with stand_in(real):
        users.set("k", 1)
        assert real is meshcache.node()

    assert NodeState.RUNNING is real.state
    assert None is users.region.runtime


def test_who_waits_when_it_ends_is_let_go(until):
    begun, goes_on = threading.Event(), threading.Event()
    values = []

    def load():
        begun.set()
        goes_on.wait(10)
        return "late"

    def want(loader):
        values.append(users.get_or_load("k", loader))

    with isolated() as node:
        first = threading.Thread(target=want, args=(load,))
        first.start()
        begun.wait(10)
        second = threading.Thread(target=want, args=(lambda: "alone",))
        second.start()
        until(lambda: node.stats()["engine"]["waiting"])
    second.join(10)
    assert ["alone"] == values
    goes_on.set()
    first.join(10)
    assert ["alone", "late"] == values


def test_a_task_that_waits_when_it_ends_is_let_go(runner, until):
    async def alone():
        return "alone"

    async def main():
        begun, goes_on = asyncio.Event(), asyncio.Event()

        async def load():
            begun.set()
            await goes_on.wait()
            return "late"

        with isolated() as node:
            first = asyncio.create_task(users.aget_or_load("k", load))
            await begun.wait()
            second = asyncio.create_task(users.aget_or_load("k", alone))
            await asyncio.to_thread(until, lambda: waiting(node))
        value = await asyncio.wait_for(second, 5)
        goes_on.set()
        return value, await first

    assert ("alone", "late") == runner.run(main())


def waiting(node):
    return node.stats()["engine"]["waiting"]


def test_a_task_that_is_cancelled_waits_no_more(runner, until):
    async def main():
        begun, goes_on = asyncio.Event(), asyncio.Event()

        async def load():
            begun.set()
            await goes_on.wait()

        with isolated() as node:
            first = asyncio.create_task(users.aget_or_load("k", load))
            await begun.wait()
            second = asyncio.create_task(users.aget_or_load("k", load))
            await asyncio.to_thread(until, lambda: waiting(node))
            second.cancel()
            await asyncio.wait([second])
            left = waiting(node)
            goes_on.set()
            await first
            return left

    assert 0 == runner.run(main())


def test_once_it_has_ended_it_answers_nothing():
    with isolated():
        users.set("k", 1)
        runtime = users.region.bind()
        asked = GetKeys((users.region.full(runtime, "k"),))
        assert isinstance(runtime.ask(asked)[1], Results)

    assert isinstance(runtime.ask(asked)[1], Closed)
