"""What freshness means to callers: old values, remembered errors, times to live.

A node alone and a clock that is moved by hand: each option is held to its seconds.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

import meshcache
from meshcache import MISSING, ConfigError, LoadTimeout, RecursiveLoad, ValueTooLarge
from meshcache.changes import write_one
from meshcache.codec.envelope import MARK
from meshcache.codec.messages import Verb
from meshcache.entry import entry
from meshcache.runtime.steps import run
from meshcache.testing import isolated, time_travel


@pytest.fixture
def time():
    with isolated(refresh_pause=1.0), time_travel() as moving:
        yield moving


class Origin:
    """What a loader reads: counts its calls, and fails while it is told to."""

    def __init__(self):
        self.calls = 0
        self.error = None

    def load(self, *_):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"value {self.calls}"

    async def aload(self, *_):
        return self.load()


@pytest.fixture
def origin():
    return Origin()


def cache(**options):
    return meshcache.Cache("c", jitter=0, **{"ttl": 60} | options)


def refreshed(until, count):
    """Wait until so many values have been loaded anew behind their readers."""
    stats = meshcache.node().stats
    until(lambda: stats()["refreshes"]["flying"] == 0)

    assert count == stats()["refreshes"]["started"]


# --- stale -----------------------------------------------------------------------


def test_a_stale_value_is_given_at_once_and_loaded_anew_behind(time, origin, until):
    users = cache(stale=30)
    assert "value 1" == users.get_or_load("k", origin.load)
    time.advance(61)

    assert "value 1" == users.get_or_load("k", origin.load)
    refreshed(until, 1)
    assert "value 2" == users.get_or_load("k", origin.load)
    assert 2 == origin.calls
    assert 1 == meshcache.node().stats()["stale"]


def test_beyond_the_window_a_value_is_loaded_by_whoever_asks(time, origin):
    users = cache(stale=30)
    users.get_or_load("k", origin.load)
    time.advance(91)

    assert "value 2" == users.get_or_load("k", origin.load)


def test_a_refreshed_value_lives_for_its_whole_ttl(time, origin, until):
    users = cache(stale=30)
    users.get_or_load("k", origin.load)
    time.advance(61)
    users.get_or_load("k", origin.load)
    refreshed(until, 1)
    time.advance(59)

    assert "value 2" == users.get_or_load("k", origin.load)
    assert 2 == origin.calls


def test_a_plain_read_never_returns_what_is_stale(time, origin):
    users = cache(stale=30)
    users.get_or_load("k", origin.load)
    time.advance(61)

    assert None is users.get("k")
    assert {} == users.get_many(["k"])
    assert "k" not in users
    assert MISSING is users.get("k", MISSING)


def test_many_readers_of_a_stale_value_cause_one_load(time, origin, until):
    users, hold = cache(stale=30), threading.Event()
    users.get_or_load("k", origin.load)
    time.advance(61)

    def slow():
        hold.wait(10)
        return origin.load()

    values = [users.get_or_load("k", slow) for _ in range(20)]
    hold.set()

    assert ["value 1"] * 20 == values
    refreshed(until, 1)
    assert 2 == origin.calls


def test_a_refresh_that_fails_leaves_the_value_and_pauses(time, origin, until):
    users = cache(stale=30)
    users.get_or_load("k", origin.load)
    origin.error = OSError("down")
    time.advance(61)
    for _ in range(5):
        assert "value 1" == users.get_or_load("k", origin.load)
        refreshed(until, 1)
    time.advance(1.1)

    assert "value 1" == users.get_or_load("k", origin.load)
    refreshed(until, 2)
    assert 2 == meshcache.node().stats()["refreshes"]["failed"]


def test_an_awaitable_loader_refreshes_on_its_loop(time, origin):
    users = cache(stale=30)

    async def main():
        await users.aget_or_load("k", origin.aload)
        time.advance(61)
        old = await users.aget_or_load("k", origin.aload)
        behind = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(behind)
        return old, await users.aget_or_load("k", origin.aload)

    assert ("value 1", "value 2") == asyncio.run(main())


@pytest.mark.parametrize(
    ("act", "expected"), [(("set", "k", "written"), "written"), (("delete", "k"), None)]
)
def test_a_write_during_a_refresh_wins(time, origin, until, act, expected):
    users, hold, begun = cache(stale=30), threading.Event(), threading.Event()
    users.get_or_load("k", origin.load)
    time.advance(61)

    def slow():
        begun.set()
        hold.wait(10)
        return "late"

    users.get_or_load("k", slow)
    begun.wait(10)
    name, *arguments = act
    getattr(users, name)(*arguments)
    hold.set()
    refreshed(until, 1)

    entry = users.get_entry("k")
    assert expected == (entry and entry.value)


def test_what_was_set_is_stale_after_its_ttl_too(time, origin, until):
    users = cache(stale=30)
    users.set("k", "set")
    time.advance(61)

    assert None is users.get("k")
    assert "set" == users.get_or_load("k", origin.load)
    refreshed(until, 1)
    assert "value 1" == users.get("k")


def test_a_key_whose_value_is_stale_is_free_to_add_and_gone_to_touch(time):
    users = cache(stale=30)
    users.set("k", "old")
    time.advance(61)

    assert not users.touch("k")
    assert users.add("k", "new")
    assert "new" == users.get("k")
    assert not users.add("k", "third")


def test_touch_moves_the_end_of_the_ttl_and_the_window_with_it(time, origin, until):
    users = cache(stale=30)
    users.set("k", "v")
    assert users.touch("k", ttl=100)
    time.advance(99)
    assert "v" == users.get("k")
    time.advance(2)

    assert None is users.get("k")
    assert "v" == users.get_or_load("k", origin.load)
    refreshed(until, 1)


def test_a_touch_without_time_to_live_forgets_the_window_too(time, origin):
    users = cache(stale=30)
    users.set("k", "v")

    assert users.touch("k", ttl=0)
    assert None is users.get_entry("k")
    assert "value 1" == users.get_or_load("k", origin.load)


def test_a_counter_in_such_a_cache_counts_and_begins_anew_when_it_is_stale(time):
    counts = cache(stale=30)
    counts.set("n", 5)

    assert 6 == counts.incr("n")
    time.advance(61)
    assert 1 == counts.incr("n")


def test_a_refresh_closes_no_circle_with_the_load_around_it(time, until):
    users, begun = cache(stale=30), threading.Event()
    users.set("old", "value")
    time.advance(61)

    def anew():
        begun.set()
        return users.get_or_load("k", lambda: "nobody's") + " anew"

    def around():
        value = users.get_or_load("old", anew)
        begun.wait(10)
        return value

    assert "value" == users.get_or_load("k", around)
    refreshed(until, 1)
    assert "value anew" == users.get("old")


def test_what_a_refresh_brings_is_no_read(time, origin, until):
    users = cache(stale=30)
    users.set("k", "old")
    time.advance(61)
    users.get_or_load("k", origin.load)
    refreshed(until, 1)
    stats = meshcache.node().stats()

    assert (1, 1, 0) == (stats["loads"], stats["reads"]["host"], stats["reads"]["fill"])


def test_each_reader_goes_by_windows_of_its_own(time, origin):
    cache(stale=300, stale_if_error=300).get_or_load("k", origin.load)
    time.advance(61)

    assert "value 2" == cache().get_or_load("k", origin.load)


def test_what_never_expires_does_not_in_such_a_cache_either(time, origin):
    users = cache(stale=30)
    users.set("k", "set", ttl=None)
    users.get_or_load("other", origin.load, ttl=None)
    time.advance(86_400)

    assert ["set", "value 1"] == [users.get("k"), users.get("other")]


def test_what_has_no_time_to_live_is_not_kept_for_the_window(time, origin):
    users = cache(stale=30)
    users.set("k", "old")
    users.set("k", "new", ttl=0)

    assert None is users.get_entry("k")
    assert "value 1" == users.get_or_load("k", origin.load, ttl=0)
    assert None is users.get_entry("k")


def test_a_plain_read_of_what_is_stale_counts_as_a_miss(time):
    users = cache(stale=30)
    users.set("k", "old")
    time.advance(61)
    users.get("k")
    users.get_many(["k"])
    reads = meshcache.node().stats()["reads"]

    assert 2 == reads["miss"] == sum(reads.values())


@pytest.mark.parametrize("stale", [0, 300])
def test_near_goes_no_further_than_the_ttl_and_the_near_ttl(time, stale):
    users = cache(stale=stale, near_ttl=5)
    for ttl, life in ((60, 5), (2, 2)):
        users.set("k", "v", ttl=ttl)
        users.get("k")
        assert "v" == users.region.near(users.region.bind(), "k")
        time.advance(life - 1)
        assert "v" == users.region.near(users.region.bind(), "k")
        time.advance(2)
        assert MISSING is users.region.near(users.region.bind(), "k")


def test_what_another_codec_wrote_is_a_miss(time, origin):
    cache(stale=30, codec="bytes").set("k", b"\xc1")
    users = cache(stale=30)

    assert None is users.get("k")
    assert {} == users.get_many(["k"])
    assert None is users.get_entry("k")
    assert "value 1" == users.get_or_load("k", origin.load)


def test_what_nobody_can_make_out_is_not_there(time, origin):
    users = cache(stale=30)
    region, runtime = users.region, users.region.bind()
    junk = region.item(runtime, "k", MARK + b"junk", 60_000)
    run(runtime, write_one(region, runtime, Verb.SET, junk))

    assert None is users.get("k")
    assert "k" not in users
    assert not users.touch("k")
    assert users.add("k", "new")
    assert "new" == users.get("k")


# --- stale_if_error and the soft time-out ----------------------------------------


def test_an_old_value_is_given_if_the_load_fails(time, origin):
    users = cache(stale_if_error=300)
    users.get_or_load("k", origin.load)
    origin.error = OSError("down")
    time.advance(61)

    assert ["value 1"] * 3 == [users.get_or_load("k", origin.load) for _ in "abc"]
    assert 2 == origin.calls
    origin.error = None
    time.advance(1.1)
    assert "value 3" == users.get_or_load("k", origin.load)


def test_an_old_value_in_place_of_an_error_is_counted(time, origin):
    users = cache(stale_if_error=300)
    users.set("k", "old")
    origin.error = OSError("down")
    time.advance(61)
    users.get_or_load("k", origin.load)
    stats = meshcache.node().stats()

    assert [1, 1, 1] == [stats[what] for what in ("stale", "raised", "loads")]
    assert 1 == stats["reads"]["host"] == sum(stats["reads"].values())


def test_once_that_window_is_over_the_error_is_raised(time, origin):
    users = cache(stale_if_error=300)
    users.get_or_load("k", origin.load)
    origin.error = OSError("down")
    time.advance(361)

    with pytest.raises(OSError, match="down"):
        users.get_or_load("k", origin.load)


def test_a_deleted_value_is_not_given_for_an_error(time, origin):
    users = cache(stale_if_error=300)
    users.get_or_load("k", origin.load)
    users.delete("k")
    origin.error = OSError("down")

    with pytest.raises(OSError, match="down"):
        users.get_or_load("k", origin.load)


def test_recursion_is_an_error_with_or_without_an_old_value(time, origin):
    users = cache(stale_if_error=300)
    users.get_or_load("k", origin.load)
    time.advance(61)

    def asks_itself():
        return users.get_or_load("k", asks_itself)

    with pytest.raises(RecursiveLoad):
        users.get_or_load("k", asks_itself)


def test_a_load_that_takes_long_gives_the_old_value_and_goes_on(time, origin, until):
    users = cache(stale_if_error=300, soft_timeout=0.01)
    hold = threading.Event()
    users.get_or_load("k", origin.load)
    time.advance(61)

    def slow():
        hold.wait(10)
        return origin.load()

    assert "value 1" == users.get_or_load("k", slow)
    hold.set()
    refreshed(until, 1)
    assert "value 2" == users.get("k")


def test_a_load_that_takes_long_is_no_failure(time, origin, until):
    users = cache(stale_if_error=300, soft_timeout=0.01)
    hold = threading.Event()
    users.set("k", "old")
    time.advance(61)

    assert ["old", "old"] == [
        users.get_or_load("k", lambda: hold.wait(10)) for _ in "ab"
    ]
    hold.set()
    refreshed(until, 1)
    assert 0 == meshcache.node().stats()["raised"]


def test_an_error_within_the_soft_time_out_gives_the_old_value(time, origin):
    users = cache(stale_if_error=300, soft_timeout=10)

    @users.memoize(name="f", errors=LookupError, error_ttl=5)
    def load(_):
        return origin.load()

    load.set("old", 1)
    origin.error = KeyError("nobody")
    time.advance(61)

    assert ["old", "old"] == [load(1), load(1)]
    assert (1, 1) == (origin.calls, meshcache.node().stats()["raised"])


def test_a_load_within_the_soft_time_out_gives_its_own_value(time, origin):
    users = cache(stale_if_error=300, soft_timeout=10)
    users.get_or_load("k", origin.load)
    time.advance(61)

    assert "value 2" == users.get_or_load("k", origin.load)


def test_the_soft_time_out_holds_for_tasks_too(time, origin):
    users = cache(stale_if_error=300, soft_timeout=0.01)

    async def slow():
        await asyncio.Event().wait()

    async def main():
        await users.aget_or_load("k", origin.aload)
        time.advance(61)
        return await users.aget_or_load("k", slow)

    assert "value 1" == asyncio.run(main())


def test_without_an_old_value_the_soft_time_out_says_nothing(time, origin):
    users = cache(stale_if_error=300, soft_timeout=0.001)

    def slow():
        threading.Event().wait(0.02)
        return origin.load()

    assert "value 1" == users.get_or_load("k", slow)


# --- early -----------------------------------------------------------------------


def test_an_eager_cache_loads_anew_before_the_end_and_never_misses(time, origin, until):
    users = cache(early=1000, ttl=60)

    def costly():
        time.advance(0.05)
        return origin.load()

    assert "value 1" == users.get_or_load("k", costly)
    # Stored by now, so its time runs.
    assert "k" in users
    time.advance(59.9)

    # A head start of 50 s on average: only one draw in 500 would not reach so far.
    seen = {users.get_or_load("k", costly) for _ in range(50)}
    until(lambda: meshcache.node().stats()["refreshes"]["flying"] == 0)
    assert "value 1" in seen
    assert 0 < meshcache.node().stats()["refreshes"]["started"]
    time.advance(30)
    assert "value 1" != users.get_or_load("k", origin.load)


def test_what_may_be_early_is_given_and_is_not_kept_near(time):
    """It would be given unasked there, and nobody would draw."""
    users = cache(early=1)

    def costly():
        time.advance(1)
        return "v"

    users.get_or_load("k", costly)
    # Head starts are looked for in the last 8 s.
    time.advance(55)
    region, runtime = users.region, users.region.bind()
    for _ in range(5):
        assert MISSING is region.local(runtime, "k")
        assert MISSING is region.near(runtime, "k")
    time.advance(4.5)

    # Half a second before its end more than half of all draws are early.
    users = cache(early=1, near_ttl=0)
    assert {"v"} == {users.get("k") for _ in range(30)}
    assert "k" in users


def test_without_early_the_value_is_left_alone_until_its_end(time, origin):
    users = cache()

    def costly():
        time.advance(5)
        return origin.load()

    users.get_or_load("k", costly)
    time.advance(59.9)

    assert {"value 1"} == {users.get_or_load("k", origin.load) for _ in range(50)}
    assert 0 == meshcache.node().stats()["refreshes"]["started"]


# --- what is stored, and for how long --------------------------------------------


def test_none_has_a_ttl_of_its_own(time, origin):
    users = cache(none_ttl=5)
    users.get_or_load("k", lambda: None)

    assert None is users.get_or_load("k", origin.load)
    time.advance(6)
    assert "value 1" == users.get_or_load("k", origin.load)


def test_none_with_no_time_to_live_is_not_stored(time, origin):
    users = cache(none_ttl=0)
    users.get_or_load("k", lambda: None)

    assert "value 1" == users.get_or_load("k", origin.load)


def test_a_function_has_the_none_ttl_of_its_cache(time):
    users, calls = cache(none_ttl=5), []
    load = users.memoize(name="f")(calls.append)
    own = users.memoize(name="own", none_ttl=50)(calls.append)
    for _ in range(2):
        load(1)
        own(2)
        time.advance(6)

    assert [1, 2, 1] == calls


def test_a_ttl_is_made_of_the_value(time, origin):
    users = cache()
    users.get_or_load("k", lambda: {"life": 5}, ttl=lambda token: token["life"])
    time.advance(4.9)
    assert {"life": 5} == users.get("k")
    time.advance(0.2)

    assert None is users.get("k")


def test_every_write_takes_a_ttl_of_its_own(time, do):
    users = cache()
    do(users, "set", "set", 1, ttl=5)
    do(users, "add", "add", 2, ttl=5)
    do(users, "set_many", {"many": 3}, ttl=5)
    users.set("touch", 4)
    assert do(users, "touch", "touch", ttl=5)
    assert 7 == do(users, "incr", "incr", 3, initial=4, ttl=5)
    assert -7 == do(users, "decr", "decr", 3, initial=-4, ttl=5)
    names = ["set", "add", "many", "touch", "incr", "decr"]
    time.advance(4.5)
    assert dict(zip(names, [1, 2, 3, 4, 7, -7], strict=True)) == users.get_many(names)
    time.advance(1)

    assert {} == users.get_many(names)


def test_what_is_added_to_a_number_is_within_64_bits(time, do):
    users = cache()

    assert -(2**63) == do(users, "incr", "n", -(2**63))
    assert -1 == do(users, "incr", "n", 2**63 - 1)
    for delta in (2**63, -(2**63) - 1):
        with pytest.raises(ValueTooLarge, match="64 bits"):
            do(users, "incr", "n", delta)


def test_a_clear_forgets_what_is_old_too(time, origin, do):
    users = cache(stale=30)
    users.set("k", "v")
    time.advance(61)
    do(users, "clear")

    assert None is users.get_entry("k")
    assert "value 1" == users.get_or_load("k", origin.load)


def test_a_ttl_made_of_a_value_is_checked(time):
    with pytest.raises(ConfigError, match="ttl=-1"):
        cache().get_or_load("k", lambda: 1, ttl=lambda _: -1)


def test_cache_if_tells_what_to_store(time, origin):
    @cache().memoize(name="f", cache_if=lambda value: value != "value 1")
    def load(_):
        return origin.load()

    assert ["value 1", "value 2", "value 2"] == [load(1), load(1), load(1)]


@pytest.mark.parametrize("fill", ["owner", "caller"])
def test_an_error_is_remembered_for_its_time(time, origin, fill):
    @cache().memoize(name="f", errors=LookupError, error_ttl=5, fill=fill)
    def load(_):
        return origin.load()

    origin.error = KeyError("nobody")
    for _ in range(3):
        with pytest.raises(KeyError, match="nobody"):
            load(1)
    assert 1 == origin.calls
    time.advance(6)
    origin.error = None

    assert "value 2" == load(1)


def test_an_error_of_another_class_is_not_remembered(time, origin):
    @cache().memoize(name="f", errors=LookupError, error_ttl=5)
    def load(_):
        return origin.load()

    origin.error = OSError("down")
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            load(1)

    assert 3 == origin.calls


def test_a_remembered_error_is_no_value_to_a_plain_read(time, origin):
    @cache().memoize(name="f", errors=LookupError, error_ttl=5)
    def load(_):
        return origin.load()

    origin.error = KeyError("nobody")
    with pytest.raises(KeyError):
        load(1)

    assert MISSING is load.peek(1)
    assert not load.invalidate(1)
    origin.error = None
    assert "value 2" == load(1)


def test_an_error_never_takes_the_place_of_an_old_value(time, origin):
    users = cache(stale_if_error=300)

    @users.memoize(name="f", errors=LookupError, error_ttl=5)
    def load(_):
        return origin.load()

    assert "value 1" == load(1)
    time.advance(61)
    origin.error = KeyError("nobody")

    assert ["value 1"] * 3 == [load(1) for _ in range(3)]


def test_a_memoized_function_has_windows_of_its_own(time, origin, until):
    users = cache(stale=30)

    @users.memoize(name="own", stale=0)
    def own(_):
        return origin.load()

    @users.memoize(name="the-cache-s")
    def inherits(_):
        return origin.load()

    assert ["value 1", "value 2"] == [own(1), inherits(1)]
    time.advance(61)

    assert "value 3" == own(1)
    assert "value 2" == inherits(1)
    refreshed(until, 1)
    assert "value 4" == inherits(1)


def test_a_hard_time_out_ends_the_wait_for_somebody_else_s_load(time, origin):
    users, hold, begun = cache(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        hold.wait(10)
        return "late"

    first = threading.Thread(target=users.get_or_load, args=("k", slow))
    first.start()
    begun.wait(10)
    try:
        with pytest.raises(LoadTimeout):
            users.get_or_load("k", origin.load, load_timeout=0.05)
    finally:
        hold.set()
        first.join()


def test_who_waits_for_a_task_that_ran_out_of_time_loads_for_itself(time, origin):
    users = cache()

    async def main():
        begun = asyncio.Event()

        async def never():
            begun.set()
            await asyncio.Event().wait()

        first = asyncio.create_task(users.aget_or_load("k", never, load_timeout=0.05))
        await begun.wait()
        second = users.aget_or_load("k", origin.aload)
        return await asyncio.gather(first, second, return_exceptions=True)

    error, value = asyncio.run(main())
    assert isinstance(error, LoadTimeout)
    assert "value 1" == value


@pytest.mark.parametrize(("size", "stored"), [(1024, True), (1025, False)])
def test_a_loaded_value_over_the_limit_is_given_and_not_stored(size, stored):
    with isolated(max_value_bytes=1024):
        users = cache(codec="bytes")

        assert size == len(users.get_or_load("k", lambda: bytes(size)))
        assert stored is ("k" in users)
        if stored:
            users.set("other", bytes(size))
        else:
            with pytest.raises(ValueTooLarge):
                users.set("other", bytes(size))


# --- about one entry -------------------------------------------------------------


def test_an_entry_tells_its_tier_its_age_its_ttl_and_its_owner(time):
    users = cache()
    users.set("k", "v")
    time.advance(10)
    entry = users.get_entry("k")

    assert ("v", "host", False) == entry[:3]
    assert 10 == pytest.approx(entry.age, abs=0.5)
    assert 50 == pytest.approx(entry.ttl, abs=0.5)
    assert meshcache.node().owner("c", "k") == entry.owner


def test_an_entry_says_that_it_is_stale(time):
    users = cache(stale=30)
    users.set("k", "v")
    time.advance(61)
    entry = users.get_entry("k")

    assert ("v", True) == (entry.value, entry.stale)
    assert -1 == pytest.approx(entry.ttl, abs=0.5)


def test_there_is_no_entry_of_what_is_not_stored(time):
    assert None is cache().get_entry("k")
    assert None is asyncio.run(cache().aget_entry("k"))


def test_an_entry_that_is_near_says_so(time):
    users = cache()
    users.set("k", "v")
    for _ in range(3):
        users.get("k")

    assert "near" == users.get_entry("k").tier


def test_an_entry_that_never_expires_says_so(time):
    users = cache(ttl=None, stale=30)
    users.set("k", "v")

    assert (False, None) == (users.get_entry("k").stale, users.get_entry("k").ttl)


def test_an_entry_of_a_clock_that_is_ahead_is_not_younger_than_now(time):
    users = cache()
    users.set("k", "v")
    ahead = users.get_entry("k").version + (30_000 << 16)
    runtime = users.region.bind()
    runtime.engine._core.observe(ahead)
    users.set("k", "v")

    assert ahead < users.get_entry("k").version
    assert 0.0 == users.get_entry("k").age


def test_there_is_no_entry_of_an_error(time, origin):
    users = cache()

    @users.memoize(name="f", errors=LookupError, error_ttl=5)
    def load(_):
        return origin.load()

    origin.error = KeyError("nobody")
    with pytest.raises(KeyError):
        load(1)

    region = users.region.part("f|1")
    runtime = region.bind()
    assert None is run(runtime, entry(region, runtime, (1,)))
