"""Tasks that read single keys of one peer: they share a request when they are let."""

from __future__ import annotations

import asyncio
from itertools import count, islice

import pytest

TASKS = 64


def keys_of(owner, cache):
    """Numbers that *owner* owns as keys of a cache."""
    numbers = count()
    node_id = owner.me.node_id
    return (n for n in numbers if owner.owner(cache, n).node_id == node_id)


def frames(node):
    return node.stats()["transport"]["frames_sent"]


@pytest.fixture
def apart(make_pair):
    """Two nodes that do not read each other's memory, nor keep what they read."""

    def make(**settings):
        return make_pair(
            host_lane=False,
            near_entries=0,
            **settings,
        )

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("window", "requests"), [("50ms", 1), (0, TASKS)])
def test_reads_at_the_same_time_go_as_one_request(apart, runner, window, requests):
    one, two = apart(coalesce_window=window)
    keys = list(islice(keys_of(two, "c"), TASKS))
    two.cache("c").set_many({key: f"v{key}" for key in keys})
    cache = one.cache("c")

    async def read():
        return await asyncio.gather(*(cache.aget(key) for key in keys))

    sent = []
    for _ in range(5):
        before = frames(one)
        found = runner.run(read())
        sent.append(frames(one) - before)
        assert [f"v{key}" for key in keys] == found

    # A word of membership may go out meanwhile, but not always.
    assert requests == min(sent)


@pytest.mark.slow
def test_a_task_that_stops_waiting_leaves_the_others_theirs(apart, runner):
    one, two = apart(coalesce_window="50ms")
    first, second = islice(keys_of(two, "c"), 2)
    two.cache("c").set_many({first: 1, second: 2})
    cache = one.cache("c")

    async def read():
        tasks = [asyncio.create_task(cache.aget(key)) for key in (first, first, second)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, *others = runner.run(read())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [1, 2] == others


@pytest.mark.slow
def test_a_read_sees_what_this_process_wrote_while_it_waited(apart, runner):
    one, two = apart(coalesce_window="50ms")
    key = next(keys_of(two, "c"))
    two.cache("c").set(key, "old")
    cache = one.cache("c")

    async def read():
        reading = asyncio.create_task(cache.aget(key))
        await asyncio.sleep(0)
        await cache.aset(key, "new")
        return await reading

    assert "new" == runner.run(read())
