from __future__ import annotations

import math
import sys
from random import Random
from threading import Thread

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshcache.model import MISSING
from meshcache.store.generations import Generations, Tenure
from meshcache.store.near import Near

MAX_ENTRIES = 20
MAX_BYTES = 1000


@pytest.fixture
def generations():
    return Generations()


@pytest.fixture
def tenure(generations):
    return Tenure(generations.table)


@pytest.fixture
def near():
    return Near(MAX_ENTRIES, MAX_BYTES)


def keep(near, key, value, stamp, *, expires=math.inf, weight=1, now=0.0):
    near.put(key, value, expires=expires, stamp=stamp, weight=weight, now=now)


def test_what_was_put_is_found(near, tenure):
    keep(near, "key", "value", tenure.stamp(3))

    assert "value" == near.get("key", 0.0)
    assert 1 == near.puts
    assert 1 == len(near)


def test_none_is_a_value_like_any_other(near, tenure):
    keep(near, "key", None, tenure.stamp(3))

    assert None is near.get("key", 0.0)
    assert MISSING is near.get("other", 0.0)


def test_an_entry_is_gone_at_the_moment_it_expires(near, tenure):
    keep(near, "key", "value", tenure.stamp(3), expires=5.0)

    assert "value" == near.get("key", 4.9)
    assert MISSING is near.get("key", 5.0)


def test_a_write_to_its_bucket_ends_an_entry(near, generations, tenure):
    keep(near, "key", "value", tenure.stamp(3))
    keep(near, "other", "value", tenure.stamp(4))

    generations.bump(3)

    assert MISSING is near.get("key", 0.0)
    assert "value" == near.get("other", 0.0)


def test_the_end_of_its_tenure_ends_an_entry(near, generations, tenure):
    keep(near, "key", "value", tenure.stamp(3))
    keep(near, "other", "value", Tenure(generations.table).stamp(3))

    tenure.end()

    assert MISSING is near.get("key", 0.0)
    assert "value" == near.get("other", 0.0)


def test_a_write_during_the_load_refuses_the_loaded_value(near, generations, tenure):
    stamp = tenure.stamp(3)
    generations.bump(3)
    keep(near, "key", "fresh", tenure.stamp(3))

    keep(near, "key", "stale", stamp)

    assert "fresh" == near.get("key", 0.0)
    assert 1 == near.refused
    assert 1 == near.puts


@pytest.mark.parametrize("refused", [{"weight": MAX_BYTES + 1}, {"expires": 0.0}])
def test_what_cannot_be_kept_does_not_leave_the_older_value(near, tenure, refused):
    keep(near, "key", "old", tenure.stamp(3))

    keep(near, "key", "new", tenure.stamp(3), **refused)

    assert MISSING is near.get("key", 0.0)
    assert 1 == near.refused


def test_a_stale_entry_that_is_replaced_is_counted(near, generations, tenure):
    keep(near, "key", "old", tenure.stamp(3))
    generations.bump(3)

    keep(near, "key", "new", tenure.stamp(3))

    assert "new" == near.get("key", 0.0)
    assert 1 == near.stale_dropped
    assert 0 == near.evictions


def test_evictions_tell_the_good_from_the_stale(near, tenure):
    for key in range(MAX_ENTRIES):
        keep(near, key, key, tenure.stamp(3), expires=1.0)
    for key in range(100, 100 + 2 * MAX_ENTRIES):
        keep(near, key, key, tenure.stamp(3), now=2.0)
        near.get(key, 2.0)
        near.get(key, 2.0)

    assert MAX_ENTRIES == near.stale_dropped
    assert 2 * MAX_ENTRIES == near.evictions
    assert MAX_ENTRIES == near.evicted_unexpired


