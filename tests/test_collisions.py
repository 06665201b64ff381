"""What other Python caches get wrong, and this one must not.

Each test names the libraries of which it was measured or reported, where they are
known, in the versions of mid-2026.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshcache
from meshcache import MISSING, KeyRefused, RecursiveLoad, SerializationError
from meshcache.codec.keys import encode_key


@pytest.fixture
def cache(solo, name) -> meshcache.Cache:
    return solo.cache(name)


class Counting:
    """A function that returns its arguments and notes each call of it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def plain(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return [*args, *sorted(kwargs.items())]

    def named(self, a="unset", b="unset"):
        return self.plain(*(value for value in (a, b) if value != "unset"))


@pytest.fixture
def counting() -> Counting:
    return Counting()


def kinds(value: Any) -> Any:
    """Return *value* so that what is equal but of another type differs."""
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), [kinds(v) for v in value]
    return type(value), repr(value)


# --- keys ------------------------------------------------------------------------

APART = [
    # dogpile joins the arguments' texts with spaces.
    [("a b", "c"), ("a", "b c")],
    [(1,), ("1",)],
    # cashews formats them into a template.
    [(1, ""), ("1", None)],
    [(True,), ("true",), ("True",)],
    [(None,), ("",), ("None",)],
    [("p:b:q",), ("p", "q:b:")],
    # functools.lru_cache and cachetools compare with ==, unless typed=True.
    [(1,), (True,), (1.0,)],
    [(0,), (False,), (0.0,), (-0.0,)],
    # ...and even then not within a tuple.
    [((1,),), ((True,),), ((1.0,),)],
    # Those that hash texts: bytes and their repr, a list and its repr.
    [(b"a",), ("b'a'",), ("a",)],
    [([1, 2],), ("[1, 2]",), ((1, 2),)],
    [((),), (), ([],), (None,)],
]


@pytest.mark.parametrize("shape", ["plain", "named"])
@pytest.mark.parametrize("group", APART)
def test_calls_that_differ_never_share(cache, counting, group, shape):
    function = cache.memoize(name="f")(getattr(counting, shape))

    for _ in range(3):
        for args in group:
            assert kinds(list(args)) == kinds(function(*args))
    assert len(group) == len(counting.calls)
    assert len(group) == len({function.key_for(*args) for args in group})


scalars = st.one_of(
    st.text(st.sampled_from("ab :,\0|\\'\"")), st.integers(), st.booleans(), st.none()
)
arguments = st.lists(scalars | st.lists(scalars).map(tuple)).map(tuple)


@given(one=arguments, other=arguments)
def test_no_arguments_can_be_chosen_that_collide(one, other):
    """django-cache-memoize: a user's arguments could be made another user's key."""
    assert (kinds(one) == kinds(other)) is (encode_key(one) == encode_key(other))


def test_calls_that_are_equal_do_share(cache):
    """functools.lru_cache loads again for f(a=1), and for keywords in another order."""
    loads = []

    @cache.memoize(name="f")
    def function(a, b=2, *, c=3):
        loads.append(1)
        return a, b, c

    calls = [function(1), function(a=1), function(1, 2), function(c=3, b=2, a=1)]

    assert [(1, 2, 3)] * 4 == calls
    assert [1] == loads


def test_functions_of_one_name_in_two_modules_or_classes_do_not_share(cache):
    """dogpile: A.m == B.m. aiocache joins module and name: "ab" + "c", "a" + "bc"."""

    names = [("ab", "c"), ("a", "bc"), ("m", "A.m"), ("m", "B.m"), ("m.A", "m")]
    functions = [lambda n: 0, lambda n: 1, lambda n: 2, lambda n: 3, lambda n: 4]
    for function, (module, qualified) in zip(functions, names, strict=True):
        function.__module__, function.__qualname__ = module, qualified
    memoized = [cache.memoize(function) for function in functions]

    assert [0, 1, 2, 3, 4] * 2 == [function(1) for function in memoized * 2]


class Plain:
    """A class that says nothing about what its instances are to a key."""

    def method(self, n):
        return n


