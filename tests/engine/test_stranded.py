"""When the owner of a key is gone: who waits for the next one, and for how long."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import islice

import pytest

from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Abandon,
    Borrow,
    Filled,
    Item,
    Leased,
    Lent,
    Load,
    Loan,
    NotOwner,
    Ping,
    Reason,
    Refused,
    Status,
    Survey,
    Surveyed,
    Verb,
)
from meshcache.engine.leases import NO_LEASE
from meshcache.engine.ops import (
    Busy,
    Closed,
    Deliver,
    Drop,
    Forsake,
    Got,
    Granted,
    LoadKey,
    LoadKeys,
    Lot,
    Tier,
    TimedOut,
)
from meshcache.engine.stranded import LOOK
from meshcache.hashing import key_hash
from meshcache.model import Member


def inherited(story, heir: str, count: int = 1, **settings):
    """A story, and keys of ann's which *heir* owns without her."""
    s = story("ann", "bob", **settings)
    after = story("bob")
    keys = (key for key in s.keys("ann") if after.owner(key) == heir)
    return s, list(islice(keys, count))


def lot(s, *keys: bytes, timeout: float = 30.0) -> int:
    return s.asks(LoadKeys(tuple((key, key_hash(key)) for key in keys), timeout))


def lot_of_one(s, key: bytes) -> int:
    return lot(s, key, timeout=1.0)


def is_alone(s, ticket: int) -> bool:
    granted = s.outcome(ticket)
    return isinstance(granted, Granted) and granted.tier is Tier.LOCAL


def delivered(s, ticket: int, value: bytes = b"v") -> None:
    s.tells(Deliver(s.outcome(ticket).lease, value, NO_EXPIRY))


# --- one key ----------------------------------------------------------------------


def test_all_who_wait_ask_the_next_owner_once(story):
    s, (key,) = inherited(story, "bob")
    first, second = s.load(key), s.load(key)
    s.passes(0.3)
    s.breaks("ann")
    s.passes(0.2)
    assert [] == s.sent(Load)
    s.buries("ann")
    s.passes(LOOK)

    (load,) = s.sent(Load)
    assert [load] == s.sent(Load, "bob")
    assert 29_400 < load.budget_ms < 29_500
    s.hears(Filled(load.rid, b"v", NO_EXPIRY, 7, loaded=True), "bob")
    got = s.outcome(first)
    assert (b"v", Tier.FILL) == (got.value, got.tier)
    assert got.stamp.stands
    assert got == s.outcome(second)
    assert 0 == s.count("local") == s.count("flights_open") == s.count("waiting")
    assert 0 == len(s.engine._leases.stranded)


def test_each_asks_again_for_what_it_wants_itself(story):
    s, (key,) = inherited(story, "bob")
    s.load(key, timeout=5.0, chain=(1,))
    s.load(key, timeout=9.0)
    s.buries("ann")
    s.tells(Forsake(1))
    s.passes(LOOK)

    (load,) = s.sent(Load, "bob")
    assert ((), 8980) == (load.chain, load.budget_ms)


def test_a_refresh_asks_again_for_what_is_newer(story):
    s, (key,) = inherited(story, "bob")
    s.load(key, than=70, tags=(5,))
    s.load(key)
    s.buries("ann")
    s.passes(LOOK)

    assert [(70, (5,)), (0, ())] == [load[-2:] for load in s.sent(Load, "bob")]


def test_if_the_key_is_ours_then_the_first_who_waited_loads(story):
    s, (key,) = inherited(story, "me")
    first, second = s.load(key), s.load(key)
    s.buries("ann")
    s.passes(LOOK)
    assert s.waits(second)
    assert Tier.FILL is s.outcome(first).tier
    delivered(s, first)

    assert b"v" == s.outcome(second).value
    assert 1 == s.engine.stats()["store"]["entries"]


def test_a_load_that_a_peer_has_begun_here_meanwhile_is_joined(story):
    s, (key,) = inherited(story, "me")
    ticket = s.load(key)
    s.buries("ann")
    s.asked_to_load(key, "bob", rid=4)
    s.passes(LOOK)

    assert s.waits(ticket)
    assert 1 == s.count("flights_open")


