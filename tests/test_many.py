"""Loading many keys at once: what reaches the loader, and what comes back."""

from __future__ import annotations

import asyncio
import threading

import pytest

import meshcache
from meshcache import ConfigError, KeyRefused, RecursiveLoad
from meshcache.testing import isolated, time_travel


@pytest.fixture(autouse=True)
def time():
    with isolated(), time_travel() as moving:
        yield moving


@pytest.fixture
def users():
    return meshcache.Cache("users", jitter=0, ttl=60)


class Table:
    """A loader that notes what it was asked for. Odd keys do not exist."""

    def __init__(self):
        self.asked = []

    def load(self, keys):
        self.asked.append(sorted(keys))
        return {key: f"row {key}" for key in keys if key % 2 == 0}

    async def aload(self, keys):
        await asyncio.sleep(0)
        return self.load(keys)


@pytest.fixture
def table():
    return Table()


def test_only_what_is_missing_reaches_the_loader(users, table):
    users.set(2, "set")
    found = users.get_or_load_many([2, 4, 6], table.load)

    assert {2: "set", 4: "row 4", 6: "row 6"} == found
    assert [[4, 6]] == table.asked
    assert found == users.get_or_load_many([2, 4, 6], table.load)
    assert [[4, 6]] == table.asked


def test_the_answer_is_in_the_order_of_the_keys(users, table):
    assert [8, 2, 6, 4] == list(users.get_or_load_many([8, 2, 6, 4], table.load))


def test_a_key_that_comes_twice_is_loaded_once(users, table):
    assert {2: "row 2"} == users.get_or_load_many([2, 2], table.load)
    assert [[2]] == table.asked


def test_what_the_loader_leaves_out_is_left_out_and_asked_for_again(users, table):
    assert {2: "row 2"} == users.get_or_load_many([1, 2], table.load)
    assert {2: "row 2"} == users.get_or_load_many([1, 2], table.load)
    assert [[1, 2], [1]] == table.asked


def test_no_keys_are_no_load(users, table):
    assert {} == users.get_or_load_many([], table.load)
    assert [] == table.asked


def test_single_reads_find_what_a_batch_has_loaded(users, table):
    users.get_or_load_many([2], table.load)

    assert "row 2" == users.get(2)
    assert "row 2" == users.get_or_load(2, lambda: "another")


def test_an_awaitable_loader_is_awaited(users, table):
    found = asyncio.run(users.aget_or_load_many([2, 3], table.aload))

    assert {2: "row 2"} == found


def test_an_error_reaches_the_caller_and_nothing_is_stored(users, table):
    def broken(keys):
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        users.get_or_load_many([2, 4], broken)

    assert {} == users.get_many([2, 4])
    assert {2: "row 2"} == users.get_or_load_many([2], table.load)


def test_a_loader_that_returns_no_dict_is_told_so(users):
    with pytest.raises(TypeError, match="returns a dict"):
        users.get_or_load_many([2], lambda keys: ["row 2"])


def test_keys_that_are_one_in_a_dict_and_two_here_are_refused(users, table):
    with pytest.raises(KeyRefused, match="two keys"):
        users.get_or_load_many([1, True], table.load)


@pytest.mark.slow
def test_the_loader_of_a_large_batch_may_load_other_keys(users):
    def with_its_team(keys):
        return {
            key: users.get_or_load(("team", key % 7), lambda: "red") for key in keys
        }

    assert 1500 == len(users.get_or_load_many(range(1500), with_its_team))


def test_a_loader_of_many_that_asks_for_its_own_key_is_refused(users):
    def asks_itself(keys):
        return users.get_or_load_many(keys, asks_itself)

    with pytest.raises(RecursiveLoad):
        users.get_or_load_many([1, 2], asks_itself)


def test_two_batches_that_overlap_load_each_key_once(users, until):
    asked, hold, begun = [], threading.Event(), threading.Event()

    def slow(keys):
        asked.append(sorted(keys))
        begun.set()
        hold.wait(10)
        return {key: f"row {key}" for key in keys}

    found = []
    first = threading.Thread(
        target=lambda: found.append(users.get_or_load_many([1, 2, 3], slow))
    )
    first.start()
    begun.wait(10)
    second = threading.Thread(
        target=lambda: found.append(users.get_or_load_many([2, 3, 4], slow))
    )
    second.start()
    until(lambda: len(asked) == 2)
    hold.set()
    first.join()
    second.join()

    assert [[1, 2, 3], [4]] == asked
    assert [[1, 2, 3], [2, 3, 4]] == sorted(list(part) for part in found)