def test_instances_that_cannot_be_told_apart_are_refused(cache):
    """Flask-Caching keys by repr(self), whose address is used again: 199 of 200 wrong.

    dogpile leaves `self` out, so all instances share.
    """
    method = cache.memoize(name="method")(Plain.method)

    with pytest.raises(KeyRefused, match="self"):
        method(Plain(), 1)


def test_an_argument_that_is_made_anew_each_time_is_named(cache):
    """fastapi-cache2 keys by the repr of each Depends object, and so never hits."""
    function = cache.memoize(name="f")(lambda n, database=None: n)

    with pytest.raises(KeyRefused, match="database"):
        function(1, object())


def test_an_argument_that_python_cannot_hash_is_as_good_as_any(cache, counting):
    """functools.lru_cache and cachetools: TypeError, unhashable type."""
    function = cache.memoize(name="f")(counting.plain)

    assert [[1], {"a": {2}}] == function([1], {"a": {2}}) == function([1], {"a": {2}})
    assert 1 == len(counting.calls)


@pytest.mark.slow
def test_a_key_is_the_same_in_every_process(cache):
    """hash(), which fastapi-cache2 uses, is salted anew by each interpreter."""
    script = (
        "import meshcache\n"
        "f = meshcache.Cache('c').memoize(name='f')(lambda *a: a)\n"
        "print(f.key_for('a', 1, ('b', None)).hex())"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "MESHCACHE_DISABLE": "1"},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert 1 == len(keys)


# --- None, what is falsy, and zero -----------------------------------------------


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", b"", (), [], {}, set()])
def test_a_value_is_a_value_however_empty(cache, value):
    """aiocache never keeps None; Flask-Caching does not by default; `if value:`."""
    loads = []

    @cache.memoize(name="f")
    def function(n):
        loads.append(n)
        return value

    assert [kinds(value)] * 3 == [kinds(function(1)) for _ in range(3)]
    assert [1] == loads
    cache.set("key", value)
    assert kinds(value) == kinds(cache.get("key", MISSING))
    assert "key" in cache


def test_what_is_not_there_is_told_from_a_none_that_is(cache):
    """cachelib answers None to both."""
    cache.set("none", None)

    assert [None, MISSING] == [cache.get(key, MISSING) for key in ("none", "nothing")]
    assert {"none": None} == cache.get_many(["none", "nothing"])
    assert False is cache.add("none", 1)


def test_a_ttl_of_zero_is_not_the_default(cache, counting):
    """fastapi-cache2: `expire = expire or default` makes 0 impossible."""
    function = cache.memoize(name="f", ttl=0)(counting.plain)

    function(1)
    function(1)
    assert 2 == len(counting.calls)


# --- values ----------------------------------------------------------------------

VALUES = [
    (1, (2, 3)),
    {1: "one", "1": "text", (2, 3): None},
    {1, 2},
    frozenset({(1, 2)}),
    [(1,), [1]],
    2**64 + 1,
    -(2**200),
    1 + 2j,
    b"\x00\xff",
    {"nested": {"tuple": (1, {2: (3,)})}},
]


@pytest.mark.parametrize("near_ttl", [None, 0])
@pytest.mark.parametrize("value", VALUES)
def test_the_second_caller_gets_the_type_that_the_first_got(
    solo, name, value, near_ttl
):
    """fastapi-cache2 and all of JSON: tuples become lists, and keys text; msgpack too.

    A plain msgpack refuses complex numbers and integers beyond 64 bits.
    """
    function = solo.cache(name, near_ttl=near_ttl).memoize(name="f")(lambda n: value)

    assert [kinds(value)] * 3 == [kinds(function(1)) for _ in range(3)]
    assert [value] * 2 == [function(1), function.peek(1)]


class Reduced:
    def __reduce__(self):
        raise AssertionError("pickled")


@pytest.mark.parametrize("value", [Reduced(), object(), [1, {"a": object()}]])
def test_what_would_not_come_back_is_refused_to_the_first_caller(cache, value):
    """diskcache, Flask-Caching, dogpile and joblib pickle it: a way in for code.

    fastapi-cache2 gives the first caller one thing and the second another.
    """
    function = cache.memoize(name="f")(lambda n: value)

    with pytest.raises(SerializationError):
        function(1)
    with pytest.raises(SerializationError):
        cache.set("key", value)

    assert MISSING is function.peek(1)


