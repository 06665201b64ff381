"""What a cache promises, sync and async, wherever the owner of the key is."""

from __future__ import annotations

import asyncio
import gc
import threading
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from inspect import getmembers, iscoroutinefunction, isfunction, signature
from typing import Any, NamedTuple

import pytest

from meshcache import (
    MISSING,
    UNSET,
    Cache,
    Codec,
    ConfigError,
    KeyRefused,
    LoadError,
    LoadTimeout,
    Node,
    NodeClosed,
    NotANumber,
    RecursiveLoad,
    SerializationError,
    ValueTooLarge,
)
from meshcache.runtime.driver import IN_VAIN_MAX

ANYTHING = [None, 0, False, "", b"", [], {}, (), {1, 2}, Decimal("1.0"), 2**200, "x"]
DIFFERENT = [1, True, 1.0, "1", b"1", (1,), None, "None", 0, False, 0.0, -0.0, ""]


class Spot(NamedTuple):
    """Who writes, who else reads, and whose the keys are."""

    writer: Node
    reader: Node
    owner: Node
    name: str
    owned_by: Any

    def cache(self, **options: Any) -> Cache:
        return self.writer.cache(self.name, **options)

    def far(self, **options: Any) -> Cache:
        return self.reader.cache(self.name, **options)

    def key(self, start: int = 0) -> int:
        return self.owned_by(self.owner, self.name, start)

    def all_wait_for(self, leader: Node, callers: int) -> bool:
        """Whether all but the one who loads, at *leader*, wait for it."""
        nodes = {self.writer.me: self.writer, self.reader.me: self.reader}
        waiting = sum(n.stats()["engine"]["waiting"] for n in nodes.values())
        # Those of the other node wait there, and it waits once for all of them here.
        between = len(nodes) == 2 and leader is self.owner
        return waiting == callers - 1 + between

    def keys(self, count: int) -> list[int]:
        keys = [self.key()]
        while len(keys) < count:
            keys.append(self.key(keys[-1] + 1))
        return keys


@pytest.fixture(params=["alone", "ours", "theirs"])
def spot(request, name, owned_by) -> Spot:
    """A node alone; two nodes, the key the writer's; two nodes, the other's."""
    if request.param == "alone":
        solo = request.getfixturevalue("solo")
        return Spot(solo, solo, solo, name, owned_by)
    one, two = request.getfixturevalue("pair")
    return Spot(one, two, one if request.param == "ours" else two, name, owned_by)


@pytest.fixture
def cache(solo, name) -> Cache:
    return solo.cache(name)


