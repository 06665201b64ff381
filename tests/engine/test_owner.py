"""Writes at the owner: what a thread may do by itself, and what comes first."""

from __future__ import annotations

import pytest

from meshcache.clock import NEVER
from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import Item, Status, Verb
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.owner import MAX_NUMBER, Owner, moves
from meshcache.errors import MeshCacheError, ValueTooLarge
from meshcache.fill.flight import Flights, Phase
from meshcache.hashing import bucket_of, key_hash, partition_of
from meshcache.store.arena import Arena, private
from meshcache.store.layout import Layout
from meshcache.store.record import Entry

NOW = 1000.0
KEY = b"c\0k"
HASHED = key_hash(KEY)
SIZE = 262_144
NUMBERS = MsgpackCodec()


class Bench:
    """An owner of KEY's partition, with its store and its flights."""

    def __init__(self) -> None:
        self.store = Arena(
            private(SIZE),
            Layout.for_bytes(SIZE),
            node_id=b"n" * 16,
            epoch=1,
            host=1,
            max_value_bytes=10_000,
        )
        self.flights = Flights(10, 10, 1)
        self.owner = Owner(self.store, self.flights, 0)
        self.store.grant(partition_of(HASHED))

    def direct(self, verb, value=b"", ttl_ms=NO_EXPIRY, delta=0, key=KEY):
        item = Item(key, value, ttl_ms, delta)
        return self.owner.direct(verb, item, key_hash(key), NOW)

    def apply(self, verb, value=b"", ttl_ms=NO_EXPIRY):
        return self.owner.apply(verb, Item(KEY, value, ttl_ms, 0), HASHED, NOW)

    def fly(self):
        return self.flights.open(KEY, HASHED, Phase.ASKING, NOW)

    @property
    def value(self):
        entry = self.store.get(KEY, HASHED, NOW)
        return entry and entry.value

    @property
    def generation(self):
        return self.store.generations.table[bucket_of(HASHED)]


@pytest.fixture
def bench():
    return Bench()


# --- what is for the driver -------------------------------------------------------


def test_a_write_of_a_key_of_ours_is_done_on_the_spot(bench):
    result = bench.direct(Verb.SET, b"v")

    assert Status.HIT is result.status
    assert b"v" == bench.value


def refused(bench):
    generation = bench.generation
    result = bench.direct(Verb.SET, b"new")
    return result is None and bench.value != b"new" and generation == bench.generation


def test_what_is_not_granted_is_for_the_driver(bench):
    bench.direct(Verb.SET, b"old")
    bench.store.revoke(partition_of(HASHED))

    assert refused(bench)


def test_what_was_never_granted_is_for_the_driver(bench):
    other = next(
        key
        for key in (b"c\0%d" % n for n in range(100))
        if partition_of(key_hash(key)) != partition_of(HASHED)
    )

    assert None is bench.direct(Verb.SET, b"new", key=other)


def test_what_is_being_loaded_is_for_the_driver(bench):
    bench.fly()

    assert refused(bench)


def test_a_flight_that_nobody_can_join_is_in_nobodys_way(bench):
    bench.flights.detach(bench.fly())

    assert not refused(bench)


def test_while_entries_arrive_all_is_for_the_driver(bench):
    bench.owner.wrote = set()

    assert refused(bench)
    bench.owner.wrote = None
    assert not refused(bench)


# --- on the driver ----------------------------------------------------------------


def test_the_driver_is_told_what_is_not_ours(bench):
    bench.store.revoke(partition_of(HASHED))

    assert Status.NOT_OWNER is bench.apply(Verb.SET, b"v").status
    assert None is bench.value


@pytest.mark.parametrize("verb", [Verb.SET, Verb.DELETE])
def test_a_write_ends_the_flight_of_its_key(bench, verb):
    flight = bench.fly()
    bench.apply(verb, b"v")

    assert flight.detached
    assert None is bench.flights.joinable(KEY)


@pytest.mark.parametrize("verb", [Verb.TOUCH, Verb.ADD])
def test_a_write_that_did_nothing_ends_no_flight(bench, verb):
    flight = bench.fly()
    if verb is Verb.ADD:
        bench.store.put(KEY, HASHED, b"old", version=1, expires=NEVER, now=NOW)
    generation = bench.generation
    result = bench.apply(verb, b"v")

    assert Status.MISS is result.status
    assert not flight.detached
    assert generation == bench.generation


