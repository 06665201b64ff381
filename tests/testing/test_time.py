"""Time that is moved: what was to happen meanwhile has happened, and nobody slept."""

from __future__ import annotations

import gc
import sys
import threading
import time

import pytest

import meshcache
from meshcache import Cache, LoadTimeout, clock
from meshcache.testing import isolated, time_travel

users = Cache("time-users", jitter=0)
loads = []


@users.memoize(ttl=60)
def load_user(user_id):
    loads.append(user_id)
    return user_id


@pytest.fixture(params=["alone", "real"])
def moving(request):
    """Time that can be moved, and a node that `users` is on."""
    if request.param == "real":
        make_node = request.getfixturevalue("make_node")
        node = make_node()
        with meshcache.default.stand_in(node), time_travel() as moved:
            yield moved
    else:
        with isolated(), time_travel() as moved:
            yield moved


def test_an_entry_expires_when_its_time_has_passed(moving):
    users.set("k", 1, ttl=60)
    moving.advance(59)

    assert 1 == users.get("k")

    moving.advance(2)

    assert None is users.get("k")
    assert "k" not in users


def test_what_a_function_keeps_near_expires(moving):
    loads.clear()
    load_user(7)
    load_user(7)
    moving.advance(61)
    load_user(7)

    assert [7, 7] == loads


def test_a_function_made_meanwhile_sees_the_time_too(moving, name):
    made = users.memoize(ttl=60, name=name)(load_user.uncached)
    loads.clear()
    made(1)
    moving.advance(61)
    made(1)

    assert [1, 1] == loads


def test_what_was_stored_before_has_less_time_left():
    with isolated():
        users.set("k", 1, ttl=60)
        with time_travel() as moving:
            assert 1 == users.get("k")
            moving.advance(61)
            assert None is users.get("k")


def test_time_left_and_age_go_by_the_moved_time(moving):
    users.set("k", 1, ttl=60)
    moving.advance(20)
    found = users.node.explain("time-users", "k")

    assert 40 == pytest.approx(found.ttl, abs=5)
    assert 20 == pytest.approx(found.age, abs=5)


def test_a_wait_for_a_load_times_out(moving, until):
    begun, goes_on, outcome = threading.Event(), threading.Event(), []

    def load():
        begun.set()
        goes_on.wait(10)

    def wait():
        try:
            users.get_or_load("k", lambda: 1, load_timeout=3000)
        except LoadTimeout as error:
            outcome.append(error)

    leads = threading.Thread(
        target=lambda: users.get_or_load("k", load, load_timeout=9000)
    )
    leads.start()
    begun.wait(10)
    waits = threading.Thread(target=wait)
    waits.start()
    until(lambda: users.node.stats()["engine"]["waiting"])
    moving.advance(3001)
    waits.join(10)
    goes_on.set()
    leads.join(10)

    assert 1 == len(outcome)


def test_on_return_what_was_due_is_done(moving):
    users.get("k")
    due = users.region.runtime.engine.deadline()
    moving.advance(3600)

    assert due + 3600 - 60 < users.region.runtime.engine.deadline()


@pytest.mark.parametrize("seconds", [-1, -1e-9, float("nan"), float("inf"), 1e12])
def test_time_goes_forward_and_not_for_ever(seconds):
    with time_travel() as moving:
        with pytest.raises(ValueError, match="forward"):
            moving.advance(seconds)

        assert 0 == moving.moved


def test_it_is_moved_by_one_at_a_time():
    with (
        time_travel(),
        pytest.raises(RuntimeError, match="already"),
        time_travel(),
    ):
        pass
    with time_travel():
        pass


def is_another_copy(place):
    """Whether these are the names of a module that was imported for itself alone.

    The fence schedules have a copy of the package of their own, and of its clock.
    """
    module = sys.modules.get(place.get("__name__", ""))
    return module is not None and vars(module) is not place


def test_nothing_of_the_package_holds_the_real_clock_meanwhile():
    with time_travel():
        held = [
            place["__name__"]
            for place in gc.get_referrers(time.monotonic, time.time_ns)
            if isinstance(place, dict)
            and str(place.get("__name__", "meshcache")).startswith("meshcache")
            and {"_mesh_now", "__name__"} & place.keys()
            and not is_another_copy(place)
        ]

    assert [] == held


def test_afterwards_all_is_as_it_was():
    before = {id(p): dict(p) for p in clock.places()}
    with time_travel() as moving:
        assert clock.monotonic is not time.monotonic
        made = users.memoize(ttl=60, name="after")(lambda n: n)
        moving.advance(5)

    assert clock.monotonic is time.monotonic
    for place in clock.places():
        old = before.get(id(place), place)
        assert {} == {n: v for n, v in place.items() if old.get(n, v) is not v}
    assert not any(v is moving for v in vars(clock).values())
    assert made.__globals__["_mesh_now"] is time.monotonic


def test_a_failing_test_leaves_no_moved_time():
    def fail():
        with time_travel() as moving:
            moving.advance(5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert clock.monotonic is time.monotonic


def test_what_bears_a_time_to_come_is_gone_afterwards(node):
    cache = node.cache("c")
    cache.set("before", 1)
    with time_travel() as moving:
        moving.advance(1000)
        cache.set("k", 1, ttl=60)

    assert None is cache.get("k")
    cache.set("k", 2)
    assert 2 == cache.get("k")


def test_time_that_was_not_moved_costs_no_node_its_entries(node):
    cache = node.cache("c")
    cache.set("k", 1)
    with time_travel():
        cache.set("l", 2)

    assert {"k": 1, "l": 2} == cache.get_many(["k", "l"])