@pytest.fixture(scope="module")
def tight(make_standing) -> tuple[Node, Node]:
    """Two nodes with narrow limits, of which the second takes more than the first."""
    narrow = {"max_batch_keys": 7, "max_batch_bytes": 65_536, "max_key_bytes": 64}
    return make_standing(
        {"max_value_bytes": 1024, **narrow}, {"max_value_bytes": 4096, **narrow}
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Node:
    place = tmp_path_factory.mktemp("stopped")
    node = Node(cluster="stopped", runtime_dir=place).start()
    node.stop()
    return node


def near_hits(cache: Cache) -> int:
    return cache.region.tally.as_dict()["near"]


def ttl_left(cache: Cache, key: object) -> float | None:
    return cache.node.explain(cache.name, key).ttl


# --- reading and writing ----------------------------------------------------------


def test_what_was_set_is_read_by_all(spot, do):
    cache, key = spot.cache(), spot.key()

    assert None is do(cache, "set", key, {"a": [1]})
    assert {"a": [1]} == do(cache, "get", key)
    assert {"a": [1]} == do(spot.far(), "get", key)
    assert {"a": [1]} == do(spot.far(), "get", key)


@pytest.mark.parametrize("value", ANYTHING, ids=repr)
def test_every_value_is_one_however_empty(pair, name, do, value):
    one, two = pair
    cache, far = one.cache(name), two.cache(name)
    for key in range(4):
        do(cache, "set", key, value)

    for key in range(4):
        for reader in (cache, cache, far, far):
            found = do(reader, "get", key, "a default")

            assert (type(value), value) == (type(found), found)
        assert do(far, "contains", key)
        assert not do(far, "add", key, "another")


def test_what_is_not_stored_is_the_default(spot, do):
    cache, key = spot.cache(), spot.key()

    assert None is do(cache, "get", key)
    assert MISSING is do(cache, "get", key, MISSING)
    assert MISSING is do(cache, "get", key, default=MISSING)
    assert not MISSING
    assert not do(cache, "contains", key)


def test_add_stores_only_where_nothing_is(spot, do):
    cache, key = spot.cache(), spot.key()

    assert do(cache, "add", key, None)
    assert not do(cache, "add", key, "second")
    assert None is do(spot.far(), "get", key, "a default")


def test_delete_forgets_and_tells_whether_there_was_something(spot, do):
    cache, key = spot.cache(), spot.key()
    do(cache, "set", key, None)

    assert do(cache, "delete", key)
    assert not do(cache, "delete", key)
    assert MISSING is do(cache, "get", key, MISSING)
    assert MISSING is do(spot.far(), "get", key, MISSING)


def test_touch_gives_a_new_ttl_to_what_is_there(spot, do):
    cache, key = spot.cache(ttl=1000, jitter=0), spot.key()

    assert not do(cache, "touch", key)

    do(cache, "set", key, 1, ttl=50)

    assert do(cache, "touch", key)
    assert 990 < ttl_left(cache, key) <= 1000
    assert do(cache, "touch", key, ttl=None)
    assert None is ttl_left(cache, key)
    assert do(cache, "touch", key, ttl=0)
    assert not do(cache, "contains", key)


def test_counting_starts_from_initial_and_keeps_its_ttl(spot, do):
    cache, key = spot.cache(ttl=1000, jitter=0), spot.key()

    assert 1 == do(cache, "incr", key)
    assert 6 == do(cache, "incr", key, 5, ttl=None)
    assert 4 == do(cache, "decr", key, 2)
    assert 4 == do(spot.far(), "get", key)
    assert 990 < ttl_left(cache, key) <= 1000

    do(cache, "delete", key)

    assert 9 == do(cache, "decr", key, initial=10)


def test_counting_grows_beyond_64_bits(spot, do):
    cache, key = spot.cache(), spot.key()
    do(cache, "set", key, 2**64)

    assert 2**64 + 2**63 - 1 == do(cache, "incr", key, 2**63 - 1)


def test_no_count_is_lost_among_threads(pair, name, together):
    one, two = pair
    caches = [one.cache(name), two.cache(name)]

    together(8, lambda i: [caches[i % 2].incr("n") for _ in range(25)])

    assert 200 == caches[0].get("n")


@pytest.mark.parametrize("stored", ["7", None, True, 1.0])
def test_counting_something_else_is_refused_and_leaves_it(spot, do, stored):
    cache, key = spot.cache(), spot.key()
    do(cache, "set", key, stored)

    with pytest.raises(NotANumber, match="is no integer"):
        do(cache, "incr", key)

    assert stored is do(cache, "get", key) or stored == do(cache, "get", key)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"delta": 1.5}, NotANumber),
        ({"delta": True}, NotANumber),
        ({"delta": 2**63}, ValueTooLarge),
        ({"initial": "0"}, NotANumber),
        ({"initial": None}, NotANumber),
    ],
)
def test_counting_by_what_is_no_number_is_refused_at_once(spot, do, arguments, error):
    cache, key = spot.cache(), spot.key()

    with pytest.raises(error, match=r"delta=|initial="):
        do(cache, "incr", key, **arguments)

    assert not do(cache, "contains", key)


def test_only_msgpack_counts(solo, name):
    with pytest.raises(ConfigError, match="keep counters"):
        solo.cache(name, codec="json").incr("n")


def test_many_go_together(spot, do, until):
    cache, keys = spot.cache(), [*spot.keys(3), "x", None, (1, "y")]
    values = {key: [key] for key in keys}

    assert [] == do(cache, "set_many", values)
    assert values == do(cache, "get_many", keys)
    assert values == do(spot.far(), "get_many", keys)
    assert values == do(spot.far(), "get_many", iter(keys))
    assert {} == do(cache, "get_many", ["nothing", "there"])
    assert 6 == do(cache, "delete_many", [*keys, "nothing"])
    assert {} == do(cache, "get_many", keys)
    until(lambda: do(spot.far(), "get_many", keys) == {}, 2.0)


def test_nothing_at_all_is_many_too(spot, do):
    cache = spot.cache()

    assert [] == do(cache, "set_many", {})
    assert {} == do(cache, "get_many", [])
    assert 0 == do(cache, "delete_many", [])


def test_more_keys_than_a_batch_holds_come_back_in_order(tight, name, do):
    one, two = tight
    values = dict.fromkeys(range(60), "x" * 1000)

    assert [] == do(one.cache(name), "set_many", values)
    assert list(values) == list(do(two.cache(name), "get_many", values))


def test_keys_of_many_may_repeat_but_not_be_confused(spot, do):
    cache = spot.cache()
    do(cache, "set", 1, "int")
    do(cache, "set", True, "bool")

    assert {1: "int"} == do(cache, "get_many", [1, 1])
    with pytest.raises(KeyRefused, match="True"):
        do(cache, "get_many", [1, True])


def test_one_refused_value_among_many_stores_none(spot, do):
    cache, keys = spot.cache(), spot.keys(2)

    with pytest.raises(SerializationError):
        do(cache, "set_many", {keys[0]: 1, keys[1]: object()})

    assert {} == do(cache, "get_many", keys)