def test_what_is_written_while_entries_arrive_is_noted(bench):
    bench.owner.wrote = wrote = set()
    bench.apply(Verb.TOUCH, b"v")
    assert set() == wrote
    bench.apply(Verb.DELETE)
    assert {HASHED} == wrote
    wrote.clear()
    bench.apply(Verb.SET, b"v")
    assert {HASHED} == wrote
    wrote.clear()
    bench.owner.fill(KEY, HASHED, Entry(b"v", 10**18, NEVER), NOW)

    assert {HASHED} == wrote


def test_what_a_loader_brought_is_stored_as_it_was_told(bench):
    entry = Entry(b"v", bench.owner.stamp(NOW), NOW + 5)

    assert bench.owner.fill(KEY, HASHED, entry, NOW)
    assert entry == bench.store.get(KEY, HASHED, NOW)


def test_what_a_loader_brought_for_a_partition_that_is_gone_is_dropped(bench):
    bench.store.revoke(partition_of(HASHED))

    assert not bench.owner.fill(KEY, HASHED, Entry(b"v", 5, NEVER), NOW)


def test_what_a_loader_brought_may_be_too_large(bench):
    with pytest.raises(ValueTooLarge):
        bench.owner.fill(KEY, HASHED, Entry(bytes(10_001), 5, NEVER), NOW)


# --- verbs ------------------------------------------------------------------------


def test_each_verb_does_what_it_says(bench):
    told = [
        (Verb.ADD, b"one", Status.HIT, b"one"),
        (Verb.ADD, b"two", Status.MISS, b"one"),
        (Verb.SET, b"three", Status.HIT, b"three"),
        (Verb.TOUCH, b"", Status.HIT, b"three"),
        (Verb.DELETE, b"", Status.HIT, None),
        (Verb.DELETE, b"", Status.MISS, None),
        (Verb.TOUCH, b"", Status.MISS, None),
    ]
    for verb, value, status, left in told:
        assert status is bench.direct(verb, value).status
        assert left == bench.value


def test_a_touch_changes_the_expiry_and_nothing_else(bench):
    bench.direct(Verb.SET, b"v")
    before = bench.store.get(KEY, HASHED, NOW)
    bench.direct(Verb.TOUCH, ttl_ms=2000)

    assert before._replace(expires=NOW + 2) == bench.store.get(KEY, HASHED, NOW)


@pytest.mark.parametrize("verb", [Verb.SET, Verb.TOUCH])
def test_a_ttl_of_zero_removes(bench, verb):
    bench.direct(Verb.SET, b"old")

    assert Status.HIT is bench.direct(verb, b"new", ttl_ms=0).status
    assert None is bench.value


def number(result):
    return NUMBERS.decode(result.number)


def test_a_number_counts_from_its_start(bench):
    start = NUMBERS.encode(10)

    assert 12 == number(bench.direct(Verb.INCR, start, delta=2))
    assert 9 == number(bench.direct(Verb.INCR, start, delta=-3))
    assert 9 == NUMBERS.decode(bench.value)


def test_a_number_keeps_the_expiry_that_it_has(bench):
    start = NUMBERS.encode(0)
    bench.direct(Verb.INCR, start, ttl_ms=2000, delta=1)
    bench.direct(Verb.INCR, start, ttl_ms=9000, delta=1)

    assert NOW + 2 == bench.store.get(KEY, HASHED, NOW).expires


def test_a_number_of_no_time_is_counted_and_not_kept(bench):
    assert 1 == number(bench.direct(Verb.INCR, NUMBERS.encode(0), ttl_ms=0, delta=1))
    assert None is bench.value


@pytest.mark.parametrize(
    "stored", [NUMBERS.encode("text"), NUMBERS.encode(True), b"\xd9", b"1" * 2000]
)
def test_what_is_no_number_is_left_alone(bench, stored):
    bench.direct(Verb.SET, stored)
    result = bench.direct(Verb.INCR, NUMBERS.encode(0), delta=1)

    assert Status.NOT_A_NUMBER is result.status
    assert stored == bench.value


def test_a_number_beyond_all_measure_is_not_decoded(bench):
    bench.direct(Verb.SET, NUMBERS.encode(1 << 8 * MAX_NUMBER))

    assert Status.NOT_A_NUMBER is bench.direct(Verb.INCR, b"\0", delta=1).status