def test_what_has_been_stored_here_meanwhile_is_no_load(story):
    s, (key,) = inherited(story, "me")
    ticket = s.load(key)
    s.buries("ann")
    s.told_to(Verb.SET, Item(key, b"v", NO_EXPIRY, 0))
    s.passes(LOOK)

    assert b"v" == s.outcome(ticket).value


def test_who_asks_when_the_owner_has_just_been_lost_waits_with_the_others(story):
    s, (key,) = inherited(story, "bob")
    first = s.load(key)
    s.breaks("ann")
    second = s.load(key)
    s.passes(0.3)
    third = s.load(key)
    assert all(map(s.waits, (first, second, third)))
    s.buries("ann")
    s.passes(LOOK)

    assert 1 == len(s.sent(Load, "bob"))


def test_a_lost_owner_costs_no_more_than_a_silent_one(story):
    s, (key,) = inherited(story, "bob")
    first, second = s.load(key), s.load(key)
    s.breaks("ann")
    s.passes(1.0 - LOOK)
    assert s.waits(first)
    s.passes(2 * LOOK)
    assert is_alone(s, first)
    assert s.waits(second)
    delivered(s, first)

    assert (b"v", Tier.LOCAL) == (s.outcome(second).value, s.outcome(second).tier)
    # Nor does it cost that again, however often its connection is refused.
    s.breaks("ann")
    assert is_alone(s, s.load(key))


def test_an_owner_that_was_silent_before_it_was_lost_is_not_waited_for(story):
    s, (key, other) = inherited(story, "bob", 2)
    s.load(key)
    s.passes(1.01)
    s.breaks("ann")

    assert is_alone(s, s.load(other))


def test_an_owner_that_is_there_after_all_is_asked_again(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key)
    s.breaks("ann")
    ping = Ping(9, s.peers["ann"], s.me.node_id, s.me.epoch, 0, ())
    s.hears(ping, ("control", "ann"))
    (survey,) = s.sent(Survey, "ann")
    s.hears(Surveyed(survey.rid, 1), "ann")
    s.passes(LOOK)

    assert 1 == len(s.sent(Load, "ann"))
    # Should it be lost again, that is news.
    s.passes(0.5)
    s.breaks("ann")
    s.passes(0.9)
    assert s.waits(ticket)


def test_nobody_waits_for_so_long_that_it_could_not_load(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key, timeout=0.8)
    s.breaks("ann")
    s.passes(0.55)
    assert s.waits(ticket)
    s.passes(0.05)

    assert is_alone(s, ticket)


@pytest.mark.parametrize("late", [0.0, 0.005, 0.01])
@pytest.mark.parametrize("timeout", [0.80 + step / 250 for step in range(10)])
def test_nor_when_the_looks_come_late(story, late, timeout):
    s = story("ann")
    ticket, began = s.load(s.key("ann"), timeout=timeout), s.now
    s.breaks("ann")
    while s.waits(ticket):
        assert s.now < began + 2.0
        s.passes(max(0.0, s.engine.deadline() - s.now) + late)

    assert isinstance(s.outcome(ticket), Granted)


def test_nor_does_one_whom_two_disown_in_turn(story):
    s = story("ann", "bob")
    s.breaks("bob")
    ticket, began = s.load(s.key("ann"), timeout=0.5), s.now
    asked = s.sent(Load)
    while s.waits(ticket):
        assert s.now < began + 1.0
        if asked:
            s.hears(NotOwner(asked[0].rid, s.peers["bob"].node_id, 1))
        else:
            s.passes(0.005)
        asked = s.sent(Load)

    assert isinstance(s.outcome(ticket), Granted)


def test_who_cannot_load_any_more_may_be_served_by_the_next_owner(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key, timeout=1.0)
    s.passes(0.8)
    s.breaks("ann")
    s.passes(0.05)
    assert s.waits(ticket)
    s.buries("ann")
    s.passes(LOOK)
    (load,) = s.sent(Load, "bob")
    s.hears(Filled(load.rid, b"v", NO_EXPIRY, 7, loaded=True), "bob")

    assert b"v" == s.outcome(ticket).value


def test_who_can_load_goes_first(story):
    s, (key,) = inherited(story, "me")
    s.load(key, timeout=1.0)
    s.passes(0.8)
    late, able = 1, s.load(key)
    s.buries("ann")
    s.passes(LOOK)

    assert s.waits(late)
    assert isinstance(s.outcome(able), Granted)