def test_clear_forgets_this_cache_on_all_members_and_no_other(spot, do):
    cache, keys = spot.cache(), spot.keys(3)
    other = spot.writer.cache(f"{spot.name}x")
    do(cache, "set_many", dict.fromkeys(keys, 1))
    do(other, "set", "kept", 1)
    do(spot.far(), "get_many", keys)

    assert None is do(cache, "clear")

    assert {} == do(cache, "get_many", keys)
    assert {} == do(spot.far(), "get_many", keys)
    assert 1 == do(other, "get", "kept")


def test_two_caches_of_one_name_are_the_same_data(solo, name):
    solo.cache(name).set("k", 1)

    assert 1 == solo.cache(name).get("k")
    assert None is solo.cache(f"{name}x").get("k")


def test_a_cache_made_anew_for_each_request_reads_near_all_the_same(solo, name):
    solo.cache(name).set("k", 1)
    solo.cache(name).get("k")
    before = solo.stats()["reads"]["near"]

    assert 1 == solo.cache(name).get("k")
    assert 1 == solo.stats()["reads"]["near"] - before


def test_caches_of_other_options_do_not_share_what_is_near(solo, name):
    solo.cache(name).set("k", {1: 2})
    solo.cache(name).get("k")

    assert MISSING is solo.cache(name, codec="json").get("k", MISSING)
    solo.cache(name, near_ttl=0).get("k")
    assert 0 == near_hits(solo.cache(name, near_ttl=0))


# --- keys ------------------------------------------------------------------------


def test_keys_of_different_types_never_meet(spot, do):
    cache, far = spot.cache(), spot.far()
    for index, key in enumerate(DIFFERENT):
        do(cache, "set", key, index)

    expected = list(range(len(DIFFERENT)))
    assert expected == [do(cache, "get", key) for key in DIFFERENT]
    before = near_hits(cache)
    assert expected == [do(cache, "get", key) for key in DIFFERENT]
    assert len(DIFFERENT) == near_hits(cache) - before
    assert expected == [do(far, "get", key) for key in DIFFERENT]
    assert expected == [do(far, "get", key) for key in DIFFERENT]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("get", ()), ("set", (1,)), ("delete", ()), ("contains", ()), ("incr", ())],
)
def test_a_key_without_stable_encoding_is_refused_by_name(
    cache, do, operation, arguments
):
    for key in (object(), lambda: 0, [object()], {1: [object()]}):
        with pytest.raises(KeyRefused, match="key"):
            do(cache, operation, key, *arguments)


def test_a_key_that_cannot_be_hashed_is_a_key_all_the_same(spot, do):
    cache = spot.cache()
    do(cache, "set", [1, {"a": {2}}], "found")

    assert "found" == do(cache, "get", [1, {"a": {2}}])
    assert "found" == do(cache, "get", [1, {"a": {2}}])


@pytest.mark.parametrize("operation", ["get", "contains", "delete", "touch"])
def test_a_key_over_the_limit_is_refused_with_advice(tight, name, do, operation):
    cache = tight[0].cache(name)
    fits = "x" * (64 - len(name) - 2)
    cache.set(fits, 1)

    with pytest.raises(ValueTooLarge, match=r"max_key_bytes=64; raise that, or"):
        do(cache, operation, f"{fits}x")

    assert 1 == cache.get(fits)


# --- values ----------------------------------------------------------------------


def test_values_come_back_as_they_were_for_everyone(spot, do):
    cache, key = spot.cache(), spot.key()
    value = {1: (1, "2"), "s": frozenset({datetime(2026, 1, 2, tzinfo=UTC)})}
    do(cache, "set", key, value)

    assert value == do(cache, "get", key)
    assert value == do(spot.far(), "get", key)
    assert tuple is type(do(spot.far(), "get", key)[1])


@pytest.mark.parametrize("value", [object(), MISSING, UNSET, lambda: 0, [object()]])
def test_a_refused_value_changes_nothing(spot, do, value):
    cache, key = spot.cache(), spot.key()
    do(cache, "set", key, "old")
    do(cache, "get", key)

    with pytest.raises(SerializationError):
        do(cache, "set", key, value)
    with pytest.raises(SerializationError):
        do(cache, "add", spot.key(key + 1), value)

    assert "old" == do(cache, "get", key)
    assert "old" == do(spot.far(), "get", key)
    assert not do(cache, "contains", spot.key(key + 1))


def test_a_value_over_the_limit_changes_nothing_and_says_what_to_do(tight, name, do):
    caches = [node.cache(name) for node in tight]
    for key in range(4):
        caches[0].set(key, "old")
        with pytest.raises(ValueTooLarge, match=r"max_value_bytes=1024; raise that"):
            do(caches[0], "set", key, "x" * 1025)

    assert ["old"] * 4 == [do(caches[1], "get", key) for key in range(4)]


def test_an_owner_with_a_smaller_limit_refuses_too(tight, name, do, owned_by):
    narrow, wide = tight
    cache, key = wide.cache(name), owned_by(narrow, name)

    with pytest.raises(ValueTooLarge, match="its owner's max_value_bytes"):
        do(cache, "set", key, "x" * 2000)
    assert [key] == do(cache, "set_many", {key: "x" * 2000})