def test_discarding_and_clearing_forget(near, tenure):
    for key in range(5):
        keep(near, key, key, tenure.stamp(3))
    entries = near.entries

    near.discard(2)
    near.discard("never there")

    assert MISSING is near.get(2, 0.0)
    assert 4 == len(near) == near.weight

    near.clear()

    assert 0 == len(near) == near.weight
    assert entries is near.entries


def test_a_hit_leaves_a_mark_that_stops_at_three(near, tenure):
    keep(near, "key", "value", tenure.stamp(3))

    for _ in range(5):
        near.get("key", 0.0)

    assert 3 == near.entries["key"].visited


class Last:
    """A value whose finalizer calls the cache that holds it."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


def test_while_there_is_room_everything_is_admitted(near, tenure):
    for key in range(MAX_ENTRIES):
        assert near.admits(hash((key,)))
        keep(near, key, key, tenure.stamp(3))

    assert near.admits(7)
    assert 0 == near.evictions


def test_when_it_is_full_a_key_is_admitted_that_was_asked_for_lately(near, tenure):
    for key in range(MAX_ENTRIES + 1):
        keep(near, key, key, tenure.stamp(3))

    assert [False, True, True] == [near.admits(7) for _ in range(3)]
    assert not near.admits(7 + 2 * MAX_ENTRIES)
    assert not near.admits(7)


def test_one_scan_of_strangers_is_not_admitted(near, tenure):
    for key in range(MAX_ENTRIES + 1):
        keep(near, key, key, tenure.stamp(3))
    rng = Random(5)

    assert not any(near.admits(rng.getrandbits(64)) for _ in range(1000))


def test_a_finalizer_may_call_the_cache_while_it_evicts(tenure):
    near = Near(1, MAX_BYTES)
    stamp = tenure.stamp(3)
    acts = [
        lambda: keep(near, "from the finalizer", 1, stamp),
        lambda: near.discard("key"),
        near.clear,
    ]
    for act in acts:
        keep(near, "key", Last(act), stamp)
        keep(near, "next", 2, stamp)

        assert len(near) <= 1

    near.clear()
    keep(near, "key", "value", stamp)

    assert "value" == near.get("key", 0.0)


def test_what_a_finalizer_discards_is_not_found_again(near, tenure):
    near._busy = True
    keep(near, "refused", 1, tenure.stamp(3))
    near._busy = False

    assert MISSING is near.get("refused", 0.0)

    keep(near, "key", 1, tenure.stamp(3))
    keep(near, "other", 1, tenure.stamp(3))
    near._busy = True
    near.discard("key")
    near._busy = False

    assert MISSING is near.get("key", 0.0)
    assert 1 == near.get("other", 0.0)

    near._busy = True
    near.clear()
    near._busy = False

    assert MISSING is near.get("other", 0.0)


def test_what_is_put_on_the_shelf_of_another_cache_stays_in_this_one(near, tenure):
    other = Near(MAX_ENTRIES, MAX_BYTES)
    kept = {"expires": 1.0, "stamp": tenure.stamp(3), "weight": 1, "now": 0.0}

    near.put("key", "value", **kept, shelf=other.shelf("region"))

    assert "value" == near.get("key", 0.0, near.shelf("region"))
    assert MISSING is other.get("key", 0.0, other.shelf("region"))
    assert MISSING is near.get("key", 0.0)
    assert (1, 0) == (len(near), len(other))


def test_an_exception_in_the_middle_of_a_put_leaves_an_empty_cache(near, tenure):
    class Stop:
        """A time that interrupts whoever compares it, as a signal would."""

        def __ge__(self, other):
            raise KeyboardInterrupt

        __le__ = __ge__

    for key in range(MAX_ENTRIES):
        keep(near, key, key, tenure.stamp(3))

    with pytest.raises(KeyboardInterrupt):
        keep(near, "key", 1, tenure.stamp(3), now=Stop())

    assert 0 == len(near) == near.weight

    keep(near, "key", "value", tenure.stamp(3))

    assert "value" == near.get("key", 0.0)


@pytest.fixture
def eager_threads():
    """Let threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


