"""Loading many keys at once: what reaches the loader, and what comes back."""

from __future__ import annotations

import asyncio
import threading
from uuid import uuid4

import pytest

import meshcache
from meshcache import ConfigError, KeyRefused, LoadTimeout, RecursiveLoad
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


# --- counts, bounds and waits ----------------------------------------------------


def counted(*names):
    """What is counted of this node's reads, by these names."""
    stats = meshcache.node().stats()
    return [stats["reads"].get(name, stats.get(name)) for name in names]


def meanwhile(work, *args):
    """Do something on a thread of its own; return that, and where its result comes."""
    results = []

    def body():
        try:
            results.append(work(*args))
        except Exception as error:  # noqa: BLE001 - it is what came of it
            results.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, results


class Slow:
    """A loader of many that begins, and goes on when it is let."""

    def __init__(self, bring):
        self.bring = bring
        self.begun = threading.Event()
        self.hold = threading.Event()

    def __call__(self, keys):
        self.begun.set()
        self.hold.wait(10)
        return self.bring(keys)


def joined(until):
    until(lambda: meshcache.node().stats()["engine"]["joined"] == 1)


def test_each_key_counts_as_a_read_and_the_loader_as_one_load(users, table):
    users.get_or_load_many([1, 2, 2, 4], table.load)

    assert [2, 1, 1, 0] == counted("fill", "miss", "loads", "raised")
    users.get_or_load_many([2, 4], table.load)
    assert 4 == sum(meshcache.node().stats()["reads"].values()) - 1


def test_a_load_that_fails_counts_once(users):
    with pytest.raises(ZeroDivisionError):
        users.get_or_load_many([2, 4], lambda keys: 1 // 0)

    assert [1, 1] == counted("loads", "raised")


def test_what_a_refresh_brings_is_no_read(time, table, until):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale=30)
    users.set_many({2: "old", 4: "old"})
    time.advance(61)
    users.get_or_load_many([2, 4], table.load)
    until(lambda: meshcache.node().stats()["refreshes"]["flying"] == 0)

    assert [2, 1, 2, 0] == counted("stale", "loads", "host", "fill")
    assert {2: "row 2", 4: "row 4"} == users.get_many([2, 4])