def test_a_stored_value_that_cannot_be_read_is_a_miss(spot, do):
    texts, things, key = spot.cache(codec="json"), spot.cache(), spot.key()
    do(things, "set", key, 2**100)

    assert MISSING is do(texts, "get", key, MISSING)
    assert {} == do(texts, "get_many", [key])
    assert "mine" == do(texts, "get_or_load", key, lambda: "mine")


def test_a_codec_of_ones_own_is_used_both_ways(solo, name, do):
    class Shout(Codec):
        name = "shout"

        def encode(self, value):
            return value.upper().encode()

        def decode(self, data):
            return bytes(data).decode()

    cache = solo.cache(name, codec=Shout())
    do(cache, "set", 1, "hey")

    assert "HEY" == do(cache, "get", 1)


def test_bytes_are_stored_as_they_are(spot, do):
    cache, key = spot.cache(codec="bytes"), spot.key()
    do(cache, "set", key, b"\0\xff")

    assert b"\0\xff" == do(spot.far(codec="bytes"), "get", key)


# --- time ------------------------------------------------------------------------


def test_a_ttl_of_none_never_expires(spot, do):
    cache, key = spot.cache(ttl=5), spot.key()
    do(cache, "set", key, 1, ttl=None)

    assert None is ttl_left(cache, key)

    do(spot.cache(ttl=None), "set", key, 1)

    assert None is ttl_left(cache, key)


def test_a_ttl_of_zero_is_not_stored_and_forgets_what_was(spot, do, until):
    cache, key = spot.cache(), spot.key()
    do(cache, "set", key, "old")
    do(spot.far(), "get", key)

    do(cache, "set", key, "new", ttl=0)

    assert MISSING is do(cache, "get", key, MISSING)
    until(lambda: do(spot.far(), "get", key, MISSING) is MISSING, 2.0)
    assert do(cache, "add", key, "x", ttl=0)
    assert not do(cache, "contains", key)


def test_what_has_expired_is_gone_from_every_memory(spot, do, until):
    cache, far, key = spot.cache(jitter=0), spot.far(), spot.key()
    do(cache, "set", key, 1, ttl=0.15)

    assert 1 == do(cache, "get", key)
    assert 1 == do(far, "get", key)
    until(lambda: do(cache, "get", key, MISSING) is MISSING)
    until(lambda: do(far, "get", key, MISSING) is MISSING, 1.0)


def test_jitter_takes_off_up_to_its_share(solo, name, do):
    cache = solo.cache(name, ttl=100, jitter=0.5)
    do(cache, "set_many", dict.fromkeys(range(50), 1))

    lefts = [ttl_left(cache, key) for key in range(50)]
    assert all(49 < left <= 100 for left in lefts)
    assert max(lefts) - min(lefts) > 10


@pytest.mark.parametrize("ttl", [-1, float("nan"), float("inf"), "60", True, 1e12])
def test_a_ttl_that_is_none_is_refused_and_changes_nothing(cache, do, ttl):
    do(cache, "set", 1, "old")

    with pytest.raises(ConfigError, match="ttl="):
        do(cache, "set", 1, "new", ttl=ttl)

    assert "old" == do(cache, "get", 1)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1},
        {"near_ttl": "soon"},
        {"jitter": 2},
        {"jitter": True},
        {"codec": "pickle"},
        {"tll": 3},
    ],
)
def test_an_option_out_of_bounds_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Cache("c", **options)


@pytest.mark.parametrize("text", ["", "a|b", "a\0b", "é" * 257, 7, None])
def test_a_cache_is_named_by_printable_text(text):
    with pytest.raises(ConfigError, match="name"):
        Cache(text)


# --- who sees what, when ---------------------------------------------------------


def test_the_writer_reads_its_own_write(spot, do):
    cache, key = spot.cache(), spot.key()
    for value in range(50):
        do(cache, "set", key, value)

        assert value == do(cache, "get", key)
        assert value == do(cache, "get", key)


def test_the_owner_reads_what_another_wrote_at_once(pair, name, do, owned_by):
    one, two = pair
    cache, owner, key = one.cache(name), two.cache(name), owned_by(two, name)
    for value in range(50):
        do(cache, "set", key, value)

        assert value == do(owner, "get", key)
        assert value == do(owner, "get", key)


@pytest.mark.parametrize("act", ["get", "set"])
def test_a_bell_that_nobody_stands_behind_is_not_heard_for_ever(solo, name, act):
    cache = solo.cache(name, near_ttl=0)
    cache.set("k", 1)
    bell = cache.region.runtime.engine.store.bell
    bell[0] = 1
    for _ in range(2 * IN_VAIN_MAX):
        (cache.get if act == "get" else partial(cache.set, value=2))("k")

    assert 0 == bell[0]