@pytest.mark.parametrize("near_ttl", [None, 0])
def test_with_copy_a_caller_that_changes_its_value_changes_nobody_elses(
    solo, name, near_ttl
):
    """cachetools and lru_cache share the object; cashews and cachebox what is in it."""
    cache = solo.cache(name, copy=True, near_ttl=near_ttl)
    function = cache.memoize(name="f")(lambda n: {"list": [n], "deep": [{"a": [n]}]})

    for _ in range(3):
        got = function(1)
        assert {"list": [1], "deep": [{"a": [1]}]} == got
        got["list"].append("mine")
        got["deep"][0]["a"].clear()
        del got["deep"]


def test_what_is_stored_is_what_it_was_when_it_was_stored(cache):
    """A store of references, as cachetools and aiocache's memory, changes with it."""
    value = {"list": [1]}
    cache.set("key", value)
    value["list"].append(2)

    assert {"list": [1]} == cache.get("key")


# --- an invalidation that meets a load --------------------------------------------


INVALIDATIONS = {
    "invalidate": lambda function: function.invalidate(1),
    "invalidate_all": lambda function: function.invalidate_all(),
    "cache_clear": lambda function: function.cache_clear(),
    "set": lambda function: function.set("new", 1),
}


@pytest.mark.parametrize("how", INVALIDATIONS)
@pytest.mark.parametrize("fill", ["owner", "caller"])
def test_an_invalidation_during_a_load_wins(cache, together, fill, how):
    """7 of 7 Python libraries tested keep the old value; so did Guava."""
    truth, begun, changed = ["old"], threading.Event(), threading.Event()

    @cache.memoize(name="f", fill=fill)
    def function(n):
        found = truth[0]
        if found == "old":
            begun.set()
            changed.wait(10)
        return found

    def work(index):
        if index == 0:
            return function(1)
        begun.wait(10)
        truth[0] = "new"
        INVALIDATIONS[how](function)
        early = function(1)  # The first load still goes on.
        changed.set()
        return early

    assert ["old", "new"] == together(2, work)
    assert ["new", "new"] == [function(1), function.peek(1)]


def test_an_invalidation_holds_in_every_process(pair, name):
    """dogpile's region.invalidate is of one process. So is lru_cache.cache_clear."""
    one, two = (node.cache(name) for node in pair)
    for n in range(8):
        one.set(n, "old")
        assert "old" == two.get(n)
    two.clear()

    assert [MISSING] * 8 == [two.get(n, MISSING) for n in range(8)]
    assert {} == one.get_many(range(8))


def test_one_key_can_be_forgotten(cache, counting):
    """functools.lru_cache: all or nothing."""
    function = cache.memoize(name="f")(counting.plain)
    function(1)
    function(2)
    function.invalidate(1)

    assert [MISSING, [2]] == [function.peek(1), function.peek(2)]


# --- loaders that do not return ---------------------------------------------------


class Broken(Exception):
    pass


@pytest.mark.parametrize("fill", ["owner", "caller"])
@pytest.mark.parametrize("error", [Broken, KeyError, StopIteration, SystemExit])
def test_a_loader_that_raises_lets_the_next_call_load(cache, together, fill, error):
    """theine hangs for ever at the second call, even on one thread."""
    loads = []

    @cache.memoize(name="f", fill=fill)
    def function(n):
        loads.append(n)
        if len(loads) == 1:
            raise error
        return "value"

    def work(_):
        with pytest.raises(error):
            function(1)
        return function(1)

    assert ["value"] == together(1, work)
    assert [1, 1] == loads


@pytest.mark.parametrize("fill", ["owner", "caller"])
def test_a_loader_that_asks_for_its_own_key_is_told(cache, together, fill):
    """cachetools (with a condition), cachebox, dogpile and theine hang for ever."""

    @cache.memoize(name="f", fill=fill)
    def function(n):
        return function(n)

    def closure():
        return cache.get_or_load("key", closure)

    assert [RecursiveLoad] == [type(e) for e in together(1, lambda _: function(1))]
    assert [RecursiveLoad] == [type(e) for e in together(1, lambda _: closure())]
    assert "value" == cache.get_or_load("key", lambda: "value")


