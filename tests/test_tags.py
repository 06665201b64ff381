"""Forgetting by tag, as callers see it: one node, and two on a host and off it."""

from __future__ import annotations

import asyncio
import threading

import pytest

import meshcache
from meshcache import ConfigError
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