@pytest.mark.parametrize("memoized", [False, True])
def test_with_copy_each_caller_may_change_what_it_gets(solo, name, memoized):
    cache = solo.cache(name, copy=True)
    if memoized:
        read = cache.memoize(name="f")(lambda: {"tags": ["a"]})
    else:
        cache.set("k", {"tags": ["a"]})
        read = partial(cache.get, "k")
    for _ in range(3):
        read()["tags"].append("mine")

    assert {"tags": ["a"]} == read()
    assert solo.stats()["reads"]["near"] >= 2


def test_without_copy_the_callers_of_a_process_share_what_is_near(solo, name):
    cache = solo.cache(name)
    cache.set("k", ["a"])
    cache.get("k")

    assert cache.get("k") is cache.get("k")


def test_copy_is_true_or_false(solo):
    with pytest.raises(ConfigError, match="copy='yes'"):
        solo.cache("c", copy="yes")


def test_a_write_soon_ends_what_the_other_node_has_near(spot, do, until):
    cache, far, key = spot.cache(), spot.far(), spot.key()
    for value in range(1, 20):
        do(cache, "set", key, value)
        before = near_hits(far)
        until(lambda value=value: do(far, "get", key) == value, 2.0)
        # The owner's note of the write may overtake the answer or follow it.
        until(lambda hits=before: do(far, "get", key) and near_hits(far) > hits, 2.0)

        assert value == do(far, "get", key)


def test_a_deleted_key_soon_leaves_what_the_other_node_has_near(spot, do, until):
    cache, far, key = spot.cache(), spot.far(), spot.key()
    do(cache, "set", key, 1)
    do(far, "get", key)
    do(far, "get", key)

    do(cache, "delete", key)

    until(lambda: do(far, "get", key, MISSING) is MISSING, 2.0)


def test_a_near_ttl_of_zero_keeps_nothing_near(spot, do):
    cache, key = spot.cache(near_ttl=0), spot.key()
    do(cache, "set", key, 1)
    do(cache, "get", key)
    do(cache, "get", key)

    assert 0 == near_hits(cache)


# --- loading ---------------------------------------------------------------------


def test_what_is_missing_is_loaded_once_for_all(spot, do):
    cache, key, loads = spot.cache(), spot.key(), []

    def loader():
        loads.append(threading.get_ident())
        return {"a": None}

    for asker in (cache, cache, spot.far(), spot.far()):
        assert {"a": None} == do(asker, "get_or_load", key, loader)
    assert 1 == len(loads)
    assert {"a": None} == do(cache, "get", key)


def test_a_loaded_none_is_not_loaded_again(spot, do):
    cache, key, loads = spot.cache(), spot.key(), []

    for _ in range(3):
        assert None is do(cache, "get_or_load", key, lambda: loads.append(1))
    assert [1] == loads


def test_a_load_with_a_ttl_of_zero_is_shared_and_not_stored(spot, do):
    cache, key = spot.cache(), spot.key()

    assert 1 == do(cache, "get_or_load", key, lambda: 1, ttl=0)
    assert 2 == do(cache, "get_or_load", key, lambda: 2)


def test_one_load_serves_all_threads_of_all_nodes(spot, together, until):
    caches, key, loads = [spot.cache(), spot.far()], spot.key(), []

    def loader(leader):
        loads.append(1)
        until(lambda: spot.all_wait_for(leader, 8))
        return "value"

    def ask(index):
        cache = caches[index % 2]
        return cache.get_or_load(key, partial(loader, cache.node))

    results = together(8, ask)

    assert ["value"] * 8 == results
    assert [1] == loads


def test_one_load_serves_tasks_of_two_loops_and_a_thread(spot, together, until):
    caches, key, loads = [spot.cache(), spot.far()], spot.key(), []
    arrived = []

    async def loader():
        loads.append(1)
        await asyncio.to_thread(until, lambda: len(arrived) == 9)
        return "value"

    async def ask(cache):
        arrived.append(1)
        return await cache.aget_or_load(key, loader)

    def plain():
        loads.append(1)
        until(lambda: len(arrived) == 9)
        return "value"

    async def tasks(cache):
        return await asyncio.gather(*(ask(cache) for _ in range(4)))

    def work(index):
        if index < 2:
            return asyncio.run(tasks(caches[index]))
        arrived.append(1)
        return [caches[0].get_or_load(key, plain)]

    results = together(3, work)

    assert ["value"] * 9 == [value for some in results for value in some]
    assert [1] == loads


def test_an_error_is_raised_to_the_loader_s_caller_and_not_kept(spot, do):
    cache, key = spot.cache(), spot.key()

    class Mine(Exception):
        pass

    def broken():
        raise Mine("once")

    with pytest.raises(Mine, match="once") as caught:
        do(cache, "get_or_load", key, broken)

    assert None is caught.value.__cause__
    assert not do(cache, "contains", key)
    assert 7 == do(cache, "get_or_load", key, lambda: 7)


@pytest.mark.parametrize("error", [KeyError("k"), StopIteration(3), RuntimeError()])
def test_a_sync_caller_gets_any_error_of_its_loader_as_it_is(cache, error):
    def broken():
        raise error

    with pytest.raises(type(error)) as caught:
        cache.get_or_load("key", broken)

    assert error is caught.value