def test_whose_time_is_over_is_told_so_in_time(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key, timeout=1.0)
    s.passes(0.8)
    s.breaks("ann")
    s.passes(0.2 + LOOK)

    assert TimedOut() == s.outcome(ticket)


@pytest.mark.parametrize("heir", ["me", "bob"])
def test_one_who_cannot_load_alone_has_no_time_left(story, heir):
    s, (key,) = inherited(story, heir)
    ticket = s.load(key, timeout=1.0)
    s.passes(0.8)
    s.buries("ann")
    s.passes(LOOK)
    if heir == "bob":
        (load,) = s.sent(Load)
        s.hears(Leased(load.rid, 88, 100), "bob")
        assert [88] == [abandon.token for abandon in s.sent(Abandon, "bob")]

    assert TimedOut() == s.outcome(ticket)
    assert 0 == s.count("flights_open")


def test_who_has_gone_asks_nobody(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key)
    s.breaks("ann")
    s.tells(Forsake(ticket))
    s.buries("ann")
    s.passes(LOOK)

    assert [] == s.sent(Load)
    assert s.waits(ticket)
    assert 0 == len(s.engine._leases.stranded)


def test_a_node_that_leaves_tells_those_who_wait(story):
    s, (key, *keys) = inherited(story, "bob", 3)
    tickets = [s.load(key), lot(s, *keys)]
    s.breaks("ann")
    s.leaves()

    assert [Closed()] * 2 == [s.outcome(ticket) for ticket in tickets]


def test_no_more_wait_than_may_and_the_others_load_for_themselves(story):
    s, (key, *keys) = inherited(story, "bob", 3, max_waiters=1)
    first = s.load(key)
    s.breaks("ann")
    second, third = s.load(key), lot(s, *keys)
    assert s.waits(first)

    outcomes = [s.outcome(second), *s.outcome(third).outcomes]
    assert [Granted(NO_LEASE, Tier.LOCAL, None)] * 3 == outcomes
    assert 3 == s.count("overloaded")
    s.tells(Forsake(first))
    assert s.waits(s.load(key))


@pytest.mark.parametrize("ask", [lambda s, key: s.load(key, timeout=1.0), lot_of_one])
def test_whose_time_is_over_when_there_is_another_owner_asks_nobody(story, ask):
    s, (key,) = inherited(story, "bob")
    ticket = ask(s, key)
    s.passes(0.99)
    s.buries("ann")
    s.passes(LOOK)

    assert [] == s.sent(Load) == s.sent(Borrow)
    assert TimedOut() in (
        s.outcome(ticket),
        *getattr(s.outcome(ticket), "outcomes", ()),
    )


# --- others know it sooner, or later ----------------------------------------------


def test_an_heir_that_does_not_know_yet_is_asked_again(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key)
    s.buries("ann")
    for _ in range(3):
        s.passes(LOOK)
        (load,) = s.sent(Load, "bob")
        s.hears(NotOwner(load.rid, s.peers["ann"].node_id, 1), "bob")
        assert [] == s.effects
    s.passes(LOOK)
    (load,) = s.sent(Load, "bob")
    s.hears(Leased(load.rid, 88, 30_000), "bob")

    assert Tier.FILL is s.outcome(ticket).tier


def test_an_heir_that_goes_on_disowning_is_done_without_in_the_end(story):
    s, (key,) = inherited(story, "bob")
    first, second = s.load(key), s.load(key)
    s.buries("ann")
    asked = 0
    while s.waits(first):
        s.passes(LOOK)
        for load in s.sent(Load, "bob"):
            asked += 1
            s.hears(NotOwner(load.rid, s.peers["ann"].node_id, 1), "bob")

    assert 40 < asked <= 1.0 / LOOK + 1
    assert is_alone(s, first)
    assert s.waits(second)


def test_two_who_both_disown_just_now_are_asked_again(story):
    s = story("ann", "bob", "eve")
    after = story("bob", "eve")
    key = next(key for key in s.keys("ann") if after.owner(key) == "bob")
    ticket = s.load(key)
    s.buries("ann")
    s.passes(LOOK)
    (load,) = s.sent(Load, "bob")
    s.hears(NotOwner(load.rid, s.peers["eve"].node_id, 1), "bob")
    (load,) = s.sent(Load, "eve")
    s.hears(NotOwner(load.rid, s.peers["bob"].node_id, 1), "eve")
    assert s.waits(ticket)
    s.passes(LOOK)

    assert [0] == [load.hop for load in s.sent(Load, "bob")]