def test_a_single_read_waits_for_the_batch_that_loads_its_key(users, until):
    hold, begun = threading.Event(), threading.Event()

    def slow(keys):
        begun.set()
        hold.wait(10)
        return {key: f"row {key}" for key in keys}

    batch = threading.Thread(target=users.get_or_load_many, args=([1, 2], slow))
    batch.start()
    begun.wait(10)
    found = []
    single = threading.Thread(
        target=lambda: found.append(users.get_or_load(2, lambda: "its own"))
    )
    single.start()
    until(lambda: meshcache.node().stats()["engine"]["joined"] == 1)
    hold.set()
    batch.join()
    single.join()

    assert ["row 2"] == found


def test_stale_values_are_given_and_loaded_anew_behind(time, table, until):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale=30)
    users.get_or_load_many([2, 4], table.load)
    time.advance(61)

    assert {2: "row 2", 4: "row 4"} == users.get_or_load_many([2, 4], table.load)
    until(lambda: meshcache.node().stats()["refreshes"]["flying"] == 0)
    assert {2: "row 2", 4: "row 4"} == users.get_many([2, 4])
    assert [[2, 4], [2, 4]] == table.asked


def test_what_is_missing_and_what_is_too_old_is_loaded_in_one_go(time, table):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    users.get_or_load_many([2, 4], table.load)
    time.advance(61)
    found = users.get_or_load_many([2, 4, 6], table.load)

    assert {2: "row 2", 4: "row 4", 6: "row 6"} == found
    assert [[2, 4], [2, 4, 6]] == table.asked


def test_an_old_value_does_not_stand_in_for_a_key_that_has_none(time, table):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    users.get_or_load_many([2], table.load)
    time.advance(61)

    def broken(keys):
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        users.get_or_load_many([2, 4], broken)


def test_old_values_stand_in_for_a_load_that_fails(time, table):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    users.get_or_load_many([2, 4], table.load)
    time.advance(61)

    def broken(keys):
        raise OSError("down")

    assert {2: "row 2", 4: "row 4"} == users.get_or_load_many([2, 4], broken)


def test_without_a_node_the_loader_gets_every_key(users, table, monkeypatch):
    monkeypatch.setenv("MESHCACHE_DISABLE", "1")
    with isolated():
        assert {2: "row 2"} == users.get_or_load_many([1, 2], table.load)
        assert {2: "row 2"} == users.get_or_load_many([1, 2], table.load)

    assert [[1, 2], [1, 2]] == table.asked


# --- memoize_many ----------------------------------------------------------------


def test_a_memoized_function_of_many_keys(users, table):
    @users.memoize_many(name="rows")
    def load_rows(keys: list[int]) -> dict[int, str]:
        """Rows by their number."""
        return table.load(keys)

    assert {2: "row 2", 4: "row 4"} == load_rows([2, 3, 4])
    assert {2: "row 2", 4: "row 4", 6: "row 6"} == load_rows(iter([2, 4, 6]))
    assert [[2, 3, 4], [6]] == table.asked
    assert "Rows by their number." == load_rows.__doc__
    assert 2 == load_rows.invalidate(2, 3, 4)
    assert {2: "row 2"} == load_rows([2])
    assert [2] == table.asked[-1]
    load_rows.invalidate_all()
    assert {2: "row 2"} == load_rows.uncached([2])
    assert 2 == load_rows.cache_info().hits


def squares(numbers):
    return {number: number * number for number in numbers}


def test_the_decorator_may_stand_bare(users):
    assert {2: 4, 3: 9} == users.memoize_many(squares)([2, 3])
    assert {2: 4} == meshcache.memoize_many(squares)([2])


def test_an_async_function_of_many_keys(users, table):
    @users.memoize_many(name="rows", ttl=5)
    async def load_rows(keys: list[int]) -> dict[int, str]:
        return await table.aload(keys)

    async def main():
        await load_rows([2, 4])
        await load_rows([2, 4])
        await load_rows.ainvalidate(2)
        return await load_rows([2, 4])

    assert {2: "row 2", 4: "row 4"} == asyncio.run(main())
    assert [[2, 4], [2]] == table.asked


def test_its_values_share_nothing_with_keys_of_the_cache(users, table):
    load_rows = users.memoize_many(name="rows")(table.load)
    users.set(2, "the cache's")

    assert {2: "row 2"} == load_rows([2])
    assert "the cache's" == users.get(2)


@pytest.mark.parametrize(
    "function", [lambda: 0, lambda a, b: {}, lambda *, keys: {}, lambda **keys: {}]
)
def test_a_function_that_takes_no_list_of_keys_is_refused(users, function):
    with pytest.raises(ConfigError, match="one list of keys"):
        users.memoize_many(name="f")(function)


@pytest.mark.parametrize("option", [{"key": str}, {"fill": "owner"}, {"ignore": "a"}])
def test_options_that_make_no_sense_for_many_are_refused(users, option):
    with pytest.raises(ConfigError, match="no such option"):
        users.memoize_many(name="f", **option)