def test_what_is_given_in_place_of_a_load_is_counted_as_old(time, table):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    users.set_many({2: "old", 4: "old"})
    time.advance(61)
    found = users.get_or_load_many([2, 4], lambda keys: 1 // 0)

    assert {2: "old", 4: "old"} == found
    assert [2, 1, 2] == counted("stale", "raised", "host")


def test_what_was_brought_before_the_load_failed_is_not_the_old_value(time):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    users.set_many({2: "old", 4: "old"})
    time.advance(61)
    found = users.get_or_load_many([2, 4], lambda keys: {2: "new", 4: object()})

    assert {2: "new", 4: "old"} == found


def test_an_interrupt_is_raised_whatever_there_is_to_give(time):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    users.set(2, "old")
    time.advance(61)

    def interrupted(keys):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        users.get_or_load_many([2], interrupted)


def test_early_values_are_given_and_loaded_anew_behind(time, until):
    users = meshcache.Cache("users", jitter=0, ttl=60, early=1000)
    calls = []

    def costly(keys):
        calls.append(keys)
        time.advance(0.2)
        return dict.fromkeys(keys, len(calls))

    old = dict.fromkeys(range(4), 1)
    users.get_or_load_many(old, costly)
    time.advance(59.7)

    # A head start of 200 s on average: one draw in 2,000 would not reach so far.
    assert old == users.get_or_load_many(old, costly)
    until(lambda: meshcache.node().stats()["refreshes"]["flying"] == 0)
    assert 1 == meshcache.node().stats()["refreshes"]["started"]


def test_a_loader_gets_no_more_keys_at_once_than_a_batch_may_have(table):
    with isolated(max_batch_keys=2):
        users = meshcache.Cache("users")
        found = users.get_or_load_many([2, 4, 6, 8, 10], table.load)

    assert [2, 4, 6, 8, 10] == list(found)
    assert [[2, 4], [6, 8], [10]] == table.asked


def test_who_waits_for_a_key_that_the_loader_leaves_out_loads_it(users, until):
    slow = Slow(lambda keys: {2: "row 2"})
    batch, found = meanwhile(users.get_or_load_many, [1, 2], slow)
    slow.begun.wait(10)
    single, own = meanwhile(users.get_or_load, 1, lambda: "its own")
    joined(until)
    slow.hold.set()
    batch.join()
    single.join()

    assert ([{2: "row 2"}], ["its own"]) == (found, own)
    assert "its own" == users.get(1)


def test_a_batch_loads_what_another_leaves_out_and_may_leave_it_out_too(users, until):
    slow, asked = Slow(lambda keys: {}), []
    first, _ = meanwhile(users.get_or_load_many, [1], slow)
    slow.begun.wait(10)
    second, found = meanwhile(
        users.get_or_load_many, [1], lambda keys: asked.append(keys) or {}
    )
    joined(until)
    slow.hold.set()
    first.join()
    second.join()

    assert ([[1]], [{}]) == (asked, found)
    assert [2, 0] == counted("miss", "raised")


def test_a_task_that_waited_in_vain_awaits_its_own_loader(users, table, until):
    async def main():
        begun, hold = asyncio.Event(), asyncio.Event()

        async def slow(keys):
            begun.set()
            await hold.wait()
            return {}

        first = asyncio.create_task(users.aget_or_load_many([2], slow))
        await begun.wait()
        second = asyncio.create_task(users.aget_or_load_many([2], table.aload))
        await asyncio.to_thread(joined, until)
        hold.set()
        return await first, await second

    assert ({}, {2: "row 2"}) == asyncio.run(main())


def test_who_waits_for_a_batch_that_fails_hears_its_error(users, until):
    slow, calls = Slow(lambda keys: 1 // 0), []
    batch, failed = meanwhile(users.get_or_load_many, [1, 2], slow)
    slow.begun.wait(10)
    single, heard = meanwhile(users.get_or_load, 1, lambda: calls.append(1))
    joined(until)
    slow.hold.set()
    batch.join()
    single.join()

    assert [ZeroDivisionError] * 2 == [type(*failed), type(*heard)]
    assert [] == calls


def test_a_batch_waits_for_somebody_else_s_load_as_long_as_it_says(users):
    slow = Slow(lambda keys: {2: "row 2"})
    first, _ = meanwhile(users.get_or_load_many, [2], slow)
    slow.begun.wait(10)
    try:
        with pytest.raises(LoadTimeout):
            users.get_or_load_many([2], lambda keys: {}, load_timeout=0.02)
    finally:
        slow.hold.set()
        first.join()


def test_an_awaitable_loader_that_takes_longer_is_cancelled(users):
    async def never(keys):
        await asyncio.Event().wait()

    with pytest.raises(LoadTimeout):
        asyncio.run(users.aget_or_load_many([2], never, load_timeout=0.02))


def test_a_circle_through_a_batch_is_found(users):
    def asks_for_all(_=None):
        return users.get_or_load_many(["k"], asks_for_all, load_timeout=1)

    def asks_for_one(_=None):
        return users.get_or_load("k", asks_for_one, load_timeout=1)

    for within in (asks_for_all, lambda: users.get_or_load_many([1], asks_for_one)):
        with pytest.raises(RecursiveLoad):
            users.get_or_load("k", within)


def test_a_tag_that_is_invalidated_during_a_batch_lets_nobody_join_it(users):
    slow = Slow(lambda keys: {2: "old"})
    batch, found = meanwhile(lambda: users.get_or_load_many([2], slow, tags="red"))
    slow.begun.wait(10)
    users.invalidate_tags("red")
    try:
        assert "new" == users.get_or_load(2, lambda: "new", load_timeout=1)
    finally:
        slow.hold.set()
        batch.join()

    assert [{2: "old"}] == found
    assert "new" == users.get(2)


def test_without_a_node_a_loader_gets_each_key_once_and_no_empty_list(
    users, table, monkeypatch
):
    monkeypatch.setenv("MESHCACHE_DISABLE", "1")
    with isolated():
        assert {2: "row 2"} == users.get_or_load_many([2, 2], table.load)
        assert {} == users.get_or_load_many([], table.load)

    assert [[2]] == table.asked


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


# --- the options and handles of memoize_many -------------------------------------


def test_another_version_is_another_function_of_many(users, table):
    versions = [users.memoize_many(name="rows", version=n)(table.load) for n in (1, 2)]

    assert [{2: "row 2"}] * 2 == [load_rows([2]) for load_rows in versions]
    assert [[2], [2]] == table.asked


def test_values_of_many_bear_tags_that_are_words(users, table):
    load_rows = users.memoize_many(name="rows", tags=("red", "blue"))(table.load)
    load_rows([2])
    users.invalidate_tags("blue")
    load_rows([2])

    assert [[2], [2]] == table.asked
    with pytest.raises(ConfigError, match="the same for all"):
        users.memoize_many(name="rows", tags=lambda key: "red")(table.load)


def test_a_function_of_many_has_windows_of_its_own(time, table, until):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale=30)
    load_rows = users.memoize_many(name="rows", stale=90)(table.load)
    load_rows([2])
    time.advance(120)

    assert {2: "row 2"} == load_rows([2])
    until(lambda: meshcache.node().stats()["refreshes"]["flying"] == 0)
    assert [1] == counted("stale")


def test_a_function_of_many_waits_as_long_as_it_says(users):
    slow = Slow(lambda keys: {2: "row 2"})
    load_rows = users.memoize_many(name="rows", load_timeout=0.02)(slow)
    first, _ = meanwhile(load_rows, [2])
    slow.begun.wait(10)
    try:
        with pytest.raises(LoadTimeout):
            load_rows([2])
    finally:
        slow.hold.set()
        first.join()


def test_clearing_a_function_of_many_forgets_and_counts_from_nothing(users, table):
    load_rows = users.memoize_many(name="rows")(table.load)
    load_rows([2])
    load_rows.cache_clear()

    assert (0, 0) == load_rows.cache_info()[:2]
    load_rows([2])
    asyncio.run(load_rows.ainvalidate_all())
    load_rows([2])
    assert [[2]] * 3 == table.asked


def test_further_parameters_of_a_function_of_many_have_defaults(users, table):
    @users.memoize_many(name="rows")
    def load_rows(keys, source="main", *, deep=False):
        return table.load(keys)

    assert {2: "row 2"} == load_rows([2])
    with pytest.raises(ConfigError, match="one list of keys"):
        users.memoize_many(name="f")(lambda source="main", *, keys: {})
    with pytest.raises(ConfigError, match="options go by name"):
        users.memoize_many(60)


def test_a_remembered_error_is_no_value_to_a_batch(users, table):
    """A function of one key and one of many share what has the same name and key."""

    @users.memoize(name="f", errors=LookupError, error_ttl=5)
    def load_one(key):
        raise LookupError(key)

    with pytest.raises(LookupError):
        load_one(1)
    load_many = users.memoize_many(name="f")(lambda keys: dict.fromkeys(keys, "value"))

    assert {(1,): "value"} == load_many([(1,)])


# --- the soft time-out of many ---------------------------------------------------


@pytest.fixture
def rates():
    return meshcache.Cache(
        "rates", jitter=0, ttl=60, stale_if_error=300, soft_timeout=0.01
    )


@pytest.fixture
def patient():
    """A cache whose soft time-out is never over in a test."""
    return meshcache.Cache(
        "rates", jitter=0, ttl=60, stale_if_error=300, soft_timeout=10
    )


def late(time, cache, *keys):
    """Store values that are late by now."""
    cache.set_many(dict.fromkeys(keys, "old"))
    time.advance(61)


def landed(until):
    until(lambda: meshcache.node().stats()["refreshes"]["flying"] == 0)


def test_a_batch_that_takes_long_gives_the_old_values_and_goes_on(time, rates, until):
    late(time, rates, 2, 4, 6)
    asked, slow = (
        [],
        Slow(lambda keys: asked.append(keys) or dict.fromkeys(keys, "new")),
    )

    assert {2: "old", 4: "old", 6: "old"} == rates.get_or_load_many([2, 4, 6], slow)
    assert {4: "old", 6: "old"} == rates.get_or_load_many([4, 6], slow)
    slow.hold.set()
    landed(until)
    assert dict.fromkeys([2, 4, 6], "new") == rates.get_many([2, 4, 6])
    assert [[2, 4, 6]] == asked
    assert [5, 1] == counted("stale", "loads")


def test_a_key_without_an_old_value_is_waited_for_and_the_others_are_not(
    time, rates, until
):
    late(time, rates, 2, 4)
    old = Slow(lambda keys: dict.fromkeys(keys, "new"))
    missing = Slow(lambda keys: dict.fromkeys(keys, "first"))
    batch, found = meanwhile(
        rates.get_or_load_many, [2, 4, 5], lambda k: missing(k) if 5 in k else old(k)
    )
    assert old.begun.wait(10)
    assert missing.begun.wait(10)
    batch.join(0.05)
    assert [] == found
    missing.hold.set()
    batch.join()

    assert [{2: "old", 4: "old", 5: "first"}] == found
    old.hold.set()
    landed(until)
    assert {2: "new", 4: "new"} == rates.get_many([2, 4])


def test_what_is_there_when_the_missing_key_is_is_given(time, rates, until):
    late(time, rates, 2, 4)
    missing = Slow(lambda keys: dict.fromkeys(keys, "first"))

    def load(keys):
        return missing(keys) if 5 in keys else dict.fromkeys(keys, "new")

    batch, found = meanwhile(rates.get_or_load_many, [2, 4, 5], load)
    missing.begun.wait(10)
    landed(until)
    missing.hold.set()
    batch.join()

    assert [{2: "new", 4: "new", 5: "first"}] == found
    assert [0, 2] == counted("stale", "loads")


def test_late_values_that_somebody_else_loads_wait_no_longer_than_that(
    time, rates, until
):
    late(time, rates, 2, 4)
    slow = Slow(lambda keys: dict.fromkeys(keys, "new"))
    rates.get_or_load_many([2, 4], slow)
    found = rates.get_or_load_many([2, 4, 5], lambda keys: dict.fromkeys(keys, "mine"))

    assert {2: "old", 4: "old", 5: "mine"} == found
    slow.hold.set()
    landed(until)
    assert {2: "new", 4: "new"} == rates.get_many([2, 4])


def test_a_batch_within_the_soft_time_out_gives_its_own_values(time, patient, table):
    late(time, patient, 2, 4)

    assert {2: "row 2", 4: "row 4"} == patient.get_or_load_many([2, 4], table.load)
    assert [[2, 4]] == table.asked
    assert [0, 2, 1] == counted("stale", "fill", "loads")


def test_what_such_a_loader_leaves_out_is_left_out(time, patient, table):
    late(time, patient, 1, 2)

    assert {2: "row 2"} == patient.get_or_load_many([1, 2], table.load)
    assert [1] == counted("miss")


def test_an_error_within_the_soft_time_out_gives_the_old_values(time, patient):
    late(time, patient, 2, 4)
    calls = []

    def down(keys):
        calls.append(keys)
        raise OSError("down")

    for _ in range(3):
        assert {2: "old", 4: "old"} == patient.get_or_load_many([2, 4], down)
    # An origin in trouble is left alone for a while, whoever asks, and for what.
    assert {4: "old"} == patient.get_or_load_many([4], down)
    assert "old" == patient.get_or_load(2, lambda: "new")
    assert [[2, 4]] == calls
    assert [1] == counted("raised")
    time.advance(1.1)
    assert {4: "old"} == patient.get_or_load_many([4], down)
    assert [[2, 4], [4]] == calls


def test_keys_that_are_left_alone_after_a_failure_keep_no_others_back(time, patient):
    late(time, patient, 2, 4)
    patient.get_or_load(2, lambda: 1 // 0)

    found = patient.get_or_load_many([2, 4], lambda keys: dict.fromkeys(keys, "new"))
    assert {2: "old", 4: "new"} == found


def test_a_refresh_of_many_closes_no_circle_with_the_load_around_it(time, until):
    users, begun = meshcache.Cache("users", ttl=60, stale=30), threading.Event()
    late(time, users, 2)

    def anew(keys):
        begun.set()
        return dict.fromkeys(keys, users.get_or_load("k", lambda: "nobody's") + " anew")

    def around():
        found = users.get_or_load_many([2], anew)
        begun.wait(10)
        return found[2]

    assert "old" == users.get_or_load("k", around)
    landed(until)
    assert "old anew" == users.get(2)


@pytest.mark.slow
def test_old_values_of_owners_elsewhere_are_no_reason_to_wait(time, tmp_path, until):
    """What they have is known only when they have answered."""
    options = {"ttl": 0.2, "jitter": 0, "stale_if_error": 60, "soft_timeout": 0.01}
    shared = {"cluster": uuid4().hex, "runtime_dir": tmp_path, "host_lane": False}
    with meshcache.Node(**shared) as ann, meshcache.Node(**shared) as bob:
        until(lambda: len(ann.members()) == len(bob.members()) == 2)
        here, there = (meshcache.Cache("c", node=n, **options) for n in (ann, bob))
        there.set_many(dict.fromkeys(range(20), "old"))
        time.advance(0.25)
        slow = Slow(lambda keys: dict.fromkeys(keys, "new"))
        found = here.get_or_load_many(range(20), slow)
        slow.hold.set()

        assert dict.fromkeys(range(20), "old") == found
        # One call for those that are here, and one for those that are there.
        until(lambda: ann.stats()["refreshes"]["flying"] == 0)
        assert 2 == ann.stats()["refreshes"]["started"] == ann.stats()["loads"]


def test_an_old_value_stands_in_for_no_key_that_has_none(time, patient):
    late(time, patient, 2)

    with pytest.raises(ZeroDivisionError):
        patient.get_or_load_many([2, 3], lambda keys: 1 // 0)


def test_recursion_is_an_error_whatever_there_is_to_give(time, patient):
    late(time, patient, 2)

    def again(_keys):
        return patient.get_or_load_many([2], again)

    with pytest.raises(RecursiveLoad):
        patient.get_or_load_many([2], again)


def test_the_soft_time_out_of_many_holds_for_tasks_too(time, rates):
    late(time, rates, 2, 4)
    asked = []

    async def main():
        hold = asyncio.Event()

        async def slow(keys):
            asked.append(keys)
            await hold.wait()
            return dict.fromkeys(keys, "new")

        found = await rates.aget_or_load_many([2, 4], slow)
        hold.set()
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        return found

    assert {2: "old", 4: "old"} == asyncio.run(main())
    assert {2: "new", 4: "new"} == rates.get_many([2, 4])
    assert [[2, 4]] == asked


def test_a_function_of_many_has_a_soft_time_out_of_its_own(time, until):
    users = meshcache.Cache("users", jitter=0, ttl=60, stale_if_error=300)
    slow = Slow(lambda keys: dict.fromkeys(keys, "new"))
    load_rows = users.memoize_many(name="rows", soft_timeout=0.01)(slow)
    slow.hold.set()
    load_rows([2])
    slow.hold.clear()
    time.advance(61)

    assert {2: "new"} == load_rows([2])
    assert [1] == counted("stale")
    slow.hold.set()
    landed(until)
    assert [2] == counted("loads")