ROUNDS = 800


def _mixed_work(near, tenures, seed, errors):
    rng = Random(seed)
    try:
        for _ in range(ROUNDS):
            key = rng.randrange(60)
            stamp = tenures[key % len(tenures)].stamp(key)
            keep(near, key, (key, seed), stamp, weight=rng.choice([1, 30, 200]))
            key = rng.randrange(60)
            found = near.get(key, 0.0)
            if found is not MISSING and found[0] != key:
                errors.append((key, found))
            if rng.random() < 0.1:
                near.discard(key)
            if rng.random() < 0.001:
                near.clear()
            if len(near.entries) > MAX_ENTRIES:
                errors.append(len(near.entries))
    except BaseException as error:  # noqa: BLE001 (it would be lost in the thread)
        errors.append(error)


@pytest.mark.slow
@pytest.mark.usefixtures("eager_threads")
def test_many_threads_find_only_their_keys_values_and_the_bounds_hold(
    near, generations
):
    tenures = [Tenure(generations.table) for _ in range(3)]
    errors = []
    threads = [
        Thread(target=_mixed_work, args=(near, tenures, seed, errors))
        for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for number in range(500):
        generations.bump(number % 60)
    for thread in threads:
        thread.join(30)

    assert [] == errors
    assert 8 * ROUNDS == near.puts + near.refused
    assert near.weight == sum(entry.weight for entry in near.entries.values())
    assert near.weight <= MAX_BYTES


keys = st.integers(0, 30)


class NearMachine(RuleBasedStateMachine):
    """Near against a dict that forgets nothing: it may forget, but never be wrong."""

    def __init__(self):
        super().__init__()
        self.near = Near(MAX_ENTRIES, MAX_BYTES)
        self.generations = Generations()
        self.tenures = [Tenure(self.generations.table) for _ in range(3)]
        self.truth = {}
        self.stamps = {}
        self.now = 0.0
        self.made = 0

    @rule(key=keys)
    def start_load(self, key):
        self.stamps[key] = self.tenures[key % 3].stamp(key % 5)

    @rule(key=keys, ttl=st.integers(0, 5), weight=st.sampled_from([1, 50, 400, 1001]))
    def put(self, key, ttl, weight):
        stamp = self.stamps.pop(key, None) or self.tenures[key % 3].stamp(key % 5)
        self.made += 1
        value, expires, now = self.made, self.now + ttl, self.now
        keep(self.near, key, value, stamp, expires=expires, weight=weight, now=now)
        if stamp.stands:
            self.truth[key] = (value, expires)

    @rule(key=keys)
    def read(self, key):
        found = self.near.get(key, self.now)
        if found is not MISSING:
            value, expires = self.truth[key]

            assert value == found
            assert self.now < expires

    @rule(bucket=st.integers(0, 4))
    def write(self, bucket):
        self.generations.bump(bucket)
        self.forget(lambda key: key % 5 == bucket)

    @rule(number=st.integers(0, 2))
    def change_owner(self, number):
        self.tenures[number].end()
        self.tenures[number] = Tenure(self.generations.table)
        self.forget(lambda key: key % 3 == number)

    @rule(key=keys)
    def discard(self, key):
        self.near.discard(key)
        self.truth.pop(key, None)

    @rule()
    def clear(self):
        self.near.clear()
        self.truth.clear()

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds):
        self.now += seconds

    def forget(self, concerned):
        self.truth = {key: v for key, v in self.truth.items() if not concerned(key)}

    @invariant()
    def bounds_hold(self):
        weights = [entry.weight for entry in self.near.entries.values()]

        assert len(self.near) <= MAX_ENTRIES
        assert self.near.weight == sum(weights) <= MAX_BYTES


NearMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestNearMachine = pytest.mark.slow(NearMachine.TestCase)