def test_every_waiter_hears_of_an_error_and_the_next_loads_again(spot, together, until):
    caches, key, loads = [spot.cache(), spot.far()], spot.key(), []

    class Mine(Exception):
        pass

    def broken(leader):
        loads.append(1)
        until(lambda: spot.all_wait_for(leader, 6))
        raise Mine("for all of you")

    def ask(index):
        cache = caches[index % 2]
        return cache.get_or_load(key, partial(broken, cache.node))

    results = together(6, ask)

    assert [1] == loads
    assert [Mine] == [type(r) for r in results if not isinstance(r, LoadError)]
    others = [r for r in results if isinstance(r, LoadError)]
    assert 5 == len(others)
    for error in others:
        assert error.type_name.endswith("Mine")
        assert "for all of you" == error.remote_message
        assert "in broken" in error.remote_traceback
    assert 1 == caches[1].get_or_load(key, lambda: 1)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_loader_gives_way_to_the_next(cache, together, interrupt):
    turn = threading.Semaphore(1)

    def loader():
        if turn.acquire(blocking=False):
            raise interrupt
        return "value"

    def ask(_):
        try:
            return cache.get_or_load("key", loader)
        except interrupt:
            return "interrupted"

    assert ["interrupted", "value", "value"] == sorted(together(3, ask))


def test_a_loader_that_asks_for_its_own_key_is_told_so(spot, do):
    cache, key = spot.cache(), spot.key()

    def loader():
        return cache.get_or_load(key, loader)

    with pytest.raises(RecursiveLoad, match="would wait for itself"):
        do(cache, "get_or_load", key, loader)
    assert 1 == do(cache, "get_or_load", key, lambda: 1)


def test_a_circle_through_another_key_and_another_node_is_found(pair, name, owned_by):
    one, two = pair
    here, there = one.cache(name), two.cache(name)
    mine, theirs = owned_by(one, name), owned_by(two, name)

    def first():
        return here.get_or_load(theirs, second)

    def second():
        return there.get_or_load(mine, first)

    with pytest.raises(RecursiveLoad):
        there.get_or_load(mine, first)


def test_a_loader_may_load_other_keys(spot, do):
    cache, keys = spot.cache(), spot.keys(2)

    def outer():
        return cache.get_or_load(keys[1], lambda: 1) + 1

    assert 2 == do(cache, "get_or_load", keys[0], outer)
    assert 1 == do(cache, "get", keys[1])


def test_a_loader_that_never_returns_times_its_waiters_out(spot, do, together, until):
    cache, key = spot.cache(), spot.key()
    release, begun = threading.Event(), threading.Event()

    def endless():
        begun.set()
        release.wait(20)
        return "late"

    def work(index):
        if index == 0:
            return cache.get_or_load(key, endless, load_timeout=30)
        begun.wait(5)
        try:
            return do(spot.far(), "get_or_load", key, lambda: "x", load_timeout=0.2)
        finally:
            release.set()

    results = together(2, work)

    assert "late" == results[0]
    assert LoadTimeout is type(results[1])
    assert "raise load_timeout=" in str(results[1])


