"""Flights: who loads, who waits, who is next, and that the books are right."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from meshcache.fill.flight import LEASE_SHARE, Flight, Flights, Phase, Waiter

KEY = b"users\0i7"
FIRST = 100


def flights(max_flights: int = 10, max_waiters: int = 10) -> Flights:
    return Flights(max_flights, max_waiters, FIRST)


def opened(some: Flights, key: bytes = KEY, now: float = 0.0) -> Flight:
    flight = some.open(key, hash(key), Phase.ASKING, now)
    assert flight is not None
    return flight


def waiter(party: object, since: float = 0.0, deadline: float = 30.0) -> Waiter:
    return Waiter(party, since, deadline)


# --- opening and finding ----------------------------------------------------------


def test_the_first_who_misses_opens_and_the_second_finds_the_flight():
    some = flights()

    assert some.joinable(KEY) is None
    flight = opened(some)
    assert some.joinable(KEY) is flight
    assert some.get(flight.id) is flight
    assert [flight] == list(some)


def test_ids_count_up_from_the_number_drawn():
    some = flights()

    assert [100, 101] == [opened(some, b"c\0a").id, opened(some, b"c\0b").id]


def test_an_id_is_not_used_again():
    some = flights()
    first = opened(some)
    some.close(first)

    assert opened(some).id != first.id
    assert some.get(first.id) is None


def test_a_key_has_one_flight_to_join():
    some = flights()
    opened(some)

    with pytest.raises(AssertionError):
        opened(some)


def test_there_are_only_so_many_flights():
    some = flights(max_flights=2)
    opened(some, b"c\0a")
    last = opened(some, b"c\0b")

    assert some.open(b"c\0c", 3, Phase.ASKING, 0.0) is None
    assert some.joinable(b"c\0c") is None
    some.close(last)
    assert some.open(b"c\0c", 3, Phase.ASKING, 0.0) is not None


def test_detached_flights_count_against_the_bound():
    some = flights(max_flights=1)
    some.detach(opened(some))

    assert some.open(KEY, 1, Phase.ASKING, 0.0) is None


def test_a_refresh_flies_beside_the_load_of_its_key():
    some = flights()
    refresh = some.open(KEY, 1, Phase.ASKING, 0.0, beside=True)

    assert some.joinable(KEY) is None
    assert some.is_flying(KEY)
    flight = opened(some)
    assert some.joinable(KEY) is flight
    assert some.joinable(KEY, beside=True) is refresh
    some.close(flight)
    assert some.joinable(KEY, beside=True) is refresh
    some.close(refresh)
    assert not some.is_flying(KEY)


@pytest.mark.parametrize(
    "detach",
    [
        lambda some: some.detach_key(KEY),
        lambda some: some.detach_if(lambda flight: flight.key == KEY),
    ],
)
def test_a_write_parts_the_refresh_from_its_key_too(detach):
    some = flights()
    both = [opened(some), some.open(KEY, 1, Phase.ASKING, 0.0, beside=True)]
    detach(some)

    assert [True, True] == [flight.detached for flight in both]
    assert not some.is_flying(KEY)


# --- waiting ----------------------------------------------------------------------


def test_those_who_wait_are_told_in_the_order_they_came():
    some = flights()
    flight = opened(some)
    for party in "abc":
        some.join(flight, waiter(party))

    assert ["a", "b", "c"] == [w.party for w in some.close(flight)]
    assert 0 == some.waiting
    assert some.of("a") is None


def test_there_are_only_so_many_waiters_over_all_flights():
    some = flights(max_waiters=2)
    first, second = opened(some, b"c\0a"), opened(some, b"c\0b")
    some.join(first, waiter("a"))
    some.join(second, waiter("b"))

    assert not some.join(second, waiter("c"))
    assert some.of("c") is None
    some.leave(first, "a")
    assert some.join(second, waiter("c"))


def test_whoever_leaves_is_not_told():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("a"))

    assert "a" == some.leave(flight, "a").party
    assert some.leave(flight, "a") is None
    assert [] == some.close(flight)


def test_the_parts_of_a_lot_are_found_together():
    some = flights()
    one, two, three = (opened(some, b"c\0%d" % number) for number in range(3))
    some.join(one, Waiter("a1", 0.0, 9.0, lot="a"))
    some.grant(two, Waiter("a2", 0.0, 9.0, lot="a"), 9.0)
    some.join(three, Waiter("b", 0.0, 9.0))

    assert ["a1", "a2"] == some.parts("a")
    some.release(two)
    assert ["a1"] == some.parts("a")
    some.grant(one, one.waiters["a1"], 9.0)
    assert ["a1"] == some.parts("a")
    some.close(one)
    assert [] == some.parts("a") == some.parts("b")
    assert {} == some._lots


def test_a_party_waits_once():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("a"))

    with pytest.raises(AssertionError):
        some.join(flight, waiter("a"))


def test_a_flight_ends_once():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("a"))
    some.close(flight)

    assert [] == some.close(flight)
    assert 0 == len(some)


def test_closing_an_old_flight_leaves_the_new_one_of_its_key():
    some = flights()
    old = opened(some)
    some.detach(old)
    new = opened(some)
    some.close(old)

    assert some.joinable(KEY) is new


# --- the lease --------------------------------------------------------------------


def test_the_holder_works_and_waits_no_longer():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("a"))
    some.grant(flight, flight.waiters["a"], expires=30.0)

    assert Phase.LEASED is flight.phase
    assert "a" == flight.holder.party
    assert 0 == some.waiting
    assert some.of("a") is flight
    assert [] == some.close(flight)
    assert some.of("a") is None


def test_the_lease_can_be_given_to_one_who_never_waited():
    some = flights()
    flight = opened(some)
    some.grant(flight, waiter("a"), expires=30.0)

    assert some.of("a") is flight
    assert 0 == some.waiting


def test_who_holds_the_lease_after_another_is_the_only_holder():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("b"))
    some.grant(flight, waiter("a"), expires=30.0)
    some.grant(flight, flight.waiters["b"], expires=30.0)

    assert "b" == flight.holder.party
    assert some.of("a") is None


def test_releasing_frees_the_holder_and_keeps_the_flight():
    some = flights()
    flight = opened(some)
    some.grant(flight, waiter("a"), expires=30.0)
    some.release(flight)
    some.release(flight)

    assert flight.holder is None
    assert some.of("a") is None
    assert some.joinable(KEY) is flight


def test_the_next_holder_is_who_waits_longest_and_has_time_left():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("nearly over", since=0.0, deadline=10.0))
    some.join(flight, waiter("has time", since=5.0, deadline=35.0))
    some.join(flight, waiter("came last", since=6.0, deadline=36.0))

    assert "nearly over" == flight.next_holder(7.0).party
    assert "has time" == flight.next_holder(8.0).party
    assert flight.next_holder(36.0) is None


@pytest.mark.parametrize(
    ("now", "can"), [(0.0, True), (30.0, True), (30.1, False), (50.0, False)]
)
def test_a_waiter_can_load_while_a_share_of_its_time_is_left(now, can):
    assert 0.25 == LEASE_SHARE
    assert can == waiter("a", since=0.0, deadline=40.0).can_load(now)


# --- detaching --------------------------------------------------------------------


def test_a_detached_flight_is_not_joined_and_still_serves_those_who_wait():
    some = flights()
    flight = opened(some)
    some.join(flight, waiter("a"))
    some.detach_key(KEY)

    assert flight.detached
    assert some.joinable(KEY) is None
    assert some.get(flight.id) is flight
    assert ["a"] == [w.party for w in some.close(flight)]


def test_detaching_a_key_detaches_the_newest_flight_and_not_those_before():
    some = flights()
    first = opened(some)
    some.detach_key(KEY)
    second = opened(some)

    assert some.joinable(KEY) is second
    assert not second.detached
    some.detach_key(KEY)
    assert (True, True) == (first.detached, second.detached)


def test_detaching_a_key_without_a_flight_changes_nothing():
    some = flights()
    flight = opened(some)
    some.detach_key(b"c\0other")

    assert not flight.detached


def test_detaching_by_a_test_takes_those_for_which_it_holds():
    some = flights()
    one, two = opened(some, b"a\0k"), opened(some, b"b\0k")
    some.detach_if(lambda f: f.key.startswith(b"a\0"))

    assert (True, False) == (one.detached, two.detached)


# --- against a model --------------------------------------------------------------

KEYS = [b"c\0a", b"c\0b", b"c\0c"]
MAX_FLIGHTS = 4
MAX_WAITERS = 6


class FlightsMachine(RuleBasedStateMachine):
    """Flights next to a model that keeps one plain record for each flight."""

    def __init__(self):
        super().__init__()
        self.flights = Flights(MAX_FLIGHTS, MAX_WAITERS, FIRST)
        self.now = 0.0
        self.parties = 0
        # id -> [flight, key, waiters in order, holder, detached]
        self.model: dict[int, list] = {}

    @initialize(seed=st.integers(0, 9))
    def begin(self, seed):
        self.rng = random.Random(seed)

    def pick(self) -> list:
        return self.rng.choice(list(self.model.values()))

    def party(self) -> int:
        self.parties += 1
        return self.parties

    def waiting(self) -> int:
        return sum(len(waiters) for _, _, waiters, _, _ in self.model.values())

    @rule(key=st.sampled_from(KEYS))
    def open_one(self, key):
        joinable = [r for r in self.model.values() if r[1] == key and not r[4]]
        if joinable:
            assert self.flights.joinable(key) is joinable[0][0]
            return
        flight = self.flights.open(key, 1, Phase.ASKING, self.now)
        assert (flight is None) == (len(self.model) >= MAX_FLIGHTS)
        if flight is not None:
            self.model[flight.id] = [flight, key, [], None, False]

    @precondition(lambda self: self.model)
    @rule(patience=st.integers(0, 20))
    def join(self, patience):
        record, party = self.pick(), self.party()
        full = self.waiting() >= MAX_WAITERS
        joined = self.flights.join(
            record[0], Waiter(party, self.now, self.now + patience)
        )
        assert joined == (not full)
        if joined:
            record[2].append(party)

    @precondition(lambda self: self.waiting())
    @rule()
    def leave(self):
        record = self.rng.choice([r for r in self.model.values() if r[2]])
        party = self.rng.choice(record[2])
        left = self.flights.leave(record[0], party)
        assert left.party == party
        record[2].remove(party)

    @precondition(lambda self: self.model)
    @rule()
    def leave_what_one_is_not_in(self):
        assert self.flights.leave(self.pick()[0], self.party()) is None

    @precondition(lambda self: self.model)
    @rule()
    def grant_to_the_next(self):
        record = self.pick()
        flight = record[0]
        able = [p for p in record[2] if flight.waiters[p].can_load(self.now)]
        holder = flight.next_holder(self.now)
        assert (able[0] if able else None) == (holder and holder.party)
        if holder is not None:
            self.flights.grant(flight, holder, holder.deadline)
            record[2].remove(holder.party)
            record[3] = holder.party

    @precondition(lambda self: self.model)
    @rule()
    def grant_to_a_newcomer(self):
        record, party = self.pick(), self.party()
        self.flights.grant(record[0], Waiter(party, self.now, self.now + 9), 9)
        record[3] = party

    @precondition(lambda self: self.model)
    @rule()
    def release(self):
        record = self.pick()
        self.flights.release(record[0])
        record[3] = None

    @rule(key=st.sampled_from(KEYS))
    def detach(self, key):
        self.flights.detach_key(key)
        for record in self.model.values():
            record[4] = record[4] or record[1] == key

    @rule(prefix=st.sampled_from(KEYS))
    def detach_if(self, prefix):
        self.flights.detach_if(lambda f: f.key >= prefix)
        for record in self.model.values():
            record[4] = record[4] or record[1] >= prefix

    @precondition(lambda self: self.model)
    @rule()
    def close(self):
        record = self.pick()
        told = self.flights.close(record[0])
        assert record[2] == [w.party for w in told]
        del self.model[record[0].id]
        assert [] == self.flights.close(record[0])

    @rule(seconds=st.integers(0, 5))
    def pass_time(self, seconds):
        self.now += seconds

    @invariant()
    def the_counts_are_right(self):
        assert self.waiting() == self.flights.waiting
        assert self.waiting() <= MAX_WAITERS
        assert len(self.model) == len(self.flights) <= MAX_FLIGHTS

    @invariant()
    def each_flight_is_as_the_model_has_it(self):
        for flight, key, waiters, holder, detached in self.model.values():
            assert waiters == list(flight.waiters)
            assert holder == (flight.holder and flight.holder.party)
            assert detached == flight.detached
            assert detached == (self.flights.joinable(key) is not flight)
            assert self.flights.get(flight.id) is flight

    @invariant()
    def a_party_is_in_one_flight_or_in_none(self):
        for party in range(1, self.parties + 1):
            homes = [
                record[0]
                for record in self.model.values()
                if party in record[2] or party == record[3]
            ]
            assert len(homes) <= 1
            assert self.flights.of(party) is (homes[0] if homes else None)


TestFlightsAgainstAModel = FlightsMachine.TestCase
TestFlightsAgainstAModel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)