def test_a_value_that_is_too_large_changes_nothing(bench):
    bench.direct(Verb.SET, b"old")
    generation = bench.generation

    assert Status.TOO_LARGE is bench.direct(Verb.SET, bytes(10_001)).status
    assert b"old" == bench.value
    assert generation == bench.generation


# --- generations ------------------------------------------------------------------


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("stored", [None, NUMBERS.encode(1)])
def test_a_write_moves_the_generation_if_it_says_so(bench, verb, stored):
    if stored is not None:
        bench.direct(Verb.SET, stored)
    before = bench.generation
    result = bench.direct(verb, NUMBERS.encode(5))

    assert moves(verb, result) is (bench.generation != before)


def test_a_delete_of_nothing_moves_the_generation_all_the_same(bench):
    before = bench.generation
    bench.direct(Verb.DELETE)

    assert before != bench.generation


@pytest.mark.parametrize("verb", [Verb.SET, Verb.DELETE, Verb.INCR, Verb.TOUCH])
def test_the_store_is_changed_before_the_generation_is(bench, verb):
    bench.direct(Verb.SET, NUMBERS.encode(1), ttl_ms=5000)
    before = bench.store.get(KEY, HASHED, NOW)
    seen = []

    class Watched:
        """A table that looks at the store at the moment it is changed."""

        def __getitem__(self, bucket):
            return 0

        def __setitem__(self, bucket, number):
            seen.append(bench.store.get(KEY, HASHED, NOW))

    bench.store.generations.table = Watched()
    bench.direct(verb, NUMBERS.encode(2), delta=1)

    assert 1 == len(seen)
    assert before != seen[0]


# --- one at a time ----------------------------------------------------------------


def test_a_write_in_the_middle_of_another_is_refused_on_the_same_thread(
    bench, monkeypatch
):
    put, caught = Owner._store_entry, []

    def interrupted(self, *args):
        with pytest.raises(MeshCacheError) as error:
            bench.direct(Verb.SET, b"inner")
        caught.append(str(error.value))
        return put(self, *args)

    monkeypatch.setattr(Owner, "_store_entry", interrupted)
    result = bench.direct(Verb.SET, b"outer")
    monkeypatch.undo()

    assert Status.HIT is result.status
    assert b"outer" == bench.value
    assert "in the middle of another one" in caught[0]
    assert Status.HIT is bench.direct(Verb.SET, b"next").status


def applied(bench):
    bench.apply(Verb.SET, b"outer")


def filled(bench):
    bench.owner.fill(KEY, HASHED, Entry(b"outer", 1, NEVER), NOW)


def moved_in(bench):
    with bench.store.lock:
        bench.store.put(KEY, HASHED, b"outer", version=1, expires=NEVER, now=NOW)


@pytest.mark.parametrize("change", [applied, filled, moved_in])
def test_a_write_in_the_middle_of_any_change_is_refused_on_the_same_thread(
    bench, monkeypatch, change
):
    store, caught = Arena._store, []

    def interrupted(self, *args):
        with pytest.raises(MeshCacheError) as error:
            bench.direct(Verb.SET, b"inner")
        caught.append(error)
        store(self, *args)

    monkeypatch.setattr(Arena, "_store", interrupted)
    change(bench)
    monkeypatch.undo()

    assert 1 == len(caught)
    assert b"outer" == bench.value
    assert 1 == bench.store.stats()["entries"]
    bench.direct(Verb.DELETE)
    assert bench.value is None


def test_an_error_leaves_the_owner_free(bench):
    with pytest.raises(KeyError):
        bench.direct(99, b"v")

    assert Status.HIT is bench.direct(Verb.SET, b"v").status


def test_threads_and_the_driver_lose_no_increment(bench, together):
    start, times = NUMBERS.encode(0), 300

    def count(index):
        for _ in range(times):
            if index:
                bench.direct(Verb.INCR, start, delta=1)
            else:
                item = Item(KEY, start, NO_EXPIRY, 1)
                bench.owner.apply(Verb.INCR, item, HASHED, NOW)

    before = bench.generation
    together(3, count)

    assert 3 * times == NUMBERS.decode(bench.value)
    assert 3 * times == bench.generation - before
    assert 1 == bench.store.stats()["entries"]
