"""Forgetting by tag, as callers see it: one node, and two on a host and off it."""

from __future__ import annotations

import asyncio
import threading

import pytest

import meshcache
from meshcache import ConfigError
from meshcache.codec.fields import MAX_UNTAGGED
from meshcache.testing import isolated


@pytest.fixture(autouse=True)
def alone():
    with isolated() as node:
        yield node


@pytest.fixture
def users():
    return meshcache.Cache("users")


def test_an_invalidated_tag_takes_all_that_bear_it_and_nothing_else(users):
    users.set("a", 1, tags=("red",))
    users.set("b", 2, tags=("red", "blue"))
    users.set("c", 3, tags="blue")
    users.set("d", 4)
    users.invalidate_tags("red")

    assert {"c": 3, "d": 4} == users.get_many("abcd")


def test_it_takes_what_is_near_too(users):
    users.set("k", 1, tags=("red",))
    for _ in range(3):
        users.get("k")
    assert "near" == users.get_entry("k").tier
    users.invalidate_tags("red")

    assert None is users.get("k")


def test_a_tagged_value_stays_near_while_other_tags_are_invalidated(users):
    users.set("k", 1, tags=("red",))
    for _ in range(3):
        users.get("k")
    users.invalidate_tags("blue")
    users.get("k")

    assert "near" == users.get_entry("k").tier


def test_what_is_stored_afterwards_lives(users):
    users.set("k", "old", tags=("red",))
    users.invalidate_tags("red")
    users.set("k", "new", tags=("red",))

    assert "new" == users.get("k")


def test_a_tag_is_the_cache_s_own(users):
    others = meshcache.Cache("others")
    for cache in (users, others):
        cache.set("k", 1, tags=("red",))
    users.invalidate_tags("red")

    assert (None, 1) == (users.get("k"), others.get("k"))


def test_several_tags_go_in_one_call_and_none_in_none(users):
    for index, tag in enumerate(("red", "blue", "green")):
        users.set(index, index, tags=(tag,))
    users.invalidate_tags()
    asyncio.run(users.ainvalidate_tags("red", "blue"))

    assert {2: 2} == users.get_many([0, 1, 2])


def test_loaded_values_bear_tags(users):
    users.get_or_load("a", lambda: 1, tags="red")
    users.get_or_load_many(["b"], lambda keys: dict.fromkeys(keys, 2), tags="red")
    users.set_many({"c": 3}, tags="red")
    users.add("d", 4, tags="red")
    assert 4 == len(users.get_many("abcd"))
    users.invalidate_tags("red")

    assert {} == users.get_many("abcd")


def test_tags_of_a_memoized_function_are_words_or_made_of_its_arguments(users):
    calls = []

    @users.memoize(name="f", tags=lambda team, user: (f"team:{team}", "all"))
    def load(team, user):
        calls.append(user)
        return user

    for user in (1, 2, 3):
        load(user % 2, user)
    users.invalidate_tags("team:1")
    for user in (1, 2, 3):
        load(user % 2, user)
    users.invalidate_tags("all")
    load(0, 2)

    assert [1, 2, 3, 1, 3, 2] == calls


def test_a_load_under_way_is_given_to_who_asked_before_and_not_stored(users):
    begun, hold, found = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        hold.wait(10)
        return "old"

    first = threading.Thread(
        target=lambda: found.append(users.get_or_load("k", slow, tags="red"))
    )
    first.start()
    begun.wait(10)
    users.invalidate_tags("red")
    later = users.get_or_load("k", lambda: "new", tags="red")
    hold.set()
    first.join()

    assert (["old"], "new") == (found, later)
    assert "new" == users.get("k")


def test_a_load_whose_tags_are_others_goes_on(users):
    def loader():
        users.invalidate_tags("blue")
        return "value"

    users.get_or_load("k", loader, tags="red")

    assert "value" == users.get("k")


@pytest.mark.parametrize("tags", [[1], [""], [None], [str(n) for n in range(17)]])
def test_a_tag_is_a_word_and_a_value_has_sixteen_at_most(users, tags):
    with pytest.raises(ConfigError, match="tag"):
        users.set("k", 1, tags=tags)

    assert None is users.get("k")


def test_a_value_stored_after_its_tag_was_invalidated_stays_near(users):
    users.invalidate_tags("red")
    users.set("k", 1, tags=("red",))
    for _ in range(3):
        users.get("k")

    assert "near" == users.get_entry("k").tier


def test_a_remembered_error_falls_with_the_tags_of_its_value(users):
    calls = []

    @users.memoize(name="f", errors=LookupError, error_ttl=60, tags="red")
    def load(key):
        calls.append(key)
        raise LookupError(key)

    for _ in range(2):
        with pytest.raises(LookupError):
            load(1)
    users.invalidate_tags("red")
    with pytest.raises(LookupError):
        load(1)

    assert [1, 1] == calls


def test_what_is_set_for_a_call_bears_the_tags_of_the_call(users):
    load = users.memoize(name="f", tags=lambda key: f"key:{key}")(lambda key: "loaded")
    load.set("set", 1)
    load.set("set", 2)
    users.invalidate_tags("key:1")

    assert ["loaded", "set"] == [load(1), load(2)]


def test_nobody_joins_a_call_whose_tag_was_invalidated_since(users):
    begun, hold, found = threading.Event(), threading.Event(), []

    @users.memoize(name="f", tags=lambda key: f"key:{key}", load_timeout=1)
    def load(_):
        if begun.is_set():
            return "new"
        begun.set()
        hold.wait(10)
        return "old"

    first = threading.Thread(target=lambda: found.append(load(1)))
    first.start()
    begun.wait(10)
    users.invalidate_tags("key:1")
    try:
        assert "new" == load(1)
    finally:
        hold.set()
        first.join()

    assert ["old"] == found
    assert "new" == load(1)


def test_tags_of_one_call_count_once_and_are_bounded(users):
    users.set("k", 1, tags="red")
    most = [str(number) for number in range(MAX_UNTAGGED - 1)]
    with pytest.raises(ConfigError, match="make several"):
        users.invalidate_tags("red", "blue", *most)
    assert 1 == users.get("k")

    users.invalidate_tags("red", "red", *most)
    assert None is users.get("k")


def test_the_async_twins_take_tags_and_forget_by_them(users):
    async def main():
        await users.aset("a", 1, tags="red")
        await users.aadd("b", 2, tags=("red", "blue"))
        await users.aset_many({"c": 3, "d": 4}, tags=iter(("red",)))
        await users.aset("e", 5, tags="blue")
        before = await users.aget_many("abcde")
        await users.ainvalidate_tags("green", "red")
        return len(before), await users.aget_many("abcde")

    assert (5, {"e": 5}) == asyncio.run(main())


def test_many_values_may_bear_one_tag_or_what_can_be_read_once(users):
    users.set_many({"a": 1, "b": 2}, tags="red")
    users.set_many({"c": 1, "d": 2}, tags=iter(("red", "blue")))
    users.invalidate_tags("red")

    assert {} == users.get_many("abcd")