def test_a_disowned_key_that_has_become_ours_is_no_second_load(story, member):
    s, (key,) = inherited(story, "me")
    ticket = s.load(key)
    (load,) = s.sent(Load, "ann")
    s.meets(member("ann", weight=0, incarnation=1))
    s.asked_to_load(key, "bob", rid=4)
    s.hears(NotOwner(load.rid, b"", 1), "ann")

    assert s.waits(ticket)
    assert 1 == s.count("flights_open")


def test_who_disowns_when_nobody_was_lost_is_done_without_at_once(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key)
    (load,) = s.sent(Load)
    s.hears(NotOwner(load.rid, b"nobody".ljust(16), 1), "ann")

    assert is_alone(s, ticket)


@pytest.mark.parametrize("reason", [Reason.LEAVING, Reason.WRONG_EPOCH])
def test_an_owner_that_is_about_to_go_is_asked_until_there_is_another(story, reason):
    s, (key,) = inherited(story, "bob")
    first = s.load(key)
    (load,) = s.sent(Load, "ann")
    second = s.load(key)
    for _ in range(3):
        s.hears(Refused(load.rid, reason), "ann")
        assert [] == s.effects
        s.passes(LOOK)
        (load,) = s.sent(Load)
    s.buries("ann")
    s.passes(LOOK)

    assert 1 == len(s.sent(Load, "bob"))
    assert all(map(s.waits, (first, second)))


def test_an_owner_that_only_says_it_will_go_is_done_without_in_the_end(story):
    s, (key,) = inherited(story, "bob")
    ticket = s.load(key)
    asked = 0
    loads = s.sent(Load)
    while s.waits(ticket):
        for load in loads:
            asked += 1
            s.hears(Refused(load.rid, Reason.LEAVING), "ann")
        s.passes(LOOK)
        loads = s.sent(Load, "ann")

    assert 40 < asked <= 1.0 / LOOK + 2
    assert is_alone(s, ticket)


# --- the lease of an owner that is gone -------------------------------------------


def test_the_lease_of_an_owner_that_died_passes_by_the_next(story):
    s, (key,) = inherited(story, "bob")
    first, second, third = (s.load(key) for _ in range(3))
    s.hears(Leased(_rid(s, key), 88, 30_000), "ann")
    lease = s.outcome(first).lease
    s.buries("ann")
    s.passes(1.0)
    assert [] == s.sent(Load)
    s.tells(Drop(lease, first, None))
    (load,) = s.sent(Load, "bob")
    s.hears(Leased(load.rid, 89, 30_000), "bob")
    delivered(s, second)

    assert b"v" == s.outcome(third).value


def _rid(s, key: bytes) -> int:
    """The request for *key* that is under way."""
    flight = s.engine._core.flights.joinable(key)
    return flight.asked


def test_a_lease_whose_owner_is_just_lost_goes_to_the_next(story):
    s, (key,) = inherited(story, "bob")
    first, second = s.load(key), s.load(key)
    s.hears(Leased(_rid(s, key), 88, 30_000), "ann")
    lease = s.outcome(first).lease
    s.breaks("ann")
    s.tells(Drop(lease, first, None))
    assert s.waits(second)
    s.buries("ann")
    s.passes(LOOK)

    assert 1 == len(s.sent(Load, "bob"))


def test_those_whose_own_process_loads_are_served_by_it(story):
    s, (key,) = inherited(story, "bob")
    first, second = s.load(key), s.load(key)
    s.hears(Leased(_rid(s, key), 88, 30_000), "ann")
    s.buries("ann")
    delivered(s, first)

    assert b"v" == s.outcome(second).value


# --- a lot ------------------------------------------------------------------------


def leased(token: int) -> Loan:
    return Loan(Status.LEASED, b"", 0, 0, token)