def test_a_coroutine_that_takes_too_long_is_cancelled(spot):
    cache, key, ended = spot.cache(), spot.key(), []

    async def endless():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    with pytest.raises(LoadTimeout, match=r"endless.* took longer than 0\.1 s"):
        asyncio.run(cache.aget_or_load(key, endless, load_timeout=0.1))

    assert [1] == ended
    assert 1 == cache.get_or_load(key, lambda: 1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_load_timeout_that_is_none_is_refused(cache, do, timeout):
    with pytest.raises(ConfigError, match="load_timeout="):
        do(cache, "get_or_load", "key", lambda: 1, load_timeout=timeout)


def test_a_timeout_of_the_loader_s_own_is_passed_on(cache, do):
    def slow():
        raise TimeoutError("the database's")

    with pytest.raises(TimeoutError, match="the database's") as caught:
        do(cache, "get_or_load", "key", slow)

    assert TimeoutError is type(caught.value)


def test_a_write_during_a_load_wins(spot, do, together, until):
    cache, key = spot.cache(), spot.key()
    begun, written = threading.Event(), threading.Event()

    def loader():
        begun.set()
        written.wait(5)
        return "from before"

    def work(index):
        if index == 0:
            return cache.get_or_load(key, loader)
        begun.wait(5)
        do(spot.far(), "set", key, "newer")
        written.set()
        return None

    assert "from before" == together(2, work)[0]
    assert "newer" == do(spot.far(), "get", key)
    # The loading node hears of the write by a note, which may still be on its way.
    until(lambda: do(cache, "get", key) == "newer", 2.0)


def test_a_delete_during_a_load_keeps_its_value_out(spot, do, together, until):
    cache, key = spot.cache(), spot.key()
    begun, deleted = threading.Event(), threading.Event()

    def loader():
        begun.set()
        deleted.wait(5)
        return "from before"

    def work(index):
        if index == 0:
            return cache.get_or_load(key, loader)
        begun.wait(5)
        do(spot.far(), "delete", key)
        deleted.set()
        return None

    assert "from before" == together(2, work)[0]
    assert MISSING is do(spot.far(), "get", key, MISSING)
    until(lambda: do(cache, "get", key, MISSING) is MISSING, 2.0)


def test_a_loaded_value_over_the_limit_is_returned_and_not_stored(tight, name, do):
    caches = [node.cache(name) for node in tight]
    big = "x" * 1025
    for key in range(4):
        assert big == do(caches[0], "get_or_load", key, lambda: big)
        assert not do(caches[1], "contains", key)


def test_a_loaded_value_that_cannot_be_shared_is_refused(spot, do):
    cache, key = spot.cache(), spot.key()

    with pytest.raises(SerializationError):
        do(cache, "get_or_load", key, object)

    assert not do(cache, "contains", key)
    assert 1 == do(cache, "get_or_load", key, lambda: 1)


# --- async loaders ---------------------------------------------------------------


async def fetch():
    await asyncio.sleep(0)
    return "fetched"


def later():
    return fetch()


class Fetcher:
    async def __call__(self):
        return await fetch()


@pytest.mark.parametrize("loader", [fetch, later, lambda: "fetched", Fetcher()])
def test_an_async_caller_may_bring_any_kind_of_loader(spot, runner, loader):
    cache, key = spot.cache(), spot.key()

    assert "fetched" == runner.run(cache.aget_or_load(key, loader))
    assert "fetched" == cache.get(key)


def test_a_plain_loader_does_not_run_on_the_loop(spot, runner):
    cache, key = spot.cache(), spot.key()

    thread = runner.run(cache.aget_or_load(key, threading.get_ident))

    assert threading.get_ident() != thread


@pytest.mark.parametrize("loader", [fetch, later, Fetcher()])
def test_a_sync_caller_with_an_async_loader_is_told_to_await(spot, loader):
    cache, key = spot.cache(), spot.key()

    with pytest.raises(TypeError, match="await the a-prefixed twin"):
        cache.get_or_load(key, loader)

    gc.collect()
    assert not cache.delete(key)


def test_a_cancelled_leader_passes_the_lead(spot, until):
    cache, key, loads = spot.cache(), spot.key(), []

    async def main():
        begun = asyncio.Event()

        async def loader():
            loads.append(1)
            if len(loads) == 1:
                begun.set()
                await asyncio.Event().wait()
            return "value"

        leader = asyncio.create_task(cache.aget_or_load(key, loader))
        await begun.wait()
        others = [
            asyncio.create_task(spot.far().aget_or_load(key, loader)) for _ in range(3)
        ]
        await asyncio.to_thread(until, lambda: spot.owner.stats()["engine"]["waiting"])
        leader.cancel()
        results = await asyncio.gather(*others)
        with pytest.raises(asyncio.CancelledError):
            await leader
        return results

    assert ["value"] * 3 == asyncio.run(main())
    assert 2 == len(loads)


def test_a_cancelled_waiter_leaves_the_others_alone(spot, until):
    cache, key, loads = spot.cache(), spot.key(), []

    async def main():
        release = asyncio.Event()

        async def loader():
            loads.append(1)
            await release.wait()
            return "value"

        tasks = [asyncio.create_task(cache.aget_or_load(key, loader)) for _ in range(4)]
        waiting = spot.writer.stats
        await asyncio.to_thread(until, lambda: waiting()["engine"]["waiting"] == 3)
        tasks[2].cancel()
        await asyncio.sleep(0)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())

    assert ["value", "value", "value"] == [r for r in results if r == "value"]
    assert 1 == sum(isinstance(r, asyncio.CancelledError) for r in results)
    assert [1] == loads


def test_the_lead_never_passes_to_one_who_was_cancelled(spot, until):
    cache, key = spot.cache(), spot.key()

    async def main():
        begun = asyncio.Event()

        async def endless():
            begun.set()
            await asyncio.Event().wait()

        def waiters(number):
            return spot.writer.stats()["engine"]["waiting"] == number

        tasks = [asyncio.create_task(cache.aget_or_load(key, endless))]
        await begun.wait()
        for number in (1, 2):
            tasks.append(asyncio.create_task(cache.aget_or_load(key, fetch)))
            await asyncio.to_thread(until, partial(waiters, number))
        for task in tasks[1::-1]:
            task.cancel()
            await asyncio.sleep(0)
        return await asyncio.wait_for(tasks[2], 10)

    assert "fetched" == asyncio.run(main())


def test_a_task_left_behind_by_a_loader_can_load_the_same_key_later(spot):
    cache, key = spot.cache(), spot.key()

    async def main():
        ended = asyncio.Event()
        left = []

        async def afterwards():
            await ended.wait()
            return await cache.aget_or_load(key, fetch)

        async def loader():
            left.append(asyncio.create_task(afterwards()))
            return "first"

        first = await cache.aget_or_load(key, loader)
        await cache.adelete(key)
        ended.set()
        return first, await left[0]

    assert ("first", "fetched") == asyncio.run(main())