def test_a_loader_that_asks_for_another_of_its_keys_is_not(cache):
    """What a lock for the whole function would make of Fibonacci."""

    @cache.memoize(name="f")
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert 832_040 == fibonacci(30)
    assert 31 == fibonacci.cache_info().misses


def test_callers_of_a_cold_key_make_one_load(cache, together, until):
    """lru_cache, cachetools, Flask-Caching and Django's get_or_set: 8 of 8 load."""
    loads, arrived = [], []

    @cache.memoize(name="f")
    def function(n):
        loads.append(n)
        until(lambda: len(arrived) == 8)
        return n

    def work(index):
        arrived.append(index)
        return function(1)

    assert [1] * 8 == together(8, work)
    assert [1] == loads


# --- the event loop ---------------------------------------------------------------


def test_the_cancellation_of_the_first_is_not_that_of_all(cache, until):
    """cashews and theine cancel all five who wait with the one who loads."""
    loads = []

    async def main():
        begun = asyncio.Event()

        @cache.memoize(name="f")
        async def function(n):
            loads.append(n)
            if len(loads) == 1:
                begun.set()
                await asyncio.Event().wait()
            return 42

        leader = asyncio.create_task(function(1))
        await begun.wait()
        others = [asyncio.create_task(function(1)) for _ in range(5)]
        waiting = cache.node.stats
        await asyncio.to_thread(until, lambda: 5 == waiting()["engine"]["waiting"])
        leader.cancel()
        return await asyncio.gather(leader, *others, return_exceptions=True)

    first, *rest = asyncio.run(main())

    assert isinstance(first, asyncio.CancelledError)
    assert [42] * 5 == rest
    assert [1, 1] == loads


def test_a_coroutine_is_not_what_is_kept(cache):
    """lru_cache keeps the coroutine: it cannot be awaited twice."""
    loads = []

    @cache.memoize(name="f")
    async def function(n):
        loads.append(n)
        return n

    async def main():
        return [await function(1), await function(1)]

    assert [1, 1] == asyncio.run(main())
    assert [1] == loads


def test_one_cache_serves_one_loop_after_another(cache):
    """aiocache and redis-py: "Event loop is closed". cashews keeps tasks of old loops.

    The first load is cut off by the end of its loop.
    """
    loads, begun = [], asyncio.Event()

    @cache.memoize(name="f")
    async def function(n):
        loads.append(n)
        if len(loads) == 1:
            begun.set()
            await asyncio.Event().wait()
        return n

    async def leave():
        task = asyncio.create_task(function(1))
        await begun.wait()
        return task

    assert asyncio.run(leave()).cancelled()
    assert [1, 1] == [asyncio.run(function(1)) for _ in range(2)]
    assert 1 == asyncio.run(cache.aget_or_load("key", lambda: 1))
    assert [1, 1] == loads


def test_threads_and_loops_are_served_by_one_cache(cache, together):
    """cashews is for async code alone; from worker threads it mixes up their loops."""

    async def loader():
        await asyncio.sleep(0.01)
        return "value"

    def work(index):
        if index % 2:
            return cache.get_or_load("key", lambda: "value")
        return asyncio.run(cache.aget_or_load("key", loader))

    assert ["value"] * 6 == together(6, work)


def test_a_plain_function_stays_one(cache):
    """fastapi-cache2 makes an async function of it."""
    function = cache.memoize(name="f")(lambda n: n)

    assert 1 == function(1)


# --- objects ----------------------------------------------------------------------


class Shop:
    def __init__(self, city):
        self.city = city

    def __cache_key__(self):
        return self.city

    def price(self, item):
        return f"{item} in {self.city}"


def test_a_memoized_method_does_not_keep_its_object_alive(cache, monkeypatch):
    """functools.lru_cache holds every `self` it has seen (flake8-bugbear's B019)."""
    monkeypatch.setattr(Shop, "price", cache.memoize(name="price")(Shop.price))
    shop = Shop("Oslo")
    assert ["tea in Oslo"] * 2 == [shop.price("tea"), shop.price("tea")]
    gone = weakref.ref(shop)
    del shop
    gc.collect()

    assert None is gone()
    assert "tea in Oslo" == Shop.price.peek(Shop("Oslo"), "tea")