def test_a_lot_asks_the_next_owners_once_for_all_that_it_waits_for(story):
    s, keys = inherited(story, "bob", 3)
    _, mine = inherited(story, "me")
    other = next(k for k in s.keys("bob"))
    ticket = lot(s, *keys, *mine, other)
    (borrow,) = s.sent(Borrow, "bob")
    s.hears(Lent(borrow.rid, 30_000, (leased(80),)), "bob")
    single = s.load(keys[1])
    s.breaks("ann")
    s.passes(0.3)
    assert s.waits(ticket)
    s.buries("ann")
    s.passes(LOOK)
    (borrow,) = s.sent(Borrow, "bob")
    assert tuple(keys) == borrow.keys
    assert 29_600 < borrow.budget_ms < 29_700
    assert [] == s.sent(Load)
    loans = leased(81), leased(82), Loan(Status.BUSY, b"", 0, 0, 0)
    s.hears(Lent(borrow.rid, 30_000, loans), "bob")

    one, two, three, four, five = s.outcome(ticket).outcomes
    assert [Tier.FILL] * 4 == [g.tier for g in (one, two, four, five)]
    assert Busy() == three
    s.tells(Deliver(two.lease, b"v", NO_EXPIRY))
    assert b"v" == s.outcome(single).value


def test_a_lot_of_lost_keys_waits_too_and_no_longer_than_for_a_silent_owner(story):
    s, keys = inherited(story, "bob", 2)
    s.breaks("ann")
    first, second = lot(s, *keys), s.load(keys[0])
    s.passes(1.0 - LOOK)
    assert s.waits(first)
    s.passes(2 * LOOK)

    outcomes = s.outcome(first).outcomes
    assert [Tier.LOCAL] * 2 == [granted.tier for granted in outcomes]
    assert s.waits(second)


@pytest.mark.parametrize("reason", [Reason.LEAVING, Reason.WRONG_EPOCH])
def test_a_lot_asks_again_when_an_owner_is_about_to_go(story, reason):
    s, keys = inherited(story, "bob", 2)
    ticket = lot(s, *keys)
    (borrow,) = s.sent(Borrow, "ann")
    s.hears(Refused(borrow.rid, reason), "ann")
    assert s.waits(ticket)
    s.buries("ann")
    s.passes(LOOK)

    assert 1 == len(s.sent(Borrow, "bob"))


def test_a_lot_asks_an_heir_again_that_does_not_know_yet(story):
    s, keys = inherited(story, "bob", 2)
    ticket = lot(s, *keys)
    s.buries("ann")
    s.passes(LOOK)
    (borrow,) = s.sent(Borrow, "bob")
    disowned = Loan(Status.NOT_OWNER, b"", 0, 0, 0)
    s.hears(Lent(borrow.rid, 30_000, (disowned, leased(81))), "bob")
    assert s.waits(ticket)
    s.passes(LOOK)
    (again,) = s.sent(Borrow, "bob")
    assert (keys[0],) == again.keys
    s.hears(Lent(again.rid, 30_000, (leased(82),)), "bob")

    assert [Granted] * 2 == [type(o) for o in s.outcome(ticket).outcomes]


def test_a_lot_that_is_given_up_asks_nobody(story):
    s, keys = inherited(story, "bob", 2)
    ticket = lot(s, *keys)
    s.breaks("ann")
    s.tells(Forsake(ticket))
    s.buries("ann")
    s.passes(LOOK)

    assert [] == s.sent(Borrow)
    assert s.waits(ticket)
    assert 0 == len(s.engine._leases.stranded)


def test_a_lot_out_of_time_is_told_so(story):
    s, keys = inherited(story, "bob", 2)
    ticket = lot(s, *keys, timeout=1.0)
    s.passes(0.8)
    s.breaks("ann")
    s.passes(0.2 + LOOK)

    assert (TimedOut(), TimedOut()) == s.outcome(ticket).outcomes


def test_keys_of_a_lot_that_have_become_ours_are_no_second_load(story, member):
    s, (key,) = inherited(story, "me")
    ticket = lot(s, key)
    (borrow,) = s.sent(Borrow, "ann")
    s.meets(member("ann", weight=0, incarnation=1))
    s.asked_to_load(key, "bob", rid=4)
    disowned = Loan(Status.NOT_OWNER, b"", 0, 0, 0)
    s.hears(Lent(borrow.rid, 30_000, (disowned,)), "ann")

    assert (Busy(),) == s.outcome(ticket).outcomes
    assert 1 == s.count("flights_open")


# --- one host ---------------------------------------------------------------------