def test_a_loop_that_closes_on_its_waiters_leaves_the_others_alone(spot, until):
    cache, far, key = spot.cache(), spot.far(), spot.key()
    release, begun = threading.Event(), threading.Event()
    results = []

    def loader():
        begun.set()
        release.wait(10)
        return "value"

    leader = threading.Thread(
        target=lambda: results.append(cache.get_or_load(key, loader))
    )
    leader.start()
    begun.wait(5)
    loop = asyncio.new_event_loop()
    waiter = far.aget_or_load(key, fetch)
    task = loop.create_task(waiter)
    loop.call_soon(loop.stop)
    loop.run_forever()
    until(lambda: spot.owner.stats()["engine"]["waiting"])
    # What a program does that calls `loop.close()` with requests under way.
    task._log_destroy_pending = False
    loop.close()
    release.set()
    leader.join(10)

    assert ["value"] == results
    assert "value" == far.get_or_load(key, lambda: "another")
    waiter.close()


def test_a_lease_that_a_closed_loop_took_along_passes_on(spot, until):
    cache, key = spot.cache(), spot.key()
    loop = asyncio.new_event_loop()
    release, begun = threading.Event(), threading.Event()

    def broken():
        begun.set()
        release.wait(10)
        raise KeyboardInterrupt

    def lead():
        with pytest.raises(KeyboardInterrupt):
            cache.get_or_load(key, broken)

    leader = threading.Thread(target=lead)
    leader.start()
    begun.wait(5)
    waiter = cache.aget_or_load(key, fetch)
    task = loop.create_task(waiter)
    loop.call_soon(loop.stop)
    loop.run_forever()
    until(lambda: spot.writer.stats()["engine"]["waiting"])
    task._log_destroy_pending = False
    loop.close()
    release.set()
    leader.join(10)

    # The lease went to a task that will never run again; nobody waits it out.
    assert 1 == cache.get_or_load(key, lambda: 1, load_timeout=5)
    waiter.close()


# --- a node that does not run ----------------------------------------------------


def test_reads_of_a_stopped_node_fail_open(node, do):
    cache = node.cache("c")
    do(cache, "set", 1, "stored")
    do(cache, "get", 1)
    node.stop()

    assert MISSING is do(cache, "get", 1, MISSING)
    assert {} == do(cache, "get_many", [1, 2])
    assert not do(cache, "contains", 1)
    assert "loaded" == do(cache, "get_or_load", 1, lambda: "loaded")
    assert "again" == do(cache, "get_or_load", 1, lambda: "again")
    with pytest.raises(RecursiveLoad):
        do(cache, "get_or_load", 1, lambda: cache.get_or_load(1, lambda: 1))


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("set", (1, 2)),
        ("add", (1, 2)),
        ("touch", (1,)),
        ("delete", (1,)),
        ("incr", (1,)),
        ("decr", (1,)),
        ("set_many", ({1: 2},)),
        ("delete_many", ([1],)),
        ("clear", ()),
        ("invalidate_tags", ("red",)),
    ],
)
def test_writes_to_a_stopped_node_say_so(stopped, do, operation, arguments):
    cache = stopped.cache("c")

    with pytest.raises(NodeClosed, match=r"'c'.*does not run"):
        do(cache, operation, *arguments)


def test_a_node_that_is_started_again_serves_its_old_caches(node, do):
    cache = node.cache("c")
    do(cache, "set", 1, "stored")
    node.stop()
    node.start()

    assert MISSING is do(cache, "get", 1, MISSING)
    do(cache, "set", 1, "again")
    assert "again" == do(cache, "get", 1)


def test_a_stop_lets_those_who_wait_load_for_themselves(node, together, until):
    cache, begun = node.cache("c"), threading.Event()

    def loader():
        begun.set()
        until(lambda: node.state.value == "stopped")
        return "value"

    def work(index):
        if index == 0:
            begun.wait(5)
            until(lambda: node.stats()["engine"]["waiting"] == 2)
            return node.stop()
        return cache.get_or_load("key", loader)

    assert [None, "value", "value", "value"] == together(4, work)


# --- the twins -------------------------------------------------------------------


def test_every_operation_has_a_twin_of_the_same_signature():
    operations = {
        name: member
        for name, member in getmembers(Cache, isfunction)
        if not name.startswith("_")
    }
    twins = {n for n, member in operations.items() if iscoroutinefunction(member)}
    plain = set(operations) - twins - {"memoize", "memoize_many"}

    assert {f"a{name}" for name in plain} | {"acontains"} == twins
    for name in plain:
        here = signature(operations[name]).parameters
        there = signature(operations[f"a{name}"]).parameters
        assert list(here) == list(there)
        assert [p.default for p in here.values()] == [p.default for p in there.values()]