def test_an_heir_of_this_host_does_not_load_before_it_has_the_old_arena(host):
    h = host(1, delay=0.005)
    for name in ("ann", "bob", "eve"):
        h.starts(name)
    h.settles()
    keys = h.keys("ann", 8)
    for key in keys:
        h.loads("ann", key)
    h.passes(0.1)
    tickets = [(name, h.loads(name, key)) for key in keys for name in ("bob", "eve")]
    h.passes(0.1)
    h.crashes("ann")
    h.buries("ann")
    h.passes(0.1)
    assert {None} == {h.outcome(*told) for told in tickets}
    h.claim("ann")
    h.passes(0.1)

    told = [h.outcome(*told) for told in tickets]
    assert {"bob", "eve"} == {h.owner("bob", key) for key in keys}
    assert [1] * 8 == [
        sum(isinstance(one, Granted) for one in pair)
        for pair in zip(told[::2], told[1::2], strict=True)
    ]


class Rush:
    """Processes of one host whose callers want what ann is loading, while she dies."""

    def __init__(self, h) -> None:
        self.h = h
        for name in ("ann", "bob", "cat", "eve"):
            h.starts(name)
        h.settles()
        self.keys = h.keys("ann", 6)
        self.others = ["bob", "cat", "eve"]
        self.loading: Counter[bytes] = Counter()
        self.loads: Counter[bytes] = Counter()
        self.waits = 0
        for key in self.keys:
            h.loads("ann", key)

    def asks(self, count: int, within: float) -> None:
        for _ in range(count):
            self.h.later(self.h.rng.random() * within, self.ask)

    def ask(self) -> None:
        rng = self.h.rng
        name = rng.choice(self.others)
        keys = rng.sample(self.keys, rng.choice([1, 1, 1, 3]))
        hashed = tuple((key, key_hash(key)) for key in keys)
        one = LoadKey(*hashed[0], "", 0, b"", (), 30.0)
        op = one if len(keys) == 1 else LoadKeys(hashed, 30.0)
        self.waits += 1
        self.h.asks(name, op, lambda outcome: self.told(name, keys, outcome))

    def told(self, name: str, keys: list[bytes], outcome) -> None:
        self.waits -= 1
        outcomes = outcome.outcomes if isinstance(outcome, Lot) else (outcome,)
        for key, one in zip(keys, outcomes, strict=True):
            if isinstance(one, Granted):
                assert Tier.FILL is one.tier
                self.load(name, key, one.lease)
            else:
                assert isinstance(one, Got | Busy)

    def load(self, name: str, key: bytes, lease: int) -> None:
        self.loading[key] += 1
        self.loads[key] += 1
        assert 1 == self.loading[key], "two load at once"

        def end() -> None:
            self.loading[key] -= 1
            self.h.delivers(name, lease, b"v")

        self.h.later(0.2 + self.h.rng.random() * 0.2, end)

    def dies(self) -> None:
        """Ann dies, which each hears in its own time, first by its connection."""
        h, ann = self.h, self.h.nodes["ann"].me
        h.crashes("ann")
        h.later(0.05 + h.rng.random() * 0.4, lambda: h.claim("ann"))
        for name in self.others:
            h.later(h.rng.random() * 0.05, partial(self.breaks, name, ann))
            h.later(0.05 + h.rng.random() * 0.4, partial(self.buries, name, ann))

    def breaks(self, name: str, ann: Member) -> None:
        h = self.h
        h._do(name, h[name].connection_lost(ann.data_address, h.now))

    def buries(self, name: str, ann: Member) -> None:
        h = self.h
        h._do(name, h[name].proof_of_death(ann.node_id, ann.epoch, h.now))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whenever_who_hears_of_it_a_dead_owner_costs_one_load_more(host, seed):
    """All ask one by one and in lots: before, while and after."""
    rush = Rush(host(seed, delay=0.02))
    rush.asks(20, within=0.1)
    rush.h.passes(0.1)
    assert not rush.loads
    rush.dies()
    rush.asks(60, within=0.8)
    rush.h.passes(5.0)

    assert 0 == rush.waits
    assert set(rush.keys) == set(rush.loads)
    names = ("flights_open", "waiting", "calls_open", "local")
    stats = [rush.h[name].stats()["engine"] for name in rush.others]
    assert {0} == {stat[name] for stat in stats for name in names}
